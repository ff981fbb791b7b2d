"""VGG16 as localisation and DeepLab networks use it: without its classifier, or with a narrow one made of convolutions.

K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015; L.-C. Chen,
G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets,
Atrous Convolution, and Fully Connected CRFs", TPAMI 2018 (its pooling, and its dilation).

timm's own ``vgg16`` always carries the two large fully connected layers, which a map of classes has no use for, and its
last pooling. Here thirteen convolutions are all there is: at output stride 16 the features are those of conv5_3, 512
channels; at 8 the fourth pooling loses its stride and conv5 is dilated by 2; only at 32, the stride of the ImageNet
classifier, is the last pooling there. Layers have the names of torchvision's and timm's weight files (``features.0`` to
``features.28``), so both fit; the classifier in them is left over.

Importing this file makes three names known to timm: ``vgg16_conv5`` has the 2x2 pools of the classifier,
``vgg16_deeplab`` the 3x3 pools with padding 1 of DeepLab, which keep sides of 8 n + 1 pixels on a grid with their
corners. ``vgg16_largefov`` is the whole body of DeepLab-LargeFOV and of BANA, at output stride 8: all five pools, an
average pool, and fc6 and fc7 as convolutions to 1024 channels, which start from the ImageNet classifier where a weight
file has one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from weakseg.data.colour import IMAGENET_MEAN, IMAGENET_STD
from weakseg.networks.channels import blue_first
from weakseg.networks.taken import taken_stages

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of 3x3 convolutions of conv1 to conv5."""

OUTPUT_STRIDES = (8, 16, 32)
CLASSIFIERS = (("classifier.0", "classifier.3"), ("pre_logits.fc1", "pre_logits.fc2"))
CLASSIFIER_WIDTH = 1024
"""Of fc6 and fc7 in DeepLab's VGG16."""

FULLY_CONNECTED = ("features.fc.0", "features.fc.3")
"""Names of fc6 and fc7 in ``vgg16_largefov``."""

FC6_SHAPE, FC7_SHAPE = (4096, 512, 7, 7), (4096, 4096, 1, 1)
"""Of the ImageNet classifier's first two layers, as convolutions."""


