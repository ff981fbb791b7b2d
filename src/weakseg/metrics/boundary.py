"""Class-agnostic boundary quality: does an edge of the label map stand wherever the truth has one, and nowhere else?

B. Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011 (the SBD benchmark and its boundaries), as
used on pseudo-masks by L. Chen et al., "Weakly Supervised Semantic Segmentation with Boundary Exploration", ECCV 2020,
and by S. Lee et al., "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2021 (Table 1).

Contour F thickens an outline and asks what lies in it, so one line of the truth may excuse many of the prediction. Here
every edge pixel has at most one partner: as many pairs as possible are formed of pixels within a tolerance of each
other, and only pixels in a pair count as found. The papers leave open how far apart a pair may be and whether edges are
thinned; both are arguments, to be told with the numbers.
"""

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

from weakseg.metrics.contour import ContourCounts, ContourScores, Void, contour_scores, disk
from weakseg.metrics.iou import IGNORE, Labels, label_array

Edges = NDArray[np.bool_]

TOLERANCE = 0.02


class BoundaryRule(NamedTuple):
    """What the papers leave open, and what belongs to every number.

    Attributes:
        tolerance: How far apart a pair may be: a share of the diagonal, or pixels if it is 1 or more.
        thin: Whether edges, which are two pixels wide, are thinned to one pixel first.
    """

    tolerance: float = TOLERANCE
    thin: bool = True

    def words(self) -> str:
        """Such as ``at 0.02 of the diagonal, thinned``."""
        unit = "pixels" if self.tolerance >= 1 else "of the diagonal"
        return f"at {self.tolerance:g} {unit}, {'thinned' if self.thin else 'not thinned'}"


class BoundaryCounts(NamedTuple):
    """Edge pixels; they may be added up over images before ``boundary_scores``.

    Attributes:
        matched: Pairs of a predicted and a true one.
        prediction: All of the prediction.
        truth: All of the truth.
    """

    matched: int
    prediction: int
    truth: int


