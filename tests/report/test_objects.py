"""How the page shows objects told apart."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.report.test_report import NASTY, Reader, _spaced, a_panel, minimal
from weakseg.report import Panel, pictures, render, write_report
from weakseg.report.overlays import Outlined, object_colour, overlay_objects

SIZE = (60, 80)


def thing(top, left, height, width, name="cat", score=None, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return Outlined(name, mask, score)


def panel(score=0.25, name="a", **objects):
    image = np.full((*SIZE, 3), 60, dtype=np.uint8)
    return Panel(name, score, ("cat",), image, objects=objects, metric="overlap")


def pairs():
    """One image with a score, one without true objects."""
    cats = [thing(20, 10, 20, 20, NASTY, 0.93), thing(30, 50, 9, 9)]
    return [panel(detections=cats, true_objects=cats[:1]), panel(0.125, "b" * 90, detections=[])]


def test_objects_have_colours_of_their_own():
    image = np.full((*SIZE, 3), 60, dtype=np.uint8)
    drawn = overlay_objects(image, [thing(30, 5, 20, 20), thing(30, 40, 20, 20)]).astype(int)
    for index, column in ((0, 15), (1, 50)):
        expected = (np.array(object_colour(index)) + 60) / 2
        assert drawn[40, column] == pytest.approx(expected, abs=1)
        assert (drawn[49, column] == object_colour(index)).all()  # the outline, where the box is, too
    assert (drawn[55, 70] == 60).all()


def test_a_colour_may_be_given():
    image = np.full((*SIZE, 3), 60, dtype=np.uint8)
    drawn = overlay_objects(image, [replace(thing(30, 5, 20, 20), colour=7)])
    assert (drawn[49, 15] == object_colour(7)).all()


def test_outline_and_box_of_what_is_not_a_rectangle():
    image = np.full((*SIZE, 3), 60, dtype=np.uint8)
    mask = np.add.outer(np.arange(60), np.arange(80)) < 55
    mask &= np.add.outer(np.arange(60), -np.arange(80)) > 5
    drawn = overlay_objects(image, [Outlined("cat", mask)])
    rows, columns = mask.nonzero()
    coloured = (drawn == object_colour(0)).all(-1)
    box = np.zeros(SIZE, dtype=bool)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    inner = box.copy()
    inner[rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()] = False
    label = np.zeros(SIZE, dtype=bool)
    label[: rows.min() + 14] = True
    for y, x in np.argwhere(mask & ~label & ~inner):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        at_edge = any(0 <= j < 60 and 0 <= i < 80 and not mask[j, i] for j, i in around)
        assert coloured[y, x] == at_edge
    assert coloured[rows.max(), columns.min() : columns.max() + 1].all()


def test_the_smaller_object_is_in_front():
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    small, large = thing(35, 30, 9, 9), thing(20, 5, 38, 60)
    for objects, index in (([small, large], 0), ([large, small], 1)):
        inside = overlay_objects(image, objects)[39, 34].astype(int)
        assert inside == pytest.approx(np.array(object_colour(index)) / 2, abs=1)


def test_labels_stay_in_the_picture_and_name_the_class():
    image = np.full((*SIZE, 3), 60, dtype=np.uint8)
    corner = thing(0, 70, 10, 10, "n" * 300)
    assert overlay_objects(image, [corner]).shape == image.shape
    assert Outlined("cat", corner.mask, 0.926).label == "cat 0.93"
    assert Outlined("cat", corner.mask).label == "cat"
    cat, dog = (overlay_objects(image, [thing(30, 20, 20, 20, name)]) for name in ("cat", "dog"))
    changed = (cat != dog).any(-1)
    assert changed[:30].any()  # above the box
    assert not changed[30:].any()


@pytest.mark.parametrize("count", [0, 1, 40])
def test_any_number_of_objects(count):
    image = np.full((*SIZE, 3), 60, dtype=np.uint8)
    objects = [thing(index, index, 5, 5) for index in range(count)] + [thing(0, 0, 0, 0)]
    assert overlay_objects(image, objects).shape == image.shape
    assert len({object_colour(index) for index in range(count)}) == count


def test_masks_of_another_size_are_brought_to_that_of_the_picture():
    image = np.full((30, 40, 3), 60, dtype=np.uint8)
    drawn = overlay_objects(image, [thing(30, 40, 30, 40)])  # the lower right quarter
    assert (drawn[20, 30] != 60).any()
    assert (drawn[20, 10] == 60).all()


def test_the_page_shows_objects_and_says_what_they_are_ranked_by(tmp_path):
    first, second = pairs()
    data = replace(minimal(), stages=[("detect@val", [first], [second])])
    read, text = Reader(render(data)), _spaced(data)
    assert "overlap 25.0 %" in text
    assert "the AP of the set is another number" in text
    assert text.count("objects found") == text.count("true objects") == 2
    assert "none" in text  # no true objects of the second
    assert NASTY not in render(data)
    assert len(read.images) == 5
    assert (write_report(tmp_path, data).parent / "detect@val.png").is_file()


def test_objects_without_truth_are_the_first():
    text = _spaced(replace(minimal(), stages=[("instances@train", [panel(float("nan"), instances=[])], [])]))
    assert "nothing was measured to rank them by" in text
    assert "First on instances@train" in text
    assert "pseudo objects" in text
    assert "Best" not in text


def test_masks_are_still_ranked_by_their_iou():
    text = _spaced(replace(minimal(), stages=[("mask@train", [a_panel()], [])]))
    assert "mIoU of the one image" in text
    assert "Best on mask@train" in text


def test_contact_sheet_of_objects(tmp_path):
    sheet = np.asarray(Image.open(pictures.contact_sheet(pairs(), tmp_path / "sheet.png", ("background", "cat"))))
    assert sheet.shape[1] == pictures.GAP + 3 * (pictures.CELL_WIDTH + pictures.GAP)
    cell = sheet[pictures.GAP + 2 * pictures.LINE :][: pictures.CELL_HEIGHT]
    found = cell[:, pictures.GAP + pictures.CELL_WIDTH + pictures.GAP :][:, : pictures.CELL_WIDTH]
    assert (found == object_colour(0)).all(-1).sum() > 50
    assert (found == object_colour(1)).all(-1).sum() > 50
