"""PAMR: masks follow the image, without parameters to learn.

N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020; see ``weakseg.ops.pamr``.
The paper refines the masks of a network in training; here the same step refines the maps of any method.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.ops.maps import resize, strided_size
from weakseg.ops.pamr import DILATIONS, Normalization, pamr
from weakseg.refine.masks import at_image_size, background_of
from weakseg.refine.refiner import Refiner


class PAMRRefiner(Refiner):
    """Background and present classes averaged over neighbours that look alike.

    Args:
        dilations: Distances of the neighbours in rows and columns, in pixels of the grid.
        iterations: Averages taken.
        normalization: Of colour differences: ``"code"`` as it was released, ``"paper"`` as the paper writes it.
        stride: The grid has every such pixel of the image in both directions; 1 takes the image itself. The paper
            refines at stride 4 and enlarges the result; distances in the image grow with the stride.
    """

    needs_background = True

    def __init__(
        self,
        *,
        dilations: Annotated[Sequence[Annotated[int, Field(ge=1)]], Field(min_length=1)] = DILATIONS,
        iterations: Annotated[int, Field(ge=0)] = 10,
        normalization: Normalization = "code",
        stride: Annotated[int, Field(ge=1)] = 4,
    ) -> None:
        self.dilations, self.iterations = tuple(dilations), iterations
        self.normalization, self.stride = normalization, stride

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """Maps that follow the image's edges, at image size; each stays in its range, and their sum is kept."""
        full = at_image_size(maps)
        height, width = full.size
        grid = (strided_size(height, self.stride), strided_size(width, self.stride))
        stacked = resize(torch.cat([background_of(full)[None], full.scores]), grid, align_corners=True)
        refined = pamr(
            image[None] / 255,
            stacked[None],
            dilations=self.dilations,
            iterations=self.iterations,
            normalization=self.normalization,
        )[0]
        enlarged = resize(refined, full.size, align_corners=True)
        return full.with_scores(enlarged[1:], enlarged[0])
