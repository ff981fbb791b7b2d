"""Depthwise convolutions whose training is slow on the CPU.

PyTorch's backward pass of depthwise convolutions with a stride or a dilation takes up to ten times as long in bfloat16
as in float32, and longer than all other layers of a MobileNet together. In float32 it takes ten times as long with a
dilation as without, but a dilated convolution is several that are not, on grids that interleave.
"""

from typing import Any, TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn, unflatten
from torch.nn.functional import conv2d, pad

Network = TypeVar("Network", bound=nn.Module)


class _TrainedFast:
    """To be mixed into a convolution: on the CPU in float32 where autocast would train it in bfloat16."""

    weight: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h', w'), of the type that autocast would have given."""
        if not _trained_on_cpu(features, self.weight):
            return super().forward(features)  # type: ignore[misc, no-any-return]
        if not torch.is_autocast_enabled("cpu"):
            return self._trained(features)
        with torch.autocast("cpu", enabled=False):
            return self._trained(features.float()).to(torch.get_autocast_dtype("cpu"))

    def _trained(self, features: Tensor) -> Tensor:
        return super().forward(features)  # type: ignore[misc, no-any-return]


class _Conv2d(_TrainedFast, nn.Conv2d):
    pass


class _Conv2dSame(_TrainedFast, Conv2dSame):
    pass


class _Interleaved(_TrainedFast, nn.Conv2d):
    """With a dilation and no stride; grids of one or two cells a side would be far slower than what they replace."""

    def _trained(self, features: Tensor) -> Tensor:
        assert not isinstance(self.padding, str)
        if any(length <= 2 * step for length, step in zip(features.shape[2:], self.dilation, strict=True)):
            return super()._trained(features)
        return dilated_depthwise(features, self.weight, self.bias, self.padding, self.dilation)


_REPLACED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _Conv2d, Conv2dSame: _Conv2dSame}


def trained_fast(network: Network) -> Network:
    """Let depthwise convolutions with a stride or a dilation be trained fast on the CPU: in float32, and undilated.

    Changes their class in place; parameters, their names, and what other devices compute stay as they are.

    Args:
        network: Any network.

    Returns:
        The same network.
    """
    for layer in network.modules():
        if type(layer) in _REPLACED and _slow_depthwise(layer):
            layer.__class__ = _Interleaved if _interleaves(layer) else _REPLACED[type(layer)]
    return network


TRAINED_FAST = (*_REPLACED.values(), _Interleaved)
"""The classes that convolutions have after ``trained_fast``."""


def dilated_depthwise(
    features: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...], dilation: tuple[int, ...]
) -> Tensor:
    """A dilated depthwise convolution without a stride, as convolutions without dilation of every d-th row and column.

    Args:
        features: (B, C, h, w); fast with the channels last in memory.
        weight: (D, 1, r, s), D a multiple of C.
        bias: (D,) or ``None``.
        padding: Of rows and of columns with zeros, multiples of the dilation.
        dilation: Of rows and of columns.

    Returns:
        (B, D, h', w'), what ``torch.nn.functional.conv2d`` gives.
    """
    rows, columns = dilation
    height, width = (
        length + 2 * margin - step * (taps - 1)
        for length, margin, step, taps in zip(features.shape[2:], padding, dilation, weight.shape[2:], strict=True)
    )
    whole = pad(features, (0, -features.shape[3] % columns, 0, -features.shape[2] % rows)).permute(0, 2, 3, 1)
    apart = unflatten(unflatten(whole, 2, (-1, columns)), 1, (-1, rows)).permute(0, 2, 4, 1, 3, 5)
    grids = apart.flatten(0, 2).permute(0, 3, 1, 2)
    margins = (padding[0] // rows, padding[1] // columns)
    found = conv2d(grids, weight, bias, padding=margins, groups=features.shape[1]).permute(0, 2, 3, 1)
    together = unflatten(found, 0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5)
    return together.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)[..., :height, :width]


def _trained_on_cpu(features: Tensor, weight: Tensor) -> bool:
    """Whether there will be a backward pass, which frozen first layers do not have."""
    wanted = torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
    return wanted and features.device.type == "cpu"


def _slow_depthwise(layer: Any) -> bool:  # noqa: ANN401
    depthwise = 1 < layer.groups == layer.in_channels
    return bool(depthwise and max(*layer.stride, *layer.dilation) > 1)


def _interleaves(layer: Any) -> bool:  # noqa: ANN401
    """Whether ``dilated_depthwise`` can take the place of a depthwise convolution."""
    plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if not plain or max(layer.stride) > 1:
        return False
    return all(margin % step == 0 for margin, step in zip(layer.padding, layer.dilation, strict=True))
