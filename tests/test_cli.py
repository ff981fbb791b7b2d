"""The command line: what it prints, and how it answers everything that a user can do wrong."""

import errno
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import torch as safetensors

from tests.data.trees import put_boxes, put_image, put_mask, put_text, voc_tree
from tests.pipeline.shapes import CLASSES, HEIGHT, TRAIN, VAL, WIDTH, folder_shapes, png, recipe, results, snapshot
from weakseg import cli
from weakseg.data.images import read_mask
from weakseg.pipeline.run import run

SCRIPT = Path(sys.executable).parent / "weakseg"
PAIRS = {"localize.train.batch": 2, "segment.train.batch": 2}
OLD = {"recipe.yaml": "name: old\n", "masks/a.png": "an old mask", "MANIFEST.json": "{}"}


class Told:
    """What a command left behind: exit status, standard output, standard error."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def error(self):
        """The one line that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip("\n").splitlines()[-1] == lines[0]
        assert "Traceback" not in self.out + self.err
        return lines[0]


@pytest.fixture
def weakseg(monkeypatch, capsys):
    """Call the command line in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["weakseg", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Told(ended.value.code or 0, *capsys.readouterr())

    return call


def recipe_file(folder, settings):
    return put_text(folder / "recipe.yaml", yaml.safe_dump(settings))


def changed(settings, key, value):
    """The recipe with one key of one section set."""
    *sections, last = key.split(".")
    below = settings
    for section in sections:
        below = below.setdefault(section, {})
    below[last] = value
    return settings


def put_old(folder):
    for name, text in OLD.items():
        put_text(folder / name, text)


def refused(weakseg, tmp_path, root, settings=(), words=(), before=lambda folder: None):
    """Run a recipe on ``root``; it is refused, and the run folder stays as it was, whether or not it was there."""
    for folder, prepare in ((tmp_path / "new", lambda _: None), (tmp_path / "old", put_old)):
        prepare(folder)
        before(folder)
        known = snapshot(folder)
        chosen = recipe(root, folder)
        for key, value in dict(settings).items():
            changed(chosen, key, value)
        told = weakseg("run", recipe_file(tmp_path, chosen))
        assert told.status == 2
        for word in words:
            assert str(word) in told.error
        assert folder.exists() is bool(known)
        assert snapshot(folder) == known
        assert not list(tmp_path.rglob(".tmp-*"))
    return told.error


@pytest.fixture
def root(tmp_path):
    return folder_shapes(tmp_path / "data", train=6, val=2)


# Damage done to a small data set: a function of its root -> the file or name that must be in the answer, and words.


def truncated(root):
    path = root / "images/s02.png"
    path.write_bytes(path.read_bytes()[:300])
    return path, "cannot be decoded", "Replace it"


def empty(root):
    (root / "images/s02.png").write_bytes(b"")
    return root / "images/s02.png", "not an image", "Replace it"


def text_as_image(root):
    return put_text(root / "images/s02.png", "not an image"), "not an image", "JPEG or PNG"


def bomb(root):
    """A header that promises 4 thousand million pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
    path = root / "images/s02.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path, "too large", "Shrink it"


def mask_of_another_size(root):
    path = put_mask(root / "masks/s02.png", width=WIDTH - 1, height=HEIGHT)
    return path, f"is {WIDTH - 1} x {HEIGHT} pixels, its image {WIDTH} x {HEIGHT}", "same size"


