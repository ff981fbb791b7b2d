"""Random walk over pixels that belong together.

J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2018 (AffinityNet); J. Ahn, S. Cho, S. Kwak, "Weakly Supervised Learning of Instance Segmentation
with Inter-pixel Relations", CVPR 2019 (IRN).

Affinities say how alike nearby pixels are, or whether a boundary runs between them. A walk that prefers like pixels
carries the scores of a localisation map over the rest of the object, and stops at its edge. Both papers multiply the
dense matrix of transitions by itself, 552 MB for a grid of 94 x 125 pixels; here the walk goes step by step on the few
links that each pixel has.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from weakseg.ops.diffusion import Engine, diffuse
from weakseg.ops.pairs import maximum_along, pair_offsets, pair_window, path_offsets, search_paths, training_window

Connection = Literal["all", "cropped"]


@dataclass(frozen=True)
class Links:
    """Affinities of every pixel with those at some offsets; a link holds in both directions.

    Attributes:
        offsets: (O, 2) int64 (dy, dx), of each pair of opposite ones only one.
        weights: (O, H, W) in [0, 1]; 0 where the offset leads out of the grid.
    """

    offsets: Tensor
    weights: Tensor

    def matrix(self) -> Tensor:
        """All affinities A, (H * W, H * W): symmetric with unit diagonal; for small grids."""
        height, width = self.weights.shape[-2:]
        number = torch.arange(height * width, device=self.weights.device).view(height, width)
        matrix = torch.eye(height * width, dtype=self.weights.dtype, device=self.weights.device)
        for weight, (dy, dx) in zip(self.weights, self.offsets.tolist(), strict=True):
            window = pair_window(height, width, dy, dx)
            here, there = window.of(number), window.of(number, dy, dx)
            matrix[here, there] = matrix[there, here] = window.of(weight)
        return matrix


@torch.no_grad()
def feature_links(features: Tensor, radius: int, connect: Connection = "all") -> Links:
    """Affinities of features, a_ij = exp(-mean_k |f_k(i) - f_k(j)|) (AffinityNet, Eq. 3; the mean is the code's).

    Args:
        features: (D, H, W) float, D > 0.
        radius: Links are shorter than this; AffinityNet takes 5.
        connect: "all" links every pair of pixels in the grid; "cropped" only those of the sources of training, as the
            released code does: pixels at the left, right and lower edge then have fewer links, or none.

    Returns:
        Links in the order of ``pair_offsets``, float64 for float64, otherwise float32.

    Raises:
        ValueError: If ``connect`` is neither.
    """
    if connect not in ("all", "cropped"):
        raise ValueError(f"unknown connection '{connect}': all or cropped")
    (_, height, width), offsets = features.shape, pair_offsets(radius)
    precise = features.to(torch.promote_types(features.dtype, torch.float32))
    weights = precise.new_zeros(len(offsets), height, width)
    for weight, (dy, dx) in zip(weights, offsets.tolist(), strict=True):
        cropped = connect == "cropped"
        window = training_window(height, width, radius) if cropped else pair_window(height, width, dy, dx)
        difference = window.of(precise, dy, dx) - window.of(precise)
        window.of(weight).copy_(difference.abs_().mean(0).neg_().exp_())
    return Links(offsets, weights)


@torch.no_grad()
def boundary_links(boundary: Tensor, radius: int) -> Links:
    """Affinities that a boundary leaves, a_ij = 1 - max of the boundary between i and j (IRN, Sec. 4.4).

    Args:
        boundary: (H, W) float in [0, 1].
        radius: Links are shorter than this; IRN takes 5 for the walk.

    Returns:
        Links of all pairs in the grid in the order of ``path_offsets``, float64 for float64, otherwise float32.
    """
    (height, width), offsets = boundary.shape, path_offsets(radius)
    precise = boundary.to(torch.promote_types(boundary.dtype, torch.float32))
    weights = precise.new_zeros(len(offsets), height, width)
    paths = [path for group in search_paths(radius) for path in group.tolist()]
    for weight, path in zip(weights, paths, strict=True):
        window = pair_window(height, width, *path[0])
        window.of(weight).copy_(1 - maximum_along(path, precise, window))
    return Links(offsets, weights)


def transitions(links: Links, beta: float) -> tuple[Tensor, Tensor]:
    """From where a pixel is reached, and with which probability.

    T is A with each element to the power beta, each column divided by its sum: T_ij = A_ij^beta / sum_i A_ij^beta.

    Args:
        links: The affinities A but for the diagonal, which is 1.
        beta: Positive; the larger, the less a weak link counts.

    Returns:
        (2 O, 2) offsets (dy, dx), and (2 O, H, W) probabilities, float64 for links in float64, otherwise float32:
        element k, j is T_ij for i = j + offset_k. What their sum over k leaves of 1 is T_jj.

    Raises:
        ValueError: If ``beta`` is not positive.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    ahead = links.weights.to(torch.promote_types(links.weights.dtype, torch.float32)) ** beta
    behind = torch.zeros_like(ahead)
    for strength, reverse, (dy, dx) in zip(ahead, behind, links.offsets.tolist(), strict=True):
        window = pair_window(strength.shape[0], strength.shape[1], dy, dx)
        window.of(reverse, dy, dx).copy_(window.of(strength))
    column_sum = 1 + ahead.sum(0) + behind.sum(0)
    return torch.cat([links.offsets, -links.offsets]), torch.cat([ahead, behind]).div_(column_sum)


@torch.no_grad()
def random_walk(maps: Tensor, links: Links, *, beta: float, steps: int, engine: Engine = "auto") -> Tensor:
    """Maps after a walk of some steps, M T^steps (AffinityNet, Sec. 3.3; IRN, Sec. 5.2).

    Every value is a weighted mean of those that its map had before.

    Args:
        maps: (C, H, W); C may be 0. float64 walks in float64, everything else in float32.
        links: Of the same grid.
        beta: As for ``transitions``; AffinityNet takes 8, IRN 10.
        steps: Length of the walk, 2^t for t squarings of T; 256 in both papers, 64 in SEAM.
        engine: As for ``diffuse``.

    Returns:
        (C, H, W) of the maps' dtype, float32 for integers and booleans, each map within its own range.

    Raises:
        ValueError: If ``beta`` is not positive, and as ``diffuse``, for links of another grid, say.
    """
    offsets, probabilities = transitions(links, beta)
    return diffuse(maps[None], probabilities[None], offsets, steps, engine=engine)[0]
