"""Contour F against distances between all outline pixels."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.metrics.contour import (
    ContourCounts,
    SetContour,
    boundary_map,
    contour_counts,
    contour_f,
    contour_scores,
    disk,
    j_and_f,
    tolerance_radius,
)


def slow_boundary(mask):
    """A pixel is outline if a right, lower or lower-right neighbour inside the image differs.

    The lower-right one is looked at only where all three exist.
    """
    height, width = mask.shape
    out = np.zeros(mask.shape, dtype=bool)
    for y in range(height):
        for x in range(width):
            right = x + 1 < width and mask[y, x] != mask[y, x + 1]
            lower = y + 1 < height and mask[y, x] != mask[y + 1, x]
            both = x + 1 < width and y + 1 < height and mask[y, x] != mask[y + 1, x + 1]
            out[y, x] = right or lower or both
    return out


def slow_counts(prediction, truth, bound):
    p, g = (np.argwhere(slow_boundary(mask)).tolist() for mask in (prediction, truth))
    radius = bound if bound >= 1 else math.ceil(bound * math.sqrt(prediction.shape[0] ** 2 + prediction.shape[1] ** 2))

    def near(point, others):
        return any((point[0] - y) ** 2 + (point[1] - x) ** 2 <= radius**2 for y, x in others)

    return ContourCounts(sum(near(a, g) for a in p), sum(near(a, p) for a in g), len(p), len(g))


def masks(count=2, largest=1):
    shapes = st.tuples(st.integers(1, 7), st.integers(1, 9))
    return st.tuples(shapes, st.integers(0, 2**31)).map(
        lambda drawn: np.random.default_rng(drawn[1]).integers(0, largest + 1, (count, *drawn[0]), dtype=np.uint8)
    )


@settings(deadline=None)
@given(masks(), st.sampled_from([0.008, 0.2, 1, 2, 2.5]))
def test_counts_match_distances_between_all_outline_pixels(pair, bound):
    assert np.array_equal(boundary_map(pair[0]), slow_boundary(pair[0]))
    assert contour_counts(*pair, bound) == slow_counts(*pair, bound)


@settings(deadline=None)
@given(masks())
def test_f_is_symmetric_in_unit_range_and_one_for_identical_masks(pair):
    prediction, truth = pair
    f = contour_f(prediction, truth)
    assert 0 <= f <= 1
    assert f == pytest.approx(contour_f(truth, prediction))
    assert contour_f(truth, truth) == 1


@settings(deadline=None)
@given(masks())
def test_f_never_falls_when_the_tolerance_grows(pair):
    fs = [contour_f(*pair, bound) for bound in (1, 1.5, 2, 3, 5)]
    assert all(lower <= upper + 1e-12 for lower, upper in pairwise(fs))


def test_mask_of_the_whole_image_has_no_outline():
    assert not boundary_map(np.ones((4, 6))).any()
    assert not boundary_map(torch.ones(1, 1)).any()


def test_tolerance_and_disk():
    assert [tolerance_radius(*size) for size in ((375, 500), (480, 640), (8, 10))] == [5, 7, 1]
    assert tolerance_radius(375, 500, 3) == 3
    for radius in range(6):
        ring = [[y * y + x * x <= radius**2 for x in range(-radius, radius + 1)] for y in range(-radius, radius + 1)]
        assert np.array_equal(disk(radius), ring)


def test_empty_outlines():
    assert contour_scores(ContourCounts(0, 0, 0, 5)) == (1, 0, 0)
    assert contour_scores(ContourCounts(0, 0, 5, 0)) == (0, 1, 0)
    assert contour_scores(ContourCounts(0, 0, 0, 0)) == (1, 1, 1)
    assert contour_scores(ContourCounts(0, 0, 4, 5)).f == 0
    assert contour_scores(ContourCounts(2, 4, 4, 4)) == (0.5, 1, pytest.approx(2 / 3))


def test_void_empties_both_masks():
    truth, prediction, void = np.zeros((3, 6, 6), dtype=np.uint8)
    truth[1:3, 1:3] = prediction[1:3, 1:3] = 1
    prediction[4, 4] = 1
    assert contour_f(prediction, truth) < 1
    void[4:, 4:] = 1
    assert contour_f(prediction, truth, void=void) == 1


def slow_set(pairs, num_classes):
    """Truth 255 becomes background; every image counts for every class."""
    fs = []
    for c in range(1, num_classes):
        counts = [slow_counts(p == c, np.where(t == 255, 0, t) == c, 0.008) for p, t in pairs]
        fs.append(contour_scores(ContourCounts(*map(sum, zip(*counts, strict=True)))).f)
    return fs


@settings(deadline=None, max_examples=50)
@given(st.lists(masks(largest=3), min_size=1, max_size=3), st.integers(0, 2**31))
def test_set_adds_up_counts_then_scores_each_class(pairs, seed):
    random = np.random.default_rng(seed)
    for pair in pairs:
        pair[:, random.random(pair.shape[1:]) < 0.1] = 255
    total, parts = SetContour(5), [SetContour(5), SetContour(5)]
    for index, (prediction, truth) in enumerate(pairs):
        total.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        parts[index % 2].update(prediction, truth)
    assert total.f_per_class() == pytest.approx(slow_set(pairs, 5))
    assert total.value() == pytest.approx(sum(slow_set(pairs, 5)) / 4)
    parts[0].merge(parts[1:])
    assert torch.equal(parts[0].counts, total.counts)


def test_image_without_the_class_changes_nothing_and_a_false_alarm_lowers_precision():
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[2:4, 2:5] = 1
    total = SetContour(2)
    total.update(mask, mask)
    total.update(mask * 0, mask * 0)
    assert total.value() == 1
    total.update(mask, mask * 0)
    assert contour_scores(ContourCounts(*total.counts[0].tolist())) == (0.5, 1, pytest.approx(2 / 3))


def test_void_rules_of_a_set():
    truth = np.zeros((6, 8), dtype=np.uint8)
    truth[:, 4:] = 255
    prediction = np.zeros_like(truth)
    prediction[2:4, 5:7] = 1
    background, mask = SetContour(2), SetContour(2, void="mask")
    for metric in (background, mask):
        metric.update(prediction, truth)
    assert (background.value(), mask.value()) == (0, 1)


def test_j_and_f_is_their_mean():
    assert j_and_f(0.4, 0.8) == pytest.approx(0.6)


def test_errors():
    with pytest.raises(ValueError, match="differ in shape"):
        contour_f(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="unknown void rule 'drop'"):
        SetContour(3, void="drop")
    with pytest.raises(ValueError, match="different classes or tolerances"):
        SetContour(3).merge([SetContour(3, bound=0.1)])
