"""The lattice of an image, built on a CPU: simplices around pixels, numbers of their corners, chains of neighbours.

Compiled; imported on first use, because numba takes a second to import. The definitions are those of ``lattice``. Each
simplex has one corner of each remainder modulo D + 1, so corners are looked up in D + 1 small hash tables, and every
corner of a pixel has a column of its own. No loop replaces an array by a larger one: numba would count references at
every access.
"""

import math

import numpy as np
from numpy.typing import NDArray

from weakseg.ops.compiled import compiled

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
Keys = NDArray[np.int64]

STRIP = 256
"""Pixels whose simplices are found together: the arrays for them stay in the fastest cache."""

EMPTY = -1
"""Marks a free slot of a hash table; keys are not negative."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: spreads keys over slots, and moves all keys that move by a step by one distance."""


@compiled
def enclose(
    image: NDArray[np.uint8],
    widths: Floats,
    lowest: Integers,
    places: Keys,
    keys: Keys,
    weights: Floats,
    top: int,
    bottom: int,
) -> None:  # pragma: no cover - compiled
    """The simplex around each pixel of some rows of the image (``lattice.enclosing_simplex``).

    A corner of remainder c has coordinates (D + 1) b + c; its key is made of the integers b.

    Args:
        image: (H, W, 3).
        widths: (D,) of the kernel: x and y, and for D = 5 also of the colours.
        lowest: (D,) least b in each coordinate.
        places: (D,) the value in a key of a step in each coordinate.
        keys: (D + 1, N) of the corners by their remainders; written.
        weights: (N, D + 1) barycentric coordinates; written.
        top: First row.
        bottom: Row after the last.
    """
    across, dims = image.shape[1], len(widths)
    offset, base = np.empty((dims + 1, STRIP), np.float32), np.empty((dims + 1, STRIP), np.int32)
    rank, key = np.empty((dims + 1, STRIP), np.int32), np.empty(STRIP, np.int64)
    ascending, steps = np.empty(dims + 1, np.float32), np.zeros(dims + 1, np.int64)
    for y in range(top, bottom):
        for x in range(0, across, STRIP):
            size = min(STRIP, across - x)
            _round(image, widths, y, x, size, offset, base)
            _rank(offset, base, rank, size)
            key[:] = 0
            for i in range(dims):
                for p in range(size):
                    key[p] += (base[i, p] - lowest[i]) * places[i]
            for p in range(size):
                pixel = y * across + x + p
                for i in range(dims + 1):
                    ascending[dims - rank[i, p]] = offset[i, p]
                    steps[dims - rank[i, p]] = places[i] if i < dims else 0
                corner = key[p]
                keys[0, pixel] = corner
                weights[pixel, 0] = 1 + ascending[0] - ascending[dims]
                for c in range(1, dims + 1):
                    corner -= steps[c - 1]
                    keys[c, pixel] = corner
                    weights[pixel, c] = ascending[c] - ascending[c - 1]


@compiled
def _round(
    image: NDArray[np.uint8], widths: Floats, y: int, x: int, size: int, offset: Floats, base: Integers
) -> None:  # pragma: no cover - compiled
    """Elevated features of some pixels, divided by D + 1, as integers and what is left of them (D + 1, STRIP).

    Floats are handled one by one as in ``lattice.elevate``: on a border between simplices, rounding decides.
    """
    count = np.float32(len(offset))
    feature, total = np.empty(STRIP, np.float32), np.zeros(STRIP, np.float32)
    for i in range(len(widths), 0, -1):
        scale, times = np.float32(math.sqrt(2 / 3) * len(offset) / math.sqrt(i * (i + 1))), np.float32(i)
        for p in range(size):
            place = x + p if i == 1 else y
            feature[p] = np.float32(place if i < 3 else image[y, x + p, i - 3]) / widths[i - 1] * scale
        for p in range(size):
            quotient = (total[p] - times * feature[p]) / count
            rounded = np.rint(quotient)
            offset[i, p], base[i, p] = quotient - rounded, rounded
            total[p] += feature[p]
    for p in range(size):
        quotient = total[p] / count
        rounded = np.rint(quotient)
        offset[0, p], base[0, p] = quotient - rounded, rounded


@compiled
def _rank(offset: Floats, base: Integers, rank: Integers, size: int) -> None:  # pragma: no cover - compiled
    """Order of the coordinates by offset, largest first, and the way back into the hyperplane; all (D + 1, STRIP)."""
    corners = len(offset)
    rank[:] = 0
    for i in range(corners):
        for j in range(corners):
            for p in range(size):
                rank[i, p] += base[j, p]
        for j in range(i):
            for p in range(size):
                behind = np.int32(offset[j, p] >= offset[i, p])
                rank[i, p] += behind
                rank[j, p] += 1 - behind
    for i in range(corners):
        for p in range(size):
            carry = np.int32(rank[i, p] < 0) - np.int32(rank[i, p] >= corners)
            rank[i, p] += carry * corners
            offset[i, p] -= carry
            base[i, p] += carry


