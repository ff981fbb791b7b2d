"""Runs of a method that is its own segmenter, and of a second one that learns from its masks."""

import json
import shutil

import pytest
from PIL import Image

from tests.pipeline.shapes import TRAIN, VAL, Screen, folder_shapes, recipe, results
from weakseg.data.images import read_mask
from weakseg.pipeline.predict import predict_files
from weakseg.pipeline.progress import Silent
from weakseg.pipeline.run import run

METHOD = {"name": "single_stage", "pretrain_epochs": 1, "width": 8, "rates": [1, 2], "dilations": [1, 2]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_shapes(tmp_path_factory.mktemp("shapes"))


def settings(data, folder, **more):
    made = recipe(data, folder, refine=[], segment=None, **more)
    made["localize"] |= {"method": METHOD, "scales": [1.0, 0.5]}
    made["localize"]["train"] |= {"epochs": 2, "batch": 4}
    made["evaluate"] = {"seeds": ["train"], "segmenter": ["train", "val"], "tagged": ["train"]}
    return made


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "single"
    run(settings(data, folder), until="evaluate")
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def measured(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_what_is_measured_and_with_which_help(finished):
    found = measured(finished)
    assert list(found) == ["seed@train", "mask@train", "seg@train", "seg@val"]
    flags = {name: result["flags"] for name, result in found.items()}
    assert [flags[name]["gt_tags"] for name in found] == [True, True, True, False]
    assert all(flag["multi_scale"] and not flag["crf"] for flag in flags.values())
    assert found["seg@val"]["images"] == VAL
    assert {result["supervision"] for result in found.values()} == {"tags"}


@pytest.mark.parametrize(("pretrain", "told"), [(1, False), (2, True), (5, True)])
def test_masks_that_are_never_learnt_are_told_of(data, tmp_path, pretrain, told):
    chosen, screen = settings(data, tmp_path), Screen()
    chosen["localize"]["method"] = {**METHOD, "pretrain_epochs": pretrain}
    run(chosen, until="localize", reporter=screen)
    warned = [line for line in screen.lines if "never learnt" in line]
    assert bool(warned) is told
    assert all("all 2 epochs" in line and "pretrain_epochs" in line for line in warned)


def test_a_crf_after_predictions_keeps_the_views(data, finished, copied):
    chosen, screen = settings(data, copied), Screen()
    chosen["localize"]["predict"] = {"crf": "A"}
    run(chosen, until="evaluate", reporter=screen)
    assert [line for line in screen.lines if "done before" in line] == [
        f"{stage}: done before" for stage in ("localizer", "maps", "masks")
    ]
    flags = measured(copied)["seg@val"]["flags"]
    assert (flags["crf"], flags["multi_scale"]) == (True, True)
    assert not measured(copied)["mask@train"]["flags"]["crf"]


def test_what_refiners_know_is_no_supervision_of_the_network(data, copied):
    chosen = settings(data, copied)
    chosen["data"]["saliency"] = "background-connectivity"
    chosen["refine"] = ["saliency_power"]
    run(chosen, until="evaluate")
    found = measured(copied)
    assert found["mask@train"]["supervision"] == "tags+saliency"
    assert {found[name]["supervision"] for name in ("seg@train", "seg@val")} == {"tags"}


def test_the_threshold_of_classes_concerns_predictions_alone(data, copied):
    chosen, screen = settings(data, copied), Screen()
    chosen["localize"]["method"] = {**METHOD, "keep_threshold": 1.0}
    run(chosen, until="evaluate", reporter=screen)
    done = [line for line in screen.lines if "done before" in line]
    assert done == [f"{stage}: done before" for stage in ("localizer", "maps", "masks")]
    assert not any(read_mask(path).any() for path in (copied / "predictions").glob("*.png") if is_val(path))


def is_val(path):
    return int(path.stem.removeprefix("s")) >= TRAIN


def test_new_images_need_no_tags(data, finished, tmp_path):
    image = next((data / "images").glob("*.png"))
    predict_files(finished, [str(image)], tmp_path / "masks", reporter=Silent())
    mask = read_mask(tmp_path / f"masks/{image.stem}.png")
    assert tuple(mask.shape) == Image.open(image).size[::-1]


def test_a_segmenter_learns_from_its_masks(data, finished, copied):
    chosen, screen = settings(data, copied), Screen()
    chosen["segment"] = recipe(data, copied)["segment"]
    run(chosen, until="evaluate", reporter=screen)
    assert [line for line in screen.lines if "done before" in line] == [
        f"{stage}: done before" for stage in ("localizer", "maps", "masks")
    ]
    before, after = results(finished), results(copied)
    assert all(before[name] == after[name] for name in before if name.startswith("masks/"))
    assert any(name.startswith("segmenter") for name in after)
    assert measured(copied)["seg@val"]["supervision"] == "tags"