class FullyConnected(nn.Sequential):
    """VGG16's fc6 and fc7 as convolutions, narrowed: 3x3 with dilation, ReLU, 1x1, ReLU; by Kaiming's rule.

    Args:
        channels: D, coming in.
        width: Going out.
        rate: Distance between the taps of the first.
        dropout: Share of the channels, as wholes, that are dropped after each ReLU; with 0 there are no such layers.
        last_dropout: Whether the second of them is there.
    """

    def __init__(
        self, channels: int, width: int, rate: int, dropout: float = 0.0, *, last_dropout: bool = True
    ) -> None:
        fc6, fc7 = nn.Conv2d(channels, width, 3, padding=rate, dilation=rate), nn.Conv2d(width, width, 1)
        for layer in (fc6, fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        first, second = ([nn.Dropout2d(dropout)] if dropout and wanted else [] for wanted in (True, last_dropout))
        super().__init__(fc6, nn.ReLU(inplace=True), *first, fc7, nn.ReLU(inplace=True), *second)


class VGG16(nn.Module):
    """The convolutional part of VGG16, with timm's access to features.

    Its stages are conv1 to conv5, each after its last ReLU and before the pooling: strides 1, 2, 4, 8 and 16 (8 at
    output stride 8). Where anything follows, the last pooling or fc7, its result is a sixth stage.

    Args:
        num_classes: 0; the head is the caller's.
        in_chans: Channels of the image.
        output_stride: 32 as trained on ImageNet, 16 without the last pooling, 8 with conv5 dilated as well.
        pool_size: 2 as trained on ImageNet, or 3 with padding 1 as in DeepLab.
        last_pool: Keep the last pooling at output strides 8 and 16, too, as 3x3 with stride 1 (DeepLab-V1, BANA).
        width: Factor on the number of channels, for tests and small machines; weight files fit 1 only.
        fc_dilation: Distance between the taps of fc6, which then follows with fc7, after an average pool; ``None``
            for a network without them. Only at output stride 8.
        fc7_dropout: Drop half of fc7's channels in training, as in BANA; single-stage segmentation does not.
        bgr: The weights are Caffe's, which want blue first; images come red first all the same.

    Attributes:
        num_features: Channels of the last feature map, 512, or 1024 of fc7.
        feature_info: Channels and reduction of each stage.
        fully_connected: Whether fc6 and fc7 are there.

    Raises:
        ValueError: For another output stride, or a number of classes.
    """

    def __init__(
        self,
        num_classes: int = 0,
        in_chans: int = 3,
        output_stride: int = 32,
        pool_size: Literal[2, 3] = 2,
        last_pool: bool = False,
        width: float = 1.0,
        fc_dilation: int | None = None,
        fc7_dropout: bool = True,
        bgr: bool = False,
    ) -> None:
        super().__init__()
        known = OUTPUT_STRIDES if fc_dilation is None else OUTPUT_STRIDES[:1]
        if output_stride not in known:
            raise ValueError(f"output stride {output_stride}, known: {known}")
        if num_classes:
            raise ValueError("this VGG16 has no classifier")
        self.num_classes, self.in_chans, self.pool_size = num_classes, in_chans, pool_size
        self.feature_info: list[dict[str, Any]] = []
        self.feature_ends: list[int] = []
        self.features = nn.Sequential()
        channels, reduction, dilation = in_chans, 1, 1
        for number, (outputs, convolutions) in enumerate(STAGES, start=1):
            for _ in range(convolutions):
                inputs, channels = channels, round(outputs * width)
                self.features.append(nn.Conv2d(inputs, channels, 3, padding=dilation, dilation=dilation))
                self.features.append(nn.ReLU(inplace=True))
            self._note_stage(channels, reduction)
            strided = 2 * reduction <= output_stride
            if number == len(STAGES) and not (strided or last_pool):
                break
            self.features.append(self._pool(strided))
            reduction, dilation = (2 * reduction, dilation) if strided else (reduction, 2 * dilation)
        self.fully_connected = fc_dilation is not None
        if fc_dilation is not None:
            inputs, channels = channels, round(CLASSIFIER_WIDTH * width)
            if last_pool:
                self.features.append(nn.AvgPool2d(3, stride=1, padding=1))
            self.features.add_module(
                "fc", FullyConnected(inputs, channels, fc_dilation, dropout=0.5, last_dropout=fc7_dropout)
            )
        if len(self.features) - 1 > self.feature_ends[-1]:
            self._note_stage(channels, reduction)
        self.num_features = self.head_hidden_size = channels
        self._initialize()
        if bgr:
            self.features[0] = blue_first(cast("nn.Conv2d", self.features[0]))

    def set_fc_dilation(self, rate: int) -> None:
        """Move the taps of fc6 ``rate`` cells apart; its weights stay as they are."""
        fc6 = cast("nn.Conv2d", self.get_submodule("features.fc.0"))
        fc6.dilation = fc6.padding = (rate, rate)

    def adapted(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of a weight file under this network's names; see ``largefov_weights``."""
        return largefov_weights(weights) if self.fully_connected else weights

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D, h, w), not negative."""
        features: Tensor = self.features(images)
        return features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The stages, finest first, as timm's models give them.

        Args:
            x: (B, 3, H, W) normalised images.
            indices: Which stages, or how many of the last; ``None`` for all.
            norm: Without effect.
            stop_early: Without effect.
            output_fmt: "NCHW", the only one there is.
            intermediates_only: Leave out the last feature map.

        Returns:
            Stages (B, D_k, h_k, w_k), after the last feature map if that is wanted.
        """
        stages = []
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in self.feature_ends:
                stages.append(x)
        chosen = [stages[index] for index in taken_stages(len(self.feature_ends), indices)]
        return chosen if intermediates_only else (x, chosen)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int], prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what comes after the last stage that a decoder takes; returns the stages taken."""
        taken = taken_stages(len(self.feature_ends), indices)
        self.features = self.features[: self.feature_ends[max(taken)] + 1]
        return taken

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, D, h, w) to (B, D), the mean over positions."""
        return features.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D)."""
        return self.forward_head(self.forward_features(images))

    def _pool(self, strided: bool) -> nn.MaxPool2d:
        """Without a stride the grid stays as it is with an odd kernel only."""
        size = self.pool_size if strided else 3
        return nn.MaxPool2d(size, stride=2 if strided else 1, padding=size // 2 if size == 3 else 0)

    def _note_stage(self, channels: int, reduction: int) -> None:
        end = len(self.features) - 1
        self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"features.{end}"})
        self.feature_ends.append(end)

    def _initialize(self) -> None:
        """Without normalisation layers signals must neither grow nor fade on their way (He et al., ICCV 2015)."""
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)


def convolutions_only(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions in a weight file of torchvision's or timm's VGG16, classifiers left out."""
    return {name: tensor for name, tensor in weights.items() if name.startswith("features.")}


