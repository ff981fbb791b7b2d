"""Segmentations of COCO: polygons, and run lengths written out or compressed.

All that a file says is checked here before it is handed to pycocotools, which trusts its input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as pycocotools_mask

CORNERS = 3  # fewer have no area
OFFSET = 48  # of the characters that compressed counts are written with
BITS, MORE, SIGN = 5, 0x20, 0x10  # of a character: digits, "another one follows", "the last digits are of a negative"
MOST_CHARACTERS = 7  # of one count; 35 bits hold every image


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Where an object is.

    Attributes:
        polygons: x1, y1, x2, y2, ... of each, from 0; empty for run lengths.
        counts: Lengths of runs, column by column, of pixels outside and inside in turn; or these compressed.
        size: Height and width that the run lengths are of.
    """

    polygons: tuple[NDArray[np.float64], ...] = ()
    counts: NDArray[np.int64] | bytes | None = None
    size: tuple[int, int] | None = None

    def content(self) -> bytes:
        """What a fingerprint is made of."""
        counts = b"" if self.counts is None else bytes(self.counts)
        return b"".join([repr(self.size).encode(), counts, *(b"|" + polygon.tobytes() for polygon in self.polygons)])


def read_segmentation(value: Any) -> Segmentation | None:  # noqa: ANN401  (any JSON value)
    """A segmentation as JSON has it, kept in little memory; ``None`` if there is none.

    Raises:
        ValueError: If it is neither polygons nor run lengths.
    """
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _run_lengths(value)
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        raise ValueError("its segmentation is neither a list of polygons nor run lengths")
    return Segmentation(tuple(_polygon(polygon) for polygon in value))


def encoded(segmentation: Segmentation, size: tuple[int, int]) -> dict[str, Any]:
    """A segmentation in the form that pycocotools works with.

    Args:
        segmentation: The object.
        size: Height and width of the image.

    Raises:
        ValueError: If it does not fit the image.
    """
    height, width = size
    if segmentation.counts is None:
        polygons = [polygon for polygon in segmentation.polygons if len(polygon) >= 2 * CORNERS]
        if any(_is_far(polygon, size) for polygon in polygons):
            raise ValueError(f"its polygon is far outside the image of {width} x {height} pixels")
        counts = [height * width] if not polygons else None
    else:
        if segmentation.size != size:
            found = "x".join(map(str, reversed(segmentation.size or ())))
            raise ValueError(f"its run lengths are of {found} pixels, the image of {width}x{height}")
        given = segmentation.counts
        counts = uncompressed(given) if isinstance(given, bytes) else given.tolist()
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise ValueError(f"its run lengths do not add up to the image's {height * width} pixels")
    if counts is not None:
        return dict(pycocotools_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    drawn = pycocotools_mask.frPyObjects([polygon.tolist() for polygon in polygons], height, width)
    return dict(pycocotools_mask.merge(drawn))


def decoded(runs: dict[str, Any]) -> NDArray[np.bool_]:
    """(H, W) bool of what ``encoded`` gave."""
    mask: NDArray[np.bool_] = pycocotools_mask.decode(runs).astype(bool)
    return mask


def area(runs: dict[str, Any]) -> int:
    """Number of pixels of what ``encoded`` gave."""
    return int(pycocotools_mask.area(runs))


def uncompressed(text: bytes) -> list[int]:
    """Run lengths of COCO's compressed form.

    Each is written in groups of five bits, the lowest first, one a character; from the fourth on it is not the length
    but its difference from the one two before.

    Raises:
        ValueError: If the text ends within a number or is not of that form.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digits = character - OFFSET
        if not 0 <= digits < 2 * MORE or shift >= MOST_CHARACTERS * BITS:
            raise ValueError("its compressed run lengths are damaged")
        value |= (digits & (MORE - 1)) << shift
        shift += BITS
        if not digits & MORE:
            value -= (digits & SIGN and 1) << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its compressed run lengths end within a number")
    return counts


def _run_lengths(value: dict[str, Any]) -> Segmentation:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(_is_whole(number) for number in size):
        raise ValueError("its run lengths have no size of two whole numbers")
    if isinstance(counts, str) and counts.isascii():
        return Segmentation(counts=counts.encode(), size=(size[0], size[1]))
    if not isinstance(counts, list) or not all(_is_whole(number) for number in counts):
        raise ValueError("its run lengths are neither a text nor a list of whole numbers")
    return Segmentation(counts=np.array(counts, dtype=np.int64), size=(size[0], size[1]))


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 40


def _polygon(places: Sequence[object]) -> NDArray[np.float64]:
    numbers = [place for place in places if isinstance(place, int | float) and not isinstance(place, bool)]
    if len(numbers) != len(places) or len(places) % 2:
        raise ValueError("its polygon is not a list of pairs of numbers")
    try:
        polygon = np.array(numbers, dtype=np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        polygon = np.array([np.inf])
    if not np.isfinite(polygon).all():
        raise ValueError("its polygon is not finite")
    return polygon


def _is_far(polygon: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether a corner is outside by more than the image's height or width."""
    ends = np.array(size[::-1])
    corners = polygon.reshape(-1, 2)
    return bool(((corners < -ends) | (corners > 2 * ends)).any())
