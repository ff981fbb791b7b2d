"""How training images are varied, reproducibly.

A transform is a small frozen object that is called with a sample and a generator. All chance comes from that generator,
which is seeded by run, epoch and place in the data set, so that the same image is varied in the same way whichever
process loads it and whenever. Images are uint8 until ``Normalise``; what pads after it is the mean colour with 0.

Tags stay those of the whole image after a crop, as in the papers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from weakseg.data import geometry
from weakseg.data.chance import integer, sample_seed, uniform
from weakseg.data.colour import IMAGENET_MEAN, IMAGENET_STD, ColourJitter, Normalise, Triple
from weakseg.data.dataset import Dataset
from weakseg.data.geometry import Span, View
from weakseg.data.sample import IGNORE, Batch, Sample, collate

Interpolation = Literal["bicubic", "bilinear", "nearest"]
Padding = Literal["mean", "black"]


class Transform(Protocol):
    """Turns a sample into another one."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The sample, varied; ``sample`` itself is left as it is."""


@dataclass(frozen=True)
class Compose:
    """One transform after the other."""

    transforms: tuple[Transform, ...]

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Vary the sample step by step."""
        for transform in self.transforms:
            sample = transform(sample, generator)
        return sample


@dataclass(frozen=True)
class ResizeLonger:
    """Resize the longer side to an integer drawn from [low, high]."""

    low: int
    high: int
    interpolation: Interpolation = "bicubic"
    antialias: bool = True

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Resize image and labels."""
        factor = integer(generator, self.low, self.high) / max(sample.size)
        return _scaled(sample, factor, self.interpolation, self.antialias)


@dataclass(frozen=True)
class RandomScale:
    """Resize by a factor drawn from [low, high)."""

    low: float
    high: float
    interpolation: Interpolation = "bicubic"
    antialias: bool = True

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Resize image and labels."""
        return _scaled(sample, uniform(generator, self.low, self.high), self.interpolation, self.antialias)


@dataclass(frozen=True)
class ChooseScale:
    """Resize by one of some factors."""

    factors: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Resize image and labels."""
        factor = self.factors[integer(generator, 0, len(self.factors) - 1)]
        return _scaled(sample, factor, self.interpolation, self.antialias)


