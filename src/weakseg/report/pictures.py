"""Photographs with maps and masks laid over them: data URIs for the page, one PNG for the README."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from weakseg.data.classes import voc_palette
from weakseg.data.files import write_bytes
from weakseg.data.sample import IGNORE

Pixels = NDArray[np.uint8]

LONGEST_SIDE = 320
JPEG_QUALITY = 80
KINDS = ("image", "map", "mask", "prediction", "truth")
CAPTIONS = {
    "image": "photograph",
    "map": "localisation map",
    "mask": "pseudo-mask",
    "prediction": "prediction",
    "truth": "truth",
}

# Nine colours from black over violet and orange to light yellow; each lighter than the one before, so that the order of
# the values survives a greyscale printer and every kind of colour blindness.
_HEAT = np.array(
    [
        *((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (188, 55, 84)),
        *((227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164)),
    ],
    dtype=np.float64,
)
_HEAT_OPACITY = (0.55, 0.72)  # over the grey photograph, where the map is 0 and where it is 1
_MASK_OPACITY = 0.62
_OUTSIDE_GREY = 0.55  # how far what is background loses its colour
_SHADE = 0.55
_HATCH_PERIOD, _HATCH_WIDTH = 8, 3
_HATCH_OPACITY = (0.40, 0.85)  # of white, between the lines and on them


@dataclass(frozen=True)
class Panel:
    """One image with all that a run made of it; what it did not make is ``None``.

    Attributes:
        id: Name of the image.
        score: mIoU of this image over its classes, in [0, 1].
        classes: Its tags.
        image: (H, W, 3) uint8.
        map_: (H, W) float in [0, 1], the largest map of the classes present.
        mask: (H, W) uint8 pseudo-mask.
        prediction: (H, W) uint8, what the segmenter says.
        truth: (H, W) uint8.
    """

    id: str
    score: float
    classes: tuple[str, ...]
    image: Pixels
    map_: NDArray[np.floating[Any]] | None = None
    mask: Pixels | None = None
    prediction: Pixels | None = None
    truth: Pixels | None = None

    @property
    def masks(self) -> dict[str, Pixels]:
        """The label maps there are, by kind."""
        found = {"mask": self.mask, "prediction": self.prediction, "truth": self.truth}
        return {kind: mask for kind, mask in found.items() if mask is not None}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The pictures that can be drawn of it, in the order of ``KINDS``."""
        found = {"image", *self.masks, *(["map"] if self.map_ is not None else [])}
        return tuple(kind for kind in KINDS if kind in found)


def heat_colours(values: NDArray[np.floating[Any]]) -> Pixels:
    """Colours whose luminance rises with the value.

    Args:
        values: (...) in [0, 1]; what lies outside is clipped, NaN counts as 0.

    Returns:
        (..., 3) uint8.
    """
    place = np.clip(np.nan_to_num(values), 0, 1).astype(np.float64)
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(place, stops, channel) for channel in _HEAT.T], axis=-1).round().astype(np.uint8)


def overlay_heat(image: Pixels, heat: NDArray[np.floating[Any]]) -> Pixels:
    """A map over the grey photograph: what it does not see stays dark.

    Args:
        image: (H, W, 3).
        heat: (H, W) in [0, 1].

    Returns:
        (H, W, 3).
    """
    low, high = _HEAT_OPACITY
    opacity = (low + (high - low) * np.clip(np.nan_to_num(heat), 0, 1))[..., None]
    return _to_pixels(opacity * heat_colours(heat) + (1 - opacity) * _grey(image))


def overlay_mask(image: Pixels, mask: Pixels) -> Pixels:
    """A label map over the photograph: class colours, ignored pixels hatched in white, a thin line around each region.

    Args:
        image: (H, W, 3).
        mask: (H, W), 0 background, 255 ignore.

    Returns:
        (H, W, 3).
    """
    canvas = _OUTSIDE_GREY * _grey(image) + (1 - _OUTSIDE_GREY) * image
    objects, ignored = (mask > 0) & (mask != IGNORE), mask == IGNORE
    painted = _MASK_OPACITY * voc_palette()[mask] + (1 - _MASK_OPACITY) * image
    canvas[objects] = painted[objects]
    white = _hatch(*mask.shape)[..., None]
    canvas[ignored] = (255 * white + canvas * (1 - white))[ignored]
    canvas[edges(mask[::-1, ::-1])[::-1, ::-1]] *= _SHADE  # the far side of each border, so that white shows on white
    canvas[edges(mask)] = 255
    return _to_pixels(canvas)