def mask_of_colours(root):
    (root / "masks/s02.png").write_bytes(png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    return root / "masks/s02.png", "RGB", "palette PNG"


def mask_of_unknown_values(root):
    path = put_mask(root / "masks/s02.png", value=7, width=WIDTH, height=HEIGHT)
    return path, "mask values 7", "255 for what is to be ignored"


def saliency_that_is_text(root):
    path = put_text(root / "saliency/s02.png", "salient")
    return path, "is not an image", "Replace it"


def unknown_class(root):
    put_text(root / "classes.txt", "disc\nsquare")
    table = (root / "tags.csv").read_text()
    put_text(root / "tags.csv", table.replace("s02,disc square", "s02,disk"))
    return root / "tags.csv", "unknown class 'disk'", "'s02'", "Did you mean 'disc'"


def no_tags(root):
    put_text(root / "tags.csv", (root / "tags.csv").read_text().replace("s03,disc,", "s03,,"))
    return root / "tags.csv", "image 's03' has no tags", "data.allow_untagged"


def class_on_no_image(root):
    put_text(root / "classes.txt", "disc\nsquare\ntriangle")
    return root / "tags.csv", "no image of train shows 'triangle'", "remove it from the classes"


def class_on_every_image(root):
    put_text(root / "tags.csv", re.sub(r",square,", ",disc square,", (root / "tags.csv").read_text()))
    return root / "tags.csv", "every image of train shows 'disc'", "Add images without it"


def id_that_climbs(root):
    put_text(root / "tags.csv", (root / "tags.csv").read_text() + "../secret,disc,train\n")
    return f"{root / 'tags.csv'}, line 10", "'../secret'", "with no '..'"


def absolute_id(root):
    put_text(root / "tags.csv", (root / "tags.csv").read_text() + "/etc/passwd,disc,train\n")
    return f"{root / 'tags.csv'}, line 10", "'/etc/passwd'", "leading '/'"


def image_that_is_missing(root):
    (root / "images/s02.png").unlink()
    return root, "no file for the image 's02'", "Put it there"


def two_files_of_one_name(root):
    put_image(root / "images/s02.jpg", WIDTH, HEIGHT)
    return root / "images/s02", "s02.jpg and s02.png are both the image 's02'", "Rename or remove"


def contradicting_rows(root):
    put_text(root / "tags.csv", (root / "tags.csv").read_text() + "s02,disc,train\n")
    return root / "tags.csv", "'s02' has two rows", "Keep one row"


def table_without_header(root):
    put_text(root / "tags.csv", "s02,disc\n")
    return root / "tags.csv", "instead of 'image,tags'", "Write a line"


def table_with_too_many_columns(root):
    put_text(root / "tags.csv", (root / "tags.csv").read_text() + "s02,disc,train,square\n")
    return root / "tags.csv", "line 10 has 4 columns", "Separate the tags"


def table_in_another_encoding(root):
    (root / "tags.csv").write_bytes("image,tags\ns02,Größe\n".encode("latin-1"))
    return root / "tags.csv", "not UTF-8", "Save it as UTF-8"


def no_table(root):
    (root / "tags.csv").unlink()
    return root / "tags.csv", "no classes are known", "image,tags"


def no_images(root):
    shutil.rmtree(root / "images")
    (root / "images").mkdir()
    return root / "images", "no images", "Put some there"


def no_folder(root):
    shutil.rmtree(root)
    return root, "no such folder", "data.root"


def no_such_split(root):
    put_text(root / "tags.csv", (root / "tags.csv").read_text().replace(",val", ",test"))
    return root, "no split 'val'", "There are: test, train", "--set data.val=null"


DAMAGE = [
    *(truncated, empty, text_as_image, bomb, mask_of_another_size, mask_of_colours, mask_of_unknown_values),
    *(saliency_that_is_text, unknown_class, no_tags, class_on_no_image, class_on_every_image, id_that_climbs),
    *(absolute_id, image_that_is_missing, two_files_of_one_name, contradicting_rows, table_without_header),
    *(table_with_too_many_columns, table_in_another_encoding, no_table, no_images, no_folder, no_such_split),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_data_are_refused_in_one_line(weakseg, tmp_path, root, damage):
    refused(weakseg, tmp_path, root, words=damage(root))


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([("cat", 11, 11, 60, 20)], ("12 pixels outside the image of 48 x 40", "Correct it")),
        ([("cat", 20, 11, 10, 20)], ("has no area", "Correct or remove it")),
        ([("cta", 11, 11, 20, 20)], ("unknown class 'cta'", "'cat'")),
    ],
)
def test_damaged_boxes_are_refused_in_one_line(weakseg, tmp_path, boxes, words):
    root = voc_tree(tmp_path / "voc")
    path = put_boxes(root / "Annotations/a.xml", *boxes)
    refused(weakseg, tmp_path, root, PAIRS, (path, *words))


