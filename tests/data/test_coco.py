import pickle
from pathlib import Path

import pytest
import torch

from tests.data.trees import coco_content, coco_tree, put_image, put_json, put_saliency, put_text, refusal
from weakseg.data.audit import audit
from weakseg.data.catalog import open_dataset
from weakseg.data.coco import CocoDataset
from weakseg.data.coco_file import _read, read_coco
from weakseg.data.findings import Severity
from weakseg.data.folder import FolderDataset
from weakseg.data.pseudo import WeaklyLabelled, WithSaliency
from weakseg.data.sample import IGNORE, WeakLabel
from weakseg.data.voc import VOCDataset

SHARED = Path(__file__).parents[3] / "shared" / "data"
JSON = "annotations/instances_train.json"


def changed(root, change, json_file=JSON):
    """A tree whose JSON content has gone through ``change``."""
    content = coco_content()
    change(content)
    coco_tree(root, json_file)
    put_json(root / json_file, content)
    return root


def errors(root, split="train"):
    report = audit([CocoDataset(root, split)], frozenset({WeakLabel.BOXES, WeakLabel.MASKS}), allow_untagged=True)
    assert all(one.remedy for one in report.findings)
    return [one for one in report.findings if one.check not in ("positives", "negatives", "contradiction")]


def the_error(root, check, *words):
    (found,) = errors(root)
    assert found.check == check
    for word in words:
        assert str(word) in f"{found.where}: {found.problem}. {found.remedy}"
    return found


def test_everything_is_read(tmp_path):
    dataset = open_dataset("auto", coco_tree(tmp_path), "train")
    assert isinstance(dataset, CocoDataset)
    assert dataset.classes.names == ("dog", "cat")
    assert dataset.ids == ("a", "b", "c")
    sample = dataset.sample("a")
    assert sample.boxes.tolist() == [[10, 10, 15, 15], [4, 4, 34, 34]]  # no crowd
    assert sample.box_classes.tolist() == [1, 0]
    assert [dataset.tags(name) for name in "abc"] == [(0, 1), (1,), ()]
    assert dataset.sample("c").boxes.shape == (0, 4)
    assert dataset.sample("c").mask.max() == 0
    assert [dataset.has(kind) for kind in WeakLabel] == [True, True, False, True]
    assert errors(tmp_path) == []
    assert pickle.loads(pickle.dumps(dataset)).sample("a").mask.equal(sample.mask)


def test_smaller_objects_are_drawn_over_larger_ones_and_all_over_crowds(tmp_path):
    expected = torch.zeros(40, 48, dtype=torch.uint8)
    expected[:, 30:] = IGNORE
    expected[4:34, 4:34] = 1
    expected[10:15, 10:15] = 2
    assert CocoDataset(coco_tree(tmp_path)).mask("a").equal(expected)


def test_objects(tmp_path):
    root = changed(tmp_path, lambda content: content["annotations"][0].pop("area"))
    objects = CocoDataset(root).objects("a")
    assert objects.classes.tolist() == [1, 0, 1]
    assert objects.crowd.tolist() == [False, False, True]
    assert objects.areas.tolist() == [25, 900, 720]
    assert objects.masks.sum((1, 2)).tolist() == [25, 900, 720]
    assert len(CocoDataset(root).objects("c")) == 0
    assert CocoDataset(root).objects("c").masks.shape == (0, 40, 48)


def test_a_crowd_is_a_tag_but_no_box(tmp_path):
    root = changed(tmp_path, lambda content: content["annotations"].pop(0))
    sample = CocoDataset(root).sample("a")
    assert sample.tags.tolist() == [True, True]
    assert sample.box_classes.tolist() == [0]


def test_some_of_the_categories(tmp_path):
    root = coco_tree(tmp_path)
    every = CocoDataset(root).fingerprint()
    put_text(root / "annotations/classes.txt", "background\ncat\n")
    put_text(root / "classes.txt", "nobody looks here\n")
    dataset = CocoDataset(root)
    assert dataset.classes.names == ("cat",)
    assert dataset.sample("a").boxes.tolist() == [[10, 10, 15, 15]]
    assert dataset.mask("a").unique().tolist() == [0, 1, IGNORE]
    assert dataset.mask("a")[20, 31] == 0  # the dog that is left out hides the crowd
    assert dataset.objects("a").classes.tolist() == [0, 0]
    assert dataset.fingerprint() != every
    assert CocoDataset(root, classes=["cat", "dog"]).classes.names == ("cat", "dog")
    put_text(root / "annotations/classes.txt", "catt\n")
    refusal(lambda: CocoDataset(root), root / "annotations/classes.txt", "'catt'", "Did you mean 'cat'")


