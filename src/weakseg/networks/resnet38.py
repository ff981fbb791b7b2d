"""ResNet38, the wide and shallow residual network that PSA and its descendants build on.

Z. Wu, C. Shen, A. van den Hengel, "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", Pattern
Recognition 2019 (model "A1"); J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for
Weakly Supervised Semantic Segmentation", CVPR 2018 (its use at output stride 8, and the names of its layers).

Units are pre-activated: normalisation and ReLU come before the convolutions, so what leaves a unit is not rectified
yet. Whoever wants features from the middle takes the activated input of the unit that follows.

Importing this file makes the name ``resnet38`` known to timm.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.functional import relu

from weakseg.data.colour import IMAGENET_MEAN, IMAGENET_STD
from weakseg.errors import UserError
from weakseg.networks.taken import taken_stages

PSA_FROZEN = ("conv1a", "b2", "b2_1", "b2_2")
"""What PSA and its descendants do not train, for ``freeze``; with it goes ``batchnorm="frozen"``."""

OUTPUT_STRIDE = 32
STEM = 64


class Plain(NamedTuple):
    """A block of units with two 3x3 convolutions; the first unit may halve the grid."""

    name: str
    inside: int
    outputs: int
    units: int


class Bottleneck(NamedTuple):
    """A block of one unit that goes through a quarter and a half of its output channels."""

    name: str
    outputs: int
    stride: int
    dropout: float


LAYOUT: tuple[Plain | Bottleneck, ...] = (
    Plain("b2", 128, 128, 3),
    Plain("b3", 256, 256, 3),
    Plain("b4", 512, 512, 6),
    Plain("b5", 512, 1024, 3),
    Bottleneck("b6", 2048, 2, 0.3),
    Bottleneck("b7", 4096, 1, 0.5),
)
TAPS = ("b2", "b3", "b4", "b5", "b6")


class Unit(nn.Module):
    """What both kinds of unit share: activated inputs feed a branch of convolutions and, if shapes change, a shortcut.

    Args:
        inputs: Channels coming in.
        outputs: Channels going out.
        stride: Of the unit as a whole.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        if inputs != outputs or stride != 1:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, h, w) to (B, outputs, h', w') and the activated inputs."""
        activated = relu(self.bn_branch2a(inputs), inplace=True)
        shortcut = self.conv_branch1(activated) if hasattr(self, "conv_branch1") else inputs
        return shortcut + self.branch(activated), activated

    def branch(self, activated: Tensor) -> Tensor:
        """The convolutions."""
        raise NotImplementedError


class PlainUnit(Unit):
    """Two 3x3 convolutions.

    Args:
        inputs: Channels coming in.
        inside: Channels between the convolutions.
        outputs: Channels going out.
        stride: Of the first convolution.
        dilations: Of the first and the second convolution.
    """

    def __init__(self, inputs: int, inside: int, outputs: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__(inputs, outputs, stride)
        self.conv_branch2a = _conv3x3(inputs, inside, dilations[0], stride)
        self.bn_branch2b1 = nn.BatchNorm2d(inside)
        self.conv_branch2b1 = _conv3x3(inside, outputs, dilations[1])

    def branch(self, activated: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h', w')."""
        between = relu(self.bn_branch2b1(self.conv_branch2a(activated)), inplace=True)
        return cast("Tensor", self.conv_branch2b1(between))


class BottleneckUnit(Unit):
    """1x1, 3x3 and 1x1 convolutions, with whole channels dropped before the second and the third.

    Args:
        inputs: Channels coming in.
        outputs: Channels going out.
        stride: Of the first convolution.
        dilation: Of the 3x3 convolution.
        dropout: Probability.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, dropout: float) -> None:
        super().__init__(inputs, outputs, stride)
        quarter, half = outputs // 4, outputs // 2
        self.conv_branch2a = nn.Conv2d(inputs, quarter, 1, stride, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.conv_branch2b1 = _conv3x3(quarter, half, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.conv_branch2b2 = nn.Conv2d(half, outputs, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def branch(self, activated: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h', w')."""
        first = self.dropout(relu(self.bn_branch2b1(self.conv_branch2a(activated)), inplace=True))
        second = self.dropout(relu(self.bn_branch2b2(self.conv_branch2b1(first)), inplace=True))
        return cast("Tensor", self.conv_branch2b2(second))


