"""The updates of the dense CRF on a CPU, compiled; imported on first use, because numba takes a second to import.

A table has a row of 4 or 8 labels for each corner of the lattice. Beliefs are kept as planes, one for each label, with
room for full rows at the end. Each sum has one order, whatever range of pixels, columns or chains a call is given, so
results do not depend on how calls are spread over threads.
"""

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from weakseg.ops.compiled import compiled
from weakseg.ops.crf.vectors import Lanes, add_weighted, load, store, transpose, zeros

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

STRIP = 256
"""Pixels that are updated together: the arrays for them stay in the fastest cache."""

LEAST_EXPONENT = np.float32(-50)
"""exp(-50) = 2e-22 vanishes beside the 1 of the best label; its products stay above 1e-38, where floats get slow."""

PER_LOG2 = np.float32(1 / math.log(2))
LOG2_HEAD = np.float32(355 / 512)  # so few bits that its products with small integers are exact
LOG2_TAIL = np.float32(math.log(2) - 355 / 512)
TAYLOR = tuple(np.float32(1 / math.factorial(n)) for n in range(8))
contracted = partial(compiled, contract=True)
HALF, ONE = np.float32(0.5), np.float32(1)


@contracted
def splat(
    planes: Floats,
    stride: int,
    corners: Integers,
    weights: Floats,
    more: Integers,
    more_weights: Floats,
    shift: int,
    table: Floats,
    first: int,
    last: int,
    lanes: Lanes,
) -> None:  # pragma: no cover - compiled
    """Adds each pixel's weighted beliefs to some of its corners; no corner stands in more than one column.

    Args:
        planes: (lanes * stride,).
        stride: Length of a plane, at least N, a multiple of the lanes.
        corners: (N, C) numbers of one lattice.
        weights: (N, C).
        more: (N, D) numbers of another lattice.
        more_weights: (N, D).
        shift: Where the other lattice starts in the table.
        table: (M * lanes,) sums; changed.
        first: First column, of C + D.
        last: Column after the last.
        lanes: As many zeros as the table has labels.
    """
    size, own = len(lanes), corners.shape[1]
    rows = np.empty(size * size, np.float32)
    for begin in range(0, len(corners), size):
        transpose(planes, begin, stride, rows, 0, size, lanes)
        for pixel in range(begin, min(begin + size, len(corners))):
            row = load(rows, (pixel - begin) * size, lanes)
            for c in range(first, min(own, last)):
                place = np.int64(corners[pixel, c]) * size
                store(add_weighted(load(table, place, lanes), weights[pixel, c], row), table, place)
            for c in range(max(first - own, 0), last - own):
                place = (more[pixel, c] + shift) * size
                store(add_weighted(load(table, place, lanes), more_weights[pixel, c], row), table, place)


@contracted
def blur(table: Floats, chains: Integers, part: int, parts: int, lanes: Lanes) -> None:  # pragma: no cover - compiled
    """The filter [1/2, 1, 1/2] along chains, in place.

    Neighbours beyond the ends of a chain get weight 0: chains are short, and a branch would often be guessed wrong. For
    the same reason, an entry e becomes a place as e ^ (e >> 63), which is e, or ~e where e is negative.

    Args:
        table: (M * lanes,); changed.
        chains: Numbers of neighbouring corners, the last of each chain inverted (~).
        part: Which chains: those that start in one part of the array ...
        parts: ... when it is cut into so many.
        lanes: As many zeros as the table has labels.
    """
    size = len(lanes)
    begin, end = part * len(chains) // parts, (part + 1) * len(chains) // parts
    while 0 < begin < len(chains) and chains[begin - 1] >= 0:
        begin += 1
    while 0 < end < len(chains) and chains[end - 1] >= 0:
        end += 1
    if begin == end:
        return
    before, weight_before, entry = zeros(lanes), np.float32(0), np.int64(chains[begin])
    own = load(table, (entry ^ (entry >> 63)) * size, lanes)
    for i in range(begin, end):
        place, weight_after = (entry ^ (entry >> 63)) * size, HALF if entry >= 0 else np.float32(0)
        entry = np.int64(chains[min(i + 1, end - 1)])
        after = load(table, (entry ^ (entry >> 63)) * size, lanes)
        blurred = add_weighted(add_weighted(own, weight_before, before), weight_after, after)
        store(blurred, table, place)
        before, own, weight_before = own, after, weight_after


