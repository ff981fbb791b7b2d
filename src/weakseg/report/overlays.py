"""What is laid over a photograph: maps, masks, objects told apart."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from weakseg.data.classes import voc_palette
from weakseg.data.sample import IGNORE

Pixels = NDArray[np.uint8]

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
_SOFT_OPACITY = 0.8  # where a soft mask is 1
_OUTSIDE_GREY = 0.55  # how far what is background loses its colour
_SHADE = 0.55
_HATCH_PERIOD, _HATCH_WIDTH = 8, 3
_HATCH_OPACITY = (0.40, 0.85)  # of white, between the lines and on them

_OBJECT_OPACITY = 0.5
_HUE_STEP = 0.381966  # of the circle, the golden angle: neighbours in the order differ, however many there are
_LABEL_SIZE, _LABELLED = 10, 12  # points; how many of the largest objects get their name written


@dataclass(frozen=True)
class Outlined:
    """An object to be drawn.

    Attributes:
        name: Its class.
        mask: (H, W) bool.
        score: In [0, 1]; ``None`` where nothing is uncertain.
        colour: Number of its colour; its place among the objects of its picture if ``None``.
    """

    name: str
    mask: NDArray[np.bool_]
    score: float | None = None
    colour: int | None = None

    @property
    def label(self) -> str:
        """Class and score."""
        return self.name if self.score is None else f"{self.name} {self.score:.2f}"


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


def overlay_soft(image: Pixels, masks: NDArray[np.floating[Any]]) -> Pixels:
    """Soft masks over the photograph: the surer of a class, the more of its colour.

    Args:
        image: (H, W, 3).
        masks: (C + 1, H, W) in [0, 1], background first; the sum over classes is at most 1.

    Returns:
        (H, W, 3).
    """
    objects = _SOFT_OPACITY * np.clip(np.nan_to_num(masks[1:]), 0, 1)
    canvas = _OUTSIDE_GREY * _grey(image) + (1 - _OUTSIDE_GREY) * image
    colours = voc_palette()[1 : len(masks)].astype(np.float64)
    return _to_pixels(canvas * (1 - objects.sum(0)[..., None]) + np.einsum("chw,cd->hwd", objects, colours))


def edges(mask: Pixels) -> NDArray[np.bool_]:
    """(H, W): the pixels whose right or lower neighbour has another label."""
    found = np.zeros(mask.shape, dtype=np.bool_)
    found[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    found[:-1] |= mask[:-1] != mask[1:]
    return found


def overlay_objects(image: Pixels, objects: Sequence[Outlined]) -> Pixels:
    """Each object in a colour of its own, with outline, box, class and score; the smaller over the larger.

    Args:
        image: (H, W, 3).
        objects: Of the image, at any size.

    Returns:
        (H, W, 3).
    """
    height, width = image.shape[:2]
    canvas = _OUTSIDE_GREY * _grey(image) + (1 - _OUTSIDE_GREY) * image
    masks = [_resized(one.mask, (width, height)) for one in objects]
    colours = [object_colour(place if one.colour is None else one.colour) for place, one in enumerate(objects)]
    order = sorted(range(len(objects)), key=lambda index: -int(masks[index].sum()))
    for index in order:
        mask, colour = masks[index], colours[index]
        canvas[mask] = (_OBJECT_OPACITY * np.array(colour) + (1 - _OBJECT_OPACITY) * image)[mask]
        canvas[_outline(mask)] = colour
    picture = Image.fromarray(_to_pixels(canvas))
    pen = ImageDraw.Draw(picture)
    boxes = {index: _tight_box(masks[index]) for index in order if masks[index].any()}
    for index, box in boxes.items():
        pen.rectangle(box, outline=colours[index])
    for index in list(boxes)[:_LABELLED]:
        _label(pen, objects[index].label, boxes[index], colours[index], (width, height))
    return np.asarray(picture)


def object_colour(index: int) -> tuple[int, int, int]:
    """Colour of the object of a number, bright and unlike those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + index * _HUE_STEP) % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


@cache
def text_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The letters of all pictures."""
    return ImageFont.load_default(size)


def _label(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: tuple[int, int, int, int],
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """The text on its colour, above the box where there is room, within the picture in any case."""
    font = text_font(_LABEL_SIZE)
    clean = " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")
    width, height = round(pen.textlength(clean, font=font)) + 5, _LABEL_SIZE + 4
    left = max(0, min(box[0], size[0] - width))
    top = box[1] - height if box[1] >= height else box[1]
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
    pen.text((left + 3, top), clean, fill=(0, 0, 0), font=font)


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    picture = Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(picture).astype(np.bool_)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W): the pixels of a mask that have a neighbour outside of it; what is beyond the picture is none."""
    padded = np.pad(mask, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~around


def _tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First and last column and row."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _grey(image: Pixels) -> NDArray[np.float64]:
    """(H, W, 1) luma."""
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))[..., None]


def _hatch(height: int, width: int) -> NDArray[np.float64]:
    """(H, W): how white each pixel of a field of diagonal lines is."""
    line = np.add.outer(np.arange(height), np.arange(width)) % _HATCH_PERIOD < _HATCH_WIDTH
    return np.where(line, _HATCH_OPACITY[1], _HATCH_OPACITY[0])


def _to_pixels(colours: NDArray[np.float64]) -> Pixels:
    return np.clip(colours.round(), 0, 255).astype(np.uint8)
