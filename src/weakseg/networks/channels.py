"""The order of an image's channels: red first, as everywhere here, or blue first, as Caffe's weights were trained."""

from typing import cast

from torch import Tensor, nn


class BlueFirst(nn.Conv2d):
    """A first convolution whose weights want blue, green, red; it is given red, green, blue."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in red, green, blue to (B, D, h, w)."""
        return super().forward(images.flip(1))


def blue_first(layer: nn.Conv2d) -> BlueFirst:
    """The same convolution for images whose channels come the other way round.

    Its weights keep their order: weight files fit as they are.
    """
    turned = BlueFirst(
        layer.in_channels,
        layer.out_channels,
        cast("tuple[int, int]", layer.kernel_size),
        stride=cast("tuple[int, int]", layer.stride),
        padding=cast("tuple[int, int]", layer.padding),
        bias=layer.bias is not None,
    )
    turned.load_state_dict(layer.state_dict())
    return turned
