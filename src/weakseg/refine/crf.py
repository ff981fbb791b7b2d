"""Dense CRF: neighbours in place and colour agree on a label.

P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
The parameter sets A to H are those that the field's papers use; see ``weakseg.ops.crf``.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError
from weakseg.ops.crf import CRF_PARAMETERS, CRFParameters
from weakseg.ops.crf.mean_field import infer
from weakseg.ops.crf.prior import Prior, checked_scores
from weakseg.ops.maps import label_map
from weakseg.refine.masks import at_image_size, background_of
from weakseg.refine.refiner import Refiner
from weakseg.registry import find


def scaled_parameters(name: str, scale_factor: float = 1.0) -> CRFParameters:
    """A parameter set for images of another scale; widths in position are divided by the factor, as by PSA's helpers.

    Args:
        name: Of the set.
        scale_factor: Positive; 2 for photographs at half the size of those that the set was made for.

    Raises:
        UserError: If there is no such set, or a kernel becomes too narrow.
    """
    chosen = find(name, CRF_PARAMETERS, "CRF parameter set")
    if scale_factor == 1:
        return chosen
    gaussian, bilateral = (width / scale_factor for width in (chosen.gaussian_sxy, chosen.bilateral_sxy))
    try:
        return replace(chosen, gaussian_sxy=gaussian, bilateral_sxy=bilateral)
    except ValueError as error:
        raise UserError(
            f"scale_factor {scale_factor} is too large for CRF parameter set '{name}' ({error})",
            where="refine",
            remedy="Lower scale_factor",
        ) from error


class MeanField(Refiner):
    """Mean-field inference at image size; what it starts from is a subclass's to say.

    Args:
        params: Name of a parameter set.
        iterations: Mean-field steps; ``None`` takes those of the parameter set.
        scale_factor: Divides both widths in position.
        stop: Ends the steps once at most this share of the pixels changes its label in one; ``None`` takes all steps.
    """

    needs_background = True

    def __init__(self, params: str, iterations: int | None, scale_factor: float, stop: float | None) -> None:
        chosen = scaled_parameters(params, scale_factor)
        self.params = chosen if iterations is None else replace(chosen, iterations=iterations)
        self.stop = stop

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """``refine_batch`` of one image."""
        return self.refine_batch([image], [maps])[0]

    def refine_batch(self, images: Sequence[Tensor], maps: Sequence[LocalizationMaps]) -> list[LocalizationMaps]:
        """Maps that follow the images' edges, all at once on a GPU; background and scores sum to 1 at every pixel."""
        full = [at_image_size(each) for each in maps]
        priors = [self._prior(each) for each in full]
        refined = infer([image.permute(1, 2, 0) for image in images], priors, self.params, stop=self.stop)
        return [each.with_scores(beliefs[1:], beliefs[0]) for each, beliefs in zip(full, refined, strict=True)]

    @abstractmethod
    def _prior(self, maps: LocalizationMaps) -> Prior:
        """Of background and the classes present, from maps at image size."""


class CRFRefiner(MeanField):
    """Mean-field inference on background and present classes, at image size.

    Args:
        params: Name of a parameter set: A (PSA, SEAM), B (IRN, SIPE), D (DeepLab-V2), ...
        unary: ``"probabilities"`` takes -log of the maps; ``"labels"`` their arg-max with confidence ``gt_prob``
            (IRN, SIPE, Spatial-BCE; meant for sets B).
        gt_prob: Confidence q of a given label, in (0, 1).
        iterations: Mean-field steps; ``None`` takes those of the parameter set.
        scale_factor: Divides both widths in position; 2 for photographs at half the size the set was made for.
        stop: Ends the steps once at most this share of the pixels changes its label in one; ``None`` takes all steps.

    Raises:
        UserError: If there is no such parameter set, or ``scale_factor`` makes its kernels too narrow.
    """

    def __init__(
        self,
        *,
        params: str = "A",
        unary: Literal["probabilities", "labels"] = "probabilities",
        gt_prob: Annotated[float, Field(gt=0, lt=1)] = 0.7,
        iterations: Annotated[int, Field(ge=0)] | None = None,
        scale_factor: Annotated[float, Field(gt=0)] = 1.0,
        stop: Annotated[float, Field(ge=0, lt=1)] | None = None,
    ) -> None:
        super().__init__(params, iterations, scale_factor, stop)
        self.unary, self.gt_prob = unary, gt_prob

    def _prior(self, maps: LocalizationMaps) -> Prior:
        background = background_of(maps)
        if self.unary == "labels":
            local = label_map(maps.scores, background, range_like(maps.classes))
            return Prior.of_labels(local, len(maps.classes) + 1, self.gt_prob)
        stacked = maps.scores.new_empty(len(maps.classes) + 1, *maps.size)
        stacked[0], stacked[1:] = background, maps.scores
        return Prior.of_probabilities(checked_scores(stacked, "maps"))


def range_like(classes: Tensor) -> Tensor:
    """0, 1, ... for the classes present, so that labels are local to the image."""
    return classes.new_tensor(range(len(classes)))
