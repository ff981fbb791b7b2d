"""Whole runs on a tiny data set: what they leave behind, and that nothing can change it."""

import csv
import errno
import json
import multiprocessing
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.data.trees import put_text, refusal
from tests.pipeline.shapes import (
    CLASSES,
    HEIGHT,
    STAGES,
    TRAIN,
    VAL,
    WIDTH,
    Screen,
    folder_shapes,
    recipe,
    results,
    run_until_killed,
    snapshot,
    voc_shapes,
)
from weakseg.data.images import image_size, read_mask
from weakseg.data.maps import LocalizationMaps
from weakseg.networks.weights import read_about, read_weights
from weakseg.pipeline.device import Device
from weakseg.pipeline.inference import chunks
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import _peak_memory, rewrite_report, run
from weakseg.pipeline.shards import Job, Refining, refine_all
from weakseg.pipeline.steps import Step

pytestmark = pytest.mark.slow
PROTOCOLS = ["seed@train", "seed@val", "mask@train", "seg@val"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return folder_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A run folder; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    run(recipe(root, folder))
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A finished run, to be changed; times of change are kept."""
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "copied"))


def train_ids(root):
    rows = csv.DictReader((root / "tags.csv").read_text().splitlines())
    return [row["image"] for row in rows if row["split"] == "train"]


def test_the_run_folder_holds_what_it_should(root, finished):
    found = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    ids = [row.split(",")[0] for row in (root / "tags.csv").read_text().splitlines()[1:]]
    expected = {
        *("recipe.yaml", "MANIFEST.json", "metrics.json", "timings.json", "images.csv", "thresholds.csv", ".lock"),
        *("localizer.safetensors", "segmenter.safetensors"),
        *(f"checkpoints/{name}{suffix}" for name in ("localizer", "segmenter") for suffix in (".ckpt", ".csv")),
        *(f"maps/{image_id}.npz" for image_id in ids),
        *(f"masks/{image_id}.png" for image_id in ids[:TRAIN]),
        *(f"predictions/{image_id}.png" for image_id in ids[TRAIN:]),
        "report/index.html",
    }
    assert {name for name in found if not name.startswith("report/")} == expected - {"report/index.html"}
    assert "report/index.html" in found


def test_the_stored_recipe_is_resolved_and_says_what_computed_it(root, finished):
    stored = yaml.safe_load((finished / "recipe.yaml").read_text(encoding="utf-8"))
    assert stored["localize"]["train"]["momentum"] == 0.9
    assert stored["data"]["root"] == str(root)
    assert {"weakseg", "torch", "timm", "python", "device", "data train", "data val"} <= set(stored["environment"])
    assert load_recipe(finished / "recipe.yaml").name == "shapes"


def test_maps_hold_the_tagged_classes_in_half_precision(root, finished):
    import numpy as np

    rows = {row["image"]: row["tags"].split() for row in csv.DictReader((root / "tags.csv").open())}
    for image_id, tags in rows.items():
        maps = LocalizationMaps.load(finished / f"maps/{image_id}.npz")
        assert [CLASSES[c] for c in maps.classes] == tags
        assert maps.size == (HEIGHT, WIDTH)
        assert maps.scores.shape[1:] == (HEIGHT // 4, WIDTH // 4)
    with np.load(finished / "maps/s02.npz", allow_pickle=False) as arrays:
        assert arrays["scores"].dtype == np.float16


@pytest.mark.parametrize("kind", ["masks", "predictions"])
def test_label_maps_are_palette_files_of_image_size(finished, kind):
    for path in (finished / kind).rglob("*.png"):
        with Image.open(path) as image:
            assert image.mode == "P"
            assert image.size == (WIDTH, HEIGHT)
        assert set(read_mask(path).unique().tolist()) <= {0, 1, 2}


def test_masks_show_only_what_is_tagged(root, finished):
    rows = csv.DictReader((root / "tags.csv").open())
    for row in (row for row in rows if row["split"] == "train"):
        allowed = {0, *(CLASSES.index(tag) + 1 for tag in row["tags"].split())}
        assert set(read_mask(finished / f"masks/{row['image']}.png").unique().tolist()) <= allowed


def test_weights_carry_the_class_names(finished):
    for name in ("localizer", "segmenter"):
        assert read_about(finished / f"{name}.safetensors") == {"recipe": "shapes", "classes": "\n".join(CLASSES)}
        assert all(value.isfinite().all() for value in read_weights(finished / f"{name}.safetensors").values())


def test_metrics_name_their_protocols(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert list(metrics) == PROTOCOLS
    for name, value in metrics.items():
        assert 0 <= value["miou"] <= 1
        assert 0 <= value["contour_f"] <= 1
        assert list(value["per_class"]) == ["background", *CLASSES]
        assert value["supervision"] == "tags"
        assert value["images"] == (TRAIN if name.endswith("train") else VAL)
        assert (value["backbone"], value["weights"]) == ("test_resnet", "none")
    flags = {name: value["flags"] for name, value in metrics.items()}
    swept = flags["seed@train"]["threshold_swept"]
    assert 0 <= swept <= 1
    seed = {"gt_tags": True, "crf": False, "multi_scale": True, "threshold_swept": swept}
    assert flags["seed@train"] == flags["seed@val"] == seed
    assert flags["mask@train"] == {"gt_tags": True, "crf": True, "multi_scale": True, "threshold_swept": None}
    assert flags["seg@val"] == {"gt_tags": False, "crf": False, "multi_scale": False, "threshold_swept": None}


def test_metrics_are_those_of_the_files(root, finished):
    """Counted again, pixel by pixel of all images together."""
    metrics = json.loads((finished / "metrics.json").read_text())
    for protocol, kind, ids in (
        ("mask@train", "masks", train_ids(root)),
        ("seg@val", "predictions", [f"s{number}" for number in range(TRAIN, TRAIN + VAL)]),
    ):
        pairs = [(read_mask(finished / kind / f"{i}.png"), read_mask(root / "masks" / f"{i}.png")) for i in ids]
        for value, name in enumerate(("background", *CLASSES)):
            both = sum(((guess == value) & (truth == value)).sum().item() for guess, truth in pairs)
            either = sum(((guess == value) | (truth == value)).sum().item() for guess, truth in pairs)
            assert metrics[protocol]["per_class"][name] == pytest.approx(both / either)


def test_the_best_threshold_is_the_one_reported(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    rows = list(csv.DictReader((finished / "thresholds.csv").open()))
    best = max(rows, key=lambda row: float(row["miou"]))
    assert float(best["threshold"]) == pytest.approx(metrics["seed@train"]["flags"]["threshold_swept"])
    assert float(best["miou"]) == pytest.approx(metrics["seed@train"]["miou"], abs=1e-6)


def test_every_image_has_its_score(root, finished):
    rows = list(csv.DictReader((finished / "images.csv").open()))
    assert [row["image"] for row in rows if row["protocol"] == "mask@train"] == train_ids(root)
    assert len(rows) == 2 * (TRAIN + VAL)


def test_timings(finished):
    timings = json.loads((finished / "timings.json").read_text())
    assert list(timings) == STAGES
    for stage in ("localizer", "maps", "masks", "segmenter", "predictions"):
        assert timings[stage]["seconds"] > 0
        assert timings[stage]["images_per_second"] > 0
        assert timings[stage]["peak_memory_mb"] > 10
    assert (timings["maps"]["images"], timings["masks"]["images"]) == (TRAIN + VAL, TRAIN)


def test_the_report_shows_the_numbers(finished):
    page = (finished / "report/index.html").read_text(encoding="utf-8")
    metrics = json.loads((finished / "metrics.json").read_text())
    for name, value in metrics.items():
        assert name in page
        assert f"{100 * value['miou']:.1f}" in page


def test_a_second_run_changes_nothing(root, finished):
    def state():
        files = (path for path in finished.rglob("*") if path.is_file())
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before, screen = state(), Screen()
    again = run(recipe(root, finished), reporter=screen)
    assert screen.lines == [f"{stage}: done before" for stage in STAGES]
    rewritten = {"recipe.yaml", "MANIFEST.json"}  # with the same content
    for path, (content, changed) in state().items():
        assert content == before[path][0]
        assert changed == before[path][1] or path.name in rewritten, path
    assert list(again.metrics) == PROTOCOLS
    assert again.report == finished / "report/index.html"


def test_the_stored_recipe_runs_again(finished):
    screen = Screen()
    run(finished / "recipe.yaml", reporter=screen)
    assert screen.lines == [f"{stage}: done before" for stage in STAGES]


def test_another_folder_gets_the_same_bytes(root, finished, tmp_path):
    run(recipe(root, tmp_path / "two"))
    assert results(tmp_path / "two") == results(finished)


def test_another_seed_gives_others(root, finished, tmp_path):
    run({**recipe(root, tmp_path / "two"), "seed": 4}, until="localize")
    one, two = results(finished), results(tmp_path / "two")
    assert one["localizer.safetensors"] != two["localizer.safetensors"]


@pytest.mark.parametrize(
    ("until", "last"), [("localize", "maps"), ("refine", "masks"), ("segment", "segmenter"), ("evaluate", "metrics")]
)
def test_a_run_can_stop_early_and_go_on(root, finished, copied, until, last):
    for stage, made in (("report", "report"), ("metrics", "metrics.json"), ("predictions", "predictions")):
        if STAGES.index(stage) > STAGES.index(last):
            _forget(copied, stage, made)
    screen = Screen()
    result = run(recipe(root, copied), until=until, reporter=screen)
    assert screen.lines == [f"{stage}: done before" for stage in STAGES[: STAGES.index(last) + 1]]
    assert not (copied / "report").exists()
    assert bool(result.metrics) is (until == "evaluate")
    run(recipe(root, copied))
    assert results(copied) == results(finished)


def _forget(folder, stage, made):
    import shutil

    stages = json.loads((folder / "MANIFEST.json").read_text())
    del stages[stage]
    put_text(folder / "MANIFEST.json", json.dumps(stages))
    shutil.rmtree(folder / made) if (folder / made).is_dir() else (folder / made).unlink()


CHANGES = {
    "refine": ([("refine", [{"name": "threshold", "value": 0.4}])], "masks"),
    "views": ([("localize.scales", [1.0])], "maps"),
    "predict": ([("segment.predict.flip", False)], "predictions"),
    "evaluate": ([("evaluate.metrics", [])], "metrics"),
    "description": ([("description", "another")], "report"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_redoes_what_depends_on_it_and_nothing_else(root, copied, change):
    settings, first = CHANGES[change]
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings]
    before, screen = snapshot(copied), Screen()
    run(recipe(root, copied), overrides=overrides, reporter=screen)
    done = [line.split(":")[0] for line in screen.lines if "done before" in line]
    independent = {"masks": ["predictions"]} if first == "nothing" else {}
    assert done == STAGES[: STAGES.index(first)] + independent.get(first, [])
    after = snapshot(copied)
    kept = {"localizer.safetensors", "checkpoints/localizer.ckpt"}
    assert all(after[name] == before[name] for name in kept)
    if change == "refine":
        assert any(after[name] != before[name] for name in after if name.startswith("masks/"))
        assert after["segmenter.safetensors"] != before["segmenter.safetensors"]
        assert {name for name in after if name.startswith("maps/")} == {n for n in before if n.startswith("maps/")}


@pytest.mark.parametrize("setting", ["run.workers=2", "localize.train.workers=1"])
def test_the_number_of_processes_is_no_change(root, copied, setting):
    screen = Screen()
    run(recipe(root, copied), overrides=[setting], reporter=screen, until="evaluate")
    assert screen.lines == [f"{stage}: done before" for stage in STAGES[:-1]]


def test_another_image_redoes_everything(root, copied, tmp_path):
    other = folder_shapes(tmp_path / "shapes")
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(other / "images/s05.png")
    screen = Screen()
    run(recipe(other, copied), reporter=screen, until="localize")
    assert not any("done before" in line for line in screen.lines)


def test_a_copied_data_set_is_the_same(root, copied, tmp_path):
    other, screen = folder_shapes(tmp_path / "elsewhere"), Screen()
    run(recipe(other, copied), reporter=screen, until="evaluate")
    assert screen.lines == [f"{stage}: done before" for stage in STAGES[:-1]]


def test_a_lost_result_is_made_again(root, finished, copied):
    (copied / "localizer.safetensors").unlink()
    screen = Screen()
    run(recipe(root, copied), reporter=screen, until="localize")
    assert "localizer: done before" not in screen.lines
    assert results(copied)["localizer.safetensors"] == results(finished)["localizer.safetensors"]


KILLS = [
    ("recipe.yaml", 1),
    ("MANIFEST.json", 2),
    ("checkpoints/localizer.ckpt", 1),
    ("checkpoints/localizer.ckpt", 1),
    ("localizer.safetensors", 1),
    ("maps/*", 5),
    ("maps/*", 1),
    ("masks/*", 4),
    ("timings.json", 1),
    ("checkpoints/segmenter.ckpt", 2),
    ("checkpoints/segmenter.csv", 1),
    ("segmenter.safetensors", 1),
    ("predictions/*", 2),
    ("images.csv", 1),
    ("metrics.json", 1),
    ("report/index.html", 1),
    ("MANIFEST.json", 1),
]


def test_kill_9_in_every_stage_and_again_gives_the_same_bytes(root, finished, tmp_path):
    """One run that is killed again and again, each time just before the named file would appear."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.shapes"])
    folder = tmp_path / "killed"
    for name, count in KILLS:
        process = context.Process(target=run_until_killed, args=(recipe(root, folder), name, count))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (name, count)
    screen = Screen()
    run(recipe(root, folder), reporter=screen)
    assert screen.lines == [f"{stage}: done before" for stage in STAGES[:-1]]
    assert results(folder) == results(finished)


