"""A map divided into the cells of a coarse grid."""

import torch
from torch import Tensor

from weakseg.ops.maps import padded_size


def grid_padding(length: int, cells: int) -> tuple[int, int]:
    """How many zeros come before and after, so that ``cells`` divides the length: as many, but all after if odd."""
    missing = padded_size(length, cells) - length
    return (0, missing) if missing % 2 else (missing // 2, missing // 2)


def grid_cells(length: int, grid: int, like: Tensor) -> Tensor:
    """Which rows (or columns) belong to which of ``grid`` cells, of equal length after ``grid_padding``.

    Args:
        length: Of the map.
        grid: How many cells.
        like: Has the device and the type wanted.

    Returns:
        (grid, length), 1 where a cell has a row, else 0.
    """
    before, after = grid_padding(length, grid)
    cells = (torch.arange(length, device=like.device) + before) // ((before + length + after) // grid)
    return (cells == torch.arange(grid, device=like.device)[:, None]).to(like.dtype)
