"""Boundary precision and recall against exhaustive matching and Laplacians of one-hot planes."""

import math
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from weakseg.metrics.boundary import (
    BoundaryCounts,
    SetBoundary,
    boundary_counts,
    boundary_scores,
    label_map_edges,
    matched_pairs,
    matching_distance,
    thinned,
)

EIGHT = np.ones((3, 3), dtype=int)


def slow_edges(labels):
    """Laplacian of the plane of every class with the border repeated outside."""
    height, width = labels.shape
    edges = np.zeros(labels.shape, dtype=bool)
    for value in np.unique(labels):
        plane = np.pad((labels == value).astype(int), 1, mode="edge")
        for y in range(1, height + 1):
            for x in range(1, width + 1):
                around = plane[y - 1, x] + plane[y + 1, x] + plane[y, x - 1] + plane[y, x + 1]
                edges[y - 1, x - 1] |= around - 4 * plane[y, x] != 0
    return edges


def slow_pairs(prediction, truth, distance):
    """Tries every partner of every pixel."""
    others = np.argwhere(truth).tolist()
    near = [
        [i for i, (v, u) in enumerate(others) if math.hypot(y - v, x - u) <= distance]
        for y, x in np.argwhere(prediction).tolist()
    ]

    def most(index, free):
        if index == len(near):
            return 0
        found = most(index + 1, free)
        for partner in near[index]:
            if partner in free:
                found = max(found, 1 + most(index + 1, free - {partner}))
        return found

    return most(0, frozenset(range(len(others))))


def drawn(seed, height, width, largest=1, share=0.5):
    random = np.random.default_rng(seed)
    labels = random.integers(0, largest + 1, (2, height, width), dtype=np.uint8)
    return np.where(random.random(labels.shape) < share, labels, 0)


SEEDS = st.integers(0, 2**31)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 7), st.integers(1, 9))
def test_edges_are_those_of_the_laplacian(seed, height, width):
    labels = drawn(seed, height, width, largest=3)[0]
    assert np.array_equal(label_map_edges(labels), slow_edges(labels))
    assert np.array_equal(label_map_edges(torch.from_numpy(labels)), slow_edges(labels))


def test_edge_between_neighbouring_label_values_does_not_cancel():
    assert label_map_edges(np.array([[0, 0, 1, 2, 2]])).tolist() == [[False, True, True, True, False]]
    assert not label_map_edges(np.full((4, 6), 3)).any()
    assert not label_map_edges(np.ones((1, 1))).any()


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.sampled_from([0.0, 1.0, 1.5, 2.0, 5.0]))
def test_pairs_are_as_many_as_can_be(seed, distance):
    prediction, truth = drawn(seed, 3, 5, share=0.6).astype(bool)
    assert matched_pairs(prediction, truth, distance) == slow_pairs(prediction, truth, distance)


def test_a_pixel_has_one_partner_at_most_and_not_just_the_nearest():
    line = np.array([[1, 0, 0, 0, 0, 0]], dtype=bool)
    full = np.array([[1, 1, 1, 0, 0, 0]], dtype=bool)
    assert matched_pairs(full, line, 5) == matched_pairs(line, full, 5) == 1
    crowded = np.array([[0, 1, 1, 0, 0, 0]], dtype=bool)  # the nearest pair of all would leave the outer two alone
    assert matched_pairs(crowded, np.array([[1, 1, 0, 0, 0, 0]], dtype=bool), 1) == 2


@settings(deadline=None)
@given(SEEDS, st.integers(2, 12), st.integers(2, 14))
def test_thinning_takes_pixels_away_and_keeps_what_is_connected(seed, height, width):
    edges = drawn(seed, height, width, share=0.9)[0].astype(bool)
    thin = thinned(edges)
    assert not (thin & ~edges).any()
    assert np.array_equal(thinned(thin), thin)
    assert ndimage.label(thin, EIGHT)[1] == ndimage.label(edges, EIGHT)[1]
    outside, before = (np.pad(~mask, 1, constant_values=True) for mask in (thin, edges))
    assert ndimage.label(outside)[1] == ndimage.label(before)[1]  # no ring is opened, no hole made


