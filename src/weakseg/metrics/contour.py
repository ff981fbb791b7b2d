"""Contour accuracy F: how well the outlines of two masks agree.

F. Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016; over a
whole set as in A. Jonnarth, Y. Zhang, M. Felsberg, "High-fidelity Pseudo-labels for Boosting Weakly-Supervised
Segmentation", WACV 2024.

IoU hardly sees the outline of a large object. F asks which share of each outline lies within a few pixels of the other
one; the tolerance grows with the image. One outline is thickened and compared with the other (not matched one to one).
"""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakseg.metrics.iou import IGNORE, Labels, label_array

Void = Literal["background", "mask"]

BOUND = 0.008


class ContourCounts(NamedTuple):
    """Outline pixels; they may be added up over images before ``contour_scores``.

    Attributes:
        prediction_matched: m_p, of the prediction, within the tolerance of the truth's outline.
        truth_matched: m_g, of the truth, within the tolerance of the prediction's outline.
        prediction: n_p, of the prediction.
        truth: n_g, of the truth.
    """

    prediction_matched: int
    truth_matched: int
    prediction: int
    truth: int


class ContourScores(NamedTuple):
    """Precision, recall and their harmonic mean, in [0, 1]."""

    precision: float
    recall: float
    f: float


def boundary_map(mask: Labels) -> NDArray[np.bool_]:
    """Pixels that differ from their right, lower or lower-right neighbour; outside the image nothing differs.

    The outline thus lies on the pixel left of or above a step, inside the object or outside of it.

    Args:
        mask: (H, W), non-zero inside.

    Returns:
        (H, W).
    """
    inside = label_array(mask).astype(bool)
    boundary = np.zeros_like(inside)
    boundary[:, :-1] |= inside[:, :-1] ^ inside[:, 1:]
    boundary[:-1] |= inside[:-1] ^ inside[1:]
    boundary[:-1, :-1] |= inside[:-1, :-1] ^ inside[1:, 1:]
    return boundary


def tolerance_radius(height: int, width: int, bound: float = BOUND) -> float:
    """Tolerance in pixels: ``bound`` times the diagonal, rounded up; or ``bound`` itself if it is 1 or more."""
    return bound if bound >= 1 else math.ceil(bound * math.hypot(height, width))


def disk(radius: float) -> NDArray[np.uint8]:
    """(2r + 1, 2r + 1) with ones where dy^2 + dx^2 <= radius^2, r = floor(radius)."""
    reach = np.arange(-math.floor(radius), math.floor(radius) + 1)
    return (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.uint8)


def contour_counts(
    prediction: Labels, truth: Labels, bound: float = BOUND, void: Labels | None = None
) -> ContourCounts:
    """Count the outline pixels of two masks of one object.

    Args:
        prediction: (H, W), non-zero inside.
        truth: (H, W), non-zero inside.
        bound: See ``tolerance_radius``.
        void: (H, W), non-zero where both masks are emptied first (DAVIS).

    Returns:
        The four counts.

    Raises:
        ValueError: If the shapes differ.
    """
    predicted, true = label_array(prediction).astype(bool), label_array(truth).astype(bool)
    if predicted.shape != true.shape:
        raise ValueError(f"prediction {predicted.shape} and truth {true.shape} differ in shape")
    if void is not None:
        kept = ~label_array(void).astype(bool)
        predicted, true = predicted & kept, true & kept
    height, width = true.shape
    footprint = disk(tolerance_radius(height, width, bound))
    of_prediction, of_truth = boundary_map(predicted), boundary_map(true)
    return ContourCounts(
        prediction_matched=int((of_prediction & _dilate(of_truth, footprint)).sum()),
        truth_matched=int((of_truth & _dilate(of_prediction, footprint)).sum()),
        prediction=int(of_prediction.sum()),
        truth=int(of_truth.sum()),
    )


def contour_scores(counts: ContourCounts) -> ContourScores:
    """P = m_p / n_p, R = m_g / n_g, F = 2 P R / (P + R).

    Two masks without outline agree (F = 1); if only one has an outline, F = 0.
    """
    if counts.prediction == 0 or counts.truth == 0:
        both = counts.prediction == counts.truth
        precision, recall = float(counts.prediction == 0), float(counts.truth == 0)
        return ContourScores(precision, recall, float(both))
    precision, recall = counts.prediction_matched / counts.prediction, counts.truth_matched / counts.truth
    total = precision + recall
    return ContourScores(precision, recall, 2 * precision * recall / total if total else 0.0)


def contour_f(prediction: Labels, truth: Labels, bound: float = BOUND, void: Labels | None = None) -> float:
    """F of one object in one image; arguments as in ``contour_counts``."""
    return contour_scores(contour_counts(prediction, truth, bound, void)).f


def j_and_f(j: float, f: float) -> float:
    """J&F, the mean of region and contour accuracy."""
    return (j + f) / 2


class SetContour:
    """Contour F over a set: counts are added up over all images, then one F per object class, then their mean.

    Background has no F of its own. A class that neither has an outline scores 1, so every class counts always.

    Attributes:
        counts: (K - 1, 4) int64 on the CPU, rows of ``ContourCounts``; can be summed over processes and put back.

    Args:
        num_classes: K, background included.
        bound: See ``tolerance_radius``.
        void: What 255 in the truth means: "background", so object outlines lie on the inner side of VOC's void ring
            and predictions there stay; "mask", both masks are emptied there.
    """

    def __init__(self, num_classes: int, bound: float = BOUND, void: Void = "background") -> None:
        if void not in get_args(Void):
            raise ValueError(f"unknown void rule '{void}': {', '.join(get_args(Void))}")
        self.num_classes, self.bound, self.void = num_classes, bound, void
        self.counts: Tensor = torch.zeros((num_classes - 1, 4), dtype=torch.int64)

    def update(self, prediction: Labels, truth: Labels) -> None:
        """Add one image.

        Args:
            prediction: (H, W) integers; values of no object class have no outline of their own.
            truth: (H, W) integers, 255 where unknown.
        """
        predicted, true = label_array(prediction), label_array(truth)
        void = true == IGNORE if self.void == "mask" else None
        for value in np.union1d(predicted, true):
            if 1 <= value < self.num_classes:  # a class in neither adds nothing
                counts = contour_counts(predicted == value, true == value, self.bound, void)
                self.counts[int(value) - 1] += torch.tensor(counts)

    def merge(self, others: Iterable["SetContour"]) -> None:
        """Add what other processes have counted."""
        for other in others:
            if (other.num_classes, other.bound, other.void) != (self.num_classes, self.bound, self.void):
                raise ValueError("contour counts of different classes or tolerances cannot be added")
            self.counts += other.counts

    def f_per_class(self) -> list[float]:
        """F of each object class, K - 1 values; element c belongs to mask value c + 1."""
        return [contour_scores(ContourCounts(*row)).f for row in self.counts.tolist()]

    def value(self) -> float:
        """Mean F over object classes."""
        per_class = self.f_per_class()
        return sum(per_class) / len(per_class)

    def values(self) -> dict[str, float]:
        """The same by its name in ``metrics.json``."""
        return {"contour_f": self.value()}


def _dilate(boundary: NDArray[np.bool_], footprint: NDArray[np.uint8]) -> NDArray[np.bool_]:
    if not boundary.any():
        return boundary
    return cv2.dilate(boundary.astype(np.uint8), footprint).astype(bool)
