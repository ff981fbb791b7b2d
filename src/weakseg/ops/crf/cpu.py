"""The dense CRF on a CPU, by compiled loops.

Both kernels go through one lattice: a pixel has the corners of one and of the other side by side, and an update is one
splat, one blur and one slice of both (see ``lattice``). The weights, a pixel's barycentric coordinates, hold everything
that a kernel's value is multiplied with: the square root of its compatibility and the normalisation. Beliefs go through
the table of corners 4 or 8 labels at a time, which keeps the table small.

Threads take labels each, as far as there are enough, or else rows, columns, chains or pixels whose results do not
depend on each other: any number of threads gives the same bits.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from weakseg.ops.crf.corners import EMPTY, arrange, enclose, look_ahead, move, number, scale, walk
from weakseg.ops.crf.kernels import STRIP, blur, collect, splat, update
from weakseg.ops.crf.parameters import CRFParameters

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
Keys = NDArray[np.int64]
Result = TypeVar("Result")

KEYS = 2**62
"""How many keys there are for the corners of one kernel."""

MARGIN = 3
"""Keys leave room for the neighbours of corners, and for rounding."""

KEPT_PIXELS = 2**19
"""Size of the largest image whose lattice of position is kept, in about 18 MB."""

LINE = 16
"""Floats in a cache line."""

LEAST_MASS = np.float32(1e-20)
PIXELS_A_THREAD = 2**14
"""Smaller pieces of an image cost more to hand out than they save."""


class Threads:
    """Runs pieces of work side by side.

    Args:
        count: How many at a time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count - 1) if count > 1 else None

    def each(self, work: Callable[..., Result], pieces: Sequence[tuple[Any, ...]]) -> list[Result]:
        """The results of the work on each piece, in the order of the pieces; the caller works, too."""
        if self._pool is None or len(pieces) < 2:
            return [work(*piece) for piece in pieces]
        others = [self._pool.submit(work, *piece) for piece in pieces[1:]]
        return [work(*pieces[0]), *(other.result() for other in others)]

    def spans(self, length: int, unit: int = 1) -> list[tuple[int, int]]:
        """Cuts 0 to ``length`` into a span for each thread, at multiples of the unit."""
        units = -(-length // unit)
        cuts = [min(length, unit * (units * i // self.count)) for i in range(self.count + 1)]
        return [(first, last) for first, last in itertools.pairwise(cuts) if first < last]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@dataclass(frozen=True)
class Lattice:
    """Corners around N pixels, C for each.

    Attributes:
        corners: (N, C) int32 numbers in [0, count).
        weights: (N, C) float32.
        chains: For each axis, the numbers of corners that are neighbours along it, one chain after the other, the last
            of a chain inverted (~).
        count: How many corners there are.
    """

    corners: Integers
    weights: Floats
    chains: list[Integers]
    count: int

    @classmethod
    def empty(cls, pixels: int) -> "Lattice":
        """Without corners."""
        return cls(np.empty((pixels, 0), np.int32), np.empty((pixels, 0), np.float32), [], 0)


@dataclass(frozen=True)
class Lattices:
    """Two lattices around the same pixels, in one table; either may be empty."""

    one: Lattice
    other: Lattice

    @property
    def count(self) -> int:
        """How many corners there are."""
        return self.one.count + self.other.count

    def message(self, planes: Floats, table: Floats, threads: Threads) -> None:
        """Replaces (4 or 8, stride) beliefs by what the pixels hear.

        Args:
            planes: The beliefs; the stride is a multiple of the number of labels.
            table: Room for (count * 4 or 8,) sums.
            threads: Who works.
        """
        one, other, lanes = self.one, self.other, (0,) * len(planes)
        pixels = (one.corners, one.weights, other.corners, other.weights, one.count)
        beliefs, sums = (planes.reshape(-1), planes.shape[1]), table[: self.count * len(planes)]
        sums.fill(0)
        columns = threads.spans(one.corners.shape[1] + other.corners.shape[1])
        threads.each(splat, [(*beliefs, *pixels, sums, *span, lanes) for span in columns])
        for lattice, start in ((one, 0), (other, one.count)):
            for chains in lattice.chains:
                own, parts = sums[start * len(planes) :], max(1, min(threads.count, chains.size // PIXELS_A_THREAD))
                threads.each(blur, [(own, chains, part, parts, lanes) for part in range(parts)])
        spans = threads.spans(len(one.corners), STRIP)
        threads.each(collect, [(sums, *pixels, *beliefs, *span, lanes) for span in spans])


def infer(
    image: NDArray[np.uint8],
    prior: Floats,
    copies: Floats,
    params: CRFParameters,
    *,
    energies: bool = False,
    least: float = 0.0,
    stop: float | None = None,
    threads: int = 1,
) -> Floats:
    """Beliefs after some updates of all pixels together.

    Args:
        image: (H, W, 3).
        prior: (L, H * W) probabilities, which need not sum to one, or energies.
        copies: (L,) how many labels of the same prior each one stands for.
        params: Kernels and number of updates.
        energies: Whether the prior is energies.
        least: Smaller probabilities count as this.
        stop: Ends the updates once at most this share of the pixels changes its label; ``None`` for never.
        threads: How many may work.

    Returns:
        (L, H * W), sums to one over L if each is counted as often as it stands for labels.
    """
    labels, pixels = prior.shape
    lanes = [8] * (labels // 8) + [4 if labels % 8 <= 4 else 8] * (labels % 8 > 0)
    with Threads(max(1, min(threads, pixels // PIXELS_A_THREAD))) as crew:
        lattices = lattices_of(image, params, crew)
        planes = zero_planes(sum(lanes), pixels)
        blocks = np.split(planes, np.cumsum(lanes[:-1]))
        tables = [aligned(lattices.count * max(lanes)) for _ in range(min(crew.count, len(blocks)))]
        best = np.zeros(0 if stop is None else pixels, np.int32)

        def hear(worker: int) -> None:
            for block in blocks[worker :: len(tables)]:
                lattices.message(block, tables[worker], crew if len(tables) == 1 else Threads(1))

        def believe() -> int:
            given = (planes, prior, np.float32(least), energies, copies, best)
            return sum(crew.each(update, [(*given, *span) for span in crew.spans(pixels, STRIP)]))

        believe()
        for _ in range(params.iterations):
            crew.each(hear, [(worker,) for worker in range(len(tables))])
            changed = believe()
            if stop is not None and changed <= stop * pixels:
                break
    # Beliefs move to the front of the memory they are in: a copy would be the peak of memory.
    beliefs = planes.reshape(-1)[: labels * pixels].reshape(labels, pixels)
    for label in range(1, labels):
        beliefs[label] = planes[label, :pixels]
    return beliefs


def zero_planes(count: int, pixels: int) -> Floats:
    """(count, stride) zeros for N pixels.

    The stride is an odd number of cache lines: the same pixel of 2^k planes would fall on one place of the cache if it
    were a power of two.
    """
    lines = -(-pixels // LINE) | 1
    return np.zeros((count, lines * LINE), np.float32)


def aligned(size: int) -> Floats:
    """(size,) from the start of a cache line, so that no row of 4, 8 or 16 lies across two."""
    room = np.empty(size + LINE, np.float32)
    start = -(room.ctypes.data // room.itemsize) % LINE
    return room[start : start + size]


def lattices_of(image: NDArray[np.uint8], params: CRFParameters, threads: Threads) -> Lattices:
    """The lattices of the kernels that have a weight: of position and colour, and of position."""
    height, width = image.shape[:2]
    colour = position = Lattice.empty(height * width)
    if params.iterations and params.bilateral_compat:
        widths = (params.bilateral_sxy,) * 2 + (params.bilateral_srgb,) * 3
        colour = build(image, widths, params.bilateral_compat, threads)
    if params.iterations and params.gaussian_compat:
        make = position_lattice if height * width <= KEPT_PIXELS else position_lattice.__wrapped__
        position = make(height, width, params.gaussian_sxy, params.gaussian_compat)
    return Lattices(colour, position)


@lru_cache(maxsize=4)
def position_lattice(height: int, width: int, sxy: float, compat: float) -> Lattice:
    """The lattice of position alone, which images of one size share; the last few are kept."""
    return build(np.empty((height, width, 0), np.uint8), (sxy, sxy), compat, Threads(1))


def build(image: NDArray[np.uint8], widths: tuple[float, ...], compat: float, threads: Threads) -> Lattice:
    """The lattice of a kernel, with weights that normalise it.

    Args:
        image: (H, W, 3); only its size matters to a kernel of position.
        widths: Of x and y, or of x, y and the three colours.
        compat: The kernel's weight.
        threads: Who works.
    """
    (height, width), size = image.shape[:2], len(widths) + 1
    pixels = height * width
    lowest, places = key_places(height, width, widths)
    corners, weights = np.empty((pixels, size), np.int32), np.empty((pixels, size), np.float32)
    keys = np.empty((size, pixels), np.int64)
    given = (image, np.array(widths, np.float32), lowest, places, keys, weights)
    threads.each(enclose, [(*given, *span) for span in threads.spans(height)])
    tables = threads.each(Table.of, [(of_remainder,) for of_remainder in keys])
    *firsts, count = itertools.accumulate((table.count for table in tables), initial=0)
    arrange(keys, np.array(firsts, np.int32), corners)
    del keys
    for table, first in zip(tables, firsts, strict=True):
        table.numbers += np.int32(first)
    found, steps = [table.corners() for table in tables], [*places.tolist(), 0]
    work = [(step, sum(steps), count, tables, found) for step in steps]
    lattice = Lattice(corners, weights, threads.each(chains_along, work), count)
    del tables, found, work

    planes = zero_planes(4, pixels)
    planes += 1
    Lattices(lattice, Lattice.empty(pixels)).message(planes, aligned(count * 4), threads)
    scale(weights, np.float32(compat) / (planes[0, :pixels] + LEAST_MASS))
    return lattice


def key_places(height: int, width: int, widths: tuple[float, ...]) -> tuple[Integers, Keys]:
    """Least coordinates b of the corners, and place values that make a key of them (see ``corners.enclose``).

    Raises:
        OverflowError: If there are not enough keys.
    """
    largest = [width - 1, height - 1, 255, 255, 255][: len(widths)]
    features = [top / each for top, each in zip(largest, widths, strict=True)]
    scaled = [feature * math.sqrt(2 / 3 / (i * (i + 1))) for i, feature in enumerate(features, 1)]
    lowest = [math.floor(-i * before) - MARGIN for i, before in enumerate([0.0, *scaled[:-1]])]
    highest = [math.ceil(sum(scaled[i:])) + MARGIN for i in range(len(widths))]
    ranges = [high - low + 1 for low, high in zip(lowest, highest, strict=True)]
    if math.prod(ranges) > KEYS:
        raise OverflowError(f"kernels of widths {widths} have too many corners")
    places = [math.prod(ranges[i + 1 :]) for i in range(len(ranges))]
    return np.array(lowest, np.int32), np.array(places, np.int64)


class Table:
    """A hash table of the corners of one remainder.

    Args:
        logarithm: Of the number of slots.

    Attributes:
        slots: Keys, or ``EMPTY``.
        numbers: Number of the corner in each slot.
        shift: 64 less the logarithm.
        count: How many corners there are.
    """

    def __init__(self, logarithm: int) -> None:
        self.slots, self.numbers = np.full(2**logarithm, EMPTY, np.int64), np.empty(2**logarithm, np.int32)
        self.shift, self.count = 64 - logarithm, 0

    @classmethod
    def of(cls, keys: Keys) -> "Table":
        """A table of the corners with these keys; replaces the keys by the corners' numbers."""
        table, done = cls(12), 0
        while done < len(keys):
            done, table.count = number(keys, table.slots, table.numbers, table.shift, done, table.count)
            if done < len(keys):
                table = table.enlarged()
        return table

    def enlarged(self) -> "Table":
        """Twice as large."""
        larger = Table(65 - self.shift)
        move(self.slots, self.numbers, larger.slots, larger.numbers, larger.shift)
        larger.count = self.count
        return larger

    def corners(self) -> tuple[Keys, Integers]:
        """Keys and numbers, in the order of the slots."""
        taken = np.flatnonzero(self.slots != EMPTY)
        return self.slots[taken], self.numbers[taken]


def chains_along(
    step: int, turn: int, count: int, tables: list[Table], corners: list[tuple[Keys, Integers]]
) -> Integers:
    """Chains of neighbours along one axis. The neighbour of a corner of remainder c has remainder c - 1.

    Args:
        step: What keys differ by.
        turn: What they differ by less, from remainder 0 to the last.
        count: How many corners there are.
        tables: Corners by remainder.
        corners: Their keys and numbers.
    """
    ahead = np.empty(count, np.int32)
    for c, (keys, numbers) in enumerate(corners):
        other = tables[c - 1]
        look_ahead(keys + (step if c else step - turn), numbers, other.slots, other.numbers, other.shift, ahead)
    return walk(ahead)
