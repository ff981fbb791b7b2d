"""Saliency on its way to the refiner that asks for it, and a network that brings a loss of its own."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import refusal
from tests.pipeline.shapes import HEIGHT, TRAIN, WIDTH, Screen, folder_shapes, recipe
from weakseg.data.images import read_mask, read_saliency
from weakseg.data.maps import LocalizationMaps
from weakseg.pipeline import build
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import run
from weakseg.refine.masks import at_image_size, pseudo_mask
from weakseg.refine.saliency import SaliencyPowerBackground

REFINE = [{"name": "saliency_power", "alpha": 3}]
NETWORK = {"name": "global_stream", "width": 16, "pooling": "max"}


def with_saliency(root, skip="s02"):
    """A map for every image but one: salient in the middle."""
    for number in range(TRAIN + 4):
        name = "more/s00" if number == 0 else f"s{number:02}"
        if name == skip:
            continue
        levels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        levels[12:36, 8:56] = 130 + 8 * number
        path = root / "saliency" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(path)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return with_saliency(folder_shapes(tmp_path_factory.mktemp("shapes")))


def settings(root, folder, **more):
    made = recipe(root, folder, refine=REFINE, **more)
    made["localize"]["train"]["epochs"] = 1
    made["localize"]["method"] = "cam"
    made["localize"]["backbone"]["batchnorm"] = "statistics"  # after one epoch those of the batches say little yet
    return made


def by_hand(root, folder, name, known):
    """The pseudo-mask of an image, with or without its saliency."""
    maps = at_image_size(LocalizationMaps.load(folder / f"maps/{name}.npz"))
    saliency = read_saliency(root / f"saliency/{name}.png")[0] if known else None
    maps = LocalizationMaps(maps.classes, maps.scores, maps.size, saliency=saliency)
    return pseudo_mask(SaliencyPowerBackground(alpha=3).refine(torch.zeros(3, *maps.size, dtype=torch.uint8), maps))


def test_the_refiner_sees_the_saliency_of_each_image(root, tmp_path):
    run(settings(root, tmp_path, segment=None))
    names = ("more/s00", "s04", "s05")
    for name in names:
        assert torch.equal(read_mask(tmp_path / f"masks/{name}.png"), by_hand(root, tmp_path, name, known=True))
    assert any(not torch.equal(*(by_hand(root, tmp_path, name, known) for known in (True, False))) for name in names)
    assert torch.equal(read_mask(tmp_path / "masks/s02.png"), by_hand(root, tmp_path, "s02", known=False))
    measured = json.loads((tmp_path / "metrics.json").read_text())
    assert measured["seed@train"]["supervision"] == "tags"
    assert measured["mask@train"]["supervision"] == "tags+saliency"


def test_data_without_saliency_are_refused(tmp_path):
    root = folder_shapes(tmp_path / "shapes")
    started = load_recipe(settings(root, tmp_path / "run"))
    words = ("no image of train has saliency map", "a refiner needs", "saliency/ID.png", "background-connectivity")
    refusal(lambda: Experiment(started, Screen()), *words)


def test_data_whose_maps_are_all_of_no_use_are_refused(root, tmp_path):
    copy = tmp_path / "shapes"
    shutil.copytree(root, copy)
    for path in (copy / "saliency").rglob("*.png"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint8)).save(path)
    made = settings(copy, tmp_path / "run", segment=None)
    refusal(lambda: run(made), "no image of train has a usable saliency map", "a refiner needs")
    assert not (tmp_path / "run").exists()


def test_images_without_a_map_are_counted_in_a_warning(root, tmp_path):
    copy, screen = tmp_path / "shapes", Screen()
    shutil.copytree(root, copy)
    for path in (copy / "saliency").rglob("*.png"):
        if path.stem != "s03":
            path.unlink()
    Experiment(load_recipe(settings(copy, tmp_path / "run", segment=None)), screen)
    (line,) = [line for line in screen.lines if "saliency map" in line]
    assert line.startswith("warning")
    assert f"{TRAIN - 1} of {TRAIN} images of train have no saliency map" in line


def test_a_map_that_is_of_no_use_counts_as_none(root, tmp_path):
    copy = tmp_path / "shapes"
    shutil.copytree(root, copy)
    Image.fromarray(np.full((10, 10), 255, dtype=np.uint8)).save(copy / "saliency/s05.png")
    run(settings(copy, tmp_path / "run", segment=None), until="refine")
    assert torch.equal(read_mask(tmp_path / "run/masks/s05.png"), by_hand(copy, tmp_path / "run", "s05", known=False))


@pytest.mark.slow
def test_a_network_of_ours_is_trained_and_used(root, tmp_path):
    made = settings(root, tmp_path)
    made["localize"]["method"] = {"name": "split_merge", "hidden": 16}
    made["segment"]["network"] = NETWORK
    made["segment"]["start"] = "localizer"
    made["segment"]["predict"] = {"scales": [1.0, 0.5], "merge": "mean", "batch": 3}
    found = run(made)
    lines = (tmp_path / "checkpoints/segmenter.csv").read_text().splitlines()
    assert lines[0] == "epoch,segmentation,global"
    assert found.metrics["seg@val"]["supervision"] == "tags+saliency"


def test_options_of_a_network_of_ours_are_checked(root, tmp_path):
    made = settings(root, tmp_path)
    made["segment"]["network"] = {**NETWORK, "poling": "max"}
    refusal(lambda: build.check_settings(load_recipe(made)), "'segment.network.poling'", "'pooling'")
