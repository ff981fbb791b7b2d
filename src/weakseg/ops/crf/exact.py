"""Dense Gaussian kernels by their definition: every pixel against every other, in tiles of bounded memory."""

import torch
from torch import Tensor

TILE = 2**20
"""Kernel values held at a time (8 MB in float64)."""

SMALLEST_EXPONENT = -80.0
"""exp(-80) = 2e-35 vanishes beside a pixel's own 1; in float32, values soon below are subnormal and slow."""


def gaussian_kernel(rows: Tensor, columns: Tensor) -> Tensor:
    """Kernel values exp(-||a - b||^2 / 2) of all pairs.

    Differences are taken before they are squared: expanding the square would cancel to an error of 1e-3 where features
    reach 100, as colours divided by a width of 3 do.

    Args:
        rows: (R, D) features.
        columns: (N, D) features.

    Returns:
        (R, N) in [0, 1].
    """
    distance = rows.new_zeros(len(rows), len(columns))
    for row, column in zip(rows.T.contiguous(), columns.T.contiguous(), strict=True):
        distance += (row[:, None] - column).square_()
    return distance.mul_(-0.5).clamp_(min=SMALLEST_EXPONENT).exp_()


def weighted_sums(kernel: Tensor, values: Tensor) -> Tensor:
    """The product of a (R, N) kernel and (N, L) values, in an order of summation that is always the same.

    Matrix products round differently when the number of threads changes; sums over one dimension do not.
    """
    if len(kernel) < values.shape[1]:
        return torch.stack([(row[:, None] * values).sum(0) for row in kernel])
    return torch.stack([(kernel * column).sum(1) for column in values.T.contiguous()], 1)


class DenseKernel:
    """Sums over all pixels, weighted by a Gaussian of the distance of their features.

    Args:
        features: (N, D) float, of the precision that values will have.
        tile: Kernel values computed at a time; a kernel that fits into one tile is kept, a larger one is computed anew
            for every sum.
    """

    def __init__(self, features: Tensor, *, tile: int = TILE) -> None:
        self._features = features
        self._rows = max(1, tile // len(features))
        self._whole = gaussian_kernel(features, features) if self._rows >= len(features) else None

    def __call__(self, values: Tensor) -> Tensor:
        """Sum_j k(i, j) values_j for (N, L) values."""
        if self._whole is not None:
            return weighted_sums(self._whole, values)
        tiles = torch.split(self._features, self._rows)
        return torch.cat([weighted_sums(gaussian_kernel(tile, self._features), values) for tile in tiles])


class SeparableKernel:
    """The Gaussian of position alone: down the columns, then along the rows.

    Args:
        height: H.
        width: W.
        sxy: Width of the Gaussian in pixels.
        device: Where the values will be.
        precision: That the values will have.
    """

    def __init__(self, height: int, width: int, sxy: float, device: torch.device, precision: torch.dtype) -> None:
        self._down = _line_kernel(height, sxy, device, precision)
        self._along = _line_kernel(width, sxy, device, precision)

    def __call__(self, values: Tensor) -> Tensor:
        """Sum_j k(i, j) values_j for (H * W, L) values, row by row."""
        height, width, labels = len(self._down), len(self._along), values.shape[1]
        down = weighted_sums(self._down, values.view(height, width * labels))
        across = down.view(height, width, labels).transpose(0, 1).reshape(width, height * labels)
        along = weighted_sums(self._along, across)
        return along.view(width, height, labels).transpose(0, 1).reshape(values.shape)


def _line_kernel(length: int, sxy: float, device: torch.device, precision: torch.dtype) -> Tensor:
    """(length, length) kernel of a line of pixels."""
    place = torch.arange(length, dtype=precision, device=device)[:, None] / sxy
    return gaussian_kernel(place, place)
