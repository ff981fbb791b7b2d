"""The loops of ``diffusion`` for a CPU, compiled; imported on first use, because numba takes a second to import."""

from threading import Lock

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHUNK = 1024
"""Pixels that a thread takes at a time: sums, one plane of weights and one of values fit into the fastest cache."""

SHARE = 2**22
"""Multiplications in a step that are worth a thread of their own; threads wait for each other after every step."""

NEGLIGIBLE = np.float32(1e-18)
"""Smaller values count as 0: products of two others stay above 1e-38, below which float32 is slow and imprecise."""

# Where there is no OpenMP, numba's own threads end the process if two threads of Python use them at once.
one_at_a_time = Lock()


def repeat_steps(
    planes: Floats, weights: Floats, offsets: NDArray[np.int64], border: tuple[int, int], steps: int, threads: int
) -> Floats:
    """The steps of ``diffuse`` on one image; the same to the bit for any number of threads.

    Args:
        planes: (C, H + 2 ry, W + 2 rx), maps in a border that repeats their outermost values; overwritten.
        weights: (K, H, W + 2 rx), for the maps' pixels first, then 2 rx columns of 0.
        offsets: (K, 2) (dy, dx), at most (ry, rx) in size.
        border: (ry, rx).
        steps: How often.
        threads: How many may work.

    Returns:
        (C, H + 2 ry, W + 2 rx), maps and border.
    """
    shifts = offsets[:, 0] * planes.shape[2] + offsets[:, 1]
    worth = 1 + len(planes) * weights.size // SHARE
    with one_at_a_time:
        before = get_num_threads()
        set_num_threads(min(threads, worth, before))
        try:
            return _repeat(planes, np.empty_like(planes), weights.reshape(len(weights), -1), shifts, *border, steps)
        finally:
            set_num_threads(before)


@njit(parallel=True, cache=True)
def _repeat(
    here: Floats, there: Floats, weights: Floats, shifts: NDArray[np.int64], ry: int, rx: int, steps: int
) -> Floats:  # pragma: no cover - compiled
    maps, rows, pitch = here.shape
    first = ry * pitch + rx
    pixels = (rows - 2 * ry) * pitch - 2 * rx
    chunks = (pixels + CHUNK - 1) // CHUNK
    for _ in range(steps):
        for chunk in prange(chunks):
            start, stop = chunk * CHUNK, min(pixels, (chunk + 1) * CHUNK)
            for c in range(maps):
                _step(here[c].reshape(-1), there[c].reshape(-1), weights, shifts, first, start, stop)
        for c in prange(maps):
            _repeat_border(there[c], ry, rx)
        here, there = there, here
    return here


# Contracting a product and a sum into one instruction leaves the order of a pixel's sum as it is written.
@njit(fastmath={"contract"}, cache=True)
def _step(
    old: Floats, new: Floats, weights: Floats, shifts: NDArray[np.int64], first: int, start: int, stop: int
) -> None:  # pragma: no cover - compiled
    """One stretch of pixels that lie behind each other in memory, border between the rows included."""
    size = stop - start
    own, change = old[first + start : first + stop], new[first + start : first + stop]
    change[:] = 0
    for k in range(len(shifts)):
        begin = first + start + shifts[k]
        neighbour, weight = old[begin : begin + size], weights[k, start:stop]
        for i in range(size):
            change[i] += weight[i] * (neighbour[i] - own[i])
    for i in range(size):
        value = own[i] + change[i]
        change[i] = np.float32(0) if abs(value) < NEGLIGIBLE else value


@njit(cache=True)
def _repeat_border(plane: Floats, ry: int, rx: int) -> None:  # pragma: no cover - compiled
    """The outermost values of a map into the border around it."""
    rows, columns = plane.shape
    for y in range(ry, rows - ry):
        plane[y, :rx] = plane[y, rx]
        plane[y, columns - rx :] = plane[y, columns - rx - 1]
    for y in range(ry):
        plane[y] = plane[ry]
        plane[rows - 1 - y] = plane[rows - 1 - ry]