@contracted
def collect(
    table: Floats,
    corners: Integers,
    weights: Floats,
    more: Integers,
    more_weights: Floats,
    shift: int,
    planes: Floats,
    stride: int,
    first: int,
    last: int,
    lanes: Lanes,
) -> None:  # pragma: no cover - compiled
    """Slices: the weighted sum of each pixel's corners, for some of the pixels.

    Args:
        table: (M * lanes,).
        corners: As for ``splat``.
        weights: As for ``splat``.
        more: As for ``splat``.
        more_weights: As for ``splat``.
        shift: As for ``splat``.
        planes: (lanes * stride,); written.
        stride: Length of a plane, at least N, a multiple of the lanes.
        first: First pixel, a multiple of the lanes.
        last: Pixel after the last.
        lanes: As many zeros as the table has labels.
    """
    size = len(lanes)
    rows = np.zeros(size * size, np.float32)
    for begin in range(first, last, size):
        for pixel in range(begin, min(begin + size, last)):
            row = zeros(lanes)
            for c in range(corners.shape[1]):
                place = np.int64(corners[pixel, c]) * size
                row = add_weighted(row, weights[pixel, c], load(table, place, lanes))
            for c in range(more.shape[1]):
                row = add_weighted(row, more_weights[pixel, c], load(table, (more[pixel, c] + shift) * size, lanes))
            store(row, rows, (pixel - begin) * size)
        transpose(rows, 0, size, planes, begin, stride, lanes)


@contracted
def update(
    planes: Floats,
    prior: Floats,
    least: np.float32,
    energies: bool,
    copies: Floats,
    labels: Integers,
    first: int,
    last: int,
) -> int:  # pragma: no cover - compiled
    """Beliefs from what the pixels have heard: softmax of messages and prior.

    Args:
        planes: (L or more, stride) messages, become beliefs.
        prior: (L, N) probabilities, or energies.
        least: Smaller probabilities count as this, larger ones than 1 as 1.
        energies: Whether the prior is energies.
        copies: (L,) how many labels each one stands for.
        labels: (N,) best labels so far, changed; or empty.
        first: First pixel, a multiple of ``STRIP``.
        last: Pixel after the last.

    Returns:
        How many pixels have changed their label.
    """
    most, total, powers = np.empty(STRIP, np.float32), np.empty(STRIP, np.float32), np.empty(STRIP, np.int32)
    scale, changed = powers.view(np.float32), 0
    for begin in range(first, last, STRIP):
        size = min(STRIP, prior.shape[1] - begin)
        most[:], total[:] = -np.inf, 0
        for label in range(len(prior)):
            row = planes[label, begin : begin + size]
            if energies:
                given = prior[label, begin : begin + size]
                for p in range(size):
                    row[p] -= given[p]
            for p in range(size):
                most[p] = row[p] if row[p] > most[p] else most[p]
        for label in range(len(prior)):
            row = planes[label, begin : begin + size]
            _exponentials(row, most, powers)
            if not energies:
                given = prior[label, begin : begin + size]
                for p in range(size):
                    probability = given[p] if given[p] > least else least
                    row[p] *= probability if probability < ONE else ONE
            copy = copies[label]
            for p in range(size):
                row[p] *= scale[p]
                total[p] += row[p] * copy
        for p in range(size):
            total[p] = 1 / total[p]
        for label in range(len(prior)):
            row = planes[label, begin : begin + size]
            for p in range(size):
                row[p] *= total[p]
        if len(labels):
            changed += _relabel(planes[: len(prior)], begin, labels[begin : begin + size], most, powers)
    return changed


@contracted
def _exponentials(row: Floats, most: Floats, powers: Integers) -> None:  # pragma: no cover - compiled
    """Exp(x - most), which is at most 1, as a factor given by its Taylor series and the bits of a power of two."""
    t = TAYLOR
    for p in range(len(row)):
        below = row[p] - most[p]
        below = below if below > LEAST_EXPONENT else LEAST_EXPONENT
        k = np.rint(below * PER_LOG2)
        r = below - k * LOG2_HEAD - k * LOG2_TAIL
        row[p] = t[0] + r * (t[1] + r * (t[2] + r * (t[3] + r * (t[4] + r * (t[5] + r * (t[6] + r * t[7]))))))
        powers[p] = (np.int32(k) + np.int32(127)) << np.int32(23)


@contracted
def _relabel(
    planes: Floats, begin: int, labels: Integers, most: Floats, best: Integers
) -> int:  # pragma: no cover - compiled
    """Sets labels to the best ones, and counts those that change."""
    most[:], best[:], changed = -1, 0, 0
    for label in range(len(planes)):
        row, this = planes[label, begin : begin + len(labels)], np.int32(label)
        for p in range(len(labels)):
            before, highest = best[p], most[p]
            best[p] = this if row[p] > highest else before
            most[p] = row[p] if row[p] > highest else highest
    for p in range(len(labels)):
        changed += best[p] != labels[p]
        labels[p] = best[p]
    return changed
