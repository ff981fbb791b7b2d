"""Objects that a network has found in one image, on disk in the form of COCO's results."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from pycocotools import mask as coco_masks
from torch import Tensor

from weakseg.data.coco_masks import decoded, encoded, read_segmentation
from weakseg.data.files import write_json
from weakseg.errors import UserError


class RLE(TypedDict):
    """A mask as COCO compresses it: its height and width, and run lengths down the columns as ASCII text."""

    size: list[int]
    counts: str


@dataclass(frozen=True)
class Detections:
    """Objects found in one image, the surest first; they may overlap.

    Attributes:
        classes: (n,) int64 in [0, C).
        scores: (n,) float32 in [0, 1].
        masks: (n, H, W) bool.
    """

    classes: Tensor
    scores: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def save(self, path: Path, names: Sequence[str], image_id: str) -> None:
        """Write JSON: a list with image, class, score and mask of each object.

        The entries are those of COCO's results files, except that images are named by their ids here and classes by
        their names.

        Args:
            path: Ends in ``.json``.
            names: Of the C classes.
            image_id: Name of the image, with its folder if it has one.
        """
        found = zip(self.classes.tolist(), self.scores.tolist(), to_rle(self.masks), strict=True)
        entries = [
            {"image_id": image_id, "class": names[index], "score": round(score, 6), "segmentation": mask}
            for index, score, mask in found
        ]
        write_json(path, entries)

    @classmethod
    def load(cls, path: Path, names: Sequence[str], size: tuple[int, int]) -> "Detections":
        """Read what ``save`` wrote.

        Args:
            path: The file.
            names: Of the C classes.
            size: Height and width of the image.

        Raises:
            UserError: If the file is missing or damaged, or of an image of another size.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            classes = [names.index(entry["class"]) for entry in entries]
            scores = [float(entry["score"]) for entry in entries]
            masks = from_rle([entry["segmentation"] for entry in entries], size)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                "cannot read the detections", where=path, remedy=f"Remove the folder {path.parent.name} and run again"
            ) from error
        return cls(torch.tensor(classes, dtype=torch.int64), torch.tensor(scores), masks)


def to_rle(masks: Tensor) -> list[RLE]:
    """Compress masks.

    Args:
        masks: (n, H, W) bool; n may be 0.
    """
    if not len(masks):
        return []
    columns = np.asfortranarray(masks.permute(1, 2, 0).cpu().numpy().astype(np.uint8))
    return [
        {"size": list(code["size"]), "counts": code["counts"].decode("ascii")} for code in coco_masks.encode(columns)
    ]


def from_rle(codes: Sequence[Any], size: tuple[int, int]) -> Tensor:
    """(n, H, W) bool masks, the reverse of ``to_rle``; other forms of COCO's are understood, too.

    Args:
        codes: n masks as JSON has them; n may be 0.
        size: Height and width that all of them have.

    Raises:
        ValueError: If one has another size, or is no mask.
    """
    masks = torch.zeros(len(codes), *size, dtype=torch.bool)
    for mask, code in zip(masks, codes, strict=True):
        segmentation = read_segmentation(code)
        if segmentation is None:
            raise ValueError("an object without a mask")
        mask[:] = torch.from_numpy(decoded(encoded(segmentation, size)))
    return masks
