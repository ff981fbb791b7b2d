"""What boxes say alone: a box is all object.

G. Papandreou, L.-C. Chen, K. Murphy, A. Yuille, "Weakly- and Semi-Supervised Learning of a Deep Convolutional Network
for Semantic Image Segmentation", ICCV 2015 (the baseline that fills boxes).

No network has seen the image; every other way from boxes to masks should be better than this one.
"""

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError
from weakseg.ops.box_masks import class_areas, smallest_box
from weakseg.refine.refiner import Refiner


class BoxesRefiner(Refiner):
    """Maps made of the boxes alone, at image size; those that come in are not looked at.

    Every pixel in a box belongs to the smallest box that covers it, of equally small ones to the last. The classes are
    those of the boxes.

    Args:
        confidence: Score of that box's class; background has the rest. Outside all boxes background is 1. It matters to
            what follows in the chain (a CRF can move what is not certain); at 0.5 and below masks of the boxes alone
            are empty.
    """

    needs_boxes = True
    makes_maps = True

    def __init__(self, *, confidence: Annotated[float, Field(gt=0, le=1)] = 1.0) -> None:
        self.confidence = confidence

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """The image's boxes, filled."""
        boxes, box_classes = boxes_of(maps)
        owners = smallest_box(boxes, maps.size)
        classes = classes_of(box_classes)
        scores = self.confidence * pixels_of_classes(owners, box_classes, classes)
        return replace(maps, classes=classes, scores=scores, background=1 - self.confidence * (owners >= 0).float())


def classes_of(box_classes: Tensor) -> Tensor:
    """(n,) classes of boxes to (P,) int64, each once, ascending."""
    return box_classes.new_tensor(sorted(set(box_classes.tolist())))


def pixels_of_classes(owners: Tensor, box_classes: Tensor, classes: Tensor) -> Tensor:
    """Whose pixels are whose.

    Args:
        owners: (H, W) int64, the number of a box, or -1.
        box_classes: (n,) int64.
        classes: (P,) int64.

    Returns:
        (P, H, W) float32, 1 where a pixel belongs to a box of the class, else 0.
    """
    labels = box_classes.new_full((len(box_classes) + 1,), -1)  # the last one is read by -1
    labels[:-1] = box_classes
    return (labels[owners] == classes[:, None, None]).float()


def boxes_of(maps: LocalizationMaps) -> tuple[Tensor, Tensor]:
    """(n, 4) boxes and (n,) classes of maps that need them.

    Raises:
        UserError: If the image's boxes are not known.
    """
    if maps.boxes is None or maps.box_classes is None:
        raise UserError(
            "the image has no boxes", where="refine", remedy="Give it boxes, or take this refiner out of the chain"
        )
    return maps.boxes, maps.box_classes


def own_boxes(maps: LocalizationMaps) -> Tensor:
    """(P, H, W) bool, where each class of the maps has a box; on the maps' device.

    Raises:
        UserError: If the image's boxes are not known.
    """
    boxes, box_classes = boxes_of(maps)
    return class_areas(boxes, box_classes, maps.classes, maps.size).to(maps.scores.device)
