"""The built-in demo: generated scenes, and the whole pipeline on them."""

import json
from pathlib import Path

from weakseg.data.layout import SCENES
from weakseg.data.scenes import write_scenes
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.run import RunResult, run
from weakseg.pipeline.shipped import recipe_path

TRAIN, VAL = 320, 80


def run_demo(folder: Path, *, seed: int, reporter: Reporter) -> RunResult:
    """Write the scenes below ``folder/scenes``, and run the recipe ``demo`` on them.

    Args:
        folder: Run folder.
        seed: Of the scenes and of the training.
        reporter: Receives messages and progress.
    """
    scenes = folder / SCENES
    with reporter.track("draw scenes", TRAIN + VAL) as bar:
        write_scenes(scenes, train=TRAIN, val=VAL, seed=seed, progress=lambda _done, _total: bar.advance())
    overrides = [f"data.root={json.dumps(str(scenes))}", f"run.folder={json.dumps(str(folder))}", f"seed={seed}"]
    return run(recipe_path("demo"), overrides=overrides, reporter=reporter)
