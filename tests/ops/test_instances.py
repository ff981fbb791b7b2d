"""Objects from label maps and boxes."""

import pytest
import torch

from weakseg.ops.instances import instance_masks, mask_boxes, numbered, told_apart

MASK = torch.tensor(
    [
        [0, 1, 1, 1, 0, 2],
        [0, 1, 1, 1, 0, 2],
        [255, 1, 1, 0, 2, 2],
        [0, 0, 0, 0, 2, 2],
    ],
    dtype=torch.uint8,
)


def slow_masks(mask, boxes, classes, any_class=False):
    """Pixel by pixel: the smallest box that wants it, of equally small ones the last."""
    found = torch.zeros(len(boxes), *mask.shape, dtype=torch.bool)
    height, width = mask.shape
    covers = [
        {(y, x) for y in range(height) for x in range(width) if x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2}
        for x1, y1, x2, y2 in boxes.tolist()
    ]
    for y in range(height):
        for x in range(width):
            value = int(mask[y, x])
            if value in (0, 255):
                continue
            wanting = [
                i for i, cover in enumerate(covers) if (y, x) in cover and (any_class or value == int(classes[i]) + 1)
            ]
            if wanting:
                found[min(wanting, key=lambda i: (len(covers[i]), -i)), y, x] = True
    return found


def test_a_box_has_the_pixels_of_its_class():
    boxes = torch.tensor([[0.0, 0.0, 3.0, 4.0], [3.0, 1.0, 6.0, 3.0]])
    found = instance_masks(MASK, boxes, torch.tensor([0, 1]))
    assert found[0].int().tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert found[1].int().tolist() == [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]


def test_the_smallest_box_of_the_class_has_the_pixel():
    boxes = torch.tensor([[0.0, 0.0, 6.0, 4.0], [2.0, 0.0, 4.0, 2.0], [2.0, 0.0, 3.0, 1.0]])
    found = instance_masks(MASK, boxes, torch.tensor([0, 0, 1]))
    assert found[1].int().tolist()[:2] == [[0, 0, 1, 1, 0, 0]] * 2
    assert found[0].sum() == 4
    assert not found[2].any()  # smaller still, but of another class


def test_any_foreground_counts_for_classes_that_the_mask_does_not_know():
    boxes = torch.tensor([[0.0, 0.0, 6.0, 4.0], [4.0, 0.0, 6.0, 2.0]])
    found = instance_masks(MASK, boxes, torch.tensor([7, 9]), any_class=True)
    assert torch.equal(found[1], (MASK == 2) & (torch.arange(4) < 2)[:, None])
    assert torch.equal(found.any(0), (MASK > 0) & (MASK < 255))


@pytest.mark.parametrize("any_class", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_random_boxes_agree_with_the_definition(seed, any_class):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 4, (9, 13), generator=generator)
    mask[torch.rand(9, 13, generator=generator) < 0.1] = 255
    corners = torch.rand(6, 2, 2, generator=generator) * torch.tensor([13.0, 9.0])
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
    boxes = boxes.round() if seed % 2 else boxes
    classes = torch.randint(0, 4, (6,), generator=generator)
    found = instance_masks(mask, boxes, classes, any_class=any_class)
    assert torch.equal(found, slow_masks(mask, boxes, classes, any_class))
    assert found.sum(0).max() <= 1


def test_no_boxes_and_an_empty_mask():
    none = instance_masks(MASK, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert none.shape == (0, 4, 6)
    assert none.dtype == torch.bool
    boxes, classes = torch.tensor([[0.0, 0.0, 6.0, 4.0]]), torch.tensor([0])
    assert not instance_masks(torch.zeros_like(MASK), boxes, classes).any()
    assert not instance_masks(torch.full_like(MASK, 255), boxes, classes, any_class=True).any()


def test_every_box_has_a_class():
    with pytest.raises(ValueError, match="1 boxes and 2 classes"):
        instance_masks(MASK, torch.zeros(1, 4), torch.zeros(2, dtype=torch.int64))


def test_numbers_and_back():
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[0, :2, :2], masks[2, 1:, 1:] = True, True
    numbers = numbered(masks)
    assert numbers.dtype == torch.int32
    assert numbers.tolist() == [[1, 1, 0, 0, 0], [1, 3, 3, 3, 3], [0, 3, 3, 3, 3], [0, 3, 3, 3, 3]]
    shown, again = told_apart(numbers)
    assert shown.tolist() == [1, 3]
    assert torch.equal(again[1], masks[2])
    assert torch.equal(again[0], masks[0] & ~masks[2])


def test_a_map_without_objects():
    assert numbered(torch.zeros(0, 3, 4, dtype=torch.bool)).tolist() == [[0] * 4] * 3
    shown, masks = told_apart(torch.zeros(3, 4, dtype=torch.int32))
    assert shown.shape == (0,)
    assert masks.shape == (0, 3, 4)


def test_boxes_are_tight_and_exclusive():
    masks = torch.zeros(3, 6, 9, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[1, 1:5, 0] = masks[1, 4, 8] = True
    boxes = mask_boxes(masks)
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [[3, 2, 4, 3], [0, 1, 9, 5], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)
