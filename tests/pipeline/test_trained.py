"""Runs whose localiser another run has trained, on the same classes and on others."""

import json
import shutil

import pytest
import torch
import yaml
from PIL import Image

from tests.data.trees import put_boxes, put_text, refusal
from tests.pipeline.shapes import (
    CLASSES,
    HEIGHT,
    TRAIN,
    VAL,
    Screen,
    box_around,
    boxed_shapes,
    folder_shapes,
    recipe,
    results,
    scene,
    voc_shapes,
)
from tests.pipeline.test_boxes import bana
from weakseg.data.images import read_mask, write_mask
from weakseg.data.maps import LocalizationMaps
from weakseg.networks.weights import checksum, read_about, read_weights
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.plan import plan
from weakseg.pipeline.predict import predict_files
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import run
from weakseg.pipeline.trained import trained_localizer

pytestmark = pytest.mark.slow
OTHER = ("square", "bar", "round")
"""Of the other data: a class that is new, one under another name, and another order."""
SINGLE = {"pretrain_epochs": 1, "width": 8, "rates": [1, 2], "dilations": [1, 2]}
BAR = (HEIGHT - 6, HEIGHT - 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Discs and squares with a tight box around each."""
    return boxed_shapes(tmp_path_factory.mktemp("known"))


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
    for number in range(TRAIN):
        maps = LocalizationMaps.load(taken / f"maps/s{number:02}.npz")
        bar = maps.scores[maps.classes.tolist().index(OTHER.index("bar"))]
        rows = round(BAR[0] * bar.shape[0] / HEIGHT)
        assert bar[rows:].max() > 0
        assert not bar[: rows - 1].any()


def test_what_was_learnt_stands_in_the_file(taken, learnt):
    assert read_about(taken / "localizer.safetensors")["learnt"].split("\n") == ["square", "round"]
    assert "learnt" not in read_about(learnt / "localizer.safetensors")


def test_numbers_say_where_the_weights_are_from(taken, learnt):
    found = json.loads((taken / "metrics.json").read_text())
    assert {result["weights"] for result in found.values()} == {"localizer of shapes"}
    noted = yaml.safe_load((taken / "recipe.yaml").read_text())["environment"]["localizer"]
    assert noted == checksum(learnt / "localizer.safetensors")


def test_a_run_says_what_its_localiser_has_not_learnt(other, root, learnt, tmp_path):
    screen = Screen()
    run(taking(other, tmp_path / "run", learnt, RENAMED), until="localize", reporter=screen)
    assert "localizer: has learnt 2 of 3 classes, not bar" in screen.lines
    run(taking(root, tmp_path / "all", learnt), until="localize", reporter=(screen := Screen()))
    assert not any("has learnt" in line for line in screen.lines)


def test_networks_that_start_from_it_say_so(root, learnt, tmp_path):
    settings = taking(root, tmp_path, learnt)
    settings |= {"segment": {**recipe(root, tmp_path)["segment"], "start": "localizer"}, "second": []}
    run(settings, until="evaluate")
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["seg@val"]["weights"] == "localizer of shapes"


def test_files_that_do_not_say_what_was_learnt(learnt, tmp_path):
    shutil.copy(learnt / "localizer.safetensors", tmp_path)
    given = yaml.safe_load((learnt / "recipe.yaml").read_text())
    given["localize"]["method"]["seen"] = [1]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    assert trained_localizer(load_recipe(taking("x", "y", tmp_path)), OTHER).places == (1, None, None)


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


def test_a_training_in_the_same_folder_gives_way_and_comes_back(root, learnt, tmp_path):
    folder = tmp_path / "run"
    own = {**recipe(root, folder, segment="none"), "seed": 4}
    own["localize"] |= {"method": {"name": "single_stage", **SINGLE}, "pictures": 2}
    run(own, until="localize")
    assert {path.name for path in folder.iterdir()} >= {"pictures", "checkpoints"}
    source = {**recipe(root, tmp_path / "source", segment="none")}
    source["localize"] |= {"method": {"name": "single_stage", **SINGLE}}
    run(source, until="localize")
    taking_it = {**own, "localize": {**own["localize"], "pictures": 0, "trained": {"run": str(tmp_path / "source")}}}
    run(taking_it, until="localize")
    assert not (folder / "pictures").exists()
    assert not list((folder / "checkpoints").iterdir())
    before, after = (read_weights(path / "localizer.safetensors") for path in (tmp_path / "source", folder))
    assert all(torch.equal(before[name], after[name]) for name in before)
    images = [str(root / "JPEGImages/s12.jpg")]
    assert predict_files(folder, images, tmp_path / "out", reporter=Screen()) == 1
    run(own, until="localize")
    assert not torch.equal(
        read_weights(folder / "localizer.safetensors")["head.classify.weight"], after["head.classify.weight"]
    )


def test_data_that_a_classifier_could_not_learn_from_can_be_mapped(tmp_path):
    """Every image shows a disc, none a square, and there is no saliency, from which the method had learnt."""
    data, elsewhere = folder_shapes(tmp_path / "data"), folder_shapes(tmp_path / "elsewhere", masks=False)
    for path in (data / "masks").rglob("*.png"):
        salient = (read_mask(path) > 0).to(torch.uint8) * 255
        (data / "saliency" / path.relative_to(data / "masks")).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(salient.numpy()).save(data / "saliency" / path.relative_to(data / "masks"))
    learning = {**recipe(data, tmp_path / "eps", segment="none"), "evaluate": {"seeds": []}}
    learning["localize"] |= {"method": "eps"}
    run(learning, until="localize")
    lines = (elsewhere / "tags.csv").read_text().splitlines()
    tags = [lines[0], *(",".join((line.split(",")[0], "disc", line.split(",")[2])) for line in lines[1:])]
    put_text(elsewhere / "tags.csv", "\n".join(tags) + "\n")
    put_text(elsewhere / "classes.txt", "\n".join(CLASSES))
    settings = {
        **learning,
        "data": {"root": str(elsewhere)},
        "run": {**learning["run"], "folder": str(tmp_path / "run")},
    }
    refusal(lambda: run(settings, until="localize"), "elsewhere")
    settings["localize"] = {**settings["localize"], "trained": {"run": str(tmp_path / "eps")}}
    put_masks_of(data, elsewhere)
    run(settings, until="evaluate")
    assert len(list((tmp_path / "run/maps").rglob("*.npz"))) == TRAIN
    told = json.loads((tmp_path / "run/metrics.json").read_text())["mask@train"]
    assert told["supervision"] == "tags+saliency"
    assert told.get("saliency") is None
    first, second = (read_weights(tmp_path / name / "localizer.safetensors") for name in ("eps", "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def changed(chosen, how):
    """Options of a method, or another method alone."""
    return {"name": how["name"]} if "name" in how else {**chosen, **how}


def put_masks_of(data, elsewhere):
    shutil.copytree(data / "masks", elsewhere / "masks")


def refused(learnt, *wanted, names=None, here=OTHER, run_folder="elsewhere", method=None, backbone=None):
    """What ``trained_localizer`` says of the localiser of a run."""
    given = yaml.safe_load((learnt / "recipe.yaml").read_text()) if (learnt / "recipe.yaml").exists() else {}
    localize = given.get("localize") or {}
    localize = {
        **localize,
        "method": changed(localize.get("method", {"name": "bana"}), method or {}),
        "backbone": {**localize.get("backbone", {}), **(backbone or {})},
        "trained": {"run": str(learnt), "names": names or {}},
    }
    checked = load_recipe(
        {"name": "x", "data": {"root": "x"}, "localize": localize, "run": {"folder": str(run_folder)}}
    )
    refusal(lambda: trained_localizer(checked, here), *wanted)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({"names": {"disk": "round"}}, ("localize.trained.names", "other run has no class 'disk'", "'disc'")),
        ({"names": {"disc": "rounds"}}, ("localize.trained.names", "data have no class 'rounds'", "'round'")),
        ({"names": {"disc": "square"}}, ("localize.trained.names", "'disc' and 'square' would both be 'square'")),
        ({"here": ("cat",)}, ("localizer.safetensors", "none of the classes", "localize.trained.names")),
        ({"names": {"square": None}}, ("localizer.safetensors", "none of the classes")),
        ({"method": {"seen": [1]}}, ("localize.method.seen", "Leave it out")),
        ({"method": {"name": "cam"}}, ("recipe.yaml", "'localize.method.name' is bana there and cam here")),
        ({"method": {"grid": 3}}, ("recipe.yaml", "'localize.method.grid' is 2 there and 3 here")),
        (
            {"backbone": {"output_stride": 16}},
            ("recipe.yaml", "'localize.backbone.output_stride' is 8 there and 16 here"),
        ),
        ({"backbone": {"mean": [0.5, 0.5, 0.5]}}, ("recipe.yaml", "'localize.backbone.mean' is null there")),
    ],
)
def test_what_does_not_go_together_is_refused(learnt, how, wanted):
    refused(learnt, *wanted, **how)


@pytest.mark.parametrize(
    ("here", "wanted"),
    [(OTHER, "not learnt 'bar'"), (CLASSES[::-1], "another order"), (CLASSES[:1], "has learnt 'square', too")],
)
def test_other_methods_map_what_they_have_learnt(root, tmp_path_factory, here, wanted):
    folder = tmp_path_factory.getbasetemp() / "cam"
    if not folder.exists():
        run({**recipe(root, folder, segment="none"), "evaluate": {"seeds": []}}, until="localize")
    refused(folder, "localizer.safetensors", wanted, "'cam'", "data.classes", here=here)
    names = {"disc": "round"} if here == OTHER else {}
    refused(folder, "localizer.safetensors", names=names, here=here)


def test_settings_of_training_and_inference_alone_may_differ(root, learnt, tmp_path):
    settings = taking(root, tmp_path / "run", learnt)
    settings["localize"]["backbone"] = {**settings["localize"]["backbone"], "batchnorm": "frozen", "weights": "no/such"}
    settings["localize"]["method"] = {**settings["localize"]["method"], "background": "cam", "fill_mute": False}
    found = trained_localizer(load_recipe(settings), CLASSES)
    assert found.places == (0, 1)
    assert found.learnt is None


def test_a_namesake_may_be_another_thing(learnt):
    settings = taking("x", "y", learnt, {"disc": "round", "square": None})
    assert trained_localizer(load_recipe(settings), OTHER).places == (None, None, 0)


def test_runs_without_a_localiser_are_refused(learnt, tmp_path):
    refused(tmp_path / "none", "none", "holds no trained localizer")
    shutil.copy(learnt / "recipe.yaml", tmp_path)
    refused(tmp_path, str(tmp_path), "holds no trained localizer")
    refused(learnt, "localize.trained.run", "this run itself", run_folder=learnt)
    shutil.copy(learnt / "localizer.safetensors", tmp_path)
    given = yaml.safe_load((learnt / "recipe.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**given, "localize": None}))
    refused(tmp_path, str(tmp_path), "holds no trained localizer")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**given, "colour": 1}))
    settings = taking("x", tmp_path / "run", tmp_path)
    refusal(
        lambda: trained_localizer(load_recipe(settings), CLASSES), tmp_path / "recipe.yaml", "unknown key", "colour"
    )


def test_another_network_is_refused_before_the_run_folder_is_there(root, learnt, tmp_path):
    settings = taking(root, tmp_path / "run", learnt)
    settings["localize"]["backbone"] = {**settings["localize"]["backbone"], "name": "resnet10t"}
    refusal(lambda: run(settings, until="refine"), "localize.backbone.name", "recipe.yaml", "resnet10t")
    assert not (tmp_path / "run").exists()


def test_pictures_of_no_training_are_refused(root, learnt, tmp_path):
    settings = taking(root, tmp_path / "run", learnt)
    settings["localize"]["pictures"] = 2
    refusal(lambda: run(settings), "localize.pictures", "trained already")


def test_classes_that_were_not_learnt_there_are_none(other, taken, tmp_path):
    """Two steps from the first: what the run in between has not learnt is not taken for known."""
    found = trained_localizer(load_recipe(taking(other, tmp_path / "run", taken)), ("bar", "square", "round"))
    assert found.places == (None, 0, 2)
    assert found.learnt == (1, 2)
