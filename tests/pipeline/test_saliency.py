"""Saliency maps in a run: made once, found again, known to the training and told with the results."""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import refusal
from tests.pipeline.shapes import CLASSES, HEIGHT, TRAIN, VAL, WIDTH, Screen, folder_shapes, recipe, results, snapshot
from weakseg import registry
from weakseg.data.catalog import open_dataset
from weakseg.data.dataset import file_hash
from weakseg.data.images import read_saliency, write_mask
from weakseg.data.saliency.provider import SaliencyProvider
from weakseg.data.saliency.registry import SALIENCY
from weakseg.data.sample import WeakLabel
from weakseg.errors import UserError
from weakseg.methods.cam import CAM
from weakseg.methods.registry import METHODS
from weakseg.pipeline import saliency as stage
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.fill import fill_saliency
from weakseg.pipeline.listing import describe_saliency
from weakseg.pipeline.manifest import Manifest
from weakseg.pipeline.plan import plan
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.run import run
from weakseg.pipeline.saliency import SaliencyMaps, SaliencySource, saliency_source

seen_known, seen_images = [], []


class Salient(CAM):
    """CAM that also asks for saliency maps, and remembers which of its images had one."""

    needs = frozenset({WeakLabel.TAGS, WeakLabel.SALIENCY})

    def losses(self, batch):
        known = batch.known[WeakLabel.SALIENCY]
        seen_known.extend(zip(batch.ids, known.tolist(), strict=True))
        assert all(batch.saliency[place].max() == 0 for place in range(len(batch)) if not known[place])
        return super().losses(batch)


class Colourful(SaliencyProvider):
    """Where red and blue differ much; remembers how often it was asked."""

    def __init__(self, *, least: int = 60) -> None:
        self.least = least

    def __call__(self, image):
        seen_images.append(tuple(image.shape))
        return ((image[0].int() - image[2].int()).abs() > self.least).float()


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS, "salient", Salient)
    monkeypatch.setitem(SALIENCY, "colourful", Colourful)
    seen_known.clear()
    seen_images.clear()


@pytest.fixture
def root(tmp_path):
    return folder_shapes(tmp_path / "shapes")


def salient(root, folder, saliency="colourful", **more):
    settings = recipe(root, folder)
    settings["data"]["saliency"] = saliency
    settings["localize"]["method"] = "salient"
    settings["localize"]["train"]["epochs"] = 1
    settings["segment"] = "none"
    settings["refine"] = [{"name": "power"}]
    settings["evaluate"] = {}
    return {**settings, **more}


def caches(root):
    return sorted(path.name for path in root.iterdir() if path.name.startswith("SaliencyMaps-"))


def localizer_inputs(settings):
    """Fingerprint of the localiser, planned anew."""
    stages = plan(Experiment(load_recipe(settings), Screen()), "localize")
    return {one.name: one.inputs for one in stages}["localizer"]


def split_ids(root, split):
    return open_dataset("auto", root, split).ids


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_makes_maps_once_trains_on_them_and_says_so(root, tmp_path):
    screen = Screen()
    settings = salient(root, tmp_path / "run")
    done = run(settings, reporter=screen)
    assert ("saliency train", TRAIN, 0) in screen.tracked
    (cache,) = caches(root)
    assert cache.startswith("SaliencyMaps-colourful-")
    assert len(list((root / cache).rglob("*.png"))) == len(seen_images) == TRAIN
    assert (3, HEIGHT, WIDTH) in seen_images
    assert len(seen_known) == TRAIN
    assert all(known for _, known in seen_known)
    for value in done.metrics.values():
        assert (value["supervision"], value["saliency"]) == ("tags+saliency", "colourful")
    stored = load_recipe(tmp_path / "run/recipe.yaml").data.saliency
    assert (stored.name, stored.options) == ("colourful", {"least": 60})
    assert list(json.loads((tmp_path / "run/MANIFEST.json").read_text()))[:3] == ["audit", "saliency", "localizer"]

    before, again = snapshot(tmp_path / "run"), Screen()
    run(settings, reporter=again)
    assert again.lines[:2] == ["saliency: done before", "localizer: done before"]
    assert all(line.endswith("done before") for line in again.lines)
    assert snapshot(tmp_path / "run") == before
    assert len(seen_images) == TRAIN

    run(salient(root, tmp_path / "other"))  # another run finds them
    assert len(seen_images) == TRAIN
    assert results(tmp_path / "other") == results(tmp_path / "run")


