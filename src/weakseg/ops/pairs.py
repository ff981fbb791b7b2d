"""Pairs of nearby pixels: which there are, what their labels say, what lies between them.

J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2018 (AffinityNet); J. Ahn, S. Cho, S. Kwak, "Weakly Supervised Learning of Instance Segmentation
with Inter-pixel Relations", CVPR 2019 (IRN).

A pair is a source pixel and the pixel at one of O offsets (dy, dx), its destination. The offsets fill half a disc, so
that each pair counts once. In training, both papers take only those sources whose whole half disc lies in the grid: S
of them, row by row.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Path = tuple[tuple[int, int], ...]


class Window(NamedTuple):
    """A rectangle of source pixels: rows top to bottom - 1, columns left to right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, maps: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
        """The (..., rows, columns) part of (..., H, W) maps that lies at an offset from the sources: a view."""
        return maps[..., self.top + dy : self.bottom + dy, self.left + dx : self.right + dx]


def training_window(height: int, width: int, radius: int) -> Window:
    """Sources of which every destination is in the grid: rows 0 to H - r, columns r - 1 to W - r."""
    return Window(0, max(0, height - radius + 1), radius - 1, max(radius - 1, width - radius + 1))


def pair_window(height: int, width: int, dy: int, dx: int) -> Window:
    """Sources of which this one destination is in the grid, for dy >= 0."""
    left = max(0, -dx)
    return Window(0, max(0, height - dy), left, max(left, width - max(0, dx)))


def pair_offsets(radius: int) -> Tensor:
    """Half of the disc dy^2 + dx^2 < radius^2: to the right in the pixel's own row, and all of the rows below.

    Args:
        radius: At least 2; AffinityNet takes 5, IRN 10 in training and 5 for the walk.

    Returns:
        (O, 2) int64 (dy, dx), row by row; O = 34 for radius 5 and 152 for radius 10.

    Raises:
        ValueError: If the radius leaves no pair.
    """
    if radius < 2:
        raise ValueError(f"radius must be at least 2, not {radius}")
    reach = range(1 - radius, radius)
    below = [(dy, dx) for dy in range(radius) for dx in reach if dy * dy + dx * dx < radius * radius]
    return torch.tensor([offset for offset in below if offset > (0, 0)])


def path_offsets(radius: int) -> Tensor:
    """The offsets of ``pair_offsets``, in the order of ``search_paths``: by number of pixels in between.

    Returns:
        (O, 2) int64 (dy, dx).
    """
    return torch.tensor([path[0] for path in _paths(radius)])


def search_paths(radius: int) -> list[Tensor]:
    """The pixels that a thick line from the source to each destination covers (IRN, Sec. 4.4), grouped by their number.

    A pixel is covered if it is nearer than 1 to the line and in the box that source and destination span; both belong
    to it. The order of all paths, group after group, is IRN's order of channels.

    Returns:
        For each number L of pixels, in ascending order, (N, L, 2) int64 (dy, dx): first the destination, last (0, 0).
    """
    paths = _paths(radius)
    lengths = sorted({len(path) for path in paths})
    return [torch.tensor([path for path in paths if len(path) == length]) for length in lengths]


@cache
def _paths(radius: int) -> tuple[Path, ...]:
    """All paths in the order of channels; those of equal length in the order of ``pair_offsets``."""
    return tuple(sorted((_thick_line(dy, dx) for dy, dx in pair_offsets(radius).tolist()), key=len))


def _thick_line(dy: int, dx: int) -> Path:
    """Pixels of the path from (dy, dx) to (0, 0), by descending city-block distance from there."""
    side = 1 if dx >= 0 else -1
    box = [(y, x) for y in range(dy + 1) for x in range(0, dx + side, side)]
    # The distance to the line is |cross product| / length: whole numbers, when squared.
    near = [(y, x) for y, x in box if (y * dx - x * dy) ** 2 < dy * dy + dx * dx]
    return tuple(sorted(near, key=lambda pixel: (-pixel[0] - abs(pixel[1]), pixel)))


