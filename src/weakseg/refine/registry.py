"""The refiners by name."""

from collections.abc import Sequence
from typing import Any

from weakseg.refine.background import PowerBackground, ThresholdBackground
from weakseg.refine.crf import CRFRefiner
from weakseg.refine.refiner import Chain, Refiner
from weakseg.registry import find

REFINERS: dict[str, type[Refiner]] = {
    "crf": CRFRefiner,
    "power": PowerBackground,
    "threshold": ThresholdBackground,
}


def refiner_class(name: str) -> type[Refiner]:
    """The class of a refiner.

    Raises:
        UserError: If there is no such refiner; lists near matches.
    """
    return find(name, REFINERS, "refiner", group="refiners")


def create_chain(steps: Sequence[tuple[str, dict[str, Any]]]) -> Chain:
    """Refiners from their names and options, in order.

    Raises:
        UserError: If a name is unknown or the order makes no sense.
    """
    return Chain([(name, refiner_class(name)(**options)) for name, options in steps])
