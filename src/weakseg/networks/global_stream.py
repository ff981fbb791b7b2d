"""A segmentation network with a second stream that says which classes the image shows.

T. Shen, G. Lin, C. Shen, I. Reid, "Bootstrapping the Performance of Webly Supervised Semantic Segmentation", CVPR 2018;
used by T. Zhang, G. Lin, W. Liu, J. Cai, A. Kot, "Splitting vs. Merging", ECCV 2020.

Two streams share the early layers. The segmentation stream goes on with a fine, dilated grid and scores every position;
the global stream goes on as a classifier does, pools, and scores the image. Their logits are added: a class that the
image does not show as a whole is hard to see anywhere in it. The global stream also learns directly which values the
pseudo-mask has.

Widths and rates are those of the code of the first paper: for VGG16 four parallel dilated branches, for ResNet50 a
single one; everything else is treated as a ResNet. VGG16's fc6 and fc7 start from the ImageNet classifier where the
weights, timm's or a local file, have it. The second paper pools by the mean where that code takes the maximum.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from timm.models import load_state_dict_from_hf
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from weakseg.errors import UserError
from weakseg.networks.backbone import Backbone
from weakseg.networks.network import MaskLoss, Network
from weakseg.networks.split import ADVICE, cuts, split
from weakseg.networks.vgg16 import CLASSIFIER_WIDTH, FullyConnected, narrowed_classifier
from weakseg.networks.weights import Weights, hub_error, read_weights
from weakseg.ops.maps import resize
from weakseg.ops.pooling import gap, gmp

POOLINGS = {"mean": gap, "max": gmp}
SHARED_STRIDE = 8
BRANCHES = {"parallel": (6, 12, 18, 24), "single": (12,)}
FC6_REACH = 96  # image pixels between the taps of fc6: VGG16's 7x7 kernel on a grid of 32, read at every third place
DEVIATION = 0.01


class ParallelHead(nn.Sequential):
    """Dilated branches, summed, and two 1x1 layers: (B, D, h, w) to (B, K, h, w).

    Args:
        channels: D.
        num_outputs: K.
        width: Of the branches; the layers after them have half of it.
        rates: Distance between the taps of each branch's 3x3 convolution.
    """

    def __init__(self, channels: int, num_outputs: int, width: int, rates: Sequence[int]) -> None:
        super().__init__(
            _Sum(FullyConnected(channels, width, rate) for rate in rates),
            nn.Dropout(0.5),
            *(nn.Conv2d(width, width // 2, 1), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            nn.Conv2d(width // 2, num_outputs, 1),
        )


class SingleHead(nn.Sequential):
    """One dilated layer and two 1x1 layers: (B, D, h, w) to (B, K, h, w); arguments as for ``ParallelHead``."""

    def __init__(self, channels: int, num_outputs: int, width: int, rates: Sequence[int]) -> None:
        (rate,) = rates
        super().__init__(
            *(nn.Conv2d(channels, width // 2, 3, padding=rate, dilation=rate), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            *(nn.Conv2d(width // 2, width // 2, 1), nn.ReLU(inplace=True)),
            nn.Conv2d(width // 2, num_outputs, 1),
        )


class _Sum(nn.ModuleList):
    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([branch(features) for branch in self]).sum(0)


def shown_values(masks: Tensor, num_outputs: int) -> Tensor:
    """Which values each mask has: (B, H, W) int64, 255 for none, to (B, K) bool."""
    return torch.stack([(masks == value).flatten(1).any(1) for value in range(num_outputs)], 1)


def global_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Multi-label logistic loss of the values that the masks have, background among them: the sum over them per image.

    Args:
        logits: (B, K) of the global stream.
        masks: (B, H, W) int64, 255 is ignored.

    Returns:
        A scalar; images whose pixels are all ignored count as 0.
    """
    shown = shown_values(masks, logits.shape[1])
    each = binary_cross_entropy_with_logits(logits, shown.to(logits.dtype), reduction="none").sum(1)
    return (each * shown.any(1)).mean()


