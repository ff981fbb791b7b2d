"""Pseudo-masks of images with a crowd, which refiners for boxes would take for background."""

import pytest
import torch

from tests.data.trees import coco_tree
from tests.pipeline.test_boxes import bana, plain
from weakseg.data.coco import CocoDataset
from weakseg.data.images import read_mask
from weakseg.pipeline.run import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("refine", [["boxes"], ["grabcut"], ["boxes", "box_crf"]], ids="-".join)
def test_masks_are_unsure_in_a_crowd_where_no_box_is(tmp_path, refine):
    root, folder = coco_tree(tmp_path / "data"), tmp_path / "run"
    data = {"root": str(root), "val": None, "allow_untagged": True}
    run(plain(root, folder, data=data, refine=refine), until="refine")
    mask = read_mask(folder / "masks/a.png")
    crowd, boxes = torch.zeros(40, 48, dtype=torch.bool), torch.zeros(40, 48, dtype=torch.bool)
    crowd[:, 30:] = True
    boxes[4:34, 4:34] = True
    assert (mask[crowd & ~boxes] == 255).all()
    assert (mask[~crowd & ~boxes] == 0).all()
    assert (mask[boxes] != 255).all()
    assert (read_mask(folder / "masks/b.png") != 255).all()
    assert CocoDataset(root).boxes("a")[0].name == "cat"


@pytest.mark.parametrize("chain", [{"refine": ["crf"], "second": []}, {}], ids=["no refiner for boxes", "two masks"])
def test_masks_of_a_method_for_boxes_are_unsure_in_a_crowd(tmp_path, chain):
    root, folder = coco_tree(tmp_path / "data"), tmp_path / "run"
    data = {"root": str(root), "val": None, "allow_untagged": True}
    settings = bana(root, folder, data=data, segment="none", **chain)
    settings["localize"]["train"] = {**settings["localize"]["train"], "batch": 2}
    run(settings, until="refine")
    for mask in (read_mask(path) for path in folder.glob("*/a.png")):
        assert (mask[:, 34:] == 255).all()
        assert (mask[4:34, 4:34] != 255).all()
    assert len(list(folder.glob("*/a.png"))) == (1 if chain else 2)
