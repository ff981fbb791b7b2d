"""Trained networks at work: maps, pseudo-masks and predictions, image by image, resumable."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from weakseg.data.colour import Triple, normalised
from weakseg.data.dataset import Dataset
from weakseg.data.detections import Detections
from weakseg.data.images import image_size, write_mask
from weakseg.data.sample import Batch, Sample, collate
from weakseg.methods.method import Method, Views
from weakseg.networks.backbone import Backbone
from weakseg.networks.fold import folded
from weakseg.ops.crf import dense_crf
from weakseg.pipeline.device import Device
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import DetectPredict, Predict
from weakseg.pipeline.steps import Step
from weakseg.refine.refiner import TrainedRefiner
from weakseg.segment.instances import InstanceSegmenter
from weakseg.segment.segmenter import Segmenter

Network = TypeVar("Network", bound=nn.Module)
NEGLIGIBLE = 1e-3


def maps_path(folder: Path, image_id: str) -> Path:
    """Where the localisation maps of an image are."""
    return folder / "maps" / f"{image_id}.npz"


def mask_path(folder: Path, image_id: str) -> Path:
    """Where the pseudo-mask of an image is."""
    return folder / "masks" / f"{image_id}.png"


def second_folder(steps: Sequence[Step]) -> str:
    """Name of the folder of other pseudo-masks, after the last of the refiners that make them."""
    return f"masks-{steps[-1].name}"


def second_path(steps: Sequence[Step], folder: Path, image_id: str) -> Path:
    """Where the other pseudo-mask of an image is."""
    return folder / second_folder(steps) / f"{image_id}.png"


def instances_path(folder: Path, image_id: str) -> Path:
    """Where the list of an image's objects is; their picture stands beside it."""
    return folder / "instances" / f"{image_id}.json"


def label_path(folder: Path, step: Step, image_id: str) -> Path:
    """Where that is from which a trained refiner learns."""
    assert issubclass(step.kind, TrainedRefiner)
    return folder / "labels" / step.key / f"{image_id}.{'png' if step.kind.target == 'mask' else 'npz'}"


def prediction_path(folder: Path, image_id: str) -> Path:
    """Where the segmenter's answer for an image is."""
    return folder / "predictions" / f"{image_id}.png"


def detections_path(folder: Path, image_id: str) -> Path:
    """Where the detector's answer for an image is."""
    return folder / "detections" / f"{image_id}.json"


def chunks(dataset: Dataset, size: int) -> list[list[str]]:
    """Ids in groups of at most ``size`` images of equal height and width.

    The groups depend on the whole data set, not on what is still to be done, so that a run that was stopped computes
    every image in the same company as one that was not.
    """
    measured = sorted((image_size(dataset.paths(image_id)["image"]), image_id) for image_id in dataset.ids)
    groups = [[image_id for _, image_id in group] for _, group in groupby(measured, key=lambda item: item[0])]
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def _unfinished(
    datasets: Sequence[Dataset], size: int, result: Callable[[str], Path]
) -> list[tuple[Dataset, list[str]]]:
    """Groups of images of which at least one has no result yet."""
    groups = [(dataset, ids) for dataset in datasets for ids in chunks(dataset, size)]
    return [(dataset, ids) for dataset, ids in groups if not all(result(image_id).exists() for image_id in ids)]


def placed(network: Network, device: Device) -> Network:
    """A trained network, moved to where it is to compute."""
    return network.to(device.target).to(memory_format=torch.channels_last).eval()


def ready(network: Network, device: Device) -> Network:
    """A trained localiser or segmenter where it is to compute, and a copy of it if that is faster, for inference alone.

    Where it is copied, both stay in the device's memory.
    """
    return folded(placed(network, device), _look)


def _look(network: nn.Module, images: Tensor) -> object:
    return network.look(images) if isinstance(network, Method) else network(images)


def as_batch(samples: Sequence[Sample], num_classes: int, mean: Triple, std: Triple) -> Batch:
    """Samples of one size as the networks want them."""
    return collate([replace(sample, image=normalised(sample.image, mean, std)) for sample in samples], num_classes)


def localize(
    method: Method,
    datasets: Sequence[Dataset],
    views: Views,
    folder: Path,
    *,
    batch: int,
    precision: str,
    device: Device,
    reporter: Reporter,
) -> int:
    """Write the maps of every image that has none yet.

    Returns:
        Number of images worked on.
    """
    todo = _unfinished(datasets, batch, partial(maps_path, folder))
    method = ready(method, device) if todo else method
    total, new = sum(map(len, datasets)), sum(len(ids) for _, ids in todo)
    with reporter.track("localize", total, total - new) as bar:
        for dataset, ids in todo:
            samples = [dataset.sample(image_id) for image_id in ids]
            images = as_batch(samples, len(dataset.classes), method.backbone.mean, method.backbone.std)
            with device.autocast(precision):
                found = method.localize(images.to(device.target), views)
            for image_id, maps in zip(ids, found, strict=True):
                maps.save(maps_path(folder, image_id))
            bar.advance(len(ids))
    return new


@torch.no_grad()
def calibrate_refiner(refiner: TrainedRefiner, dataset: Dataset, batch: int, device: Device) -> None:
    """Let a refiner that was just trained look at the top left corner of every image, if it wants to."""
    side = refiner.calibration_crop()
    if side is not None:
        refiner.to(device.target).eval()
        refiner.calibrate(_corners(dataset, side, batch, refiner.backbone, device))