@pytest.mark.slow
def test_lost_and_stale_maps_are_made_again_and_only_those(root, tmp_path):
    settings = salient(root, tmp_path / "run")
    run(settings, until="localize")
    (cache,) = caches(root)
    before, trained = snapshot(root / cache), Manifest(tmp_path / "run").stages["localizer"]["inputs"]
    (root / cache / "s03.png").unlink()
    (root / cache / "s05.png").write_bytes(b"damaged")
    (root / cache / "s06.png").write_bytes((root / cache / "s07.png").read_bytes())  # of another image
    screen = Screen()
    run(settings, until="localize", reporter=screen)
    assert ("saliency train", TRAIN, TRAIN - 3) in screen.tracked
    assert len(seen_images) == TRAIN + 3
    assert snapshot(root / cache) == before
    assert Manifest(tmp_path / "run").stages["localizer"]["inputs"] == trained
    assert "localizer: done before" in screen.lines


@pytest.mark.slow
def test_stopped_in_the_middle_it_goes_on(root, tmp_path, monkeypatch):
    write, written = stage.write_saliency, []

    def stopping(path, *rest):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(stage, "write_saliency", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(salient(root, tmp_path / "run"), until="localize")
    monkeypatch.setattr(stage, "write_saliency", write)
    screen = Screen()
    run(salient(root, tmp_path / "run"), until="localize", reporter=screen)
    assert ("saliency train", TRAIN, 5) in screen.tracked
    shutil.rmtree(root / caches(root)[0])
    run(salient(root, tmp_path / "undisturbed"), until="localize")
    assert results(tmp_path / "run") == results(tmp_path / "undisturbed")


@pytest.mark.slow
def test_an_image_without_a_useful_map_still_trains_the_classifier(root, tmp_path):
    for number in range(TRAIN + VAL):
        name = "more/s00" if number == 0 else f"s{number:02}"
        path = root / f"saliency/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.zeros((HEIGHT, WIDTH), np.uint8)
        image[10:20, 10:20] = 255 * (number not in (2, 3))
        Image.fromarray(image if number != 4 else image[:, :HEIGHT]).save(path)
    screen = Screen()
    done = run(salient(root, tmp_path / "run", "folder"), reporter=screen)
    known = dict(seen_known)
    assert sorted(image_id for image_id in known if not known[image_id]) == ["s02", "s03", "s04"]
    assert len(known) == TRAIN
    warnings = [line for line in screen.lines if line.startswith("warning") and "saliency" in line]
    assert len(warnings) == 2
    assert "saliency/s02.png: has the same value everywhere (0.00); it is left out (and 1 more)" in warnings[0]
    assert "saliency/s04.png: is 48 x 48 pixels, stretched" in warnings[1]
    assert caches(root) == []
    assert {value["saliency"] for value in done.metrics.values()} == {"folder:saliency"}


def test_a_provider_that_finds_nothing_anywhere_is_one_line(root, tmp_path):
    settings = salient(root, tmp_path / "run", {"name": "colourful", "least": 255})
    line = refusal(lambda: run(settings, until="localize"), "'colourful' finds nothing salient in any image of train")
    assert "data.saliency" in line


def test_useless_maps_are_counted_in_a_warning(root, tmp_path):
    for image_id in split_ids(root, "train")[:2]:
        path = next((root / "images").glob(f"{image_id}.*"))
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(path.with_suffix(".png"))
        if path.suffix != ".png":
            path.unlink()
    screen = Screen()
    maps = SaliencyMaps(saliency_source("colourful", {}), open_dataset("auto", root, "train"), tmp_path / "maps")
    assert maps.make(1, screen) == TRAIN
    assert maps.check(screen) == 2
    assert (f"check saliency {maps.dataset.split}", TRAIN, 0) in screen.tracked
    (line,) = screen.lines
    assert f"has the same value everywhere (0.00); it is left out (and 1 more of {TRAIN})" in line


@pytest.mark.slow
def test_maps_are_looked_at_once(root, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(stage, "read_saliency", lambda path: seen.append(path) or read_saliency(path))
    run(salient(root, tmp_path / "run"), until="localize")
    assert len(seen) == len(set(seen)) == TRAIN


def test_a_fingerprint_reads_only_what_has_changed(root, monkeypatch):
    folder, _ = fill(root)
    maps, read = SaliencyMaps(saliency_source("colourful", {}), open_dataset("auto", root, "train"), folder), []
    monkeypatch.setattr(stage, "file_hash", lambda path: read.append(path) or file_hash(path))
    before = maps.fingerprint()
    assert maps.fingerprint() == before
    assert sorted(read) == sorted(map(maps.path, maps.dataset.ids))
    path = maps.path("s03")
    path.write_bytes(path.read_bytes() + b"\n")
    assert maps.fingerprint() != before
    assert read[TRAIN:] == [path]


class Unbuildable(SaliencyProvider):
    """As rembg where it is not installed."""

    def __init__(self) -> None:
        raise UserError("the provider 'unbuildable' needs a package", where="data.saliency", remedy="Install it")

    def __call__(self, image):
        raise AssertionError


def test_a_provider_that_cannot_be_built_is_found_before_the_run_folder_is_touched(root, tmp_path, monkeypatch):
    monkeypatch.setitem(SALIENCY, "unbuildable", Unbuildable)
    settings = salient(root, tmp_path / "run", "unbuildable")
    refusal(lambda: run(settings, until="localize"), "the provider 'unbuildable' needs a package", "Install it")
    assert not (tmp_path / "run").exists()
    assert caches(root) == []


def test_a_provider_is_not_built_for_maps_that_are_there(root, tmp_path, monkeypatch):
    fill(root)
    monkeypatch.setattr(SaliencySource, "provider", lambda _: pytest.fail("built"))
    run(salient(root, tmp_path / "run"), until="localize")


class Failing(SaliencyProvider):
    """Right for all images but those that are red in the first pixel."""

    def __init__(self, *, how: str) -> None:
        self.how = how

    def __call__(self, image):
        saliency = Colourful()(image)
        if image[:, 0, 0].tolist() != [250, 0, 0]:
            return saliency
        if self.how == "raises":
            raise RuntimeError("expected a square\nand more")
        return {"stretched": saliency[:, 1:], "nan": saliency / 0}[self.how]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "(RuntimeError: expected a square)"),
        ("stretched", f"(its map is {HEIGHT} x {WIDTH - 1} instead of {HEIGHT} x {WIDTH})"),
        ("nan", "(its map has values that are no numbers)"),
    ],
)
def test_a_provider_that_fails_is_told_with_the_image(root, monkeypatch, how, reason):
    monkeypatch.setitem(SALIENCY, "failing", Failing)
    bad = root / "images/s05.png"
    pixels = np.array(Image.open(bad).convert("RGB"))
    pixels[0, 0] = 250, 0, 0
    Image.fromarray(pixels).save(bad)
    refusal(lambda: fill(root, "failing", [f"how={how}"]), bad, f"'failing' fails on it {reason}", "data.saliency")
    folder = root / saliency_source("failing", {"how": how}).folder_name
    assert (folder / "s03.png").exists()
    assert not (folder / "s05.png").exists()


