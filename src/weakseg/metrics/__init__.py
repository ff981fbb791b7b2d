"""Numbers: region and contour accuracy over sets, threshold sweeps, and the protocol that names them."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

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


METRICS: dict[str, Callable[[int], SetMetric]] = {"miou": ConfusionMatrix, "contour_f": SetContour}

__all__ = [
    "METRICS",
    "ConfusionMatrix",
    "ContourCounts",
    "ContourScores",
    "Flags",
    "ProtocolResult",
    "SeedSweep",
    "SetContour",
    "SetMetric",
    "boundary_map",
    "class_counts",
    "confusion_matrix",
    "contour_counts",
    "contour_f",
    "contour_scores",
    "disk",
    "iou_per_class",
    "j_and_f",
    "left_out",
    "mean_iou",
    "protocol_line",
    "protocol_name",
    "supervision_name",
    "tolerance_radius",
]
