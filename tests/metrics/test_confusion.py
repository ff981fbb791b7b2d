"""Confusion ratios against loops over pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.metrics import ConfusionMatrix
from weakseg.metrics.confusion import (
    ConfusionCounts,
    ConfusionRatio,
    confusion_counts,
    confusion_ratio,
    target_iou,
)


def slow_counts(prediction, truth, context, target, coincident):
    confused = hits = there = claimed = 0
    for predicted, true, scene in zip(prediction.ravel(), truth.ravel(), context.ravel(), strict=True):
        confused += predicted == target and scene == coincident and true != target
        hits += predicted == target and true == target
        there += true == target
        claimed += predicted == target and true != 255
    return ConfusionCounts(confused, hits, there, claimed)


def scenes(seed, count=1):
    """Prediction, truth with 255, context with 255; not square."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        prediction, truth, context = random.integers(0, 4, (3, 5, 8), dtype=np.uint8)
        truth[random.random(truth.shape) < 0.1] = 255
        context[random.random(context.shape) < 0.3] = 255
        found.append((prediction, truth, context))
    return found


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 3))
def test_counts_match_loops_over_pixels(seed, target, coincident):
    (scene,) = scenes(seed)
    expected = slow_counts(*scene, target, coincident)
    assert confusion_counts(*scene, target, coincident) == expected
    assert confusion_counts(*map(torch.from_numpy, scene), target, coincident) == expected


def test_ratio_by_hand():
    prediction = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    context = np.array([[7, 7, 2], [7, 7, 2], [2, 2, 3]])
    truth = (context == 7).astype(int)
    counts = confusion_counts(prediction, truth, context, 1, 2)
    assert counts == (4, 3, 4, 8)
    assert confusion_ratio(counts) == pytest.approx(4 / 3)
    assert target_iou(counts) == pytest.approx(3 / 9)


def test_unknown_context_is_no_confusion_and_neither_is_what_the_mask_gives_to_the_class():
    ones = np.ones((2, 3), dtype=int)
    context = np.array([[5, 5, 5], [255, 255, 5]])
    truth = np.array([[0, 0, 255], [0, 0, 1]])
    assert confusion_counts(ones, truth, context, 1, 5) == (3, 1, 1, 5)
    assert confusion_counts(ones, truth, context, 1, 4).confused == 0


def test_without_hits_the_ratio_is_infinite_or_undefined():
    assert confusion_ratio(ConfusionCounts(3, 0, 2, 3)) == math.inf
    assert math.isnan(confusion_ratio(ConfusionCounts(0, 0, 2, 0)))
    assert confusion_ratio(ConfusionCounts(0, 5, 5, 5)) == 0
    assert target_iou(ConfusionCounts(3, 0, 2, 3)) == 0
    assert math.isnan(target_iou(ConfusionCounts(0, 0, 0, 0)))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_a_set_adds_up_counts_of_every_pair(seed, count):
    pairs = [(1, 2), (3, 0), (1, 0)]
    total, parts, matrix = ConfusionRatio(pairs), [ConfusionRatio(pairs), ConfusionRatio(pairs)], ConfusionMatrix(4)
    images = scenes(seed, count)
    for index, image in enumerate(images):
        total.update(*image)
        parts[index % 2].update(*map(torch.from_numpy, image))
        matrix.update(image[0], image[1])
    for row, ratio, pair in zip(total.counts.tolist(), total.ratios(), pairs, strict=True):
        sums = [sum(counts) for counts in zip(*(slow_counts(*image, *pair) for image in images), strict=True)]
        assert row == sums
        expected = sums[0] / sums[1] if sums[1] else math.inf if sums[0] else math.nan
        assert ratio == pytest.approx(expected, nan_ok=True)
    expected = [float(matrix.iou()[pair[0]]) for pair in pairs]
    assert total.ious() == pytest.approx(expected, nan_ok=True)
    parts[0].merge(parts[1:])
    assert torch.equal(parts[0].counts, total.counts)


def test_a_ratio_of_sums_is_no_mean_of_ratios():
    metric = ConfusionRatio([(1, 0)])
    metric.update(np.array([[1, 1, 1, 1]]), np.array([[1, 1, 1, 0]]), np.array([[255, 255, 255, 0]]))
    metric.update(np.array([[1, 1]]), np.array([[1, 0]]), np.array([[255, 0]]))
    assert metric.ratios() == [pytest.approx(2 / 4)]


def test_errors():
    square, flat = np.zeros((2, 2), dtype=int), np.zeros((2, 3), dtype=int)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_counts(square, square, flat, 1, 2)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_counts(flat, square, square, 1, 2)
    with pytest.raises(ValueError, match="255 is what is unknown"):
        confusion_counts(square, square, square, 1, 255)
    with pytest.raises(ValueError, match="different pairs"):
        ConfusionRatio([(1, 2)]).merge([ConfusionRatio([(2, 1)])])
