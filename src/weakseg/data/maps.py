"""Localisation maps of one image: only the classes present, in half precision on disk."""

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakseg.data.files import write_bytes
from weakseg.errors import UserError


@dataclass(frozen=True)
class LocalizationMaps:
    """What a method or refiner says about where the present classes are.

    Attributes:
        classes: (P,) int64, the classes present, ascending, in [0, C).
        scores: (P, h, w) float32 in [0, 1].
        size: Height and width of the image; ``h, w`` may be smaller.
        background: (h, w) float32 in [0, 1], or ``None`` where nothing has said yet what background is.
        features: (D, h', w') float32, for refiners that compare pixels, or ``None``.
        saliency: (H, W) float32 in [0, 1] of the image, for refiners that ask for it, or ``None``; never in the file.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels of the image, upper bounds exclusive, for refiners that ask for
            them, or ``None``; never in the file.
        box_classes: (n,) int64, in [0, C), with the boxes.
    """

    classes: Tensor
    scores: Tensor
    size: tuple[int, int]
    background: Tensor | None = None
    features: Tensor | None = None
    saliency: Tensor | None = None
    boxes: Tensor | None = None
    box_classes: Tensor | None = None

    def with_scores(self, scores: Tensor, background: Tensor | None) -> "LocalizationMaps":
        """The same classes with other maps."""
        return replace(self, scores=scores, background=background)

    def to(self, device: torch.device) -> "LocalizationMaps":
        """The same maps on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            classes=self.classes.to(device),
            scores=self.scores.to(device),
            background=move(self.background),
            features=move(self.features),
            saliency=move(self.saliency),
            boxes=move(self.boxes),
            box_classes=move(self.box_classes),
        )

    def save(self, path: Path) -> None:
        """Write as ``.npz`` (float16 scores), under a temporary name first."""
        arrays = {
            "classes": self.classes.to(torch.uint8).numpy(),
            "scores": self.scores.to(torch.float16).numpy(),
            "size": np.asarray(self.size, dtype=np.int32),
        }
        if self.background is not None:
            arrays["background"] = self.background.to(torch.float16).numpy()
        if self.features is not None:
            arrays["features"] = self.features.to(torch.float16).numpy()
        _write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "LocalizationMaps":
        """Read what ``save`` wrote.

        Raises:
            UserError: If the file is missing or damaged.
        """
        found = _read_arrays(path, "localisation maps")
        return cls(
            classes=found["classes"].long(),
            scores=found["scores"].float(),
            size=(int(found["size"][0]), int(found["size"][1])),
            background=found["background"].float() if "background" in found else None,
            features=found["features"].float() if "features" in found else None,
        )


def write_scores(path: Path, scores: Tensor) -> None:
    """Write (K, H, W) scores in [0, 1] as ``.npz`` (float16), under a temporary name first."""
    _write_arrays(path, {"scores": scores.to(torch.float16).numpy()})


def read_scores(path: Path) -> Tensor:
    """(K, H, W) float16, what ``write_scores`` wrote.

    Raises:
        UserError: If the file is missing or damaged.
    """
    return _read_arrays(path, "scores")["scores"]


def _write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def _read_arrays(path: Path, what: str) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read the {what}",
            where=path,
            remedy=f"Remove the folder {path.parent.name} and run the same command again",
        ) from error
