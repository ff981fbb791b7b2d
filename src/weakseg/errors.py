"""The one error a user can cause: one line, the file, the remedy."""

from functools import partial
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something in the input or the settings that the user can put right.

    The command line prints it as one line and exits with status 2.

    Args:
        problem: What is wrong, without a final full stop.
        where: The file, folder or setting it is about.
        remedy: What to do about it.
    """

    def __init__(self, problem: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.problem, self.where, self.remedy = problem, where, remedy
        line = f"{where}: {problem}" if where is not None else problem
        super().__init__(" ".join((f"{line}. {remedy}." if remedy else f"{line}.").split()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets the parts, not the line as a problem."""
        return partial(UserError, where=self.where, remedy=self.remedy), (self.problem,)
