"""Boxes as pixels: which pixels a box covers, which box a pixel belongs to.

Boxes are (n, 4), x1 y1 x2 y2 in pixels, upper bounds exclusive. A box covers the pixels whose centres lie in it, so
whole numbers mean what they say, and a box of at least one pixel in width and height covers at least one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]
Region = tuple[slice, slice]
Box = tuple[Region, int]
"""Where a box is on some maps, and the number of the map that it is about."""


def pixel_regions(boxes: Tensor, size: Size, grid: Size | None = None) -> list[Region]:
    """Rows and columns of the pixels that each box covers, within the image; empty where it covers none.

    Args:
        boxes: (n, 4), n may be 0.
        size: Height and width of the image.
        grid: Those of a map onto which its pixels are shrunk (nearest neighbour), if it is not the image itself.
    """
    (height, width), (rows, columns) = size, grid or size
    limits = torch.tensor([width, height] * 2)
    bounds = (boxes.detach().cpu().double() - 0.5).ceil().long().clamp(min=0).minimum(limits)
    bounds = -(-bounds * torch.tensor([columns, rows] * 2) // limits)
    return [(slice(y1, max(y1, y2)), slice(x1, max(x1, x2))) for x1, y1, x2, y2 in bounds.tolist()]


def region_area(region: Region) -> int:
    """Number of pixels."""
    height, width = (int(part.stop) - int(part.start) for part in region)
    return height * width


def region_maximum(values: Tensor, region: Region) -> Tensor:
    """The highest of (H, W) values in a region, 0 where that has no pixel."""
    return values[region].max() if region_area(region) else values.new_zeros(())


def fill_regions(maps: Tensor, values: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Maps (P, H, W) that have other values, (H, W), in the boxes that are about them.

    Where these boxes overlap, the map of the smallest alone is filled, and that of the others is 0: of two boxes that
    overlap, the smaller is more often that of what is in front.

    Args:
        maps: (P, H, W).
        values: (H, W).
        boxes: Regions, and in [0, P) the map that each is about.

    Returns:
        (P, H, W).
    """
    filled = maps.clone()
    owners = _smallest([region for region, _ in boxes], (values.shape[0], values.shape[1])).to(maps.device)
    numbers = torch.tensor([*(number for _, number in boxes), -1], device=maps.device)[owners]
    for region, number in boxes:
        filled[number][region] = values[region] * (numbers[region] == number)
    return filled


def painting_order(regions: list[Region]) -> list[int]:
    """Indices, large before small and earlier before later among equals, so that the smallest is painted last."""
    return sorted(range(len(regions)), key=lambda index: -region_area(regions[index]))


def smallest_box(boxes: Tensor, size: Size) -> Tensor:
    """To which box each pixel belongs: the smallest that covers it, of equally small ones the last.

    Args:
        boxes: (n, 4), n may be 0.
        size: Height and width of the image.

    Returns:
        (H, W) int64 in [0, n), -1 outside all boxes; on the boxes' device.
    """
    return _smallest(pixel_regions(boxes, size), size).to(boxes.device)


def _smallest(regions: list[Region], size: Size) -> Tensor:
    """(H, W) index of the region that each pixel belongs to, -1 outside all."""
    owners = torch.full(size, -1, dtype=torch.int64)
    for index in painting_order(regions):
        owners[regions[index]] = index
    return owners


def box_pixels(boxes: Tensor, size: Size) -> Tensor:
    """Which pixels each box covers: those whose centres lie in it.

    Args:
        boxes: (n, 4), n may be 0.
        size: Height and width of the image.

    Returns:
        (n, H, W) bool.
    """
    rows, columns = (torch.arange(length, device=boxes.device) + 0.5 for length in size)
    x1, y1, x2, y2 = boxes[..., None].unbind(1)
    down, along = (rows >= y1) & (rows < y2), (columns >= x1) & (columns < x2)
    return down[:, :, None] & along[:, None]


def inside_boxes(boxes: Tensor, size: Size) -> Tensor:
    """(H, W) bool, where any box is."""
    return box_pixels(boxes, size).any(0)


def class_areas(boxes: Tensor, box_classes: Tensor, classes: Tensor, size: Size) -> Tensor:
    """Where the boxes of each class are.

    Args:
        boxes: (n, 4), n may be 0.
        box_classes: (n,) int64.
        classes: (P,) int64, the classes asked for; others are left out.
        size: Height and width of the image.

    Returns:
        (P, H, W) bool, the union of the class's boxes; on the boxes' device.
    """
    pixels = box_pixels(boxes, size)
    areas = [pixels[box_classes == wanted].any(0) for wanted in classes.tolist()]
    return torch.stack(areas) if areas else pixels.new_zeros(0, *size)
