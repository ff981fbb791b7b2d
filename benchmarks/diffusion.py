"""Random walk and PAMR against the formulations of the papers' code.

    python -m benchmarks.diffusion --data PATH_OF_MSRC_MINI

The walk is compared with eight squarings of the dense matrix of transitions, PAMR with a stack of all neighbours; both
references are written here, in plain PyTorch. Images and masks are those of a VOC tree. Writes results/diffusion.csv.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, one_hot, pad

from benchmarks.timing import Row, compare, write_table
from weakseg.ops.pamr import DILATIONS, pamr
from weakseg.ops.random_walk import Links, boundary_links, random_walk

CLASSES = 21
WALKS = ((48, 64), (64, 64), (94, 125))
LARGEST_DENSE = 64 * 64
"""Pixels of the largest grid on which the dense matrix is squared; the time grows with their third power."""
MASKS = ((81, 81), (321, 321))
Photograph = tuple[Image.Image, Tensor]


def photographs(data: Path, count: int) -> list[Photograph]:
    """Images and (H, W) int64 masks of a VOC tree, taken evenly from its list ``val``."""
    names = (data / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    chosen = names[:: max(1, len(names) // count)][:count]
    masks = [np.array(Image.open(data / "SegmentationClass" / f"{name}.png")).astype(np.int64) for name in chosen]
    images = [Image.open(data / "JPEGImages" / f"{name}.jpg").convert("RGB") for name in chosen]
    return list(zip(images, map(torch.from_numpy, masks), strict=True))


def picture(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """(1, 3, H, W) in [0, 1], of 8 bits."""
    pixels = np.array(image.resize(size[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() / 255


def coarse_maps(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 21, H, W) that sum to 1: the classes of a mask, as vague as localisation maps are."""
    planes = one_hot(mask.where(mask < CLASSES, 0), CLASSES).permute(2, 0, 1)[None].float()
    return interpolate(adaptive_avg_pool2d(planes, (10, 10)), size, mode="bilinear")


def edges(image: Tensor) -> Tensor:
    """(H, W) in [0, 1]: how much the colours of a (1, 3, H, W) image change."""
    down, across = (image.diff(dim=axis).abs().sum((0, 1)) for axis in (2, 3))
    change = pad(down, (0, 0, 0, 1)) + pad(across, (0, 1))
    return change / change.max()


def walked(photo: Photograph, size: tuple[int, int]) -> tuple[Tensor, Links]:
    """The three largest maps, and links of radius 5 that edges cut."""
    maps = coarse_maps(photo[1], size)[0]
    return maps[maps.mean((1, 2)).topk(3).indices], boundary_links(edges(picture(photo[0], size)), 5)


def sparse_walk(given: tuple[Tensor, Links]) -> Tensor:
    return random_walk(*given, beta=10, steps=2**8)


def in_float64(links: Links) -> Links:
    return Links(links.offsets, links.weights.double())


def dense_walk(given: tuple[Tensor, Links]) -> Tensor:
    maps, links = given
    transition = links.matrix() ** 10
    transition /= transition.sum(0)
    for _ in range(8):
        transition = transition @ transition
    return (maps.flatten(1) @ transition).view_as(maps)


def stacked(planes: Tensor) -> Tensor:
    """(B, K, H, W) to (B, K, 54, H, W): all samples of all dilations."""
    height, width = planes.shape[-2:]
    shifted = []
    for dilation in DILATIONS:
        padded = pad(planes, [dilation] * 4, mode="replicate")
        starts = (0, dilation, 2 * dilation)
        shifted += [padded[..., y : y + height, x : x + width] for y in starts for x in starts]
    return torch.stack(shifted, 2)


def stacked_pamr(given: tuple[Tensor, Tensor]) -> Tensor:
    image, masks = given
    samples = stacked(image)
    neighbours = [i for i in range(samples.shape[2]) if i % 9 != 4]
    spread = 1e-8 + 0.1 * samples.std(2, keepdim=True)
    kappa = -(samples[:, :, neighbours] - image[:, :, None]).abs() / spread
    affinities = kappa.mean(1, keepdim=True).softmax(2)
    for _ in range(10):
        masks = (stacked(masks)[:, :, neighbours] * affinities).sum(2)
    return masks


def rows(data: Path, *, log: Callable[[str], None] = lambda line: None) -> list[Row]:
    """The table: a row for each operation and size."""
    photos, table = photographs(data, 5), []
    for size in WALKS:
        dense = dense_walk if size[0] * size[1] <= LARGEST_DENSE else None
        inputs = [walked(photo, size) for photo in photos[:3]]
        found = compare(inputs, sparse_walk, dense, lambda given: (given[0].double(), in_float64(given[1])))
        table.append({"operation": "random walk, 3 maps", "height": size[0], "width": size[1], **found})
        log(str(table[-1]))
    for size in MASKS:
        pictures = [(picture(image, size), coarse_maps(mask, size)) for image, mask in photos]
        found = compare(
            pictures, lambda given: pamr(*given), stacked_pamr, lambda given: (given[0].double(), given[1].double())
        )
        table.append({"operation": "PAMR, 21 maps", "height": size[0], "width": size[1], **found})
        log(str(table[-1]))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speed, agreement and memory of random walk and PAMR.")
    parser.add_argument("--data", type=Path, required=True, help="a VOC tree")
    parser.add_argument("--out", type=Path, default=Path("results/diffusion.csv"))
    arguments = parser.parse_args()
    write_table(rows(arguments.data, log=print), arguments.out)
