"""Crowds: regions of many objects that nobody has told apart, which are neither boxes nor background."""

import pytest
import torch

from tests.data.trees import box_tree, coco_content, coco_tree, put_json
from weakseg.data import geometry
from weakseg.data.coco import CocoDataset
from weakseg.data.folder import FolderDataset
from weakseg.data.geometry import Span
from weakseg.data.pseudo import WeaklyLabelled
from weakseg.data.sample import Sample, WeakLabel, collate

BOXES = frozenset({WeakLabel.BOXES})
CROWD = [[30, 0, 48, 40]]


def test_a_crowd_is_unsure(tmp_path):
    dataset = CocoDataset(coco_tree(tmp_path))
    assert dataset.sample("a").unsure.tolist() == CROWD
    assert dataset.sample("a").boxes.shape == (2, 4)
    assert dataset.sample("b").unsure is None
    assert CocoDataset(tmp_path, classes=["dog"]).sample("a").unsure is None  # cats are background then
    assert WeaklyLabelled(dataset, BOXES).sample("a").unsure.tolist() == CROWD
    assert WeaklyLabelled(dataset, frozenset({WeakLabel.TAGS})).sample("a").unsure is None


def test_a_folder_knows_crowds_and_its_fingerprint_sees_them(tmp_path):
    content = coco_content()
    put_json(box_tree(tmp_path) / "annotations.json", content)
    before = FolderDataset(tmp_path).fingerprint()
    assert FolderDataset(tmp_path).sample("a").unsure.tolist() == CROWD
    content["annotations"][3]["bbox"][0] = 20
    put_json(tmp_path / "annotations.json", content)
    assert FolderDataset(tmp_path).sample("a").unsure[0, 0] == 20
    assert FolderDataset(tmp_path).fingerprint() != before


def sample(unsure=None):
    return Sample(
        "a", torch.zeros(3, 20, 40), boxes=torch.zeros(0, 4), box_classes=torch.zeros(0).long(), unsure=unsure
    )


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (geometry.flip, [30, 2, 38, 12]),
        (lambda one: geometry.resize(one, 40, 40), [2, 4, 10, 24]),
        (lambda one: geometry.window(one, 5, 4, 10, 20), [0, 0, 6, 7]),
        (lambda one: geometry.place(one, (30, 50), Span(0, 10, 20), Span(0, 5, 40), torch.zeros(3)), [7, 12, 15, 22]),
    ],
    ids=["flip", "resize", "window", "place"],
)
def test_crowds_move_with_the_image(move, expected):
    assert move(sample(torch.tensor([[2.0, 2.0, 10.0, 12.0]]))).unsure.tolist() == [expected]
    assert move(sample()).unsure is None


def test_a_batch_has_crowds_only_where_there_are_some():
    assert collate([sample(), sample()], 2).unsure == ()
    batch = collate([sample(), sample(torch.ones(2, 4))], 2).to("cpu")
    assert [len(boxes) for boxes in batch.unsure] == [0, 2]
