"""A run whose pseudo-masks show nothing says so."""

import pytest
import torch

from tests.data.trees import put_text
from tests.pipeline.shapes import CLASSES, TRAIN, Screen, boxed_shapes, recipe
from tests.pipeline.test_boxes import plain
from weakseg.data.catalog import open_dataset
from weakseg.data.images import write_mask
from weakseg.pipeline.empty_masks import empty_masks, mask_warnings
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import rewrite_report, run


@pytest.fixture
def root(tmp_path):
    return boxed_shapes(tmp_path / "data")


def written(folder, ids, shown, value=1):
    """Masks of background and 255, the first ``shown`` of them with a pixel of a class."""
    for number, image_id in enumerate(ids):
        mask = torch.zeros(48, 64, dtype=torch.uint8)
        mask[0] = 255
        mask[5, 5] = value if number < shown else 0
        write_mask(folder / "masks" / f"{image_id}.png", mask)


@pytest.mark.parametrize(("images", "shown", "told"), [(12, 0, True), (12, 1, False), (20, 1, True), (20, 2, False)])
def test_from_nineteen_of_twenty_on(tmp_path, images, shown, told):
    names = [f"s{number:02}" for number in range(images)]
    root = tmp_path / "data"
    for name in names:
        write_mask(root / "images" / f"{name}.png", torch.zeros(48, 64, dtype=torch.uint8))
    put_text(root / "tags.csv", "image,tags\n" + "".join(f"{name},disc\n" for name in names) + "none,\n")
    put_text(root / "classes.txt", "\n".join(CLASSES))
    dataset = open_dataset("auto", root, "train")
    written(tmp_path, (*names, "none"), shown)
    assert empty_masks(dataset, lambda name: tmp_path / f"masks/{name}.png") == (images - shown, images)
    found = mask_warnings(load_recipe(recipe(root, tmp_path)), dataset, tmp_path)
    assert len(found) == told
    assert all(f"{images - shown} of {images} pseudo-masks" in line for line in found)
    assert all("localize.train.lr" in line for line in found)


def test_without_masks_nothing_is_said(root, tmp_path):
    dataset = open_dataset("auto", root, "train")
    assert mask_warnings(load_recipe(recipe(root, tmp_path)), dataset, tmp_path) == []
    written(tmp_path, dataset.ids[:3], 0)
    (line,) = mask_warnings(load_recipe(plain(root, tmp_path)), dataset, tmp_path)
    assert "3 of 3" in line
    assert "lr" not in line  # nothing was trained


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.5, 1.0])
def test_the_run_and_its_report_say_so(root, tmp_path, confidence):
    screen, folder = Screen(), tmp_path / "run"
    run(plain(root, folder, refine=[{"name": "boxes", "confidence": confidence}]), reporter=screen)
    told = [line for line in screen.lines if "background alone" in line]
    assert bool(set(screen.lines[-1:]) & set(told)) == bool(told) == (confidence == 0.5)
    assert ("background alone" in (folder / "report/index.html").read_text()) == bool(told)
    assert ("background alone" in rewrite_report(folder).read_text()) == bool(told)
    if told:
        assert set(told) == {told[0]}
        assert f"{TRAIN} of {TRAIN}" in told[0]


@pytest.mark.slow
def test_boxes_that_cover_no_pixel_are_told_of_once(root, tmp_path):
    file = root / "Annotations/s00.xml"
    text = file.read_text()
    tiny = "<object><name>disc</name><bndbox><xmin>4.6</xmin><ymin>3</ymin><xmax>4.4</xmax><ymax>9</ymax></bndbox>"
    file.write_text(text.replace("</annotation>", f"{tiny}</object></annotation>"))
    for _ in range(2):  # the second time the audit is remembered
        screen = Screen()
        run(plain(root, tmp_path / "run"), reporter=screen, until="refine")
        assert len([line for line in screen.lines if "that cover no pixel are left out: 1." in line]) == 1
        (tmp_path / "run/masks").rename(tmp_path / "run/old")
        (tmp_path / "run/old").rename(tmp_path / "old") if not (tmp_path / "old").exists() else None
