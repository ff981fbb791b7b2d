"""What is background, said from the object maps alone."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.ops.maps import constant_background, power_background
from weakseg.refine.refiner import Refiner


class ThresholdBackground(Refiner):
    """A constant background score: a class must exceed it to be seen (CAM, SEAM, EPS).

    Args:
        value: The threshold in [0, 1]; PSA predicts with 0.2, IRN with 0.15, SEAM sweeps it.
    """

    def __init__(self, *, value: Annotated[float, Field(ge=0, le=1)] = 0.2) -> None:
        self.value = value

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """The same object maps, with a constant background."""
        return maps.with_scores(maps.scores, constant_background(maps.scores, self.value))


class PowerBackground(Refiner):
    """Background (1 - max_c map_c)^alpha, the score that goes into CRF and AffinityNet (PSA).

    Args:
        alpha: Exponent; a larger one means a weaker background. PSA uses 4 and 32, SEAM 4 and 24, MCTformer 1 and 12.
    """

    def __init__(self, *, alpha: Annotated[float, Field(gt=0)] = 4.0) -> None:
        self.alpha = alpha

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """The same object maps, with a background that is strong where all of them are weak."""
        return maps.with_scores(maps.scores, power_background(maps.scores, self.alpha))