def test_saliency_makes_maps_beside_the_data(weakseg, tmp_path):
    root = voc_tree(tmp_path / "voc")
    told = weakseg("saliency", root, "--option", "superpixels=20", "--split", "train", "--workers", 1)
    (folder,) = root.glob("SaliencyMaps-background-connectivity-*")
    assert told.status == 0
    assert told.out == f"3 maps made, in {folder}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png", "c.png"]
    assert "warning" in told.err  # images of one colour
    again = weakseg("saliency", root, "--option", "superpixels=20", "--workers", 1)
    assert again.out == f"1 map made, in {folder}\n"


def test_saliency_lists_providers_and_refuses_in_one_line(weakseg, tmp_path):
    listed = weakseg("saliency", "--list").out
    assert "background-connectivity" in listed
    assert "superpixels=200" in listed
    for arguments, words in (
        ([], ("which data set?", "--list")),
        ([tmp_path / "none"], ("no such folder", "none")),
        ([tmp_path, "--provider", "background"], ("unknown saliency provider 'background'", "background-connectivity")),
        ([tmp_path, "--option", "superpixel=3"], ("superpixel", "Did you mean 'superpixels'")),
    ):
        told = weakseg("saliency", *arguments)
        assert told.status == 2
        assert all(word in told.error for word in words)


def test_a_list_that_climbs_is_refused_in_one_line(weakseg, tmp_path):
    root = voc_tree(tmp_path / "voc", train="a\n../b\nc\n")
    refused(weakseg, tmp_path, root, PAIRS, (root / "ImageSets/Segmentation/train.txt", "'../b'"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sed": 3}, ("unknown key 'sed'", "'seed'")),
        ({"localize.train.epoch": 3}, ("unknown key 'localize.train.epoch'", "'epochs'")),
        ({"localize.train.lr": "fast"}, ("'localize.train.lr' is 'fast'", "Correct the value")),
        ({"localize.method": "cma"}, ("unknown method 'cma'", "'cam'")),
        ({"localize.method": {"name": "cam", "droput": 0.5}}, ("localize.method.droput", "'dropout'")),
        ({"localize.method": {"name": "cam", "dropout": 5}}, ("localize.method.dropout",)),
        ({"localize.backbone.name": "resnet10"}, ("unknown backbone 'resnet10'", "'resnet10t'")),
        ({"localize.backbone.name": "test_vit"}, ("'test_vit' cannot run at output stride 8", "output_stride to 16")),
        ({"localize.backbone.weights": "no/w.safetensors"}, ("no/w.safetensors", "no such weights file")),
        ({"localize.backbone.freeze": ["layer11"]}, ("no module 'layer11'", "'layer1'")),
        ({"localize.backbone.options": {"sea": 3}}, ("test_resnet", "sea")),
        ({"localize.backbone.options": {"in_chans": 1}}, ("'test_resnet' gives no feature map", "backbone.options")),
        (
            {"segment.backbone": {"name": "test_resnet", "weights": "none", "freeze": ["layer11"]}},
            ("the segmenter's encoder 'test_resnet' has no module 'layer11'", "'layer1'"),
        ),
        ({"localize.train.batch": 100}, ("100", "Lower localize.train.batch")),
        ({"segment.train.batch": 100}, ("100", "Lower segment.train.batch")),
        ({"localize.train.augment.scale": [1, 2]}, ("both 'resize' and 'scale'", "localize.train.augment")),
        ({"segment.train.augment": {"crop": 32, "scale": [2, 1]}}, ("is no range", "segment.train.augment")),
        ({"refine": ["crf"]}, ("'crf' needs a background", "Put 'power'")),
        ({"refine": []}, ("no refiner says what background is",)),
        ({"refine": ["powre"]}, ("unknown refiner 'powre'", "'power'")),
        ({"refine": ["power", {"name": "crf", "params": "Z"}]}, ("unknown CRF parameter set 'Z'",)),
        ({"refine": ["power", {"name": "crf", "unary": "map"}]}, ("refine.1.unary",)),
        ({"segment.network": "unnet"}, ("unknown network 'unnet'", "'unet'")),
        ({"segment.network": {"name": "unet", "depth_of_sea": 3}}, ("'unet'", "depth_of_sea")),
        ({"segment.loss": {"name": "cross_entropy", "label_smoothing": 3}}, ("segment.loss.label_smoothing",)),
        ({"segment.predict.crf": "Z"}, ("unknown CRF parameter set 'Z'",)),
        ({"data.kind": "cocoo"}, ("unknown kind of data set 'cocoo'", "'coco'")),
        ({"data.kind": "voc"}, ("JPEGImages", "there is no such folder")),
        ({"data.train": "trian"}, ("no split 'trian'", "There are")),
        ({"data.root": "${data.rot}"}, ("'${data.rot}' refers to nothing",)),
        ({"run.device": "gpu"}, ("unknown device 'gpu'", "auto, cpu")),
        ({"run.device": "mps"}, ("1 mps device(s) wanted", "run.device")),
        ({"evaluate.seeds": ["val"], "data.val": None}, ("data.val",)),
        ({"data.train": "Train"}, ("'Train' cannot name a split",)),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_in_one_line(weakseg, tmp_path, root, settings, words):
    refused(weakseg, tmp_path, root, settings, words)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        (b"junk", {}, ("cannot be read as weights",)),
        (saved([1, 2]), {}, ("holds no table",)),
        (saved({}), {"localize.backbone.sha256": "0" * 64}, ("checksum differs", "Fetch")),
    ],
    ids=["junk", "list", "checksum"],
)
def test_damaged_weights_are_refused_in_one_line(weakseg, tmp_path, root, content, settings, words):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    refused(weakseg, tmp_path, root, {"localize.backbone.weights": str(path), **settings}, (path, *words))


