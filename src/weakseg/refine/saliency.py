"""Background where neither a class nor saliency says otherwise.

T. Zhang, G. Lin, W. Liu, J. Cai, A. Kot, "Splitting vs. Merging: Mining Object Regions with Discrepancy and
Intersection Loss for Weakly Supervised Semantic Segmentation", ECCV 2020.

A saliency map has the outline of objects that class maps only touch. It takes away from the background and gives
nothing to a class: at a salient pixel without any class both are weak, and the CRF that follows decides which class it
is.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.ops.maps import power_background
from weakseg.refine.masks import at_image_size
from weakseg.refine.refiner import Refiner


def saliency_background(scores: Tensor, saliency: Tensor, alpha: float = 2.0) -> Tensor:
    """M_bg = (1 - M_fore)^alpha with M_fore = max(max_c M_c, M_sal).

    Args:
        scores: (P, h, w) in [0, 1], P may be 0.
        saliency: (h, w) in [0, 1].
        alpha: Exponent; a larger one means a weaker background.

    Returns:
        (h, w) in [0, 1].
    """
    return power_background(torch.cat([scores, saliency[None].to(scores)]), alpha)


class SaliencyPowerBackground(Refiner):
    """Background (1 - max(max_c map_c, saliency))^alpha, at image size (Splitting vs. Merging).

    An image whose saliency is not known has the background of ``power``.

    Args:
        alpha: Exponent; a larger one means a weaker background.
    """

    needs_saliency = True

    def __init__(self, *, alpha: Annotated[float, Field(gt=0)] = 2.0) -> None:
        self.alpha = alpha

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """The same object maps at image size, with a background that is strong where they and saliency are weak."""
        full = at_image_size(maps)
        if full.saliency is None:
            return full.with_scores(full.scores, power_background(full.scores, self.alpha))
        return full.with_scores(full.scores, saliency_background(full.scores, full.saliency, self.alpha))