def test_items_that_are_done_are_not_done_again(root, copied):
    stages = json.loads((copied / "MANIFEST.json").read_text())
    stages["masks"]["done"] = False
    put_text(copied / "MANIFEST.json", json.dumps(stages))
    (copied / "masks/s03.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in (copied / "masks").rglob("*.png")}
    screen = Screen()
    run(recipe(root, copied), reporter=screen, until="refine")
    assert ("refine", TRAIN, TRAIN - 1) in screen.tracked
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert (copied / "masks/s03.png").exists()


def test_a_full_disk_leaves_nothing_half_written(root, finished, copied, monkeypatch):
    stages = json.loads((copied / "MANIFEST.json").read_text())
    put_text(copied / "MANIFEST.json", json.dumps({**stages, "masks": {**stages["masks"], "done": False}}))
    for name in ("s03", "s04", "s05"):
        (copied / f"masks/{name}.png").unlink()
    open_, written = os.fdopen, []

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *reason):
            self.file.close()

        def write(self, content):
            written.append(content)
            if content[1:4] == b"PNG" and sum(c[1:4] == b"PNG" for c in written) == 2:
                self.file.write(content[:20])
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(content)

    monkeypatch.setattr(os, "fdopen", lambda handle, mode: Full(open_(handle, mode)))
    refusal(lambda: run(recipe(root, copied)), "the disk is full", copied / "masks", "run the same command again")
    monkeypatch.undo()
    assert not list(copied.rglob(".tmp-*"))
    assert len(list((copied / "masks").rglob("*.png"))) == TRAIN - 2
    run(recipe(root, copied), until="segment")
    assert results(copied)["masks/s04.png"] == results(finished)["masks/s04.png"]
    assert json.loads((copied / "MANIFEST.json").read_text())["masks"]["done"]