def test_a_damaged_manifest_is_refused_in_one_line(weakseg, tmp_path, root):
    def damage(folder):
        put_text(folder / "MANIFEST.json", "{")

    refused(weakseg, tmp_path, root, {}, ("MANIFEST.json", "is damaged", "Remove the run folder"), damage)


def test_a_run_folder_that_is_a_file(weakseg, tmp_path, root):
    file = put_text(tmp_path / "taken", "mine")
    told = weakseg("run", recipe_file(tmp_path, recipe(root, file)))
    assert told.status == 2
    assert f"{file}: is a file" in told.error
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "mini/cma"), ("mini/cma", "Did you mean 'mini/cam'")),
        (("run", "mini/cam", "--set", "seed"), ("'--set seed' has no value", "section.key=value")),
        (("run", "mini/cam", "--set", "data.root=/no/such"), ("/no/such", "no such folder")),
        (("audit", "/no/such"), ("/no/such", "no such folder")),
        (("audit", ".", "--kind", "cooc"), ("unknown kind of data set 'cooc'",)),
        (("audit", ".", "--needs", "tag"), ("unknown kind of label 'tag'", "'tags'")),
        (("predict", "/no/such", "a.jpg"), ("/no/such", "holds no trained segmenter")),
        (("report", "/no/such"), ("/no/such", "holds no evaluated run")),
        (("networks", "--backbones", "resent*"), ("no backbone matches 'resent*'", "'resnet*'")),
        (("recipes", "--show", "mini/cma"), ("Did you mean 'mini/cam'",)),
    ],
    ids=str,
)
def test_wrong_commands_are_refused_in_one_line(weakseg, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    told = weakseg(*arguments)
    assert told.status == 2
    for word in words:
        assert word in told.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["name: [", "", "just text"])