def pair_ends(maps: Tensor, radius: int, *, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values at both ends of each pair.

    Args:
        maps: (..., H, W), any dtype.
        radius: Says what the sources are.
        offsets: (O, 2) (dy, dx) within that radius; ``pair_offsets(radius)`` if not given.

    Returns:
        (..., 1, S) at the sources, (..., O, S) at the destinations; S is 0 for a grid that is too small.
    """
    window = training_window(maps.shape[-2], maps.shape[-1], radius)
    chosen = pair_offsets(radius) if offsets is None else offsets
    there = torch.stack([window.of(maps, dy, dx).flatten(-2) for dy, dx in chosen.tolist()], -2)
    return window.of(maps).flatten(-2).unsqueeze(-2), there


class PairLabels(NamedTuple):
    """What labels say of each pair: (..., O, S) bool each, none of them where a label is to be ignored."""

    background: Tensor
    """Both are background."""
    foreground: Tensor
    """Both are of one class."""
    negative: Tensor
    """They differ."""


def pair_labels(labels: Tensor, radius: int, ignore: int = 255, *, offsets: Tensor | None = None) -> PairLabels:
    """Pairs of like and unlike pixels (AffinityNet, Sec. 3.2; IRN, Sec. 4.2).

    Args:
        labels: (..., H, W) integers, 0 background.
        radius: As for ``pair_ends``.
        ignore: Label of pixels whose pairs say nothing.
        offsets: As for ``pair_ends``.
    """
    here, there = pair_ends(labels, radius, offsets=offsets)
    known = (here != ignore) & (there != ignore)
    alike = known & (here == there)
    return PairLabels(alike & (here == 0), alike & (here != 0), known & (here != there))


def pair_distance(features: Tensor, radius: int) -> Tensor:
    """Mean absolute difference of the features of each pair, mean_k |f_k(i) - f_k(j)|.

    Differences are taken offset by offset and not kept for the gradient: with 448 channels and 34 offsets they would
    take gigabytes.

    Args:
        features: (..., D, H, W) float.
        radius: As for ``pair_ends``.

    Returns:
        (..., O, S) in the order of ``pair_offsets``.
    """
    distance: Tensor = _PairDistance.apply(features, radius)
    return distance


def path_maximum(boundary: Tensor, radius: int) -> Tensor:
    """The strongest boundary between each source and destination, both included (IRN, Sec. 4.4).

    Only the boundary and the result are kept for the gradient, which goes to the pixel of the maximum; of several, to
    the one that comes first in the path.

    Args:
        boundary: (..., H, W) float.
        radius: As for ``pair_ends``.

    Returns:
        (..., O, S) in the order of ``path_offsets``.
    """
    highest: Tensor = _PathMaximum.apply(boundary, radius)
    return highest


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]
    radius: int


class _PairDistance(torch.autograd.Function):
    """``pair_distance`` with a gradient that takes the differences anew."""

    @staticmethod
    def forward(ctx: _Context, features: Tensor, radius: int) -> Tensor:
        window = training_window(features.shape[-2], features.shape[-1], radius)
        here = window.of(features)
        distances = [
            (here - window.of(features, dy, dx)).abs_().mean(-3).flatten(-2) for dy, dx in pair_offsets(radius).tolist()
        ]
        ctx.save_for_backward(features)
        ctx.radius = radius
        return torch.stack(distances, -2)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        window = training_window(features.shape[-2], features.shape[-1], ctx.radius)
        here, spread = window.of(features), torch.zeros_like(features)
        rows, columns = here.shape[-2:]
        shares = (gradient / features.shape[-3]).reshape(*gradient.shape[:-1], rows, columns).unsqueeze(-4)
        for (dy, dx), share in zip(pair_offsets(ctx.radius).tolist(), shares.unbind(-3), strict=True):
            pull = (here - window.of(features, dy, dx)).sign_().mul_(share)
            window.of(spread).add_(pull)
            window.of(spread, dy, dx).sub_(pull)
        return spread, None


class _PathMaximum(torch.autograd.Function):
    """``path_maximum`` with a gradient that finds the places of the maxima anew, instead of keeping every step."""

    @staticmethod
    def forward(ctx: _Context, boundary: Tensor, radius: int) -> Tensor:
        window = training_window(boundary.shape[-2], boundary.shape[-1], radius)
        highest = torch.stack([maximum_along(path, boundary, window).flatten(-2) for path in _paths(radius)], -2)
        ctx.save_for_backward(boundary, highest)
        ctx.radius = radius
        return highest

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        boundary, highest = ctx.saved_tensors
        window = training_window(boundary.shape[-2], boundary.shape[-1], ctx.radius)
        shape = window.of(boundary).shape
        spread = torch.zeros_like(boundary)
        for path, top, share in zip(_paths(ctx.radius), highest.unbind(-2), gradient.unbind(-2), strict=True):
            peak, left = top.view(shape), share.reshape(shape).clone()
            for dy, dx in path:
                taken = left * (window.of(boundary, dy, dx) == peak)
                window.of(spread, dy, dx).add_(taken)
                left.sub_(taken)
        return spread, None


def maximum_along(path: Path, maps: Tensor, window: Window) -> Tensor:
    """The maximum over the pixels of a path, for all sources of a window: (..., rows, columns), no gradient."""
    highest = window.of(maps, *path[0]).clone()
    for dy, dx in path[1:]:
        torch.maximum(highest, window.of(maps, dy, dx), out=highest)
    return highest
