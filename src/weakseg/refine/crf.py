"""Dense CRF: neighbours in place and colour agree on a label.

P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
The parameter sets A to E are those that the field's papers use; see ``weakseg.ops.crf``.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError
from weakseg.ops.crf import CRF_PARAMETERS, dense_crf, dense_crf_labels
from weakseg.ops.maps import label_map
from weakseg.refine.masks import at_image_size
from weakseg.refine.refiner import Refiner
from weakseg.registry import find


class CRFRefiner(Refiner):
    """Mean-field inference on background and present classes, at image size.

    Args:
        params: Name of a parameter set: A (PSA, SEAM), B (IRN, SIPE), D (DeepLab-V2), ...
        unary: ``"probabilities"`` takes -log of the maps; ``"labels"`` their arg-max with confidence ``gt_prob``
            (IRN, SIPE, Spatial-BCE; meant for sets B).
        gt_prob: Confidence q of a given label, in (0, 1).
        iterations: Mean-field steps; ``None`` takes those of the parameter set.

    Raises:
        UserError: If there is no such parameter set.
    """

    needs_background = True

    def __init__(
        self,
        *,
        params: str = "A",
        unary: Literal["probabilities", "labels"] = "probabilities",
        gt_prob: Annotated[float, Field(gt=0, lt=1)] = 0.7,
        iterations: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        chosen = find(params, CRF_PARAMETERS, "CRF parameter set")
        self.params = chosen if iterations is None else replace(chosen, iterations=iterations)
        self.unary, self.gt_prob = unary, gt_prob

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """Maps that follow the image's edges; background and scores sum to 1 at every pixel."""
        full = at_image_size(maps)
        if full.background is None:
            raise UserError("the maps have no background", where="refine", remedy="Put 'power' or 'threshold' before")
        pixels = image.permute(1, 2, 0).contiguous()
        if self.unary == "labels":
            local = label_map(full.scores, full.background, range_like(full.classes)).long()
            refined = dense_crf_labels(pixels, local, len(full.classes) + 1, self.params, gt_prob=self.gt_prob)
        else:
            stacked = full.scores.new_empty(len(full.classes) + 1, *full.size)
            stacked[0], stacked[1:] = full.background, full.scores
            refined = dense_crf(pixels, stacked, self.params)
        return full.with_scores(refined[1:], refined[0])


def range_like(classes: Tensor) -> Tensor:
    """0, 1, ... for the classes present, so that labels are local to the image."""
    return classes.new_tensor(range(len(classes)))
