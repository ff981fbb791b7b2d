"""The background threshold that suits a set of seeds best, and what every other one would give.

A seed is the arg-max over [threshold, class scores]. Publications choose the threshold by the best mIoU on the training
masks; a number made this way has to say so (``Flags.threshold_swept``). Which class would win does not depend on the
threshold, only whether it wins: each pixel is counted once, under its best class and the number of thresholds below
its best score. Sums over these counts give the confusion matrix of every threshold.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from weakseg.metrics.iou import IGNORE, Absent, ConfusionMatrix, mean_iou

DEFAULT_THRESHOLDS = tuple(step / 100 for step in range(100))


class SeedSweep:
    """Confusion matrices of seeds for a grid of background thresholds, image by image.

    Args:
        num_classes: K, background included.
        thresholds: Ascending; 0.00 to 0.99 in steps of 0.01 covers all published ranges.
        ignore: Value in the truth of pixels that count nowhere.

    Raises:
        ValueError: If there are no thresholds or they do not ascend.
    """

    def __init__(
        self, num_classes: int, thresholds: Sequence[float] = DEFAULT_THRESHOLDS, ignore: int = IGNORE
    ) -> None:
        if not thresholds or any(lower >= upper for lower, upper in pairwise(thresholds)):
            raise ValueError("thresholds have to ascend, and there has to be one")
        self.num_classes, self.thresholds, self.ignore = num_classes, tuple(thresholds), ignore
        # counts[n, t, c]: pixels of truth t whose best class c has a score above n thresholds
        self.counts = torch.zeros((len(thresholds) + 1, num_classes, num_classes), dtype=torch.int64)

    def update(self, scores: Tensor, classes: Tensor, truth: Tensor) -> None:
        """Add one image.

        Args:
            scores: (P, H, W) in [0, 1], at the truth's size; P may be 0, then everything is background.
            classes: (P,) int64 in [0, K - 1), ascending; class c has mask value c + 1.
            truth: (H, W) integers in [0, K) or ``ignore``.

        Raises:
            ValueError: If the sizes differ, or a value of ``truth`` or ``classes`` is out of range.
        """
        if scores.shape[-2:] != truth.shape or len(scores) != len(classes):
            raise ValueError(f"scores {tuple(scores.shape)}, {len(classes)} classes and truth {tuple(truth.shape)}")
        true, classes = truth.to(scores.device).long(), classes.to(scores.device)
        ignored = true == self.ignore
        for name, values, end in (
            ("truth", true.masked_fill(ignored, 0), self.num_classes),
            ("classes", classes, self.num_classes - 1),
        ):
            if ((values < 0) | (values >= end)).any():
                raise ValueError(f"{name} has a value outside 0 to {end - 1}")
        above, best = self._best(scores, classes)
        rows = torch.where(ignored, self.num_classes, true)  # a row more, dropped below
        shape = (len(self.counts), self.num_classes + 1, self.num_classes)
        index = (above * shape[1] + rows) * shape[2] + best
        self.counts += torch.bincount(index.flatten(), minlength=math.prod(shape)).view(shape)[:, :-1].cpu()

    def _best(self, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """(H, W) each: number of thresholds below the best score, and mask value of the best class."""
        if len(classes) == 0:
            nothing = torch.zeros(scores.shape[1:], dtype=torch.int64, device=scores.device)
            return nothing, nothing
        best, winner = scores.max(0)
        # Rounded as the scores are: 0.3 as a float32 score ties with threshold 0.3, and background wins the tie.
        grid = torch.tensor(self.thresholds, dtype=scores.dtype, device=scores.device)
        searched = torch.promote_types(scores.dtype, torch.float32)
        return torch.bucketize(best.to(searched), grid.to(searched)), classes[winner] + 1

    def merge(self, others: Iterable["SeedSweep"]) -> None:
        """Add what other processes have counted."""
        for other in others:
            if (other.num_classes, other.thresholds, other.ignore) != (self.num_classes, self.thresholds, self.ignore):
                raise ValueError("sweeps over different classes or thresholds cannot be added")
            self.counts += other.counts

    def confusions(self) -> Tensor:
        """(T, K, K + 1) int64, one confusion matrix for each threshold; see ``confusion_matrix``."""
        foreground = self.counts[1:].flip(0).cumsum(0).flip(0)
        in_truth = self.counts.sum((0, 2))
        foreground[:, :, 0] = in_truth - foreground.sum(2)
        return torch.cat([foreground, torch.zeros_like(foreground[:, :, :1])], dim=2)

    def curve(self, absent: Absent = "skip") -> list[tuple[float, float]]:
        """Every threshold with its mIoU; conventions as in ``iou_per_class``."""
        mious = [mean_iou(confusion, absent) for confusion in self.confusions()]
        return list(zip(self.thresholds, mious, strict=True))

    def best(self, absent: Absent = "skip") -> tuple[float, ConfusionMatrix]:
        """The threshold of the highest mIoU, the lower one of two that tie, and its confusion matrix."""
        curve = [(-1.0 if miou != miou else miou) for _, miou in self.curve(absent)]  # NaN if no pixel was counted
        index = curve.index(max(curve))
        return self.thresholds[index], ConfusionMatrix(self.num_classes, self.ignore, self.confusions()[index])
