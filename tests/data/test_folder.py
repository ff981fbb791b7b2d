import pickle
import shutil

import pytest
import torch

from tests.data.trees import folder_tree, put_boxes, put_image, put_mask, put_saliency, put_text, refusal
from weakseg.data.catalog import open_dataset
from weakseg.data.folder import FolderDataset
from weakseg.data.ids import check_id, id_of
from weakseg.data.sample import WeakLabel


@pytest.mark.parametrize("name", ["001", "cats/001", "cats.small/a b", "é", "..a", "a..b"])
def test_plain_ids_are_accepted(name):
    assert check_id(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "..", "../a", "a/../b", "a/..", "/etc/passwd", "a//b", "./a", "a\\b", "C:/a", "C:a", "a\nb", "a\0"],
)
def test_ids_that_lead_elsewhere_are_refused(name):
    refusal(lambda: check_id(name, where="list.txt"), "list.txt")


def test_only_an_image_suffix_is_taken_off():
    assert id_of("cats/001.JPG") == id_of("cats/001") == "cats/001"
    assert id_of("2007.12.24") == "2007.12.24"


def test_images_tags_and_classes(tmp_path):
    dataset = FolderDataset(folder_tree(tmp_path))
    assert dataset.split == "train"
    assert dataset.classes.names == ("cat", "dog")
    assert dataset.ids == ("a", "b", "c", "d")
    assert len(dataset) == 4
    assert [dataset.tags(name) for name in dataset.ids] == [(0,), (1,), (0, 1), (1,)]
    sample = dataset[2]
    assert sample.id == "c"
    assert sample.image.shape == (3, 40, 48)
    assert sample.tags.tolist() == [True, True]
    assert sample.boxes is sample.box_classes is sample.saliency is sample.mask is None
    assert [dataset.has(kind) for kind in WeakLabel] == [True, False, False, False]


def test_all_labels(tmp_path):
    root = folder_tree(tmp_path)
    put_mask(root / "masks/a.png", 2)
    put_saliency(root / "saliency/a.png")
    put_boxes(root / "annotations/a.xml", ("cat", 1, 1, 10, 5))
    dataset = FolderDataset(root)
    sample = dataset.sample("a")
    assert sample.mask[10, 10] == 2
    assert sample.saliency.unique().tolist() == pytest.approx([0.2, 1])
    assert sample.boxes.tolist() == [[0, 0, 10, 5]]
    assert sample.box_classes.tolist() == [0]
    assert set(dataset.paths("a")) == {"image", "mask", "saliency", "annotation"}
    assert set(dataset.paths("b")) == {"image"}
    assert all(dataset.has(kind) for kind in WeakLabel)


def test_images_in_the_root_and_in_subfolders(tmp_path):
    put_image(tmp_path / "x.JPEG")
    put_image(tmp_path / "cats/x.PNG")
    put_image(tmp_path / ".hidden/y.png")
    put_mask(tmp_path / "masks/cats/x.png")
    put_text(tmp_path / "tags.csv", "image,tags\ncats/x.PNG,cat\nx,dog\n")
    dataset = FolderDataset(tmp_path)
    assert dataset.ids == ("cats/x", "x")
    assert dataset.sample("cats/x").mask is not None


@pytest.mark.parametrize(
    "content",
    [
        b"image,tags\na,cat dog\nb,cat\n",
        b"\xef\xbb\xbfimage,tags\r\na.jpg,cat dog\r\nb.jpg,cat\r\n",
        b'image,tags\na,"cat,dog"\nb,cat\n',
        b'Image, Tags\na,"cat, dog"\n\nb, cat \n',
        b"image,tags\na,cat;dog\nb,cat;\n",
        b"image,tags\na,cat | dog\nb,cat\n",
        b"image,tags\na,dog cat dog\nb,cat\n",
    ],
)
def test_ways_to_write_tags(tmp_path, content):
    put_image(tmp_path / "a.jpg")
    put_image(tmp_path / "b.jpg")
    (tmp_path / "tags.csv").write_bytes(content)
    dataset = FolderDataset(tmp_path)
    assert dataset.classes.names == ("cat", "dog")
    assert [dataset.tags(name) for name in "ab"] == [(0, 1), (0,)]