@pytest.mark.parametrize(
    ("json_file", "images"),
    [
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train.json", "images/train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train2017.json", "train"),
        ("instances_train.json", "images"),
        ("coco_json/instances_train.json", "JPEGImages"),
        ("annotations/instances.json", "."),
        ("coco_json/instances.json", "JPEGImages"),
        ("instances.json", "images"),
        ("annotations.json", "images"),
    ],
)
def test_places(tmp_path, json_file, images):
    dataset = CocoDataset(coco_tree(tmp_path, json_file, images))
    assert dataset.json == tmp_path / json_file
    assert dataset.sample("a").tags.all()
    assert dataset.fingerprint() != ""
    assert dataset.stat_fingerprint() != ""


def test_which_kind_a_folder_is(tmp_path):
    coco_tree(tmp_path / "one", "annotations/instances.json", "images")
    coco_tree(tmp_path / "two", "instances_val2017.json", "val2017")
    coco_tree(tmp_path / "three", "instances.json", "images")
    coco_tree(tmp_path / "four", "coco_json/instances.json", "JPEGImages")
    put_text(tmp_path / "four/ImageSets/Segmentation/train.txt", "a\n")
    kinds = [type(open_dataset("auto", tmp_path / name, split)) for name, split in
             (("one", "train"), ("two", "val"), ("three", "train"), ("four", "train"))]  # fmt: skip
    assert kinds == [CocoDataset, CocoDataset, FolderDataset, VOCDataset]
    assert open_dataset("coco", tmp_path / "four", "train").ids == ("a",)


@pytest.mark.parametrize("folder", ["ImageSets/Segmentation", "ImageSets", "ImageSets/Main", "splits"])
def test_one_file_for_all_splits(tmp_path, folder):
    root = coco_tree(tmp_path, "coco_json/instances.json", "JPEGImages")
    put_text(root / folder / "train.txt", "c\na.jpg\n")
    put_text(root / folder / "val.txt", "b\n")
    assert CocoDataset(root).ids == ("c", "a")
    assert CocoDataset(root, "val").ids == ("b",)
    refusal(lambda: CocoDataset(root, "test"), "There are: train, val", root / folder / "test.txt")
    assert errors(root) == []


def test_one_file_without_lists_is_train(tmp_path):
    root = coco_tree(tmp_path, "annotations/instances.json", "images")
    assert CocoDataset(root).ids == ("a", "b", "c")
    refusal(lambda: CocoDataset(root, "val"), "There are: train", "data.val=null")


def test_the_newest_year_and_others_by_name(tmp_path):
    root = coco_tree(tmp_path, "annotations/instances_train2014.json", "images")
    put_json(root / "annotations/instances_train2017.json", coco_content())
    assert CocoDataset(root).json.stem == "instances_train2017"
    assert CocoDataset(root, "train2014").json.stem == "instances_train2014"
    refusal(lambda: CocoDataset(root, "val"), "There are: train2014, train2017", "instances_val.json")


def test_what_is_listed_but_not_in_the_file(tmp_path):
    root = coco_tree(tmp_path, "annotations/instances.json", "images")
    put_text(root / "splits/train.txt", "a\nx\na\n")
    found = errors(root)
    assert [one.check for one in found] == ["missing", "duplicate"]
    assert "image 'x' is not in instances.json" in found[0].problem
    put_text(root / "splits/train.txt", "x\n")
    refusal(lambda: CocoDataset(root), root / "annotations/instances.json", "none of the images of train")
    put_text(root / "splits/train.txt", "../a\n")
    refusal(lambda: CocoDataset(root), root / "splits/train.txt", "'../a'")


def test_nothing_there(tmp_path):
    refusal(lambda: CocoDataset(tmp_path), tmp_path, "no JSON file of COCO", "instances_train.json")
    put_json(tmp_path / JSON, coco_content())
    refusal(lambda: CocoDataset(tmp_path), tmp_path, "no folder with the images", "a.jpg")


def test_missing_image(tmp_path):
    root = coco_tree(tmp_path)
    (root / "train/b.jpg").unlink()
    the_error(root, "missing", "'b'")


def test_saliency_maps(tmp_path):
    root = coco_tree(tmp_path)
    put_saliency(root / "saliency/a.png")
    put_saliency(root / "SaliencyMaps/b.png")
    dataset = CocoDataset(root)
    assert ["saliency" in dataset.paths(name) for name in "abc"] == [True, True, False]
    assert dataset.sample("a").saliency.max() == 1
    assert WithSaliency(dataset, root / "saliency").sample("a").mask.max() == IGNORE


