"""Pictures after every epoch: where they are, and that a training does not notice them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.trees import refusal
from tests.pipeline.shapes import TRAIN, Screen, folder_shapes, recipe, snapshot
from tests.pipeline.test_training import Stopped, StopsAfter
from weakseg.pipeline.pictures import last_picture
from weakseg.pipeline.run import run
from weakseg.report import pictures

EPOCHS, BATCH = 2, 4
METHOD = {"name": "single_stage", "pretrain_epochs": 1, "width": 8, "rates": [1, 2], "dilations": [1, 2]}


class StopsTraining(StopsAfter):
    """Breaks off the training after so many images."""

    def advance(self, images=1, note=""):
        if self.tracked[-1][0] == "train localizer":
            super().advance(images, note)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_shapes(tmp_path_factory.mktemp("shapes"))


def settings(data, folder, **localize):
    made = recipe(data, folder, refine=[], segment=None)
    made["localize"] |= {"method": METHOD, "scales": [1.0], **localize}
    made["localize"]["train"] |= {"epochs": EPOCHS, "batch": BATCH}
    return made


def trained(chosen, reporter=None):
    run(chosen, until="localize", reporter=reporter)
    return snapshot(Path(chosen["run"]["folder"]))


def sheets(files):
    return {name: content for name, content in files.items() if name.startswith("pictures/")}


def results(files):
    """What was learnt, and what it says."""
    return {name: content for name, content in files.items() if name.endswith((".safetensors", ".csv", ".npz"))}


def same_weights(one, other):
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_options_of_predictions_repeat_no_training(data, tmp_path):
    chosen, screen = settings(data, tmp_path / "run"), Screen()
    chosen["evaluate"] = {"seeds": [], "segmenter": ["val"]}
    run(chosen, until="evaluate")
    before = snapshot(tmp_path / "run")
    chosen["localize"] |= {"method": {**METHOD, "background_power": 0.2}}
    run(chosen, until="evaluate", reporter=screen)
    after = snapshot(tmp_path / "run")
    assert screen.lines[0] == "localizer: done before"
    assert not any(line.startswith("predictions: done") for line in screen.lines)
    assert {name for name in before if name.startswith("predictions/") and before[name] != after[name]}


@pytest.fixture(scope="module")
def shown(data, tmp_path_factory):
    """A run with pictures, and its files."""
    folder = tmp_path_factory.mktemp("shown")
    return folder, trained(settings(data, folder, pictures=3))


def test_a_sheet_after_every_epoch(shown):
    folder, files = shown
    assert sorted(sheets(files)) == [f"pictures/epoch-{epoch:03}.png" for epoch in range(1, EPOCHS + 1)]
    assert len(set(sheets(files).values())) == EPOCHS
    assert last_picture(folder) == folder / "pictures/epoch-002.png"
    with Image.open(last_picture(folder)) as sheet:
        assert sheet.width == pictures.GAP + 4 * (pictures.CELL_WIDTH + pictures.GAP)
        assert 3 <= (sheet.height - pictures.LINE) / (pictures.LINE + pictures.CELL_HEIGHT + pictures.GAP) < 4


def test_the_training_does_not_notice(shown, data, tmp_path):
    folder, files = shown
    without = trained(settings(data, tmp_path))
    assert not sheets(without)
    assert last_picture(tmp_path) is None
    assert len(results(without)) > TRAIN
    assert results(files) == results(without)
    assert same_weights(folder / "checkpoints/localizer.ckpt", tmp_path / "checkpoints/localizer.ckpt")


def test_neither_wanting_nor_leaving_them_trains_again(data, tmp_path):
    trained(settings(data, tmp_path))
    screen = Screen()
    assert not sheets(trained(settings(data, tmp_path, pictures=2), screen))
    assert "localizer: done before" in screen.lines


def test_another_training_removes_them(shown, data, tmp_path):
    chosen = settings(data, tmp_path, pictures=1)
    assert len(sheets(trained(chosen))) == EPOCHS
    assert not sheets(trained({**settings(data, tmp_path), "seed": 4}))


def test_a_stopped_training_ends_with_the_same_sheets(shown, data, tmp_path):
    chosen = settings(data, tmp_path, pictures=3)
    with pytest.raises(Stopped):
        trained(chosen, StopsTraining(TRAIN + 1))
    first = sheets(snapshot(tmp_path))
    assert list(first) == ["pictures/epoch-001.png"]
    assert sheets(trained(chosen)) == sheets(shown[1])


def test_more_pictures_than_images_are_all_of_them(data, tmp_path):
    chosen = settings(data, tmp_path, pictures=99)
    chosen["localize"]["train"]["epochs"] = 1
    (sheet,) = sheets(trained(chosen))
    with Image.open(tmp_path / sheet) as found:
        assert found.height > TRAIN * (pictures.LINE + pictures.CELL_HEIGHT + pictures.GAP)


def test_a_method_that_has_nothing_to_show_says_so_before_anything_happens(data, tmp_path):
    folder = tmp_path / "run"
    chosen = {**settings(data, folder, method="cam", pictures=2), "refine": ["threshold"]}
    refusal(lambda: run(chosen), "localize.pictures", "'cam'", "'single_stage'")
    assert not folder.exists()
    refusal(lambda: run(settings(data, folder, pictures=-1)), "localize.pictures")