def test_class_names_with_spaces(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,traffic light;car\nb,traffic light\nc,\nd,car\n")
    dataset = FolderDataset(root)
    assert dataset.classes.names == ("car", "traffic light")
    assert [dataset.tags(name) for name in "abcd"] == [(0, 1), (1,), (), (0,)]


def test_a_known_class_is_not_taken_apart(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,traffic light\nb,car\nc,car\nd,car\n")
    put_text(root / "classes.txt", "background\ncar\ntraffic light\n")
    assert FolderDataset(root).tag_names("a") == ("traffic light",)


def test_classes_given_or_in_a_file_keep_their_order(tmp_path):
    root = folder_tree(tmp_path)
    put_text(root / "classes.txt", "dog\ncat\nbird\n")
    assert FolderDataset(root).classes.names == ("dog", "cat", "bird")
    assert FolderDataset(root, classes=["cat", "dog"]).classes.names == ("cat", "dog")


def test_split_column(tmp_path):
    root = folder_tree(tmp_path, "image,tags,split\na,cat,train\nb,dog,val\nc,cat dog,\n")
    assert FolderDataset(root).ids == ("a", "c")
    assert FolderDataset(root, "val").ids == ("b",)
    assert FolderDataset(root, "val").classes.names == ("cat", "dog")
    refusal(lambda: FolderDataset(root, "test"), root, "'test'", "train, val", f"column split of {root / 'tags.csv'}")


def test_split_files(tmp_path):
    root = folder_tree(tmp_path)
    put_text(root / "splits/train.txt", "c.jpg\na\n\n")
    put_text(root / "splits/val.txt", "b\n")
    assert FolderDataset(root).ids == ("c", "a")
    assert FolderDataset(root, "val").ids == ("b",)
    line = refusal(lambda: FolderDataset(root, "test"), "There are: train, val", root / "splits/test.txt")
    assert "data.val" not in line


def test_without_splits_there_is_train_only(tmp_path):
    root = folder_tree(tmp_path)
    words = ("'val'", "There are: train", f"column split of {root / 'tags.csv'}", "--set data.val=null")
    refusal(lambda: FolderDataset(root, "val"), root, *words)


def test_the_column_of_the_table_counts_where_there_are_lists_too(tmp_path):
    root = folder_tree(tmp_path, "image,tags,split\na,cat,train\nb,dog,train\nc,cat dog,\n")
    put_text(root / "splits/val.txt", "b\n")
    assert "splits/val.txt" not in refusal(lambda: FolderDataset(root, "val"), "column split of", "data.val=null")


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ("picture,label\na,cat\n", "picture,label"),
        ("", "image,tags"),
        ("image,tags\na,cat,dog\n", "line 2"),
        ('image,tags\na,"cat\n', "CSV"),
        ("image,tags\n../../etc/passwd,cat\n", "line 2"),
        ("image,tags\n/etc/passwd,cat\n", "line 2"),
        ("image,tags\na,\n", "has no tags"),
    ],
)
def test_bad_tables(tmp_path, table, part):
    root = folder_tree(tmp_path, table)
    refusal(lambda: FolderDataset(root), root / "tags.csv", part)


def test_table_that_is_not_utf8(tmp_path):
    root = folder_tree(tmp_path)
    (root / "tags.csv").write_bytes("image,tags\na,Käfer\n".encode("latin-1"))
    refusal(lambda: FolderDataset(root), root / "tags.csv", "UTF-8")


def test_missing_table_empty_folder_empty_list(tmp_path):
    root = folder_tree(tmp_path / "data")
    put_text(root / "splits/train.txt", "\n")
    refusal(lambda: FolderDataset(root), root / "splits/train.txt", "empty")
    (root / "tags.csv").unlink()
    refusal(lambda: FolderDataset(root), root / "tags.csv", "missing")
    (tmp_path / "empty").mkdir()
    refusal(lambda: FolderDataset(tmp_path / "empty"), tmp_path / "empty", "no images")


