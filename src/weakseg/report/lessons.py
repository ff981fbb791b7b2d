"""What a network that teaches itself has to say of some images, on one sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weakseg.data.sample import IGNORE
from weakseg.report.overlays import Pixels, overlay_mask, overlay_soft
from weakseg.report.pictures import SheetRow, cell_size, label_name, write_sheet

CAPTIONS = {"mask": "soft mask", "refined": "refined mask", "labels": "pseudo labels"}
Taught = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Lesson:
    """One image and what the network makes of it, step by step.

    Attributes:
        id: Name of the image.
        tags: Indices of its classes.
        image: (H, W, 3) uint8.
        steps: Name to soft masks (C + 1, h, w) float in [0, 1], background first, or to labels (h, w) uint8.
    """

    id: str
    tags: tuple[int, ...]
    image: Pixels
    steps: Mapping[str, Taught]


def lesson_sheet(lessons: Sequence[Lesson], path: Path, classes: Sequence[str]) -> Path:
    """Write a row of pictures for each image: itself, then step by step what the network makes of it.

    Args:
        lessons: At least one, all with the same steps.
        path: The file, a PNG, written whole or not at all.
        classes: Names in the order of mask values, background first.

    Returns:
        ``path``.
    """
    captions = ["photograph", *(CAPTIONS.get(name, name) for name in lessons[0].steps)]
    rows = [SheetRow(_about(lesson, classes), _pictures(lesson)) for lesson in lessons]
    tags = sorted({tag + 1 for lesson in lessons for tag in lesson.tags})
    legend = [(value, label_name(value, classes)) for value in (*tags, IGNORE)]
    return write_sheet(path, captions, rows, legend)


def _about(lesson: Lesson, classes: Sequence[str]) -> str:
    return " · ".join([lesson.id, ", ".join(classes[tag + 1] for tag in lesson.tags) or "no tags"])


def _pictures(lesson: Lesson) -> list[Pixels]:
    height, width = cell_size(lesson.image)
    image = np.asarray(Image.fromarray(lesson.image).resize((width, height), Image.Resampling.LANCZOS))
    return [image, *(_overlaid(image, step) for step in lesson.steps.values())]


def _overlaid(image: Pixels, step: Taught) -> Pixels:
    if step.ndim == 2:
        return overlay_mask(image, _resized(step, image, Image.Resampling.NEAREST))
    return overlay_soft(image, np.stack([_resized(plane, image, Image.Resampling.BILINEAR) for plane in step]))


def _resized(plane: Taught, image: Pixels, resampling: Image.Resampling) -> NDArray[Any]:
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(plane).resize((width, height), resampling))
