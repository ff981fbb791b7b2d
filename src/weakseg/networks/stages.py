"""What the stages of a backbone look like, and finer ones made coarser."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weakseg.errors import UserError
from weakseg.networks.backbone import Backbone
from weakseg.networks.dilate import power_of_two

FEWEST = 3
SIDE = 64  # of the image that is looked at


class Stage(NamedTuple):
    """Channels of a stage's feature map, and image pixels per cell of it."""

    channels: int
    stride: int


@torch.no_grad()
def last_stages(backbone: Backbone, count: int | None = None) -> list[Stage]:
    """The last ``count`` stages, or all if there are fewer or none is said, finest first.

    They are found by looking at a small image.

    Raises:
        UserError: If there are fewer than three, or the backbone takes no small images.
    """
    was_training = backbone.training
    image = next(backbone.parameters()).new_zeros(1, 3, SIDE, SIDE)
    try:
        found = backbone.eval().stages(image)[-(count or 0) :]
    except RuntimeError as error:
        problem = f"backbone '{backbone.name}' does not take images of {SIDE} x {SIDE} pixels"
        raise UserError(problem, remedy="Choose another backbone") from error
    finally:
        backbone.train(was_training)
    if len(found) < FEWEST:
        raise UserError(f"backbone '{backbone.name}' has fewer than {FEWEST} stages", remedy="Choose another backbone")
    return [Stage(maps.shape[1], power_of_two(SIDE / maps.shape[-1])) for maps in found]


def pooled(maps: Tensor, stride: int, wanted: int) -> Tensor:
    """(B, D, h, w) features of some stride, max-pooled (3x3, as ResNet does) until their stride is ``wanted``.

    Features that are as coarse as that already, or coarser, stay as they are.
    """
    for _ in range(int(math.log2(max(wanted // stride, 1)))):
        maps = nn.functional.max_pool2d(maps, kernel_size=3, stride=2, padding=1)
    return maps