@pytest.mark.parametrize(
    ("classes", "part"), [("cat\ncat\n", "twice"), ("\n", "0 classes"), ("cat\nbackground\n", "background")]
)
def test_bad_class_lists(tmp_path, classes, part):
    root = folder_tree(tmp_path)
    put_text(root / "classes.txt", classes)
    refusal(lambda: FolderDataset(root), root / "classes.txt", part)


def test_unknown_tag_names_the_table_and_the_near_match(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,catt\nb,dog\n")
    put_text(root / "classes.txt", "cat\ndog\n")
    dataset = FolderDataset(root)
    refusal(lambda: dataset.sample("a"), root / "tags.csv", "'catt'", "Did you mean 'cat'")
    assert dataset.sample("b").tags.tolist() == [False, True]


def test_unknown_image_is_refused(tmp_path):
    root = folder_tree(tmp_path)
    refusal(lambda: FolderDataset(root).sample("../tags"), root)


def test_row_without_image_and_image_without_row(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,cat\nghost,dog\n")
    dataset = FolderDataset(root)
    assert dataset.ids == ("a", "b", "c", "d", "ghost")
    assert dataset.tags("b") is None
    assert dataset.sample("b").tags is None
    refusal(lambda: dataset.sample("ghost"), root, "ghost")


def test_mask_of_another_size(tmp_path):
    root = folder_tree(tmp_path)
    put_mask(root / "masks/a.png", width=47)
    line = refusal(lambda: FolderDataset(root).sample("a"), root / "masks/a.png")
    assert "47 x 40" in line
    assert "48 x 40" in line


def test_fingerprint_is_of_the_content(tmp_path):
    root = folder_tree(tmp_path / "one")
    put_text(root / "splits/train.txt", "a\nb\nc\n")
    put_text(root / "splits/val.txt", "d\n")
    shutil.copytree(root, tmp_path / "two")
    first, copy = FolderDataset(root), FolderDataset(tmp_path / "two")
    before, stat = first.fingerprint(), first.stat_fingerprint()
    assert copy.fingerprint() == before
    assert FolderDataset(root).stat_fingerprint() == stat
    put_image(root / "images/d.jpg", colour=(1, 2, 3))  # not in this split
    assert first.fingerprint() == before
    put_mask(root / "masks/a.png")
    with_mask = first.fingerprint()
    assert with_mask != before
    assert first.stat_fingerprint() != stat
    put_mask(root / "masks/a.png", value=2)
    assert first.fingerprint() != with_mask


def test_fingerprint_sees_tags_classes_and_list(tmp_path):
    root = folder_tree(tmp_path)
    prints = {FolderDataset(root).fingerprint(), FolderDataset(root, classes=["dog", "cat"]).fingerprint()}
    put_text(root / "tags.csv", "image,tags\na,dog\nb,dog\nc,cat dog\nd,dog\n")
    prints.add(FolderDataset(root).fingerprint())
    put_text(root / "splits/train.txt", "a\nb\nc\n")
    prints.add(FolderDataset(root).fingerprint())
    assert len(prints) == 4


def test_catalog(tmp_path):
    root = folder_tree(tmp_path / "data")
    assert isinstance(open_dataset("auto", root, "train"), FolderDataset)
    assert open_dataset("folder", str(root), classes=["dog", "cat"]).classes.names == ("dog", "cat")
    refusal(lambda: open_dataset("auto", tmp_path / "none", "train"), tmp_path / "none", "no such folder")
    refusal(lambda: FolderDataset(tmp_path / "none"), tmp_path / "none", "no such folder")
    scenes = tmp_path / "runs/demo/scenes"
    refusal(lambda: open_dataset("auto", scenes, "train"), scenes, "no such folder", "'weakseg demo'")
    refusal(lambda: open_dataset("auto", root / "tags.csv", "train"), root / "tags.csv", "is a file")
    refusal(lambda: open_dataset("foldr", root, "train"), "Did you mean 'folder'")


def test_can_be_sent_to_another_process(tmp_path):
    dataset = pickle.loads(pickle.dumps(FolderDataset(folder_tree(tmp_path))))
    assert torch.equal(dataset[0].tags, torch.tensor([True, False]))