class GlobalStream(Network):
    """Segmentation and global stream on one backbone; the sum of their logits, enlarged to the image.

    Args:
        backbone: The network's body, at output stride 8 in the papers; its layers must form a chain, see
            ``networks.split``. The global stream has copies of the later layers, without dilation.
        num_outputs: K, number of mask values: the object classes and background.
        pooling: Of the global stream: ``"mean"`` (Splitting vs. Merging) or ``"max"`` (code of Bootstrapping).
        head: ``"parallel"``, four dilated branches, or ``"single"``; ``"auto"`` takes four for a VGG.
        width: Of the layers after the backbone.
        global_weight: Weight of the global stream's own loss.

    Raises:
        UserError: If the backbone cannot be cut where its stride is at most 8.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_outputs: int,
        *,
        pooling: Literal["mean", "max"] = "mean",
        head: Literal["auto", "parallel", "single"] = "auto",
        width: Annotated[int, Field(ge=2)] = 1024,
        global_weight: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.backbone, self.mean, self.std = backbone, backbone.mean, backbone.std
        native = Backbone(
            backbone.name, weights="none", output_stride=None, batchnorm=backbone.batchnorm, options=backbone.options
        )
        stages = [number for number, stride in cuts(native).items() if stride <= SHARED_STRIDE]
        if not stages:
            raise UserError(f"backbone '{backbone.name}' cannot be cut at stride {SHARED_STRIDE}", remedy=ADVICE)
        self.parts = split(backbone, max(stages))  # a tuple: the weights are listed under the backbone already
        self.global_branch = deepcopy(split(native, max(stages)).rest)
        self.copy_encoder()
        is_vgg = backbone.name.startswith("vgg") and not getattr(backbone.model, "fully_connected", False)
        kind = ("parallel" if is_vgg else "single") if head == "auto" else head
        build = ParallelHead if kind == "parallel" else SingleHead
        self.head = build(backbone.channels, num_outputs, width, BRANCHES[kind])
        self.before_pool: nn.Module = nn.Identity()
        if is_vgg:
            self.before_pool = FullyConnected(backbone.channels, width, max(1, FC6_REACH // native.stride))
        self.after_pool = nn.Sequential(
            *(nn.Linear(width if is_vgg else backbone.channels, width), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            *(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            nn.Linear(width, num_outputs),
        )
        for layer in (*self.head, *self.after_pool):
            _initialize(layer)
        if is_vgg and width == CLASSIFIER_WIDTH:
            self._start_from_classifier()
        self.pool, self.global_weight = POOLINGS[pooling], global_weight

    @property
    def encoder(self) -> nn.Module:
        """The backbone's timm model."""
        model: nn.Module = self.backbone.model
        return model

    @property
    def pretrained(self) -> nn.Module:
        """The backbone and the global stream's copy of its later layers."""
        return nn.ModuleList([self.backbone, self.global_branch])

    def copy_encoder(self) -> None:
        """The global stream's layers start from the weights of the segmentation stream's, and are frozen like them."""
        self.global_branch.load_state_dict(self.parts.rest.state_dict())
        frozen = {name for name, value in self.parts.rest.named_parameters() if not value.requires_grad}
        for name, parameter in self.global_branch.named_parameters():
            parameter.requires_grad_(name not in frozen)

    def _start_from_classifier(self) -> None:
        """All fc6 and fc7 start alike, from those of the ImageNet classifier, if the weights have them."""
        found = narrowed_classifier(_all_weights(self.backbone))
        branches = [layer for layer in self.modules() if isinstance(layer, FullyConnected)]
        for branch in branches if found else ():
            for parameter, value in zip(branch.parameters(), found or (), strict=True):
                parameter.data.copy_(value)

    def streams(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K, h, w) of the segmentation stream and (B, K) of the global stream."""
        shared = self.parts.trunk(images)
        pooled = self.pool(self.before_pool(self.global_branch(shared)))
        return self.head(self.parts.rest(shared)), self.after_pool(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, K, H, W) logits."""
        local, overall = self.streams(images)
        return resize(local + overall[..., None, None], (images.shape[-2], images.shape[-1]))

    def losses(self, images: Tensor, masks: Tensor, loss: MaskLoss, *others: Tensor) -> dict[str, Tensor]:
        """The recipe's loss on the grid of the features, with the masks shrunk to it (nearest), and ``global_loss``."""
        local, overall = (logits.float() for logits in self.streams(images))
        small = [resize(labels, (local.shape[-2], local.shape[-1]), "nearest") for labels in (masks, *others)]
        return {
            "segmentation": loss(local + overall[..., None, None], *small),
            "global": self.global_weight * global_loss(overall, masks),
        }


def _all_weights(backbone: Backbone) -> Weights:
    """All in the file that a backbone's weights are from, also what it has no use for; nothing for ``"none"``."""
    if backbone.weights == "none":
        return {}
    if backbone.weights != "timm":
        return read_weights(Path(backbone.weights))
    try:
        return dict(load_state_dict_from_hf(backbone.model.pretrained_cfg["hf_hub_id"], weights_only=True))
    except (OSError, RuntimeError) as error:
        raise hub_error(backbone.name, error) from error


def _initialize(layer: nn.Module) -> None:
    """The published code's rule for new layers."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, std=DEVIATION)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
