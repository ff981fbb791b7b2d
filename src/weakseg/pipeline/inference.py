"""Trained networks at work: maps, pseudo-masks and predictions, image by image, resumable."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from weakseg.data.dataset import Dataset
from weakseg.data.images import image_size, write_mask
from weakseg.data.sample import Batch, Sample, collate
from weakseg.methods.method import Method, Views
from weakseg.ops.crf import dense_crf
from weakseg.pipeline.device import Device
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import Predict
from weakseg.segment.segmenter import Segmenter

NEGLIGIBLE = 1e-3


def maps_path(folder: Path, image_id: str) -> Path:
    """Where the localisation maps of an image are."""
    return folder / "maps" / f"{image_id}.npz"


def mask_path(folder: Path, image_id: str) -> Path:
    """Where the pseudo-mask of an image is."""
    return folder / "masks" / f"{image_id}.png"


def prediction_path(folder: Path, image_id: str) -> Path:
    """Where the segmenter's answer for an image is."""
    return folder / "predictions" / f"{image_id}.png"


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


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(..., 3, H, W) uint8 to float32 with the backbone's mean and deviation."""
    shape = (3, 1, 1)
    return (images.float() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def as_batch(samples: Sequence[Sample], num_classes: int, mean: Sequence[float], std: Sequence[float]) -> Batch:
    """Samples of one size as the networks want them."""
    ready = [Sample(**{**vars(sample), "image": normalised(sample.image, mean, std)}) for sample in samples]
    return collate(ready, num_classes)


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
    method = method.to(device.target).to(memory_format=torch.channels_last).eval()
    todo = _unfinished(datasets, batch, partial(maps_path, folder))
    total, new = sum(map(len, datasets)), sum(len(ids) for _, ids in todo)
    with reporter.track("localize", total, total - new) as bar:
        for dataset, ids in todo:
            samples = [dataset.sample(image_id) for image_id in ids]
            ready = as_batch(samples, len(dataset.classes), method.backbone.mean, method.backbone.std)
            with device.autocast(precision):
                found = method.localize(ready.to(device.target), views)
            for image_id, maps in zip(ids, found, strict=True):
                maps.save(maps_path(folder, image_id))
            bar.advance(len(ids))
    return new


def predict_datasets(
    segmenter: Segmenter,
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
        segmenter: A trained segmenter.
        datasets: What to segment.
        tagged: Names of the splits in which only the classes that an image is tagged with may be seen.
        settings: Scales, flips, CRF.
        folder: The run folder.
        device: Where to compute.
        reporter: Receives progress.

    Returns:
        Number of images worked on.
    """
    segmenter = segmenter.to(device.target).to(memory_format=torch.channels_last).eval()
    todo = _unfinished(datasets, settings.batch, partial(prediction_path, folder))
    total, new = sum(map(len, datasets)), sum(len(ids) for _, ids in todo)
    with reporter.track("predict", total, total - new) as bar:
        for dataset, ids in todo:
            images = [dataset.sample(image_id).image for image_id in ids]
            tags = [dataset.tags(image_id) if dataset.split in tagged else None for image_id in ids]
            for image_id, mask in zip(ids, predict_images(segmenter, images, settings, device, tags), strict=True):
                write_mask(prediction_path(folder, image_id), mask)
            bar.advance(len(ids))
    return new


def predict_images(
    segmenter: Segmenter,
    images: Sequence[Tensor],
    settings: Predict,
    device: Device,
    tags: Sequence[tuple[int, ...] | None] | None = None,
) -> Iterator[Tensor]:
    """Segment images of one size.

    Args:
        segmenter: A trained segmenter.
        images: (3, H, W) uint8 each.
        settings: Scales, flips, CRF.
        device: Where to compute.
        tags: For each image the only classes that may be seen beside background, or ``None`` for all.

    Yields:
        For each image (H, W) uint8 mask values.
    """
    network = segmenter.network
    ready = normalised(torch.stack(list(images)), network.mean, network.std).to(device.target)
    with device.autocast(settings.precision):
        probabilities = segmenter.predict(ready, settings.scales, settings.flip, settings.merge)
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
