"""Numbers: accuracy of regions, contours, boundaries and maps over sets, threshold sweeps, and the protocol's name."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from weakseg.metrics.boundary import (
    BoundaryCounts,
    BoundaryRule,
    SetBoundary,
    boundary_counts,
    boundary_scores,
    label_map_edges,
    matched_pairs,
    matching_distance,
    thinned,
)
from weakseg.metrics.boxes import CAMPrecision, FillingRates, RateSummary, cam_precision, filling_rates
from weakseg.metrics.confusion import (
    ConfusionCounts,
    ConfusionRatio,
    confusion_counts,
    confusion_ratio,
    target_iou,
)
from weakseg.metrics.contour import (
    ContourCounts,
    ContourScores,
    SetContour,
    boundary_map,
    contour_counts,
    contour_f,
    contour_scores,
    disk,
    j_and_f,
    tolerance_radius,
)
from weakseg.metrics.iou import (
    ConfusionMatrix,
    Labels,
    class_counts,
    confusion_matrix,
    iou_per_class,
    left_out,
    mean_iou,
)
from weakseg.metrics.localization import (
    SoftLocalization,
    SoftScores,
    SoftSums,
    map_similarity,
    soft_scores,
    soft_sums,
)
from weakseg.metrics.protocol import (
    Flags,
    ProtocolResult,
    protocol_line,
    protocol_name,
    supervision_name,
)
from weakseg.metrics.sweep import SeedSweep


class SetMetric(Protocol):
    """A number over a set of images; made with the number of mask values, background included."""

    def update(self, prediction: Labels, truth: Labels) -> None:
        """Add one image, (H, W) integers each; 255 in the truth is unknown."""

    def merge(self, others: Iterable[Any]) -> None:
        """Add what other processes have counted."""

    def value(self) -> float:
        """The number, a fraction."""

    def values(self) -> dict[str, float]:
        """This number and others that belong to it, by their names in ``metrics.json``."""


METRICS: dict[str, Callable[[int], SetMetric]] = {
    "miou": ConfusionMatrix,
    "contour_f": SetContour,
    "boundary_f1": lambda _: SetBoundary(),
}

__all__ = [
    "METRICS",
    "BoundaryCounts",
    "BoundaryRule",
    "CAMPrecision",
    "ConfusionCounts",
    "ConfusionMatrix",
    "ConfusionRatio",
    "ContourCounts",
    "ContourScores",
    "FillingRates",
    "Flags",
    "ProtocolResult",
    "RateSummary",
    "SeedSweep",
    "SetBoundary",
    "SetContour",
    "SetMetric",
    "SoftLocalization",
    "SoftScores",
    "SoftSums",
    "boundary_counts",
    "boundary_map",
    "boundary_scores",
    "cam_precision",
    "class_counts",
    "confusion_counts",
    "confusion_matrix",
    "confusion_ratio",
    "contour_counts",
    "contour_f",
    "contour_scores",
    "disk",
    "filling_rates",
    "iou_per_class",
    "j_and_f",
    "label_map_edges",
    "left_out",
    "map_similarity",
    "matched_pairs",
    "matching_distance",
    "mean_iou",
    "protocol_line",
    "protocol_name",
    "soft_scores",
    "soft_sums",
    "supervision_name",
    "target_iou",
    "thinned",
    "tolerance_radius",
]