class _Output(nn.Module):
    """A unit without the activated inputs that it also gives."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.unit(inputs)[0]
        return output


class ResNet38(nn.Module):
    """The network up to its last normalisation, with timm's access to features.

    Its six stages are the activated inputs of b2, b3, b4, b5 and b6, and the rectified output of bn7. The last four are
    conv3, conv4, conv5 and conv6 of PSA and SEAM: 256, 512, 1024 and 4096 channels.

    Args:
        num_classes: Outputs of a linear classifier after global pooling; 0 for none.
        in_chans: Channels of the image.
        output_stride: 32 as trained on ImageNet; at 16 and 8 the strides of b6, and of b5, become dilations.
        width: Factor on the number of channels, for tests and small machines; weight files fit 1 only.

    Attributes:
        num_features: Channels of the last feature map, 4096.
        feature_info: Channels and reduction of each stage.
    """

    def __init__(
        self, num_classes: int = 0, in_chans: int = 3, output_stride: int = OUTPUT_STRIDE, width: float = 1.0
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.feature_info: list[dict[str, Any]] = []
        self.unit_names: list[str] = []
        channels, reduction, dilation = round(STEM * width), 1, 1
        self.conv1a = _conv3x3(in_chans, channels)
        for block in LAYOUT:
            if block.name in TAPS:
                self._note_stage(block.name, channels, reduction)
            before, stride = dilation, 2 if isinstance(block, Plain) else block.stride
            if reduction * stride > output_stride:
                dilation, stride = dilation * stride, 1
            channels, reduction = self._add(block, channels, stride, (before, dilation), width), reduction * stride
        self.bn7 = nn.BatchNorm2d(channels)
        self._note_stage("bn7", channels, reduction)
        self.num_features = self.head_hidden_size = channels
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, 4096, ceil(H / stride), ceil(W / stride)), not negative."""
        features: Tensor = self.conv1a(images)
        for name in self.unit_names:
            features, _ = self.get_submodule(name)(features)
        return relu(self.bn7(features), inplace=True)

    def sections(self) -> list[list[tuple[str, nn.Module]]]:
        """The layers from each stage to the next, by name; one after the other they are ``forward_features``."""
        sections: list[list[tuple[str, nn.Module]]] = [[("conv1a", self.conv1a)]]
        for name in self.unit_names:
            if name in TAPS:
                sections.append([])
            sections[-1].append((name, _Output(cast("Unit", self.get_submodule(name)))))
        sections[-1] += [("bn7", self.bn7), ("relu7", nn.ReLU(inplace=True))]
        return sections

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The stages, finest first, as timm's models give them; all of them are normalised and rectified.

        Args:
            x: (B, 3, H, W) normalised images.
            indices: Which stages, or how many of the last; ``None`` for all.
            norm: Without effect.
            stop_early: Without effect; what comes after the last stage wanted is never computed in vain.
            output_fmt: "NCHW", the only one there is.
            intermediates_only: Leave out the last feature map.

        Returns:
            Stages (B, D_k, h_k, w_k), after the last feature map if that is wanted.
        """
        taken = taken_stages(len(self.feature_info), indices)
        stages = []
        features: Tensor = self.conv1a(x)
        for name in self.unit_names:
            features, activated = self.get_submodule(name)(features)
            if name in TAPS:
                stages.append(activated)
                if intermediates_only and len(stages) > max(taken):
                    return [stages[index] for index in taken]
        stages.append(relu(self.bn7(features), inplace=True))
        chosen = [stages[index] for index in taken]
        return chosen if intermediates_only else (stages[-1], chosen)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int], prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the classifier and what comes after the last stage that a decoder takes; returns the stages taken."""
        taken = taken_stages(len(self.feature_info), indices)
        self.fc = nn.Identity()
        if max(taken) < len(TAPS):
            kept = self.unit_names.index(TAPS[max(taken)]) + 1
            for name in (*self.unit_names[kept:], "bn7"):
                delattr(self, name)
            self.unit_names = self.unit_names[:kept]
        return taken

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 4096, h, w) to (B, num_classes), or to (B, 4096) before the classifier."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else cast("Tensor", self.fc(pooled))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, num_classes) logits."""
        return self.forward_head(self.forward_features(images))

    def _note_stage(self, module: str, channels: int, reduction: int) -> None:
        self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": module})

    def _add(
        self, block: Plain | Bottleneck, channels: int, stride: int, dilations: tuple[int, int], width: float
    ) -> int:
        """Add the units of a block; of a stride that became a dilation, the first convolution knows nothing yet."""
        outputs, after = round(block.outputs * width), dilations[1]
        if isinstance(block, Bottleneck):
            self._add_unit(block.name, BottleneckUnit(channels, outputs, stride, after, block.dropout))
            return outputs
        inside = round(block.inside * width)
        self._add_unit(block.name, PlainUnit(channels, inside, outputs, stride, dilations))
        for number in range(1, block.units):
            self._add_unit(f"{block.name}_{number}", PlainUnit(outputs, inside, outputs, 1, (after, after)))
        return outputs

    def _add_unit(self, name: str, unit: Unit) -> None:
        self.add_module(name, unit)
        self.unit_names.append(name)


def _conv3x3(inputs: int, outputs: int, dilation: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)


default_cfgs = generate_default_cfgs(
    {
        "resnet38": {
            "num_classes": 0,
            "input_size": (3, 224, 224),
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "first_conv": "conv1a",
            "classifier": "fc",
        }
    }
)


@register_model
def resnet38(pretrained: bool = False, **settings: Any) -> ResNet38:  # noqa: ANN401
    """``ResNet38`` for ``timm.create_model``.

    Raises:
        UserError: If pretrained weights are asked for: no hub has them.
    """
    if pretrained:
        raise UserError(
            "timm's hub has no weights for 'resnet38'", remedy="Set backbone.weights to a local file, or to 'none'"
        )
    model: ResNet38 = build_model_with_cfg(
        ResNet38, "resnet38", pretrained=False, feature_cfg={"feature_cls": "getter"}, **settings
    )
    return model
