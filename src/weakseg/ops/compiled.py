"""Compiled loops; imported on first use, because numba takes a second to import."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function, *, contract: bool = False) -> Function:
    """A function as machine code that threads run side by side; kept on disk where there is a place for it.

    Args:
        function: Arrays and numbers in, numbers or nothing out.
        contract: Whether a product and a sum may become one instruction, which rounds once. The order of sums stays.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"} if contract else False}
    try:
        kept: Function = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written
        kept = njit(**options)(function)
    return kept
