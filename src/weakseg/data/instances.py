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


@dataclass(frozen=True)
class Instances:
    """Objects of one image.

    Attributes:
        classes: (n,) int64 in [0, C).
        scores: (n,) float32 in [0, 1], how sure it is that there is such an object.
        masks: (n, H, W) bool; no pixel belongs to two.
    """

    classes: Tensor
    scores: Tensor
    masks: Tensor

    def save(self, path: Path, names: Sequence[str]) -> None:
        """Write ``path`` (JSON: number, class, score, box and area of each object) and beside it a PNG of the numbers.

        Args:
            path: Ends in ``.json``; it appears after the PNG.
            names: Of the C classes.
        """
        numbers = torch.arange(1, len(self.masks) + 1)[:, None, None]
        picture = (self.masks.cpu() * numbers).sum(0).numpy().astype(np.uint16)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG")
        write_bytes(path.with_suffix(".png"), buffer.getvalue())
        write_json(path, [self._entry(index, names) for index in range(len(self.masks))])

    @classmethod
    def load(cls, path: Path, names: Sequence[str]) -> "Instances":
        """Read what ``save`` wrote.

        Raises:
            UserError: If one of the two files is missing or damaged.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            with Image.open(path.with_suffix(".png")) as picture:
                numbers = torch.from_numpy(np.asarray(picture).astype(np.int64))
            classes = [names.index(entry["class"]) for entry in entries]
            scores = [float(entry["score"]) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                "cannot read the instances", where=path, remedy=f"Remove the folder {path.parent.name} and run again"
            ) from error
        masks = numbers == torch.arange(1, len(entries) + 1)[:, None, None]
        return cls(torch.tensor(classes, dtype=torch.int64), torch.tensor(scores), masks)

    def _entry(self, index: int, names: Sequence[str]) -> dict[str, object]:
        mask = self.masks[index]
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = [0, 0, 0, 0]
        if len(rows):
            box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        return {
            "number": index + 1,
            "class": names[int(self.classes[index])],
            "score": round(float(self.scores[index]), 6),
            "box": box,
            "area": int(mask.sum()),
        }
