"""Depthwise convolutions that bfloat16 makes slow on the CPU.

PyTorch's backward pass of depthwise convolutions with a stride or a dilation takes up to ten times as long in bfloat16
as in float32, and longer than all other layers of a MobileNet together.
"""

from typing import Any, TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class _InFloat32:
    """To be mixed into a convolution: in float32 where autocast would train it in bfloat16 on the CPU."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h', w'), of the type that autocast would have given."""
        forward: Any = super().forward  # type: ignore[misc]
        slow = features.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
        if not slow:
            return forward(features)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            return forward(features.float()).to(torch.get_autocast_dtype("cpu"))  # type: ignore[no-any-return]


class _Conv2d(_InFloat32, nn.Conv2d):
    pass


class _Conv2dSame(_InFloat32, Conv2dSame):
    pass


_REPLACED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _Conv2d, Conv2dSame: _Conv2dSame}


def in_float32(network: Network) -> Network:
    """Let depthwise convolutions with a stride or a dilation be trained in float32 under autocast on the CPU.

    Changes their class in place; parameters, their names, and what other devices and types compute stay as they are.

    Args:
        network: Any network.

    Returns:
        The same network.
    """
    for layer in network.modules():
        if type(layer) in _REPLACED and _strided_depthwise(layer):
            layer.__class__ = _REPLACED[type(layer)]
    return network


def _strided_depthwise(layer: Any) -> bool:  # noqa: ANN401
    depthwise = 1 < layer.groups == layer.in_channels
    return bool(depthwise and max(*layer.stride, *layer.dilation) > 1)
