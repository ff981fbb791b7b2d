"""The CRF of BANA: maps within boxes, carried along the edges of the image, and kept in their boxes.

Y. Oh, B. Kim, B. Ham, "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation",
CVPR 2021 (labels Y_crf).

Outside all boxes everything is background for certain. Within, background and the classes' maps go through a softmax
(the authors' code) or are taken as they are (the paper); the CRF decides; and what it has put outside of a class's
boxes is taken away.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.ops.box_masks import inside_boxes
from weakseg.ops.crf.prior import Prior, checked_scores
from weakseg.refine.boxes import boxes_of, own_boxes
from weakseg.refine.crf import MeanField
from weakseg.refine.masks import background_of

BoxUnary = Literal["softmax", "plain"]


def box_probabilities(background: Tensor, scores: Tensor, inside: Tensor, unary: BoxUnary = "softmax") -> Tensor:
    """What the CRF starts from.

    Args:
        background: (H, W) u_0 in [0, 1].
        scores: (P, H, W) u_c in [0, 1], P may be 0.
        inside: (H, W) bool, where any box is.
        unary: ``"softmax"``: the softmax of u_0 and all u_c inside boxes, background alone outside (code); ``"plain"``:
            u_0 and u_c themselves (paper), which need not sum to 1.

    Returns:
        (P + 1, H, W), background first.

    Raises:
        ValueError: If ``unary`` is neither.
    """
    if unary not in get_args(BoxUnary):
        raise ValueError(f"unknown unary '{unary}': {', '.join(get_args(BoxUnary))}")
    stacked = torch.cat([background[None].to(scores.dtype), scores])
    if unary == "plain":
        return stacked
    outside = torch.zeros_like(stacked)
    outside[0] = 1
    return torch.where(inside, stacked.softmax(0), outside)


class BoxCRF(MeanField):
    """Mean-field inference on background and present classes, each kept in its boxes, at image size.

    After the background ``boxes`` it fills boxes along the edges of the image, which is close to the baseline of
    Papandreou et al. (ICCV 2015).

    Args:
        unary: What it starts from, see ``box_probabilities``.
        params: Name of a parameter set; G is that of the paper.
        iterations: Mean-field steps; ``None`` takes those of the parameter set.
        scale_factor: Divides both widths in position; 2 for photographs at half the size the set was made for.
        stop: Ends the steps once at most this share of the pixels changes its label in one; ``None`` takes all steps.

    Raises:
        UserError: If there is no such parameter set, or ``scale_factor`` makes its kernels too narrow.
    """

    needs_boxes = True

    def __init__(
        self,
        *,
        unary: BoxUnary = "softmax",
        params: str = "G",
        iterations: Annotated[int, Field(ge=0)] | None = None,
        scale_factor: Annotated[float, Field(gt=0)] = 1.0,
        stop: Annotated[float, Field(ge=0, lt=1)] | None = None,
    ) -> None:
        super().__init__(params, iterations, scale_factor, stop)
        self.unary = unary

    def refine_batch(self, images: Sequence[Tensor], maps: Sequence[LocalizationMaps]) -> list[LocalizationMaps]:
        """Maps that follow the images' edges within their boxes; a class is 0 outside of its own."""
        refined = super().refine_batch(images, maps)
        return [each.with_scores(each.scores * own_boxes(each), each.background) for each in refined]

    def _prior(self, maps: LocalizationMaps) -> Prior:
        background, (boxes, _) = background_of(maps), boxes_of(maps)
        inside = inside_boxes(boxes, maps.size).to(background.device)
        return Prior.of_probabilities(
            checked_scores(box_probabilities(background, maps.scores, inside, self.unary), "maps")
        )
