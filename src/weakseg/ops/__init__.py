"""Pure tensor maths, usable alone.

The dense CRF can be imported from here, everything else from its module: ``maps``, ``pooling``, ``views``,
``schedules``, ``pairs`` of pixels, ``random_walk`` and ``pamr`` with the ``diffusion`` that both are, ``displacement``
fields, ``box_masks`` (pixels in boxes), ``rois`` (features in boxes), ``enlarged`` features, ``instances`` and
``self_labels``.
"""

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
