"""Table 1 of single-stage segmentation in miniature: what refinement, gate, global cues and penalty are worth.

    python -m benchmarks.single_stage --data PATH_OF_MSRC_MINI
    python -m benchmarks.single_stage --data PATH_OF_MSRC_MINI --ways full no-pamr no-gate --against cam

Trains the recipe as it is and without one of its parts, once for each seed, in run folders below ``--runs`` that a
second call finds. Measures the network without tags on the validation images, and with tags, on the training images,
its maps at the threshold that suits them best and its own segmentation. ``--against cam`` also runs the recipe
``--cam`` up to its segmenter, for the same seeds; ``--set-cam segment.train.epochs=...`` makes that take as long.

Writes one row for each run and protocol to results/single_stage.csv, in which ways and seeds that are not asked for
stay as they are; prints means and deviations of all beside the paper's figures and whether its order holds, and ends
with status 1 if it does not. The paper measures on PASCAL VOC, refinement and penalty at a gate rate of 0.5, on a grid
of 81 cells; the small recipes have little more than half as many and four dilations.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console
from rich.table import Table

import weakseg
from benchmarks.timing import Row, read_table, write_table
from weakseg.pipeline.shipped import recipe_path

STAGES = ("seg", "seed", "mask")  # of protocols, each measured on one split
MAKING = ("localizer", "maps", "masks", "segmenter")
CAM = "cam"
LONGER = 1.1


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        name: In the table.
        settings: What differs from the recipe.
        paper: The paper's mIoU on val without tags and CRF, in percent.
        paper_full: That of the whole method in the same series of the paper.
    """

    name: str
    settings: tuple[str, ...] = ()
    paper: float | None = None
    paper_full: float | None = None


WAYS = (
    Way("full", (), 59.7, 59.7),
    Way("no-pamr", ("localize.method.iterations=0",), 31.8, 59.4),
    Way("four-dilations", ("localize.method.dilations=[1, 2, 4, 8]",), 50.6, 59.4),
    Way("six-dilations", ("localize.method.dilations=[1, 2, 4, 8, 12, 24]",), 59.4, 59.4),
    Way("no-gate", ("localize.method.gate=none",), 55.6, 59.7),
    Way("deterministic-gate", ("localize.method.gate=deterministic",), 57.5, 59.7),
    Way("no-cues", ("localize.method.cues=none",), 57.7, 59.7),
    Way("no-penalty", ("localize.method.penalty_power=null",), 56.6, 59.4),
    Way("power-0", ("localize.method.penalty_power=0",), None, 59.4),
    Way("power-5", ("localize.method.penalty_power=5", "localize.method.penalty_floor=0.1"), None, 59.4),
)

# The small recipes have four dilations already; whether there is a penalty at all is asked less often than which.
USUAL = ("full", "no-pamr", "no-gate", "deterministic-gate", "no-cues", "power-0", "power-5")


@dataclass(frozen=True)
class Trend:
    """What is better than what on the validation images, without tags.

    Attributes:
        better: A way.
        worse: Another one.
        sentence: What that says.
        paper: By how many points in the paper.
    """

    better: str
    worse: str
    sentence: str
    paper: float | None = None


TRENDS = (
    Trend("full", "no-pamr", "Table 1b: PAMR above none", 27.6),
    Trend("six-dilations", "four-dilations", "Table 1b: six dilations above four", 8.8),
    Trend("four-dilations", "no-pamr", "Table 1b: four dilations above no PAMR", 18.8),
    Trend("full", "no-gate", "Table 1c: stochastic gate above none", 4.1),
    Trend("full", "deterministic-gate", "Table 1c: stochastic gate above a deterministic one", 2.2),
    Trend("deterministic-gate", "no-gate", "Table 1c: deterministic gate above none", 1.9),
    Trend("full", "no-cues", "Table 1c: global cues above none", 2.0),
    Trend("full", "no-penalty", "Table 1a: focal penalty above none", 2.8),
    Trend("power-5", "full", "Table 1a: p = 5 above p = 3, as long as there is no CRF"),
    Trend("power-5", "power-0", "Table 1a: p = 5 above p = 0, as long as there is no CRF"),
    Trend("full", CAM, "One network without tags above CAM, its refiners and a segmenter"),
)


def measured(way: Way, seed: int, arguments: argparse.Namespace) -> Iterator[Row]:
    """One row for each protocol of a way of single-stage."""
    yield from _ran(way, arguments.recipe, seed, arguments, arguments.settings)


def against(seed: int, arguments: argparse.Namespace) -> Iterator[Row]:
    """One row for each protocol of CAM."""
    yield from _ran(Way(CAM), arguments.cam, seed, arguments, arguments.settings_cam)


def _ran(way: Way, recipe: str, seed: int, arguments: argparse.Namespace, settings: Sequence[str]) -> Iterator[Row]:
    folder = arguments.runs / f"{recipe.replace('/', '-')}-{way.name}-{seed}"
    fixed = [f"data.root={arguments.data}", f"run.folder={folder}", f"seed={seed}"]
    fixed += ["evaluate.seeds=[train]", "evaluate.segmenter=[val]", "evaluate.tagged=[]"]
    weakseg.run(recipe_path(recipe), overrides=[*fixed, *way.settings, *settings], until="evaluate")
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    timings = json.loads((folder / "timings.json").read_text(encoding="utf-8"))
    last = MAKING.index("segmenter" if "segmenter" in timings else "localizer")
    for protocol, result in ((name, found[name]) for name in found if name.partition("@")[0] in STAGES):
        yield {
            **{"way": way.name, "seed": seed, "protocol": protocol, "supervision": result["supervision"]},
            **{"miou": round(result["miou"], 4), "gt_tags": result["flags"]["gt_tags"]},
            **{"crf": result["flags"]["crf"], "threshold": result["flags"]["threshold_swept"]},
            "seconds_training": round(sum(timings[name]["seconds"] for name in MAKING[: last + 1]), 1),
            "images_per_second": timings["localizer"]["images_per_second"],
        }


