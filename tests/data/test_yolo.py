import pytest

from tests.data.test_boxes import problems, put_source, the_problem
from tests.data.trees import box_tree, put_text, refusal
from weakseg.data.audit import audit
from weakseg.data.findings import Severity
from weakseg.data.folder import FolderDataset
from weakseg.data.sample import WeakLabel
from weakseg.data.yolo import read_names


def tree(root):
    return put_source(box_tree(root), "yolo")


@pytest.mark.parametrize(
    "content",
    ["names: [cat, dog]", "names:\n  0: cat\n  1: dog\n", "names: {1: dog, 0: cat}", "names: {'0': cat, '1': dog}"],
)
def test_names_in_yaml(tmp_path, content):
    put_text(tmp_path / "data.yaml", content)
    assert read_names(tmp_path) == (("cat", "dog"), tmp_path / "data.yaml")


def test_lists_of_names_in_their_order(tmp_path):
    assert read_names(tmp_path, ["x"])[0] == ("x",)
    for file, first in (("classes.txt", "root"), ("labels/classes.txt", "labels"), ("data.yml", "yaml")):
        put_text(tmp_path / file, f"names: [{first}]" if first == "yaml" else f"{first}\nother\n")
        assert read_names(tmp_path)[0][0] == first


def test_a_background_in_the_list_has_a_number(tmp_path):
    root = tree(tmp_path)
    (root / "data.yaml").unlink()
    put_text(root / "classes.txt", "background\ndog\n")
    dataset = FolderDataset(root)
    assert dataset.classes.names == ("dog",)
    assert dataset.tag_names("b") == ("dog",)
    refusal(lambda: dataset.tags("a"), "labels/a.txt", "'background'")


def test_another_order_in_classes_txt(tmp_path):
    root = tree(tmp_path)
    put_text(root / "classes.txt", "dog\ncat\n")
    dataset = FolderDataset(root)
    assert dataset.classes.names == ("dog", "cat")
    assert dataset.sample("a").box_classes.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("names: [cat, dog", "is not YAML"),
        ("- cat", "no entry 'names'"),
        ("nc: 2", "no entry 'names'"),
        ("names: {0: cat, 2: dog}", "without a gap"),
        ("names: []", "no entry 'names'"),
        ("names: [cat, [dog]]", "no entry 'names'"),
        ("names: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_bad_yaml(tmp_path, content, words):
    root = tree(tmp_path)
    put_text(root / "data.yaml", content)
    refusal(lambda: FolderDataset(root), root / "data.yaml", words)


def test_nothing_names_the_classes(tmp_path):
    root = tree(tmp_path)
    (root / "data.yaml").unlink()
    refusal(lambda: FolderDataset(root), root / "labels", "data.yaml")
    assert FolderDataset(root, classes=["cat", "dog"]).tag_names("b") == ("dog",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 1 1", ("has the class 2, but there are 2 classes", "complete the list in", "data.yaml")),
        ("-1 0.5 0.5 1 1", ("has the class -1",)),
        ("0.5 0.5 0.5 1 1", ("'0.5' is not a whole number",)),
        ("cat 0.5 0.5 1 1", ("'cat' is not a whole number",)),
        ("+-1 0.5 0.5 1 1", ("'+-1' is not a whole number",)),
        (f"{'1' * 5000} 0.5 0.5 1 1", ("is not a whole number",)),
        ("0 0.5 0.5 1", ("has 4 columns instead of 5",)),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9", ("has 7 columns instead of 5, as a polygon has",)),
        ("0 0.5 x 1 1", ("'x' is not a number",)),
        ("0 0.5 nan 1 1", ("'nan' is not finite",)),
    ],
)
def test_malformed_lines(tmp_path, line, words):
    root = tree(tmp_path)
    put_text(root / "labels/b.txt", f"1 0.5 0.5 1 1\n{line}\n")
    the_problem(root, f"{root / 'labels/b.txt'}, line 2: ", *words)
    refusal(lambda: FolderDataset(root).sample("b"), "line 2", words[0])
    assert len(FolderDataset(root).boxes("a")) == 1


def test_what_cannot_be_read_is_told_before_what_is_missing_because_of_it(tmp_path):
    root = tree(tmp_path)
    for name in "abcd":
        put_text(root / f"labels/{name}.txt", "0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    report = audit([FolderDataset(root)], frozenset({WeakLabel.TAGS}))
    assert {one.check for one in report.errors} > {"unreadable", "label-kind"}
    refusal(report.raise_for_errors, "labels/a.txt, line 1: ", "polygon")


@pytest.mark.parametrize(
    ("line", "words", "severity"),
    [
        ("1 0.75 0.5 1 1", ("x 0.75, y 0.5, width 1, height 1", "12 pixels outside", "shares"), Severity.ERROR),
        ("1 0.51 0.5 1 1", ("0.48 pixels outside",), Severity.WARNING),
        ("1 24 20 48 40", ("pixels outside",), Severity.ERROR),
        ("1 0.5 0.5 0 1", ("has no area", "width and height above 0"), Severity.ERROR),
        ("1 0.5 0.5 -1 1", ("has no area",), Severity.ERROR),
        ("1 0.5 0.5 1 1\n1 0.5 0.5 1.0 1.0", ("stands there 2 times",), Severity.WARNING),
    ],
)
def test_bad_boxes(tmp_path, line, words, severity):
    root = tree(tmp_path)
    put_text(root / "labels/b.txt", f"{line}\n")
    the_problem(root, f"{root / 'labels/b.txt'}, line 1: ", *words, check="box", severity=severity)


def test_six_digits_are_enough(tmp_path):
    put_text(tree(tmp_path) / "labels/b.txt", "1 0.833334 0.5 0.333334 1\n")
    assert FolderDataset(tmp_path).boxes("b")[0].corners[2] > 48
    assert FolderDataset(tmp_path).sample("b").boxes[0, 2] == 48
    assert problems(tmp_path) == []
