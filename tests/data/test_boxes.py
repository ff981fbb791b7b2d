import pickle

import pytest

from tests.data.trees import (
    box_tree,
    coco_content,
    folder_tree,
    put_boxes,
    put_image,
    put_json,
    put_mask,
    put_text,
    refusal,
    voc_tree,
)
from weakseg.data.annotations import read_annotation
from weakseg.data.audit import audit
from weakseg.data.catalog import open_dataset
from weakseg.data.findings import Severity
from weakseg.data.folder import FolderDataset
from weakseg.data.pseudo import PseudoMasks, WeaklyLabelled, WithSaliency
from weakseg.data.sample import WeakLabel

HEADER = "image,class,x1,y1,x2,y2\n"
TABLE = f"{HEADER}a.jpg,cat,10,10,20,20\na,dog,0,0,48,40\nb,dog,1.5,2,3,4\nc,cat,0,0,9,9\nd,dog,0,0,9,9\n"
BOXES = frozenset({WeakLabel.BOXES})
SOURCES = ("csv", "yolo", "coco", "xml")


def csv_tree(root, table=TABLE):
    put_text(box_tree(root) / "boxes.csv", table)
    return root


def put_source(root, source):
    """A cat at 12, 10 to 24, 20 in a, a dog that fills b, nothing in c; d is not mentioned."""
    if source == "csv":
        put_text(root / "boxes.csv", f"{HEADER}a,cat,12,10,24,20\nb,dog,0,0,48,40\nc,,,,,\n")
    elif source == "yolo":
        put_text(root / "labels/a.txt", "0 0.375 0.375 0.25 0.25\n")
        put_text(root / "labels/b.txt", "1 0.5 0.5 1 1\n")
        put_text(root / "labels/c.txt", "\n")
        put_text(root / "data.yaml", "train: images\nnames: [cat, dog]\n")
    elif source == "xml":
        put_boxes(root / "annotations/a.xml", ("cat", 13, 11, 24, 20))
        put_boxes(root / "annotations/b.xml", ("dog", 1, 1, 48, 40))
        put_boxes(root / "annotations/c.xml")
    else:
        content = coco_content()
        content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content["annotations"] = [
            {"id": 5, "image_id": 7, "category_id": 1, "bbox": [12, 10, 12, 10]},
            {"id": 6, "image_id": 8, "category_id": 2, "bbox": [0, 0, 48, 40]},
        ]
        put_json(root / "annotations.json", content)
    return root


def problems(root, split="train", needs=BOXES):
    """(check, severity, where, problem and remedy) of all findings but those about how often classes occur."""
    report = audit([open_dataset("folder", root, split)], needs)
    found = [one for one in report.findings if one.check not in ("positives", "negatives", "tags", "label-kind")]
    assert all(one.remedy for one in found)
    return [(one.check, one.severity, one.where, f"{one.problem}. {one.remedy}") for one in found]


def the_problem(root, *words, check="unreadable", severity=Severity.ERROR):
    """The only finding has these words."""
    (found,) = problems(root)
    assert found[:2] == (check, severity)
    for word in words:
        assert str(word) in f"{found[2]}: {found[3]}"


@pytest.mark.parametrize("encoding", ["foo", "hex"])
def test_an_encoding_that_nobody_knows(tmp_path, encoding):
    put_text(tmp_path / "a.xml", f'<?xml version="1.0" encoding="{encoding}"?><annotation/>')
    refusal(lambda: read_annotation(tmp_path / "a.xml"), tmp_path / "a.xml", "cannot be read as an annotation")


@pytest.mark.parametrize(
    ("lines", "words"),
    [("/a,cat,1,1,5,5\n", "is not a plain path"), ("", "names no class")],
)
def test_a_table_of_boxes_that_names_no_class(tmp_path, lines, words):
    root = box_tree(tmp_path)
    put_text(root / "boxes.csv", f"image,class,x1,y1,x2,y2\n{lines}")
    refusal(lambda: FolderDataset(root), "boxes.csv", words)


