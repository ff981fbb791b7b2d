"""Losses of segmentation training on pseudo-masks.

A loss is a function of logits, masks and, by name, of what else it wants: ``second``, other label maps of the same
images, directly after the masks; ``scale``, tau of a network whose logits are scaled cosines; ``progress``, the share
of the training that is over, in [0, 1). The segmenter gives it what it asks for. Keyword-only arguments are its
options.

Those that look at two label maps are from Y. Oh, B. Kim, B. Ham, "Background-Aware Pooling and Noise-Aware Loss for
Weakly-Supervised Semantic Segmentation" (BANA), CVPR 2021, and its supplement, Table 3. Pseudo-masks made in two ways
err in different places: where they agree they are trusted and cross-entropy is taken; where they differ, each loss has
its own way of believing the first one a little.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from weakseg.data.sample import IGNORE
from weakseg.registry import find

Loss = Callable[..., Tensor]
Weight = Annotated[float, Field(ge=0)]

CONTEXT = ("second", "scale", "progress")
SMALLEST = 1e-12  # of a distance, so that its logarithm is finite


class Agreement(NamedTuple):
    """Where two label maps say the same, and where not; pixels that either leaves out (255) belong to neither.

    Attributes:
        same: S (B, H, W) bool.
        different: ~S (B, H, W) bool.
    """

    same: Tensor
    different: Tensor


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


def noise_aware(
    logits: Tensor,
    masks: Tensor,
    second: Tensor,
    scale: float,
    *,
    weight: Weight = 0.1,
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 7.0,
    detach_sigma: bool = False,
) -> Tensor:
    """L = L_ce + lambda L_wce of BANA: where the maps differ, a pixel counts as much as it resembles its label.

    L_wce is the mean of the cross-entropies weighed by ``confidence``. Its weights sum to 1, so they are computed as a
    softmax of gamma log(ratio), which is the same and stays finite where all confidences are too small for a number.

    Args:
        logits: tau cos(phi, W) (B, K, H, W).
        masks: Y_crf (B, H, W) int64, 255 is ignored.
        second: Y_ret (B, H, W) int64, 255 is ignored.
        scale: tau.
        weight: lambda.
        gamma: Larger trusts less.
        detach_sigma: Let no gradient through the confidences; the published code does let it.

    Returns:
        A scalar. A part without pixels counts as 0.
    """
    logits = _exact(logits)
    surprise, pixels = _surprise(logits, masks), compared(masks, second)
    trust = gamma * _log_ratio(logits / scale, masks)
    trust = (trust.detach() if detach_sigma else trust).masked_fill(~pixels.different, torch.finfo(trust.dtype).min / 2)
    shares = trust.flatten().softmax(0).view_as(trust) * pixels.different
    return _mean(surprise, pixels.same) + weight * (shares * surprise).sum()


def entropy(logits: Tensor, masks: Tensor, second: Tensor, *, weight: Weight = 0.1) -> Tensor:
    """Entropy regularisation: where the maps differ, the network is only asked to be sure.

    Args:
        logits: (B, K, H, W).
        masks: (B, H, W) int64, 255 is ignored.
        second: (B, H, W) int64, 255 is ignored.
        weight: Of the mean entropy.

    Returns:
        A scalar. A part without pixels counts as 0.
    """
    logits = _exact(logits)
    pixels = compared(masks, second)
    return _mean(_surprise(logits, masks), pixels.same) + weight * _mean(pixel_entropy(logits), pixels.different)


def bootstrapping(
    logits: Tensor,
    masks: Tensor,
    second: Tensor,
    progress: float,
    *,
    weight: Weight = 0.1,
    power: Annotated[float, Field(ge=0)] = 0.9,
) -> Tensor:
    """Soft bootstrapping: where the maps differ, the label fades into what the network itself says.

    The target is beta onehot(Y) + (1 - beta) H, with beta = (1 - progress)^power. Gradients flow through the target,
    too: at beta = 0 this is the entropy. The paper does not give the exponent; 0.9, that of its learning rate, is
    assumed.

    Args:
        logits: (B, K, H, W).
        masks: Y (B, H, W) int64, 255 is ignored.
        second: (B, H, W) int64, 255 is ignored.
        progress: Share of the training that is over, in [0, 1].
        weight: Of the mean over the pixels where the maps differ.
        power: Of the schedule.

    Returns:
        A scalar. A part without pixels counts as 0.
    """
    logits, share = _exact(logits), (1 - progress) ** power
    surprise, pixels = _surprise(logits, masks), compared(masks, second)
    blended = share * surprise + (1 - share) * pixel_entropy(logits)
    return _mean(surprise, pixels.same) + weight * _mean(blended, pixels.different)


def confidence(cosines: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """How much a pixel resembles its label: sigma = (D_Y / max_c D_c)^gamma, with D = 1 + cos.

    Args:
        cosines: (B, K, H, W) in [-1, 1].
        masks: Y (B, H, W) int64.
        gamma: Not negative.

    Returns:
        (B, H, W) in [0, 1]: 1 where no class has a larger cosine than the label's; of no meaning where that is 255.
    """
    return (gamma * _log_ratio(cosines, masks)).exp()


def pixel_entropy(logits: Tensor) -> Tensor:
    """-sum_c H_c log H_c of the softmax H: (B, K, H, W) to (B, H, W), not negative."""
    logs = log_softmax(logits, 1)
    return -(logs.exp() * logs).sum(1)


def compared(masks: Tensor, second: Tensor) -> Agreement:
    """Where two label maps (B, H, W), 255 unknown, agree and where they differ."""
    known = (masks != IGNORE) & (second != IGNORE)
    return Agreement(known & (masks == second), known & (masks != second))


def _log_ratio(cosines: Tensor, masks: Tensor) -> Tensor:
    """log(D_Y / max_c D_c), at most 0; finite also where a cosine is -1."""
    distances = (1 + cosines).clamp(min=SMALLEST)
    labels = masks.where(masks != IGNORE, 0)[:, None]
    return distances.gather(1, labels)[:, 0].log() - distances.amax(1).log()


def _surprise(logits: Tensor, masks: Tensor) -> Tensor:
    """-log H_Y of every pixel, 0 where it is ignored."""
    return cross_entropy(logits, masks, ignore_index=IGNORE, reduction="none")


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean over some pixels, 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)


def _exact(logits: Tensor) -> Tensor:
    """In float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


LOSSES: dict[str, Loss] = {
    "cross_entropy": pixel_cross_entropy,
    "noise_aware": noise_aware,
    "entropy": entropy,
    "bootstrapping": bootstrapping,
}


def loss_function(name: str) -> Loss:
    """A loss by name.

    Raises:
        UserError: If there is no such loss; lists near matches.
    """
    return find(name, LOSSES, "loss", group="losses")


def loss_options(name: str, options: dict[str, Any]) -> Loss:
    """The loss with its options filled in, a function of logits, masks and what else it wants."""
    return partial(loss_function(name), **options)


def wanted(loss: Loss) -> frozenset[str]:
    """Which of ``CONTEXT`` a loss asks for: positional arguments of these names without a default."""
    arguments = inspect.signature(loss).parameters
    asked = {
        name
        for name, argument in arguments.items()
        if argument.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and argument.default is inspect.Parameter.empty
    }
    return frozenset(CONTEXT) & asked


def needs_second(name: str) -> bool:
    """Whether a loss compares the masks with other label maps of the same images."""
    return "second" in wanted(loss_function(name))
