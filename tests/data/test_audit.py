from pathlib import Path

import pytest
from PIL import Image

from tests.data.trees import folder_tree, put_boxes, put_image, put_mask, put_text, voc_tree
from weakseg.data.audit import ClassRow, audit
from weakseg.data.catalog import open_dataset
from weakseg.data.findings import Severity
from weakseg.data.sample import WeakLabel
from weakseg.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
TAGS = frozenset({WeakLabel.TAGS})
SALIENT = frozenset({WeakLabel.TAGS, WeakLabel.SALIENCY})
EVERYTHING = frozenset(WeakLabel)


def report_on(root, splits=("train",), needs=TAGS, **options):
    return audit([open_dataset("auto", root, split) for split in splits], needs, **options)


def the_one(report, check, severity=Severity.ERROR):
    """The only finding; it belongs to ``check``."""
    assert [(finding.check, finding.severity) for finding in report.findings] == [(check, severity)]
    return report.findings[0]


def assert_stops_with(report, *parts):
    with pytest.raises(UserError) as raised:
        report.raise_for_errors()
    line = str(raised.value)
    assert raised.value.remedy
    assert "\n" not in line
    for part in parts:
        assert str(part) in line


def test_nothing_wrong(tmp_path):
    report = report_on(voc_tree(tmp_path), ("train", "val"), EVERYTHING)
    assert [finding.check for finding in report.findings] == ["positives"]  # no dog in val: only a warning
    assert report.errors == ()
    report.raise_for_errors()
    assert report.images == {"train": 3, "val": 1}
    assert report.classes[:2] == (ClassRow("train", "cat", 2, 1, 2, 3), ClassRow("train", "dog", 2, 1, 2, 3))