@dataclass(frozen=True)
class ResizeSquare:
    """Resize to a square, whatever the shape was."""

    size: int
    interpolation: Interpolation = "bicubic"
    antialias: bool = True

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Resize image and labels."""
        return geometry.resize(sample, self.size, self.size, self.interpolation, self.antialias)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized to a square.

    Attributes:
        size: Side of the square.
        area: Lowest and highest share of the image's area.
        ratio: Lowest and highest width : height of the part, drawn uniformly in its logarithm.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bicubic"
    antialias: bool = True

    tries = 10

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Cut and resize image and labels."""
        part = geometry.window(sample, *self._part(*sample.size, generator))
        return geometry.resize(part, self.size, self.size, self.interpolation, self.antialias)

    def _part(self, height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width; the largest centred part if no draw fits into the image."""
        low, high = (math.log(ratio) for ratio in self.ratio)
        for _ in range(self.tries):
            area = uniform(generator, *self.area) * height * width
            ratio = math.exp(uniform(generator, low, high))
            part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < part_width <= width and 0 < part_height <= height:
                top, left = integer(generator, 0, height - part_height), integer(generator, 0, width - part_width)
                return top, left, part_height, part_width
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        part_width, part_height = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with some probability."""

    probability: float = 0.5

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Mirror image and labels, or not."""
        return geometry.flip(sample) if uniform(generator, 0, 1) < self.probability else sample


@dataclass(frozen=True)
class RandomCrop:
    """A square window at a random place; where the image is smaller, it is padded.

    Attributes:
        size: Side of the square.
        place: Where a smaller image goes: anywhere, in the centre, or top left (padding right and below).
        fill: Colour of the padding in the image's own units; 0 after ``Normalise`` is the mean colour.
        mask_fill: Mask value of the padding.
    """

    size: int
    place: Literal["random", "centre", "corner"] = "random"
    fill: Triple = (0.0, 0.0, 0.0)
    mask_fill: int = IGNORE

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Cut and pad image and labels."""
        height, width = sample.size
        rows, columns = self._span(height, generator), self._span(width, generator)
        return geometry.place(sample, (self.size, self.size), rows, columns, torch.tensor(self.fill), self.mask_fill)

    def _span(self, length: int, generator: Generator) -> Span:
        drawn = integer(generator, 0, abs(length - self.size))
        if length >= self.size:
            return Span(source=drawn, target=0, length=self.size)
        target = {"random": drawn, "centre": (self.size - length) // 2, "corner": 0}[self.place]
        return Span(source=0, target=target, length=length)


def classification(
    crop: int,
    *,
    resize: tuple[int, int] | None = (256, 512),
    scale: tuple[float, float] | None = None,
    area: tuple[float, float] | None = None,
    jitter: tuple[float, float, float, float] | None = None,
    flip: float = 0.5,
    padding: Padding = "mean",
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> Compose:
    """How PSA and its descendants vary images for a classifier.

    Args:
        crop: Side of the square that the network sees.
        resize: Lowest and highest length of the longer side.
        scale: Lowest and highest factor of the size, instead of ``resize``.
        area: Lowest and highest share of the image, of which a part is resized to the crop, instead of both.
        jitter: Brightness, contrast, saturation and hue; the papers' (0.3, 0.3, 0.3, 0.1).
        flip: Probability of mirroring.
        padding: Colour around an image that is smaller than the crop: the mean of the training images, or black.
        mean: Of the network's training images.
        std: Likewise.
    """
    usual: tuple[Transform, ...] = (RandomScale(*scale),) if scale else (ResizeLonger(*resize),) if resize else ()
    resizing = (RandomResizedCrop(crop, area),) if area else usual
    return _preset(crop, resizing, flip, jitter, padding, mean, std, resize_first=True)


def segmentation(
    crop: int,
    *,
    scale: tuple[float, float] | None = (0.5, 1.5),
    resize: tuple[int, int] | None = None,
    area: tuple[float, float] | None = None,
    jitter: tuple[float, float, float, float] | None = None,
    flip: float = 0.5,
    padding: Padding = "mean",
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> Compose:
    """How images and masks are varied to train a segmenter.

    Args:
        crop: Side of the square that the network sees.
        scale: Lowest and highest factor of the size.
        resize: Lowest and highest length of the longer side, instead of ``scale``.
        area: Lowest and highest share of the image, of which a part is resized to the crop, instead of both.
        jitter: Brightness, contrast, saturation and hue.
        flip: Probability of mirroring.
        padding: Colour around an image that is smaller than the crop: the mean of the training images, or black.
        mean: Of the network's training images.
        std: Likewise.
    """
    usual: tuple[Transform, ...] = (ResizeLonger(*resize),) if resize else (RandomScale(*scale),) if scale else ()
    resizing = (RandomResizedCrop(crop, area),) if area else usual
    return _preset(crop, resizing, flip, jitter, padding, mean, std, resize_first=False)


def _preset(
    crop: int,
    resizing: tuple[Transform, ...],
    flip: float,
    jitter: tuple[float, float, float, float] | None,
    padding: Padding,
    mean: Triple,
    std: Triple,
    *,
    resize_first: bool,
) -> Compose:
    """Resize, flip, jitter, or the same backwards; then what the network expects."""
    jittering = (ColourJitter(*jitter),) if jitter and any(jitter) else ()
    varied: tuple[Transform, ...] = (*resizing, Flip(flip), *jittering)
    fitted: tuple[Transform, ...] = (Normalise(mean, std), RandomCrop(crop))
    return Compose((*(varied if resize_first else varied[::-1]), *(fitted if padding == "mean" else fitted[::-1])))


class AugmentedDataset(torch.utils.data.Dataset[tuple[Sample, Tensor]]):
    """A data set whose samples are varied anew in every epoch.

    Args:
        dataset: Where samples come from.
        transform: Ends in images of one size, float.
        seed: Of the run.
        cache: Keep decoded samples in memory; each loading process keeps its own.
    """

    def __init__(self, dataset: Dataset, transform: Transform, seed: int, *, cache: bool = False) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]  # seen by loading processes that live on
        self._cache: dict[int, Sample] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Sample, Tensor]:
        """The sample as varied in this epoch, and (1, H, W) bool where it is not padding."""
        generator = torch.Generator().manual_seed(sample_seed(self.seed, int(self._epoch), index))
        view = View.of(self.transform(self._sample(index), generator))
        return view, torch.ones(1, *view.size, dtype=torch.bool) if view.valid is None else view.valid

    def set_epoch(self, epoch: int) -> None:
        """Call before iterating over the data in a new epoch."""
        self._epoch.fill_(epoch)

    def collate(self, items: Sequence[tuple[Sample, Tensor]]) -> Batch:
        """Stack what ``__getitem__`` gives; for a loader's ``collate_fn``."""
        samples, valid = zip(*items, strict=True)
        return collate(samples, len(self.dataset.classes), valid)

    def _sample(self, index: int) -> Sample:
        if self._cache is None:
            return self.dataset[index]
        if index not in self._cache:
            self._cache[index] = self.dataset[index]
        return self._cache[index]


def _scaled(sample: Sample, factor: float, interpolation: Interpolation, antialias: bool) -> Sample:
    height, width = (max(1, round(side * factor)) for side in sample.size)
    return geometry.resize(sample, height, width, interpolation, antialias)