@pytest.mark.parametrize("source", SOURCES)
def test_all_sources_say_the_same(tmp_path, source):
    dataset = FolderDataset(put_source(box_tree(tmp_path), source))
    assert dataset.classes.names == ("cat", "dog")
    assert [dataset.tags(name) for name in "abcd"] == [(0,), (1,), (), None]
    assert dataset.sample("a").boxes.tolist() == [[12, 10, 24, 20]]
    assert dataset.sample("b").boxes.tolist() == [[0, 0, 48, 40]]
    assert dataset.sample("b").box_classes.tolist() == [1]
    assert dataset.sample("c").boxes.shape == (0, 4)
    assert dataset.sample("d").boxes is None
    assert ["annotation" in dataset.paths(name) for name in "abcd"] == [True, True, True, False]
    assert dataset.has(WeakLabel.BOXES)
    assert dataset.tags_file("a").is_file()
    assert problems(tmp_path) == []
    again = pickle.loads(pickle.dumps(dataset))
    assert again.boxes("a") == dataset.boxes("a")


@pytest.mark.parametrize("source", SOURCES)
def test_the_fingerprint_sees_boxes(tmp_path, source):
    root = put_source(box_tree(tmp_path), source)
    put_text(root / "tags.csv", "image,tags\na,cat\nb,dog\nc,\nd,dog\n")
    put_text(root / "splits/train.txt", "a\nc\n")
    before = FolderDataset(root).fingerprint(), FolderDataset(root).stat_fingerprint()
    assert FolderDataset(root).fingerprint() == before[0]
    for file in root.rglob("*"):  # b is in another split
        if file.name in ("b.txt", "b.xml"):
            file.write_text(file.read_text().replace("1 1\n", "1 0.5\n").replace("<ymax>40", "<ymax>30"))
        elif file.name in ("boxes.csv", "annotations.json"):
            file.write_text(file.read_text().replace("0,48,40", "0,48,30").replace("0, 48, 40]", "0, 48, 30]"))
    assert FolderDataset(root).boxes("b")[0].corners[3] == 30
    assert FolderDataset(root).fingerprint() == before[0]
    for file in root.rglob("*"):
        if file.name in ("a.txt", "a.xml"):
            file.write_text(file.read_text().replace("0.25\n", "0.125\n").replace("<ymax>20", "<ymax>19"))
        elif file.name in ("boxes.csv", "annotations.json"):
            file.write_text(file.read_text().replace("24,20", "24,19").replace("12, 10]", "12, 9]"))
    assert FolderDataset(root).fingerprint() != before[0]
    assert FolderDataset(root).stat_fingerprint() != before[1]


@pytest.mark.parametrize("source", SOURCES)
def test_tags_of_the_table_come_first(tmp_path, source):
    root = put_source(folder_tree(tmp_path), source)
    dataset = FolderDataset(root)
    assert [dataset.tag_names(name) for name in "abd"] == [("cat",), ("dog",), ("dog",)]
    assert dataset.tags_file("a") == root / "tags.csv"
    assert dataset.sample("a").boxes.tolist() == [[12, 10, 24, 20]]


@pytest.mark.parametrize(("first", "second"), list(zip(SOURCES, SOURCES[1:] + SOURCES[:1], strict=True)))
def test_boxes_in_two_places_are_refused(tmp_path, first, second):
    put_source(put_source(box_tree(tmp_path), first), second)
    refusal(lambda: FolderDataset(tmp_path), tmp_path, "has boxes in", " and ", "Keep one of them")


@pytest.mark.parametrize("source", SOURCES)
def test_boxes_of_an_image_that_is_not_there(tmp_path, source):
    root = put_source(box_tree(tmp_path), source)
    (root / "images/a.jpg").unlink()
    the_problem(root, "boxes of the image 'a'", "Put the image there", check="boxes-image")


@pytest.mark.parametrize("folders", ["images", "data/images"])
def test_an_image_that_is_named_with_its_folder(tmp_path, folders):
    root = csv_tree(tmp_path, f"{TABLE}{folders}/a.jpg,cat,1,2,3,4\n")
    the_problem(root, f"boxes of the image '{folders}/a'", "Call it 'a'", check="boxes-image")


@pytest.mark.parametrize("source", SOURCES)
def test_only_what_is_needed_reaches_training(tmp_path, source):
    dataset = FolderDataset(put_source(box_tree(tmp_path), source))
    weak = WeaklyLabelled(dataset, frozenset({WeakLabel.TAGS})).sample("a")
    assert weak.tags.tolist() == [True, False]
    assert weak.boxes is None
    assert WeaklyLabelled(dataset, BOXES).sample("a").boxes.tolist() == [[12, 10, 24, 20]]
    assert WithSaliency(dataset, None).fingerprint() == dataset.fingerprint()
    put_mask(tmp_path / "pseudo/a.png")
    taught = PseudoMasks(dataset, lambda name: tmp_path / "pseudo" / f"{name}.png").sample("a")
    assert taught.boxes is taught.tags is None
    assert taught.mask.max() == 1


