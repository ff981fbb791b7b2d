"""Losses of segmentation training on pseudo-masks."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from weakseg.data.sample import IGNORE
from weakseg.registry import find

Loss = Callable[..., Tensor]


def pixel_cross_entropy(
    logits: Tensor, masks: Tensor, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Tensor:
    """Softmax cross-entropy, the mean over pixels that are not ignored.

    Args:
        logits: (B, K, H, W).
        masks: (B, H, W) int64, 255 is ignored.
        label_smoothing: Share of the target given to all classes alike, in [0, 1).

    Returns:
        A scalar; 0, with zero gradients, where every pixel is ignored.
    """
    total = cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="sum", label_smoothing=label_smoothing)
    return total / (masks != IGNORE).sum().clamp(min=1)


LOSSES: dict[str, Loss] = {"cross_entropy": pixel_cross_entropy}


def loss_function(name: str) -> Loss:
    """A loss by name.

    Raises:
        UserError: If there is no such loss; lists near matches.
    """
    return find(name, LOSSES, "loss", group="losses")


def loss_options(name: str, options: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss with its options filled in, a function of logits and masks."""
    chosen = loss_function(name)
    return lambda logits, masks: chosen(logits, masks, **options)
