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
from weakseg.data.sample import IGNORE
from weakseg.errors import UserError
from weakseg.ops.box_masks import inside_boxes
from weakseg.pipeline.device import Device
from weakseg.pipeline.processes import CONTEXT, in_processes, one_thread
from weakseg.pipeline.steps import Weighted
from weakseg.refine.masks import pseudo_mask
from weakseg.refine.refiner import Chain, Refiner, TrainedRefiner

Wanted = Literal["masks", "instances", "targets"]
GPU_BATCH = 8


@dataclass(frozen=True)
class Job:
    """One image with what is known about it.

    Attributes:
        image: Its file.
        maps: Of its maps; ``None`` where the first refiner makes them.
        result: What is to be written; where it is there already, the image is done.
        second: Where the other mask goes, if there is to be one.
        saliency: Of its saliency map, if that is needed.
        boxes: (n, 4) and (n,) classes, as for ``LocalizationMaps``, if they are needed.
        unsure: (m, 4) boxes in which nothing is known to be background: masks are 255 there, outside of ``boxes``.
    """

    image: Path
    maps: Path | None
    result: Path
    second: Path | None = None
    saliency: Path | None = None
    boxes: tuple[Tensor, Tensor] | None = None
    unsure: Tensor | None = None


@dataclass(frozen=True)
class Refining:
    """What is to be done with every image.

    Attributes:
        steps: Refiners, with the weights of those that were trained.
        wanted: ``"masks"`` after all steps; ``"instances"``, of the step that tells objects apart; or ``"targets"``,
            what the last step is to learn from.
        classes: Names of the object classes.
        again: Further refiners, which go on from the masks to second ones.
    """

    steps: tuple[Weighted, ...]
    wanted: Wanted
    classes: tuple[str, ...]
    again: tuple[Weighted, ...] = ()


def refine_all(jobs: Sequence[Job], refining: Refining, *, workers: int, device: Device) -> Iterator[int]:
    """Do every job; on a CPU the result does not depend on the number of processes.

    Args:
        jobs: Images, and files that do not exist yet.
        refining: What to do with them.
        workers: Processes on a CPU; on GPUs there is one for each. Without refiners there is one process.
        device: Where to compute.

    Yields:
        The number of images finished since the last time.

    Raises:
        UserError: If weights or an image cannot be read, the disk is full, or a process dies.
    """
    size = GPU_BATCH if device.kind != "cpu" else 1
    groups = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    targets = [torch.device("cpu")] * workers if device.kind == "cpu" else device.targets
    light = not refining.steps and not refining.again
    if light or len(targets) < 2 or len(groups) < 2 * len(targets):
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
        self.steps, self.again = (
            [(step.name, _placed(step.ready(weights), device)) for step, weights in steps]
            for steps in (refining.steps, refining.again)
        )
        self._do: Callable[[list[Tensor], list[LocalizationMaps], Sequence[Job]], None] = {
            "masks": self._masks,
            "instances": self._instances,
            "targets": self._targets,
        }[refining.wanted]

    @torch.no_grad()
    def __call__(self, jobs: Sequence[Job]) -> int:
        """Do some jobs; returns their number."""
        images = [read_image(job.image).to(self.device) for job in jobs]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        maps = [_maps(job, size).to(self.device) for job, size in zip(jobs, sizes, strict=True)]
        try:
            self._do(images, maps, jobs)
        except UserError as error:  # maps do not know whose they are
            if error.where != "refine" or len(jobs) > 1:
                raise
            raise UserError(error.problem, where=jobs[0].image, remedy=error.remedy) from error
        return len(jobs)

    def _masks(self, images: list[Tensor], maps: list[LocalizationMaps], jobs: Sequence[Job]) -> None:
        """Second masks first: an image is done when the other one is there."""
        refined = self._chain(maps).refine_batch(images, maps)
        if self.again:
            for other, job in zip(_in_turn(self.again, images, refined), jobs, strict=True):
                assert job.second is not None
                write_mask(job.second, _mask_of(other, job))
        for one, job in zip(refined, jobs, strict=True):
            write_mask(job.result, _mask_of(one, job))

    def _instances(self, images: list[Tensor], maps: list[LocalizationMaps], jobs: Sequence[Job]) -> None:
        chain = self._chain(maps)
        for image, its_maps, job in zip(images, maps, jobs, strict=True):
            found = chain.instances(image, its_maps)
            assert found is not None
            found.save(job.result, self.classes)

    def _chain(self, maps: Sequence[LocalizationMaps]) -> Chain:
        return Chain(self.steps, background=all(its_maps.background is not None for its_maps in maps))

    def _targets(self, images: list[Tensor], maps: list[LocalizationMaps], jobs: Sequence[Job]) -> None:
        *before, (_, learner) = self.steps
        assert isinstance(learner, TrainedRefiner)
        for image, its_maps, job in zip(images, _in_turn(before, images, maps), jobs, strict=True):
            target = learner.targets(image, its_maps).cpu()
            write_mask(job.result, target) if learner.target == "mask" else write_scores(job.result, target)


def _mask_of(maps: LocalizationMaps, job: Job) -> Tensor:
    """(H, W) uint8, 255 where a crowd is and no box."""
    mask = pseudo_mask(maps).cpu()
    if job.unsure is None or job.boxes is None:
        return mask
    return mask.masked_fill(inside_boxes(job.unsure, maps.size) & ~inside_boxes(job.boxes[0], maps.size), IGNORE)


def _in_turn(
    steps: Sequence[tuple[str, Refiner]], images: list[Tensor], maps: list[LocalizationMaps]
) -> list[LocalizationMaps]:
    for _, step in steps:
        maps = step.refine_batch(images, maps)
    return maps


def _maps(job: Job, size: tuple[int, int]) -> LocalizationMaps:
    """An image's maps, none where the first refiner makes them, with its other labels."""
    blank = LocalizationMaps(torch.zeros(0, dtype=torch.int64), torch.zeros(0, *size), size)
    maps = blank if job.maps is None else LocalizationMaps.load(job.maps)
    if job.boxes is not None:
        maps = replace(maps, boxes=job.boxes[0], box_classes=job.boxes[1])
    saliency = None if job.saliency is None else read_usable(job.saliency, maps.size)
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