def test_a_recipe_that_is_no_recipe(weakseg, tmp_path, text):
    file = put_text(tmp_path / "r.yaml", text)
    told = weakseg("run", file)
    assert told.status == 2
    assert str(file) in told.error


def test_names_are_printed_as_they_are(weakseg, tmp_path):
    """Neither [markup] nor :emoji: nor a long path changes the line."""
    odd = tmp_path / ("[red]x[-red] :dog: " + "y" * 150)
    told = weakseg("audit", odd)
    assert told.error.startswith(f"error: {odd}: there is no such folder")


def test_a_loss_that_explodes_keeps_what_there_is(weakseg, tmp_path, root):
    chosen = changed(recipe(root, tmp_path / "run"), "localize.train.lr", 1e30)
    told = weakseg("run", recipe_file(tmp_path, chosen))
    assert told.status == 2
    for word in ("the loss 'classification' is", "Lower train.lr"):
        assert word in told.error
    assert not (tmp_path / "run/localizer.safetensors").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, ("the disk is full", "Free some space")),
        (errno.EACCES, ("cannot be written (Permission denied)", "Choose")),
    ],
)
def test_a_file_that_cannot_be_written(weakseg, tmp_path, root, monkeypatch, code, words):
    def fails(*_, **__):
        raise OSError(code, os.strerror(code))

    chosen = recipe_file(tmp_path, recipe(root, tmp_path / "run"))
    monkeypatch.setattr(os, "fdopen", fails)
    told = weakseg("run", chosen)
    assert told.status == 2
    assert all(word in told.error for word in words)
    assert {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()} <= {".lock"}


def test_an_interruption_says_how_to_go_on(weakseg, tmp_path, root, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("weakseg.pipeline.run.run", interrupted)
    told = weakseg("run", recipe_file(tmp_path, recipe(root, tmp_path / "run")))
    assert told.status == 130
    assert "the same command goes on from here" in told.err
    assert "Traceback" not in told.err


def test_audit_counts_and_is_content(weakseg, root):
    told = weakseg("audit", root)
    assert told.status == 0
    assert "6 images in train and 2 images in val: 0 errors, 0 warnings" in told.out
    assert re.search(r"train\W+disc\W+4\W+2", told.out)


def test_audit_of_a_data_set_without_a_validation_split(weakseg, root):
    table = re.sub(r",val", ",train", (root / "tags.csv").read_text())
    put_text(root / "tags.csv", table)
    told = weakseg("audit", root)
    assert told.status == 0
    assert "8 images in train: 0 errors" in told.out


def test_audit_lists_what_is_wrong_with_its_remedy(weakseg, root):
    path, problem, remedy = mask_of_another_size(root)
    told = weakseg("audit", root)
    assert told.status == 2
    line = next(line for line in told.out.splitlines() if line.startswith("error: "))
    assert all(str(word) in line for word in (path, problem, remedy))
    assert "2 images in val: 1 error, 1 warning" in told.out


def test_audit_of_an_image_without_tags(weakseg, root):
    no_tags(root)
    assert weakseg("audit", root).status == 2
    assert weakseg("audit", root, "--allow-untagged").status == 0


def test_audit_of_images_of_every_kind(weakseg, root):
    """All of these are read, none is a reason to stop."""
    image = Image.open(root / "images/s02.png").convert("RGB")
    image.convert("CMYK").save(root / "images/c.jpg")
    image.convert("P").save(root / "images/p.png")
    image.convert("L").save(root / "images/g.jpg")
    image.convert("RGBA").save(root / "images/a.webp")
    Image.fromarray(np.full((HEIGHT, WIDTH), 40000, np.uint16)).save(root / "images/deep.png")
    lines = [f"{name},disc,train" for name in ("c", "p", "g", "a", "deep")]
    put_text(root / "tags.csv", (root / "tags.csv").read_text() + "\n".join(lines))
    told = weakseg("audit", root)
    assert told.status == 0, told.out
    assert "11 images in train" in told.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("methods",), ("cam", "needs tags", "dropout=0.0")),
        (("refiners",), ("crf", "power", "alpha=4.0")),
        (("networks",), ("deeplabv3plus", "unet")),
        (("networks", "--backbones", "resnet10*"), ("resnet10t", "resnet101")),
        (("recipes",), ("mini/cam",)),
        (("recipes", "--show", "mini/cam"), ("name: mini-cam", "method: ")),
        (("--help",), ("weakseg demo", "predict")),
        (("run", "--help"), ("Example:", "--set")),
    ],
    ids=str,
)
def test_lists_and_help(weakseg, arguments, words):
    told = weakseg(*arguments)
    assert told.status == 0
    assert told.err == ""
    for word in words:
        assert word in told.out


