"""Objects found, in files."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks

from tests.data.trees import put_text, refusal
from weakseg.data.detections import Detections, from_rle, to_rle
from weakseg.data.instances import Instances, read_numbers

NAMES = ("cat", "dog", "cow")
SIZE = (6, 9)


def masks(count=3, size=SIZE, seed=0):
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed)) < 0.4


def detections():
    return Detections(torch.tensor([2, 0, 2]), torch.tensor([0.9, 0.5, 0.25]), masks())


def test_what_is_written_is_read(tmp_path):
    given = detections()
    given.save(tmp_path / "a.json", NAMES, "cats/a")
    read = Detections.load(tmp_path / "a.json", NAMES, SIZE)
    assert torch.equal(read.classes, given.classes)
    assert torch.equal(read.scores, given.scores)
    assert torch.equal(read.masks, given.masks)
    assert len(read) == 3


def test_the_file_is_one_of_results(tmp_path):
    detections().save(tmp_path / "a.json", NAMES, "a")
    first = json.loads((tmp_path / "a.json").read_text())[0]
    assert {name: first[name] for name in ("image_id", "class", "score")} == {
        "image_id": "a",
        "class": "cow",
        "score": 0.9,
    }
    assert first["segmentation"]["size"] == list(SIZE)
    assert np.array_equal(coco_masks.decode(first["segmentation"]), masks()[0].numpy())


def test_an_image_without_objects(tmp_path):
    Detections(torch.zeros(0, dtype=torch.int64), torch.zeros(0), masks(0)).save(tmp_path / "a.json", NAMES, "a")
    read = Detections.load(tmp_path / "a.json", NAMES, SIZE)
    assert read.masks.shape == (0, *SIZE)
    assert read.scores.shape == (0,)


@pytest.mark.parametrize("given", [masks(4), masks(2, (1, 1)), masks(2, (7, 300), 1), ~masks() | True, masks() & False])
def test_compressed_masks_come_back(given):
    assert torch.equal(from_rle(to_rle(given), tuple(given.shape[1:])), given)


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[{}]",
        '[{"class": "sow", "score": 1, "segmentation": {"size": [6, 9], "counts": "f1"}}]',
        '[{"class": "cow", "score": 1, "segmentation": {"size": [6, 8], "counts": "`1"}}]',
        '[{"class": "cow", "score": 1, "segmentation": {"size": [6, 9], "counts": "0PPPP1"}}]',
        '[{"class": "cow", "score": 1, "segmentation": null}]',
    ],
)
def test_a_damaged_file(tmp_path, content):
    path = put_text(tmp_path / "a.json", content)
    refusal(lambda: Detections.load(path, NAMES, SIZE), "a.json", "run again")


def test_a_missing_file(tmp_path):
    refusal(lambda: Detections.load(tmp_path / "a.json", NAMES, SIZE), "a.json")


def test_objects_in_boxes():
    mask = torch.tensor([[0, 1, 1, 2], [0, 1, 255, 2]], dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, 3.0, 2.0], [0.0, 0.0, 1.0, 2.0], [2.0, 0.0, 4.0, 2.0]])
    found = Instances.in_boxes(mask, boxes, torch.tensor([0, 0, 1]))
    assert found.classes.tolist() == [0, 1]  # the second box is empty
    assert found.scores.tolist() == [1, 1]
    assert found.masks.int().tolist() == [[[0, 1, 1, 0], [0, 1, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 1]]]
    assert found.unsure.int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    none = Instances.in_boxes(mask, boxes[:0], torch.zeros(0, dtype=torch.int64))
    assert none.masks.shape == (0, 2, 4)
    whole = Instances.in_boxes(mask, boxes[:1], torch.tensor([2]), any_class=True)
    assert whole.masks.sum() == 3


def test_a_map_of_numbers_is_read(tmp_path):
    kinds = torch.tensor([1, 0])
    masks = torch.zeros(2, 3, 4, dtype=torch.bool)
    masks[0, :, :2], masks[1, 1:, 2:] = True, True
    Instances(kinds, torch.ones(2), masks).save(tmp_path / "a.json", NAMES)
    numbers, classes = read_numbers(tmp_path / "a.json", NAMES)
    assert numbers.dtype == torch.int32
    assert numbers.tolist() == [[1, 1, 0, 0], [1, 1, 2, 2], [1, 1, 2, 2]]
    assert torch.equal(classes, kinds)
    Instances(kinds, torch.tensor([0.0, 0.1]), masks).save(tmp_path / "b.json", NAMES)
    assert read_numbers(tmp_path / "b.json", NAMES)[0].tolist() == [[0, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]]
    unsure = torch.zeros(3, 4, dtype=torch.bool)
    unsure[0, 1:3] = True
    Instances(kinds, torch.ones(2), masks & ~unsure, unsure).save(tmp_path / "c.json", NAMES)
    assert read_numbers(tmp_path / "c.json", NAMES)[0].tolist() == [[1, -1, -1, 0], [1, 1, 2, 2], [1, 1, 2, 2]]
    read = Instances.load(tmp_path / "c.json", NAMES)
    assert torch.equal(read.unsure, unsure)
    assert torch.equal(read.masks, masks & ~unsure)
    put_text(tmp_path / "a.json", json.dumps(json.loads((tmp_path / "a.json").read_text())[:1]))
    refusal(lambda: read_numbers(tmp_path / "a.json", NAMES), "a.json", "run again")
