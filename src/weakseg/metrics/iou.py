"""Intersection over union of whole sets.

M. Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015.

Everything follows from one table of counts, added up over all images: an average of averages would weigh images and
processes instead of pixels. Only the truth may abstain (255). A prediction that names no class, 255 included, has
missed its pixel: such pixels have a column of their own, the last one, so that they stay in the truth's total.
"""

from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE = 255
Absent = Literal["skip", "eps", "gt-only"]
Labels = Tensor | NDArray[Any]

_EPS = 1e-10


def label_array(labels: Labels) -> NDArray[Any]:
    """Labels as an array on the CPU."""
    return labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)


def confusion_matrix(prediction: Labels, truth: Labels, num_classes: int, ignore: int = IGNORE) -> Tensor:
    """Pixels counted by true and predicted class.

    Args:
        prediction: (...) integers; what is outside [0, num_classes), 255 for instance, belongs to no class and is
            wrong.
        truth: (...) integers in [0, num_classes) or ``ignore``, of the same shape.
        num_classes: K, background included.
        ignore: Value in ``truth`` of pixels that count nowhere.

    Returns:
        (K, K + 1) int64; rows truth, columns prediction, the last column for predictions of no class.

    Raises:
        ValueError: If the shapes differ, or ``truth`` has another value.
    """
    predicted, true = _integers(prediction), _integers(truth)
    if predicted.shape != true.shape:
        raise ValueError(f"prediction {tuple(predicted.shape)} and truth {tuple(true.shape)} differ in shape")
    ignored = true == ignore
    unknown = ((true < 0) | (true >= num_classes)) & ~ignored
    if unknown.any():
        raise ValueError(f"the truth has value {int(true[unknown][0])}, known are 0 to {num_classes - 1} and {ignore}")
    predicted = predicted.to(true.device)
    predicted = torch.where((predicted < 0) | (predicted > num_classes), num_classes, predicted)
    rows = torch.where(ignored, num_classes, true)  # a row more, dropped below, is faster than selecting pixels
    counts = torch.bincount((rows * (num_classes + 1) + predicted).flatten(), minlength=(num_classes + 1) ** 2)
    return counts.view(num_classes + 1, num_classes + 1)[:-1]


def iou_per_class(confusion: Tensor, absent: Absent = "skip") -> Tensor:
    """TP / (T + P - TP) for each class, with T pixels in the truth and P predicted.

    Papers differ in what they do with a class that the truth lacks (T = 0); they agree where every class occurs.

    Args:
        confusion: (..., K, K) or (..., K, K + 1), see ``confusion_matrix``.
        absent: "skip" leaves out a class that is neither in the truth nor predicted (IRN, SIPE); "eps" counts it as 0
            (SEAM, MCTformer's seeds, Spatial-BCE); "gt-only" also leaves out one that is predicted alone
            (deeplab-pytorch, PMM). In the others a class that is predicted alone counts as 0.

    Returns:
        (..., K) float64 in [0, 1], NaN where a class is left out.

    Raises:
        ValueError: If ``absent`` is none of these.
    """
    if absent not in get_args(Absent):
        raise ValueError(f"unknown convention '{absent}': {', '.join(get_args(Absent))}")
    hits, in_truth, predicted = class_counts(confusion)
    union = (in_truth + predicted - hits).double()
    if absent == "eps":
        return hits / (union + _EPS)
    left_out = (union if absent == "skip" else in_truth) == 0
    return torch.where(left_out, torch.nan, hits / union.clamp(min=1))


def class_counts(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, pixels in the truth and predicted pixels of each class.

    Args:
        confusion: (..., K, K) or (..., K, K + 1).

    Returns:
        Three of (..., K).
    """
    classes = confusion[..., : confusion.shape[-2]]
    return classes.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), classes.sum(-2)


def mean_iou(confusion: Tensor, absent: Absent = "skip") -> float:
    """Mean over classes, background included, of ``iou_per_class``; NaN if every class is left out."""
    return float(iou_per_class(confusion, absent).nanmean())


def left_out(confusion: Tensor, absent: Absent = "skip") -> list[int]:
    """Mask values of the classes that ``mean_iou`` leaves out, to be reported beside it."""
    return torch.nonzero(iou_per_class(confusion, absent).isnan())[:, 0].tolist()


class ConfusionMatrix:
    """Counts over a set, image by image.

    Attributes:
        counts: (K, K + 1) int64 on the CPU; plain, so that it can be saved, or summed over processes and put back.

    Args:
        num_classes: K, background included.
        ignore: Value in the truth of pixels that count nowhere.
        counts: Counts to start from.
    """

    def __init__(self, num_classes: int, ignore: int = IGNORE, counts: Tensor | None = None) -> None:
        self.num_classes, self.ignore = num_classes, ignore
        shape = (num_classes, num_classes + 1)
        self.counts = torch.zeros(shape, dtype=torch.int64) if counts is None else counts.to("cpu", torch.int64).clone()
        if self.counts.shape != shape:
            raise ValueError(f"counts of shape {tuple(self.counts.shape)}, expected {shape}")

    def update(self, prediction: Labels, truth: Labels) -> None:
        """Add one image or more; see ``confusion_matrix``."""
        self.counts += confusion_matrix(prediction, truth, self.num_classes, self.ignore).cpu()

    def merge(self, others: Iterable["ConfusionMatrix"]) -> None:
        """Add what other processes have counted."""
        for other in others:
            if other.num_classes != self.num_classes or other.ignore != self.ignore:
                raise ValueError("confusion matrices of different classes cannot be added")
            self.counts += other.counts

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        total = ConfusionMatrix(self.num_classes, self.ignore, self.counts)
        total.merge([other])
        return total

    def iou(self, absent: Absent = "skip") -> Tensor:
        """See ``iou_per_class``."""
        return iou_per_class(self.counts, absent)

    def miou(self, absent: Absent = "skip") -> float:
        """See ``mean_iou``."""
        return mean_iou(self.counts, absent)

    def left_out(self, absent: Absent = "skip") -> list[int]:
        """See the function ``left_out``."""
        return left_out(self.counts, absent)

    def value(self) -> float:
        """The mIoU, a class absent from both left out."""
        return self.miou()

    def values(self) -> dict[str, float]:
        """The same by its name in ``metrics.json``."""
        return {"miou": self.value()}


def _integers(labels: Labels) -> Tensor:
    tensor = torch.as_tensor(labels)
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"labels are integers, not {tensor.dtype}")
    return tensor.long()
