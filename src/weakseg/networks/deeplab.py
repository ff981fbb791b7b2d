"""DeepLab V1 (LargeFOV) and V2 (ASPP) on any backbone, as published and as BANA has them.

L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille, "DeepLab: Semantic Image Segmentation with Deep
Convolutional Nets, Atrous Convolution, and Fully Connected CRFs", TPAMI 2018; Y. Oh, B. Kim, B. Ham, "Background-Aware
Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation" (BANA), CVPR 2021.

Both see far without a coarser grid, because the taps of their convolutions stand apart: V1 has one such layer, V2 four
side by side, whose outputs are summed. In the PyTorch code that most papers use for V2 the four give the logits; in
BANA they give features, which a classifier without bias follows, of dot products or cosines.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from weakseg.errors import UserError
from weakseg.networks.backbone import Backbone
from weakseg.networks.classifier import SCALE, ClassifierKind, Scale, build_classifier, started
from weakseg.networks.network import MaskLoss, Network
from weakseg.networks.vgg16 import CLASSIFIER_WIDTH, VGG16, FullyConnected
from weakseg.ops.maps import resize
from weakseg.ops.views import max_of_logits

RATES = (6, 12, 18, 24)
SCALES = (1.0, 0.5, 0.75)
"""Of the image, in the multi-scale training of V2."""

Width = Annotated[int, Field(ge=1)]
Rate = Annotated[int, Field(ge=1)]


class DeepLab(Network):
    """A backbone, and layers that score each of its cells.

    Args:
        backbone: The network's body, at output stride 8 in the papers.
        align_corners: How scores are enlarged to the image; see ``ops.maps.resize``.
    """

    head: nn.Module

    def __init__(self, backbone: Backbone, align_corners: bool) -> None:
        super().__init__()
        self.backbone, self.mean, self.std = backbone, backbone.mean, backbone.std
        self.align_corners = align_corners

    @property
    def encoder(self) -> nn.Module:
        """The backbone's timm model."""
        model: nn.Module = self.backbone.model
        return model

    def scores(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, K, h, w) logits on the grid of the features."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, K, H, W) logits."""
        return self._enlarged(self.scores(images), images)

    def _enlarged(self, scores: Tensor, images: Tensor) -> Tensor:
        return resize(scores, (images.shape[-2], images.shape[-1]), align_corners=self.align_corners)


