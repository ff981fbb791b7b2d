"""Pure tensor maths, usable alone: maps, pooling, views, schedules and the dense CRF."""

from weakseg.ops.crf import (
    CRF_PARAMETERS,
    CRFParameters,
    dense_crf,
    dense_crf_batch,
    dense_crf_from_unary,
    dense_crf_labels,
)

__all__ = [
    "CRF_PARAMETERS",
    "CRFParameters",
    "dense_crf",
    "dense_crf_batch",
    "dense_crf_from_unary",
    "dense_crf_labels",
]
