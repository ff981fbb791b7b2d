"""Gather the numbers of finished runs into one table for ``results/``.

    python benchmarks/collect.py runs/mini-cam runs/demo > results/runs.csv

A row for each protocol of each run, with the flags that belong to the number, and the seconds of the whole run.
"""

import csv
import json
import sys
from pathlib import Path

import yaml

COLUMNS = (
    *("recipe", "protocol", "miou", "gt_tags", "crf", "multi_scale", "threshold_swept"),
    *("supervision", "images", "backbone", "weights", "seed", "seconds_localizer", "seconds_run"),
)


def rows(folder: Path) -> list[dict[str, object]]:
    """One row for each protocol in ``metrics.json``."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    timings = json.loads((folder / "timings.json").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    common = {
        "recipe": recipe["name"],
        "seed": recipe["seed"],
        "seconds_localizer": timings["localizer"]["seconds"],
        "seconds_run": round(sum(stage["seconds"] for stage in timings.values()), 1),
    }
    kept = ("supervision", "images", "backbone", "weights")
    return [
        {
            **common,
            "protocol": protocol,
            "miou": f"{result['miou']:.4f}",
            **result["flags"],
            **{name: result[name] for name in kept},
        }
        for protocol, result in metrics.items()
    ]


if __name__ == "__main__":
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for argument in sys.argv[1:]:
        writer.writerows(rows(Path(argument)))
