"""ResNet101 as Caffe has it, and as the published DeepLab-V2 uses it.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (its published Caffe model);
L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille, "DeepLab", TPAMI 2018.

Three things differ from the ResNet101 of torchvision and timm, whose weights therefore do not fit, although shapes and
names do: a bottleneck takes its stride in the first 1x1 convolution instead of the 3x3 one, the stem's pooling rounds
sides up, and of a stage whose stride became a dilation the first bottleneck is dilated like the others. timm's options
can express none of them. Everything else, names of layers included, is timm's.

Importing this file makes ``resnet101_caffe`` known to timm.
"""

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from weakseg.data.colour import IMAGENET_MEAN, IMAGENET_STD
from weakseg.errors import UserError
from weakseg.networks.channels import blue_first


class CaffeBottleneck(Bottleneck):
    """1x1 with the stride, 3x3, 1x1, each with batch normalisation, and a shortcut."""

    def __init__(self, *args: Any, first_dilation: int | None = None, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **settings)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


class CaffeResNet(ResNet):
    """timm's ResNet with Caffe's bottlenecks and pooling.

    Args:
        args: As timm's ResNet takes them.
        bgr: The weights are Caffe's own, which want blue first; images come red first all the same.
        settings: As timm's ResNet takes them, such as ``output_stride``, ``layers`` and ``channels``.
    """

    def __init__(self, *args: Any, bgr: bool = False, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **settings)
        self.set_submodule("maxpool", nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True))
        if bgr:
            self.set_submodule("conv1", blue_first(cast("nn.Conv2d", self.conv1)))


default_cfgs = generate_default_cfgs(
    {
        "resnet101_caffe": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model
def resnet101_caffe(pretrained: bool = False, **settings: Any) -> CaffeResNet:  # noqa: ANN401
    """``CaffeResNet`` of 101 layers for ``timm.create_model``.

    Raises:
        UserError: If pretrained weights are asked for: no hub has them.
    """
    if pretrained:
        remedy = "Set backbone.weights to a local file, or to 'none'"
        raise UserError("timm's hub has no weights for 'resnet101_caffe'", remedy=remedy)
    shape = {"block": CaffeBottleneck, "layers": (3, 4, 23, 3)}
    model: CaffeResNet = build_model_with_cfg(CaffeResNet, "resnet101_caffe", pretrained=False, **{**shape, **settings})
    return model