def earlier(table: Path, again: set[tuple[str, int]]) -> list[Row]:
    """The rows of a table of other ways and seeds than those that are measured now."""
    return [row for row in read_table(table) if (row["way"], int(str(row["seed"]))) not in again]


def values(rows: Sequence[Row], way: str, measure: str = "miou", stage: str = "seg") -> dict[int, float]:
    """Seed to number, of one way."""
    wanted = [row for row in rows if (row["way"], str(row["protocol"]).partition("@")[0]) == (way, stage)]
    return {int(str(row["seed"])): float(str(row[measure])) for row in wanted}


def gains(rows: Sequence[Row], trend: Trend) -> list[float]:
    """By how many points the one way is better than the other, for each seed that both have seen."""
    better, worse = (values(rows, way) for way in (trend.better, trend.worse))
    return [100 * (better[seed] - worse[seed]) for seed in better if seed in worse]


def trends(rows: Sequence[Row]) -> dict[str, bool]:
    """What the paper's table shows, and whether it is so here: the means over seeds, where both ways were measured."""
    found = {trend.sentence: gains(rows, trend) for trend in TRENDS}
    return {sentence: fmean(points) > 0 for sentence, points in found.items() if points}


def told(rows: Sequence[Row]) -> Iterator[str]:
    """The judged trends as lines of text."""
    judged = trends(rows)
    for trend in (trend for trend in TRENDS if trend.sentence in judged):
        points = gains(rows, trend)
        agreeing = f"{sum(gain > 0 for gain in points)} of {len(points)} seeds"
        paper = "" if trend.paper is None else f"; paper {trend.paper:+.1f}"
        holds = "holds  " if judged[trend.sentence] else "differs"
        yield f"{holds}  {trend.sentence} ({fmean(points):+.1f} points, {agreeing}{paper})"
    if seconds := values(rows, CAM, "seconds_training"):
        own = values(rows, "full", "seconds_training")
        yield f"CAM, masks and segmenter took {fmean(seconds.values()):.0f} s{shared(own, seconds)}"


def shared(own: dict[int, float], seconds: dict[int, float]) -> str:
    """How long one network took beside it, and whether that is as long."""
    if not own:
        return ""
    share = fmean(own.values()) / fmean(seconds.values())
    remark = "" if share < LONGER else ": too long to be compared, see --set-cam"
    return f", one network {share:.2f} times as long{remark}"


def summary(rows: Sequence[Row]) -> list[Row]:
    """A row for each way: means and deviations in percent, seconds, and what the paper says."""
    known = {way.name: way for way in (*WAYS, Way(CAM))}
    return [
        {
            "way": name,
            "seeds": len(values(rows, name)),
            **{stage: spread(list(values(rows, name, stage=stage).values())) for stage in STAGES},
            "seconds": round(fmean(values(rows, name, "seconds_training").values())),
            "paper": known[name].paper,
            "its full": known[name].paper_full,
        }
        for name in known
        if values(rows, name)
    ]


def spread(shares: Sequence[float]) -> str | None:
    """``"51.2 +- 0.8"`` for shares of one; ``None`` if there are none."""
    percents = [100 * share for share in shares]
    if len(percents) < 2:
        return f"{percents[0]:.1f}" if percents else None
    return f"{fmean(percents):.1f} +- {stdev(percents):.1f}"


def parsed() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description="Table 1 of single-stage segmentation in miniature.")
    parser.add_argument("--data", type=Path, required=True, help="tags and true masks")
    parser.add_argument("--recipe", default="mini/single-stage", help="recipe of single-stage segmentation")
    parser.add_argument("--ways", nargs="+", choices=[way.name for way in WAYS], default=list(USUAL))
    parser.add_argument("--against", choices=[CAM], help="what to run beside them")
    parser.add_argument("--cam", default="mini/cam", help="recipe of CAM, its refiners and a segmenter")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of all ways")
    parser.add_argument("--set-cam", dest="settings_cam", action="append", default=[], help="a setting of CAM")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-single-stage"))
    parser.add_argument("--output", type=Path, default=Path("results/single_stage.csv"))
    return parser.parse_args()


def main() -> None:
    """Measure, write, print."""
    arguments = parsed()
    ways = [*arguments.ways, *([arguments.against] if arguments.against else [])]
    rows = earlier(arguments.output, {(way, seed) for way in ways for seed in arguments.seeds})
    for seed in arguments.seeds:
        for way in (way for way in WAYS if way.name in arguments.ways):
            rows += measured(way, seed, arguments)
            write_table(rows, arguments.output)
        if arguments.against:
            rows += against(seed, arguments)
            write_table(rows, arguments.output)
    console, means = Console(width=110), summary(rows)  # or a pipe would cut the columns
    table = Table(*means[0])
    for row in means:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)
    for line in told(rows):
        console.print(line, highlight=False)
    sys.exit(0 if all(trends(rows).values()) else 1)


if __name__ == "__main__":
    main()