def test_what_a_killed_process_left_is_removed_after_an_hour(root):
    folder, _ = fill(root)
    abandoned, current = folder / "more/.tmp-abandoned.png", folder / ".tmp-current.png"
    for path, hours in ((abandoned, 1.1), (current, 0.5)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    assert fill(root) == (folder, 0)
    assert not abandoned.exists()
    assert current.exists()


@pytest.mark.slow
def test_where_nothing_can_be_written_the_maps_are_in_the_run_folder(root, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _mode: not Path(path).is_relative_to(root))
    screen = Screen()
    run(salient(root, tmp_path / "run"), until="localize", reporter=screen)
    assert caches(root) == []
    (cache,) = (tmp_path / "run").glob("SaliencyMaps-colourful-*")
    assert len(list(cache.rglob("*.png"))) == TRAIN
    assert any(f"{root}: cannot be written" in line for line in screen.lines)
    again = Screen()
    run(salient(root, tmp_path / "run"), until="localize", reporter=again)
    assert "saliency: done before" in again.lines
    monkeypatch.undo()


def test_complete_maps_are_used_where_nothing_can_be_written(root, tmp_path, monkeypatch):
    fill(root)
    dataset = open_dataset("auto", root, "train")
    monkeypatch.setattr(os, "access", lambda path, _mode: not Path(path).is_relative_to(root))
    source = saliency_source("colourful", {})
    assert stage.maps_folder(dataset, source, tmp_path) == root / source.folder_name
    other = saliency_source("colourful", {"least": 3})
    assert stage.maps_folder(dataset, other, tmp_path) == tmp_path / other.folder_name
    refusal(lambda: stage.maps_folder(dataset, other, None), root, "cannot be written")


# --- what results depend on ----------------------------------------------------------------------------------------


def test_the_localizer_depends_on_provider_options_and_maps(root, tmp_path):
    fill(root)
    usual = localizer_inputs(salient(root, tmp_path / "run"))
    assert localizer_inputs(salient(root, tmp_path / "run")) == usual
    assert localizer_inputs(salient(root, tmp_path / "run", {"name": "colourful", "least": 61})) != usual
    assert localizer_inputs(salient(root, tmp_path / "run", "background-connectivity")) != usual
    path = root / saliency_source("colourful", {}).folder_name / "s03.png"
    path.write_bytes(path.read_bytes() + b"\n")
    assert localizer_inputs(salient(root, tmp_path / "run")) != usual


def test_a_method_without_saliency_depends_on_no_provider(root, tmp_path):
    settings = salient(root, tmp_path / "run", "folder")
    settings["localize"]["method"] = "cam"
    usual = localizer_inputs(settings)
    settings["data"]["saliency"] = "colourful"
    assert localizer_inputs(settings) == usual
    assert "saliency" not in [one.name for one in plan(Experiment(load_recipe(settings), Screen()), "report")]
    del settings["data"]["saliency"]
    assert localizer_inputs(settings) == usual


def test_maps_in_another_folder(root, tmp_path):
    for folder, end in (("one", 20), ("two", 20), ("three", 30)):
        for image_id in split_ids(root, "train"):
            mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
            mask[10:end, 10:20] = 255
            write_mask(tmp_path / folder / f"{image_id}.png", mask)
    prints = [
        localizer_inputs(salient(root, tmp_path / "run", {"path": str(tmp_path / folder)}))
        for folder in ("one", "two", "three")
    ]
    assert prints[0] == prints[1] != prints[2]
    settings = salient(root, tmp_path / "run", {"path": str(tmp_path / "one")})
    experiment = Experiment(load_recipe(settings), Screen())
    assert stage.provenance(experiment.train_set, experiment.source) == "folder:one"
    assert experiment.train_set.sample("s03").saliency.sum() > 0
    missing = salient(root, tmp_path / "run", {"path": str(tmp_path / "none")})
    refusal(lambda: Experiment(load_recipe(missing), Screen()), tmp_path / "none", "data.saliency.path")


def test_wrong_settings_are_one_line(root, tmp_path):
    for given, words in (
        ("colorful", ("unknown saliency provider 'colorful'", "'colourful'")),
        ({"name": "colourful", "most": 3}, ("unknown key 'data.saliency.most'", "least")),
        ({"name": "background-connectivity", "superpixel": 3}, ("data.saliency.superpixel", "'superpixels'")),
        ({"name": "background-connectivity", "superpixels": 1}, ("data.saliency.superpixels", "greater")),
        ({"pth": "x"}, ("unknown key 'data.saliency.pth'", "'path'")),
    ):
        settings = salient(root, tmp_path / "run", given)
        refusal(lambda settings=settings: Experiment(load_recipe(settings), Screen()), *words)
    assert not (tmp_path / "run").exists()


def test_no_maps_at_all_is_an_error_that_names_the_way_out(root, tmp_path):
    settings = salient(root, tmp_path / "run", "folder")
    refusal(lambda: Experiment(load_recipe(settings), Screen()), "no image of train has", "background-connectivity")


def test_a_provider_of_another_package(monkeypatch, root, tmp_path):
    point = SimpleNamespace(name="elsewhere", load=lambda: Colourful)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "weakseg.saliency" else [])
    assert saliency_source("elsewhere", {"least": 5}).described() == "elsewhere(least=5)"
    assert [name for name, _ in describe_saliency()] == [
        "background-connectivity", "colourful", "elsewhere", "folder", "rembg",
    ]  # fmt: skip