def refining(*steps):
    """Masks, by refiners that learn nothing."""
    return Refining(tuple((Step(name, name, options), None) for name, options in steps), "masks", ())


def test_masks_do_not_depend_on_the_number_of_processes(root, finished, tmp_path):
    images = {path.stem: path for path in (root / "images").rglob("*.*")}
    jobs = [
        Job(images[Path(image_id).name], finished / f"maps/{image_id}.npz", tmp_path / f"{image_id}.png")
        for image_id in train_ids(root)
    ]
    steps = refining(("power", {"alpha": 4.0}), ("crf", {"params": "D", "iterations": 2}))
    assert list(refine_all(jobs, steps, workers=2, device=Device("cpu", 1, 2))) == [1] * TRAIN
    masks = {name: content for name, content in results(finished).items() if name.startswith("masks/")}
    assert {f"masks/{name}": content for name, content in snapshot(tmp_path).items()} == masks


def test_without_refiners_masks_need_no_further_process(root, tmp_path, monkeypatch):
    monkeypatch.setattr("weakseg.pipeline.shards.in_processes", None)
    size = image_size(root / "images/s02.png")
    scores, background = torch.full((1, *size), 0.75), torch.full(size, 0.5)
    LocalizationMaps(torch.tensor([1]), scores, size, background).save(tmp_path / "s02.npz")
    jobs = [Job(root / "images/s02.png", tmp_path / "s02.npz", tmp_path / f"{number}.png") for number in range(9)]
    assert list(refine_all(jobs, refining(), workers=2, device=Device("cpu", 1, 2))) == [1] * 9
    assert all((read_mask(job.result) == 2).all() for job in jobs)


