"""The report of a run: one HTML file that needs nothing but itself.

No script, font or picture comes from elsewhere, and the page forbids itself to ask for any. Every number stands with
the protocol that made it.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose, isfinite
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from weakseg.data.files import write_text
from weakseg.metrics.boundary import BoundaryRule
from weakseg.metrics.protocol import RATIO
from weakseg.report import charts, overlays, pictures
from weakseg.report.gallery import split_of
from weakseg.report.pictures import Panel, percent, printable

STAGES = {
    "boxes": "Boxes",
    "seed": "Seeds",
    "mask": "Pseudo-masks",
    "second": "Second pseudo-masks",
    "agreed": "Pseudo-masks where both agree",
    "instances": "Pseudo objects",
    "seg": "Segmentation",
    "detect": "Detection",
}
FLAGS = {
    "gt_tags": "True tags given",
    "crf": "CRF",
    "multi_scale": "Several scales",
    "threshold_swept": "Threshold swept",
}
NOT_RECORDED = "not recorded"
IOU, AP, ACCURACY = ("miou", "mIoU"), ("ap", "AP"), ("box_accuracy", "boxes right")
FILLING = ("filling_rate", "filling rate")
_OF_EVERY_ENTRY = frozenset(
    {"miou", "per_class", "flags", "supervision", "images", "backbone", "weights", "absent", "saliency", "boundary"}
)


@dataclass(frozen=True)
class ReportData:
    """What the page tells.

    Attributes:
        title: Name of the run.
        recipe: The resolved YAML.
        classes: Names in the order of mask values, background first.
        metrics: The object of ``metrics.json``, a key per protocol.
        curve: (threshold, mIoU of the seeds).
        seed_threshold: The threshold that was used.
        filling: For masks such as ``mask@train``: by class the share of each box that its class fills.
        lessons: A PNG of what the network taught itself in its last epoch, if it was drawn.
        stages: (split, best panels, worst panels).
        timings: The object of ``timings.json``, a key per stage.
        environment: Versions and device.
        warnings: What the reader should know before trusting the numbers.
    """

    title: str
    recipe: str
    classes: tuple[str, ...]
    metrics: dict[str, dict[str, Any]]
    curve: list[tuple[float, float]] = field(default_factory=list)
    seed_threshold: float | None = None
    filling: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    lessons: bytes | None = None
    stages: list[tuple[str, list[Panel], list[Panel]]] = field(default_factory=list)
    timings: dict[str, dict[str, Any]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def write_report(folder: Path, data: ReportData) -> Path:
    """Write ``index.html`` into the folder, whole or not at all, and beside it the pictures of each split as one PNG.

    Returns:
        The file.
    """
    for name, best, worst in data.stages:
        pictures.contact_sheet([*best, *worst], folder / f"{name}.png", data.classes)
    path = folder / "index.html"
    write_text(path, render(data))
    return path


def render(data: ReportData) -> str:
    """The page as text; the same data give the same page."""
    environment = Environment(
        loader=PackageLoader("weakseg.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html.j2").render(
        data=data,
        protocols=[_protocol(key, entry, data.classes) for key, entry in data.metrics.items()],
        precise=any(AP[0] in entry for entry in data.metrics.values()),
        has_bars=any(entry.get("per_class") for entry in data.metrics.values()),
        threshold=_threshold(data),
        fillings=[_filling(key, rates, data) for key, rates in data.filling.items() if any(rates.values())],
        splits=[split_of(*stage, data.classes) for stage in data.stages if stage[1] or stage[2]],
        lessons=None if data.lessons is None else base64.b64encode(data.lessons).decode("ascii"),
        times=_times(data.timings),
        heat=[pictures.css_colour(colour) for colour in overlays.heat_colours(np.linspace(0, 1, 9))],
    )
    return printable(page)


@dataclass(frozen=True)
class Protocol:
    """One headline number, called ``metric``, with everything it depends on."""

    key: str
    name: str
    number: str
    metric: str
    facts: list[tuple[str, str]]
    extras: list[tuple[str, str]]
    summary: str
    bars: list["Bar"]
    absent: list[str]


@dataclass(frozen=True)
class Bar:
    """A class in the chart of a protocol."""

    name: str
    colour: str | None
    drawn: Markup
    value: str


def _protocol(key: str, entry: Mapping[str, Any], classes: Sequence[str]) -> Protocol:
    stage, _, split = key.partition("@")
    known = (AP, ACCURACY) if entry.get("per_class") else (AP, ACCURACY, FILLING)
    headline, metric = next((one for one in known if one[0] in entry), IOU)
    return Protocol(
        key=key,
        name=f"{STAGES[stage]} on {split}" if stage in STAGES and split else key,
        number=percent(entry.get(headline)),
        metric=metric,
        facts=_facts(entry),
        extras=[
            (name, _metric(name, entry[name])) for name in entry if name != headline and _is_extra(name, entry[name])
        ],
        summary=_summary(entry),
        bars=_bars(entry, classes),
        absent=[str(name) for name in entry.get("absent") or []],
    )


def _is_extra(name: str, value: object) -> bool:
    return name not in _OF_EVERY_ENTRY and not isinstance(value, dict | list | tuple)


def _metric(name: str, value: object) -> str:
    """Another metric beside the mIoU: a fraction, a ratio, or a count."""
    if name.startswith(RATIO) and isinstance(value, float):
        return f"{value:.2f}"
    return percent(value) if value is None or isinstance(value, float) else words(value)


def _facts(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands under the number, flags first; a flag that is missing is said to be missing."""
    flags = entry.get("flags") or {}
    further = [(name, flag_words(value)) for name, value in flags.items() if name not in FLAGS]
    return [
        *((title, flag_words(flags[name]) if name in flags else NOT_RECORDED) for name, title in FLAGS.items()),
        *further,
        ("Supervision", _recorded(entry, "supervision").replace("+", " + ")),
        *([("Saliency maps", words(entry["saliency"]))] if entry.get("saliency") else []),
        *([("Boundaries", BoundaryRule(**entry["boundary"]).words())] if entry.get("boundary") else []),
        ("Images", _recorded(entry, "images")),
        *([("Classes in the mean", _counted(entry))] if entry.get("per_class") or AP[0] in entry else []),
        ("Backbone", _recorded(entry, "backbone")),
        ("Initial weights", _recorded(entry, "weights")),
    ]


