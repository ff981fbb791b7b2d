"""Work that is shared out among processes, and what makes its results the same as those of one."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from weakseg.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

CONTEXT = multiprocessing.get_context("spawn")
"""Of all processes and what they share: forking after a GPU or threads have been used is not safe."""


def in_processes(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    processes: int,
    start: Callable[..., None],
    given: tuple[Any, ...],
    what: str,
    remedy: str,
) -> Iterator[Result]:
    """Do jobs in several processes.

    Args:
        work: Does one; a function of a module, as ``start`` is. What it raises is raised here.
        jobs: What to do.
        processes: How many.
        start: Called in each process first; what it raises is only seen as a death.
        given: Its arguments.
        what: The process in words, for the message if one dies.
        remedy: What to do about it.

    Yields:
        The results as they come.

    Raises:
        UserError: If a process dies.
    """
    with ProcessPoolExecutor(processes, mp_context=CONTEXT, initializer=start, initargs=given) as pool:
        try:
            for done in as_completed([pool.submit(work, job) for job in jobs]):
                yield done.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{what} died; what was finished is kept",
                remedy=f"{remedy} (in a script, guard it with __name__ == '__main__')",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks round differently with more threads, and what one process makes is to equal what several make."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
