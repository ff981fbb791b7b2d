"""The section of pictures: which images, and what is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from weakseg.report import pictures
from weakseg.report.pictures import CAPTIONS, Panel, percent

RANKED = {
    "mIoU": "Ranked by the mIoU of the one image over its own classes, which is not the mIoU of the set.",
    "overlap": "Ranked by how far the objects of the one image coincide with the true ones, in pairs; the AP of the "
    "set is another number. Every object has a colour of its own, or that of the true one in its pair, with box, class "
    "and score.",
}
UNRANKED = "The first images; nothing was measured to rank them by."


@dataclass(frozen=True)
class Picture:
    """An ``img`` with its caption; no source where the run made none."""

    caption: str
    source: str | None
    size: tuple[int, int]
    alternative: str


@dataclass(frozen=True)
class Row:
    """A panel, ready to print."""

    id: str
    metric: str
    score: str
    classes: tuple[str, ...]
    pictures: list[Picture]


@dataclass(frozen=True)
class Split:
    """The best and the worst images of a split, and what they are ranked by."""

    name: str
    ranked: str
    groups: list[tuple[str, list[Row]]]
    columns: int
    legend: list[tuple[str, str | None]]
    has_maps: bool


def split_of(name: str, best: Sequence[Panel], worst: Sequence[Panel], classes: Sequence[str]) -> Split:
    """A split, ready to print.

    Args:
        name: Protocol or split.
        best: Panels, the best first; without scores any.
        worst: Panels, the worst first.
        classes: Names in the order of mask values, background first.
    """
    panels = [*best, *worst]
    kinds = pictures.kinds_of(panels)
    first = "Best" if any(isfinite(panel.score) for panel in panels) else "First"
    groups = [(title, [_row(panel, kinds) for panel in group]) for title, group in ((first, best), ("Worst", worst))]
    return Split(
        name=name,
        ranked=RANKED["overlap" if any(panel.objects for panel in panels) else "mIoU"] if first == "Best" else UNRANKED,
        groups=[(title, rows) for title, rows in groups if rows],
        columns=len(kinds),
        legend=[
            (pictures.label_name(value, classes), pictures.label_colour(value)) for value in pictures.labels_of(panels)
        ],
        has_maps="map" in kinds,
    )


def _row(panel: Panel, kinds: Sequence[str]) -> Row:
    return Row(panel.id, panel.metric, percent(panel.score), panel.classes, [_picture(panel, kind) for kind in kinds])


def _picture(panel: Panel, kind: str) -> Picture:
    pixels = pictures.draw(panel, kind)
    if pixels is None:
        return Picture(CAPTIONS[kind], None, (0, 0), "")
    shown = f" ({', '.join(panel.classes)})" if panel.classes else ""
    size = (pixels.shape[1], pixels.shape[0])
    return Picture(
        CAPTIONS[kind], pictures.data_uri(pixels), size, f"{CAPTIONS[kind].capitalize()} of {panel.id}{shown}"
    )
