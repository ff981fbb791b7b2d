"""Runs that tell objects apart: pseudo objects, a detector, and their average precision."""

import csv
import json
import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.trees import put_boxes, refusal
from tests.pipeline.shapes import (
    CLASSES,
    HEIGHT,
    TRAIN,
    VAL,
    WIDTH,
    Screen,
    boxed_shapes,
    recipe,
    results,
    run_until_killed,
    scene,
    voc_shapes,
)
from tests.pipeline.test_boxes import bana, plain
from weakseg.data.catalog import open_dataset
from weakseg.data.detections import Detections
from weakseg.data.images import read_mask, write_mask
from weakseg.data.instances import Instances
from weakseg.data.maps import LocalizationMaps
from weakseg.data.pseudo import PseudoObjects
from weakseg.metrics import ProtocolResult, protocol_line
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.plan import plan
from weakseg.pipeline.predict import load_detector, load_segmenter, predict_files
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import rewrite_report, run

pytestmark = pytest.mark.slow
AP = {"seeds": [], "metrics": ["ap"]}
KILLS = [
    ("instances/s03.png", 1),
    ("instances/s05.json", 1),
    ("checkpoints/detector.ckpt", 2),
    ("detector.safetensors", 1),
    ("detections/s13.json", 1),
    ("precision.csv", 1),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Discs and squares told apart, with a tight box around each."""
    root = boxed_shapes(tmp_path_factory.mktemp("objects"))
    for number in range(TRAIN + VAL):
        mask = scene(number)[1]
        write_mask(root / f"SegmentationObject/s{number:02}.png", mask)  # at most one of a class: as in the masks
    return root


def detecting(root, folder, **more):
    """Boxes as they are, and a small detector."""
    body, train = (recipe(root, folder)["localize"][key] for key in ("backbone", "train"))
    detect = {
        "network": {"name": "mask_rcnn", "width": 16, "box_width": 32, "samples": 32, "anchor_scale": 4},
        "backbone": body,
        "train": {**train, "augment": {"crop": 48, "scale": [0.75, 1.25]}},
        "predict": {"batch": 3, "score": 0.0, "most": 5},
    }
    return plain(root, folder, **{"detect": detect, "evaluate": AP, **more})


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "detect"
    run(detecting(root, folder))
    return folder


def measured(folder):
    return json.loads((folder / "metrics.json").read_text())


def stages(settings, until="report"):
    return [stage.name for stage in plan(Experiment(load_recipe(settings), Screen()), until)]


def test_stages_and_where_they_stop(root, tmp_path):
    settings = detecting(root, tmp_path)
    made = ["masks", "instances", "detector", "detections", "metrics", "report"]
    assert stages(settings) == made
    assert stages(settings, "refine") == made[:2]
    assert stages(settings, "segment") == made[:3]
    assert stages(settings, "evaluate") == made[:-1]
    assert stages(detecting(root, tmp_path, detect="none")) == ["masks", "instances", "metrics", "report"]
    assert stages(detecting(root, tmp_path, detect="none"), "segment") == ["masks", "instances"]
    whole = {**recipe(root, tmp_path), "detect": settings["detect"]}
    assert stages(whole, "segment") == ["localizer", "maps", "masks", "instances", "segmenter", "detector"]
    assert stages(whole)[6:] == ["predictions", "detections", "metrics", "report"]
    assert "instances" not in stages(recipe(root, tmp_path))


def test_pixels_in_dispute_are_unsure_to_the_detector(root, tmp_path):
    folder = tmp_path / "agreed"
    settings = detecting(root, folder, refine=["boxes"], second=["grabcut"])
    settings["detect"] = {**settings["detect"], "masks": "agreed"}
    run(settings, until="refine")
    for name in ("s00", "s05"):
        first, second = (read_mask(folder / kind / f"{name}.png") for kind in ("masks", "masks-grabcut"))
        found = Instances.load(folder / f"instances/{name}.json", CLASSES)
        assert torch.equal(found.unsure, first != second)
        assert torch.equal(found.masks.any(0), (first == second) & (first > 0))
    experiment = Experiment(load_recipe(settings), Screen())
    taught = PseudoObjects(experiment.train_set, lambda name: folder / f"instances/{name}.json")
    assert (taught.sample("s00").objects == -1).any()


def test_objects_of_a_refiner_take_the_place_of_those_in_boxes(root, tmp_path):
    irn = {"name": "irn", "instances": True, "pad_to": 0, "train": {"batch": 4, "augment": {"crop": 48}}}
    settings = recipe(root, tmp_path, refine=[irn], segment="none", evaluate=AP)
    experiment = Experiment(load_recipe(settings), Screen())
    assert [stage.name for stage in plan(experiment, "report")].count("instances") == 1
    assert not experiment.boxes_tell_objects
    assert experiment.object_supervision == experiment.needs  # tags alone
    assert len(experiment.object_ids) == TRAIN


def test_pseudo_objects_fill_their_boxes_and_are_measured(root, finished):
    found = measured(finished)
    assert list(found) == ["mask@train", "instances@train", "detect@val"]
    objects = found["instances@train"]
    assert objects["miou"] is None
    assert objects["per_class"] == {}
    assert (objects["supervision"], objects["images"], objects["flags"]["gt_tags"]) == ("boxes", TRAIN, True)
    rows = list(csv.DictReader((finished / "precision.csv").read_text().splitlines()))
    of_class = {row["class"]: float(row["ap"]) for row in rows if row["protocol"] == "instances@train"}
    assert of_class["square"] == pytest.approx(1)  # fills its box
    assert of_class["disc"] == pytest.approx(0.7)  # covers 305 of 19 x 19 pixels: right at 0.50 to 0.80
    assert objects["ap"] == pytest.approx(0.85)
    for image in open_dataset("auto", root, "train").ids:
        instances = Instances.load(finished / f"instances/{image}.json", CLASSES)
        mask = read_mask(finished / f"masks/{image}.png")
        assert torch.equal(instances.masks.any(0), mask > 0)
        for kind, pixels in zip(instances.classes.tolist(), instances.masks, strict=True):
            assert mask[pixels].unique().tolist() == [kind + 1]


def test_boxes_that_make_no_object_are_counted(root, tmp_path):
    screen = Screen()
    run(plain(root, tmp_path, evaluate=AP), until="refine", reporter=screen)
    assert not any("no object" in line for line in screen.lines)
    for number in (0, 3):
        write_mask(tmp_path / f"masks/s{number:02}.png", torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8))
        (tmp_path / f"instances/s{number:02}.json").unlink()  # as if the others had been made before
    lost = sum(len(scene(number)[2]) for number in (0, 3))
    boxes = sum(len(scene(number)[2]) for number in range(TRAIN))
    manifest = json.loads((tmp_path / "MANIFEST.json").read_text())
    manifest["instances"]["done"] = False
    (tmp_path / "MANIFEST.json").write_text(json.dumps(manifest))
    run(plain(root, tmp_path, evaluate=AP), until="refine", reporter=screen)
    assert (
        f"instances: {lost} of {boxes} boxes are left without a pixel of their class and make no object" in screen.lines
    )


def test_detections_are_of_the_validation_images(root, finished):
    names = sorted(path.stem for path in (finished / "detections").iterdir())
    assert names == sorted(open_dataset("auto", root, "val").ids)
    for name in names:
        found = Detections.load(finished / f"detections/{name}.json", CLASSES, (HEIGHT, WIDTH))
        assert len(found) <= 5
    detected = measured(finished)["detect@val"]
    assert (detected["images"], detected["flags"]["gt_tags"], detected["backbone"]) == (VAL, False, "test_resnet")


def test_what_is_told_of_objects(finished):
    line = protocol_line("detect@val", ProtocolResult.from_json(measured(finished)["detect@val"]))
    assert "mIoU" not in line
    assert " ap, " in line
    page = rewrite_report(finished).read_text()
    assert "Pseudo objects on train" in page
    assert "AP, <code>detect@val</code>" in page
    assert "mIoU, <code>detect@val</code>" not in page


def test_the_report_shows_objects_and_ranks_them(root, finished):
    rows = list(csv.DictReader((finished / "objects.csv").read_text().splitlines()))
    overlaps = {row["image"]: float(row["overlap"]) for row in rows if row["protocol"] == "instances@train"}
    assert set(overlaps) == set(open_dataset("auto", root, "train").ids)
    for image, value in overlaps.items():
        expected = {("square",): 1.0, ("disc",): 305 / 19**2}
        tags = open_dataset("auto", root, "train").tag_names(image)
        assert value == pytest.approx(expected.get(tags, (1 + 305 / 19**2) / 2), abs=1e-5)
    page = rewrite_report(finished).read_text()
    assert "Best on instances@train" in page
    assert "pseudo objects" in page
    assert "on detect@val" in page
    assert {"instances@train.png", "detect@val.png"} <= {path.name for path in (finished / "report").iterdir()}
    best = page.index("overlap 100.0")
    assert best < page.index("Worst on instances@train") < page.index("Pictures: detect@val")


def test_a_run_that_was_done_does_nothing(root, finished):
    screen = Screen()
    run(detecting(root, finished), reporter=screen)
    assert [line for line in screen.lines if "done before" in line] == [
        f"{name}: done before" for name in ("masks", "instances", "detector", "detections", "metrics", "report")
    ]


def test_kill_9_in_every_stage_and_again_gives_the_same_bytes(root, finished, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.shapes"])
    settings = detecting(root, tmp_path / "killed")
    for name, count in KILLS:
        process = context.Process(target=run_until_killed, args=(settings, name, count))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (name, count)
    run(settings)
    assert results(tmp_path / "killed") == results(finished)


def test_a_change_redoes_what_depends_on_it(root, finished, tmp_path):
    def inputs(settings):
        return {stage.name: stage.inputs for stage in plan(Experiment(load_recipe(settings), Screen()), "report")}

    usual = detecting(root, finished)
    before = inputs(usual)

    def changed(**of_detect):
        after = inputs({**usual, "detect": {**usual["detect"], **of_detect}})
        return [name for name in before if before[name] != after[name]]

    assert changed(predict={"score": 0.5}) == ["detections", "metrics", "report"]
    assert changed(head_factor=2.0) == ["detector", "detections", "metrics", "report"]
    picture = root / "SegmentationObject/s00.png"
    kept = picture.read_bytes()
    write_mask(picture, torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8))
    after = inputs(usual)
    picture.write_bytes(kept)
    assert [name for name in before if before[name] != after[name]] == ["metrics", "report"]


def test_objects_from_where_two_masks_agree(root, tmp_path):
    settings = bana(root, tmp_path / "two", segment="none", evaluate=AP)
    run({**settings, "detect": {**detecting(root, tmp_path)["detect"], "masks": "agreed", "start": "localizer"}})
    folder = tmp_path / "two"
    for image in open_dataset("auto", root, "train").ids:
        first, second = (read_mask(folder / f"{name}/{image}.png") for name in ("masks", "masks-retrieval"))
        objects = Instances.load(folder / f"instances/{image}.json", CLASSES).masks.any(0)
        assert not (objects & (first != second)).any()
    assert {"instances@train", "detect@val"} <= measured(folder).keys()


def test_classes_that_are_not_learnt_are_what_is_not_background(root, tmp_path):
    folder = tmp_path / "seen"
    settings = bana(root, folder, second=[], segment="none", evaluate=AP)
    method = {**settings["localize"]["method"], "seen": [0]}
    run({**settings, "localize": {**settings["localize"], "method": method}})
    found = measured(folder)["instances@train"]
    assert found["ap"] == pytest.approx((found["ap_seen"] + found["ap_unseen"]) / 2)
    train = open_dataset("auto", root, "train")
    squares = [image for image in train.ids if train.tag_names(image) == ("square",)]
    assert squares
    for image in squares:
        maps = LocalizationMaps.load(folder / f"maps/{image}.npz")
        assert torch.allclose(maps.scores[0], 1 - maps.background, atol=1e-3)
        assert maps.scores.any()


def test_named_classes_are_those_of_the_run(root, tmp_path):
    table = {"data": {"root": str(root), "classes": ["square", "disc"]}}
    experiment = Experiment(load_recipe(plain(root, tmp_path, **table)), Screen())
    assert experiment.train_set.classes.names == experiment.val_set.classes.names == ("square", "disc")
    assert load_recipe(plain(root, tmp_path)).data.classes is None
    refusal(lambda: load_recipe(plain(root, tmp_path), ["data.classes=[]"]), "data.classes")


def test_a_class_without_a_box_is_never_learnt(root, tmp_path):
    screen = Screen()
    data = {"root": str(root), "classes": [*CLASSES, "star"]}
    Experiment(load_recipe(plain(root, tmp_path, data=data)), screen)
    assert any("'star'" in line for line in screen.lines if line.startswith("warning"))
    tagged = recipe(root, tmp_path, data=data)
    refusal(lambda: Experiment(load_recipe(tagged), Screen()), "'star'", "cannot be learnt")


def test_images_whose_boxes_are_unknown_are_left_out(root, tmp_path):
    xml = root / "Annotations/s00.xml"
    kept = xml.read_bytes()
    xml.unlink()
    try:
        from_tags = {**detecting(root, tmp_path), "localize": recipe(root, tmp_path)["localize"], "refine": ["power"]}
        experiment = Experiment(load_recipe(from_tags), Screen())
        assert "s00" not in experiment.object_ids
        assert len(experiment.object_ids) == TRAIN - 1
    finally:
        xml.write_bytes(kept)


def test_what_cannot_be_is_refused_before_anything_is_written(root, tmp_path):
    folder = tmp_path / "none"
    usual = detecting(root, folder)

    def refused(*parts, **of_detect):
        refusal(lambda: run({**usual, "detect": {**usual["detect"], **of_detect}}), *parts)

    refused("unknown key 'detect.network.widht'", "'width'", network={"widht": 3})
    refused("mask_rcn", "'mask_rcnn'", network="mask_rcn")
    refused("unknown key 'detect.trian'", trian={})
    refused("detect.predict.score", predict={"score": 2})
    refused("detect.start: localizer", "without a localiser", start="localizer")
    refused("detect.masks: second", "second masks", masks="second")
    refused("Lower detect.train.batch", train={**usual["detect"]["train"], "batch": TRAIN + 1})
    seen = bana(root, folder)
    for given in ([2], [-1], []):
        method = {"name": "bana", "seen": given}
        wrong = {**seen, "localize": {**seen["localize"], "method": method}}
        refusal(lambda wrong=wrong: run(wrong), "seen", "2 classes from 0")
    bare = voc_shapes(tmp_path / "bare")
    refusal(lambda: run(recipe(bare, folder, evaluate=AP)), "'evaluate.metrics: ap'", "no boxes", "irn")
    refusal(lambda: run({**recipe(bare, folder), "detect": usual["detect"]}), "'detect'", "no boxes")
    put_boxes(bare / "Annotations/s00.xml", ("disc", 2, 2, 20, 20))
    refusal(lambda: run(recipe(bare, folder, evaluate=AP)), "true objects", "SegmentationObject")
    assert not folder.exists()


def test_objects_are_found_in_new_images(root, finished, tmp_path):
    images = [str(root / f"JPEGImages/s{number}.jpg") for number in (TRAIN, TRAIN + 1)]
    assert predict_files(finished, images, tmp_path / "out", overlay=True, reporter=Screen()) == 2
    names = [Path(image).stem for image in images]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        f"{name}.{kind}" for name in names for kind in ("json", "objects.jpg")
    )
    for name in names:
        found = Detections.load(tmp_path / f"out/{name}.json", CLASSES, (HEIGHT, WIDTH))
        known = Detections.load(finished / f"detections/{name}.json", CLASSES, (HEIGHT, WIDTH))
        assert 0 < len(found) <= 5
        torch.testing.assert_close(found.scores, known.scores, rtol=0.02, atol=0.02)
        with Image.open(tmp_path / f"out/{name}.objects.jpg") as picture:
            assert picture.size == (WIDTH, HEIGHT)


def test_a_run_with_both_networks_gives_masks_and_objects(root, tmp_path):
    settings = recipe(root, tmp_path / "run", detect=detecting(root, tmp_path)["detect"])
    for part in ("localize", "segment"):
        settings[part]["train"]["epochs"] = 1
    run(settings, until="segment")
    image = str(root / "JPEGImages/s00.jpg")
    predict_files(tmp_path / "run", [image], tmp_path / "both", reporter=Screen())
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["s00.json", "s00.png"]
    (tmp_path / "run/detector.safetensors").unlink()
    predict_files(tmp_path / "run", [image], tmp_path / "one", reporter=Screen())
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["s00.png"]


def test_a_run_without_a_trained_network_predicts_nothing(root, finished, tmp_path):
    image = str(root / "JPEGImages/s00.jpg")

    def refused(folder, *parts):
        refusal(lambda: predict_files(folder, [image], tmp_path / "masks", reporter=Screen()), folder, *parts)

    refusal(lambda: load_segmenter(finished), finished, "without a segmenter")
    for name, more, parts in (
        ("neither", {"detect": "none"}, ["without a segmenter and without a detector", "'segment' or 'detect'"]),
        ("untrained", {}, ["no trained detector"]),
    ):
        run(detecting(root, tmp_path / name, **more), until="refine")
        refused(tmp_path / name, *parts)
    refusal(lambda: load_detector(tmp_path / "neither"), tmp_path / "neither", "without a detector")
    assert not (tmp_path / "masks").exists()
