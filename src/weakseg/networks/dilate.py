"""Finer feature maps from any convolutional network: late strides become dilations ("atrous" convolution).

L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille, "DeepLab: Semantic Image Segmentation with Deep
Convolutional Nets, Atrous Convolution, and Fully Connected CRFs", TPAMI 2018, section 3.1.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

Reductions = dict[nn.Module, int]
STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def dilate(network: nn.Module, image: Tensor, output_stride: int) -> None:
    """Change ``network`` in place so that nothing is computed on a grid coarser than ``output_stride``.

    A layer that works on a grid ``r`` times coarser than the image, ``r >= output_stride``, loses its stride, and its
    taps move ``r / output_stride`` apart, so each keeps looking at the same places.

    Args:
        network: A network whose downsampling is done by convolutions and pooling layers.
        image: (1, 3, H, W), used once to see on which grid each layer works.
        output_stride: A power of two.

    Raises:
        ValueError: If a layer that would have to change has an even kernel larger than 2.
    """
    for layer, reduction in _reductions(network, image).items():
        if reduction >= output_stride:
            _dilate_layer(layer, reduction // output_stride)


def unstride(network: nn.Module, image: Tensor, output_stride: int) -> None:
    """Take late strides away and dilate nothing: the layers after them look at smaller places than they learnt to.

    IRN's ResNet50 is made so. Arguments as for ``dilate``.

    Raises:
        ValueError: If a layer that would have to change has an even kernel larger than 2.
    """
    for layer, reduction in _reductions(network, image).items():
        if reduction >= output_stride:
            _dilate_layer(layer, 1)


def power_of_two(ratio: float) -> int:
    """The power of two next to the ratio of two sides; layers round sides up or down, so it need not be exact."""
    return int(2 ** round(math.log2(ratio)))


def _reductions(network: nn.Module, image: Tensor) -> Reductions:
    """How much coarser than the image the input grid of each strided layer is."""
    found: Reductions = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if inputs[0].ndim == 4 and inputs[0].shape[-1] > 1:
            found[layer] = power_of_two(image.shape[-1] / inputs[0].shape[-1])

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, STRIDED)]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _dilate_layer(layer: nn.Module, factor: int) -> None:
    if isinstance(layer, nn.Conv2d):
        _dilate_convolution(layer, factor)
    elif _pair(cast("int", layer.stride)) != (1, 1):
        _unstride_pooling(cast("nn.MaxPool2d | nn.AvgPool2d", layer))


def _dilate_convolution(layer: nn.Conv2d, factor: int) -> None:
    kernel = layer.kernel_size
    if kernel[0] % 2 == 0 and layer.stride != (1, 1):
        raise ValueError(f"a {kernel[0]}x{kernel[1]} convolution with stride {layer.stride[0]} cannot be dilated")
    padded = layer.padding != (0, 0) and not isinstance(layer.padding, str)
    layer.stride = (1, 1)
    layer.dilation = (layer.dilation[0] * factor, layer.dilation[1] * factor)
    if padded:
        layer.padding = (layer.dilation[0] * (kernel[0] // 2), layer.dilation[1] * (kernel[1] // 2))


def _unstride_pooling(layer: nn.MaxPool2d | nn.AvgPool2d) -> None:
    """Without its stride a pooling layer keeps the size only with an odd kernel: 2x2 becomes 3x3."""
    kernel = _pair(layer.kernel_size)[0] | 1
    layer.kernel_size, layer.stride, layer.padding = kernel, 1, kernel // 2


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