def _corners(dataset: Dataset, side: int, batch: int, backbone: Backbone, device: Device) -> Iterator[Tensor]:
    """Batches of (B, 3, side, side) images; a last one that is not full is left out unless it is the only one."""
    size = min(batch, len(dataset))
    for start in range(0, len(dataset) - size + 1, size):
        corners = torch.zeros(size, 3, side, side)
        for place, image_id in zip(corners, dataset.ids[start : start + size], strict=True):
            image = normalised(dataset.sample(image_id).image[:, :side, :side], backbone.mean, backbone.std)
            place[:, : image.shape[1], : image.shape[2]] = image
        yield corners.to(device.target)


Predictor = Segmenter | Method
"""A segmenter, or a method whose network is one."""


def predict_datasets(
    segmenter: Predictor,
    datasets: Sequence[Dataset],
    tagged: Collection[str],
    settings: Predict,
    folder: Path,
    *,
    device: Device,
    reporter: Reporter,
) -> int:
    """Write the segmenter's masks of every image that has none yet.

    Args:
        segmenter: A trained segmenter, or a method that is one.
        datasets: What to segment.
        tagged: Names of the splits in which only the classes that an image is tagged with may be seen.
        settings: Scales, flips, CRF.
        folder: The run folder.
        device: Where to compute.
        reporter: Receives progress.

    Returns:
        Number of images worked on.
    """
    todo = _unfinished(datasets, settings.batch, partial(prediction_path, folder))
    segmenter = ready(segmenter, device) if todo else segmenter
    total, new = sum(map(len, datasets)), sum(len(ids) for _, ids in todo)
    with reporter.track("predict", total, total - new) as bar:
        for dataset, ids in todo:
            images = [dataset.sample(image_id).image for image_id in ids]
            tags = [dataset.tags(image_id) if dataset.split in tagged else None for image_id in ids]
            for image_id, mask in zip(ids, predict_images(segmenter, images, settings, device, tags), strict=True):
                write_mask(prediction_path(folder, image_id), mask)
            bar.advance(len(ids))
    return new


def detect_datasets(
    detector: InstanceSegmenter,
    datasets: Sequence[Dataset],
    settings: DetectPredict,
    folder: Path,
    *,
    device: Device,
    reporter: Reporter,
) -> int:
    """Write the objects that the detector finds in every image that has none written yet.

    Returns:
        Number of images worked on.
    """
    detector = placed(detector, device)
    todo = _unfinished(datasets, settings.batch, partial(detections_path, folder))
    total, new = sum(map(len, datasets)), sum(len(ids) for _, ids in todo)
    with reporter.track("detect", total, total - new) as bar:
        for dataset, ids in todo:
            found = detect_images(detector, [dataset.sample(image_id).image for image_id in ids], settings, device)
            for image_id, objects in zip(ids, found, strict=True):
                objects.save(detections_path(folder, image_id), dataset.classes.names, image_id)
            bar.advance(len(ids))
    return new


def detect_images(
    detector: InstanceSegmenter, images: Sequence[Tensor], settings: DetectPredict, device: Device
) -> list[Detections]:
    """Find objects in images of one size.

    Args:
        detector: A trained detector, on the device; see ``placed``.
        images: (3, H, W) uint8 each.
        settings: Lowest score, and most objects of an image.
        device: Where to compute.
    """
    network = detector.network
    batch = normalised(torch.stack(list(images)), network.mean, network.std).to(device.target)
    with device.autocast(settings.precision):
        return detector.predict(batch, settings.score, settings.most)


def predict_images(
    segmenter: Predictor,
    images: Sequence[Tensor],
    settings: Predict,
    device: Device,
    tags: Sequence[tuple[int, ...] | None] | None = None,
) -> Iterator[Tensor]:
    """Segment images of one size.

    Args:
        segmenter: A trained segmenter, on the device; see ``ready``.
        images: (3, H, W) uint8 each.
        settings: Scales, flips, CRF.
        device: Where to compute.
        tags: For each image the only classes that may be seen beside background, or ``None`` for all.

    Yields:
        For each image (H, W) uint8 mask values.
    """
    with device.autocast(settings.precision):
        probabilities = _looked_at(segmenter, images, settings, device, tags)
    for image, scores, allowed in zip(images, probabilities, tags or [None] * len(images), strict=True):
        values = torch.arange(len(scores), device=scores.device)
        if allowed is not None:
            values = values[[0, *(tag + 1 for tag in allowed)]]
        if settings.crf is not None:
            values = values[(values == 0) | (scores[values].flatten(1).amax(1) > NEGLIGIBLE)]
            pixels = image.permute(1, 2, 0).contiguous().to(scores.device)
            scores = dense_crf(pixels, scores[values], settings.crf)
        else:
            scores = scores[values]
        yield values[scores.argmax(0)].to(torch.uint8).cpu()


def _looked_at(
    segmenter: Predictor,
    images: Sequence[Tensor],
    settings: Predict,
    device: Device,
    tags: Sequence[tuple[int, ...] | None] | None,
) -> Tensor:
    """(B, K, H, W) scores; a method leaves out classes by itself, unless the tags do."""
    known = segmenter.network if isinstance(segmenter, Segmenter) else segmenter.backbone
    batch = normalised(torch.stack(list(images)), known.mean, known.std).to(device.target)
    if isinstance(segmenter, Segmenter):
        return segmenter.predict(batch, settings.scales, settings.flip, settings.merge)
    shown = None
    if tags is not None and None not in tags:
        shown = torch.zeros(len(images), segmenter.num_classes, dtype=torch.bool, device=device.target)
        for row, classes in zip(shown, tags, strict=True):
            row[list(classes or ())] = True
    return segmenter.predict(batch, settings.scales, settings.flip, tags=shown)
