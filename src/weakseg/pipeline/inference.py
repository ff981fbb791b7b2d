"""Trained networks at work: maps, pseudo-masks and predictions, image by image, resumable."""

from collections.abc import Iterator, Sequence
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
    todo = [
        (dataset, ids)
        for dataset in datasets
        for ids in chunks(dataset, batch)
        if not all(maps_path(folder, image_id).exists() for image_id in ids)
    ]
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


def predict_dataset(
    segmenter: Segmenter, dataset: Dataset, settings: Predict, folder: Path, *, device: Device, reporter: Reporter
) -> int:
    """Write the segmenter's masks of every image that has none yet; weak labels are not looked at.

    Returns:
        Number of images worked on.
    """
    segmenter = segmenter.to(device.target).to(memory_format=torch.channels_last).eval()
    groups = chunks(dataset, settings.batch)
    todo = [ids for ids in groups if not all(prediction_path(folder, image_id).exists() for image_id in ids)]
    new = sum(map(len, todo))
    with reporter.track("predict", len(dataset), len(dataset) - new) as bar:
        for ids in todo:
            images = [dataset.sample(image_id).image for image_id in ids]
            for image_id, mask in zip(ids, predict_images(segmenter, images, settings, device), strict=True):
                write_mask(prediction_path(folder, image_id), mask)
            bar.advance(len(ids))
    return new


def predict_images(
    segmenter: Segmenter, images: Sequence[Tensor], settings: Predict, device: Device
) -> Iterator[Tensor]:
    """Segment images of one size.

    Args:
        segmenter: A trained segmenter.
        images: (3, H, W) uint8 each.
        settings: Scales, flips, CRF.
        device: Where to compute.

    Yields:
        For each image (H, W) uint8 mask values.
    """
    network = segmenter.network
    ready = normalised(torch.stack(list(images)), network.mean, network.std).to(device.target)
    with device.autocast(settings.precision):
        probabilities = segmenter.predict(ready, settings.scales, settings.flip, settings.merge)
    for image, scores in zip(images, probabilities, strict=True):
        if settings.crf is not None:
            present = scores.flatten(1).amax(1) > 1e-3
            refined = dense_crf(image.permute(1, 2, 0).contiguous().to(scores.device), scores[present], settings.crf)
            yield present.nonzero().flatten()[refined.argmax(0)].to(torch.uint8).cpu()
        else:
            yield scores.argmax(0).to(torch.uint8).cpu()
