"""Runs from boxes: with and without a localiser, with second masks, with some true masks."""

import csv
import json
import shutil

import pytest
import torch

from tests.data.trees import put_boxes, put_text, refusal
from tests.pipeline.shapes import TRAIN, VAL, Screen, boxed_shapes, recipe, results
from weakseg.data.catalog import open_dataset
from weakseg.data.images import read_mask
from weakseg.data.pseudo import PseudoMasks
from weakseg.metrics import ProtocolResult, protocol_line
from weakseg.networks.weights import load_weights
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.inference import as_batch
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Discs and squares with a tight box around each."""
    root = boxed_shapes(tmp_path_factory.mktemp("boxed"))
    put_text(root / "ImageSets/Segmentation/few.txt", "s00\ns03")
    return root


def bana(root, folder, **more):
    settings = recipe(root, folder)
    return {
        **settings,
        "localize": {**settings["localize"], "method": {"name": "bana", "grid": 2}, "scales": [1.0], "flip": False},
        "refine": ["box_crf"],
        "second": ["retrieval"],
        "segment": {
            **settings["segment"],
            "network": {**settings["segment"]["network"], "classifier": "cosine"},
            "loss": "noise_aware",
        },
        "evaluate": {"seeds": ["train"]},
        **more,
    }


def plain(root, folder, **more):
    return {
        **recipe(root, folder),
        "localize": "none",
        "refine": ["boxes"],
        "segment": "none",
        "evaluate": {"seeds": []},
        **more,
    }


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bana"
    run(bana(root, folder))
    return folder


def measured(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_two_masks_are_made_and_measured_and_where_they_agree(root, finished):
    found = measured(finished)
    assert list(found) == ["seed@train", "mask@train", "second@train", "agreed@train", "seg@val"]
    assert {result["supervision"] for result in found.values()} == {"boxes"}
    ids = [f"s{number:02}" for number in range(TRAIN)]
    masks = {
        name: [read_mask(finished / f"{name}/{image}.png") for image in ids] for name in ("masks", "masks-retrieval")
    }
    pairs = list(zip(masks["masks"], masks["masks-retrieval"], strict=True))
    truths = [read_mask(root / f"SegmentationClass/{image}.png") for image in ids]
    agreed = [(one == other) for one, other in pairs]
    assert found["agreed@train"]["compared"] == pytest.approx(torch.stack(agreed).float().mean().item(), abs=1e-6)
    intersection = sum(
        ((one == truth) & same & (truth == 1)).sum()
        for (one, _), truth, same in zip(pairs, truths, agreed, strict=True)
    )
    union = sum(
        (((one == 1) | (truth == 1)) & same).sum() for (one, _), truth, same in zip(pairs, truths, agreed, strict=True)
    )
    assert found["agreed@train"]["per_class"]["disc"] == pytest.approx((intersection / union).item(), abs=1e-6)


def test_what_is_outside_all_boxes_is_background_in_both_masks(root, finished):
    dataset = open_dataset("auto", root, "train")
    for image in dataset.ids:
        boxes, _ = dataset.box_tensors(image)
        for name in ("masks", "masks-retrieval"):
            mask = read_mask(finished / f"{name}/{image}.png")
            for x1, y1, x2, y2 in boxes.int().tolist():
                mask[y1:y2, x1:x2] = 0
            assert mask.eq(0).all()


def test_images_without_certain_background_are_told(root, tmp_path):
    covered, screen = shutil.copytree(root, tmp_path / "covered"), Screen()
    put_boxes(covered / "Annotations/s02.xml", ("disc", 1, 1, 64, 48))
    run(bana(covered, tmp_path / "run"), reporter=screen, until="localize")
    told = [line for line in screen.lines if "whole image 's02': nothing in it is background" in line]
    assert len(told) == 1


def test_boxes_are_classified(root, finished, tmp_path):
    """Counted again from the weights, image by image; the run is as it was but for its numbers."""
    copied = tmp_path / "copied"
    shutil.copytree(finished, copied)
    run(bana(root, copied, evaluate={"seeds": ["train"], "metrics": ["box_accuracy"]}))
    found = measured(copied)["boxes@val"]
    experiment = Experiment(load_recipe(bana(root, copied)), Screen())
    method = experiment.method.eval()
    load_weights(method, copied / "localizer.safetensors")
    right = []
    for sample in map(experiment.val_set.sample, experiment.val_set.ids):
        batch = as_batch([sample], 2, method.backbone.mean, method.backbone.std)
        right += (method.classify_boxes(batch)[0].argmax(1) == sample.box_classes + 1).tolist()
    assert found["box_accuracy"] == pytest.approx(sum(right) / len(right))
    assert (found["images"], found["supervision"], found["miou"]) == (VAL, "boxes", None)
    line = protocol_line("boxes@val", ProtocolResult.from_json(found))
    assert "box_accuracy" in line
    page = (copied / "report/index.html").read_text()
    assert "Boxes on val" in page
    assert "boxes right, <code>boxes@val</code>" in page


def test_boxes_that_nobody_classifies(root, tmp_path):
    wanted = {"evaluate": {"seeds": [], "metrics": ["box_accuracy"]}}
    refusal(lambda: run(plain(root, tmp_path / "a", **wanted)), "box_accuracy", "methods that classify boxes", "bana")
    refusal(lambda: run(recipe(root, tmp_path / "b", **wanted)), "box_accuracy", "bana")
    data = {"root": str(root), "val": None}
    refusal(lambda: run(bana(root, tmp_path / "c", data=data, **wanted)), "validation images, of which there are none")


def test_a_run_in_several_processes_gives_the_same(root, finished, tmp_path):
    run(bana(root, tmp_path / "two", run={"folder": str(tmp_path / "two"), "device": "cpu", "workers": 2}))
    assert results(tmp_path / "two") == results(finished)


def test_a_killed_refinement_makes_what_is_missing(root, finished, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(finished, copied)
    manifest = json.loads((copied / "MANIFEST.json").read_text())
    manifest["masks"]["done"] = False
    (copied / "MANIFEST.json").write_text(json.dumps(manifest))
    (copied / "masks/s03.png").unlink()
    (copied / "masks-retrieval/s03.png").unlink()
    run(bana(root, copied))
    assert results(copied) == results(finished)


def test_boxes_alone_need_no_localizer(root, tmp_path):
    screen = Screen()
    run(plain(root, tmp_path / "plain"), reporter=screen)
    found = measured(tmp_path / "plain")
    assert list(found) == ["mask@train"]
    assert found["mask@train"]["supervision"] == "boxes"
    assert not (tmp_path / "plain/localizer.safetensors").exists()
    assert found["mask@train"]["per_class"]["square"] > 0.9  # a square fills its box, a disc does not
    assert 0.6 < found["mask@train"]["per_class"]["disc"] < 0.9


def test_a_segmenter_learns_from_boxes_without_a_localizer(root, tmp_path):
    whole = recipe(root, tmp_path)
    segment = {**whole["segment"], "backbone": whole["localize"]["backbone"], "masks": "first"}
    run(plain(root, tmp_path / "seg", segment=segment))
    assert list(measured(tmp_path / "seg")) == ["mask@train", "seg@val"]


def test_a_refiner_that_learns_gives_its_masks_its_own_name(root, tmp_path):
    body = recipe(root, tmp_path)["localize"]["backbone"]
    learning = {"train": recipe(root, tmp_path)["localize"]["train"], "backbone": {**body, "name": "test_resnet"}}
    boxes_and_network = ["boxes", {"name": "affinitynet", **learning}]
    run(plain(root, tmp_path / "second", refine=["boxes"], second=boxes_and_network))
    found = {name: result["backbone"] for name, result in measured(tmp_path / "second").items()}
    assert found == {"mask@train": "none", "second@train": "test_resnet", "agreed@train": "test_resnet"}


def test_only_what_a_network_made_has_the_name_of_one(root, tmp_path):
    whole = recipe(root, tmp_path)
    segment = {**whole["segment"], "backbone": whole["localize"]["backbone"]}
    run(plain(root, tmp_path / "seg", segment=segment))
    found = {name: (result["backbone"], result["weights"]) for name, result in measured(tmp_path / "seg").items()}
    assert found == {"mask@train": ("none", "none"), "seg@val": (segment["backbone"]["name"], "none")}
    assert "weights none" not in (tmp_path / "seg/report/index.html").read_text()


def rates_of(folder):
    with (folder / "filling.csv").open() as file:
        return [(row["protocol"], row["class"], float(row["rate"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("masks", ["all", "few", "none"])
def test_filling_rates_need_no_true_masks(root, tmp_path, masks):
    tree = shutil.copytree(root, tmp_path / "tree")
    for path in (tree / "SegmentationClass").iterdir():
        if masks == "none" or (masks == "few" and path.stem not in ("s00", "s03")):
            path.unlink()
    run(plain(tree, tmp_path / "run", evaluate={"seeds": [], "metrics": ["filling_rate"]}))
    result, rates = measured(tmp_path / "run")["mask@train"], rates_of(tmp_path / "run")
    assert {rate for _, _, rate in rates} == {1.0}
    assert len(rates) == sum(len(open_dataset("auto", tree, "train").box_tensors(f"s{n:02}")[0]) for n in range(TRAIN))
    assert (result["filling_rate"], result["miou"] is None) == (1.0, masks == "none")
    assert result["images"] == {"all": TRAIN, "few": 2, "none": TRAIN}[masks]
    page = (tmp_path / "run/report/index.html").read_text()
    assert 'id="filling"' in page
    assert ("filling rate, <code>mask@train</code>" in page) is (masks == "none")
    assert ("only how masks fill their boxes" in page) is (masks == "none")


@pytest.fixture(scope="module")
def partly(root, tmp_path_factory):
    """The same images, without boxes for those of the split "few"."""
    partly = tmp_path_factory.mktemp("partly") / "boxed"
    shutil.copytree(root, partly)
    for name in ("s00", "s03"):
        (partly / f"Annotations/{name}.xml").unlink()
    return partly


def test_images_with_true_masks_need_no_boxes(partly, tmp_path):
    whole = recipe(partly, tmp_path)
    segment = {**whole["segment"], "backbone": whole["localize"]["backbone"], "true_masks": "few"}
    settings = plain(partly, tmp_path / "semi", segment=segment)
    run(settings)
    found = measured(tmp_path / "semi")
    assert (found["mask@train"]["supervision"], found["mask@train"]["images"]) == ("boxes", TRAIN - 2)
    assert (found["seg@val"]["supervision"], found["seg@val"]["images"]) == ("boxes+masks", VAL)
    assert not (tmp_path / "semi/masks/s00.png").exists()
    assert Experiment(load_recipe(settings), Screen()).truly_labelled == {"s00", "s03"}


def test_bana_learns_from_boxes_and_some_true_masks(partly, tmp_path):
    settings = bana(partly, tmp_path / "semi")
    run({**settings, "segment": {**settings["segment"], "true_masks": "few"}})
    found = measured(tmp_path / "semi")
    labels = ("seed@train", "mask@train", "second@train", "agreed@train")
    assert {found[name]["images"] for name in labels} == {TRAIN - 2}
    assert found["seg@val"]["supervision"] == "boxes+masks"


def test_an_image_without_boxes_or_mask_is_named_before_training(partly, tmp_path):
    folder = tmp_path / "none"
    refusal(lambda: run(bana(partly, folder)), "s00", "no boxes (and 1 more)", "segment.true_masks")
    assert not folder.exists()


def test_it_is_so_where_the_method_alone_needs_boxes(partly, tmp_path):
    settings = bana(partly, tmp_path / "none", refine=["crf"], second=[])
    settings["segment"] = {**settings["segment"], "loss": "cross_entropy"}
    refusal(lambda: run(settings), "s00", "no boxes (and 1 more)", "segment.true_masks")


def test_pseudo_masks_give_way_to_true_ones_and_to_each_other(root, finished):
    dataset = open_dataset("auto", root, "train")
    paths = [lambda name, folder=folder: finished / folder / f"{name}.png" for folder in ("masks", "masks-retrieval")]
    one, other = (read_mask(path("s01")) for path in paths)
    both = PseudoMasks(dataset, *paths).sample("s01")
    assert torch.equal(both.mask, one)
    assert torch.equal(both.second, other)
    agreed = PseudoMasks(dataset, *paths, agreed=True).sample("s01")
    assert torch.equal(agreed.mask, torch.where(one == other, one, 255))
    true = PseudoMasks(dataset, *paths, agreed=True, truly_labelled=frozenset({"s01"})).sample("s01")
    assert torch.equal(true.mask, read_mask(root / "SegmentationClass/s01.png"))
    assert torch.equal(true.second, true.mask)


def test_what_does_not_go_together_is_refused_before_anything_is_written(root, tmp_path):
    folder = tmp_path / "none"
    whole = recipe(root, folder)
    refusal(lambda: run(plain(root, folder, refine=["power"])), "'localize: none'", "'power'", "'boxes'")
    second = {**whole["segment"], "masks": "second"}
    refusal(lambda: run(recipe(root, folder, segment=second)), "second masks", "'second'")
    noisy = {**whole["segment"], "loss": "noise_aware"}
    refusal(lambda: run(recipe(root, folder, segment=noisy)), "noise_aware", "second masks")
    refusal(lambda: run(bana(root, folder, segment=noisy)), "classifier: cosine")
    agreed = {**bana(root, folder)["segment"], "masks": "agreed"}
    refusal(lambda: run(bana(root, folder, segment=agreed)), "noise_aware", "segment.masks: agreed", "cross_entropy")
    start = {**whole["segment"], "start": "localizer"}
    refusal(lambda: run(plain(root, folder, segment=start)), "start: localizer", "without a localiser")
    true = {**whole["segment"], "true_masks": "nowhere"}
    refusal(lambda: run(recipe(root, folder, segment=true)), "nowhere")
    assert not folder.exists()


def test_options_of_maps_repeat_no_training(root, finished, tmp_path):
    copied, screen = tmp_path / "other-maps", Screen()
    shutil.copytree(finished, copied)
    settings = bana(root, copied)
    method = {**settings["localize"]["method"], "background": "cam"}
    run({**settings, "localize": {**settings["localize"], "method": method}}, reporter=screen, until="refine")
    assert [line for line in screen.lines if "done before" in line] == ["localizer: done before"]
    before, after = results(finished), results(copied)
    assert {name for name in before if name.startswith("maps/") and before[name] != after[name]}


def test_a_seed_of_its_own_changes_the_segmenter_alone(root, finished, tmp_path):
    copied = tmp_path / "seeded"
    shutil.copytree(finished, copied)
    settings = bana(root, copied)
    run({**settings, "segment": {**settings["segment"], "seed": 8}})
    before, after = results(finished), results(copied)
    changed = {name for name in before if before[name] != after[name]}
    assert "segmenter.safetensors" in changed
    assert not any(name.startswith(("localizer", "maps/", "masks")) for name in changed)
