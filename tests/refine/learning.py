"""What the tests of trained refiners share: a small backbone, pictures, batches."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import torch

from weakseg.data.colour import normalised
from weakseg.data.maps import LocalizationMaps
from weakseg.data.sample import Sample, collate
from weakseg.networks.backbone import Backbone


def small_backbone(output_stride):
    backbone = deepcopy(_backbone(output_stride))
    torch.manual_seed(1)  # for the layers that are put on it
    return backbone


@cache
def _backbone(output_stride):
    torch.manual_seed(0)
    return Backbone("resnet10t", weights="none", output_stride=output_stride)


def picture(height, width, seed=0):
    """Two grey surfaces with some noise, the left one darker."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((3, height, width), 180.0)
    image[..., : width // 2] = 60
    return (image + 20 * torch.rand(image.shape, generator=generator)).to(torch.uint8)


def maps_of(size, classes=(1, 4), stride=4, seed=0):
    """Random maps; the first class lies at the left, the second at the right."""
    grid = [(side - 1) // stride + 1 for side in size]
    scores = torch.rand(len(classes), *grid, generator=torch.Generator().manual_seed(seed)) * 0.3
    for number, half in enumerate((slice(0, grid[1] // 3), slice(-(grid[1] // 3), None))[: len(classes)]):
        scores[number, :, half] += 0.7
    return LocalizationMaps(torch.tensor(classes, dtype=torch.int64), scores, tuple(size))


def batch_of(refiner, images, targets):
    """What the pipeline would train on."""
    backbone = refiner.backbone
    samples = [Sample(str(n), normalised(image, backbone.mean, backbone.std)) for n, image in enumerate(images)]
    name = "mask" if refiner.target == "mask" else "scores"
    filled = [replace(sample, **{name: target}) for sample, target in zip(samples, targets, strict=True)]
    return collate(filled, num_classes=6)


def train(refiner, batch, steps, lr):
    """Sums of the losses, step by step."""
    optimizer = torch.optim.SGD(refiner.parameter_groups(lr, 1e-4), lr=lr)
    refiner.train()
    totals = []
    for _ in range(steps):
        total = sum(refiner.losses(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    return totals
