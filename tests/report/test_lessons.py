"""The sheet of what a network teaches itself."""

import numpy as np
import pytest
from PIL import Image

from weakseg.data.classes import voc_palette
from weakseg.report import pictures
from weakseg.report.lessons import Lesson, lesson_sheet
from weakseg.report.overlays import overlay_mask, overlay_soft

CLASSES = ("background", "cat", "dog", "bus")
HEIGHT, WIDTH = 168, 224
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def lesson(tags=(1,), height=HEIGHT, width=WIDTH, grid=(21, 28)):
    mask = np.zeros((4, *grid), np.float32)
    mask[2, :, : grid[1] // 2] = 1.0
    labels = np.full((height, width), 255, np.uint8)
    labels[: height // 2] = 2
    return Lesson("a/b", tags, np.full((height, width, 3), 128, np.uint8), {"mask": mask, "labels": labels})


def test_the_surer_of_a_class_the_more_of_its_colour():
    masks = np.zeros((4, HEIGHT, WIDTH), np.float32)
    masks[2] = np.linspace(0, 1, WIDTH)[None]
    found = overlay_soft(GREY, masks).astype(int)
    assert (found[:, 0] == 128).all()
    distance = abs(found - voc_palette()[2].astype(int)).sum(-1)[0]
    assert (np.diff(distance) <= 0).all()
    assert distance[-1] < 0.25 * distance[0]


def test_two_classes_mix_and_background_has_no_colour():
    masks = np.full((4, 2, 2), 0.0, np.float32)
    masks[1:3] = 0.5
    expected = 0.2 * 128 + 0.4 * (voc_palette()[1].astype(float) + voc_palette()[2])
    assert overlay_soft(GREY[:2, :2], masks)[0, 0] == pytest.approx(expected, abs=1)
    masks[:] = 0
    masks[0] = 1
    assert (overlay_soft(GREY[:2, :2], masks) == 128).all()


def test_columns_are_the_photograph_and_the_steps(tmp_path):
    sheet = np.asarray(Image.open(lesson_sheet([lesson(), lesson()], tmp_path / "new/sheet.png", CLASSES)))
    step = pictures.CELL_WIDTH + pictures.GAP
    assert sheet.shape[1] == pictures.GAP + 3 * step
    top = pictures.GAP + 2 * pictures.LINE
    cells = [sheet[top : top + HEIGHT, left : left + WIDTH] for left in range(pictures.GAP, 3 * step, step)]
    assert (cells[0] == 128).all()
    assert (cells[1][:, 140:] == 128).all()
    assert (cells[1][:, 50] == overlay_soft(GREY[:1, :1], np.array([0, 0, 1, 0])[:, None, None])[0, 0]).all()
    assert np.array_equal(cells[2], overlay_mask(GREY, lesson().steps["labels"]))


def test_a_row_for_each_image_and_a_legend_of_their_classes(tmp_path):
    one = Image.open(lesson_sheet([lesson()], tmp_path / "one.png", CLASSES))
    more = Image.open(lesson_sheet([lesson(), lesson((0, 1)), lesson(())], tmp_path / "more.png", CLASSES))
    assert more.height - one.height == 2 * (pictures.LINE + pictures.CELL_HEIGHT + pictures.GAP)
    colours = {colour for _, colour in more.crop((0, more.height - pictures.LINE, *more.size)).getcolors(1 << 20)}
    present = [tuple(voc_palette()[value].tolist()) in colours for value in (1, 2, 3)]
    assert present == [True, True, False]


def test_any_shape_and_no_tags(tmp_path):
    path = lesson_sheet([lesson((), 7, 300, (2, 75))], tmp_path / "sheet.png", CLASSES)
    assert path.read_bytes() == lesson_sheet([lesson((), 7, 300, (2, 75))], tmp_path / "b.png", CLASSES).read_bytes()
