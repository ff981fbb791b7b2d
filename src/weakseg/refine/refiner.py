"""What every refiner is: the image and its maps in, better maps out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError


class Refiner(ABC):
    """One step from localisation maps towards a pseudo-mask.

    Attributes:
        gives_background: Whether its maps say what background is.
        needs_background: Whether the maps that come in must say so.
    """

    gives_background: ClassVar[bool] = True
    needs_background: ClassVar[bool] = False

    @abstractmethod
    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """Better maps.

        Args:
            image: (3, H, W) uint8 RGB.
            maps: Maps of that image; ``maps.size == (H, W)``.
        """


class Chain(Refiner):
    """Refiners one after the other.

    Args:
        steps: At least one refiner; named for messages.

    Raises:
        UserError: If a step needs a background that none before it gives, or the last maps have none.
    """

    def __init__(self, steps: Sequence[tuple[str, Refiner]]) -> None:
        self.steps = [step for _, step in steps]
        known = False
        for name, step in steps:
            if step.needs_background and not known:
                raise UserError(
                    f"refiner '{name}' needs a background", where="refine", remedy="Put 'power' or 'threshold' before"
                )
            known = known or step.gives_background
        if not known:
            raise UserError(
                "no refiner says what background is", where="refine", remedy="Start with 'power' or 'threshold'"
            )

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """All steps in their order."""
        for step in self.steps:
            maps = step.refine(image, maps)
        return maps
