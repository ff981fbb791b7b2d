"""Folders by split, and ``data.yaml``, as the tools around YOLO write them."""

import pickle

import pytest

from tests.data.trees import put_image, put_mask, put_text, refusal
from weakseg.data.audit import audit
from weakseg.data.catalog import open_dataset
from weakseg.data.findings import Severity
from weakseg.data.folder import FolderDataset
from weakseg.data.layout import find_layout
from weakseg.data.sample import WeakLabel
from weakseg.data.yolo_yaml import read_yaml
from weakseg.errors import UserError

SPLITS = {"train": "ab", "val": "c"}
NAMES = "names: [cat, dog]\n"


def boxed(image, label, number=1):
    put_image(image)
    put_text(label, f"{number} 0.5 0.5 1 1\n")


def laid_out(root, path, train, val, content):
    """a shows a cat, b and c a dog; ``path`` has places for the kind of file, the split's folder and the name."""
    for folder, split in ((train, "train"), (val, "val")):
        for name in SPLITS[split]:
            image, label = (root / path.format(kind, folder, name) for kind in ("images", "labels"))
            boxed(image.with_suffix(".jpg"), label.with_suffix(".txt"), int(name != "a"))
    if content:
        put_text(root / "data.yaml", content)
    return root


def inside(root, train="train", val="val", content=NAMES):
    """``images/train`` and ``labels/train``."""
    return laid_out(root, "{0}/{1}/{2}", train, val, content)


def around(root, train="train", val="valid", content=NAMES):
    """``train/images`` and ``train/labels``."""
    return laid_out(root, "{1}/{0}/{2}", train, val, content)


def findings(root):
    report = audit([open_dataset("auto", root, split) for split in SPLITS], frozenset({WeakLabel.BOXES}))
    return [one for one in report.findings if one.check not in ("positives", "negatives")]


@pytest.mark.parametrize(
    ("tree", "train", "val"),
    [
        (inside, "train", "val"),
        (inside, "train2017", "val2017"),
        (around, "train", "valid"),
        (around, "train", "val"),
        (around, "training", "validation"),
    ],
)
def test_folders_tell_splits(tmp_path, tree, train, val):
    root = tree(tmp_path, train, val)
    dataset = open_dataset("auto", root, "train")
    assert dataset.ids == (f"{train}/a", f"{train}/b")
    assert open_dataset("auto", root, "val").ids == open_dataset("auto", root, val).ids == (f"{val}/c",)
    assert dataset.sample(f"{train}/b").boxes.tolist() == [[0, 0, 48, 40]]
    assert dataset.tag_names(f"{train}/a") == ("cat",)
    assert open_dataset("auto", root, "val").tag_names(f"{val}/c") == ("dog",)
    assert findings(root) == []
    again = pickle.loads(pickle.dumps(dataset))
    assert again.boxes(f"{train}/a") == dataset.boxes(f"{train}/a")
    assert again.fingerprint() == dataset.fingerprint()


def test_masks_are_beside_the_folder_of_images(tmp_path):
    put_mask(inside(tmp_path / "one") / "masks/train/a.png")
    put_mask(around(tmp_path / "other") / "train/masks/a.png")
    for root in (tmp_path / "one", tmp_path / "other"):
        assert FolderDataset(root).mask("train/a").max() == 1
        assert FolderDataset(root).mask("train/b") is None


@pytest.mark.parametrize(
    "said",
    [
        "train: images/train\nval: images/val\n",
        "train: ./images/train/\nval: [images/val]\n",
        "path: .\ntrain: images/train\nval: images/val\ntest:\n",
        "path: /content/somewhere/else\ntrain: images/train\nval: images/val\n",
        "path: ../datasets/mine\ntrain: ../images/train\nval: ../images/val\n",
        "path: {root}\ntrain: images/train\nval: images/val\n",
        "train: {root}/images/train\nval: {root}/images/val\n",
        "path: images\ntrain: train\nval: val\n",
        "train: train.txt\nval: lists/val.txt\n",
    ],
)
def test_data_yaml_tells_splits(tmp_path, said):
    root = inside(tmp_path, content=NAMES + said.replace("{root}", str(tmp_path)))
    put_text(root / "train.txt", "./images/train/a.jpg\n\nimages/train/b.jpg\n")
    put_text(root / "lists/val.txt", f"{root}/images/val/c.jpg\n")
    assert FolderDataset(root).ids == ("train/a", "train/b")
    assert FolderDataset(root, "val").ids == ("val/c",)
    assert FolderDataset(root).sample("train/a").box_classes.tolist() == [0]
    assert findings(root) == []


