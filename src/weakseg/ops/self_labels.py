"""Labels that a network draws from its own masks, and the loss that teaches them.

N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, Sec. 3.2 and 4.

A pixel is labelled where a mask comes near its own maximum and no other mask does; the rest is left alone. Large
classes would soon swallow small ones, so a class weighs the more the fewer pixels it has. An image takes part only if
every class that it is tagged with, and background, has found at least one pixel.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Balance = Literal["code", "paper"]
FOREGROUND_CUT, BACKGROUND_CUT, LEAST_SCORE = 0.6, 0.7, 0.2
UNLABELLED = -100  # PyTorch's own, in use for any number of classes


def of_present_classes(masks: Tensor, tags: Tensor) -> Tensor:
    """Masks (..., C + 1, h, w) with those of absent classes 0, the others as they are.

    Args:
        masks: Background first.
        tags: (..., C) bool.
    """
    present = torch.cat([torch.ones_like(tags[..., :1]), tags], -1)
    return masks * present[..., None, None].to(masks.dtype)


def sure_scores(
    masks: Tensor,
    foreground_cut: float = FOREGROUND_CUT,
    background_cut: float = BACKGROUND_CUT,
    least: float | None = LEAST_SCORE,
) -> Tensor:
    """What a pixel must exceed to be sure, for each image and class.

    Args:
        masks: (..., C + 1, h, w) in [0, 1], background first.
        foreground_cut: Share of the class's maximum.
        background_cut: Share of the background's maximum.
        least: Never below that, as in the code, so that a faint mask has no sure pixel; the paper has ``None``.

    Returns:
        (..., C + 1).
    """
    cuts = masks.new_tensor([background_cut] + [foreground_cut] * (masks.shape[-3] - 1))
    return (masks.amax((-2, -1)) * cuts).clamp(min=least or 0.0)


def pseudo_ground_truth(masks: Tensor, thresholds: Tensor) -> Tensor:
    """The pixels that exactly one class, or background, is sure of.

    Args:
        masks: (..., C + 1, h, w) in [0, 1], background first, those of absent classes 0.
        thresholds: (..., C + 1), see ``sure_scores``.

    Returns:
        (..., C + 1, h, w) bool, at most one of the channels true.
    """
    sure = masks > thresholds[..., None, None]
    return sure & (sure.sum(-3, keepdim=True, dtype=torch.int32) == 1)


def label_weights(pseudo: Tensor) -> Tensor:
    """Weight of each class in its image, (T - n_c) / (1 + T): large for small ones, 0 for one that is alone.

    Args:
        pseudo: (..., C + 1, h, w) bool; n_c of the T labelled pixels show class c.

    Returns:
        (..., C + 1) float32 in [0, 1).
    """
    return _weights(_pixels(pseudo))


def label_map(pseudo: Tensor, unlabelled: int = UNLABELLED) -> Tensor:
    """The labels as one number for each pixel.

    Args:
        pseudo: (..., C + 1, H, W) bool, at most one channel true.
        unlabelled: The number of pixels without label.

    Returns:
        (..., H, W) int64, 0 for background.
    """
    labelled, labels = pseudo.to(torch.uint8).max(-3)  # of bool, the maximum is slow
    return labels.masked_fill(labelled == 0, unlabelled)


def balanced_mask_loss(logits: Tensor, pseudo: Tensor, tags: Tensor, balance: Balance = "code") -> Tensor:
    """Cross-entropy at labelled pixels, classes balanced; of images that show background and all of their classes.

    Args:
        logits: (B, C + 1, H, W), background first.
        pseudo: (B, C + 1, H, W) bool, at most one channel true.
        tags: (B, C) bool.
        balance: ``"code"``, the mean over all pixels of ``label_weights``, where unlabelled ones count 0; ``"paper"``,
            the mean over the classes of the mean over each one's pixels.

    Returns:
        (B,), 0 for images that lack a label.

    Raises:
        ValueError: If ``balance`` is neither.
    """
    if balance not in get_args(Balance):
        raise ValueError(f"unknown balance '{balance}': {', '.join(get_args(Balance))}")
    labels, counts = label_map(pseudo), _pixels(pseudo)
    surprise = cross_entropy(logits, labels, reduction="none")
    if balance == "code":
        shares = _weights(counts) / logits.shape[-2:].numel()
    else:
        shares = 1 / (counts.clamp(min=1) * (counts > 0).sum(-1, keepdim=True).clamp(min=1))
    shares = shares * ((counts > 0).sum(-1) == tags.sum(-1) + 1)[:, None]
    of_pixels = shares.gather(1, labels.clamp(min=0).flatten(1)).view_as(surprise)
    return (surprise * of_pixels).sum((-2, -1))  # unlabelled pixels have any share of a surprise of 0


def _pixels(pseudo: Tensor) -> Tensor:
    """Number of pixels of each class; without a dtype, all of the labels would be copied into 64 bits first."""
    return pseudo.sum((-2, -1), dtype=torch.int32)


def _weights(counts: Tensor) -> Tensor:
    """See ``label_weights``; of numbers of pixels (..., C + 1)."""
    counts = counts.float()
    total = counts.sum(-1, keepdim=True)
    return (total - counts) / (1 + total)
