"""A small harness: the same work done in two ways, in turn, so that a busy machine slows both."""

import csv
from collections.abc import Callable, Sequence
from ctypes import CDLL
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeVar

from torch import Tensor

Input = TypeVar("Input")
Row = dict[str, object]
Way = Callable[[Input], Tensor]


def compare(
    inputs: Sequence[Input],
    ours: Way[Input],
    reference: Way[Input] | None,
    precise: Callable[[Input], Input] | None = None,
) -> Row:
    """Columns of a table: medians over the inputs, ours and the reference taking turns on each.

    Args:
        inputs: At least one.
        ours: Called once more before, because it may compile.
        reference: The other way; ``None`` if it would take too long.
        precise: An input in float64, on which the reference tells the error of both ways.

    Returns:
        Seconds; how many times faster ours is on the same input; the largest difference between the two, and of each
        from the precise result, over all inputs; the memory in MB that a call takes beyond what is there before, for
        the first input.
    """
    ours(inputs[0])
    row: Row = {"seconds": None, "reference_seconds": None, "ratio": None, "max_difference": None}
    results = [(timed(ours, given), timed(reference, given) if reference else None) for given in inputs]
    row["seconds"] = median(own[0] for own, _ in results)
    pairs = [(own, other) for own, other in results if other is not None]
    if pairs:
        row["reference_seconds"] = median(other[0] for _, other in pairs)
        row["ratio"] = median(other[0] / own[0] for own, other in pairs)
        row["max_difference"] = max(largest(own[1] - other[1]) for own, other in pairs)
    errors: list[tuple[float, float]] = []
    if reference and precise:
        for given, (own, other) in zip(inputs, pairs, strict=True):
            exact = reference(precise(given))  # of one input at a time, for it is large
            errors.append((largest(own[1] - exact), largest(other[1] - exact)))
    for i, (name, way) in enumerate((("", ours), ("reference_", reference))):
        row[f"{name}error"] = max((error[i] for error in errors), default=None)
        row[f"{name}peak_mb"] = peak_memory(way, inputs[0]) if way else None
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in row.items()}


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


def timed(work: Way[Input], given: Input) -> tuple[float, Tensor]:
    """Seconds of a wall clock, and the result."""
    start = perf_counter()
    result = work(given)
    return perf_counter() - start, result


def peak_memory(work: Way[Input], given: Input) -> float | None:
    """MB that a call takes beyond what is there before; ``None`` where Linux does not tell."""
    try:
        CDLL(None).malloc_trim(0)  # or memory that was used before would not count
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest memory so far
        before = _resident("VmRSS")
        work(given)
        return (_resident("VmHWM") - before) / 1000
    except (OSError, AttributeError):
        return None


def _resident(field: str) -> int:
    """Kilobytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Rows of the same columns as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> list[Row]:
    """The rows that ``write_table`` wrote, as text; none where there is no table yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