def label_map_edges(labels: Labels) -> Edges:
    """Pixels at which the 4-neighbour Laplacian of the plane of some class is not zero.

    At pixel p the Laplacian of its own class counts, up to the sign, the neighbours of other classes; so the edges are
    the pixels with a neighbour of another class, on both sides of a step. (The Laplacian of the label values would
    miss some: over 0, 1, 2 in a row it is zero.) Outside the image nothing differs.

    Args:
        labels: (H, W) integers.

    Returns:
        (H, W).
    """
    values = label_array(labels)
    edges = np.zeros(values.shape, dtype=bool)
    across, down = values[:, 1:] != values[:, :-1], values[1:] != values[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def thinned(edges: Edges) -> Edges:
    """Lines of one pixel in the place of thicker ones, connected as these were.

    Z. Guo, R. W. Hall, "Parallel thinning with two-subiteration algorithms", Communications of the ACM 32(3), 1989,
    algorithm A1: pixels are peeled off alternately from the upper right and the lower left, until none can go.

    Args:
        edges: (H, W).

    Returns:
        (H, W), a subset of ``edges``.
    """
    left = edges.astype(np.uint8)
    before = -1
    while (count := int(left.sum())) != before:
        before = count
        for side in (0, 1):
            # a correlation with powers of two numbers the 256 neighbourhoods
            numbers = cv2.filter2D(left, -1, _POWERS, borderType=cv2.BORDER_CONSTANT)
            left &= cv2.LUT(numbers, _staying(side)).astype(np.uint8)
    return left.astype(bool)


def matching_distance(height: int, width: int, tolerance: float = TOLERANCE) -> float:
    """How far apart a pair may be, in pixels: ``tolerance`` times the diagonal, or itself if it is 1 or more."""
    return tolerance if tolerance >= 1 else tolerance * math.hypot(height, width)


def matched_pairs(prediction: Edges, truth: Edges, distance: float) -> int:
    """The most pairs of a predicted and a true edge pixel, each in one pair at most, that are formed within a distance.

    Args:
        prediction: (H, W).
        truth: (H, W).
        distance: Euclidean, in pixels; pixels exactly so far apart may form a pair.

    Returns:
        Number of pairs (a maximum matching of the bipartite graph of neighbours).
    """
    reach = math.floor(distance)
    numbers = np.full([side + 2 * reach for side in truth.shape], -1, dtype=np.int32)  # of the true edge pixels
    inside = numbers[reach : reach + truth.shape[0], reach : reach + truth.shape[1]]
    inside[truth] = np.arange(np.count_nonzero(truth), dtype=np.int32)
    rows, columns = np.nonzero(prediction)
    sources, targets = [], []
    for y, x in zip(*np.nonzero(disk(distance)), strict=True):
        found = numbers[rows + y, columns + x]
        there = np.flatnonzero(found >= 0)
        sources.append(there)
        targets.append(found[there])
    return _largest_matching(np.concatenate(sources), np.concatenate(targets), len(rows), int(truth.sum()))


def boundary_counts(prediction: Edges, truth: Edges, tolerance: float = TOLERANCE) -> BoundaryCounts:
    """Count the edge pixels of an image and the pairs among them.

    Args:
        prediction: (H, W).
        truth: (H, W).
        tolerance: See ``matching_distance``.

    Raises:
        ValueError: If the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    height, width = truth.shape
    return BoundaryCounts(
        matched=matched_pairs(prediction, truth, matching_distance(height, width, tolerance)),
        prediction=int(prediction.sum()),
        truth=int(truth.sum()),
    )


def boundary_scores(counts: BoundaryCounts) -> ContourScores:
    """Precision matched / predicted, recall matched / true, and F1; empty cases as in ``contour_scores``."""
    return contour_scores(ContourCounts(counts.matched, counts.matched, counts.prediction, counts.truth))


class SetBoundary:
    """Boundary precision, recall and F1 over a set: counts are added up over all images, then one of each.

    Attributes:
        counts: (3,) int64 on the CPU, ``BoundaryCounts``; can be summed over processes and put back.

    Args:
        tolerance: See ``matching_distance``.
        thin: Whether edges, which are two pixels wide, are thinned to one pixel first.
        void: What 255 in the truth means: "background", so object boundaries lie on the inner side of VOC's void ring
            and predictions there stay; "mask", edge pixels there or beside it count in neither. (VOC's rings cover all
            boundaries, so "mask" leaves nothing of those; it is for larger regions that nobody has labelled.)
    """

    def __init__(self, tolerance: float = TOLERANCE, *, thin: bool = True, void: Void = "background") -> None:
        if void not in get_args(Void):
            raise ValueError(f"unknown void rule '{void}': {', '.join(get_args(Void))}")
        self.tolerance, self.thin, self.void = tolerance, thin, void
        self.counts: Tensor = torch.zeros(3, dtype=torch.int64)

    def update(self, prediction: Labels, truth: Labels) -> None:
        """Add one image.

        Args:
            prediction: (H, W) integers; 255 names no class and differs from all, so its outline counts as predicted.
            truth: (H, W) integers, 255 where unknown.

        Raises:
            ValueError: If the shapes differ.
        """
        predicted, true = label_array(prediction), label_array(truth)
        if predicted.shape != true.shape:
            raise ValueError(f"prediction {predicted.shape} and truth {true.shape} differ in shape")
        unknown = true == IGNORE
        edges = [label_map_edges(predicted), label_map_edges(np.where(unknown, 0, true))]
        if self.void == "mask":
            known = ~cv2.dilate(unknown.astype(np.uint8), _CROSS).astype(bool)
            edges = [each & known for each in edges]
        self.update_edges(*edges)

    def update_edges(self, prediction: Labels, truth: Labels) -> None:
        """Add one image of which edges are given, such as the boundaries that SBD comes with.

        Args:
            prediction: (H, W), an edge where it is not 0.
            truth: (H, W), likewise.

        Raises:
            ValueError: If the shapes differ.
        """
        predicted, true = label_array(prediction) != 0, label_array(truth) != 0
        if self.thin:
            predicted, true = thinned(predicted), thinned(true)
        self.counts += torch.tensor(boundary_counts(predicted, true, self.tolerance))

    def merge(self, others: Iterable["SetBoundary"]) -> None:
        """Add what other processes have counted."""
        for other in others:
            if (other.tolerance, other.thin, other.void) != (self.tolerance, self.thin, self.void):
                raise ValueError("boundary counts of different tolerances or rules cannot be added")
            self.counts += other.counts

    def scores(self) -> ContourScores:
        """Precision, recall and F1 of the set."""
        return boundary_scores(BoundaryCounts(*self.counts.tolist()))

    def value(self) -> float:
        """The F1."""
        return self.scores().f

    def values(self) -> dict[str, float]:
        """All three by their names in ``metrics.json``."""
        scores = self.scores()
        return {
            "boundary_f1": scores.f,
            "boundary_precision": scores.precision,
            "boundary_recall": scores.recall,
        }


_AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise from above
_POWERS = np.zeros((3, 3), dtype=np.float32)
for _bit, (_y, _x) in enumerate(_AROUND):
    _POWERS[1 + _y, 1 + _x] = 1 << _bit
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)


@cache
def _staying(side: int) -> NDArray[np.uint8]:
    """(256,) 1 where a pixel with this neighbourhood stays in a subiteration of Guo and Hall's algorithm."""
    table = np.ones(256, dtype=np.uint8)
    for number in range(256):
        p2, p3, p4, p5, p6, p7, p8, p9 = (bool(number >> bit & 1) for bit in range(8))
        lines = (not p2 and (p3 or p4)) + (not p4 and (p5 or p6)) + (not p6 and (p7 or p8)) + (not p8 and (p9 or p2))
        pairs = min(
            (p9 or p2) + (p3 or p4) + (p5 or p6) + (p7 or p8), (p2 or p3) + (p4 or p5) + (p6 or p7) + (p8 or p9)
        )
        behind = (p2 or p3 or not p5) and p4 if side == 0 else (p6 or p7 or not p9) and p8
        table[number] = not (lines == 1 and 2 <= pairs <= 3 and not behind)
    return table


def _largest_matching(sources: NDArray[Any], targets: NDArray[Any], left: int, right: int) -> int:
    """Size of the largest matching of a bipartite graph: the largest flow of which a vertex lets one unit through.

    (SciPy's own bipartite matching takes a minute for two images of noise, Dinic's flow a tenth of a second.)

    Args:
        sources: (E,) vertices in [0, left).
        targets: (E,) vertices in [0, right).
        left: Number of vertices on one side.
        right: Number of vertices on the other.
    """
    start, end = left + right, left + right + 1
    tails = np.concatenate([sources, np.full(left, start), left + np.arange(right)])
    heads = np.concatenate([left + targets, np.arange(left), np.full(right, end)])
    edges = (tails.astype(np.int32), heads.astype(np.int32))
    graph = csr_array((np.ones(len(tails), dtype=np.int32), edges), shape=(end + 1, end + 1))
    return int(maximum_flow(graph, start, end, method="dinic").flow_value)