def test_results_name_options_that_are_not_the_usual_ones(root):
    dataset = open_dataset("auto", root, "train")
    assert stage.provenance(dataset, saliency_source("colourful", {})) == "colourful"
    assert stage.provenance(dataset, saliency_source("colourful", {"least": 9})) == "colourful(least=9)"
    assert stage.provenance(dataset, saliency_source("folder", {})) == "folder"
    write_mask(root / "saliency/more/s00.png", torch.ones(HEIGHT, WIDTH, dtype=torch.uint8))
    assert stage.provenance(open_dataset("auto", root, "train"), saliency_source("folder", {})) == "folder:saliency"


@pytest.mark.parametrize(
    ("path", "image_id", "name"),
    [
        ("train/saliency/a.png", "train/a", "saliency"),
        ("saliency/train/a.png", "train/a", "saliency"),
        ("SaliencyMaps/a.b.png", "a.b", "SaliencyMaps"),
    ],
)
def test_results_name_the_folder_of_maps_in_every_layout(tmp_path, path, image_id, name):
    dataset = SimpleNamespace(ids=(image_id,), paths=lambda _: {"saliency": tmp_path / path})
    assert stage.provenance(dataset, saliency_source("folder", {})) == f"folder:{name}"


# --- without a recipe ----------------------------------------------------------------------------------------------


