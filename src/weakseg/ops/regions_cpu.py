"""Connected regions of a label map, compiled; imported on first use, because numba takes a second to import."""

import numpy as np
from numpy.typing import NDArray

from weakseg.ops.compiled import compiled

Integers = NDArray[np.int64]


@compiled
def number_regions(labels: Integers, numbers: Integers) -> int:  # pragma: no cover - compiled
    """Numbers the 4-connected regions of equal labels from 1, in the order of their first pixels, row by row.

    Args:
        labels: (h, w), 0 for pixels of no region.
        numbers: (h, w), the region of each pixel, 0 for none; written.

    Returns:
        How many regions there are.
    """
    height, width = labels.shape
    parents = np.arange(height * width)
    for y in range(height):
        for x in range(width):
            label, pixel = labels[y, x], y * width + x
            if label and x and labels[y, x - 1] == label:
                _join(parents, pixel - 1, pixel)
            if label and y and labels[y - 1, x] == label:
                _join(parents, pixel - width, pixel)
    count = 0
    for y in range(height):
        for x in range(width):
            pixel = y * width + x
            first = _first(parents, pixel)
            if not labels[y, x]:
                numbers[y, x] = 0
            elif first == pixel:
                count += 1
                numbers[y, x] = count
            else:
                numbers[y, x] = numbers[first // width, first % width]
    return count


@compiled
def _join(parents: Integers, one: int, other: int) -> None:  # pragma: no cover - compiled
    """Makes one region of two; the pixel that comes first in the grid stands for it."""
    one, other = _first(parents, one), _first(parents, other)
    parents[max(one, other)] = min(one, other)


@compiled
def _first(parents: Integers, pixel: int) -> int:  # pragma: no cover - compiled
    """The first pixel of a pixel's region; shortens the way to it."""
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel
