"""The loops of ``diffusion`` for a CPU, compiled; imported on first use, because numba takes a second to import."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weakseg.ops.compiled import compiled

Float = np.float32 | np.float64
Floats = NDArray[np.float32] | NDArray[np.float64]
Integers = NDArray[np.int64]

STRETCH = 1024
"""Pixels that are updated together: their sums, one plane of weights and one of values fit into the fastest cache."""

SHARE = 2**22
"""Multiplications in a step that are worth a thread of their own; threads wait for each other after every step."""


def negligible(precision: np.dtype[Any]) -> Float:
    """Smaller values count as 0, so that products of two stay where floats of this precision are fast and exact.

    float32 is neither below 1e-38, float64 below 2e-308.
    """
    return np.float64(1e-153) if precision == np.float64 else np.float32(1e-18)


def repeat_steps(
    planes: Floats, weights: Floats, offsets: Integers, border: tuple[int, int], steps: int, threads: int
) -> Floats:
    """The steps of ``diffuse`` on one image; the same to the bit for any number of threads.

    Args:
        planes: (C, H + 2 ry, W + 2 rx), maps in a border that repeats their outermost values; overwritten.
        weights: (K, H, W + 2 rx) of the same precision, for the maps' pixels first, then 2 rx columns of 0.
        offsets: (K, 2) (dy, dx), at most (ry, rx) in size.
        border: (ry, rx).
        steps: How often.
        threads: How many may work.

    Returns:
        (C, H + 2 ry, W + 2 rx), maps and border.
    """
    here, there = planes, np.empty_like(planes)
    shifts = offsets[:, 0] * planes.shape[2] + offsets[:, 1]
    flat = weights.reshape(len(weights), -1)
    workers = min(threads, 1 + len(planes) * weights.size // SHARE)
    stretches, maps = _shares(-(-flat.shape[1] // STRETCH), workers), _shares(len(planes), workers)
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(steps):
            _side_by_side(pool, _step, (here, there, flat, shifts, *border, negligible(planes.dtype)), stretches)
            _side_by_side(pool, _repeat_border, (there, *border), maps)
            here, there = there, here
    return here


def _shares(count: int, workers: int) -> list[tuple[int, int]]:
    """0 to ``count`` in as many parts, first and last + 1 of each."""
    return [part for part in pairwise(count * i // workers for i in range(workers + 1)) if part[0] < part[1]]


def _side_by_side(
    pool: ThreadPoolExecutor, work: Callable[..., None], given: tuple[Any, ...], shares: list[tuple[int, int]]
) -> None:
    """Does each share of the work, and waits for all."""
    if len(shares) == 1:
        work(*given, *shares[0])
        return
    for done in [pool.submit(work, *given, *share) for share in shares]:
        done.result()


@compiled
def _step(
    old: Floats, new: Floats, weights: Floats, shifts: Integers, ry: int, rx: int, least: Float, first: int, last: int
) -> None:  # pragma: no cover - compiled
    """Some stretches of pixels that lie behind each other in memory, border between the rows included."""
    maps, rows, pitch = old.shape
    corner, nothing = ry * pitch + rx, old.dtype.type(0)
    pixels = (rows - 2 * ry) * pitch - 2 * rx
    for start in range(first * STRETCH, min(last * STRETCH, pixels), STRETCH):
        size = min(STRETCH, pixels - start)
        for c in range(maps):
            values, place = old[c].reshape(-1), corner + start
            own, change = values[place : place + size], new[c].reshape(-1)[place : place + size]
            change[:] = 0
            for k in range(len(shifts)):
                neighbour = values[place + shifts[k] : place + shifts[k] + size]
                weight = weights[k, start : start + size]
                for i in range(size):
                    change[i] += weight[i] * (neighbour[i] - own[i])
            for i in range(size):
                value = own[i] + change[i]
                change[i] = nothing if abs(value) < least else value


@compiled
def _repeat_border(planes: Floats, ry: int, rx: int, first: int, last: int) -> None:  # pragma: no cover - compiled
    """The outermost values of some maps into the border around them."""
    for plane in planes[first:last]:
        rows, columns = plane.shape
        for y in range(ry, rows - ry):
            plane[y, :rx] = plane[y, rx]
            plane[y, columns - rx :] = plane[y, columns - rx - 1]
        for y in range(ry):
            plane[y] = plane[ry]
            plane[rows - 1 - y] = plane[rows - 1 - ry]
