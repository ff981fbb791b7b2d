"""Filling rates and precision of maps against loops over pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.metrics.boxes import CAMPrecision, FillingRates, RateSummary, cam_precision, filling_rates


def drawn(seed, count=5, height=6, width=9, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes + 1, (height, width), generator=generator)
    labels[torch.rand(height, width, generator=generator) < 0.1] = 255
    starts = torch.stack([torch.randint(0, side - 1, (count,), generator=generator) for side in (width, height)], dim=1)
    sizes = torch.randint(1, 5, (count, 2), generator=generator)
    ends = (starts + sizes).minimum(torch.tensor([width, height]))
    boxes, box_classes = torch.cat([starts, ends], 1).float(), torch.randint(0, classes, (count,), generator=generator)
    return labels.to(torch.uint8), boxes, box_classes


def slow_rate(labels, box, box_class):
    x1, y1, x2, y2 = (int(side) for side in box)
    pixels = [labels[y, x].item() for y in range(y1, y2) for x in range(x1, x2)]
    return sum(pixel == box_class + 1 for pixel in pixels) / len(pixels)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 8))
def test_rates_match_loops_over_pixels(seed, count):
    labels, boxes, classes = drawn(seed, count)
    expected = [slow_rate(labels, box, int(box_class)) for box, box_class in zip(boxes, classes, strict=True)]
    assert filling_rates(labels, boxes, classes).tolist() == pytest.approx(expected)
    assert filling_rates(labels.numpy(), boxes, classes).tolist() == pytest.approx(expected)


def test_rates_by_hand():
    labels = np.array([[3, 3, 0], [3, 255, 0], [0, 0, 3]], dtype=np.uint8)
    boxes = torch.tensor([[0.0, 0, 2, 2], [0.0, 0, 3, 3], [2.0, 0, 3, 2], [5.0, 5, 9, 9]])
    found = filling_rates(labels, boxes, torch.tensor([2, 2, 2, 2])).tolist()
    assert found == pytest.approx([0.75, 4 / 9, 0, math.nan], nan_ok=True)
    assert filling_rates(labels, boxes[:1], torch.tensor([1])).tolist() == [0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
def test_a_set_is_the_sum_of_its_parts(seeds):
    total, parts = FillingRates(4), [FillingRates(4), FillingRates(4)]
    slow = [[], [], []]
    for index, seed in enumerate(seeds):
        labels, boxes, classes = drawn(seed)
        for box, box_class in zip(boxes, classes.tolist(), strict=True):
            slow[box_class].append(slow_rate(labels, box, box_class))
        for metric in (total, parts[index % 2]):
            metric.update(labels, boxes, classes)
    assert [sorted(rates) for rates in total.rates] == [pytest.approx(sorted(rates)) for rates in slow]
    means = [np.mean(rates) for rates in slow if rates]
    assert total.values() == {"filling_rate": pytest.approx(np.mean(means))}
    parts[0].merge(parts[1:])
    assert parts[0].value() == pytest.approx(total.value())
    for summary, rates in zip(total.summaries(), slow, strict=True):
        assert summary.boxes == len(rates)
        if rates:
            assert summary[1:] == pytest.approx((np.mean(rates), *np.percentile(rates, [25, 50, 75])))


def test_a_class_without_a_box_has_no_summary():
    metric = FillingRates(3)
    assert math.isnan(metric.value())
    metric.update(np.full((4, 4), 2), torch.tensor([[0.0, 0, 2, 2], [9.0, 9, 12, 12]]), torch.tensor([1, 1]))
    assert metric.summaries()[0] == pytest.approx(RateSummary(0, *[math.nan] * 4), nan_ok=True)
    assert metric.summaries()[1] == RateSummary(1, 1, 1, 1, 1)
    assert metric.value() == 1


def test_masks_that_are_the_boxes_fill_them():
    labels = torch.zeros(10, 12, dtype=torch.uint8)
    labels[2:6, 3:9] = 5
    assert filling_rates(labels, torch.tensor([[3.0, 2, 9, 6]]), torch.tensor([4])).tolist() == [1]


def slow_precision(maps, truth, known):
    pixels = [(m, g) for m, g, k in zip(*(x.flatten().tolist() for x in (maps, truth, known)), strict=True) if k]
    hits = sum(m for m, g in pixels if g)
    misses = sum(m for m, g in pixels if not g)
    return hits / (hits + misses) if hits + misses else math.nan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_precision_matches_loops_over_pixels(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, 4, 7, generator=generator).to(dtype)
    maps[seed % 3] = 0
    truth, known = (torch.rand(shape, generator=generator) < 0.6 for shape in ((3, 4, 7), (4, 7)))
    expected = [slow_precision(one.double(), mask, known) for one, mask in zip(maps, truth, strict=True)]
    assert cam_precision(maps, truth, known).tolist() == pytest.approx(expected, nan_ok=True)


def test_precision_of_a_set_is_one_ratio_of_sums():
    metric, other = CAMPrecision(3), CAMPrecision(3)
    truth = torch.tensor([[1, 1, 0, 255]], dtype=torch.uint8)
    metric.update(torch.tensor([[[1.0, 0.5, 0.5, 1.0]]]), torch.tensor([0]), truth)
    other.update(torch.tensor([[[1.0, 0.0, 1.0, 0.0]]]), torch.tensor([0]), truth * 0)
    metric.merge([other])
    assert metric.precisions().tolist() == pytest.approx([1.5 / 4, math.nan], nan_ok=True)
    assert metric.values() == {"cam_precision": pytest.approx(1.5 / 4)}
    assert math.isnan(CAMPrecision(3).value())


def test_errors():
    boxes, classes = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="2 boxes and 1 classes"):
        filling_rates(np.zeros((3, 3), dtype=int), boxes, classes[:1])
    with pytest.raises(ValueError, match="labels"):
        filling_rates(np.zeros((1, 3, 3), dtype=int), boxes, classes)
    with pytest.raises(ValueError, match="cannot be added"):
        FillingRates(3).merge([FillingRates(4)])