@pytest.mark.parametrize("angle", [0, 0.2, math.pi / 4, 1.2, math.pi / 2, 2.5])
def test_a_straight_step_is_thinned_to_one_pixel(angle):
    y, x = np.mgrid[-20:21, -25:26]
    edges = label_map_edges((math.sin(angle) * y + math.cos(angle) * x > 0.3).astype(int))
    thin = thinned(edges)
    assert thin.sum() < 0.67 * edges.sum()
    assert not any(thin[i : i + 2, j : j + 2].all() for i in range(40) for j in range(50))


def test_a_square_leaves_one_closed_line():
    labels = np.zeros((12, 15), dtype=int)
    labels[3:8, 4:11] = 1
    thin = thinned(label_map_edges(labels))
    assert ndimage.label(thin, EIGHT)[1] == 1
    assert ndimage.label(np.pad(~thin, 1, constant_values=True))[1] == 2
    assert thin.sum() <= 2 * (6 + 8)


def test_distance():
    assert matching_distance(300, 400) == pytest.approx(10)
    assert matching_distance(300, 400, 0.0075) == pytest.approx(3.75)  # not rounded
    assert matching_distance(300, 400, 1) == 1
    assert matching_distance(300, 400, 2.5) == 2.5


def test_scores_and_empty_cases():
    assert boundary_scores(BoundaryCounts(2, 4, 5)) == (0.5, 0.4, pytest.approx(4 / 9))
    assert boundary_scores(BoundaryCounts(0, 0, 0)) == (1, 1, 1)
    assert boundary_scores(BoundaryCounts(0, 0, 5)) == (1, 0, 0)
    assert boundary_scores(BoundaryCounts(0, 5, 0)) == (0, 1, 0)
    assert boundary_scores(BoundaryCounts(0, 5, 5)) == (0, 0, 0)


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_counts_are_symmetric_bounded_and_grow_with_the_tolerance(seed):
    prediction, truth = drawn(seed, 9, 12, share=0.3).astype(bool)
    counts = [boundary_counts(prediction, truth, tolerance) for tolerance in (0.01, 1, 1.5, 3, 20)]
    assert all(lower.matched <= upper.matched for lower, upper in pairwise(counts))
    assert counts[0].matched == (prediction & truth).sum()  # less than a pixel
    assert counts[-1].matched == min(prediction.sum(), truth.sum())
    for count, tolerance in zip(counts, (0.01, 1, 1.5, 3, 20), strict=True):
        assert boundary_counts(truth, prediction, tolerance) == (count.matched, count.truth, count.prediction)


def test_line_beside_the_line():
    truth = np.zeros((20, 30), dtype=np.uint8)
    truth[:, 10:] = 1
    moved = np.roll(truth, 3, axis=1)
    moved[:, :3] = 0
    found = {}
    for tolerance in (2, 3):
        metric = SetBoundary(tolerance)
        metric.update(moved, truth)
        found[tolerance] = metric.counts.tolist()
    assert found == {2: [0, 19, 19], 3: [19, 19, 19]}  # thinning takes one pixel of an open end


def test_thickness_is_an_option():
    truth = np.zeros((20, 30), dtype=np.uint8)
    truth[:, 10:] = 1
    thin, thick = SetBoundary(1), SetBoundary(1, thin=False)
    for metric in (thin, thick):
        metric.update(truth, truth)
    assert (thin.counts.tolist(), thick.counts.tolist()) == ([19] * 3, [40] * 3)


@settings(deadline=None, max_examples=40)
@given(st.lists(SEEDS, min_size=1, max_size=3), st.booleans())
def test_set_adds_up_counts_then_scores(seeds, thin):
    total, parts = SetBoundary(1.5, thin=thin), [SetBoundary(1.5, thin=thin), SetBoundary(1.5, thin=thin)]
    sums = np.zeros(3, dtype=int)
    for index, seed in enumerate(seeds):
        prediction, truth = drawn(seed, 3, 4, largest=2, share=0.3)
        edges = [slow_edges(prediction), slow_edges(truth)]
        edges = [thinned(each) for each in edges] if thin else edges
        sums += (slow_pairs(*edges, 1.5) if thin else matched_pairs(*edges, 1.5), edges[0].sum(), edges[1].sum())
        total.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        parts[index % 2].update(prediction, truth)
    assert total.counts.tolist() == sums.tolist()
    scores = boundary_scores(BoundaryCounts(*sums.tolist()))
    expected = {"boundary_f1": scores.f, "boundary_precision": scores.precision, "boundary_recall": scores.recall}
    assert total.values() == expected
    assert total.value() == scores.f
    parts[0].merge(parts[1:])
    assert torch.equal(parts[0].counts, total.counts)


