"""How well localisation maps cover objects, without a threshold.

T. Zhang, G. Lin, W. Liu, J. Cai, A. Kot, "Splitting vs. Merging: Mining Object Regions with Discrepancy and
Intersection Loss for Weakly Supervised Semantic Segmentation", ECCV 2020.

A seed is what a threshold leaves of a map, and mIoU then judges the threshold, too. Overlap, precision and recall can
be had of the map itself: minimum for intersection, maximum for union. The paper does not say how images are put
together; both ways are here, and the one taken is to be told with the numbers.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from weakseg.metrics.iou import IGNORE

Pooling = Literal["images", "set"]


class SoftSums(NamedTuple):
    """Sums over the pixels of each of C maps, float64; they may be added up over images before ``soft_scores``.

    Attributes:
        both: (C,) of the minimum of map and truth.
        either: (C,) of the maximum.
        maps: (C,) of the map.
        truth: (C,) of the truth.
    """

    both: Tensor
    either: Tensor
    maps: Tensor
    truth: Tensor


class SoftScores(NamedTuple):
    """Overlap, precision and recall, (C,) float64 in [0, 1] each; NaN where one has no meaning."""

    overlap: Tensor
    precision: Tensor
    recall: Tensor


def soft_sums(maps: Tensor, truth: Tensor, known: Tensor | None = None) -> SoftSums:
    """Sum maps and truth, their minimum and their maximum over the known pixels.

    Args:
        maps: (C, H, W) in [0, 1].
        truth: (C, H, W), 0 or 1; or other maps in [0, 1].
        known: (H, W) bool; pixels without it count nowhere.

    Raises:
        ValueError: If the shapes differ.
    """
    if maps.shape != truth.shape or (known is not None and known.shape != maps.shape[1:]):
        raise ValueError(f"maps {tuple(maps.shape)} and truth {tuple(truth.shape)} do not belong together")
    first, second = maps.double(), truth.to(maps.device).double()
    if known is not None:
        first, second = (each * known.to(maps.device) for each in (first, second))
    sums = (torch.minimum(first, second), torch.maximum(first, second), first, second)
    return SoftSums(*(each.sum((1, 2)) for each in sums))


def soft_scores(sums: SoftSums) -> SoftScores:
    """Soft overlap sum min(M, G) / sum max(M, G), precision sum min(M, G) / sum M, recall sum min(M, G) / sum G.

    NaN where the denominator is 0: an empty map has no precision, an absent class no recall.
    """
    return SoftScores(*(sums.both / torch.where(of > 0, of, torch.nan) for of in (sums.either, sums.maps, sums.truth)))


def map_similarity(first: Tensor, second: Tensor, known: Tensor | None = None) -> Tensor:
    """Soft overlap of two sets of maps, such as those of two classifiers (Table 1).

    Args:
        first: (C, H, W) in [0, 1].
        second: (C, H, W) in [0, 1].
        known: (H, W) bool; pixels without it count nowhere.

    Returns:
        (C,) float64 in [0, 1], NaN where both maps are empty.
    """
    return soft_scores(soft_sums(first, second, known)).overlap


class SoftLocalization:
    """Soft overlap, precision and recall of maps over a set, mean over object classes.

    Attributes:
        totals: (K - 1, 3) float64 on the CPU; overlap, precision and recall are ``totals / weights``.
        weights: (K - 1, 3) float64 on the CPU. Both can be summed over processes and put back.

    Args:
        num_classes: K, background included.
        pooling: "images": for each class the mean over the images whose truth shows it, where an empty map, which has
            no precision, is left out of the mean precision; "set": one ratio of sums over all images, also those where
            the class has a map and is not there.
    """

    def __init__(self, num_classes: int, pooling: Pooling = "images") -> None:
        if pooling not in get_args(Pooling):
            raise ValueError(f"unknown pooling '{pooling}': {', '.join(get_args(Pooling))}")
        self.num_classes, self.pooling = num_classes, pooling
        self.totals = torch.zeros((num_classes - 1, 3), dtype=torch.float64)
        self.weights = torch.zeros_like(self.totals)

    def update(self, scores: Tensor, classes: Tensor, truth: Tensor) -> None:
        """Add one image.

        Args:
            scores: (P, H, W) in [0, 1], at the truth's size; P may be 0.
            classes: (P,) int64 in [0, K - 1); class c has mask value c + 1. A class without a map has an empty one.
            truth: (H, W) integers in [0, K) or 255, where nothing counts.

        Raises:
            ValueError: If the sizes differ.
        """
        if scores.shape[-2:] != truth.shape or len(scores) != len(classes):
            raise ValueError(f"scores {tuple(scores.shape)}, {len(classes)} classes and truth {tuple(truth.shape)}")
        truth, classes = truth.to(scores.device).long(), classes.to(scores.device)
        known = truth != IGNORE
        involved = torch.zeros(self.num_classes, dtype=torch.bool, device=scores.device)
        involved[truth[known]] = True
        involved[classes + 1] = True
        wanted = torch.nonzero(involved[1:])[:, 0]
        maps = scores.new_zeros((len(wanted), *truth.shape))
        maps[torch.searchsorted(wanted, classes)] = scores
        sums = soft_sums(maps, truth == wanted[:, None, None] + 1, known)
        parts, wholes = self._ratios(sums)
        self.totals.index_add_(0, wanted.cpu(), parts.cpu())
        self.weights.index_add_(0, wanted.cpu(), wholes.cpu())

    def _ratios(self, sums: SoftSums) -> tuple[Tensor, Tensor]:
        """What this image adds to ``totals`` and ``weights``, (C, 3) each."""
        if self.pooling == "set":
            return sums.both[:, None].expand(-1, 3), torch.stack([sums.either, sums.maps, sums.truth], dim=1)
        values = torch.stack(list(soft_scores(sums)), dim=1)
        counted = ~values.isnan() & (sums.truth > 0)[:, None]
        return torch.where(counted, values, 0.0), counted.double()

    def merge(self, others: Iterable["SoftLocalization"]) -> None:
        """Add what other processes have summed."""
        for other in others:
            if (other.num_classes, other.pooling) != (self.num_classes, self.pooling):
                raise ValueError("soft scores of different classes or poolings cannot be added")
            self.totals += other.totals
            self.weights += other.weights

    def per_class(self) -> Tensor:
        """(K - 1, 3) overlap, precision and recall of each object class; NaN for one that has none."""
        return self.totals / torch.where(self.weights > 0, self.weights, torch.nan)

    def value(self) -> float:
        """The mean overlap."""
        return self.values()["soft_overlap"]

    def values(self) -> dict[str, float]:
        """Means over object classes by their names in ``metrics.json``; NaN if no class has a value."""
        overlap, precision, recall = self.per_class().nanmean(0).tolist()
        return {"soft_overlap": overlap, "soft_precision": precision, "soft_recall": recall}
