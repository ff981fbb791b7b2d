"""Regions of interest: a map read on a grid of points in every box, and averaged over the box.

K. He, G. Gkioxari, P. Dollar, R. Girshick, "Mask R-CNN", ICCV 2017, reads a map between its cells (RoIAlign); here the
points lie on the box's edges, too, and boxes of different sizes have different numbers of points.

Reading between cells is bilinear: a value is a weighted sum of four cells, with the same weights for all channels. So a
weighted mean over a box's points is a weighted mean over cells, and the square of a feature vector's length at a point
is a sum of inner products of neighbouring cells. What is read of a thousand channels is never kept: memory grows with
boxes times cells, not with boxes times points times channels.

Boxes are (n, 4), x1 y1 x2 y2 in pixels, upper bounds exclusive. Positions on a map are in cells, whole numbers at their
centres; what is outside the map is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Size = tuple[int, int]
Reading = Literal["edges", "align"]
NOWHERE = -1.0  # a position at which no cell counts


@dataclass(frozen=True)
class Rois:
    """Where maps are read: n grids of points, padded to the largest with points at which everything is 0.

    Attributes:
        image: (n,) int64, on which image's map.
        rows: (n, P) positions of the grids' rows.
        columns: (n, Q) positions of their columns.
        heights: (n,) int64 in [1, P], how many rows there are.
        widths: (n,) int64 in [1, Q].
    """

    image: Tensor
    rows: Tensor
    columns: Tensor
    heights: Tensor
    widths: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def interpolation(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """How much of each cell of (..., h, w) maps there is in a row, and in a column: (n, P, h) and (n, Q, w)."""
        return _tents(self.rows, maps.shape[-2], maps), _tents(self.columns, maps.shape[-1], maps)


def _tents(positions: Tensor, length: int, like: Tensor) -> Tensor:
    """(n, P, length) in [0, 1]: a cell counts 1 at its centre, and nothing from the next centre on."""
    centres = torch.arange(length, device=positions.device, dtype=positions.dtype)
    return (1 - (positions[..., None] - centres).abs()).relu().to(like.dtype)


def box_rois(
    boxes: Sequence[Tensor],
    image_size: Size,
    map_size: Size,
    *,
    reading: Reading = "edges",
    align_corners: bool = True,
) -> Rois:
    """A grid of equally spaced points in every box.

    There are as many rows as cells that the box touches, ceil(bottom) - floor(top), counted with pixel 0 on the first
    and the last pixel on the last cell's centre, and at least one, which then lies on the upper edge.

    Args:
        boxes: For each of B images (n_b, 4).
        image_size: Height and width of the image.
        map_size: Height and width of its map.
        reading: ``"edges"``: from edge to edge, both edges included; ``"align"``: in the middle of as many parts of the
            box, as RoIAlign reads with one sample a bin, cells being as wide as pixels times the map's scale.
        align_corners: For ``"edges"``: the points lie as they are counted; otherwise, as with PyTorch's ``grid_sample``
            by default, they are spread over the cells' outer edges, half a cell too far at the margins.

    Returns:
        The boxes of all images, in their order.
    """
    corners = torch.cat(list(boxes))
    x1, y1, x2, y2 = corners.unbind(1)
    rows, heights = _points(y1, y2, image_size[0], map_size[0], reading, align_corners)
    columns, widths = _points(x1, x2, image_size[1], map_size[1], reading, align_corners)
    image = torch.cat([corners.new_full((len(own),), number, dtype=torch.int64) for number, own in enumerate(boxes)])
    return Rois(image, rows, columns, heights, widths)


def _points(
    low: Tensor, high: Tensor, pixels: int, cells: int, reading: Reading, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """(n, P) positions along one axis, and (n,) how many of them there are."""
    span = max(pixels - 1, 1)
    start, end = low * (cells - 1) / span, high * (cells - 1) / span
    counts = (end.ceil() - start.floor()).clamp(min=1).long()
    steps = torch.arange(int(counts.max()) if len(counts) else 0, device=low.device, dtype=low.dtype)
    if reading == "align":
        shares = (steps + 0.5) / counts[:, None]
        positions = (low[:, None] + shares * (high - low)[:, None]) * cells / pixels - 0.5
        return torch.where(steps < counts[:, None], positions.clamp(0, cells - 1), NOWHERE), counts
    if not align_corners:
        start, end = low * cells / span - 0.5, high * cells / span - 0.5
    shares = steps / (counts - 1).clamp(min=1)[:, None]
    positions = start[:, None] + shares * (end - start)[:, None]
    return torch.where(steps < counts[:, None], positions, NOWHERE), counts


def whole_rois(grid: Size, maps: Tensor) -> Rois:
    """One grid for each of (B, K, h, w) maps that covers it from corner centre to corner centre.

    Reading a map there is enlarging it with align_corners=True.
    """
    batch, (height, width) = len(maps), grid
    exact = torch.promote_types(maps.dtype, torch.float32)
    rows, columns = (
        torch.linspace(0, cells - 1, points, device=maps.device, dtype=exact).expand(batch, -1)
        for points, cells in zip(grid, maps.shape[-2:], strict=True)
    )
    image = torch.arange(batch, device=maps.device)
    return Rois(image, rows, columns, image.new_full((batch,), height), image.new_full((batch,), width))


def sample_rois(maps: Tensor, rois: Rois) -> Tensor:
    """Maps read at the points.

    Args:
        maps: (B, K, h, w); few channels, or few boxes.
        rois: n grids of P times Q points.

    Returns:
        (n, K, P, Q), 0 at the padding.
    """
    rows, columns = rois.interpolation(maps)
    return rows[:, None] @ maps[rois.image] @ columns[:, None].mT


def sample_squares(features: Tensor, rois: Rois) -> Tensor:
    """Squared Euclidean length of the feature vectors read at the points.

    A point's vector is a y0 + b y1 of two rows, each c x0 + d x1 of two columns; the square of its length has the
    cells' own squares, and twice the products of neighbours in a row, in a column, and along both diagonals.

    Args:
        features: (B, D, h, w).
        rois: n grids of P times Q points.

    Returns:
        (n, P, Q), not negative, 0 at the padding.
    """
    rows, columns = rois.interpolation(features)
    row_pairs, column_pairs = rows[..., :-1] * rows[..., 1:], columns[..., :-1] * columns[..., 1:]
    upper, lower = features[..., :-1, :], features[..., 1:, :]
    diagonals = _products(upper[..., :-1], lower[..., 1:]) + _products(upper[..., 1:], lower[..., :-1])
    terms = (
        (rows.square(), _products(features, features), columns.square()),
        (rows.square(), 2 * _products(features[..., :-1], features[..., 1:]), column_pairs),
        (row_pairs, 2 * _products(upper, lower), columns.square()),
        (row_pairs, 2 * diagonals, column_pairs),
    )
    squares = [above @ products[rois.image] @ beside.mT for above, products, beside in terms]
    return torch.stack(squares).sum(0).clamp(min=0)


def _products(first: Tensor, second: Tensor) -> Tensor:
    """(B, h, w) inner products over channels."""
    return (first * second).sum(1)


def bin_members(lengths: Tensor, bins: int, longest: int) -> Tensor:
    """Which rows of a region belong to which bin.

    Bins start every floor(length / bins) rows and reach over length - (bins - 1) floor(length / bins) of them, so that
    they overlap where ``bins`` does not divide the length; of fewer rows than bins every bin has all.

    Args:
        lengths: (n,) int64, rows of each region.
        bins: How many bins.
        longest: P, rows with the padding.

    Returns:
        (n, bins, P) bool.
    """
    stride = lengths // bins
    starts = stride[:, None] * torch.arange(bins, device=lengths.device)
    ends = starts + (lengths - (bins - 1) * stride)[:, None]
    rows = torch.arange(longest, device=lengths.device)
    return (rows >= starts[..., None]) & (rows < ends[..., None])


def pool_rois(features: Tensor, rois: Rois, weights: Tensor, bins: int = 1, eps: float = 1e-12) -> Tensor:
    """Weighted means of the features read in each bin of each region: sum of w f / (sum of w + eps).

    Args:
        features: (B, D, h, w).
        rois: n grids of P times Q points.
        weights: (n, P, Q), not negative; those at the padding are ignored.
        bins: A region is divided into ``bins`` times ``bins``, see ``bin_members``.
        eps: Added to the sum of weights.

    Returns:
        (n, bins * bins, D), row by row; 0, without gradients, where all weights are 0.
    """
    rows, columns = rois.interpolation(features)
    row_bins = bin_members(rois.heights, bins, rows.shape[1]).to(features.dtype)
    column_bins = bin_members(rois.widths, bins, columns.shape[1]).to(features.dtype)
    mass = torch.einsum("nip,npq,njq->nij", row_bins, weights, column_bins)[..., None, None]
    binned_rows, binned_columns = row_bins[..., None] * rows[:, None], column_bins[..., None] * columns[:, None]
    shares = torch.einsum("niph,npq,njqw->nijhw", binned_rows, weights, binned_columns)
    shares = torch.where(mass > 0, shares / (mass + eps), 0.0)
    return _sums_over_cells(features, rois.image, shares.flatten(3).flatten(1, 2))


def _sums_over_cells(features: Tensor, image: Tensor, shares: Tensor) -> Tensor:
    """(n, K, D) weighted sums over the cells of each region's own map; ``shares`` is (n, K, h * w)."""
    place = (image[:, None] == image).tril(-1).sum(1)  # among the regions of the same image
    most = int(torch.bincount(image, minlength=1).max())
    together = shares.new_zeros(len(features), most, *shares.shape[1:])
    together[image, place] = shares
    sums = torch.einsum("bnkc,bdc->bnkd", together, features.flatten(2))
    return sums[image, place]
