"""Photographs with maps and masks laid over them: data URIs for the page, one PNG for the README."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from weakseg.data.classes import voc_palette
from weakseg.data.files import write_bytes
from weakseg.data.sample import IGNORE
from weakseg.report.overlays import Outlined, Pixels, overlay_heat, overlay_mask, overlay_objects, text_font

LONGEST_SIDE = 320
JPEG_QUALITY = 80
OBJECTS = ("instances", "detections", "true_objects")
KINDS = ("image", "map", "mask", "prediction", "truth", *OBJECTS)
CAPTIONS = {
    "image": "photograph",
    "map": "localisation map",
    "mask": "pseudo-mask",
    "prediction": "prediction",
    "truth": "truth",
    "instances": "pseudo objects",
    "detections": "objects found",
    "true_objects": "true objects",
}


@dataclass(frozen=True)
class Panel:
    """One image with all that a run made of it; what it did not make is ``None``.

    Attributes:
        id: Name of the image.
        score: What it is ranked by, in [0, 1]: mIoU of this image over its classes, or see ``metric``.
        classes: Its tags.
        image: (H, W, 3) uint8.
        map_: (H, W) float in [0, 1], the largest map of the classes present.
        mask: (H, W) uint8 pseudo-mask.
        prediction: (H, W) uint8, what the segmenter says.
        truth: (H, W) uint8.
        objects: Objects told apart, by kind, one of ``OBJECTS``.
        metric: Name of the score.
    """

    id: str
    score: float
    classes: tuple[str, ...]
    image: Pixels
    map_: NDArray[np.floating[Any]] | None = None
    mask: Pixels | None = None
    prediction: Pixels | None = None
    truth: Pixels | None = None
    objects: Mapping[str, Sequence[Outlined]] = field(default_factory=dict)
    metric: str = "mIoU"

    @property
    def masks(self) -> dict[str, Pixels]:
        """The label maps there are, by kind."""
        found = {"mask": self.mask, "prediction": self.prediction, "truth": self.truth}
        return {kind: mask for kind, mask in found.items() if mask is not None}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The pictures that can be drawn of it, in the order of ``KINDS``."""
        found = {"image", *self.masks, *self.objects, *(["map"] if self.map_ is not None else [])}
        return tuple(kind for kind in KINDS if kind in found)


def draw(panel: Panel, kind: str, size: tuple[int, int] | None = None) -> Pixels | None:
    """One picture of a panel; ``None`` if the run did not make it.

    Args:
        panel: The image and what was made of it.
        kind: One of ``KINDS``.
        size: Height and width; ``None`` keeps those of the image, shrunk to ``LONGEST_SIDE`` where they exceed it.
    """
    if kind not in panel.kinds:
        return None
    own = panel.image.shape[:2]
    height, width = size or _scaled(own, min(1.0, LONGEST_SIDE / max(own)))
    image = np.asarray(Image.fromarray(panel.image).resize((width, height), Image.Resampling.LANCZOS))
    if kind == "image":
        return image
    if kind == "map":
        heat = Image.fromarray(np.nan_to_num(np.asarray(panel.map_, dtype=np.float32)))
        return overlay_heat(image, np.asarray(heat.resize((width, height), Image.Resampling.BILINEAR)))
    if kind in OBJECTS:
        return overlay_objects(image, panel.objects[kind])
    mask = Image.fromarray(panel.masks[kind].astype(np.uint8))
    return overlay_mask(image, np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)))


