"""Refiners that learn, in a run: what they leave behind, what is done again and what is not."""

import json
import multiprocessing
import signal

import pytest
import yaml

from tests.data.trees import refusal
from tests.pipeline.shapes import CLASSES, TRAIN, Screen, folder_shapes, recipe, results, run_until_killed
from weakseg.data.images import read_mask
from weakseg.data.instances import Instances
from weakseg.data.maps import read_scores
from weakseg.networks.weights import read_weights
from weakseg.pipeline.device import Device
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import run
from weakseg.pipeline.shards import Job, Refining, refine_all
from weakseg.pipeline.steps import refiner_steps

pytestmark = pytest.mark.slow

TRAIN_SMALL = {"epochs": 2, "batch": 4, "precision": "32", "workers": 0, "augment": {"crop": 48}}
AFFINITYNET = {"name": "affinitynet", "alpha_low": 1, "alpha_high": 8, "logt": 3, "train": TRAIN_SMALL}
IRN = {"name": "irn", "pad_to": 0, "calibration": 48, "radius": 4, "logt": 3, "instances": True, "train": TRAIN_SMALL}
CRF = {"name": "crf", "params": "D", "iterations": 2}
STAGES = ["localizer", "maps", "affinitynet-labels", "affinitynet", "irn-labels", "irn", "instances", "masks"]


def settings(root, folder, *steps, **more):
    return recipe(root, folder, refine=list(steps or (AFFINITYNET, IRN, CRF)), segment=None, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return folder_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A run folder up to the masks; tests that change it put it back."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    run(settings(root, folder), until="refine")
    return folder


def test_every_stage_leaves_its_files(finished):
    manifest = json.loads((finished / "MANIFEST.json").read_text())
    assert [name for name in manifest if name != "audit"] == STAGES
    assert all(stage["done"] for stage in manifest.values())
    assert len(list((finished / "labels/affinitynet").rglob("*.npz"))) == TRAIN
    assert len(list((finished / "labels/irn").rglob("*.png"))) == TRAIN
    assert len(list((finished / "masks").rglob("*.png"))) == TRAIN
    for name in ("affinitynet", "irn"):
        assert (finished / f"{name}.safetensors").is_file()
        assert (finished / f"checkpoints/{name}.csv").read_text().count("\n") == 3


def test_labels_are_what_the_refiners_say_they_learn_from(finished):
    scores = read_scores(next((finished / "labels/affinitynet").rglob("*.npz")))
    assert len(scores) in (4, 6)
    assert set(read_mask(next((finished / "labels/irn").rglob("*.png"))).unique().tolist()) <= {0, 1, 2, 255}


def test_instances_are_told_apart_for_every_image(finished):
    lists = sorted((finished / "instances").rglob("*.json"))
    assert len(lists) == TRAIN
    for path in lists:
        found = Instances.load(path, CLASSES)
        assert found.masks.sum(0).max() <= 1


def test_the_stored_recipe_spells_out_the_training(finished):
    stored = yaml.safe_load((finished / "recipe.yaml").read_text(encoding="utf-8"))
    affinitynet = stored["refine"][0]
    assert affinitynet["train"]["momentum"] is None
    assert affinitynet["train"]["augment"]["padding"] == "black"
    assert affinitynet["backbone"]["output_stride"] == 8
    assert affinitynet["beta"] == 8
    again = refiner_steps(load_recipe(finished / "recipe.yaml"))[0]
    assert [step.key for step in again] == ["affinitynet", "irn", "crf"]


def test_an_option_of_the_walk_repeats_no_training(root, finished):
    before = results(finished)
    screen = Screen()
    run(settings(root, finished, {**AFFINITYNET, "beta": 2}, IRN, CRF), reporter=screen, until="refine")
    assert {"affinitynet-labels: done before", "affinitynet: done before"} <= set(screen.lines)
    assert "irn: done before" not in screen.lines  # it learns from other maps
    run(settings(root, finished), until="refine")
    assert results(finished) == before


def test_the_number_of_processes_does_not_matter(root, finished):
    before = results(finished)
    for name in ("masks", "instances", "labels"):
        for path in (finished / name).rglob("s*"):
            if path.is_file():
                path.unlink()
    manifest = json.loads((finished / "MANIFEST.json").read_text())
    for stage in ("affinitynet-labels", "irn-labels", "instances", "masks"):
        manifest[stage]["done"] = False
    (finished / "MANIFEST.json").write_text(json.dumps(manifest))
    more = settings(root, finished)
    more["run"] = {**more["run"], "workers": 2}
    run(more, until="refine")
    assert results(finished) == before


@pytest.mark.parametrize(
    ("name", "count"),
    [("labels/affinitynet/*.npz", 5), ("affinitynet.ckpt", 1), ("affinitynet.safetensors", 1), ("masks/*.png", 3)],
)
def test_killed_and_started_again(root, tmp_path, name, count):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.shapes"])
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    small = {**AFFINITYNET, "train": {**TRAIN_SMALL, "augment": {"crop": 32}}}
    made = settings(root, killed, small)
    process = context.Process(target=run_until_killed, args=(made, name, count))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    run(made, until="refine")
    run(settings(root, undisturbed, small), until="refine")
    assert results(killed) == results(undisturbed)


def test_initial_weights_can_be_those_of_the_localizer(root, finished):
    steps = refiner_steps(load_recipe(settings(root, finished, {**AFFINITYNET, "start": "localizer"})))[0]
    weights = read_weights(finished / "localizer.safetensors", prefix="backbone.model.")
    refiner = steps[0].untrained(finished / "localizer.safetensors")
    state = refiner.backbone.model.state_dict()
    counters = {name for name in weights if name.endswith("num_batches_tracked")}  # of batches, not part of the network
    assert all((state[name] == value).all() for name, value in weights.items() if name not in counters)


def test_the_same_refiner_twice_has_two_names(root, tmp_path):
    steps = refiner_steps(load_recipe(settings(root, tmp_path, AFFINITYNET, AFFINITYNET, CRF, CRF)))[0]
    assert [step.key for step in steps] == ["affinitynet", "affinitynet-2", "crf", "crf-2"]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"name": "affinitynet", "bta": 8}, ("refine.0.bta", "'beta'")),
        ({"name": "affinitynet", "train": {"epochs": 0}}, ("refine.0.train.epochs",)),
        ({"name": "affinitynet", "train": {"epoch": 1}}, ("refine.0.train.epoch", "'epochs'")),
        ({"name": "affinitynet", "train": {"augment": {"crp": 1}}}, ("refine.0.train.augment.crp", "'crop'")),
        ({"name": "affinitynet", "train": 5}, ("refine.0.train",)),
        ({"name": "affinitynet", "train": {"augment": 5}}, ("refine.0.train.augment",)),
        ({"name": "irn", "backbone": {"output_strid": 8}}, ("refine.0.backbone.output_strid", "'output_stride'")),
        ({"name": "irn", "start": "there"}, ("refine.0.start",)),
        ({"name": "crf", "train": {}}, ("refine.0.train",)),
    ],
)
def test_a_mistake_in_the_settings_is_named(root, tmp_path, step, words):
    refusal(lambda: refiner_steps(load_recipe(settings(root, tmp_path, step))), "recipe", *words)