@pytest.mark.parametrize("said", ["train: ../train/images\nval: ../valid/images\n", "train: train\nval: valid\n"])
def test_data_yaml_of_folders_by_split(tmp_path, said):
    root = around(tmp_path, content=NAMES + said)
    assert FolderDataset(root).ids == ("train/a", "train/b")
    assert FolderDataset(root, "val").ids == FolderDataset(root, "valid").ids == ("valid/c",)
    assert FolderDataset(root).boxes("train/a")[0].name == "cat"
    assert findings(root) == []


def test_data_yaml_comes_before_folders(tmp_path):
    root = inside(tmp_path, content=f"{NAMES}train: [images/train, images/val]\nval: images/train\n")
    assert FolderDataset(root).ids == ("train/a", "train/b", "val/c")
    assert FolderDataset(root, "val").ids == ("train/a", "train/b")


def test_images_deeper_down(tmp_path):
    root = around(tmp_path / "data", content="").parent
    put_text(root / "data.yaml", f"{NAMES}path: data\ntrain: train/images\nval: valid/images\n")
    assert FolderDataset(root).ids == ("data/train/a", "data/train/b")
    assert FolderDataset(root).sample("data/train/a").box_classes.tolist() == [0]
    assert findings(root) == []


def test_a_folder_of_images_within_another_is_no_second_one(tmp_path):
    root = inside(tmp_path, content=f"{NAMES}train: images/more/images\n")
    put_image(root / "images/more/images/d.jpg")
    assert FolderDataset(root).ids == ("more/images/d",)


def test_tables_and_lists_come_first(tmp_path):
    root = inside(tmp_path, content=f"{NAMES}train: nowhere\n")
    put_text(root / "splits/train.txt", "val/c\n")
    assert FolderDataset(root).ids == ("val/c",)
    put_text(root / "tags.csv", "image,tags,split\ntrain/a.jpg,cat,train\n")
    assert FolderDataset(root).ids == ("train/a",)


def test_a_table_without_splits(tmp_path):
    root = inside(tmp_path)
    put_text(root / "tags.csv", "image,tags\ntrain/a,dog\nval/c,cat\ntrain/lost,cat\n")
    assert FolderDataset(root).ids == ("train/a", "train/b", "train/lost")
    assert FolderDataset(root, "val").ids == ("val/c",)
    assert FolderDataset(root).tag_names("train/a") == ("dog",)
    assert any("there is no file for the image 'train/lost'" in one.problem for one in findings(root))


def test_folders_of_another_kind_are_no_splits(tmp_path):
    for name in ("cats/a", "dogs/b"):
        boxed(tmp_path / f"images/{name}.jpg", tmp_path / f"labels/{name}.txt")
    put_text(tmp_path / "data.yaml", NAMES)
    assert FolderDataset(tmp_path).ids == ("cats/a", "dogs/b")
    refusal(lambda: FolderDataset(tmp_path, "val"), "no split 'val'", "train")


@pytest.mark.parametrize(
    ("names", "said", "split"),
    [
        (("train", "boat", "cat"), "", False),
        (("train", "boat", "cat"), "train: images/train\n", True),
        (("train", "test2017", "more"), "", True),
        (("train2014", "train2017"), "", True),
        (("train", "2017", "val"), "", True),
    ],
)
def test_a_class_called_train_is_no_split(tmp_path, names, said, split):
    for name in names:
        boxed(tmp_path / f"images/{name}/a.jpg", tmp_path / f"labels/{name}/a.txt")
    put_text(tmp_path / "data.yaml", NAMES + said)
    found = find_layout(tmp_path, read_yaml(tmp_path)).splits
    assert set(names) <= set(found) if split else not found
    assert "" not in found
    assert split or FolderDataset(tmp_path).ids == ("boat/a", "cat/a", "train/a")


@pytest.mark.parametrize("odd", ["train: {a: b}\n", "train: [\n", "path: 7\ntrain: x\n"])
def test_an_odd_yaml_does_no_harm_where_tables_tell_splits(tmp_path, odd):
    put_image(tmp_path / "images/a.jpg")
    put_text(tmp_path / "data.yaml", odd)
    put_text(tmp_path / "tags.csv", "image,tags\na,cat\n")
    refusal(lambda: FolderDataset(tmp_path), "data.yaml, line ")
    put_text(tmp_path / "splits/val.txt", "a\n")
    assert FolderDataset(tmp_path, "val").ids == ("a",)
    (tmp_path / "splits/val.txt").unlink()
    (tmp_path / "splits").rmdir()
    put_text(tmp_path / "tags.csv", "image,tags,split\na,cat,val\n")
    assert FolderDataset(tmp_path, "val").ids == ("a",)