def test_void_rules():
    """An object with a ring of 255 around it, and a region that nobody has labelled."""
    truth = np.zeros((24, 40), dtype=np.uint8)
    truth[4:14, 4:14] = 255
    truth[5:13, 5:13] = 1
    truth[:, 25:] = 255
    prediction = (truth == 1).astype(np.uint8)
    exact = SetBoundary(0.001)
    exact.update(prediction, truth)
    assert exact.value() == 1  # 255 is background: the boundary is the inner side of the ring
    prediction[10:15, 30:35] = 2
    background, mask = SetBoundary(1), SetBoundary(1, void="mask")
    for metric in (background, mask):
        metric.update(prediction, truth)
    assert background.scores().recall == 1
    assert background.scores().precision < 0.7
    assert mask.counts.tolist() == [0, 0, 0]  # neither the false alarm nor the ring


def test_masked_edges_lie_away_from_void():
    truth = np.zeros((10, 30), dtype=np.uint8)
    truth[:, 10:] = 1
    truth[:, 20:] = 255
    metric = SetBoundary(1, void="mask")
    metric.update(np.where(truth == 255, 2, truth), truth)
    assert metric.counts.tolist() == [9, 9, 9]


def test_given_edges():
    metric = SetBoundary(1, thin=False)
    metric.update_edges(
        np.array([[0, 0, 1, 0, 0, 0, 0, 1]], dtype=bool), np.array([[0, 0, 0, 1, 0, 1, 0, 0]], dtype=bool)
    )
    assert metric.scores() == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("thin", [True, False])
@pytest.mark.parametrize("convert", [lambda edges: 255 * edges, lambda edges: torch.tensor(edges) * 1.0, torch.tensor])
def test_given_edges_are_what_is_not_zero(convert, thin):
    """Files have 255 for an edge, tensors come from networks."""
    random = np.random.default_rng(0)
    prediction, truth = random.random((2, 20, 30)) < 0.2
    expected, found = SetBoundary(1, thin=thin), SetBoundary(1, thin=thin)
    expected.update_edges(prediction, truth)
    found.update_edges(convert(prediction), convert(truth))
    assert found.counts.tolist() == expected.counts.tolist()
    assert 0 < found.value() < 1


def test_a_predicted_255_is_a_region_that_the_truth_has_not():
    """As for the mIoU, where it is wrong: it is neither background nor left out."""
    truth = np.zeros((24, 24), dtype=np.uint8)
    truth[6:16, 6:16] = 1
    right, unsure = SetBoundary(1), SetBoundary(1)
    right.update(truth, truth)
    prediction = truth.copy()
    prediction[19:23, 3:20] = 255
    unsure.update(prediction, truth)
    assert right.value() == unsure.scores().recall == 1
    assert unsure.scores().precision < 0.7


def test_noise_takes_no_minutes():
    random = np.random.default_rng(0)
    metric, start = SetBoundary(), time.perf_counter()
    metric.update(random.integers(0, 3, (260, 400)), random.integers(0, 3, (260, 400)))
    assert time.perf_counter() - start < 10  # a bad matching algorithm takes a minute
    assert 0.9 < metric.value() < 1


def test_errors():
    with pytest.raises(ValueError, match="differ in shape"):
        SetBoundary().update(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="differ in shape"):
        boundary_counts(np.zeros((2, 2), dtype=bool), np.zeros((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="unknown void rule 'drop'"):
        SetBoundary(void="drop")
    with pytest.raises(ValueError, match="different tolerances or rules"):
        SetBoundary().merge([SetBoundary(thin=False)])
