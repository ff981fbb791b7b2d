"""Pooling of score maps into one score per class and image."""

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