def fill(root, provider="colourful", options=(), workers=1, splits=None, reporter=None):
    return fill_saliency(
        root, provider, options, kind="auto", splits=splits, workers=workers, reporter=reporter or Screen()
    )


def test_filling_makes_the_maps_of_train_and_val(root):
    folder, made = fill(root)
    assert made == TRAIN + VAL
    assert [folder.name] == caches(root)
    for split in ("train", "val"):
        for image_id in split_ids(root, split):
            found = read_saliency(folder / f"{image_id}.png")
            image = open_dataset("auto", root, split).sample(image_id).image
            assert torch.equal(found[0], Colourful()(image))
    assert fill(root) == (folder, 0)


def test_filling_one_split_with_options(root):
    folder, made = fill(root, options=["least=20"], splits=["val"])
    assert made == VAL
    assert folder.name == saliency_source("colourful", {"least": 20}).folder_name
    assert folder.name != saliency_source("colourful", {}).folder_name


def test_filling_refusals(root):
    refusal(lambda: fill(root, "folder"), "'folder' takes maps that are there already", "weakseg saliency --list")
    refusal(lambda: fill(root, options=["least"]), "'--option least' has no value")
    refusal(lambda: fill(root, options=["least=[1"]), "is not YAML")
    refusal(lambda: fill(root, options=["last=1"]), "data.saliency.last", "'least'")
    refusal(lambda: fill(root / "none"), root / "none", "no such folder")
    assert caches(root) == []


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(tmp_path):
    one, two = folder_shapes(tmp_path / "one"), folder_shapes(tmp_path / "two")
    first, made = fill(one, "background-connectivity", workers=1)
    second, also = fill(two, "background-connectivity", workers=2)
    assert made == also == TRAIN + VAL
    assert first.name == second.name
    assert snapshot(first) == snapshot(second)
    assert set(CLASSES) == set(open_dataset("auto", two, "train").classes.names)


class NowhereElse(SaliencySource):
    """A provider that other processes cannot make."""

    def provider(self):
        if multiprocessing.parent_process() is not None:
            raise UserError("is damaged", where="model.onnx", remedy="Fetch it again")
        return super().provider()


@pytest.mark.slow
def test_a_provider_that_a_process_cannot_make_is_the_users_own_error(root, tmp_path):
    source = NowhereElse("background-connectivity", saliency_source("background-connectivity", {}).options)
    jobs = [stage.Job(root / "images/s05.png", "", tmp_path / f"{number}.png") for number in range(8)]
    refusal(lambda: list(stage.compute_all(jobs, source, workers=2)), "model.onnx: is damaged", "Fetch it again")


@pytest.mark.slow
def test_an_error_in_a_process_is_the_users_own(root):
    (root / "images/s05.png").write_bytes(b"broken")
    refusal(lambda: fill(root, "background-connectivity", workers=2), root / "images/s05.png")
