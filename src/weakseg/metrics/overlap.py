"""How far the objects of one image coincide with the true ones: a number to sort images by, not to compare methods by.

Average precision is about a whole set, as scores of different images compete in it. Within one image, found and true
objects of a class are paired, each at most once, the pair that overlaps most first; the sum of the pairs' IoU is set
against the number of objects on both sides, as in a Dice score. A found object without a partner that lies in a crowd
counts neither for nor against.
"""

import math

import torch
from torch import Tensor

from weakseg.data.detections import Detections
from weakseg.data.instances import Instances
from weakseg.data.objects import Objects

SURE = 0.5  # lowest score of objects that count
IN_CROWD = 0.5  # an object without a partner that lies in a crowd of its class by at least this share is excused


def image_overlap(found: Detections | Instances, truth: Objects) -> float:
    """2 Σ IoU of pairs / (number of found objects + number of true ones).

    Args:
        found: Those of a score below one half do not count.
        truth: Crowds are no objects; what is found in one of its class does not count if it has no partner.

    Returns:
        In [0, 1], NaN where there is neither a found nor a true object.
    """
    partners = paired(found, truth)
    counting = (found.scores >= SURE) & ~_in_crowds(found, truth)
    counting[[one for one, _, _ in partners]] = True
    count = int(counting.sum()) + int((~truth.crowd).sum())
    return 2 * sum(iou for _, _, iou in partners) / count if count else math.nan


def paired(found: Detections | Instances, truth: Objects) -> list[tuple[int, int, float]]:
    """Places of found objects, of the true objects that they pair with, and the IoU, the highest first.

    Args:
        found: Those of a score below one half have no partner.
        truth: Crowds have no partner.
    """
    sure, known = (chosen.nonzero().flatten() for chosen in (found.scores >= SURE, ~truth.crowd))
    same = found.classes[sure][:, None] == truth.classes[known]
    overlaps = pairwise_iou(found.masks[sure], truth.masks[known]) * same
    return [(int(sure[row]), int(known[column]), float(overlaps[row, column])) for row, column in pairs(overlaps)]


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """(n, m) float64 IoU of (n, H, W) and (m, H, W) bool masks; 0 for two empty ones."""
    first, second = one.flatten(1).float(), other.flatten(1).float()
    both = (first @ second.T).double()
    either = first.sum(1).double()[:, None] + second.sum(1).double() - both
    return both / either.clamp(min=1)


def _in_crowds(found: Detections | Instances, truth: Objects) -> Tensor:
    """(n,) bool."""
    inside = torch.zeros(len(found.classes), dtype=torch.bool)
    for crowd, its_class in zip(truth.masks[truth.crowd], truth.classes[truth.crowd].tolist(), strict=True):
        share = (found.masks & crowd).sum((1, 2)) / found.masks.sum((1, 2)).clamp(min=1)
        inside |= (share >= IN_CROWD) & (found.classes == its_class)
    return inside


def pairs(overlaps: Tensor) -> list[tuple[int, int]]:
    """Rows and columns of a matrix, the highest value first; no row and no column is taken twice, and no 0.

    Args:
        overlaps: (n, m), not negative.
    """
    left, found = overlaps.clone(), []
    for _ in range(min(left.shape)):
        row, column = divmod(int(left.argmax()), left.shape[1])
        if left[row, column] <= 0:
            break
        found.append((row, column))
        left[row], left[:, column] = 0, 0
    return found