@compiled
def number(
    keys: Keys, slots: Keys, numbers: Integers, shift: int, first: int, count: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Numbers corners in the order in which they are met, until half of a hash table is full.

    Args:
        keys: (N,) of one corner of each pixel; replaced by its number.
        slots: Keys by their place in the hash table, or ``EMPTY``; a power of two; written.
        numbers: The number for each slot; written.
        shift: 64 less the logarithm of the number of slots.
        first: The pixel to start from.
        count: How many corners have a number already.

    Returns:
        The pixel after the last one done, and how many corners have a number.
    """
    full, last = len(slots) // 2, len(slots) - 1
    for pixel in range(first, len(keys)):
        key = keys[pixel]
        slot = np.int64((np.uint64(key) * GOLDEN) >> np.uint64(shift))
        while slots[slot] != key:
            if slots[slot] == EMPTY:
                if count == full:
                    return pixel, count
                slots[slot], numbers[slot] = key, count
                count += 1
                break
            slot = (slot + 1) & last
        keys[pixel] = numbers[slot]
    return len(keys), count


@compiled
def move(
    slots: Keys, numbers: Integers, larger: Keys, new_numbers: Integers, shift: int
) -> None:  # pragma: no cover - compiled
    """The content of a hash table into an empty larger one, whose shift is given."""
    last = len(larger) - 1
    for old in range(len(slots)):
        if slots[old] != EMPTY:
            slot = np.int64((np.uint64(slots[old]) * GOLDEN) >> np.uint64(shift))
            while larger[slot] != EMPTY:
                slot = (slot + 1) & last
            larger[slot], new_numbers[slot] = slots[old], numbers[old]


@compiled
def look_ahead(
    keys: Keys, numbers: Integers, slots: Keys, slot_numbers: Integers, shift: int, ahead: Integers
) -> None:  # pragma: no cover - compiled
    """The neighbour of each corner of one remainder along one axis.

    Args:
        keys: Of the neighbours; in the order of the corners' own hash table, which makes it nearly that of the other.
        numbers: The corners' numbers.
        slots: Hash table of the neighbours' remainder.
        slot_numbers: Its numbers.
        shift: Its shift.
        ahead: Number of each corner's neighbour, -1 for none; written.
    """
    last = len(slots) - 1
    for i in range(len(keys)):
        slot = np.int64((np.uint64(keys[i]) * GOLDEN) >> np.uint64(shift))
        while slots[slot] != keys[i] and slots[slot] != EMPTY:
            slot = (slot + 1) & last
        ahead[numbers[i]] = slot_numbers[slot] if slots[slot] != EMPTY else -1


@compiled
def walk(ahead: Integers) -> Integers:  # pragma: no cover - compiled
    """Chains of neighbours, one after the other; the last of each is inverted (~). Corners alone are in none."""
    behind, length = np.zeros(len(ahead), np.bool_), 0
    for corner in range(len(ahead)):
        if ahead[corner] >= 0:
            behind[ahead[corner]] = True
            length += 1 if ahead[ahead[corner]] >= 0 else 2
    chains, place = np.empty(length, np.int32), 0
    for head in range(len(ahead)):
        if ahead[head] >= 0 and not behind[head]:
            corner = head
            while ahead[corner] >= 0:
                chains[place] = corner
                corner = ahead[corner]
                place += 1
            chains[place] = ~corner
            place += 1
    return chains


@compiled
def arrange(numbers: Keys, firsts: Integers, corners: Integers) -> None:  # pragma: no cover - compiled
    """Numbers by remainder into numbers by pixel.

    Args:
        numbers: (D + 1, N) within each remainder.
        firsts: (D + 1,) number of the first corner of each remainder.
        corners: (N, D + 1); written.
    """
    for pixel in range(numbers.shape[1]):
        for c in range(len(numbers)):
            corners[pixel, c] = numbers[c, pixel] + firsts[c]


@compiled
def scale(weights: Floats, squares: Floats) -> None:  # pragma: no cover - compiled
    """Multiplies the weights of each pixel by the square root of a number of its own."""
    for pixel in range(len(weights)):
        factor = np.sqrt(squares[pixel])
        for c in range(weights.shape[1]):
            weights[pixel, c] *= factor
