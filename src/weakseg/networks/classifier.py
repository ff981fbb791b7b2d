"""The last layer of a segmentation network: dot products, or scaled cosines, of features and class weights.

Y. Oh, B. Kim, B. Ham, "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation"
(BANA), CVPR 2021.

A class's logit is tau cos(phi, W_c): how long a feature is does not count, so classes can be compared, and the cosine
tells how much a pixel looks like its label (``segment.losses.noise_aware``). The paper enlarges the cosines to the
image and scales them then; as enlarging is linear, scaling first gives the same, and that is what happens here. Logits
are in [-tau, tau], also where a decoder enlarges them.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

ClassifierKind = Literal["dot", "cosine"]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]

DEVIATION = 0.01  # of the papers' new layers
SCALE = 20.0  # tau of BANA
SMALLEST_NORM = 1e-12
OPTIONS = ("classifier", "scale")


def cosines(features: Tensor, weight: Tensor) -> Tensor:
    """Cosine of the angle between each feature and each class weight; in float32 at least, also under autocast.

    Args:
        features: phi (B, D, h, w).
        weight: W (K, D), or (K, D, 1, 1) as a 1x1 convolution holds it.

    Returns:
        (B, K, h, w) in [-1, 1]; 0 where either has no length.
    """
    exact = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        directions = normalize(features.to(exact), dim=1, eps=SMALLEST_NORM)
        classes = normalize(weight.flatten(1).to(exact), dim=1, eps=SMALLEST_NORM)
        return torch.einsum("kd,bdhw->bkhw", classes, directions)


class CosineClassifier(nn.Conv2d):
    """A 1x1 layer without bias whose outputs are scaled cosines.

    Args:
        channels: D.
        num_outputs: K.
        scale: tau.
    """

    def __init__(self, channels: int, num_outputs: int, scale: float = SCALE) -> None:
        super().__init__(channels, num_outputs, 1, bias=False)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) to (B, K, h, w) in [-tau, tau]."""
        return self.scale * cosines(features, self.weight)


def build_classifier(
    channels: int, num_outputs: int, *, classifier: ClassifierKind = "dot", scale: Scale = SCALE
) -> nn.Conv2d:
    """A 1x1 layer without bias, its weights from N(0, 0.01).

    Args:
        channels: D.
        num_outputs: K.
        classifier: ``"dot"`` products or ``"cosine"``.
        scale: tau of the cosines.
    """
    if classifier == "cosine":
        layer: nn.Conv2d = CosineClassifier(channels, num_outputs, scale)
    else:
        layer = nn.Conv2d(channels, num_outputs, 1, bias=False)
    return started(layer)


def started(layer: nn.Conv2d) -> nn.Conv2d:
    """A new layer as the papers start it: weights from N(0, 0.01), biases 0."""
    nn.init.normal_(layer.weight, std=DEVIATION)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def end_with_cosines(head: nn.Module, scale: float) -> None:
    """Let a decoder end with cosines: its last convolution, whatever its kernel, becomes a ``CosineClassifier``."""
    layers = [(name, layer) for name, layer in head.named_modules() if isinstance(layer, nn.Conv2d)]
    name, last = layers[-1]
    head.set_submodule(name, started(CosineClassifier(last.in_channels, last.out_channels, scale)))


def classifier_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those among a network's options that are about its classifier."""
    return {name: value for name, value in options.items() if name in OPTIONS}