def test_a_dead_process_is_a_clean_error(root, finished, tmp_path):
    maps = finished / "maps/s02.npz"
    jobs = [Job(root / "images/s02.png", maps, tmp_path / f"{number}.png") for number in range(400)]

    def refine_and_kill():
        for _ in refine_all(jobs, refining(("power", {}), ("crf", {})), workers=2, device=Device("cpu", 1, 2)):
            for worker in multiprocessing.active_children():
                if "spawn" in type(worker).__name__.lower():
                    os.kill(worker.pid, signal.SIGKILL)

    refusal(refine_and_kill, "a refining process died", "run.workers=1")
    written = list(tmp_path.rglob("[!.]*.png"))
    assert 0 < len(written) < len(jobs)
    assert len({path.read_bytes() for path in written}) == 1


def test_a_damaged_map_is_named_by_a_process_too(root, finished, tmp_path):
    damaged = tmp_path / "s02.npz"
    damaged.write_bytes((finished / "maps/s02.npz").read_bytes()[:100])
    jobs = [Job(root / "images/s02.png", damaged, tmp_path / f"{number}.png") for number in range(4)]
    refusal(lambda: list(refine_all(jobs, refining(("power", {})), workers=1, device=Device("cpu", 1, 2))), damaged)


def test_the_voc_layout(tmp_path):
    """With everything that the first run leaves at its default."""
    root, folder = voc_shapes(tmp_path / "voc"), tmp_path / "run"
    settings = recipe(root, folder)
    settings["localize"]["train"]["epochs"] = settings["segment"]["train"]["epochs"] = 1
    settings["segment"]["predict"] = {"crf": "C", "merge": "probabilities", "scales": [0.75, 1.0]}
    settings["localize"]["method"] = "cam"
    settings["evaluate"] = {"seeds": ["val"], "segmenter": ["train", "val"], "tagged": ["val"]}
    result = run(settings)
    assert list(result.metrics) == ["seed@val", "mask@train", "seg@train", "seg@val"]
    helped = {"crf": True, "multi_scale": True, "threshold_swept": None}
    assert result.metrics["seg@train"]["flags"] == {"gt_tags": False, **helped}
    assert result.metrics["seg@val"]["flags"] == {"gt_tags": True, **helped}
    assert len(list((folder / "masks").iterdir())) == TRAIN
    for path in (folder / "predictions").iterdir():
        if int(path.stem[1:]) >= TRAIN:
            truth = read_mask(root / "SegmentationClass" / path.name).unique().tolist()
            assert set(read_mask(path).unique().tolist()) <= {0, *truth}


