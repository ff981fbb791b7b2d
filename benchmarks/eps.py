"""Tables 1 to 3 of EPS in miniature: what saliency does to maps, outlines, and what only comes with an object.

    python -m benchmarks.eps --data PATH_OF_MSRC_MINI --predefined 4 10 --confusion boat:water
    python -m benchmarks.eps --data runs/demo/scenes --cam demo --eps scenes/eps --predefined 7 \
        --confusion train:rails boat:water --output results/eps-scenes.csv

Trains CAM, EPS with each of its selections, and EPS with saliency from the built-in provider, each by its recipe and up
to the pseudo-masks, CAM and EPS with ``--segment`` up to the segmenter, in run folders below ``--runs`` that a second
call finds. Measures, on the training images, seeds
at the threshold that suits each best and pseudo-masks: mIoU, boundaries (Table 1), and pixels of the context that are
taken for the class, as a share of those that are it (Table 2). ``--predefined`` are the classes that the detector
overlooks, by number. Writes one row for each run and protocol to results/eps.csv, prints whether the paper's order
holds, and ends with status 1 if it does not.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

import weakseg
from benchmarks.timing import Row, write_table
from weakseg.pipeline.shipped import recipe_path

PROTOCOLS = ("seed@train", "mask@train", "seg@val")


@dataclass(frozen=True)
class Way:
    """A way to localise.

    Attributes:
        name: In the table.
        recipe: Name of the recipe.
        settings: What differs from it.
    """

    name: str
    recipe: str
    settings: tuple[str, ...] = ()


def ways(arguments: argparse.Namespace) -> list[Way]:
    """CAM, the rows of Table 3 from the worst to the best, and EPS without a trained detector."""
    chosen = f"localize.method={{name: eps, selection: {arguments.selection}}}"
    return [
        Way("cam", arguments.cam),
        *(
            Way(f"eps, {name}", arguments.eps, (_selecting(name, arguments.predefined),))
            for name in selections(arguments)
        ),
        Way("eps, built-in saliency", arguments.eps, (chosen, f"data.saliency={arguments.provider}")),
    ]


def selections(arguments: argparse.Namespace) -> list[str]:
    """Those of Table 3, from its worst to its best."""
    return ["foreground", "naive", *(["predefined"] if arguments.predefined else []), "adaptive"]


def _selecting(selection: str, predefined: Sequence[int]) -> str:
    listed = f", background_classes: [{', '.join(map(str, predefined))}]" if selection == "predefined" else ""
    return f"localize.method={{name: eps, selection: {selection}{listed}}}"


def measured(way: Way, seed: int, arguments: argparse.Namespace) -> Iterator[Row]:
    """One row for each protocol."""
    folder = arguments.runs / f"{way.recipe.replace('/', '-')}-{way.name.replace(', ', '-').replace(' ', '-')}-{seed}"
    pairs = ", ".join(f"[{pair.replace(':', ', ')}]" for pair in arguments.confusion)
    fixed = [f"data.root={arguments.data}", f"run.folder={folder}", f"seed={seed}"]
    if not (arguments.segment and way.name in ("cam", f"eps, {arguments.selection}")):
        fixed.append("segment=none")
    fixed += ["evaluate.metrics=[boundary_f1]", f"evaluate.confusion=[{pairs}]", "evaluate.seeds=[train]"]
    fixed += ["evaluate.segmenter=[val]", "evaluate.tagged=[]"]
    weakseg.run(recipe_path(way.recipe), overrides=[*fixed, *way.settings, *arguments.settings], until="evaluate")
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    seconds = json.loads((folder / "timings.json").read_text(encoding="utf-8"))["localizer"]["seconds"]
    for protocol, result in ((name, found[name]) for name in PROTOCOLS if name in found):
        yield {
            **{"way": way.name, "seed": seed, "protocol": protocol, "supervision": result["supervision"]},
            **{name: None if value is None else round(value, 4) for name, value in numbers(result).items()},
            **{"threshold": result["flags"]["threshold_swept"], "seconds_localizer": seconds},
        }


def numbers(result: dict[str, Any]) -> dict[str, float | None]:
    """The mIoU and what was measured beside it; a ratio to nothing is ``None``."""
    return {name: value for name, value in result.items() if name.startswith(("miou", "boundary_", "confusion_"))}


def trends(rows: Sequence[Row], confusion: Sequence[str], selection: str = "adaptive") -> dict[str, bool]:
    """What the paper's tables show, and whether it is so here, for seeds, mean over random seeds."""
    seeds, ours = [row for row in rows if row["protocol"] == "seed@train"], f"eps, {selection}"

    def mean(way: str, measure: str = "miou", protocol: str = "seed@train") -> float:
        values = [row[measure] for row in rows if row["way"] == way and row["protocol"] == protocol]
        return fmean(math.inf if value is None else float(str(value)) for value in values)

    names = list(dict.fromkeys(str(row["way"]) for row in seeds))
    order = [name for name in names if name.startswith("eps") and "built-in" not in name]
    found = {f"Table 3: {second} above {first}": mean(second) > mean(first) for first, second in pairwise(order)}
    found["EPS with built-in saliency above CAM"] = mean("eps, built-in saliency") > mean("cam")
    found["Table 1: boundary F1 of EPS above CAM's"] = mean(ours, "boundary_f1") > mean("cam", "boundary_f1")
    for pair in confusion:
        key = f"confusion_{pair.replace(':', '_')}"
        found[f"Table 2: {pair} confused less by EPS"] = mean(ours, key) < mean("cam", key)
    if any(row["protocol"] == "seg@val" for row in rows):
        gain = mean(ours, protocol="seg@val") - mean("cam", protocol="seg@val")
        found["Segmenter from EPS masks at least 8 points above that from CAM's, on val"] = gain >= 0.08
    return found


def parsed() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description="Tables 1 to 3 of EPS in miniature.")
    parser.add_argument("--data", type=Path, required=True, help="tags, true masks, saliency maps, context labels")
    parser.add_argument("--cam", default="mini/cam", help="recipe of CAM")
    parser.add_argument("--eps", default="mini/eps", help="recipe of EPS")
    parser.add_argument("--selection", default="adaptive", help="that which is compared with CAM")
    parser.add_argument("--provider", default="background-connectivity", help="built-in saliency")
    parser.add_argument("--predefined", type=int, nargs="*", default=[], help="classes that saliency overlooks")
    parser.add_argument("--confusion", nargs="*", default=[], help="pairs class:context")
    parser.add_argument("--segment", action="store_true", help="train segmenters on the masks of CAM and EPS, too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of all recipes")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-eps"))
    parser.add_argument("--output", type=Path, default=Path("results/eps.csv"))
    return parser.parse_args()


def main() -> None:
    """Measure, write, print."""
    arguments, rows = parsed(), []
    for seed in arguments.seeds:
        for way in ways(arguments):
            rows += measured(way, seed, arguments)
            columns = dict.fromkeys(name for row in rows for name in row)
            write_table([{name: row.get(name) for name in columns} for row in rows], arguments.output)
    console, columns = Console(), list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(name)) for name in columns))
    console.print(table)
    judged = trends(rows, arguments.confusion, arguments.selection)
    for sentence, holds in judged.items():
        console.print(f"{'holds  ' if holds else 'differs'}  {sentence}")
    sys.exit(0 if all(judged.values()) else 1)


if __name__ == "__main__":
    main()
