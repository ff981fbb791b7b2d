"""One image with what is known about it, and a stack of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from torch import Tensor

IGNORE = 255


class WeakLabel(StrEnum):
    """Kinds of supervision that a method may ask for."""

    TAGS = "tags"
    BOXES = "boxes"
    SALIENCY = "saliency"
    MASKS = "masks"


@dataclass(frozen=True)
class Sample:
    """An image and its labels; what is not known is ``None``.

    Attributes:
        id: Name of the image without its suffix.
        image: (3, H, W) uint8 RGB.
        tags: (C,) bool.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels, upper bounds exclusive.
        box_classes: (n,) int64 in [0, C).
        saliency: (1, H, W) float32 in [0, 1].
        mask: (H, W) uint8, 0 background, class + 1, 255 ignore.
        scores: (K, H, W) float16 in [0, 1], what a teacher says of every pixel; K may differ between images.
        second: (H, W) uint8, another label map of the same image, for losses that compare two.
        objects: (H, W) int32, 0 where no object is, i + 1 on object i, -1 where that is not known; after a crop some
            numbers may be missing.
        object_classes: (n,) int64 in [0, C), of all objects, also of the missing ones.
        unsure: (m, 4) float32 boxes, like ``boxes``, in which nothing is known to be background, such as a crowd's.
    """

    id: str
    image: Tensor
    tags: Tensor | None = None
    boxes: Tensor | None = None
    box_classes: Tensor | None = None
    saliency: Tensor | None = None
    mask: Tensor | None = None
    scores: Tensor | None = None
    second: Tensor | None = None
    objects: Tensor | None = None
    object_classes: Tensor | None = None
    unsure: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[-2], self.image.shape[-1]


@dataclass(frozen=True)
class Batch:
    """Samples of one size, stacked; labels that some samples lack are filled and marked in ``known``.

    Attributes:
        ids: B names.
        images: (B, 3, H, W) float32, normalised for the backbone.
        valid: (B, 1, H, W) bool, False where padding fills the crop.
        tags: (B, C) bool, all False where unknown.
        boxes: B tensors (n_b, 4), empty where unknown.
        box_classes: B tensors (n_b,).
        saliency: (B, 1, H, W) float32, 0 where unknown.
        masks: (B, H, W) int64, 255 where unknown.
        scores: (B, K, H, W) float32, 0 where unknown and in the channels by which a sample has fewer than another.
        second: (B, H, W) int64, other label maps; 255 where unknown.
        objects: B maps (H, W) int32 of the numbers of objects, 0 where there is none or nothing has been told of
            objects, -1 where it is not known whose a pixel is.
        object_classes: B tensors (n_b,), class of object i + 1; empty where unknown.
        known: For each kind of label (B,) bool.
        unsure: B tensors (m_b, 4), boxes in which nothing is known to be background; empty if no image has one.
    """

    ids: tuple[str, ...]
    images: Tensor
    valid: Tensor
    tags: Tensor
    boxes: tuple[Tensor, ...]
    box_classes: tuple[Tensor, ...]
    saliency: Tensor
    masks: Tensor
    scores: Tensor
    second: Tensor
    objects: tuple[Tensor, ...]
    object_classes: tuple[Tensor, ...]
    known: dict[WeakLabel, Tensor] = field(default_factory=dict)
    unsure: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            images=move(self.images),
            valid=move(self.valid),
            tags=move(self.tags),
            boxes=tuple(move(boxes) for boxes in self.boxes),
            box_classes=tuple(move(classes) for classes in self.box_classes),
            saliency=move(self.saliency),
            masks=move(self.masks),
            scores=move(self.scores),
            second=move(self.second),
            objects=tuple(move(numbers) for numbers in self.objects),
            object_classes=tuple(move(classes) for classes in self.object_classes),
            known={kind: move(flags) for kind, flags in self.known.items()},
            unsure=tuple(move(boxes) for boxes in self.unsure),
        )


def collate(samples: Sequence[Sample], num_classes: int, valid: Sequence[Tensor] | None = None) -> Batch:
    """Stack samples whose images are already normalised float tensors of one size.

    Args:
        samples: At least one; images (3, H, W) float32.
        num_classes: C, number of object classes.
        valid: For each sample (1, H, W) bool; everything is valid if ``None``.

    Returns:
        The batch.
    """
    height, width = samples[0].size

    def known(values: Sequence[object]) -> Tensor:
        return torch.tensor([value is not None for value in values])

    return Batch(
        ids=tuple(sample.id for sample in samples),
        images=torch.stack([sample.image for sample in samples]),
        valid=torch.stack(list(valid)) if valid else torch.ones(len(samples), 1, height, width, dtype=torch.bool),
        tags=torch.stack([_or(sample.tags, torch.zeros(num_classes, dtype=torch.bool)) for sample in samples]),
        boxes=tuple(_or(sample.boxes, torch.zeros(0, 4)) for sample in samples),
        box_classes=tuple(_or(sample.box_classes, torch.zeros(0, dtype=torch.int64)) for sample in samples),
        saliency=torch.stack([_or(sample.saliency, torch.zeros(1, height, width)) for sample in samples]),
        masks=_stacked_masks([sample.mask for sample in samples], (height, width)),
        scores=_stacked_scores([sample.scores for sample in samples], (height, width)),
        second=_stacked_masks([sample.second for sample in samples], (height, width)),
        objects=tuple(_or(sample.objects, _nothing(height, width)) for sample in samples),
        object_classes=tuple(_or(sample.object_classes, torch.zeros(0, dtype=torch.int64)) for sample in samples),
        known={
            WeakLabel.TAGS: known([sample.tags for sample in samples]),
            WeakLabel.BOXES: known([sample.boxes for sample in samples]),
            WeakLabel.SALIENCY: known([sample.saliency for sample in samples]),
            WeakLabel.MASKS: known([sample.mask for sample in samples]),
        },
        unsure=_unsure(samples),
    )


def _unsure(samples: Sequence[Sample]) -> tuple[Tensor, ...]:
    if all(sample.unsure is None for sample in samples):
        return ()
    return tuple(_or(sample.unsure, torch.zeros(0, 4)) for sample in samples)


def _stacked_masks(masks: Sequence[Tensor | None], size: tuple[int, int]) -> Tensor:
    """(B, H, W) int64, 255 where a sample has none."""
    return torch.stack([_or(mask, torch.full(size, IGNORE, dtype=torch.uint8)).long() for mask in masks])


def _nothing(height: int, width: int) -> Tensor:
    """(H, W) int32 zeros that take the memory of one."""
    return torch.zeros(1, 1, dtype=torch.int32).expand(height, width)


def _stacked_scores(scores: Sequence[Tensor | None], size: tuple[int, int]) -> Tensor:
    """(B, K, H, W) float32, where K is the largest number of channels."""
    channels = max(0 if given is None else len(given) for given in scores)
    stacked = torch.zeros(len(scores), channels, *size)
    for place, given in zip(stacked, scores, strict=True):
        if given is not None:
            place[: len(given)] = given
    return stacked


def _or(value: Tensor | None, default: Tensor) -> Tensor:
    return default if value is None else value