class DeepLabV1(DeepLab):
    """LargeFOV: fc6 as a dilated 3x3 convolution, fc7 as a 1x1 one, a classifier without bias.

    On the backbone ``vgg16_largefov``, which has fc6 and fc7 already, from the ImageNet classifier, only the classifier
    is added, and ``rate`` is set in the backbone: its own option ``fc_dilation`` does not count here, so that one
    backbone section fits localiser and segmenter. On others both layers are new, by Kaiming's rule.

    Args:
        backbone: The network's body.
        num_outputs: K, number of mask values: the object classes and background.
        width: Channels of fc6 and fc7 where they are new.
        rate: Distance between the taps of fc6.
        classifier: ``"dot"`` or ``"cosine"`` (BANA).
        scale: tau of the cosines.
        align_corners: How scores are enlarged to the image; ``False`` in the sibling projects of EPS.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_outputs: int,
        *,
        width: Width = CLASSIFIER_WIDTH,
        rate: Rate = 12,
        classifier: ClassifierKind = "dot",
        scale: Scale = SCALE,
        align_corners: bool = True,
    ) -> None:
        super().__init__(backbone, align_corners)
        model, channels, field = backbone.model, backbone.channels, list[nn.Module]()
        if isinstance(model, VGG16) and model.fully_connected:
            model.set_fc_dilation(rate)
        else:
            field, channels = [FullyConnected(channels, width, rate, dropout=0.5)], width
        last = build_classifier(channels, num_outputs, classifier=classifier, scale=scale)
        self.head = nn.Sequential(*field, last)
        self.cosine_scale = scale if classifier == "cosine" else None


class DeepLabV2(DeepLab):
    """ASPP: four dilated 3x3 convolutions, summed.

    Args:
        backbone: The network's body; in the papers ``resnet101_caffe`` or a VGG16.
        num_outputs: K, number of mask values: the object classes and background.
        head: ``"sum"``: the convolutions have biases and their sum is the logits (deeplab-pytorch); ``"features"``:
            they have none, a ReLU follows their sum, and then the classifier (BANA).
        width: Channels of the sum, for ``head="features"``.
        classifier: ``"dot"`` or ``"cosine"``, for ``head="features"``.
        scale: tau of the cosines.
        multi_scale: Look at the image at half and three quarters of its size as well; the largest logit counts. There
            are four losses then, of each size on its own grid and of the largest logits, with masks shrunk to the grids
            (deeplab-pytorch).
        align_corners: How scores are enlarged to the image; ``False`` in deeplab-pytorch.

    Raises:
        UserError: If cosines are asked for where the convolutions give the logits.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_outputs: int,
        *,
        head: Literal["sum", "features"] = "sum",
        width: Width = 256,
        classifier: ClassifierKind = "dot",
        scale: Scale = SCALE,
        multi_scale: bool = False,
        align_corners: bool = True,
    ) -> None:
        super().__init__(backbone, align_corners)
        if head == "sum" and classifier == "cosine":
            raise UserError(
                "'segment.network.classifier: cosine' needs features, and deeplab_v2 with 'head: sum' has none",
                where="recipe",
                remedy="Set segment.network: {name: deeplab_v2, head: features, classifier: cosine}",
            )
        if head == "sum":
            self.head = Pyramid(backbone.channels, num_outputs, bias=True)
        else:
            pyramid = Pyramid(backbone.channels, width, bias=False)
            last = build_classifier(width, num_outputs, classifier=classifier, scale=scale)
            self.head = nn.Sequential(pyramid, nn.ReLU(inplace=True), last)
        self.multi_scale, self.cosine_scale = multi_scale, scale if classifier == "cosine" else None

    def views(self, images: Tensor) -> list[Tensor]:
        """Logits at each of the scales, the image's own first, each (B, K, h_s, w_s)."""
        return [self.scores(_scaled(images, scale)) for scale in (SCALES if self.multi_scale else SCALES[:1])]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, K, H, W) logits, the largest of all scales."""
        return self._enlarged(max_of_logits(self.views(images)), images)

    def losses(self, images: Tensor, masks: Tensor, loss: MaskLoss, *others: Tensor) -> dict[str, Tensor]:
        """The recipe's loss at image size, or one for each scale and one for the largest logits, each on its grid."""
        if not self.multi_scale:
            return super().losses(images, masks, loss, *others)
        views = self.views(images)
        named = {f"scale_{scale:g}": view for scale, view in zip(SCALES, views, strict=True)}
        named["maximum"] = max_of_logits(views)
        return {name: loss(view, *shrunk((masks, *others), view)) for name, view in named.items()}


class Pyramid(nn.ModuleList):
    """Dilated 3x3 convolutions side by side, summed: (B, D, h, w) to (B, K, h, w); from N(0, 0.01).

    Args:
        channels: D.
        num_outputs: K.
        bias: Whether they have biases.
    """

    def __init__(self, channels: int, num_outputs: int, *, bias: bool) -> None:
        layers = (nn.Conv2d(channels, num_outputs, 3, padding=r, dilation=r, bias=bias) for r in RATES)
        super().__init__(started(layer) for layer in layers)

    def forward(self, features: Tensor) -> Tensor:
        """The sum over all."""
        return torch.stack([layer(features) for layer in self]).sum(0)


def shrunk(label_maps: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """Label maps on a coarser grid: the value at the centre of each cell, as PIL's nearest neighbour takes it.

    Args:
        label_maps: (B, H, W) each.
        like: (..., h, w).

    Returns:
        (B, h, w) each.
    """
    rows, columns = (
        (2 * torch.arange(cells, device=like.device) + 1) * pixels // (2 * cells)
        for cells, pixels in zip(like.shape[-2:], label_maps[0].shape[-2:], strict=True)
    )
    return [labels[..., rows[:, None], columns] for labels in label_maps]


def _scaled(images: Tensor, scale: float) -> Tensor:
    """deeplab-pytorch's ``interpolate`` by a factor: sides are rounded down."""
    if scale == 1:
        return images
    return interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