def edges(mask: Pixels) -> NDArray[np.bool_]:
    """(H, W): the pixels whose right or lower neighbour has another label."""
    found = np.zeros(mask.shape, dtype=np.bool_)
    found[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    found[:-1] |= mask[:-1] != mask[1:]
    return found


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


def contact_sheet(panels: Sequence[Panel], path: Path, classes: Sequence[str] = ()) -> Path:
    """Write the panels as one PNG, best read beside a table of numbers.

    Args:
        panels: One row each.
        path: The file, written whole or not at all.
        classes: Names in the order of mask values, background first; if given, a legend stands below.

    Returns:
        ``path``.
    """
    legend = _legend_lines(panels, classes) if classes else []
    height = GAP + LINE + len(panels) * (LINE + CELL_HEIGHT + GAP) + len(legend) * LINE + (GAP if legend else 0)
    sheet = Image.new("RGB", (_sheet_width(panels), height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, kind in enumerate(kinds_of(panels)):
        _write(pen, GAP + column * (CELL_WIDTH + GAP), GAP, CAPTIONS[kind], CELL_WIDTH)
    for row, panel in enumerate(panels):
        _draw_row(sheet, panel, kinds_of(panels), top=GAP + LINE + row * (LINE + CELL_HEIGHT + GAP))
    _draw_legend(sheet, legend)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    write_bytes(path, buffer.getvalue())
    return path


def _sheet_width(panels: Sequence[Panel]) -> int:
    return GAP + max(1, len(kinds_of(panels))) * (CELL_WIDTH + GAP)


def _draw_row(sheet: Image.Image, panel: Panel, kinds: Sequence[str], top: int) -> None:
    own = panel.image.shape[:2]
    size = _scaled(own, min(CELL_HEIGHT / own[0], CELL_WIDTH / own[1]))
    pen = ImageDraw.Draw(sheet)
    text = " · ".join([f"mIoU {percent(panel.score)}", panel.id, ", ".join(panel.classes) or "no tags"])
    _write(pen, GAP, top, text, sheet.width - 2 * GAP)
    for column, kind in enumerate(kinds):
        left, below = GAP + column * (CELL_WIDTH + GAP), top + LINE
        pixels = draw(panel, kind, size)
        if pixels is None:
            pen.rectangle((left, below, left + CELL_WIDTH - 1, below + CELL_HEIGHT - 1), fill=_FAINT)
            _write(pen, left + GAP, below + GAP, "none", CELL_WIDTH - 2 * GAP)
            continue
        sheet.paste(Image.fromarray(pixels), (left, below))


def _legend_lines(panels: Sequence[Panel], classes: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Mask values and names, broken into lines as wide as the sheet."""
    lines: list[list[tuple[int, str]]] = []
    room = 0
    for value in labels_of(panels):
        name = label_name(value, classes)
        width = min(_CHIP + round(_font().getlength(_clean(name))) + _CHIP, _sheet_width(panels) - 2 * GAP)
        if width > room:
            lines.append([])
            room = _sheet_width(panels) - 2 * GAP
        lines[-1].append((value, name))
        room -= width
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
    font, line = _font(), _clean(text)
    if pen.textlength(line, font=font) > room:
        while line and pen.textlength(line + "...", font=font) > room:
            line = line[:-1]
        line += "..."
    pen.text((left, top), line, fill=_INK, font=font)
    return int(pen.textlength(line, font=font))


def percent(fraction: float | None) -> str:
    """``0.4351`` as ``43.5 %``; what is absent as ``n/a``."""
    return "n/a" if fraction is None or not isfinite(fraction) else f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_SIZE)


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


def _grey(image: Pixels) -> NDArray[np.float64]:
    """(H, W, 1) luma."""
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))[..., None]


def _hatch(height: int, width: int) -> NDArray[np.float64]:
    """(H, W): how white each pixel of a field of diagonal lines is."""
    line = np.add.outer(np.arange(height), np.arange(width)) % _HATCH_PERIOD < _HATCH_WIDTH
    return np.where(line, _HATCH_OPACITY[1], _HATCH_OPACITY[0])


def _to_pixels(colours: NDArray[np.float64]) -> Pixels:
    return np.clip(colours.round(), 0, 255).astype(np.uint8)