def test_a_class_list_fixes_the_order(tmp_path):
    root = csv_tree(tmp_path)
    assert FolderDataset(root).classes.names == ("cat", "dog")
    put_text(root / "classes.txt", "dog\ncat\nbird\n")
    dataset = FolderDataset(root)
    assert dataset.classes.names == ("dog", "cat", "bird")
    assert dataset.sample("a").box_classes.tolist() == [1, 0]


def test_tables_as_programs_write_them(tmp_path):
    root = box_tree(tmp_path)
    (root / "boxes.csv").write_bytes(b"\xef\xbb\xbfClass, image,x1,y1,x2,y2\r\n cat ,a.jpg, 1, 2,3,4 \r\n\r\n")
    assert FolderDataset(root).boxes("a")[0].corners == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,cat,1,2,3", "line 7: has 5 columns instead of 6"),
        ("a,cat,1,2,3,4,5", "line 7: has 7 columns instead of 6"),
        ("a,,1,2,3,4", "line 7: names no class"),
        ("a,cat,1,2,3,", "line 7: '' is not a number"),
        ("a,cat,1,2,3,x", "line 7: 'x' is not a number"),
        ("a,cat,1,2,inf,4", "line 7: 'inf' is not finite"),
        ("a,cat,1,nan,3,4", "line 7: 'nan' is not finite"),
    ],
)
def test_malformed_rows(tmp_path, row, words):
    root = csv_tree(tmp_path, f"{TABLE}{row}\n")
    the_problem(root, root / "boxes.csv", words, "such as '001,cat,10,20,110,90'")
    refusal(lambda: FolderDataset(root).boxes("a"), words)
    assert len(FolderDataset(root).boxes("b")) == 1


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "", "a\\b"])
def test_rows_of_ids_that_lead_elsewhere(tmp_path, name):
    root = csv_tree(tmp_path, f"{TABLE}{name},cat,1,2,3,4\n")
    the_problem(root, root / "boxes.csv", "line 7", "image id", check="boxes-image")


def test_all_malformed_rows_are_listed_at_once(tmp_path):
    root = csv_tree(tmp_path, f"{TABLE}a,cat,1\n../a,cat,1,2,3,4\nb,cat,x,2,3,4\nb,cat,y,2,3,4\n")
    assert [where.rpartition(" ")[2] for _, _, where, _ in problems(root)] == ["7", "9", "10", "8"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "instead of 'image,class,x1,y1,x2,y2'"),
        ("image,class,xmin,ymin,xmax,ymax\n", "image,class,xmin,ymin,xmax,ymax"),
        (f'{HEADER}a,"cat,1,2,3,4\n', "is not CSV"),
    ],
)
def test_tables_that_are_none(tmp_path, content, words):
    root = csv_tree(tmp_path, content)
    refusal(lambda: FolderDataset(root), root / "boxes.csv", words)


@pytest.mark.parametrize(
    ("row", "words", "severity"),
    [
        ("a,cat,-3,2,3,4", ("'cat' (x1 -3, y1 2, x2 3, y2 4)", "3 pixels outside", "from 0"), Severity.ERROR),
        ("a,cat,3,2,60,4", ("12 pixels outside the image of 48 x 40",), Severity.ERROR),
        ("a,cat,3,2,49,4", ("1 pixels outside",), Severity.WARNING),
        ("a,cat,48,2,49,4", ("'cat' (x1 48, y1 2, x2 49, y2 4) lies outside the image",), Severity.ERROR),
        ("a,cat,3,-1,9,0", ("lies outside the image of 48 x 40",), Severity.ERROR),
        ("a,cat,3,2,3,4", ("has no area", "x1 < x2"), Severity.ERROR),
        ("a,cat,3,8,5,4", ("has no area", "y1 < y2"), Severity.ERROR),
        ("a,cat,10.0,10,20,20", ("stands there 2 times", "Remove"), Severity.WARNING),
    ],
)
def test_bad_boxes(tmp_path, row, words, severity):
    root = csv_tree(tmp_path, f"{TABLE}{row}\n")
    line = 2 if "times" in words[0] else 7
    the_problem(root, f"{root / 'boxes.csv'}, line {line}: ", *words, check="box", severity=severity)


