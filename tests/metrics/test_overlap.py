import math
from itertools import permutations

import pytest
import torch

from tests.metrics.test_coco_ap import found, rectangle
from tests.metrics.test_coco_ap import truth as true
from weakseg.metrics.overlap import image_overlap, paired, pairs, pairwise_iou


def test_values_by_hand():
    square, half = rectangle(0, 0, 4, 4), rectangle(0, 0, 4, 2)
    assert image_overlap(found((0, 1.0, square)), true((0, square))) == 1
    assert image_overlap(found((0, 1.0, half)), true((0, square))) == pytest.approx(0.5)
    assert image_overlap(found((1, 1.0, square)), true((0, square))) == 0
    assert image_overlap(found((0, 0.4, square)), true((0, square))) == 0  # nobody is sure of it
    assert image_overlap(found((0, 1.0, square)), true()) == 0
    assert math.isnan(image_overlap(found(), true()))
    two = true((0, square), (0, rectangle(10, 0, 14, 4)))
    assert image_overlap(found((0, 0.9, square), (0, 0.8, half)), two) == pytest.approx(2 * 1 / 4)


def test_crowds_count_neither_for_nor_against():
    square, crowd = rectangle(0, 0, 4, 4), rectangle(10, 0, 20, 12)
    both = true((0, square), (0, crowd, True))
    assert image_overlap(found((0, 1.0, square)), both) == 1
    assert image_overlap(found((0, 1.0, square), (0, 1.0, rectangle(11, 1, 15, 5))), both) == 1
    assert image_overlap(found((0, 1.0, square), (1, 1.0, rectangle(11, 1, 15, 5))), both) == pytest.approx(2 / 3)


def test_an_object_within_a_crowd_that_is_found_counts():
    square, beside, crowd = rectangle(2, 2, 6, 6), rectangle(8, 2, 12, 6), rectangle(0, 0, 20, 12)
    both = true((0, crowd, True), (0, square))
    assert image_overlap(found((0, 1.0, square)), both) == 1
    assert image_overlap(found((0, 1.0, beside), (0, 1.0, square)), both) == 1
    assert image_overlap(found((0, 1.0, beside)), both) == 0


def test_crowds_and_what_is_not_sure_have_no_partner():
    square, crowd = rectangle(2, 2, 6, 6), rectangle(0, 0, 20, 12)
    seen = found((0, 0.4, square), (0, 1.0, crowd), (0, 0.9, rectangle(2, 2, 6, 4)))
    assert paired(seen, true((0, crowd, True), (0, square))) == [(2, 1, 0.5)]
    assert paired(found(), true((0, square))) == paired(seen, true()) == []


def test_pairs_are_the_best_where_no_overlap_is_contested():
    """Against all ways to pair, slowly; rectangles here overlap with one partner much more than with others."""
    chance = torch.Generator().manual_seed(0)
    for _ in range(20):
        places = torch.randperm(5, generator=chance)[:3].tolist()
        masks = [rectangle(4 * place, 0, 4 * place + 4, 6) for place in places]
        moved = [rectangle(4 * place, 1, 4 * place + 4, 7) for place in reversed(places)]
        value = image_overlap(found(*((0, 1.0, mask) for mask in masks)), true(*((0, mask) for mask in moved)))
        ious = pairwise_iou(torch.stack(masks), torch.stack(moved))
        best = max(
            sum(float(ious[row, column]) for row, column in enumerate(order)) for order in permutations(range(3))
        )
        assert value == pytest.approx(2 * best / 6)


def test_pairs_take_the_highest_first_and_nothing_twice():
    assert pairs(torch.tensor([[0.5, 0.9], [0.2, 0.8], [0.0, 0.0]])) == [(0, 1), (1, 0)]
    assert pairs(torch.tensor([[0.0, 0.0]])) == pairs(torch.zeros(0, 3)) == []


def test_iou_is_that_of_sets():
    chance = torch.Generator().manual_seed(1)
    one, other = (torch.rand(count, 7, 9, generator=chance) > 0.5 for count in (3, 2))
    slow = [[(a & b).sum().item() / (a | b).sum().item() for b in other] for a in one]
    assert pairwise_iou(one, other).tolist() == [pytest.approx(row) for row in slow]
    empty = torch.zeros(1, 7, 9, dtype=torch.bool)
    assert pairwise_iou(empty, empty).tolist() == [[0]]
    assert pairwise_iou(empty[:0], other).shape == (0, 2)
