"""Means and norms of an enlarged map, without enlarging it.

Enlarging is linear: every value is a weighted sum of the map's own, the same weights for all channels. A mean over
pixels is therefore a weighted sum over cells, exactly, and the square of a norm a sum of inner products of neighbouring
cells. A thousand channels at the size of a photograph, which hardly fit into memory, are never made.

Enlarging here is bilinear and keeps the centres of the corner pixels in place (align_corners=True).
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from weakseg.ops.rois import sample_squares, whole_rois

Size = tuple[int, int]


def interpolation(length: int, target: int, like: Tensor) -> Tensor:
    """Weights of linear interpolation along one axis.

    Args:
        length: Of the map.
        target: Of the enlarged map.
        like: Has the device and the floating-point type wanted.

    Returns:
        (target, length), rows sum to 1 and have at most two entries, which are neighbours.
    """
    units = torch.eye(length, dtype=like.dtype, device=like.device)
    return interpolate(units[None], size=target, mode="linear", align_corners=True)[0].T


def enlarged(maps: Tensor, size: Size) -> Tensor:
    """(K, h, w) to (K, *size)."""
    rows, columns = _interpolations(maps, size)
    return rows @ maps @ columns.T


def masked_means(features: Tensor, masks: Tensor) -> Tensor:
    """Mean of the enlarged features over the pixels of each mask.

    Args:
        features: (D, h, w).
        masks: (K, H, W) bool.

    Returns:
        (K, D) of the features' type, 0 for an empty mask.
    """
    rows, columns = _interpolations(features, (masks.shape[1], masks.shape[2]))
    pixels = masks.to(features.dtype)
    weights = rows.T @ pixels @ columns  # how much of each cell there is in the mask's pixels
    counts = masks.flatten(1).sum(1).clamp(min=1)
    return torch.einsum("khw,dhw->kd", weights, features) / counts[:, None]


def enlarged_norms(features: Tensor, size: Size) -> Tensor:
    """Euclidean length of the enlarged features at every pixel.

    Args:
        features: (D, h, w).
        size: Height and width of the enlarged map.

    Returns:
        (H, W), not negative.
    """
    alone = features[None]
    return sample_squares(alone, whole_rois(size, alone))[0].sqrt()


def _interpolations(maps: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """For rows and columns."""
    height, width = size
    return interpolation(maps.shape[-2], height, maps), interpolation(maps.shape[-1], width, maps)
