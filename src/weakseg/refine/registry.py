"""The refiners by name."""

from weakseg.refine.affinitynet import AffinityNet
from weakseg.refine.background import PowerBackground, ThresholdBackground
from weakseg.refine.crf import CRFRefiner
from weakseg.refine.irn import IRN
from weakseg.refine.pamr import PAMRRefiner
from weakseg.refine.refiner import Refiner
from weakseg.refine.saliency import SaliencyPowerBackground
from weakseg.refine.sam import SAMRefiner
from weakseg.registry import find

REFINERS: dict[str, type[Refiner]] = {
    "affinitynet": AffinityNet,
    "crf": CRFRefiner,
    "irn": IRN,
    "pamr": PAMRRefiner,
    "power": PowerBackground,
    "saliency_power": SaliencyPowerBackground,
    "sam": SAMRefiner,
    "threshold": ThresholdBackground,
}


def refiner_class(name: str) -> type[Refiner]:
    """The class of a refiner.

    Raises:
        UserError: If there is no such refiner; lists near matches.
    """
    return find(name, REFINERS, "refiner", group="refiners")
