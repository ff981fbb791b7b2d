"""The true objects of an image, told apart."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weakseg.data.sample import IGNORE


@dataclass(frozen=True)
class Objects:
    """True objects of one image; they may overlap.

    Attributes:
        classes: (n,) int64 in [0, C).
        masks: (n, H, W) bool.
        crowd: (n,) bool, whether it is a region of many objects that nobody has told apart.
        areas: (n,) float64, pixels of each as its file has them.
    """

    classes: Tensor
    masks: Tensor
    crowd: Tensor
    areas: Tensor

    def __len__(self) -> int:
        return len(self.classes)


def objects_of(numbers: Tensor, labels: Tensor) -> Objects:
    """Objects from two label maps, as PASCAL VOC has them.

    Args:
        numbers: (H, W) uint8, 0 background, 1, 2, ... the objects, 255 what nobody has labelled.
        labels: (H, W) uint8, 0 background, class + 1, 255 what nobody has labelled.

    Returns:
        The objects in the order of their numbers. The class of each is the one most of its pixels have; one without a
        pixel of any class is left out.
    """
    classes, masks = [], []
    for number in np.unique(numbers.numpy()).tolist():
        mask = numbers == number
        shown = labels[mask & (labels > 0) & (labels != IGNORE)]
        if number not in (0, IGNORE) and len(shown):
            classes.append(int(shown.bincount().argmax()) - 1)
            masks.append(mask)
    stacked = torch.stack(masks) if masks else torch.zeros(0, *numbers.shape, dtype=torch.bool)
    return Objects(
        torch.tensor(classes, dtype=torch.int64),
        stacked,
        torch.zeros(len(classes), dtype=torch.bool),
        stacked.sum((1, 2)).double(),
    )
