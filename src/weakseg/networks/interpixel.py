"""The two branches of IRN: where boundaries are, and where from each pixel the middle of its object lies.

J. Ahn, S. Cho, S. Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019
(Sec. 4.1 and Fig. 3; widths and order of the layers from the authors' published code, for a ResNet50).

Both branches read the last five stages of a classifier, the taps, finest first. No tap is finer than stride 4, which is
the stride of both answers. Of a network with three or four stages the first taps, and their layers, are missing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weakseg.networks.stages import Stage

TAPS = 5
STRIDE = 4
BOUNDARY_WIDTH, BOUNDARY_GROUPS = 32, 4
WIDTHS, GROUPS = (64, 128, 256, 256, 256), (8, 16, 16, 16, 16)
JOINED_FIRST = 3  # taps that the displacement branch joins on their own grid, before it goes to stride 4


def unit(inputs: int, outputs: int, groups: int, enlarge: int = 1) -> nn.Sequential:
    """1x1 convolution without bias, group normalisation, bilinear enlargement, ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs)]
    if enlarge > 1:
        layers.append(nn.Upsample(scale_factor=enlarge, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class BoundaryBranch(nn.Module):
    """Each tap reduced and enlarged to stride 4; one linear layer on all of them.

    Args:
        taps: Three to five stages, none finer than stride 4.
    """

    def __init__(self, taps: Sequence[Stage]) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(
            unit(tap.channels, BOUNDARY_WIDTH, BOUNDARY_GROUPS, tap.stride // STRIDE) for tap in taps
        )
        self.mix = nn.Conv2d(BOUNDARY_WIDTH * len(taps), 1, kernel_size=1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Taps (B, D_k, h_k, w_k) of an image whose sides are whole numbers of cells to logits (B, 1, H / 4, W / 4)."""
        reduced = [layer(maps) for layer, maps in zip(self.reduce, taps, strict=True)]
        logits: Tensor = self.mix(torch.cat(reduced, 1))
        return logits


class DisplacementBranch(nn.Module):
    """The last three taps joined on the finest of their grids; with the others joined again at stride 4.

    The loss sees differences of displacements only, so their mean is arbitrary; out of training, ``mean`` is
    subtracted.

    Args:
        taps: Three to five stages, none finer than stride 4.
    """

    mean: Tensor

    def __init__(self, taps: Sequence[Stage]) -> None:
        super().__init__()
        middle = min(tap.stride for tap in taps[-JOINED_FIRST:])
        grids = [STRIDE] * (len(taps) - JOINED_FIRST) + [middle] * JOINED_FIRST
        widths, groups = WIDTHS[-len(taps) :], GROUPS[-len(taps) :]
        self.reduce = nn.ModuleList(
            unit(tap.channels, width, group, tap.stride // grid)
            for tap, width, group, grid in zip(taps, widths, groups, grids, strict=True)
        )
        self.join = unit(sum(widths[-JOINED_FIRST:]), 256, 16, middle // STRIDE)
        self.mix = unit(sum(widths[:-JOINED_FIRST]) + 256, 256, 16)
        self.head = nn.Conv2d(256, 2, kernel_size=1, bias=False)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Taps (B, D_k, h_k, w_k) of an image as for the other branch to (B, 2, H / 4, W / 4): dy, dx in cells."""
        reduced = [layer(maps) for layer, maps in zip(self.reduce, taps, strict=True)]
        joined = self.join(torch.cat(reduced[-JOINED_FIRST:], 1))
        displacement: Tensor = self.head(self.mix(torch.cat([*reduced[:-JOINED_FIRST], joined], 1)))
        return displacement if self.training else displacement - self.mean.view(2, 1, 1)