@pytest.mark.parametrize(
    ("tree", "places"), [(inside, ("labels/train", "labels/val")), (around, ("train/labels", "valid"))]
)
def test_lists_of_classes_among_labels(tmp_path, tree, places):
    root = tree(tmp_path, content="")
    for place in places:
        put_text(root / place / "classes.txt", "cat\ndog\n")
    assert FolderDataset(root).tag_names("train/a") == ("cat",)
    assert findings(root) == []
    put_text(root / places[1] / "classes.txt", "dog\ncat\n")
    refusal(lambda: FolderDataset(root), root / places[1] / "classes.txt", "another order")
    put_text(root / "labels/classes.txt", "dog\ncat\n")
    assert FolderDataset(root).tag_names("train/a") == ("dog",)


def test_a_split_that_is_not_there(tmp_path):
    root = inside(tmp_path)
    refusal(lambda: FolderDataset(root, "test"), "no split 'test'", "train, val", "folder of images 'test'")


def test_images_in_no_split(tmp_path):
    root = inside(tmp_path)
    put_image(root / "images/d.jpg")
    (found,) = {(one.check, one.severity, one.where) for one in findings(root)}
    assert found == ("unlisted", Severity.WARNING, str(root / "images/d.jpg"))


def test_a_list_that_repeats_an_image(tmp_path):
    root = inside(tmp_path, content=f"{NAMES}train: train.txt\n")
    put_text(root / "train.txt", "images/train/b.jpg\nimages/train/b.jpg\nimages/train/a.jpg\n")
    assert FolderDataset(root).ids == ("train/b", "train/a")
    (found,) = (one for one in findings(root) if one.check == "duplicate")
    assert found.where == str(root / "train.txt")


def test_labels_without_an_image(tmp_path):
    root = around(tmp_path)
    (root / "train/images/a.jpg").unlink()
    (found,) = (one for one in findings(root) if one.check == "boxes-image")
    assert "'train/a'" in found.problem
    assert found.where == str(root / "train/labels/a.txt")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("train: images/trian", ("data.yaml, line 2: ", "'train: images/trian' is no folder", "Correct it")),
        ("train: ../../etc", ("data.yaml, line 2: ", "within")),
        ("nc: 2\ntrain: 7", ("data.yaml, line 3: ", "neither a path nor a list")),
        ("train: [images/train, 7]", ("data.yaml, line 2: ", "neither a path nor a list")),
        ("train: images/train\npath: [1]", ("data.yaml, line 3: ", "is no path")),
        ("train: images/empty", ("data.yaml, line 2: ", "there are no images of train in")),
        ("train: list.txt", ("list.txt, line 2: ", "there is no image 'images/train/lost.jpg'")),
    ],
)
def test_places_that_are_none(tmp_path, said, words):
    root = inside(tmp_path, content=f"{NAMES}{said}\n")
    (root / "images/empty").mkdir()
    put_text(root / "list.txt", "images/train/a.jpg\nimages/train/lost.jpg\n")
    refusal(lambda: FolderDataset(root), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("train: images/train\nnames: []\n", ("line 2: ", "no entry 'names'")),
        ("names: [cat, dog]\nnc: 3\n", ("line 2: ", "says 'nc: 3', but 'names' has 2 classes")),
        ("train: images/train\nnames: [cat\n", ("line 3: ", "is not YAML")),
    ],
)
def test_names_that_are_none(tmp_path, content, words):
    refusal(lambda: FolderDataset(inside(tmp_path, content=content)), "data.yaml, ", *words)


def test_what_leads_out_of_the_folder_is_not_read(tmp_path):
    inside(tmp_path / "other")
    root = inside(tmp_path / "mine", content=f"{NAMES}path: ../other\ntrain: images/train\n")
    assert FolderDataset(root).paths("train/a")["image"] == root / "images/train/a.jpg"
    put_text(root / "data.yaml", f"{NAMES}train: {tmp_path}/other/images/train\n")
    with pytest.raises(UserError, match="within"):
        FolderDataset(root)
