"""What is believed of each pixel before it hears of the others: probabilities, a label map, or energies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST_PROBABILITY = 1e-5


@dataclass(frozen=True)
class Prior:
    """Beliefs beforehand, one plane for all labels that nothing tells apart.

    Labels of the same prior have the same beliefs after every update: one plane stands for all of them, and is counted
    as often as it has labels.

    Attributes:
        values: (P, H, W) probabilities, which need not sum to one, or energies; float32 or float64.
        energies: Which of the two.
        least: Smaller probabilities count as this.
        planes: (L,) int64, the plane of each label.
    """

    values: Tensor
    energies: bool
    least: float
    planes: Tensor

    @classmethod
    def of_probabilities(cls, probabilities: Tensor) -> "Prior":
        """From (L, H, W); labels that are nowhere above the least probability share a plane."""
        kept, planes = shared(probabilities.flatten(1).amax(1) <= LEAST_PROBABILITY)
        values = probabilities if len(kept) == len(planes) else probabilities[kept]
        return cls(values, energies=False, least=LEAST_PROBABILITY, planes=planes)

    @classmethod
    def of_labels(
        cls,
        labels: Tensor,
        num_labels: int,
        gt_prob: float,
        ignore: int | None = None,
        precision: torch.dtype = torch.float32,
    ) -> "Prior":
        """From an (H, W) label map that is right with probability ``gt_prob``; labels that it lacks share a plane.

        Args:
            labels: Integers in [0, num_labels), or ``ignore``.
            num_labels: L.
            gt_prob: In (0, 1).
            ignore: Value of the pixels at which all labels are equally probable; ``None`` if there are none.
            precision: Of the probabilities.

        Raises:
            ValueError: If a label or ``gt_prob`` is out of range, or ``labels`` is not an integer map.
        """
        check_labels(labels, num_labels, gt_prob, ignore)
        labels = labels.long()
        known = labels.flatten() if ignore is None else labels[labels != ignore]
        kept, planes = shared(torch.bincount(known, minlength=num_labels) == 0)
        other = (1 - gt_prob) / max(num_labels - 1, 1)
        given = labels == kept[:, None, None]
        values = torch.where(given, torch.tensor(gt_prob, dtype=precision, device=labels.device), other)
        if ignore is not None:
            values.masked_fill_(labels == ignore, 1 / num_labels)
        return cls(values, energies=False, least=0, planes=planes)

    @classmethod
    def of_energies(cls, unary: Tensor) -> "Prior":
        """From (L, H, W)."""
        return cls(unary, energies=True, least=0, planes=torch.arange(len(unary), device=unary.device))

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        height, width = self.values.shape[1:]
        return height, width

    @property
    def copies(self) -> Tensor:
        """(P,) float32, how many labels have each plane."""
        return torch.bincount(self.planes, minlength=len(self.values)).float()

    def unary(self, precision: torch.dtype = torch.float32) -> Tensor:
        """(P, H, W) energies."""
        values = self.values.to(precision)
        return values if self.energies else -values.clamp(self.least, 1).log()

    def of_all_labels(self, beliefs: Tensor) -> Tensor:
        """(P, H, W) to (L, H, W)."""
        return beliefs if len(beliefs) == len(self.planes) else beliefs[self.planes]


def shared(same: Tensor) -> tuple[Tensor, Tensor]:
    """Planes for labels, one for all of those that are the same.

    Args:
        same: (L,) bool.

    Returns:
        (P,) int64, a label for each plane, and (L,) int64, the plane of each label.
    """
    own = ~same | (same.cumsum(0) == 1)
    planes = own.cumsum(0) - 1
    first = same.long().argmax()
    return own.nonzero().flatten(), torch.where(same, planes[first], planes)


def check_labels(labels: Tensor, num_labels: int, gt_prob: float, ignore: int | None = None) -> None:
    """Raises a ``ValueError`` if there is no prior of such a label map."""
    if labels.ndim != 2 or labels.numel() == 0 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be (H, W) integers, not {described(labels)}")
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must be between 0 and 1, not {gt_prob}")
    known = labels.long() if ignore is None else labels[labels != ignore].long()
    if known.numel() == 0:
        return
    lowest, highest = int(known.min()), int(known.max())
    if lowest < 0 or highest >= num_labels:
        wrong = highest if highest >= num_labels else lowest
        remedy = f"if {wrong} marks pixels without a label, say ignore={wrong}"
        raise ValueError(f"labels must be in [0, {num_labels}), not in [{lowest}, {highest}]; {remedy}")


def checked_scores(values: NDArray[Any] | Tensor, name: str) -> Tensor:
    """(L, H, W) float32, or float64 for float64; the values themselves where they are either."""
    scores = as_tensor(values)
    if scores.ndim != 3 or scores.numel() == 0 or not scores.is_floating_point():
        raise ValueError(f"{name} must be (L, H, W) floating point, not {described(scores)}")
    if not torch.stack(scores.aminmax()).isfinite().all():  # scores.isfinite() needs their memory once more
        raise ValueError(f"{name} must be finite, but some are infinite or not a number")
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def checked_image(image: NDArray[Any] | Tensor, prior: Prior) -> Tensor:
    """(H, W, 3) uint8 on the device of the prior, and of its size."""
    pixels = as_tensor(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != torch.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, not {described(pixels)}")
    size, expected = tuple(pixels.shape[:2]), prior.size
    if size != expected:
        raise ValueError(f"image is {size[0]} x {size[1]} pixels but its labels are {expected[0]} x {expected[1]}")
    return pixels.to(prior.values.device)


def as_tensor(values: NDArray[Any] | Tensor) -> Tensor:
    """A tensor that shares its memory with an array, where it can."""
    if isinstance(values, Tensor):
        return values.detach()
    array = np.ascontiguousarray(values)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def described(values: Tensor) -> str:
    """Shape and type, for messages."""
    return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"
