"""Pooling of score maps into one score per class and image."""

import torch
from torch import Tensor


def gap(scores: Tensor) -> Tensor:
    """Global average pooling.

    M. Lin, Q. Chen, S. Yan, "Network in Network", ICLR 2014. Every position counts alike, so the maps cover much of
    the object.

    Args:
        scores: (..., h, w), h and w positive.

    Returns:
        (...).
    """
    return scores.mean((-2, -1))


def gmp(scores: Tensor) -> Tensor:
    """Global maximum pooling.

    M. Oquab, L. Bottou, I. Laptev, J. Sivic, "Is Object Localization for Free?", CVPR 2015. One position explains the
    score, so the maps stay small; the gradient is shared between equal maxima.

    Args:
        scores: (..., h, w), h and w positive.

    Returns:
        (...).
    """
    return scores.amax((-2, -1))


def gsp(scores: Tensor) -> Tensor:
    """Global sum pooling, as the CAM paper writes its classifier; grows with the number of positions.

    Args:
        scores: (..., h, w).

    Returns:
        (...).
    """
    return scores.sum((-2, -1))


def ngwp(scores: Tensor, masks: Tensor, eps: float = 1.0) -> Tensor:
    """Normalised global weighted pooling: the mean of the scores inside a soft mask, whatever its size.

    N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020. The gradient goes through
    scores and masks.

    Args:
        scores: (..., h, w).
        masks: (..., h, w), not negative.
        eps: Added to the size of the mask, in positions: a mask of less than that draws the score towards 0. The paper
            has a "small" one, its code 1.

    Returns:
        (...); 0 for an empty mask.
    """
    size = eps + masks.sum((-2, -1))
    return (masks * scores).sum((-2, -1)) / size.clamp(min=torch.finfo(size.dtype).tiny)
