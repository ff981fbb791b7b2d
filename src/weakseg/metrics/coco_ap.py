"""Average precision of objects told apart, as COCO counts it, on masks.

T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; computed by pycocotools, the reference.

Objects of a class are taken from all images together, the surest first. Each is right if it overlaps enough with a
true one of its image that none before it has taken. Precision as a function of recall, made non-increasing, is averaged
over 101 recalls from 0 to 1, and that over overlaps (IoU) of 0.50, 0.55, ..., 0.95. True regions of many objects
(crowds) and objects outside the range of areas in question count neither for nor against.
"""

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from weakseg.data.detections import RLE, Detections, to_rle
from weakseg.data.instances import Instances
from weakseg.data.objects import Objects

SMALL, LARGE = 32**2, 96**2
MOST = 100  # objects of an image and class that count
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
NO_TRUTH = -1.0  # pycocotools' precision of a class without a true object
IOU_50, IOU_75 = 0, 5  # indices among pycocotools' overlaps


class _Object(NamedTuple):
    """One object in little memory, found (with a score) or true."""

    category: int
    mask: RLE
    area: float
    score: float
    crowd: bool


class CocoAP:
    """Average precision over a set; images may come in any order.

    Attributes:
        found: Objects found, by the name of their image; plain, so that they can be gathered from processes.
        truth: True objects, likewise.

    Args:
        num_classes: C, object classes, background not included.
        areas: Pixels that an object has at least to be medium, and at most not to be large.
    """

    def __init__(self, num_classes: int, areas: tuple[float, float] = (SMALL, LARGE)) -> None:
        self.num_classes, self.areas = num_classes, areas
        self.found: dict[str, list[_Object]] = {}
        self.truth: dict[str, list[_Object]] = {}

    def update(self, image_id: str, found: Detections | Instances, truth: Objects) -> None:
        """Add one image; adding it again takes the place of what was there.

        Args:
            image_id: Its name.
            found: What was found, of any score; it may overlap.
            truth: What there is.

        Raises:
            ValueError: If the sizes differ.
        """
        if found.masks.shape[1:] != truth.masks.shape[1:]:
            raise ValueError(f"found {tuple(found.masks.shape)} and true masks {tuple(truth.masks.shape)}")
        areas = found.masks.sum((1, 2)).tolist()
        rows = zip(found.classes.tolist(), to_rle(found.masks), areas, found.scores.tolist(), strict=True)
        self.found[image_id] = [_Object(*row, crowd=False) for row in rows]
        known = (truth.classes.tolist(), to_rle(truth.masks), truth.areas.tolist(), truth.crowd.tolist())
        self.truth[image_id] = [
            _Object(category, mask, area, 1.0, crowd) for category, mask, area, crowd in zip(*known, strict=True)
        ]

    def merge(self, others: Iterable["CocoAP"]) -> None:
        """Add the images of other processes."""
        for other in others:
            if (other.num_classes, other.areas) != (self.num_classes, self.areas):
                raise ValueError("precisions of different classes or ranges of areas cannot be put together")
            self.found |= other.found
            self.truth |= other.truth

    def per_class(self) -> Tensor:
        """(C, 6) float64 in [0, 1], columns as in ``NAMES``; NaN where no true object counts."""
        if not self.truth:
            return torch.full((self.num_classes, len(NAMES)), torch.nan, dtype=torch.float64)
        return _averages(self._precision())

    def value(self) -> float:
        """The mean over classes, overlaps and areas."""
        return self.values()["ap"]

    def values(self) -> dict[str, float]:
        """Means over the classes that have a value by their names in ``metrics.json``; NaN if none has."""
        return dict(zip(NAMES, self.per_class().nanmean(0).tolist(), strict=True))

    def _precision(self) -> Tensor:
        """(overlaps, recalls, C, 4 ranges of areas), -1 where there is no truth."""
        images = sorted(self.truth)  # objects of one score are taken in this order
        with redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._coco(images, self.truth), self._coco(images, self.found), "segm")
            small, large = self.areas
            unlimited = 1e10
            evaluation.params.areaRng = [[0, unlimited], [0, small], [small, large], [large, unlimited]]
            evaluation.params.areaRngLbl = ["all", "small", "medium", "large"]
            evaluation.params.maxDets = [MOST]
            evaluation.evaluate()
            evaluation.accumulate()
        return torch.from_numpy(np.asarray(evaluation.eval["precision"])[..., 0])

    def _coco(self, images: Sequence[str], objects: dict[str, list[_Object]]) -> Any:  # noqa: ANN401
        """Objects as pycocotools has them."""
        rows = [(place, each) for place, image_id in enumerate(images) for each in objects[image_id]]
        table = COCO()
        table.dataset = {
            "images": [{"id": place} for place in range(len(images))],
            "categories": [{"id": category} for category in range(self.num_classes)],
            "annotations": [_annotation(number, *row) for number, row in enumerate(rows, start=1)],
        }
        table.createIndex()
        table.annToRLE = lambda annotation: annotation["segmentation"]
        return table


def coco_ap(
    found: Sequence[Detections | Instances],
    truth: Sequence[Objects],
    num_classes: int,
    areas: tuple[float, float] = (SMALL, LARGE),
) -> Tensor:
    """Average precision of each class over a set of images.

    Args:
        found: For each image what was found.
        truth: For each image what there is.
        num_classes: C, object classes, background not included.
        areas: See ``CocoAP``.

    Returns:
        (C, 6) float64 in [0, 1], columns as in ``NAMES``; NaN where no true object counts.
    """
    metric = CocoAP(num_classes, areas)
    for place, (seen, known) in enumerate(zip(found, truth, strict=True)):
        metric.update(f"{place:012d}", seen, known)
    return metric.per_class()


def _averages(precision: Tensor) -> Tensor:
    """(C, 6) from (overlaps, recalls, C, areas)."""
    precision = precision.masked_fill(precision == NO_TRUTH, torch.nan)
    curves = precision.mean(1)
    whole, columns = curves[:, :, 0], [curves[:, :, area].mean(0) for area in range(1, curves.shape[2])]
    return torch.stack([whole.mean(0), whole[IOU_50], whole[IOU_75], *columns], dim=1)


def _annotation(number: int, image: int, each: _Object) -> dict[str, Any]:
    """Numbers start from 1: pycocotools takes 0 for none."""
    return {
        "id": number,
        "image_id": image,
        "category_id": each.category,
        "segmentation": each.mask,
        "area": each.area,
        "iscrowd": int(each.crowd),
        "score": each.score,
    }