def test_only_what_is_needed_reaches_training(tmp_path):
    dataset = CocoDataset(coco_tree(tmp_path))
    weak = WeaklyLabelled(dataset, frozenset({WeakLabel.TAGS}))
    assert weak.sample("a").mask is weak.sample("a").boxes is weak.objects("a") is None
    assert weak.sample("a").tags.all()
    assert WeaklyLabelled(dataset, frozenset({WeakLabel.MASKS})).sample("a").mask.max() == IGNORE


def test_boxes_without_segmentations_are_no_masks(tmp_path):
    def without(content):
        for one in content["annotations"]:
            one["segmentation"] = []

    dataset = CocoDataset(changed(tmp_path / "none", without))
    assert not dataset.has(WeakLabel.MASKS)
    assert dataset.mask("a") is dataset.objects("a") is None
    dataset = CocoDataset(changed(tmp_path / "some", lambda content: content["annotations"][0].pop("segmentation")))
    assert ["mask" in dataset.paths(name) for name in "abc"] == [False, True, True]
    assert dataset.sample("a").mask is None


def test_a_size_that_is_not_given_is_the_images(tmp_path):
    root = changed(tmp_path, lambda content: content["images"][0].pop("width"))
    assert CocoDataset(root).mask("a").shape == (40, 48)


def test_another_size(tmp_path):
    root = coco_tree(tmp_path)
    put_image(root / "train/b.jpg", 48, 41)
    found = errors(root)
    assert [one.check for one in found] == ["size", "size"]  # of the mask, and of the boxes
    assert "is 48 x 40 pixels, its image 48 x 41" in found[0].problem
    assert "says that the image 'b' is 48 x 40 pixels" in found[1].problem


def with_entry(**fields):
    entry = {"id": 99, "image_id": 8, "category_id": 17, "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6]]}
    return lambda content: content["annotations"].append(entry | fields)


@pytest.mark.parametrize(
    ("fields", "check", "words"),
    [
        ({"bbox": [1, 1, 5]}, "unreadable", ("has no bbox of four numbers",)),
        ({"bbox": None}, "unreadable", ("has no bbox of four numbers",)),
        ({"bbox": [1, 1, "5", 5]}, "unreadable", ("has no bbox of four numbers",)),
        ({"bbox": [1, 1, float("nan"), 5]}, "unreadable", ("is not finite",)),
        ({"bbox": [1, 1, float("inf"), 5]}, "unreadable", ("is not finite",)),
        ({"bbox": [1, 1, 10**400, 5]}, "unreadable", ("is not finite",)),
        ({"category_id": 19}, "unreadable", ("has the category 19", "Known: 18 (dog), 17 (cat)")),
        ({"category_id": [17]}, "unreadable", ("has the category [17]",)),
        ({"segmentation": "x"}, "unreadable", ("neither a list of polygons",)),
        ({"segmentation": [[1, 2, 3]]}, "unreadable", ("pairs of numbers",)),
        ({"segmentation": [[0, 0, 1e6, 0, 0, 1e6]]}, "unreadable", ("far outside", "Correct or remove")),
        ({"segmentation": {"size": [40, 48], "counts": [5]}}, "unreadable", ("do not add up",)),
        ({"image_id": 77}, "boxes-image", ("is of the image 77, which 'images' lacks",)),
        ({"image_id": {}}, "boxes-image", ("which 'images' lacks",)),
        ({"bbox": [40, 1, 20, 5]}, "box", ("x 40, y 1, width 20, height 5", "12 pixels outside", "from 0")),
        ({"bbox": [4, 1, -1, 5]}, "box", ("has no area", "width and height above 0")),
        ({"bbox": [0, 0, 20, 10]}, "box", ("stands there 2 times",)),
    ],
)
def test_bad_annotations(tmp_path, fields, check, words):
    root = changed(tmp_path, with_entry(**fields))
    number = 2 if "2 times" in words[0] else 99
    the_error(root, check, f"{root / JSON}, annotation {number}: ", *words)


def test_a_box_without_width_is_left_out(tmp_path):
    root = changed(tmp_path, with_entry(bbox=[4, 1, 0, 5]))
    found = [one for one in audit([CocoDataset(root)], frozenset()).findings if one.check == "tiny-box"]
    assert [one.severity for one in found] == [Severity.WARNING]
    assert "has no area, and is left out" in found[0].problem
    assert len(CocoDataset(root).sample("a").boxes) == len(CocoDataset(coco_tree(tmp_path / "as-is")).sample("a").boxes)


def test_a_size_that_no_image_has(tmp_path):
    root = changed(tmp_path, lambda content: content["images"][0].update(width=10**12, height=10**12))
    refusal(lambda: CocoDataset(root).mask("a"), JSON, "'a' is 1000000000000 x 1000000000000 pixels")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"id": 2**60 + 1, "name": "cow"}, "no number of its own"),
        ({"id": 10**400, "name": "cow"}, "no number of its own"),
        ({"id": 30, "name": "background"}, "'background' is listed"),
        ({"id": 30, "name": "cat"}, "'cat' stands twice"),
    ],
)
def test_categories_that_cannot_be(tmp_path, entry, words):
    root = changed(tmp_path, lambda content: content["categories"].append(entry))
    refusal(lambda: CocoDataset(root), root / JSON, words)


