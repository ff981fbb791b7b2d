"""Objects of one image told apart, on disk as a picture of numbers and a list of what they are."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weakseg.data.files import write_bytes, write_json
from weakseg.errors import UserError
from weakseg.ops.instances import IGNORE, instance_masks, mask_boxes, numbered

UNSURE = 65535  # in a picture of numbers


@dataclass(frozen=True)
class Instances:
    """Objects of one image.

    Attributes:
        classes: (n,) int64 in [0, C).
        scores: (n,) float32 in [0, 1], how sure it is that there is such an object.
        masks: (n, H, W) bool; no pixel belongs to two.
        unsure: (H, W) bool, pixels of which it is not known whether they belong to an object; ``None`` if there are
            none.
    """

    classes: Tensor
    scores: Tensor
    masks: Tensor
    unsure: Tensor | None = None

    @classmethod
    def in_boxes(cls, mask: Tensor, boxes: Tensor, box_classes: Tensor, *, any_class: bool = False) -> "Instances":
        """What a label map shows in each box, see ``instance_masks``; boxes without such a pixel are left out.

        What the label map ignores is unsure.

        Args:
            mask: (H, W) integers, 0 background, class + 1, 255 ignore.
            boxes: (n, 4) x1 y1 x2 y2 in pixels, upper bounds exclusive.
            box_classes: (n,) int64.
            any_class: Take all foreground, whatever its class.

        Returns:
            Objects of score 1: the boxes are known.
        """
        masks = instance_masks(mask, boxes, box_classes, any_class=any_class)
        shown = masks.flatten(1).any(1) if len(masks) else torch.zeros(0, dtype=torch.bool, device=masks.device)
        classes = box_classes.to(masks.device)[shown]
        return cls(classes, torch.ones(len(classes), device=masks.device), masks[shown], mask == IGNORE)

    def save(self, path: Path, names: Sequence[str]) -> None:
        """Write ``path`` (JSON: number, class, score, box and area of each object) and beside it a PNG of the numbers.

        Args:
            path: Ends in ``.json``; it appears after the PNG.
            names: Of the C classes.
        """
        numbers = numbered(self.masks)
        if self.unsure is not None:
            numbers[self.unsure] = UNSURE
        picture = numbers.cpu().numpy().astype(np.uint16)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG")
        write_bytes(path.with_suffix(".png"), buffer.getvalue())
        write_json(path, self._entries(names))

    @classmethod
    def load(cls, path: Path, names: Sequence[str]) -> "Instances":
        """Read what ``save`` wrote.

        Raises:
            UserError: If one of the two files is missing or damaged.
        """
        numbers, classes, scores = _read(path, names)
        masks = numbers == torch.arange(1, len(classes) + 1)[:, None, None]
        return cls(classes, scores, masks, numbers == UNSURE)

    def _entries(self, names: Sequence[str]) -> list[dict[str, object]]:
        boxes, areas = mask_boxes(self.masks), self.masks.sum((1, 2))
        return [
            {
                "number": index + 1,
                "class": names[int(self.classes[index])],
                "score": round(float(self.scores[index]), 6),
                "box": [int(corner) for corner in box],
                "area": int(area),
            }
            for index, (box, area) in enumerate(zip(boxes.tolist(), areas.tolist(), strict=True))
        ]


def read_numbers(path: Path, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What ``Instances.save`` wrote, as a map; objects of score 0, in which nobody believes, are left out of it.

    Args:
        path: Ends in ``.json``.
        names: Of the C classes.

    Returns:
        (H, W) int32 numbers of objects, 0 where none is, -1 where that is not known, and (n,) int64 class of object
        i + 1.

    Raises:
        UserError: If one of the two files is missing or damaged.
    """
    numbers, classes, scores = _read(path, names)
    kept = torch.arange(1, len(classes) + 1, dtype=torch.int32) * (scores > 0)
    table = torch.cat((torch.zeros(1, dtype=torch.int32), kept))
    unsure = numbers == UNSURE
    return table[numbers.masked_fill(unsure, 0).long()].masked_fill(unsure, -1), classes


def _read(path: Path, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """(H, W) int32 numbers, (n,) classes and (n,) scores."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        with Image.open(path.with_suffix(".png")) as picture:
            numbers = np.asarray(picture).astype(np.int32)
        classes = [names.index(entry["class"]) for entry in entries]
        scores = [float(entry["score"]) for entry in entries]
        if numbers.ndim != 2 or numbers[numbers != UNSURE].max(initial=0) > len(entries):
            raise ValueError("more objects in the picture than in the list")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "cannot read the instances", where=path, remedy=f"Remove the folder {path.parent.name} and run again"
        ) from error
    return torch.from_numpy(numbers), torch.tensor(classes, dtype=torch.int64), torch.tensor(scores)
