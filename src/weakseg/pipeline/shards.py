"""Refining many images at once, one process a core."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weakseg.data.images import read_image, write_mask
from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError
from weakseg.pipeline.device import Device
from weakseg.refine.masks import pseudo_mask
from weakseg.refine.refiner import Chain
from weakseg.refine.registry import create_chain

Steps = Sequence[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class MaskJob:
    """One image to refine: where it is, where its maps are, where the mask goes."""

    image: Path
    maps: Path
    mask: Path


def refine_all(jobs: Sequence[MaskJob], steps: Steps, *, workers: int, device: Device) -> Iterator[int]:
    """Refine every job's maps and write its mask; the result does not depend on the number of processes.

    Args:
        jobs: What to do.
        steps: Names and options of the refiners.
        workers: Processes on a CPU; a GPU is used by this process alone.
        device: Where to compute.

    Yields:
        The number of images finished since the last time.

    Raises:
        UserError: If an image cannot be read, the disk is full, or a process dies.
    """
    if device.kind != "cpu" or workers < 2 or len(jobs) < 2 * workers:
        chain = create_chain(steps)
        for job in jobs:
            _refine(job, chain, device.target)
            yield 1
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(steps,)) as pool:
        try:
            futures = [pool.submit(_work, job) for job in jobs]
            for future in as_completed(futures):
                future.result()
                yield 1
        except BrokenProcessPool as error:
            raise UserError(
                "a refining process died; finished masks are kept",
                remedy="Run again, with --set run.workers=1 if it recurs (in a script, guard it with __name__ == "
                "'__main__')",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_chain: Chain


def _start(steps: Steps) -> None:
    global _chain
    torch.set_num_threads(1)
    _chain = create_chain(steps)


def _work(job: MaskJob) -> None:
    _refine(job, _chain, torch.device("cpu"))


def _refine(job: MaskJob, chain: Chain, device: torch.device) -> None:
    maps = chain.refine(read_image(job.image).to(device), LocalizationMaps.load(job.maps).to(device))
    write_mask(job.mask, pseudo_mask(maps).cpu())