def test_a_name_that_no_file_can_have(tmp_path):
    root = changed(tmp_path, lambda content: content["images"].append({"id": 5, "file_name": "x" * 5000}))
    the_error(root, "boxes-image", "longer than file names can be")


def test_an_entry_that_is_no_object(tmp_path):
    root = changed(tmp_path, lambda content: content["annotations"].append([1, 2]))
    the_error(root, "boxes-image", "annotation 4", "which 'images' lacks")


@pytest.mark.parametrize(
    ("entry", "check", "words"),
    [
        ({"id": 9, "file_name": "x.jpg"}, "boxes-image", "has no id of its own"),
        ({"file_name": "x.jpg"}, "boxes-image", "has no id of its own"),
        ({"id": 5}, "boxes-image", "has no file_name"),
        ("x.jpg", "boxes-image", "has no file_name"),
        ({"id": 5, "file_name": "../../etc/passwd"}, "boxes-image", "is not a plain path"),
        ({"id": 5, "file_name": "/etc/passwd"}, "boxes-image", "is not a plain path"),
        ({"id": 5, "file_name": "a.png"}, "duplicate", "more than one entry of 'images' is the image 'a'"),
    ],
)
def test_bad_images(tmp_path, entry, check, words):
    root = changed(tmp_path, lambda content: content["images"].append(entry))
    the_error(root, check, root / JSON, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"images": [\n{]',
            "is not JSON (",
        ),
        ("[]", "is no JSON object"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": {}, "categories": [{"id": 1, "name": "a"}]}', "no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category 1 has no name"),
        ('{"images": [], "annotations": [], "categories": [3]}', "category 0 has no name"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "none of the images of train"),
        ('{"image_id": 1, "category_id": 2}', "is no JSON object"),
    ],
)
def test_files_that_are_none(tmp_path, content, words):
    put_text(coco_tree(tmp_path) / JSON, content)
    refusal(lambda: CocoDataset(tmp_path), tmp_path / JSON, words)


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path):
    root = coco_tree(tmp_path, "annotations/instances.json", "images")
    put_text(root / "splits/train.txt", "a\n")
    put_text(root / "splits/val.txt", "b\n")
    _read.cache_clear()
    assert read_coco(root / "annotations/instances.json") is CocoDataset(root)._file is CocoDataset(root, "val")._file
    assert _read.cache_info().misses == 1
    first = CocoDataset(root).fingerprint(), CocoDataset(root, "val").fingerprint()
    content = coco_content()
    content["annotations"][1]["segmentation"][0][0] = 1
    put_json(root / "annotations/instances.json", content)
    assert CocoDataset(root).fingerprint() == first[0]
    assert CocoDataset(root, "val").fingerprint() != first[1]


def test_tags_are_those_of_the_boxes_in_the_folder_kind_too(tmp_path):
    root = coco_tree(tmp_path, "instances.json", "images")
    dataset = FolderDataset(root)
    assert dataset.classes.names == ("dog", "cat")
    assert [dataset.tag_names(name) for name in "abc"] == [("cat", "dog"), ("cat",), ()]
    assert len(dataset.boxes("a")) == 2
    assert dataset.mask("a") is None


def test_real_data():
    root = SHARED / "coco-mini"
    if not root.is_dir():
        pytest.skip("shared/data/coco-mini is not here")
    dataset = open_dataset("coco", root, "val")
    assert len(dataset.classes) == 80
    assert len(dataset) == 102
    sample = dataset.sample(dataset.ids[0])
    assert sample.mask.shape == sample.image.shape[1:]
    truth = VOCDataset(root, "val").objects(dataset.ids[0])
    assert len(dataset.objects(dataset.ids[0])) >= len(truth)
