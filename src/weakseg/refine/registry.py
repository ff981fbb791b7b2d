"""The refiners by name."""

from weakseg.refine.affinitynet import AffinityNet
from weakseg.refine.background import PowerBackground, ThresholdBackground
from weakseg.refine.box_crf import BoxCRF
from weakseg.refine.boxes import BoxesRefiner
from weakseg.refine.crf import CRFRefiner
from weakseg.refine.grabcut import GrabCut
from weakseg.refine.irn import IRN
from weakseg.refine.pamr import PAMRRefiner
from weakseg.refine.refiner import Refiner
from weakseg.refine.retrieval import Retrieval
from weakseg.refine.saliency import SaliencyPowerBackground
from weakseg.refine.sam import SAMRefiner
from weakseg.registry import find

REFINERS: dict[str, type[Refiner]] = {
    "affinitynet": AffinityNet,
    "box_crf": BoxCRF,
    "boxes": BoxesRefiner,
    "crf": CRFRefiner,
    "grabcut": GrabCut,
    "irn": IRN,
    "pamr": PAMRRefiner,
    "power": PowerBackground,
    "retrieval": Retrieval,
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