def test_boxes_that_cover_no_pixel(tmp_path):
    """Narrower than a pixel, between two centres; wide enough, but only its margin is in the image; one that does."""
    root = csv_tree(tmp_path, f"{TABLE}a,cat,3.6,2,4.4,9\na,dog,47.6,2,48.9,9\na,cat,3.4,2,3.6,9\n")
    found = [(where, words) for check, _, where, words in problems(root) if check == "tiny-box"]
    assert [where for where, _ in found] == [f"{root / 'boxes.csv'}, line {line}" for line in (7, 8)]
    assert "'cat' (x1 3.6, y1 2, x2 4.4, y2 9) is so small that no pixel's centre lies in it" in found[0][1]
    dataset = FolderDataset(root)
    assert len(dataset.boxes("a")) == 5
    boxes, classes = dataset.box_tensors("a")
    assert classes.tolist() == [0, 1, 0]
    assert boxes[:, 0].tolist() == pytest.approx([10, 0, 3.4])
    assert dataset.sample("a").boxes.tolist() == boxes.tolist()
    assert audit([dataset], BOXES).tiny == {"train": 2}


def test_digits_that_are_cut_off_are_no_reason_to_warn(tmp_path):
    assert problems(csv_tree(tmp_path, f"{TABLE}a,cat,3,2,48.01,40.01\n")) == []


def test_unknown_class(tmp_path):
    root = csv_tree(tmp_path, f"{TABLE}a,catt,1,2,3,4\n")
    put_text(root / "classes.txt", "cat\ndog\n")
    the_problem(root, root / "boxes.csv", "'catt'", "image 'a'", "Did you mean 'cat'", check="class-name")


def test_without_boxes_an_image_is_not_known_to_show_nothing(tmp_path):
    root = csv_tree(tmp_path, f"{HEADER}a,cat,1,2,3,4\nb,dog,1,2,3,4\nc,,,,,\n")
    report = audit([FolderDataset(root)], frozenset({WeakLabel.TAGS}))
    problems = [(one.problem, one.remedy) for one in report.errors if one.check == "tags"]
    assert "nothing says what the image 'd' shows" in problems[1][0]
    assert "Add its boxes there, or a tags.csv" in problems[1][1]
    assert problems[0][0] == "image 'c' has no tags"


def test_the_same_row_is_reported_once_for_two_splits(tmp_path):
    root = csv_tree(tmp_path, f"{TABLE}../x,cat,1,2,3,4\n")
    put_text(root / "splits/train.txt", "a\nb\n")
    put_text(root / "splits/val.txt", "c\nd\n")
    report = audit([FolderDataset(root, split) for split in ("train", "val")], BOXES)
    assert [one.check for one in report.errors] == ["boxes-image"]


def test_sizes_in_annotations_are_compared(tmp_path):
    root = put_source(box_tree(tmp_path), "xml")
    text = (root / "annotations/b.xml").read_text()
    for size, found in (("<height>0</height>", 0), ("<height>40</height>", 0), ("<height>41</height>", 1)):
        put_text(root / "annotations/b.xml", text.replace("<width>48</width>", f"<width>48</width>{size}"))
        assert len(problems(root)) == found
    the_problem(root, root / "annotations/b.xml", "'b' is 48 x 41 pixels, it is 48 x 40", "resized", check="size")


def test_sizes_in_a_voc_tree_are_compared(tmp_path):
    root = voc_tree(tmp_path)
    text = (root / "Annotations/a.xml").read_text()
    put_text(root / "Annotations/a.xml", text.replace("<width>48</width>", "<width>40</width><height>48</height>"))
    report = audit([open_dataset("auto", root, "train")], BOXES)
    assert [one.check for one in report.errors] == ["size"]


def test_an_annotation_that_is_broken_hides_no_others(tmp_path):
    root = put_source(box_tree(tmp_path), "xml")
    put_text(root / "annotations/d.xml", "<annotation>")
    assert FolderDataset(root).classes.names == ("cat", "dog")
    the_problem(root, root / "annotations/d.xml", "cannot be read as an annotation")


def test_images_in_the_root_beside_labels(tmp_path):
    put_image(tmp_path / "a.jpg")
    put_text(tmp_path / "labels/a.txt", "0 0.5 0.5 1 1\n")
    put_image(tmp_path / "labels/preview.png")
    put_text(tmp_path / "classes.txt", "cat\n")
    dataset = FolderDataset(tmp_path)
    assert dataset.ids == ("a",)
    assert dataset.tag_names("a") == ("cat",)
