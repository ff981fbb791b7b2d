"""Localisation maps: activate, normalise, resize, add a background, take the label.

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, "Learning Deep Features for Discriminative Localization",
CVPR 2016; J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised
Semantic Segmentation", CVPR 2018 (background score).

A classifier that pools features and then weighs them gives the same score as one that weighs first and then pools; the
weighted features before pooling say where each class is. What follows turns such a map into a label map.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

ResizeMode = Literal["bilinear", "nearest"]


def class_activation(features: Tensor, weight: Tensor) -> Tensor:
    """Class activation maps M_c = sum_k w_ck f_k (Zhou et al., Eq. 2), not rectified.

    Their mean over positions is the logit of a classifier without bias.

    Args:
        features: (B, K, h, w).
        weight: (C, K), or (C, K, 1, 1) as a 1x1 convolution holds it.

    Returns:
        (B, C, h, w), any sign.
    """
    return torch.einsum("ck,bkhw->bchw", weight.flatten(1), features)


def normalize_max(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Each map divided by its own maximum, after negative values are set to 0: relu(M) / (max relu(M) + eps).

    Args:
        maps: (..., h, w).
        eps: Added to the maximum; a map without a positive value stays 0.

    Returns:
        (..., h, w) in [0, 1].
    """
    return _ratio(maps.relu(), _highest(maps.relu()) + eps)


def normalize_minmax(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Each map stretched from its own minimum and maximum to 0 and 1: (M - min M) / (max M - min M + eps).

    Args:
        maps: (..., h, w), any sign.
        eps: Added to the range; a constant map becomes 0, also for ``eps=0``.

    Returns:
        (..., h, w) in [0, 1].
    """
    above = maps + _highest(-maps)
    return _ratio(above, _highest(above) + eps)


def _highest(maps: Tensor) -> Tensor:
    return maps.amax((-2, -1), keepdim=True) if maps.numel() else maps.new_zeros(*maps.shape[:-2], 1, 1)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator / torch.where(denominator > 0, denominator, torch.ones_like(denominator))


def resize(
    maps: Tensor, size: tuple[int, int], mode: ResizeMode = "bilinear", *, align_corners: bool = False
) -> Tensor:
    """Resize over the last two dimensions, without a low-pass filter when shrinking, as the field's codebases do.

    Args:
        maps: (..., h, w), any number of leading dimensions, also of length 0.
        size: Height and width wanted, both positive.
        mode: "bilinear", for floating-point maps; or "nearest", which reads row ``floor(i * h / height)`` of maps of
            any dtype.
        align_corners: For "bilinear": the centres of the corner pixels stay in place, instead of the image's edges.

    Returns:
        (..., *size).

    Raises:
        ValueError: If ``mode`` is neither.
    """
    height, width = size
    if tuple(maps.shape[-2:]) == (height, width):
        return maps
    if mode == "nearest":
        # Whole numbers: the floating-point scale of ``interpolate`` misses some rows by one.
        rows = torch.arange(height, device=maps.device) * maps.shape[-2] // height
        columns = torch.arange(width, device=maps.device) * maps.shape[-1] // width
        return maps[..., rows[:, None], columns]
    if mode != "bilinear":
        raise ValueError(f"unknown resize mode '{mode}': bilinear or nearest")
    leading = maps.shape[:-2]
    if leading.numel() == 0:
        return maps.new_zeros(*leading, height, width)
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return interpolate(flat, size=(height, width), mode="bilinear", align_corners=align_corners).view(
        *leading, height, width
    )


def resize_like(maps: Tensor, like: Tensor, mode: ResizeMode = "bilinear", *, align_corners: bool = False) -> Tensor:
    """``resize`` to the height and width of another tensor; the other dimensions may differ."""
    return resize(maps, (like.shape[-2], like.shape[-1]), mode, align_corners=align_corners)


def unflip(maps: Tensor) -> Tensor:
    """Mirror (..., h, w) left to right: a map of the mirrored image back in the image's own frame."""
    return maps.flip(-1)


def strided_size(length: int, stride: int) -> int:
    """Number of pixels that a step of ``stride`` meets, the first one included: floor((n - 1) / stride) + 1.

    It is also the output length of a convolution or pooling of odd size k with padding (k - 1) / 2.
    """
    return (length - 1) // stride + 1


def output_size(length: int, halvings: int = 3) -> int:
    """Length after several layers of stride 2 in a row; three in ResNet38, four in ResNet50 at output stride 16."""
    for _ in range(halvings):
        length = strided_size(length, 2)
    return length


def padded_size(length: int, multiple: int) -> int:
    """The next length that ``multiple`` divides."""
    return -(-length // multiple) * multiple


def power_background(scores: Tensor, alpha: float) -> Tensor:
    """Background score (1 - max_c M_c)^alpha (Ahn and Kwak, Eq. 2).

    Args:
        scores: (..., P, h, w) in [0, 1], P may be 0.
        alpha: Larger makes less background.

    Returns:
        (..., h, w) in [0, 1], all ones for P = 0.
    """
    return (1 - _strongest(scores)).clamp(min=0) ** alpha


def constant_background(scores: Tensor, threshold: float) -> Tensor:
    """The same background score everywhere.

    Args:
        scores: (..., P, h, w), P may be 0.
        threshold: A pixel is foreground where a score is above it.

    Returns:
        (..., h, w), of the scores' dtype.
    """
    return scores.new_full((*scores.shape[:-3], *scores.shape[-2:]), threshold)


def _strongest(scores: Tensor) -> Tensor:
    return scores.amax(-3) if scores.shape[-3] else constant_background(scores, 0.0)


def label_map(scores: Tensor, background: Tensor, classes: Tensor) -> Tensor:
    """Mask of the strongest score; background wins a tie with a class, an earlier class one with a later class.

    Args:
        scores: (P, h, w), P may be 0.
        background: (h, w), of the scores' range.
        classes: (P,) int64 in [0, 254), in ascending order if the lower class shall win ties.

    Returns:
        (h, w) uint8, 0 background, class + 1.
    """
    values = torch.cat([classes.new_zeros(1), classes + 1]).to(torch.uint8)
    strongest = torch.cat([background[None].to(scores.dtype), scores]).argmax(0)
    return values.to(strongest.device)[strongest]
