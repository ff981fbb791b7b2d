"""Dense conditional random fields: compiled loops on a CPU, PyTorch on other devices."""

from weakseg.ops.crf.mean_field import (
    Engine,
    dense_crf,
    dense_crf_batch,
    dense_crf_from_unary,
    dense_crf_labels,
    unary_from_labels,
    unary_from_probabilities,
)
from weakseg.ops.crf.parameters import CRF_PARAMETERS, CRFParameters, parameters

__all__ = [
    "CRF_PARAMETERS",
    "CRFParameters",
    "Engine",
    "dense_crf",
    "dense_crf_batch",
    "dense_crf_from_unary",
    "dense_crf_labels",
    "parameters",
    "unary_from_labels",
    "unary_from_probabilities",
]
