import pickle
from pathlib import Path

import pytest

from tests.data.trees import put_boxes, put_mask, put_text, refusal, voc_tree
from weakseg.data.annotations import Box, read_annotation
from weakseg.data.catalog import open_dataset
from weakseg.data.classes import VOC_CLASSES
from weakseg.data.sample import WeakLabel
from weakseg.data.voc import VOCDataset

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_everything_is_read(tmp_path):
    dataset = open_dataset("auto", voc_tree(tmp_path), "train")
    assert isinstance(dataset, VOCDataset)
    assert dataset.classes.names == ("cat", "dog")
    assert dataset.ids == ("a", "b", "c")
    sample = dataset.sample("c")
    assert sample.tags.tolist() == [True, True]
    assert sample.boxes.tolist() == [[10, 10, 30, 20]] * 2  # 1-based inclusive in the file
    assert sample.box_classes.tolist() == [0, 1]
    assert sample.mask.unique().tolist() == [0, 1, 2]
    assert sample.saliency.shape == (1, 40, 48)
    assert all(dataset.has(kind) for kind in WeakLabel)
    assert VOCDataset(tmp_path, "val").ids == ("d",)


def test_without_a_class_list_they_are_those_of_voc(tmp_path):
    (voc_tree(tmp_path) / "classes.txt").unlink()
    assert VOCDataset(tmp_path).classes.names == VOC_CLASSES


def test_tags_come_from_the_table_before_boxes_before_masks(tmp_path):
    root = voc_tree(tmp_path)
    put_boxes(root / "Annotations/a.xml", ("dog", 1, 1, 5, 5), difficult=1)
    assert VOCDataset(root).tags("a") == (1,)  # difficult objects count
    (root / "Annotations/a.xml").unlink()
    assert VOCDataset(root).tags("a") == (0,)
    (root / "SegmentationClass/a.png").unlink()
    assert VOCDataset(root).tags("a") is None
    put_text(root / "tags.csv", "image,tags\na,cat dog\n")
    dataset = VOCDataset(root)
    assert dataset.tags("a") == (0, 1)
    assert dataset.tags("b") is None


def test_boxes_that_reach_one_pixel_too_far_are_clipped(tmp_path):
    root = voc_tree(tmp_path)
    put_boxes(root / "Annotations/a.xml", ("cat", 0, 0, 49, 40))
    assert VOCDataset(root).sample("a").boxes.tolist() == [[0, 0, 48, 40]]


def test_annotation_without_objects_knows_that_there_are_none(tmp_path):
    root = voc_tree(tmp_path)
    put_boxes(root / "Annotations/a.xml")
    sample = VOCDataset(root).sample("a")
    assert sample.boxes.shape == (0, 4)
    assert sample.box_classes.shape == (0,)
    assert sample.tags.tolist() == [False, False]


def test_no_such_split_or_tree(tmp_path):
    root = voc_tree(tmp_path / "voc")
    refusal(lambda: VOCDataset(root, "test"), root, "There are: train, val")
    refusal(lambda: VOCDataset(tmp_path), tmp_path / "JPEGImages", "VOCdevkit")


def test_dangerous_id_in_a_list(tmp_path):
    root = voc_tree(tmp_path, train="a\n../../secret\n")
    refusal(lambda: VOCDataset(root), root / "ImageSets/Segmentation/train.txt", "../../secret")


def test_annotation_of_real_voc_style(tmp_path):
    path = put_text(
        tmp_path / "a.xml",
        "<?xml version='1.0'?><annotation><object><name> cat </name><difficult>1</difficult>"
        "<bndbox><xmax>20.5</xmax><xmin>2</xmin><ymin>3</ymin><ymax>9</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object></annotation>",
    )
    assert read_annotation(path).boxes == (Box("cat", (1, 2, 20.5, 9), difficult=True),)


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'


@pytest.mark.parametrize(
    "content",
    [
        BOMB.encode(),
        BOMB.encode("utf-16"),
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>',
        b"",
        b"<annotation>",
        b"<annotation>&x;</annotation>",
        b"<annotation><object><name>cat</name></object></annotation>",
        b"<annotation><object><bndbox/></object></annotation>",
    ],
)
def test_bad_annotations(tmp_path, content):
    (tmp_path / "a.xml").write_bytes(content)
    line = refusal(lambda: read_annotation(tmp_path / "a.xml"), tmp_path / "a.xml")
    assert len(line) < len(str(tmp_path)) + 200


@pytest.mark.parametrize("number", ["one", "nan", "inf", ""])
def test_corners_that_are_no_numbers(tmp_path, number):
    path = put_boxes(tmp_path / "a.xml", ("cat", number, 1, 5, 5))
    refusal(lambda: read_annotation(path), path)


def test_missing_annotation(tmp_path):
    refusal(lambda: read_annotation(tmp_path / "a.xml"), tmp_path / "a.xml", "no such file")


def test_unknown_class_in_a_box(tmp_path):
    root = voc_tree(tmp_path)
    path = put_boxes(root / "Annotations/a.xml", ("dgo", 1, 1, 5, 5))
    refusal(lambda: VOCDataset(root).sample("a"), path, "Did you mean 'dog'")


def test_mask_values_beyond_the_classes_are_no_tags(tmp_path):
    root = voc_tree(tmp_path)
    (root / "Annotations/a.xml").unlink()
    put_mask(root / "SegmentationClass/a.png", 7)
    assert VOCDataset(root).tags("a") == ()


def test_can_be_sent_to_another_process(tmp_path):
    dataset = VOCDataset(voc_tree(tmp_path))
    assert dataset.tags("a") == (0,)
    assert pickle.loads(pickle.dumps(dataset)).ids == dataset.ids


@pytest.mark.skipif(not (SHARED / "msrc-mini").is_dir(), reason="shared/data/msrc-mini is not here")
def test_real_pictures():
    dataset = open_dataset("auto", SHARED / "msrc-mini", "train")
    assert len(dataset) == 219
    assert len(dataset.classes) == 14
    for image_id in dataset.ids[:20]:
        sample = dataset.sample(image_id)
        in_mask = [value - 1 for value in sample.mask.unique().tolist() if value not in (0, 255)]
        assert tuple(in_mask) == dataset.tags(image_id)
        for box, kind in zip(sample.boxes.int().tolist(), sample.box_classes.tolist(), strict=True):
            inside = sample.mask[box[1] : box[3], box[0] : box[2]] == kind + 1
            assert inside.any(0)[[0, -1]].all()  # tight: the class reaches all four sides
            assert inside.any(1)[[0, -1]].all()
