"""How well masks fill boxes, and how much of the maps lies on objects.

Y. Oh, B. Kim, B. Ham, "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation",
CVPR 2021, supplement.

Both tell where pseudo-masks go wrong before anything is trained with them. The filling rate needs no true mask: a
bicycle fills little of its box and a bus most of it, and masks that fill every box alike have learnt neither.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from weakseg.metrics.iou import Labels, label_array
from weakseg.metrics.localization import SoftLocalization, soft_scores, soft_sums
from weakseg.ops.box_masks import pixel_regions


class RateSummary(NamedTuple):
    """Filling rates of a class: how many boxes, and mean, quartiles and median of their rates; NaN without a box."""

    boxes: int
    mean: float
    lower: float
    median: float
    upper: float


def filling_rates(labels: Labels, boxes: Tensor, box_classes: Tensor) -> Tensor:
    """Share of each box's pixels that carry the box's class.

    Args:
        labels: (H, W) integers, class + 1; other values, 255 as well, are not the class.
        boxes: (n, 4) x1 y1 x2 y2 in pixels, upper bounds exclusive.
        box_classes: (n,) int64; class c has mask value c + 1.

    Returns:
        (n,) float64 in [0, 1], NaN for a box without a pixel in the image.

    Raises:
        ValueError: If ``labels`` is not one mask, or there are not as many boxes as classes.
    """
    mask = torch.from_numpy(label_array(labels))
    if mask.ndim != 2 or len(boxes) != len(box_classes):
        raise ValueError(f"labels {tuple(mask.shape)}, {len(boxes)} boxes and {len(box_classes)} classes")
    regions = pixel_regions(boxes, (mask.shape[0], mask.shape[1]))
    values = (box_classes + 1).tolist()
    shares = [(mask[region] == value).double().mean().item() for region, value in zip(regions, values, strict=True)]
    return torch.tensor(shares, dtype=torch.float64)


class FillingRates:
    """Filling rates over a set, by class.

    Attributes:
        rates: For each of K - 1 object classes the rates of its boxes, in the order they came; plain, so that they can
            be saved, or gathered from processes and put back.

    Args:
        num_classes: K, background included.
    """

    def __init__(self, num_classes: int) -> None:
        self.rates: list[list[float]] = [[] for _ in range(num_classes - 1)]

    def update(self, labels: Labels, boxes: Tensor, box_classes: Tensor) -> None:
        """Add the boxes of one image, see ``filling_rates``; those without a pixel in the image are left out."""
        found = filling_rates(labels, boxes, box_classes)
        for rate, box_class in zip(found.tolist(), box_classes.tolist(), strict=True):
            if not math.isnan(rate):
                self.rates[box_class].append(rate)

    def merge(self, others: Iterable["FillingRates"]) -> None:
        """Add what other processes have found."""
        for other in others:
            if len(other.rates) != len(self.rates):
                raise ValueError("filling rates of different classes cannot be added")
            for mine, its in zip(self.rates, other.rates, strict=True):
                mine.extend(its)

    def summaries(self) -> list[RateSummary]:
        """One for each object class."""
        return [_summary(rates) for rates in self.rates]

    def value(self) -> float:
        """The mean over object classes of the mean over their boxes; NaN without a box."""
        return torch.tensor([summary.mean for summary in self.summaries()], dtype=torch.float64).nanmean().item()

    def values(self) -> dict[str, float]:
        """The same by its name in ``metrics.json``."""
        return {"filling_rate": self.value()}


def _summary(rates: list[float]) -> RateSummary:
    if not rates:
        return RateSummary(0, *[math.nan] * 4)
    held = torch.tensor(rates, dtype=torch.float64)
    quarters = held.new_tensor([0.25, 0.5, 0.75])
    return RateSummary(len(rates), held.mean().item(), *held.quantile(quarters).tolist())


def cam_precision(maps: Tensor, truth: Tensor, known: Tensor | None = None) -> Tensor:
    """TP / (TP + FP) of maps that are not cut at a threshold: the share of their sum that lies on the object.

    Args:
        maps: (C, H, W) in [0, 1].
        truth: (C, H, W), 0 or 1.
        known: (H, W) bool; pixels without it count nowhere.

    Returns:
        (C,) float64 in [0, 1], NaN for an empty map.
    """
    return soft_scores(soft_sums(maps, truth, known)).precision


class CAMPrecision(SoftLocalization):
    """``cam_precision`` over a set: TP and FP of a class are summed over all images before they are divided.

    The paper does not say whether its maps are cut at a threshold first; these are not. A map of a class that the image
    does not show is all FP.

    Args:
        num_classes: K, background included.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, "set")

    def precisions(self) -> Tensor:
        """(K - 1,) float64, NaN for a class whose maps are all empty."""
        return self.per_class()[:, 1]

    def value(self) -> float:
        """The mean over the classes that have a map."""
        return self.precisions().nanmean().item()

    def values(self) -> dict[str, float]:
        """The same by its name in ``metrics.json``."""
        return {"cam_precision": self.value()}
