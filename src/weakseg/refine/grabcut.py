"""GrabCut: a box is cut out by colour.

C. Rother, V. Kolmogorov, A. Blake, "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", SIGGRAPH
2004.

Everything outside the box is background. Two mixtures of Gaussians, of the colours outside and inside, and a cut of the
grid of pixels between them are improved in turns.
"""

from dataclasses import replace
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.ops.box_masks import Region, painting_order, pixel_regions, region_area
from weakseg.refine.boxes import boxes_of, classes_of, pixels_of_classes
from weakseg.refine.refiner import Refiner

_FOREGROUND = (cv2.GC_FGD, cv2.GC_PR_FGD)


class GrabCut(Refiner):
    """Each box cut out by itself, at image size, with scores 0 and 1; the maps that come in are not looked at.

    Where the objects of several boxes overlap, the one of the smallest box is on top, of equally small ones the last.
    The classes are those of the boxes. The same image gives the same result on every call.

    A box is kept whole where there is nothing to cut: it covers the whole image, so that nothing shows what background
    is, or the cut leaves none of it, though a box is never empty.

    Args:
        iterations: Turns between colours and cut.
    """

    needs_boxes = True
    makes_maps = True

    def __init__(self, *, iterations: Annotated[int, Field(ge=1)] = 5) -> None:
        self.iterations = iterations

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """The objects in the image's boxes."""
        boxes, box_classes = boxes_of(maps)
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        regions = pixel_regions(boxes, maps.size)
        owners = np.full(maps.size, -1, dtype=np.int64)
        for index in painting_order(regions):
            if region_area(regions[index]):
                owners[cut_out(pixels, regions[index], self.iterations)] = index
        belongs = torch.from_numpy(owners).to(boxes.device)
        classes = classes_of(box_classes)
        scores = pixels_of_classes(belongs, box_classes, classes)
        return replace(maps, classes=classes, scores=scores, background=(belongs < 0).float())


def cut_out(image: NDArray[np.uint8], region: Region, iterations: int) -> NDArray[np.bool_]:
    """The object in a region.

    Args:
        image: (H, W, 3) uint8.
        region: Rows and columns, not empty.
        iterations: At least 1.

    Returns:
        (H, W) bool, True nowhere outside the region and somewhere within; all of the region where nothing can be cut.
    """
    whole = np.zeros(image.shape[:2], dtype=bool)
    whole[region] = True
    if whole.all():
        return whole
    rows, columns = region
    rectangle = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    mask, outside, inside = np.zeros(whole.shape, dtype=np.uint8), _mixture(), _mixture()
    cv2.setRNGSeed(0)  # its mixtures start from random colours
    cv2.grabCut(image, mask, rectangle, outside, inside, iterations, cv2.GC_INIT_WITH_RECT)
    found: NDArray[np.bool_] = np.isin(mask, _FOREGROUND)
    return found if found.any() else whole


def _mixture() -> NDArray[Any]:
    """Room for five Gaussians, as OpenCV wants it."""
    return np.zeros((1, 65), dtype=np.float64)
