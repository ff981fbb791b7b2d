"""From a recipe to a run folder: the stages, in order, each skipped when its result is already there."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weakseg.data.files import remove_unfinished, write_json, write_text
from weakseg.errors import UserError
from weakseg.pipeline import build
from weakseg.pipeline.empty_masks import mask_warnings
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.lock import sole_user
from weakseg.pipeline.manifest import MANIFEST, Manifest, read_json
from weakseg.pipeline.plan import SALIENCY, Stage, Until, plan
from weakseg.pipeline.progress import Reporter, Silent
from weakseg.pipeline.recipe import Recipe, load_recipe
from weakseg.pipeline.reporting import report_data
from weakseg.report.report import write_report


@dataclass(frozen=True)
class RunResult:
    """What a run has made.

    Attributes:
        folder: The run folder.
        metrics: The object of ``metrics.json``; empty before the evaluation.
        report: The report page, or ``None`` before it is written.
    """

    folder: Path
    metrics: dict[str, Any]
    report: Path | None


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: Sequence[str] = (),
    until: Until = "report",
    reporter: Reporter | None = None,
) -> RunResult:
    """Do what a recipe says, going on where an earlier run of the same recipe has stopped.

    Args:
        recipe: A YAML file, a mapping, or a checked recipe.
        overrides: Such as ``"data.root=photos"``; not for a checked recipe.
        until: The stage after which to stop.
        reporter: Receives messages and progress; nothing is shown if ``None``.

    Raises:
        UserError: For anything wrong in recipe or data; the run folder is then as it was before.
    """
    checked = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    experiment = Experiment(checked, reporter or Silent())
    stages = plan(experiment, until)
    _build_networks(experiment, [stage for stage in stages if not stage.done(experiment)])
    with sole_user(experiment.folder):
        experiment.manifest.reload(kept=("audit",))
        remove_unfinished(experiment.folder)
        _write_recipe(experiment)
        for stage in _in_turn(experiment, until):
            _do(stage, experiment)
    evaluated, reported = until in ("evaluate", "report"), until == "report"
    return RunResult(
        folder=experiment.folder,
        metrics=read_json(experiment.folder / "metrics.json") if evaluated else {},
        report=experiment.folder / "report" / "index.html" if reported else None,
    )


def rewrite_report(folder: Path) -> Path:
    """Write the report page of an evaluated run again.

    Raises:
        UserError: If the folder is no evaluated run.
    """
    recipe_file = folder / "recipe.yaml"
    if not recipe_file.is_file() or not (folder / "metrics.json").is_file():
        raise UserError("holds no evaluated run", where=folder, remedy="Run 'weakseg evaluate' first")
    recipe = load_recipe(recipe_file)
    train_set, val_set = (
        None if split is None else build.dataset(recipe.data, split) for split in (recipe.data.train, recipe.data.val)
    )
    assert train_set is not None
    warnings = mask_warnings(recipe, train_set, folder)
    data = report_data(recipe, folder, train_set, val_set, Manifest(folder).timings, warnings)
    return write_report(folder / "report", data)


def _in_turn(experiment: Experiment, until: Until) -> Iterator[Stage]:
    """The stages; those after saliency maps are planned when these are made."""
    first, *others = plan(experiment, until)
    yield first
    yield from others if first.name != SALIENCY else plan(experiment, until)[1:]


def _build_networks(experiment: Experiment, due: Sequence[Stage]) -> None:
    """Networks and saliency providers that cannot be built are found before the run folder is touched."""
    names = {stage.name for stage in due}
    if experiment.saliency is not None and SALIENCY in names and not experiment.saliency.complete():
        experiment.source.provider()
    if names & {"localizer", "maps"}:
        _ = experiment.method
    for step in experiment.steps:
        if step.key in names:
            experiment.refiner(step)
    if names & {"segmenter", "predictions"}:
        _ = experiment.predictor
    if names & {"detector", "detections"}:
        _ = experiment.detector


def _write_recipe(experiment: Experiment) -> None:
    environment = {**build.versions(), "device": experiment.device.kind}
    if experiment.trained is not None:
        environment["localizer"] = experiment.trained.checksum
    environment |= {f"data {split}": content for split, content in experiment.data.items()}
    resolved = experiment.resolved().model_copy(update={"environment": environment})
    write_text(experiment.folder / "recipe.yaml", resolved.to_yaml())
    write_json(experiment.folder / MANIFEST, experiment.manifest.stages)


def _do(stage: Stage, experiment: Experiment) -> None:
    if stage.done(experiment):
        experiment.reporter.say(f"{stage.name}: done before")
        return
    experiment.manifest.begin(stage.name, stage.inputs, (*stage.outputs, *stage.beside))
    start = time.perf_counter()
    images = stage.work()
    seconds = time.perf_counter() - start
    experiment.manifest.finish(
        stage.name,
        stage.inputs,
        {
            "seconds": round(seconds, 2),
            "images": images,
            "images_per_second": round(images / seconds, 2) if images else None,
            "peak_memory_mb": _peak_memory(experiment.device.kind),
        },
    )


def _peak_memory(device: str) -> int | None:
    """Highest resident memory of this process so far, or of its GPU, in MB; ``None`` where the system does not tell."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() // 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