def data_uri(pixels: Pixels) -> str:
    """A JPEG in base64, to stand in the ``src`` of an ``img``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def kinds_of(panels: Iterable[Panel]) -> tuple[str, ...]:
    """The kinds of pictures that at least one of the panels has, in the order of ``KINDS``."""
    found = {kind for panel in panels for kind in panel.kinds}
    return tuple(kind for kind in KINDS if kind in found)


def labels_of(panels: Iterable[Panel]) -> list[int]:
    """Mask values that occur, ascending, background left out."""
    found = {int(value) for panel in panels for mask in panel.masks.values() for value in np.unique(mask)}
    return sorted(found - {0})


# The contact sheet: a column for each kind of picture, a line of text and a row of pictures for each panel.
CELL_WIDTH, CELL_HEIGHT, GAP, LINE = 224, 168, 12, 22
_PAPER, _INK, _FAINT = (255, 255, 255), (29, 31, 33), (232, 230, 226)
_TEXT_SIZE, _CHIP = 13, 18


@dataclass(frozen=True)
class SheetRow:
    """A line of text with pictures below it.

    Attributes:
        text: The line.
        pictures: One for each column, of the size that ``cell_size`` gives; ``None`` where there is none.
    """

    text: str
    pictures: Sequence[Pixels | None]


def contact_sheet(panels: Sequence[Panel], path: Path, classes: Sequence[str] = ()) -> Path:
    """Write the panels as one PNG, best read beside a table of numbers.

    Args:
        panels: One row each.
        path: The file, written whole or not at all.
        classes: Names in the order of mask values, background first; if given, a legend stands below.

    Returns:
        ``path``.
    """
    kinds = kinds_of(panels)
    rows = [SheetRow(_about(panel), [draw(panel, kind, cell_size(panel.image)) for kind in kinds]) for panel in panels]
    legend = [(value, label_name(value, classes)) for value in labels_of(panels)] if classes else []
    return write_sheet(path, [CAPTIONS[kind] for kind in kinds], rows, legend)


def write_sheet(
    path: Path, captions: Sequence[str], rows: Sequence[SheetRow], legend: Sequence[tuple[int, str]] = ()
) -> Path:
    """Write rows of pictures as one PNG.

    Args:
        path: The file, written whole or not at all.
        captions: Of the columns.
        rows: From top to bottom.
        legend: Mask values and their names, to stand below.

    Returns:
        ``path``.
    """
    width = GAP + max(1, len(captions)) * (CELL_WIDTH + GAP)
    lines = _legend_lines(legend, width - 2 * GAP)
    height = GAP + LINE + len(rows) * (LINE + CELL_HEIGHT + GAP) + len(lines) * LINE + (GAP if lines else 0)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        _write(pen, GAP + column * (CELL_WIDTH + GAP), GAP, caption, CELL_WIDTH)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, top=GAP + LINE + number * (LINE + CELL_HEIGHT + GAP))
    _draw_legend(sheet, lines)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    write_bytes(path, buffer.getvalue())
    return path


def cell_size(image: Pixels) -> tuple[int, int]:
    """Height and width of an image (H, W, 3) in a cell of the sheet."""
    own = image.shape[:2]
    return _scaled(own, min(CELL_HEIGHT / own[0], CELL_WIDTH / own[1]))


def _about(panel: Panel) -> str:
    return " · ".join([f"{panel.metric} {percent(panel.score)}", panel.id, ", ".join(panel.classes) or "no tags"])


def _draw_row(sheet: Image.Image, row: SheetRow, top: int) -> None:
    pen = ImageDraw.Draw(sheet)
    _write(pen, GAP, top, row.text, sheet.width - 2 * GAP)
    for column, pixels in enumerate(row.pictures):
        left, below = GAP + column * (CELL_WIDTH + GAP), top + LINE
        if pixels is None:
            pen.rectangle((left, below, left + CELL_WIDTH - 1, below + CELL_HEIGHT - 1), fill=_FAINT)
            _write(pen, left + GAP, below + GAP, "none", CELL_WIDTH - 2 * GAP)
            continue
        sheet.paste(Image.fromarray(pixels), (left, below))


def _legend_lines(legend: Sequence[tuple[int, str]], width: int) -> list[list[tuple[int, str]]]:
    """Mask values and names, broken into lines of at most this width."""
    lines: list[list[tuple[int, str]]] = []
    room = 0
    for value, name in legend:
        needed = min(_CHIP + round(text_font(_TEXT_SIZE).getlength(_clean(name))) + _CHIP, width)
        if needed > room:
            lines.append([])
            room = width
        lines[-1].append((value, name))
        room -= needed
    return lines


def _draw_legend(sheet: Image.Image, lines: Sequence[Sequence[tuple[int, str]]]) -> None:
    pen = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        left, top = GAP, sheet.height - GAP + (row - len(lines)) * LINE
        for value, name in line:
            colour = _PAPER if value == IGNORE else tuple(int(part) for part in voc_palette()[value])
            pen.rectangle((left, top + 2, left + 12, top + 14), fill=colour, outline=_INK)
            left += _CHIP + _write(pen, left + _CHIP, top, name, sheet.width - left - _CHIP - GAP) + _CHIP


def _write(pen: ImageDraw.ImageDraw, left: int, top: int, text: str, room: int) -> int:
    """Draw a line of text, cut with an ellipsis where the room ends; returns its width."""
    font, line = text_font(_TEXT_SIZE), _clean(text)
    if pen.textlength(line, font=font) > room:
        while line and pen.textlength(line + "...", font=font) > room:
            line = line[:-1]
        line += "..."
    pen.text((left, top), line, fill=_INK, font=font)
    return int(pen.textlength(line, font=font))


def percent(fraction: float | None) -> str:
    """``0.4351`` as ``43.5 %``; what is absent as ``n/a``."""
    return "n/a" if fraction is None or not isfinite(fraction) else f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def _clean(text: str) -> str:
    """The text on one line."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text as UTF-8 can carry it: bytes of a file name that no encoding explains become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def label_name(value: int, classes: Sequence[str]) -> str:
    """Name of a mask value, background included; what the list does not know is called by its number."""
    if value == IGNORE:
        return "ignored (255)"
    return classes[value] if value < len(classes) else f"class {value}"


def label_colour(value: int) -> str | None:
    """Colour of a mask value as CSS writes it; what is ignored has none, it is hatched."""
    return None if value == IGNORE else css_colour(voc_palette()[value])


def css_colour(colour: Iterable[int]) -> str:
    """Red, green and blue as ``#rrggbb``."""
    return "#" + "".join(f"{part:02x}" for part in colour)


def _scaled(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Height and width of a picture at another scale, never below one pixel."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
