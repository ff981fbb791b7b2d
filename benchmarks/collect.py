"""Gather the numbers of finished runs into one table for ``results/``.

    python benchmarks/collect.py runs/mini-cam runs/demo > results/runs.csv

A row for each protocol of each run, with the flags that belong to the number, the seconds of the localiser's training
and of the whole run, and whatever else was measured beside mIoU.
"""

import csv
import json
import sys
from pathlib import Path
from typing import TextIO

import yaml

Row = dict[str, object]
COLUMNS = (
    *("recipe", "protocol", "miou", "gt_tags", "crf", "multi_scale", "threshold_swept"),
    *("supervision", "images", "backbone", "weights", "seed", "seconds_localizer", "seconds_run"),
)
KEPT = ("supervision", "images", "backbone", "weights")


def rows(folder: Path) -> list[Row]:
    """One row for each protocol in ``metrics.json``."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    timings = json.loads((folder / "timings.json").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    common = {
        "recipe": recipe["name"],
        "seed": recipe["seed"],
        "seconds_localizer": timings.get("localizer", {}).get("seconds"),
        "seconds_run": round(sum(stage["seconds"] for stage in timings.values()), 1),
    }
    return [
        {
            **common,
            "protocol": protocol,
            **result["flags"],
            **{name: result[name] for name in KEPT},
            **{name: f"{value:.4f}" for name, value in result.items() if isinstance(value, float)},
        }
        for protocol, result in metrics.items()
    ]


def write(found: list[Row], file: TextIO) -> None:
    """A table of all rows; what only some have measured has a column after the others."""
    names = dict.fromkeys([*COLUMNS, *(name for row in found for name in row)])
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)


if __name__ == "__main__":
    write([row for argument in sys.argv[1:] for row in rows(Path(argument))], sys.stdout)
