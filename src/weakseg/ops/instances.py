"""Objects of an image told apart: from a label map and boxes, as masks, as a map of numbers."""

import torch
from torch import Tensor

from weakseg.ops.box_masks import smallest_box

IGNORE = 255


def instance_masks(mask: Tensor, boxes: Tensor, box_classes: Tensor, *, any_class: bool = False) -> Tensor:
    """Per box the pixels of its class inside it (BANA, COCO experiments; the paper gives no more detail).

    A pixel in several boxes of its class belongs to the smallest of them: what is in front hides what is behind, and
    its box lies within that of the other more often than the other way round.

    Args:
        mask: (H, W) integers, 0 background, class + 1, 255 ignore.
        boxes: (n, 4) x1 y1 x2 y2 in pixels, upper bounds exclusive; n may be 0.
        box_classes: (n,) int64 in [0, C).
        any_class: All foreground counts for every box, whatever its class: for masks that know other classes than the
            boxes do.

    Returns:
        (n, H, W) bool, in the boxes' order; no pixel belongs to two, and a box without a pixel of its class is empty.

    Raises:
        ValueError: If there are not as many boxes as classes.
    """
    if len(boxes) != len(box_classes):
        raise ValueError(f"{len(boxes)} boxes and {len(box_classes)} classes")
    boxes, box_classes = boxes.to(mask.device), box_classes.to(mask.device)
    found = torch.zeros((len(boxes), *mask.shape), dtype=torch.bool, device=mask.device)
    groups = torch.zeros_like(box_classes) if any_class else box_classes
    for group in sorted(set(groups.tolist())):
        members = (groups == group).nonzero().flatten()
        wanted = (mask != 0) & (mask != IGNORE) if any_class else mask == group + 1
        owners = smallest_box(boxes[members], (mask.shape[0], mask.shape[1])).masked_fill(~wanted, -1)
        found[members] = owners == torch.arange(len(members), device=mask.device)[:, None, None]
    return found


def numbered(masks: Tensor) -> Tensor:
    """(n, H, W) bool to (H, W) int32: 0 where no object is, i + 1 on object i; the last where several are."""
    numbers = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
    for number, mask in enumerate(masks, start=1):
        numbers[mask] = number
    return numbers


def told_apart(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The objects that a map of numbers still shows, after a crop for example.

    Args:
        numbers: (H, W) integers, 0 where no object is.

    Returns:
        (m,) int64 numbers, ascending, and (m, H, W) bool masks, none of them empty.
    """
    shown: Tensor = torch.unique(numbers)
    shown = shown[shown > 0]
    return shown.long(), numbers == shown[:, None, None]


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes.

    Args:
        masks: (n, H, W) bool; n may be 0.

    Returns:
        (n, 4) float32 x1 y1 x2 y2, upper bounds exclusive; zeros for an empty mask.
    """
    if not len(masks):
        return torch.zeros(0, 4, device=masks.device)
    x1, x2 = _first_and_last(masks.any(1))
    y1, y2 = _first_and_last(masks.any(2))
    return torch.stack((x1, y1, x2, y2), dim=1).float()


def _first_and_last(lines: Tensor) -> tuple[Tensor, Tensor]:
    """Of (n, L) bool the first place that is set, and the one after the last; 0 and 0 if none is."""
    places = torch.arange(1, lines.shape[1] + 1, device=lines.device)
    last = (lines * places).amax(1)
    first = lines.int().argmax(1)
    return first, last