def _counted(entry: Mapping[str, Any]) -> str:
    """How many classes the headline is a mean of."""
    of_class = entry.get("per_class") or {}
    if of_class:
        return f"{sum(value is not None for value in of_class.values())} of {len(of_class)}"
    return f"all but {len(entry.get('absent') or ())}" if AP[0] in entry else NOT_RECORDED


def _summary(entry: Mapping[str, Any]) -> str:
    """The flags in one line, for a chart's subtitle."""
    flags = entry.get("flags") or {}
    parts = [f"{FLAGS.get(name, name)}: {flag_words(value)}" for name, value in flags.items()]
    return " · ".join([f"Supervision: {_recorded(entry, 'supervision').replace('+', ' + ')}", *parts])


def _recorded(entry: Mapping[str, Any], name: str) -> str:
    return words(entry[name]) if name in entry else NOT_RECORDED


def _bars(entry: Mapping[str, Any], classes: Sequence[str]) -> list[Bar]:
    """Classes from the best to the worst, those without a value last."""
    of_class = {name: _finite(value) for name, value in (entry.get("per_class") or {}).items()}
    mean = _finite(entry.get("miou"))
    ranked = sorted(of_class.items(), key=lambda item: -1.0 if item[1] is None else item[1], reverse=True)
    return [
        Bar(
            name=name,
            colour=pictures.label_colour(list(classes).index(name)) if name in classes else None,
            drawn=charts.bar(value, mean) if value is not None else Markup(""),
            value=percent(value),
        )
        for name, value in ranked
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


@dataclass(frozen=True)
class Threshold:
    """The curve of the seeds and what to read from it."""

    drawn: Markup
    points: list[tuple[str, str]]
    best: tuple[str, str]
    chosen: tuple[str, str | None] | None
    marked: bool
    protocols: list[tuple[str, str]]


def _threshold(data: ReportData) -> Threshold | None:
    points = sorted((float(x), float(y)) for x, y in data.curve if isfinite(x) and isfinite(y))
    if not points:
        return None
    used = data.seed_threshold
    at_used = [y for x, y in points if used is not None and isclose(x, used, abs_tol=1e-6)]
    best = charts.best_point(points)
    return Threshold(
        drawn=charts.curve(points, used),
        points=[(words(x), percent(y)) for x, y in points],
        best=(words(best[0]), percent(best[1])),
        chosen=None if used is None else (words(used), percent(at_used[0]) if at_used else None),
        marked=used is not None and points[0][0] <= used <= points[-1][0],
        protocols=[(key, _summary(entry)) for key, entry in data.metrics.items() if key.startswith("seed@")],
    )


@dataclass(frozen=True)
class Filling:
    """How the masks of a protocol fill boxes: the chart, and name, boxes and median of each class."""

    key: str
    summary: str
    drawn: Markup
    rows: list[tuple[str, str, str]]


def _filling(key: str, rates: Mapping[str, Sequence[float]], data: ReportData) -> Filling:
    return Filling(
        key=key,
        summary=_summary(data.metrics.get(key, {})),
        drawn=charts.violins(rates),
        rows=[(name, str(len(its)), percent(median(its) if its else None)) for name, its in rates.items()],
    )


@dataclass(frozen=True)
class Times:
    """The table of stages: a head, a row per stage, the sum."""

    head: list[str]
    rows: list[tuple[str, str, Markup, list[str]]]
    total: str


_TIMES_HEAD = {"images_per_second": "images/s", "peak_memory_mb": "peak memory"}


def _times(timings: Mapping[str, Mapping[str, Any]]) -> Times:
    total = sum(float(entry.get("seconds") or 0) for entry in timings.values())
    found = (name for entry in timings.values() for name, value in entry.items() if _is_extra(name, value))
    columns = [name for name in dict.fromkeys([*_TIMES_HEAD, *found]) if name != "seconds"]
    return Times(
        head=[_TIMES_HEAD.get(name, name.replace("_", " ")) for name in columns],
        rows=[
            (
                stage,
                duration(entry.get("seconds")),
                charts.bar(float(entry.get("seconds") or 0) / total if total else 0.0),
                [_time_cell(name, entry.get(name)) for name in columns],
            )
            for stage, entry in timings.items()
        ],
        total=duration(total),
    )


def _time_cell(name: str, value: object) -> str:
    if not isinstance(value, int | float):
        return "–" if value is None else words(value)
    if name == "peak_memory_mb":
        return f"{value / 1024:.1f} GB" if value >= 1024 else f"{value:.0f} MB"
    return f"{value:.1f}" if name == "images_per_second" else words(value)


def duration(seconds: float | None) -> str:
    """``83.2`` as ``1 min 23 s``."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def flag_words(value: object) -> str:
    """A flag for readers: off, on, or on with a number."""
    if value is None:
        return "no"
    return words(value) if isinstance(value, bool | str) else f"yes, {words(value)}"


def words(value: object) -> str:
    """A value of JSON for readers: yes, no, none, a number in short, or the text itself."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
