"""PAMR: pixel-adaptive mask refinement.

N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, Sec. 3.4.

A pixel takes over the mask values of those neighbours that look like it. How alike two pixels have to be depends on
how much colours vary around them, so that weak edges count in flat surroundings and strong ones do not in texture.
Neighbours lie on squares of several sizes: a few iterations carry a label far. Nothing is learnt, and nothing in here
has a gradient.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from weakseg.ops.diffusion import Engine, diffuse, reach
from weakseg.ops.maps import resize_like

Normalization = Literal["code", "paper"]

DILATIONS = (1, 2, 4, 8, 12, 24)
SPREAD_SCALE = 0.1
LEAST_SPREAD = 1e-8


@torch.no_grad()
def pamr(
    images: Tensor,
    masks: Tensor,
    *,
    dilations: Sequence[int] = DILATIONS,
    iterations: int = 10,
    normalization: Normalization = "code",
    scale: float = SPREAD_SCALE,
    eps: float = LEAST_SPREAD,
    engine: Engine = "auto",
) -> Tensor:
    """Masks that follow the image: m(p) <- sum_q alpha(p, q) m(q) over the neighbours q, repeated.

    The affinities of all neighbours, (B, 8 n, h, w) for n dilations, are held; masks are read neighbour by neighbour.

    Args:
        images: (B, 3, H, W) float in [0, 1].
        masks: (B, K, h, w), any K; refined at this size, to which the images are resized.
        dilations: Half the sides of the squares of neighbours, at least one.
        iterations: 0 or more.
        normalization: As for ``pamr_affinities``.
        scale: As for ``pamr_affinities``.
        eps: As for ``pamr_affinities``.
        engine: As for ``diffuse``.

    Returns:
        (B, K, h, w) of the masks' dtype, float32 for integers and booleans, each within its own range. The sum over K
        stays 1 where it is 1 everywhere.

    Raises:
        ValueError: If images are not floating point or not as many as masks, ``iterations`` is negative, there is no
            such engine for the device, and as ``pamr_affinities``.
    """
    if images.ndim != 4 or masks.ndim != 4 or len(images) != len(masks):
        shapes = f"{tuple(images.shape)} and masks {tuple(masks.shape)}"
        raise ValueError(f"images {shapes} must be (B, 3, H, W) and (B, K, h, w) of the same B")
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more, not {iterations}")
    affinities = pamr_affinities(
        _at_size(images, masks), dilations=dilations, normalization=normalization, scale=scale, eps=eps
    )
    return diffuse(masks, affinities, neighbour_offsets(dilations), iterations, engine=engine)


@torch.no_grad()
def pamr_affinities(
    images: Tensor,
    *,
    dilations: Sequence[int] = DILATIONS,
    normalization: Normalization = "code",
    scale: float = SPREAD_SCALE,
    eps: float = LEAST_SPREAD,
) -> Tensor:
    """Softmax over neighbours of kappa(p, q) = -mean_k |I_k(p) - I_k(q)| / spread_k(p).

    Args:
        images: (B, K, H, W) float in [0, 1].
        dilations: As for ``pamr``.
        normalization: Spread of a colour, from its deviation sigma around the pixel: "code" takes 0.1 sigma, with which
            the released code gets its published results; "paper" takes the variance sigma^2.
        scale: Takes the place of 0.1 in "code"; "paper" has none.
        eps: Added to the spread, so that it is not 0 in flat surroundings.

    Returns:
        (B, 8 n, H, W) float64 for float64, otherwise float32, in the order of ``neighbour_offsets``; the sum over
        neighbours is 1.

    Raises:
        ValueError: If there is no such normalization, images are not floating point, there is no dilation or one below
            1, or ``scale`` or ``eps`` is not positive.
    """
    if normalization not in get_args(Normalization):
        raise ValueError(f"unknown normalization '{normalization}', known: {', '.join(get_args(Normalization))}")
    for name, value in (("scale", scale), ("eps", eps)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, not {value}")
    sigma = local_deviation(images, dilations)
    spread = eps + (scale * sigma if normalization == "code" else sigma.square())
    share = spread.mul_(-images.shape[1]).reciprocal_()
    affinities = sigma.new_empty(len(images), 8 * len(dilations), *images.shape[-2:])
    for affinity, difference in zip(affinities.unbind(1), _differences(images, dilations), strict=True):
        torch.sum(difference.abs_().mul_(share), 1, out=affinity)
    # Not PyTorch's softmax: it rounds differently when the number of threads changes.
    affinities.sub_(affinities.amax(1, keepdim=True)).exp_()
    return affinities.div_(affinities.sum(1, keepdim=True))


@torch.no_grad()
def local_deviation(images: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Standard deviation of each colour over the 3 x 3 samples of every dilation, of which the centre is one each time.

    Args:
        images: (B, K, H, W).
        dilations: As for ``pamr``.

    Returns:
        (B, K, H, W) float64 for float64, otherwise float32; unbiased: divided by 9 n - 1 for n dilations.

    Raises:
        ValueError: If images are not floating point, there is no dilation or one below 1.
    """
    count = 9 * len(dilations)
    total = torch.zeros_like(images, dtype=_precision(images))
    squares = torch.zeros_like(total)
    # Relative to the centre, whose own samples are 0: they are enough for the two terms below not to cancel.
    for difference in _differences(images, dilations):
        total.add_(difference)
        squares.addcmul_(difference, difference)
    return squares.addcmul_(total, total, value=-1 / count).clamp_(min=0).div_(count - 1).sqrt_()


def neighbour_offsets(dilations: Sequence[int] = DILATIONS) -> Tensor:
    """The eight neighbours at every dilation, row by row without the centre, one dilation after the other.

    Returns:
        (8 n, 2) int64 (dy, dx).

    Raises:
        ValueError: If there is no dilation or one below 1.
    """
    if not dilations or min(dilations) < 1:
        raise ValueError(f"dilations must be 1 or more, and at least one of them, not {list(dilations)}")
    square = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    return torch.tensor([(dy * dilation, dx * dilation) for dilation in dilations for dy, dx in square])


def _differences(images: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """I(q) - I(p) for one neighbour q of all pixels p after the other, (B, K, H, W), in the same memory."""
    offsets = neighbour_offsets(dilations)
    (height, width), (ry, rx) = images.shape[-2:], reach(offsets)
    centre = images.to(_precision(images))
    padded = pad(centre, (rx, rx, ry, ry), mode="replicate")
    difference = torch.empty_like(centre)
    for dy, dx in offsets.tolist():
        neighbour = padded[..., ry + dy : ry + dy + height, rx + dx : rx + dx + width]
        yield torch.sub(neighbour, centre, out=difference)


def _at_size(images: Tensor, masks: Tensor) -> Tensor:
    """Images resized to the masks, bilinear with align_corners."""
    if images.shape[-2:] == masks.shape[-2:]:
        return images
    precision = _precision(images)
    # In float32, a flat surface would come out with rounding errors, and their spread is as small as they are.
    precise = images.to(torch.float32 if images.device.type == "mps" else torch.float64)
    return resize_like(precise, masks, align_corners=True).to(precision)


def _precision(images: Tensor) -> torch.dtype:
    """In which images are worked on."""
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(f"images must be floating point in [0, 1], not {kind}; divide 8 bits by 255")
    return torch.promote_types(images.dtype, torch.float32)
