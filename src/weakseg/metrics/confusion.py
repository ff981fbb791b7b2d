"""How often the scene around an object is taken for the object: water for a boat, rails for a train.

S. Lee, M. Lee, J. Lee, H. Shim, "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised
Semantic Segmentation", CVPR 2021, Table 2 (with the labels of PASCAL-CONTEXT, R. Mottaghi et al., CVPR 2014).

A classifier that has seen trains on rails only cannot know from tags which of the two is the train. What it then does
wrong hides in the IoU among all other errors; this ratio shows it alone. It needs labels of the scene: what the pixels
are that belong to no object class.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weakseg.metrics.iou import IGNORE, Labels

Pair = tuple[int, int]


class ConfusionCounts(NamedTuple):
    """Pixels of a class c and what coincides with it; they may be added up over images before the ratio is taken.

    Attributes:
        confused: FP_{k,c}, of context k and predicted as c.
        hits: TP_c, of c and predicted as c.
        truth: Of c.
        prediction: Predicted as c where the mask is known.
    """

    confused: int
    hits: int
    truth: int
    prediction: int


def confusion_counts(
    prediction: Labels, truth: Labels, context: Labels, target: int, coincident: int
) -> ConfusionCounts:
    """Count one image.

    A pixel that the mask gives to the class is no confusion, whatever the context labels say. Pixels of unknown context
    are not confused with anything.

    Args:
        prediction: (H, W) integers, mask values.
        truth: (H, W) integers, mask values, 255 where unknown.
        context: (H, W) integers, context values, 255 where unknown.
        target: Mask value of the class c.
        coincident: Context value k.

    Raises:
        ValueError: If the shapes differ, or ``coincident`` is 255.
    """
    predicted, true, scene = (torch.as_tensor(labels).cpu() for labels in (prediction, truth, context))
    if not predicted.shape == true.shape == scene.shape:
        shapes = [tuple(labels.shape) for labels in (predicted, true, scene)]
        raise ValueError(f"prediction, truth and context differ in shape: {shapes}")
    if coincident == IGNORE:
        raise ValueError(f"context {IGNORE} is what is unknown")
    claimed, there = predicted == target, true == target
    return ConfusionCounts(
        confused=int((claimed & (scene == coincident) & ~there).sum()),
        hits=int((claimed & there).sum()),
        truth=int(there.sum()),
        prediction=int((claimed & (true != IGNORE)).sum()),
    )


def confusion_ratio(counts: ConfusionCounts) -> float:
    """m_{k,c} = FP_{k,c} / TP_c, from 0 without a limit; infinite or, of nothing at all, NaN if there are no hits."""
    if counts.hits == 0:
        return math.inf if counts.confused else math.nan
    return counts.confused / counts.hits


def target_iou(counts: ConfusionCounts) -> float:
    """IoU of the class on the same images; NaN if it is in neither truth nor prediction."""
    union = counts.truth + counts.prediction - counts.hits
    return counts.hits / union if union else math.nan


class ConfusionRatio:
    """Confusion ratios over a set, each with the IoU of its class: counts are added up over all images first.

    Attributes:
        counts: (P, 4) int64 on the CPU, rows of ``ConfusionCounts``; can be summed over processes and put back.

    Args:
        pairs: P pairs of a mask value (the class) and a context value (what coincides with it).
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = tuple(pairs)
        self.counts: Tensor = torch.zeros((len(self.pairs), 4), dtype=torch.int64)

    def update(self, prediction: Labels, truth: Labels, context: Labels) -> None:
        """Add one image; see ``confusion_counts``."""
        for row, pair in zip(self.counts, self.pairs, strict=True):
            row += torch.tensor(confusion_counts(prediction, truth, context, *pair))

    def merge(self, others: Iterable["ConfusionRatio"]) -> None:
        """Add what other processes have counted."""
        for other in others:
            if other.pairs != self.pairs:
                raise ValueError("confusion ratios of different pairs cannot be added")
            self.counts += other.counts

    def ratios(self) -> list[float]:
        """See ``confusion_ratio``; P values."""
        return [confusion_ratio(ConfusionCounts(*row)) for row in self.counts.tolist()]

    def ious(self) -> list[float]:
        """See ``target_iou``; P values."""
        return [target_iou(ConfusionCounts(*row)) for row in self.counts.tolist()]