def test_a_shown_recipe_is_the_file(weakseg):
    from weakseg.pipeline.shipped import recipe_path

    told = weakseg("recipes", "--show", "mini/cam")
    assert yaml.safe_load(told.out) == yaml.safe_load(recipe_path("mini/cam").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def told(place):
    """What the installed script says while it makes a run."""
    settings = recipe(folder_shapes(place / "data"), place / "run", refine=["threshold"])
    file = recipe_file(place, settings)
    command = [SCRIPT, "run", file, "--set", "segment.train.epochs=1"]
    return subprocess.run(command, capture_output=True, text=True, cwd=place)


@pytest.mark.slow
class TestAFinishedRun:
    """Made by the installed script; then used."""

    def test_it_ends_well_and_prints_numbers_with_their_protocols(self, told, place):
        assert told.returncode == 0, told.stderr
        for name in ("seed@train", "seed@val", "mask@train", "seg@val"):
            assert re.search(rf"^{name} [\d.]+ % mIoU, [\d.]+ % contour_f \(tags, ", told.stdout, re.MULTILINE)
        assert f"report: {place / 'run/report/index.html'}" in told.stdout
        assert "Traceback" not in told.stderr

    def test_results_and_progress_go_to_different_places(self, told):
        assert "images/s" in told.stderr
        assert "images/s" not in told.stdout
        assert "mIoU" not in told.stderr

    def test_nothing_is_left_where_it_was_called(self, told, place):
        assert sorted(path.name for path in place.iterdir()) == ["data", "recipe.yaml", "run"]

    def test_it_is_the_run_that_python_gives(self, told, place, tmp_path):
        chosen = yaml.safe_load((place / "recipe.yaml").read_text())
        run(changed(chosen, "run.folder", str(tmp_path / "run")), overrides=["segment.train.epochs=1"])
        assert results(tmp_path / "run") == results(place / "run")

    def test_again_says_done(self, told, place, weakseg):
        again = weakseg("evaluate", place / "recipe.yaml", "--set", "segment.train.epochs=1")
        assert again.status == 0
        assert again.err.count("done before") == 6
        assert "seg@val" in again.out

    def test_report_is_written_again(self, told, place, weakseg, tmp_path):
        copied = Path(shutil.copytree(place / "run", tmp_path / "run"))
        shutil.rmtree(copied / "report")
        answer = weakseg("report", copied)
        assert answer.status == 0
        assert (copied / "report/index.html").read_bytes()[:15] == b"<!DOCTYPE html>"

    def predictions(self, told, place, weakseg, output, *images):
        found = weakseg("predict", place / "run", *images, "--output", output)
        assert found.status == 0, found.err
        return {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}

    def no_prediction(self, weakseg, tmp_path, folder, *images):
        """What it says; nothing is written."""
        answer = weakseg("predict", folder, *images, "--output", tmp_path / "out")
        assert answer.status == 2
        assert not (tmp_path / "out").exists()
        return answer.error

    def test_predict_a_file(self, told, place, weakseg, tmp_path):
        found = self.predictions(told, place, weakseg, tmp_path, place / "data/images/s02.png")
        assert list(found) == ["s02.png"]
        with Image.open(found["s02.png"]) as mask:
            assert (mask.mode, mask.size) == ("P", (WIDTH, HEIGHT))

    def test_predict_gives_what_the_run_gave(self, told, place, weakseg, tmp_path):
        found = self.predictions(told, place, weakseg, tmp_path, place / "data/images")
        assert len(found) == TRAIN + VAL
        assert "more/s00.png" in found
        for path in (place / "run/predictions").iterdir():
            differing = (read_mask(found[path.name]) != read_mask(path)).float().mean()
            assert differing < 0.01  # a batch of three rounds otherwise than one image

    def test_predict_a_glob_and_a_file_that_is_in_it(self, told, place, weakseg, tmp_path):
        images = place / "data/images"
        found = self.predictions(told, place, weakseg, tmp_path, f"{images}/s1[0-3].png", images / "s10.png")
        assert sorted(found) == ["s10.png", "s11.png", "s12.png", "s13.png"]

    def test_predict_an_image_of_another_kind_and_size(self, told, place, weakseg, tmp_path):
        Image.new("L", (31, 77), 90).save(tmp_path / "grey.jpg")
        found = self.predictions(told, place, weakseg, tmp_path / "out", tmp_path / "grey.jpg")
        assert read_mask(found["grey.png"]).shape == (77, 31)

    def test_predict_with_overlays(self, told, place, weakseg, tmp_path):
        answer = weakseg("predict", place / "run", place / "data/images/s02.png", "--output", tmp_path, "--overlay")
        assert answer.status == 0
        assert "1 image predicted in" in answer.out
        assert sorted(path.name for path in tmp_path.iterdir()) == ["s02.overlay.jpg", "s02.png"]

    def test_predict_two_images_of_one_name(self, told, place, weakseg, tmp_path):
        other = put_image(tmp_path / "other/s02.jpg")
        error = self.no_prediction(weakseg, tmp_path, place / "run", place / "data/images/s02.png", other)
        assert f"{other}: would have the same mask as" in error

    @pytest.mark.parametrize("pattern", ["*.gif", "nothing.png", "sub/**/*.jpg"])
    def test_predict_what_is_not_there(self, told, place, weakseg, tmp_path, pattern):
        assert pattern in self.no_prediction(weakseg, tmp_path, place / "run", tmp_path / pattern)

    def test_predict_a_damaged_image(self, told, place, weakseg, tmp_path):
        (tmp_path / "a.png").write_bytes((place / "data/images/s02.png").read_bytes()[:300])
        error = self.no_prediction(weakseg, tmp_path, place / "run", tmp_path / "a.png")
        assert f"{tmp_path / 'a.png'}: cannot be decoded" in error

    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("segmenter.safetensors", lambda content: content[:1000]),
            ("segmenter.safetensors", lambda content: b""),
            ("segmenter.safetensors", lambda content: safetensors.save(safetensors.load(content))),
            ("recipe.yaml", lambda content: b"name: ["),
        ],
    )
    def test_predict_with_a_damaged_run(self, told, place, weakseg, tmp_path, name, damage):
        broken = Path(shutil.copytree(place / "run", tmp_path / "run"))
        (broken / name).write_bytes(damage((broken / name).read_bytes()))
        error = self.no_prediction(weakseg, tmp_path, broken, place / "data/images/s02.png")
        assert str(broken / name) in error

    @pytest.mark.parametrize("name", ["metrics.json", "timings.json", "recipe.yaml"])
    def test_report_of_a_damaged_run(self, told, place, weakseg, tmp_path, name):
        broken = Path(shutil.copytree(place / "run", tmp_path / "run"))
        put_text(broken / name, "{")
        answer = weakseg("report", broken)
        assert answer.status == 2
        assert str(broken / name) in answer.error

    def test_the_metrics_are_in_the_file(self, told, place):
        metrics = json.loads((place / "run/metrics.json").read_text())
        for name, value in metrics.items():
            assert f"{name} {100 * value['miou']:.1f} % mIoU" in told.stdout
            assert list(value["per_class"]) == ["background", *CLASSES]