@pytest.mark.parametrize("name", ["affinitynet", "irn"])
@pytest.mark.parametrize(("way", "given"), [("resize", (224, 400)), ("area", (0.2, 1.0)), ("scale", (0.75, 1.25))])
def test_one_way_to_draw_a_size_takes_the_place_of_the_usual_one(root, tmp_path, name, way, given):
    step = {"name": name, "train": {"batch": 4, "augment": {way: list(given)}}}
    experiment = Experiment(load_recipe(settings(root, tmp_path, step, seed=1)), Screen())
    augment = experiment.steps[0].learning.train.augment
    assert {key: getattr(augment, key) for key in ("resize", "area", "scale")} == {
        **dict.fromkeys(("resize", "area", "scale")),
        way: given,
    }
    assert augment.crop == (448 if name == "affinitynet" else 512)
    again = refiner_steps(load_recipe(settings(root, tmp_path, experiment.steps[0].named().model_dump())))[0]
    assert again == experiment.steps


def test_a_way_to_draw_a_size_that_is_left_open_changes_nothing(root, tmp_path):
    step = {"name": "irn", "train": {"augment": {"resize": None, "crop": 64}}}
    augment = refiner_steps(load_recipe(settings(root, tmp_path, step)))[0][0].learning.train.augment
    assert (augment.crop, augment.resize, augment.scale) == (64, None, (0.5, 1.5))


def test_damaged_weights_are_named_by_a_process_too(root, tmp_path):
    damaged = tmp_path / "affinitynet.safetensors"
    damaged.write_bytes(b"broken")
    step = refiner_steps(load_recipe(settings(root, tmp_path, AFFINITYNET)))[0][0]
    image = root / "images/s02.png"
    jobs = [Job(image, image.with_suffix(".npz"), tmp_path / f"{number}.png") for number in range(8)]
    refining = Refining(((step, damaged),), "masks", CLASSES)
    refusal(
        lambda: list(refine_all(jobs, refining, workers=2, device=Device("cpu", 1, 2))),
        damaged,
        "cannot be read as weights",
        "Use safetensors",
    )


def test_trainings_that_cannot_be_are_found_before_anything_is_written(root, tmp_path):
    folder = tmp_path / "run"
    large = settings(root, folder, {**AFFINITYNET, "train": {**TRAIN_SMALL, "batch": 50}})
    refusal(lambda: Experiment(load_recipe(large), Screen()), "batch of 50", "refine.0.train.batch")
    unknown = settings(root, folder, {**AFFINITYNET, "backbone": {"name": "resnet1O"}})
    refusal(lambda: run(unknown), "unknown backbone")
    assert not folder.exists()
