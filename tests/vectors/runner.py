"""Reads vector files, runs their cases through the table of adapters, compares.

A case passes if the adapter's output has every key of ``expected`` with the same shape, and every number is within
``tolerance + rtol * |expected|``; booleans, strings and ``null`` (or NaN) have to be equal.
"""

import json
import math
import numbers
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.vectors.adapters import find_adapter


class UnreadableFile(Exception):
    """A file that is not there, not JSON, or not a list of cases."""


@dataclass(frozen=True)
class Case:
    """One case; ``stem`` is the name of its file without the suffix, ``index`` its place in it."""

    stem: str
    index: int
    function: str
    inputs: dict
    parameters: dict
    expected: object
    tolerance: float
    rtol: float
    id: str

    @property
    def name(self):
        return f"{self.index} {self.function}" + (f" {self.id}" if self.id else "")


@dataclass(frozen=True)
class Outcome:
    """``status`` is passed, failed or missing; ``deviation`` the largest difference of a number."""

    case: Case
    status: str
    deviation: float = 0.0
    details: tuple[str, ...] = ()


def read_cases(path):
    """Cases of a file, in order.

    Raises:
        UnreadableFile: See the class.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = content["cases"] if isinstance(content, dict) else content
        return [_case(path.stem, index, case) for index, case in enumerate(cases)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableFile(f"{path}: not a file of test cases ({type(error).__name__}: {error})") from error


def _case(stem, index, case):
    return Case(
        stem=stem,
        index=index,
        function=str(case["function"]),
        inputs=dict(case.get("inputs") or {}),
        parameters=dict(case.get("parameters") or {}),
        expected=case["expected"],
        tolerance=float(case.get("tolerance") or 0),
        rtol=float(case.get("rtol") or 0),
        id=str(case.get("id") or ""),
    )


def run_case(case):
    """Outcome of one case; an exception of the adapter is a failure."""
    adapter = find_adapter(case.stem, case.function)
    if adapter is None:
        return Outcome(case, "missing")
    try:
        found = adapter(case.inputs, case.parameters)
    except Exception as error:
        return Outcome(case, "failed", math.inf, (f"{type(error).__name__}: {error}",))
    deviation, details = compare(found, case.expected, case.tolerance, case.rtol)
    return Outcome(case, "failed" if details else "passed", deviation, tuple(details))


def compare(found, expected, tolerance, rtol=0.0):
    """Largest deviation, and what is wrong in words, nothing if the case passes."""
    if isinstance(expected, dict) and not isinstance(found, dict):
        if len(expected) != 1:
            return math.inf, [f"one value, expected {', '.join(expected)}"]
        found = {next(iter(expected)): found}
    elif isinstance(found, dict) and not isinstance(expected, dict):
        if len(found) != 1:
            return math.inf, [f"{', '.join(found)}, expected one value"]
        found = next(iter(found.values()))
    return _compare("", found, expected, tolerance, rtol)


def _compare(where, found, expected, tolerance, rtol):
    if isinstance(expected, dict):
        parts = []
        for key, value in expected.items():
            inner = f"{where}.{key}" if where else key
            if not isinstance(found, dict) or key not in found:
                parts.append((math.inf, [f"{inner}: missing"]))
            else:
                parts.append(_compare(inner, found[key], value, tolerance, rtol))
        return max((part[0] for part in parts), default=0.0), [line for part in parts for line in part[1]]
    if isinstance(expected, bool | str):
        equal = _plain(found) == expected
        return (0.0, []) if equal else (math.inf, [_line(where, f"{_plain(found)!r}, expected {expected!r}")])
    if isinstance(expected, list) and any(isinstance(item, str | dict) for item in expected):
        return _compare_items(where, _plain(found), expected, tolerance, rtol)
    return _compare_numbers(where, found, expected, tolerance, rtol)


def _compare_items(where, found, expected, tolerance, rtol):
    if not isinstance(found, list | tuple) or len(found) != len(expected):
        return math.inf, [_line(where, f"{found!r}, expected {expected!r}")]
    return _compare(where, dict(enumerate(found)), dict(enumerate(expected)), tolerance, rtol)


def _compare_numbers(where, found, expected, tolerance, rtol):
    try:
        got, want = _numbers(found), _numbers(expected)
    except (TypeError, ValueError):
        equal = _plain(found) == expected
        return (0.0, []) if equal else (math.inf, [_line(where, f"{_plain(found)!r}, expected {expected!r}")])
    if got.shape != want.shape:
        return math.inf, [_line(where, f"shape {list(got.shape)}, expected {list(want.shape)}")]
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(got - want))
    difference = np.where(np.isnan(difference), np.inf, difference)
    worst = float(difference.max(initial=0.0))
    with np.errstate(invalid="ignore"):
        wrong = difference > tolerance + rtol * np.abs(np.where(np.isfinite(want), want, 0.0))
    if not wrong.any():
        return worst, []
    at = np.unravel_index(np.argmax(np.where(wrong, difference, -1.0)), got.shape)
    place = f" at {[int(i) for i in at]}" if at else ""
    return worst, [_line(where, f"off by {difference[at]:.3g}{place}: {got[at]:.10g}, expected {want[at]:.10g}")]


def _line(where, text):
    return f"{where}: {text}" if where else text


def _numbers(value):
    """float64 array; ``None`` is NaN, so that "left out" in JSON equals ours."""
    plain = _plain(value)
    if isinstance(plain, str):
        raise TypeError("not a number")
    array = np.array(plain, dtype=object)
    flat = [math.nan if item is None else _number(item) for item in array.ravel()]
    return np.array(flat, dtype=np.float64).reshape(array.shape)


def _number(value):
    if not isinstance(value, numbers.Real):
        raise TypeError("not a number")
    return float(value)


def _plain(value):
    """Tensors and arrays as nested lists and Python scalars."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def summary(path, outcomes):
    """Lines to print for a file."""
    count = {
        status: sum(outcome.status == status for outcome in outcomes) for status in ("passed", "failed", "missing")
    }
    lines = [f"{path}: {count['passed']} passed, {count['failed']} failed, {count['missing']} without adapter"]
    for outcome in outcomes:
        if outcome.status == "failed":
            lines.append(f"  FAILED {outcome.case.name}: max deviation {outcome.deviation:.3g}")
            lines += [f"    {detail}" for detail in outcome.details]
        elif outcome.status == "missing":
            lines.append(f"  NO ADAPTER {outcome.case.name}")
    return "\n".join(lines)