def narrowed_classifier(weights: Mapping[str, Tensor]) -> list[Tensor] | None:
    """fc6 and fc7 of a weight file as DeepLab's convolutions, fully connected layers taken apart.

    Of the 4096 outputs and inputs every fourth is kept, of fc6's 7x7 places every third ("a trous").

    Args:
        weights: As torchvision (``classifier.0``, ``classifier.3``) or timm (``pre_logits.fc1``, ``pre_logits.fc2``)
            name and shape them.

    Returns:
        Weight (1024, 512, 3, 3) and bias (1024,) of fc6, weight (1024, 1024, 1, 1) and bias (1024,) of fc7; ``None`` if
        the file has no such layers.
    """
    for fc6, fc7 in CLASSIFIERS:
        if f"{fc6}.weight" in weights and f"{fc7}.weight" in weights:
            first = weights[f"{fc6}.weight"].reshape(FC6_SHAPE)[::4, :, ::3, ::3]
            second = weights[f"{fc7}.weight"].reshape(FC7_SHAPE)[::4, ::4]
            return [first, weights[f"{fc6}.bias"][::4], second, weights[f"{fc7}.bias"][::4]]
    return None


def largefov_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weight file under the names of ``vgg16_largefov``; what it does not know keeps its name.

    Args:
        weights: With torchvision's or timm's names, the classifier among them, or with Caffe's (``conv1_1`` to
            ``conv5_3``, narrow ``fc6`` and ``fc7``), or with ours.

    Returns:
        Tensors by name.
    """
    names = dict(zip(_caffe_names(), _convolution_names(), strict=True))
    names |= dict(zip(("fc6", "fc7"), FULLY_CONNECTED, strict=True))
    found = {}
    for given, tensor in weights.items():
        layer, _, kind = given.rpartition(".")
        found[f"{names.get(layer, layer)}.{kind}"] = tensor
    narrow = narrowed_classifier(weights) if FULLY_CONNECTED[0] + ".weight" not in found else None
    kinds = [f"{layer}.{kind}" for layer in FULLY_CONNECTED for kind in ("weight", "bias")]
    return found | dict(zip(kinds, narrow, strict=True)) if narrow else found


def _caffe_names() -> list[str]:
    return [f"conv{stage}_{number + 1}" for stage, (_, count) in enumerate(STAGES, 1) for number in range(count)]


def _convolution_names() -> list[str]:
    """Convolutions in a chain of two layers each, and a pooling after each stage."""
    places, place = list[int](), 0
    for _, count in STAGES:
        places += range(place, place + 2 * count, 2)
        place += 2 * count + 1
    return [f"features.{place}" for place in places]


def _whole_body(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``vgg16_largefov`` has of a weight file."""
    return convolutions_only(largefov_weights(weights))


SETTINGS: dict[str, Any] = {
    "num_classes": 0,
    "input_size": (3, 224, 224),
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "first_conv": "features.0",
    "classifier": "",
    "hf_hub_id": "timm/vgg16.tv_in1k",
}
default_cfgs = generate_default_cfgs(dict.fromkeys(("vgg16_conv5", "vgg16_deeplab", "vgg16_largefov"), SETTINGS))


@register_model
def vgg16_conv5(pretrained: bool = False, **settings: Any) -> VGG16:  # noqa: ANN401
    """``VGG16`` with the classifier's pools, for ``timm.create_model``."""
    return _create("vgg16_conv5", pretrained, settings)


@register_model
def vgg16_deeplab(pretrained: bool = False, **settings: Any) -> VGG16:  # noqa: ANN401
    """``VGG16`` with DeepLab's pools, for ``timm.create_model``."""
    return _create("vgg16_deeplab", pretrained, {"pool_size": 3, **settings})


@register_model
def vgg16_largefov(pretrained: bool = False, **settings: Any) -> VGG16:  # noqa: ANN401
    """``VGG16`` with DeepLab's pools, fc6 and fc7, for ``timm.create_model``; dilation 1 is BANA's labeler's."""
    whole = {"pool_size": 3, "last_pool": True, "output_stride": 8, "fc_dilation": 1}
    return _create("vgg16_largefov", pretrained, {**whole, **settings}, _whole_body)


def _create(
    variant: str, pretrained: bool, settings: dict[str, Any], kept: Callable[..., Any] = convolutions_only
) -> VGG16:
    model: VGG16 = build_model_with_cfg(
        VGG16,
        variant,
        pretrained,
        pretrained_filter_fn=kept,
        feature_cfg={"feature_cls": "getter"},
        **settings,
    )
    return model
