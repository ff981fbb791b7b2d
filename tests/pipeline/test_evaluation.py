"""Metrics beside the mIoU: in the numbers of a data set, in a run, and what is refused before one."""

import json

import pytest
import torch

from tests.data.trees import put_text, refusal
from tests.pipeline.shapes import HEIGHT, WIDTH, folder_shapes, recipe
from weakseg.cli import _summary
from weakseg.data.catalog import open_dataset
from weakseg.data.images import read_mask, write_mask
from weakseg.data.maps import LocalizationMaps
from weakseg.metrics import BoundaryRule, ConfusionRatio, Flags, SetBoundary, SetContour, SoftLocalization
from weakseg.pipeline.evaluation import Evaluator, Provenance, confusion_pairs
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.progress import Silent
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import run
from weakseg.refine.masks import at_image_size

CONTEXTS = ("void", "floor", "wall")
PAIRS = (("disc", "floor"), ("square", "wall"))
SOFT = ("soft_overlap", "soft_precision", "soft_recall")
BOUNDARY = ("boundary_f1", "boundary_precision", "boundary_recall")


def put_contexts(root):
    """The upper half is wall, the lower floor, two columns are unknown; 255 where an object is."""
    put_text(root / "context_classes.txt", "\n".join(CONTEXTS))
    for path in (root / "masks").rglob("*.png"):
        context = torch.full((HEIGHT, WIDTH), 2, dtype=torch.uint8)
        context[HEIGHT // 2 :] = 1
        context[:, :2] = 255
        context[read_mask(path) > 0] = 255
        write_mask(root / "context" / path.relative_to(root / "masks"), context)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return put_contexts(folder_shapes(tmp_path_factory.mktemp("scenes")))


@pytest.fixture
def maps(root, tmp_path):
    """Maps of the tags of every image that are right by half and else of chance, by id."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        dataset = open_dataset("auto", root, split)
        for image_id in dataset.ids:
            classes = torch.tensor(dataset.tags(image_id))
            there = read_mask(dataset.paths(image_id)["mask"])[4::8, 4::8] == classes[:, None, None] + 1
            scores = 0.5 * there + 0.5 * torch.rand(there.shape, generator=generator)
            LocalizationMaps(classes, scores, (HEIGHT, WIDTH)).save(tmp_path / f"{image_id}.npz")
    return lambda image_id: tmp_path / f"{image_id}.npz"


def evaluator(**more):
    return Evaluator(Provenance("tags", "test_resnet", "none", "skip", **more), Silent())


def test_every_metric_is_that_of_its_class(root, maps):
    dataset = open_dataset("auto", root, "val")
    measuring = evaluator(metrics=("soft", "boundary_f1", "contour_f"), confusion=PAIRS)
    train_set = open_dataset("auto", root, "train")
    measuring.sweep(train_set, maps, train_set.ids)
    measuring.seeds("val", dataset, maps, Flags(), dataset.ids)
    found = measuring.measured.results["seed@val"].others
    soft, boundary, contour = SoftLocalization(3), SetBoundary(), SetContour(3)
    ratios = ConfusionRatio([(1, 1), (2, 2)])
    for image_id in dataset.ids:
        full, truth = at_image_size(LocalizationMaps.load(maps(image_id))), read_mask(dataset.paths(image_id)["mask"])
        best, winner = full.scores.max(0)
        mask = torch.where(best > measuring.measured.threshold, full.classes[winner] + 1, 0)
        soft.update(full.scores, full.classes, truth)
        for metric in (boundary, contour):
            metric.update(mask, truth)
        ratios.update(mask, truth, read_mask(dataset.paths(image_id)["context"]))
    expected = boundary.values() | contour.values() | soft.values()
    expected |= dict(zip(("confusion_disc_floor", "confusion_square_wall"), ratios.ratios(), strict=True))
    assert found == expected
    assert set(expected) == {"contour_f", *SOFT, *BOUNDARY, "confusion_disc_floor", "confusion_square_wall"}
    assert found["confusion_disc_floor"] > 0


@pytest.mark.parametrize("rule", [BoundaryRule(), BoundaryRule(1.5, thin=True), BoundaryRule(3, thin=False)])
def test_boundaries_are_compared_by_the_rule_that_is_told(root, rule):
    dataset = open_dataset("auto", root, "val")
    shifted = {name: read_mask(dataset.paths(name)["mask"]).roll((3, 2), (0, 1)) for name in dataset.ids}
    measuring, expected = (
        evaluator(metrics=("boundary_f1",), boundary=rule),
        SetBoundary(rule.tolerance, thin=rule.thin),
    )
    measuring.measure("seg", "val", dataset, shifted.__getitem__, Flags())
    for name, mask in shifted.items():
        expected.update(mask, read_mask(dataset.paths(name)["mask"]))
    result = measuring.measured.results["seg@val"]
    assert result.others == expected.values()
    assert result.boundary == rule
    assert 0 < expected.value() < 1


def test_without_boundaries_there_is_no_rule(root):
    dataset = open_dataset("auto", root, "val")
    measuring = evaluator(metrics=("contour_f",), boundary=BoundaryRule(3))
    measuring.measure("seg", "val", dataset, lambda image_id: read_mask(dataset.paths(image_id)["mask"]), Flags())
    assert measuring.measured.results["seg@val"].boundary is None


def test_soft_scores_are_of_maps_alone(root):
    dataset = open_dataset("auto", root, "val")
    measuring = evaluator(metrics=("soft",))
    measuring.measure("mask", "val", dataset, lambda image_id: read_mask(dataset.paths(image_id)["mask"]), Flags())
    assert measuring.measured.results["mask@val"].others == {}


def test_the_truth_is_not_confused(root):
    dataset = open_dataset("auto", root, "val")
    measuring = evaluator(confusion=PAIRS)
    measuring.measure("seg", "val", dataset, lambda image_id: read_mask(dataset.paths(image_id)["mask"]), Flags())
    assert measuring.measured.results["seg@val"].others == {"confusion_disc_floor": 0, "confusion_square_wall": 0}


def test_an_image_without_context_labels_counts_in_no_ratio(tmp_path):
    root = put_contexts(folder_shapes(tmp_path))
    dataset = open_dataset("auto", root, "val")
    first, *others = dataset.ids
    for image_id in others:
        dataset.paths(image_id)["context"].unlink()
    measuring = evaluator(confusion=PAIRS)
    ones = torch.ones(HEIGHT, WIDTH, dtype=torch.uint8)
    measuring.measure("seg", "val", dataset, lambda image_id: ones, Flags())
    context, truth = (read_mask(dataset.paths(first)[kind]) for kind in ("context", "mask"))
    expected = (context == 1).sum().item() / (truth == 1).sum().item()
    found = measuring.measured.results["seg@val"].others
    assert found == {"confusion_disc_floor": pytest.approx(expected), "confusion_square_wall": None}


def test_context_of_another_size_is_an_error(tmp_path):
    root = put_contexts(folder_shapes(tmp_path))
    dataset = open_dataset("auto", root, "val")
    path = dataset.paths(dataset.ids[0])["context"]
    write_mask(path, torch.zeros(HEIGHT, WIDTH - 1, dtype=torch.uint8))
    ones = torch.ones(HEIGHT, WIDTH, dtype=torch.uint8)
    refusal(
        lambda: evaluator(confusion=PAIRS).measure("seg", "val", dataset, lambda _: ones, Flags()),
        path,
        f"{WIDTH - 1} x {HEIGHT}",
    )


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (("disk", "floor"), ("unknown class 'disk'", "'disc'")),
        (("disc", "flor"), ("unknown context 'flor'", "'floor'")),
        (("background", "floor"), ("unknown class 'background'",)),
        (("disc", "disc"), ("cannot be confused with itself",)),
    ],
)
def test_pairs_of_unknown_names(root, pair, words):
    refusal(lambda: confusion_pairs([pair], open_dataset("auto", root, "train")), "evaluate.confusion", *words)


@pytest.mark.parametrize("lost", ["context", "context_classes.txt"])
def test_data_without_context_labels_are_refused_before_anything_runs(tmp_path, lost):
    import shutil

    root = put_contexts(folder_shapes(tmp_path / "scenes"))
    (shutil.rmtree if lost == "context" else lambda path: path.unlink())(root / lost)
    settings = recipe(root, tmp_path / "run", evaluate={"confusion": [list(PAIRS[0])]})
    refusal(lambda: run(settings), root, "context labels", "context_classes.txt")
    assert not (tmp_path / "run").exists()


def test_unknown_names_are_refused_before_anything_runs(root, tmp_path):
    settings = recipe(root, tmp_path / "run", evaluate={"confusion": [["disc", "sky"]]})
    refusal(lambda: run(settings), "unknown context 'sky'", "Known: floor, void, wall")
    assert not (tmp_path / "run").exists()


def test_a_split_that_is_not_measured_needs_no_context_labels(tmp_path):
    root = put_contexts(folder_shapes(tmp_path / "scenes"))
    for image_id in open_dataset("auto", root, "val").ids:
        (root / f"context/{image_id}.png").unlink()
    measured = recipe(root, tmp_path / "run", evaluate={"confusion": [list(PAIRS[0])]})
    refusal(lambda: Experiment(load_recipe(measured), Silent()), root, "val has none")
    Experiment(load_recipe(measured | {"segment": None}), Silent())


def test_settings():
    tree = {"name": "tiny", "data": {"root": "photos"}}
    assert load_recipe(tree).evaluate.confusion == ()
    overrides = ["evaluate.confusion=[[boat, water], [train, rails]]", "evaluate.metrics=[soft, boundary_f1]"]
    found = load_recipe(tree, overrides)
    assert found.evaluate.confusion == (("boat", "water"), ("train", "rails"))
    assert found.evaluate.metrics == ("soft", "boundary_f1")
    wrong = ("confusion=[boat]", "confusion=[[boat]]", "metrics=[boundary]", "boundary.tolerance=0", "boundary.thn=no")
    for setting in (f"evaluate.{each}" for each in wrong):
        refusal(lambda setting=setting: load_recipe(tree, [setting]), "evaluate.")


@pytest.mark.slow
def test_a_run_with_all_metrics(root, tmp_path, capsys):
    metrics = ["contour_f", "boundary_f1", "soft"]
    evaluate = {"seeds": ["train"], "metrics": metrics, "confusion": [list(pair) for pair in PAIRS]}
    evaluate["boundary"] = {"tolerance": 2}
    settings = recipe(root, tmp_path / "run", refine=["threshold"], evaluate=evaluate)
    settings["localize"]["train"]["epochs"] = settings["segment"]["train"]["epochs"] = 1
    settings["localize"]["scales"] = [1.0]
    result = run(settings)
    page = (tmp_path / "run/report/index.html").read_text(encoding="utf-8")
    _summary(result)
    printed = capsys.readouterr().out
    for name, values in json.loads((tmp_path / "run/metrics.json").read_text()).items():
        wanted = {"contour_f", *BOUNDARY, "confusion_disc_floor", "confusion_square_wall"}
        assert set(values) >= wanted
        assert (set(SOFT) <= set(values)) == name.startswith("seed@")
        line = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        for metric in [*BOUNDARY, *(SOFT if name.startswith("seed@") else ())]:
            assert 0 <= values[metric] <= 1
            assert f"{100 * values[metric]:.1f} % {metric}" in line
        assert values["boundary"] == {"tolerance": 2, "thin": True}
        assert "boundaries at 2 pixels, thinned" in line
        assert "<dt>Boundaries</dt><dd>at 2 pixels, thinned</dd>" in page
        for pair in ("disc_floor", "square_wall"):
            ratio = values[f"confusion_{pair}"]
            shown = "undefined" if ratio is None else f"{ratio:.2f}"
            assert f"{shown} confusion_{pair}" in line
            assert f"<dt><code>confusion_{pair}</code></dt><dd>{'n/a' if ratio is None else shown}</dd>" in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    run(settings | {"evaluate": {**evaluate, "confusion": []}})
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "confusion_disc_floor" not in (tmp_path / "run/metrics.json").read_text()