def test_the_segmenter_can_start_from_the_localizer(root, copied):
    settings = recipe(root, copied)
    settings["segment"]["start"] = "localizer"
    settings["segment"]["train"] |= {"epochs": 1, "lr": 1e-9, "weight_decay": 0}
    settings["localize"]["backbone"]["batchnorm"] = "train"
    run(settings, until="segment")
    localizer, segmenter = (read_weights(copied / f"{name}.safetensors") for name in ("localizer", "segmenter"))
    name = "conv1.0.weight"
    torch.testing.assert_close(
        segmenter[f"network.model.encoder.model.{name}"], localizer[f"backbone.model.{name}"], rtol=0, atol=1e-5
    )


def test_images_without_a_true_mask_are_left_out_of_the_numbers(short, tmp_path):
    root = folder_shapes(tmp_path / "shapes")
    (root / "masks/s03.png").unlink()
    result = run(short(tmp_path / "run", root))
    assert result.metrics["mask@train"]["images"] == TRAIN - 1
    assert result.metrics["seed@val"]["images"] == VAL
    assert (tmp_path / "run/masks/s03.png").exists()


@pytest.fixture(scope="module")
def short(root):
    """Settings of a run that is as short as possible."""

    def settings(folder, root=root, **more):
        found = recipe(root, folder, refine=["threshold"], segment=None, **more)
        found["localize"]["train"]["epochs"] = 1
        found["localize"]["scales"] = [1.0]
        return found

    return settings


def test_without_a_segmenter(short, tmp_path):
    result = run(short(tmp_path / "run"))
    assert list(result.metrics) == PROTOCOLS[:3]
    assert not (tmp_path / "run/segmenter.safetensors").exists()
    assert (tmp_path / "run/report/index.html").exists()
    assert not result.metrics["mask@train"]["flags"]["crf"]


