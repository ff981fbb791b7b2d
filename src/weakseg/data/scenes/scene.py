"""What a demo scene consists of, and the classes that occur in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCENE_CLASSES: tuple[str, ...] = ("balloon", "bird", "boat", "bus", "car", "cat", "dog", "plant", "sheep", "train")
SCENE_CONTEXTS: tuple[str, ...] = (
    *("floor", "grass", "rails", "road", "sand", "sky", "snow", "trees", "wall", "water"),
)
OBJECT_HERE = 255

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A generated picture and everything that is true about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 0 background, class + 1.
        instances: (H, W) uint8, 0 background, 1 to n for the objects from back to front.
        context: (H, W) uint8, index into ``SCENE_CONTEXTS``; 255 where an object stands.
        saliency: (H, W) uint8, what an imperfect saliency detector might answer.
        tags: Classes in the picture, ascending.
        boxes: For each instance its class, x1, y1, x2, y2 of the visible part, upper bounds exclusive.
    """

    image: Image
    mask: Image
    instances: Image
    context: Image
    saliency: Image
    tags: tuple[int, ...]
    boxes: tuple[Box, ...]