def test_progress_counts_images_of_all_splits(tmp_path):
    calls = []
    report_on(voc_tree(tmp_path), ("train", "val"), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_every_unreadable_file_is_found(tmp_path):
    root = voc_tree(tmp_path)
    broken = ["JPEGImages/a.jpg", "SegmentationClass/b.png", "SaliencyMaps/c.png"]
    for name in broken:
        (root / name).write_bytes(b"broken")
    report = report_on(root)
    assert [finding.where for finding in report.errors] == [str(root / name) for name in broken]
    assert {finding.check for finding in report.errors} == {"unreadable"}
    assert_stops_with(report, root / broken[0], "And 2 more problems: run weakseg audit")
    (row,) = report.rows()
    assert row.count == 3
    assert row.examples == tuple(str(root / name) for name in broken)


def test_broken_annotation_is_reported_once(tmp_path):
    root = voc_tree(tmp_path, train="a\nb\nc\nd\n")
    put_text(root / "Annotations/a.xml", "<annotation>")
    assert the_one(report_on(root), "unreadable").where == str(root / "Annotations/a.xml")


def test_sizes_differ(tmp_path):
    root, name = voc_tree(tmp_path), "SegmentationClass/a.png"
    put_mask(root / name, height=39)
    report = report_on(root)
    assert "48 x 39" in the_one(report, "size").problem
    assert_stops_with(report, root / name, "48 x 40", "same size")


def test_a_small_saliency_map_is_in_order(tmp_path):
    root = voc_tree(tmp_path)
    Image.open(root / "SaliencyMaps/a.png").resize((24, 20)).save(root / "SaliencyMaps/a.png")
    assert report_on(root, needs=SALIENT).findings == ()


@pytest.mark.parametrize(
    ("size", "check", "words"),
    [
        ((40, 40), "saliency-stretched", "40 x 40 pixels, stretched against its image of 48 x 40"),
        ((48, 40), "saliency-constant", "same value everywhere (0.00)"),
    ],
)
def test_useless_saliency_maps_are_counted_and_stop_nothing(tmp_path, size, check, words):
    root = voc_tree(tmp_path)
    for name in "ab":
        Image.new("L", size).save(root / f"SaliencyMaps/{name}.png")
    report = report_on(root, needs=SALIENT)
    assert [(found.check, found.severity) for found in report.findings] == [(check, Severity.WARNING)] * 2
    (row,) = report.rows()
    assert row.count == 2
    assert words in row.problem
    assert row.where == str(root / "SaliencyMaps/a.png")
    report.raise_for_errors()


def test_an_empty_saliency_map_is_found_and_a_missing_one_counted_apart(tmp_path):
    root = voc_tree(tmp_path)
    Image.linear_gradient("L").resize((48, 40)).point(lambda level: level / 3).save(root / "SaliencyMaps/a.png")
    (root / "SaliencyMaps/b.png").unlink()
    report = report_on(root, needs=SALIENT)
    assert [found.check for found in report.findings] == ["label-kind", "saliency-empty"]
    assert "1 of 3 images of train have no saliency map, such as 'b'" in report.findings[0].problem


def test_no_useful_saliency_map_is_an_error(tmp_path):
    root = voc_tree(tmp_path)
    for name in "abc":
        Image.new("L", (48, 40)).save(root / f"SaliencyMaps/{name}.png")
    report = report_on(root, needs=SALIENT)
    assert [found.check for found in report.errors] == ["label-kind"]
    assert_stops_with(report, "no image of train has a usable saliency map", "data.saliency: background-connectivity")
    report_on(root, needs=TAGS).raise_for_errors()


def test_unknown_tag(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,catt\nb,dog\nc,cat dog\nd,dog\n")
    put_text(root / "classes.txt", "cat\ndog\n")
    report = report_on(root)
    the_one(report, "class-name")
    assert_stops_with(report, root / "tags.csv", "'catt'", "'a'", "Did you mean 'cat'")


def test_unknown_class_of_a_box_is_reported_once(tmp_path):
    root = voc_tree(tmp_path)
    path = put_boxes(root / "Annotations/a.xml", ("cat", 1, 1, 5, 5), ("Dog", 1, 1, 5, 5))
    report = report_on(root)
    the_one(report, "class-name")
    assert_stops_with(report, path, "'Dog'", "Did you mean 'dog'")


def test_mask_values_that_are_no_class(tmp_path):
    root = voc_tree(tmp_path)
    put_mask(root / "SegmentationClass/a.png", 3)
    report = report_on(root)
    assert [finding.check for finding in report.errors] == ["mask-values"]
    assert_stops_with(report, root / "SegmentationClass/a.png", "values 3", "1 to 2", "255")


@pytest.mark.parametrize(
    ("box", "part"),
    [
        (("cat", 11, 11, 60, 20), "12 pixels outside"),
        (("cat", -9, 11, 30, 20), "10 pixels outside"),
        (("cat", 20, 11, 10, 20), "no area"),
        (("cat", 11, 21, 30, 20), "no area"),
    ],
)
def test_bad_boxes(tmp_path, box, part):
    root = voc_tree(tmp_path)
    path = put_boxes(root / "Annotations/a.xml", box)
    report = report_on(root)
    the_one(report, "box")
    assert_stops_with(report, path, part, "Correct")


def test_box_one_pixel_outside_and_box_twice_are_warnings(tmp_path):
    root = voc_tree(tmp_path)
    path = put_boxes(root / "Annotations/a.xml", ("cat", 0, 1, 5, 5), ("cat", 1, 1, 5, 5), ("cat", 1, 1, 5, 5))
    report = report_on(root)
    assert [finding.check for finding in report.warnings] == ["box", "box"]
    assert report.errors == ()
    assert all(finding.where == str(path) for finding in report.warnings)
    assert "2 times" in report.warnings[1].problem
    assert report.classes[0].boxes == 4


def test_image_without_a_row(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,cat\nb,dog\nc,cat dog\n")
    for allowed in (False, True):
        report = report_on(root, allow_untagged=allowed)
        the_one(report, "tags")
        assert_stops_with(report, root / "tags.csv", "'d'", "Add a row")


def test_image_with_an_empty_row(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,cat\nb,dog\nc,cat dog\nd,\n")
    report = report_on(root)
    the_one(report, "tags")
    assert_stops_with(report, root / "tags.csv", "'d' has no tags", "data.allow_untagged")
    assert report_on(root, allow_untagged=True).findings == ()


def test_untagged_images_are_only_a_warning_where_tags_are_not_needed(tmp_path):
    root = folder_tree(tmp_path, "image,tags,split\na,cat,train\nb,dog,train\nc,cat,val\nd,,val\n")
    report = report_on(root, ("train", "val"))
    assert report.errors == ()
    assert "tags" in {finding.check for finding in report.warnings}


def test_class_without_positives(tmp_path):
    root = folder_tree(tmp_path)
    put_text(root / "classes.txt", "cat\ndog\nbird\n")
    report = report_on(root)
    the_one(report, "positives")
    assert_stops_with(report, root / "tags.csv", "'bird'", "remove it from the classes")


def test_a_class_without_positives_is_a_warning_where_boxes_are_learnt_from(tmp_path):
    root = voc_tree(tmp_path)
    put_text(root / "classes.txt", "cat\ndog\nbird\n")
    boxed = report_on(root, needs={WeakLabel.BOXES})
    assert boxed.errors == ()
    assert "'bird'" in the_one(boxed, "positives", Severity.WARNING).problem
    both = report_on(root, needs={WeakLabel.BOXES, WeakLabel.TAGS})
    assert {finding.check for finding in both.errors} == {"positives"}


def test_class_without_negatives(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,cat\nb,cat\nc,cat\nd,cat\n")
    report = report_on(root)
    the_one(report, "negatives")
    assert_stops_with(report, root / "tags.csv", "every image", "cannot learn where", "data.allow_untagged")
    put_text(root / "tags.csv", "image,tags\na,cat\nb,cat\nc,cat\nd,\n")
    assert report_on(root, allow_untagged=True).findings == ()


def test_image_listed_twice(tmp_path):
    root = voc_tree(tmp_path, train="a\nb\nc\na\n")
    finding = the_one(report_on(root), "duplicate", Severity.WARNING)
    assert finding.where.endswith("train.txt")
    assert "'a' is listed 2 times" in finding.problem


def test_rows_that_contradict_each_other(tmp_path):
    root = folder_tree(tmp_path, "image,tags\na,cat\nb,dog\nc,cat dog\nd,dog\na,dog\n")
    report = report_on(root)
    assert [finding.check for finding in report.errors] == ["duplicate"]
    assert_stops_with(report, root / "tags.csv", "'a'", "one row an image")


def test_two_files_of_one_name(tmp_path):
    root = folder_tree(tmp_path)
    put_image(root / "images/a.png")
    report = report_on(root)
    the_one(report, "duplicate")
    assert_stops_with(report, root / "images/a.jpg", "a.png", "Rename")


def test_image_in_no_split(tmp_path):
    root = folder_tree(tmp_path, "image,tags,split\na,cat,train\nb,dog,train\nc,dog,train\n")
    assert the_one(report_on(root), "unlisted", Severity.WARNING).where == str(root / "images/d.jpg")


def test_same_image_in_train_and_val(tmp_path):
    root = voc_tree(tmp_path, val="c\na\n")
    finding = the_one(report_on(root, ("train", "val")), "leak", Severity.WARNING)
    assert finding.count == 2
    assert "2 of 2 images of val" in finding.problem


def test_missing_image(tmp_path):
    root = voc_tree(tmp_path)
    (root / "JPEGImages/b.jpg").unlink()
    report = report_on(root)
    the_one(report, "missing")
    assert_stops_with(report, root, "'b'", "Put it there")


@pytest.mark.parametrize(
    ("kind", "folder", "part"),
    [
        (WeakLabel.SALIENCY, "SaliencyMaps", "saliency map"),
        (WeakLabel.MASKS, "SegmentationClass", "mask"),
        (WeakLabel.BOXES, "Annotations", "boxes"),
    ],
)
def test_label_that_training_needs(tmp_path, kind, folder, part):
    root = voc_tree(tmp_path)
    (root / folder / next((root / folder).glob("a.*")).name).unlink()
    finding = the_one(report_on(root, needs=frozenset({kind})), "label-kind", Severity.WARNING)
    assert f"1 of 3 images of train have no {part}" in finding.problem
    for file in (root / folder).iterdir():
        file.unlink()
    report = report_on(root, ("train", "val"), needs=frozenset({kind}))
    assert [finding.check for finding in report.errors] == ["label-kind"]
    assert_stops_with(report, root, part, folder, "choose a method")


def test_no_tags_at_all(tmp_path):
    root = voc_tree(tmp_path)
    put_text(root / "tags.csv", "image,tags\nz,cat\n")
    assert_stops_with(report_on(root), root, "no image of train has tags")


def test_tags_that_contradict_the_mask(tmp_path):
    root = voc_tree(tmp_path, train="a\nb\nc\nd\n")
    put_text(root / "tags.csv", "image,tags\na,cat\nb,cat\nc,cat dog\nd,dog\n")
    finding = the_one(report_on(root), "contradiction", Severity.WARNING)
    assert finding.where == str(root / "tags.csv")
    assert "2 of 4 images" in finding.problem
    assert "'b' (tagged but not in the mask: cat; in the mask only: dog)" in finding.problem


def test_very_small_image(tmp_path):
    root = folder_tree(tmp_path)
    put_image(root / "images/a.jpg", 31, 100)
    assert "31 x 100" in the_one(report_on(root), "small", Severity.WARNING).problem


@pytest.mark.parametrize("name", ["msrc-mini", "coco-mini"])
def test_real_data_have_no_errors(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"shared/data/{name} is not here")
    assert report_on(SHARED / name, ("val",), frozenset()).errors == ()
