"""Refining many images at once: one process a core, or one a GPU that takes several images at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from weakseg.data.images import read_image, write_mask
from weakseg.data.maps import LocalizationMaps, write_scores
from weakseg.data.saliency.quality import read_usable
from weakseg.pipeline.device import Device
from weakseg.pipeline.processes import CONTEXT, in_processes, one_thread
from weakseg.pipeline.steps import Weighted
from weakseg.refine.masks import pseudo_mask
from weakseg.refine.refiner import Chain, Refiner, TrainedRefiner

Wanted = Literal["masks", "instances", "targets"]
GPU_BATCH = 8


@dataclass(frozen=True)
class Job:
    """One image: where it is, where its maps are, where the result goes, and where its saliency is, if it is needed."""

    image: Path
    maps: Path
    result: Path
    saliency: Path | None = None


@dataclass(frozen=True)
class Refining:
    """What is to be done with every image.

    Attributes:
        steps: Refiners, with the weights of those that were trained.
        wanted: ``"masks"`` after all steps; ``"instances"``, of the step that tells objects apart; or ``"targets"``,
            what the last step is to learn from.
        classes: Names of the object classes.
    """

    steps: tuple[Weighted, ...]
    wanted: Wanted
    classes: tuple[str, ...]


def refine_all(jobs: Sequence[Job], refining: Refining, *, workers: int, device: Device) -> Iterator[int]:
    """Do every job; on a CPU the result does not depend on the number of processes.

    Args:
        jobs: Images, and files that do not exist yet.
        refining: What to do with them.
        workers: Processes on a CPU; on GPUs there is one for each.
        device: Where to compute.

    Yields:
        The number of images finished since the last time.

    Raises:
        UserError: If weights or an image cannot be read, the disk is full, or a process dies.
    """
    size = GPU_BATCH if device.kind != "cpu" else 1
    groups = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    targets = [torch.device("cpu")] * workers if device.kind == "cpu" else device.targets
    if len(targets) < 2 or len(groups) < 2 * len(targets):
        worker = Worker(refining, targets[0])
        for group in groups:
            with one_thread():
                worker(group)
            yield len(group)
        return
    queue = CONTEXT.Queue()
    for target in targets:
        queue.put(target)
    yield from in_processes(
        _work,
        groups,
        processes=len(targets),
        start=_start,
        given=(refining, queue),
        what="a refining process",
        remedy="Run again, with --set run.workers=1 if it recurs",
    )


class Worker:
    """Refiners on one device.

    Args:
        refining: What to do.
        device: Where to compute.
    """

    def __init__(self, refining: Refining, device: torch.device) -> None:
        self.device, self.classes = device, refining.classes
        self.steps = [(step.name, _placed(step.ready(weights), device)) for step, weights in refining.steps]
        self._do: Callable[[list[Tensor], list[LocalizationMaps], Sequence[Path]], None] = {
            "masks": self._masks,
            "instances": self._instances,
            "targets": self._targets,
        }[refining.wanted]

    @torch.no_grad()
    def __call__(self, jobs: Sequence[Job]) -> int:
        """Do some jobs; returns their number."""
        images = [read_image(job.image).to(self.device) for job in jobs]
        maps = [_maps(job).to(self.device) for job in jobs]
        self._do(images, maps, [job.result for job in jobs])
        return len(jobs)

    def _masks(self, images: list[Tensor], maps: list[LocalizationMaps], results: Sequence[Path]) -> None:
        for refined, result in zip(Chain(self.steps).refine_batch(images, maps), results, strict=True):
            write_mask(result, pseudo_mask(refined).cpu())

    def _instances(self, images: list[Tensor], maps: list[LocalizationMaps], results: Sequence[Path]) -> None:
        chain = Chain(self.steps)
        for image, its_maps, result in zip(images, maps, results, strict=True):
            found = chain.instances(image, its_maps)
            assert found is not None
            found.save(result, self.classes)

    def _targets(self, images: list[Tensor], maps: list[LocalizationMaps], results: Sequence[Path]) -> None:
        *before, (_, learner) = self.steps
        assert isinstance(learner, TrainedRefiner)
        for _, step in before:
            maps = step.refine_batch(images, maps)
        for image, its_maps, result in zip(images, maps, results, strict=True):
            target = learner.targets(image, its_maps).cpu()
            write_mask(result, target) if learner.target == "mask" else write_scores(result, target)


def _maps(job: Job) -> LocalizationMaps:
    maps = LocalizationMaps.load(job.maps)
    if job.saliency is None:
        return maps
    saliency = read_usable(job.saliency, maps.size)
    return maps if saliency is None else replace(maps, saliency=saliency[0])


def _placed(refiner: Refiner, device: torch.device) -> Refiner:
    if isinstance(refiner, nn.Module):
        refiner.to(device).eval()
    return refiner


_refining: Refining
_device: torch.device


def _start(refining: Refining, devices: "Queue[torch.device]") -> None:
    global _refining, _device
    os.environ["NUMBA_NUM_THREADS"] = "1"  # read when numba is imported, which only some refiners do
    torch.set_num_threads(1)
    _refining, _device = refining, devices.get()


@cache
def _worker() -> Worker:
    """Of this process, made for its first job: what is raised before that, the pool only reports as a death."""
    return Worker(_refining, _device)


def _work(jobs: Sequence[Job]) -> int:
    return _worker()(jobs)
