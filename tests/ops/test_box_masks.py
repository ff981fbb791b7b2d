"""Boxes as pixels against loops over pixel centres."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.ops.box_masks import class_areas, inside_boxes, painting_order, pixel_regions, region_area, smallest_box

SIZE = (7, 11)


def drawn(seed, count, whole=True):
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([width, height]) * 1.2 - 1
    boxes = corners.sort(1).values.flatten(1)
    classes = torch.randint(0, 3, (count,), generator=generator)
    return (boxes.round() if whole else boxes), classes


def covers(box, y, x):
    x1, y1, x2, y2 = box.tolist()
    return x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2


def slow_area(box):
    return sum(covers(box, y, x) for y in range(SIZE[0]) for x in range(SIZE[1]))


def slow_owner(boxes, y, x):
    best = -1
    for index, box in enumerate(boxes):
        if covers(box, y, x) and (best < 0 or slow_area(box) <= slow_area(boxes[best])):
            best = index
    return best


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(0, 6), st.booleans())
def test_every_pixel_belongs_to_the_smallest_box(seed, count, whole):
    boxes, classes = drawn(seed, count, whole)
    owners = smallest_box(boxes, SIZE)
    expected = [[slow_owner(boxes, y, x) for x in range(SIZE[1])] for y in range(SIZE[0])]
    assert owners.tolist() == expected
    assert torch.equal(inside_boxes(boxes, SIZE), owners >= 0)
    for c, area in zip((0, 2), class_areas(boxes, classes, torch.tensor([0, 2]), SIZE), strict=True):
        mine = [box for box, box_class in zip(boxes, classes.tolist(), strict=True) if box_class == c]
        expected = [[any(covers(box, y, x) for box in mine) for x in range(SIZE[1])] for y in range(SIZE[0])]
        assert area.tolist() == expected


def test_whole_numbers_are_taken_as_they_are():
    (region,) = pixel_regions(torch.tensor([[2.0, 1.0, 5.0, 3.0]]), SIZE)
    assert region == (slice(1, 3), slice(2, 5))
    assert region_area(region) == 6


def test_a_number_a_rounding_error_low_is_not_a_pixel_lost():
    boxes = torch.tensor([[2.0, 1.0, 5.0, 3.0]])
    assert pixel_regions(boxes - 1e-5, SIZE) == pixel_regions(boxes + 1e-5, SIZE) == pixel_regions(boxes, SIZE)


@pytest.mark.parametrize("box", [[3, 2, 3, 5], [20, 2, 30, 5], [-9, -9, -2, 5], [5, 5, 2, 2], [3.6, 0, 4.4, 7]])
def test_a_box_without_a_pixel_covers_nothing(box):
    boxes = torch.tensor([box], dtype=torch.float32)
    assert [region_area(region) for region in pixel_regions(boxes, SIZE)] == [0]
    assert (smallest_box(boxes, SIZE) == -1).all()


def test_a_box_beyond_the_image_ends_with_it():
    assert inside_boxes(torch.tensor([[-5.0, -5.0, 50.0, 50.0]]), SIZE).all()


def test_of_equally_small_boxes_the_last_is_on_top():
    boxes = torch.tensor([[0.0, 0, 4, 2], [1.0, 0, 5, 2], [0.0, 0, 11, 7]])
    assert painting_order(pixel_regions(boxes, SIZE)) == [2, 0, 1]
    assert smallest_box(boxes, SIZE)[0].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]


def test_no_box():
    none = torch.zeros(0, 4)
    assert (smallest_box(none, SIZE) == -1).all()
    empty = torch.zeros(0, dtype=torch.int64)
    assert class_areas(none, empty, torch.tensor([1]), SIZE).shape == (1, *SIZE)
    assert class_areas(none, empty, empty, SIZE).shape == (0, *SIZE)
