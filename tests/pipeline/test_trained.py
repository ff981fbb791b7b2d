"""Runs whose localiser another run has trained, on the same classes and on others."""

import json
import shutil

import pytest
import torch
from PIL import Image

from tests.data.trees import put_boxes, put_text, refusal
from tests.pipeline.shapes import CLASSES, HEIGHT, TRAIN, VAL, Screen, folder_shapes, recipe, results, scene, voc_shapes
from tests.pipeline.test_boxes import bana, box_around
from weakseg.data.images import write_mask
from weakseg.data.maps import LocalizationMaps
from weakseg.networks.weights import read_about, read_weights
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.plan import plan
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import run
from weakseg.pipeline.trained import trained_localizer

pytestmark = pytest.mark.slow
OTHER = ("square", "bar", "round")
"""Of the other data: a class that is new, one under another name, and another order."""
PLACES = (1, None, 0)
BAR = (HEIGHT - 6, HEIGHT - 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Discs and squares with a tight box around each."""
    root = voc_shapes(tmp_path_factory.mktemp("known"))
    for number in range(TRAIN + VAL):
        _, mask, tags = scene(number)
        put_boxes(root / f"Annotations/s{number:02}.xml", *(box_around(mask, name) for name in tags))
    return root


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same with a green bar at the bottom of every image, which is an object, too."""
    root = voc_shapes(tmp_path_factory.mktemp("other"))
    put_text(root / "classes.txt", "\n".join(OTHER))
    for number in range(TRAIN + VAL):
        image, shown, tags = scene(number)
        mask = torch.zeros_like(shown)
        mask[shown == 1], mask[shown == 2] = OTHER.index("round") + 1, OTHER.index("square") + 1
        image[slice(*BAR), 4:40], mask[slice(*BAR), 4:40] = (20, 200, 40), OTHER.index("bar") + 1
        Image.fromarray(image).save(root / f"JPEGImages/s{number:02}.jpg", quality=95)
        write_mask(root / f"SegmentationClass/s{number:02}.png", mask)
        write_mask(root / f"SegmentationObject/s{number:02}.png", mask)
        boxes = [({"disc": "round"}.get(name, name), *box_around(shown, name)[1:]) for name in tags]
        put_boxes(root / f"Annotations/s{number:02}.xml", *boxes, ("bar", 5, BAR[0] + 1, 40, BAR[1]))
    return root


@pytest.fixture(scope="module")
def learnt(root, tmp_path_factory):
    """BANA that knows discs and squares."""
    folder = tmp_path_factory.mktemp("runs") / "learnt"
    run(bana(root, folder, segment="none"), until="refine")
    return folder


def taking(root, folder, learnt, names=None, **more):
    """BANA with the localiser of another run."""
    settings = bana(root, folder, segment="none", **more)
    settings["localize"] = {**settings["localize"], "trained": {"run": str(learnt), "names": names or {}}}
    return settings


RENAMED = {"disc": "round"}
AP = {"seeds": [], "metrics": ["ap"]}


@pytest.fixture(scope="module")
def taken(other, learnt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "taken"
    run(taking(other, folder, learnt, RENAMED, evaluate=AP))
    return folder


def test_the_same_data_get_the_same_masks(root, learnt, tmp_path):
    run(taking(root, tmp_path / "again", learnt), until="refine")
    ours, theirs = (
        {n: c for n, c in results(f).items() if n[-4:] in (".npz", ".png")} for f in (tmp_path / "again", learnt)
    )
    assert len(ours) == 3 * TRAIN
    assert ours == theirs


def test_nothing_is_trained(taken):
    assert not (taken / "checkpoints").exists()
    assert json.loads((taken / "timings.json").read_text())["localizer"]["images"] == 0


def test_classes_are_found_by_their_names(taken, learnt):
    ours, theirs = (read_weights(folder / "localizer.safetensors") for folder in (taken, learnt))
    rows = theirs["head.weight"]
    assert torch.equal(ours["head.weight"], torch.stack([rows[0], rows[2], torch.zeros_like(rows[0]), rows[1]]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name != "head.weight")
    assert read_about(taken / "localizer.safetensors")["classes"].split("\n") == list(OTHER)


def test_a_new_class_is_what_is_not_background(taken, other):
    assert load_recipe(taken / "recipe.yaml").localize.method.options["seen"] == [0, 2]
    for number in range(TRAIN):
        maps = LocalizationMaps.load(taken / f"maps/s{number:02}.npz")
        bar = maps.scores[maps.classes.tolist().index(OTHER.index("bar"))]
        rows = round(BAR[0] * bar.shape[0] / HEIGHT)
        assert bar[rows:].max() > 0
        assert not bar[: rows - 1].any()


def test_known_and_new_objects_are_told_apart_in_the_results(taken):
    found = json.loads((taken / "metrics.json").read_text())["instances@train"]
    assert found["ap"] == pytest.approx((2 * found["ap_seen"] + found["ap_unseen"]) / 3)


def test_a_run_goes_on_from_its_own_recipe(taken):
    screen = Screen()
    run(load_recipe(taken / "recipe.yaml"), reporter=screen)
    assert "localizer: done before" in screen.lines


def test_another_training_there_makes_other_maps_here(other, learnt, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(learnt, source)
    stages = plan(Experiment(load_recipe(taking(other, tmp_path / "run", source, RENAMED)), Screen()), "refine")
    weights = source / "localizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    after = plan(Experiment(load_recipe(taking(other, tmp_path / "run", source, RENAMED)), Screen()), "refine")
    assert all(one.inputs != two.inputs for one, two in zip(stages, after, strict=True))


def test_a_method_that_knows_all_classes_alike(tmp_path):
    data, elsewhere = folder_shapes(tmp_path / "data"), voc_shapes(tmp_path / "elsewhere")
    settings = {**recipe(data, tmp_path / "cam"), "segment": "none"}
    run(settings, until="localize")
    settings = {**recipe(elsewhere, tmp_path / "taken"), "segment": "none"}
    settings["localize"] = {**settings["localize"], "trained": {"run": str(tmp_path / "cam")}}
    run(settings, until="localize")
    maps = {path.name for path in (tmp_path / "taken/maps").iterdir()}
    assert maps == {f"s{number:02}.npz" for number in range(TRAIN + VAL)}


def refused(learnt, *wanted, names=None, here=OTHER, options=None, method="bana", run_folder=None, **localize):
    settings = {"method": method, "trained": {"run": str(learnt), "names": names or {}}, **localize}
    checked = load_recipe({"name": "x", "data": {"root": "x"}, "localize": settings}).localize
    options = {"seen": None} if options is None else options
    refusal(lambda: trained_localizer(checked, options, here, run_folder or learnt.parent / "other"), *wanted)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({"names": {"disk": "round"}}, ("localize.trained.names", "no class 'disk' there", "'disc'")),
        ({"names": {"disc": "rounds"}}, ("localize.trained.names", "no class 'rounds' here", "'round'")),
        ({"names": {"disc": "square"}}, ("localize.trained.names", "'disc' and 'square' would both be 'square'")),
        ({"here": ("cat",)}, ("localizer.safetensors", "none of the classes", "localize.trained.names")),
        ({"options": {"seen": (1,)}}, ("localize.method.seen", "Leave it out")),
        ({"method": "cam", "options": {}}, ("localizer.safetensors", "method 'bana', not 'cam'")),
        ({"options": {}}, ("localizer.safetensors", "not learnt 'bar'", "data.classes")),
        ({"options": {}, "here": CLASSES[::-1]}, ("localizer.safetensors", "another order")),
    ],
)
def test_what_does_not_go_together_is_refused(learnt, how, wanted):
    refused(learnt, *wanted, **how)


def test_runs_without_a_localiser_are_refused(learnt, tmp_path):
    refused(tmp_path, str(tmp_path), "holds no trained localizer")
    shutil.copy(learnt / "recipe.yaml", tmp_path)
    refused(tmp_path, str(tmp_path), "holds no trained localizer")
    refused(learnt, "localize.trained.run", "this run itself", run_folder=learnt)


def test_another_network_is_refused_before_the_run_folder_is_there(root, learnt, tmp_path):
    settings = taking(root, tmp_path / "run", learnt)
    settings["localize"]["backbone"] = {**settings["localize"]["backbone"], "name": "resnet10t"}
    refusal(lambda: run(settings, until="refine"), "another network", "localize.backbone", "recipe.yaml")
    assert not (tmp_path / "run").exists()


def test_pictures_of_no_training_are_refused(root, learnt, tmp_path):
    settings = taking(root, tmp_path / "run", learnt)
    settings["localize"]["pictures"] = 2
    refusal(lambda: run(settings), "localize.pictures", "trained already")


def test_classes_that_were_not_learnt_there_are_none(learnt, tmp_path):
    """Two steps from the first: what the run in between has not learnt is not taken for known."""
    shutil.copytree(learnt, tmp_path / "between")
    text = (learnt / "recipe.yaml").read_text().replace("seen: null", "seen: [1]")
    (tmp_path / "between/recipe.yaml").write_text(text)
    settings = load_recipe({**taking("x", tmp_path, tmp_path / "between")}).localize
    found = trained_localizer(settings, {"seen": None}, OTHER, tmp_path)
    assert found.places == (1, None, None)
    assert found.learnt == (0,)