def test_without_true_masks(short, tmp_path):
    root, screen = folder_shapes(tmp_path / "shapes", masks=False), Screen()
    result = run(short(tmp_path / "run", root), reporter=screen)
    assert result.metrics == {}
    assert any("nothing could be measured" in line for line in screen.lines)
    assert "nothing could be measured" in (tmp_path / "run/report/index.html").read_text(encoding="utf-8")


def test_without_a_validation_split(root, tmp_path):
    settings = recipe(root, tmp_path / "run", refine=["threshold"], evaluate={})
    settings["data"]["val"] = None
    settings["localize"]["train"]["epochs"] = settings["segment"]["train"]["epochs"] = 1
    result = run(settings)
    assert list(result.metrics) == ["seed@train", "mask@train"]
    assert (tmp_path / "run/segmenter.safetensors").exists()
    assert not (tmp_path / "run/predictions").exists()


def test_images_that_show_none_of_the_classes(short, tmp_path):
    root = folder_shapes(tmp_path / "shapes")
    table = (root / "tags.csv").read_text().replace("s03,disc,", "s03,,")
    put_text(root / "tags.csv", table)
    refusal(lambda: run(short(tmp_path / "run", root)), "'s03' has no tags", "data.allow_untagged")
    run(short(tmp_path / "run", root), overrides=["data.allow_untagged=true"], until="refine")
    assert not read_mask(tmp_path / "run/masks/s03.png").any()


def test_the_report_can_be_written_again(root, copied):
    def without_timings():
        page = (copied / "report/index.html").read_text(encoding="utf-8")
        return [line for line in page.splitlines() if 'scope="row"' not in line]

    run(recipe(root, copied))
    before = without_timings()
    (copied / "report/index.html").unlink()
    assert rewrite_report(copied) == copied / "report/index.html"
    assert without_timings() == before


def test_a_report_needs_an_evaluated_run(tmp_path):
    refusal(lambda: rewrite_report(tmp_path), tmp_path, "no evaluated run")


def test_chunks_hold_images_of_one_size_and_depend_on_the_whole_set(root):
    from weakseg.data.folder import FolderDataset

    dataset = FolderDataset(root, "train")
    found = chunks(dataset, 5)
    assert sorted(image_id for ids in found for image_id in ids) == sorted(dataset.ids)
    assert [len(ids) for ids in found] == [5, 5, 2]
    assert {image_size(dataset.paths(i)["image"]) for ids in found for i in ids} == {(HEIGHT, WIDTH)}


def test_two_runs_in_one_folder_are_refused(root, copied):
    from weakseg.pipeline.lock import sole_user

    before = snapshot(copied)
    with sole_user(copied):
        refusal(lambda: run(recipe(root, copied)), copied, "another run works in this folder")
    assert snapshot(copied) == before


def test_what_another_run_did_before_the_lock_was_had_counts(root, finished, copied, monkeypatch):
    """It has made pseudo-masks from other inputs since the manifest was read."""

    @contextmanager
    def waited_for(folder):
        stages = json.loads((copied / "MANIFEST.json").read_text())
        put_text(copied / "MANIFEST.json", json.dumps({**stages, "masks": {"inputs": "other", "done": True}}))
        (copied / "masks/s03.png").write_bytes((copied / "masks/s04.png").read_bytes())
        yield

    monkeypatch.setattr("weakseg.pipeline.run.sole_user", waited_for)
    screen = Screen()
    run(recipe(root, copied), until="refine", reporter=screen)
    assert "masks: done before" not in screen.lines
    assert results(copied)["masks/s03.png"] == results(finished)["masks/s03.png"]


def test_memory_is_not_told_where_the_system_does_not_know(monkeypatch):
    assert _peak_memory("cpu") > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(sys, "platform", "win32")
    assert _peak_memory("cpu") is None


def test_threads_do_not_leak_into_the_result(root, finished, tmp_path):
    """One thread or several: the pseudo-masks, which decide everything after them, stay the same."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        jobs = [Job(root / "images/s02.png", finished / "maps/s02.npz", tmp_path / "s02.png")]
        steps = refining(("power", {"alpha": 4.0}), ("crf", {"params": "D", "iterations": 2}))
        list(refine_all(jobs, steps, workers=1, device=Device("cpu", 1, 2)))
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "s02.png").read_bytes() == (finished / "masks/s02.png").read_bytes()
