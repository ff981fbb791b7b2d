"""Labels of the scene: which files, which value means what, and what the audit says of wrong ones."""

import csv
from pathlib import Path

import pytest
import torch

from tests.data.trees import folder_tree, put_mask, put_text, refusal, voc_tree
from weakseg.data.audit import audit
from weakseg.data.catalog import open_dataset
from weakseg.data.folder import FolderDataset
from weakseg.data.images import read_mask, write_mask
from weakseg.data.scenes import SCENE_CONTEXTS, write_scenes
from weakseg.data.tables import read_context_classes
from weakseg.data.voc import VOCDataset

SHARED = Path(__file__).parents[3] / "shared" / "data"
TREES = {"voc": (voc_tree, "SegmentationContext"), "folder": (folder_tree, "context")}


@pytest.fixture(params=TREES)
def place(request, tmp_path):
    """A data set's folder and the folder of its context labels."""
    make, folder = TREES[request.param]
    root = make(tmp_path)
    return root, root / folder


def test_context_is_found_where_there_is_some(place):
    root, folder = place
    dataset = open_dataset("auto", root)
    assert dataset.context_classes is None
    assert "context" not in dataset.paths("a")
    put_mask(folder / "a.png", 2)
    put_text(root / "context_classes.txt", "sky\nwater\nroad\n")
    dataset = open_dataset("auto", root)
    assert dataset.context_classes == ("sky", "water", "road")
    assert dataset.paths("a")["context"] == folder / "a.png"
    assert "context" not in dataset.paths("b")


def test_context_below_a_folder_of_images_is_no_image(tmp_path):
    root = tmp_path / "flat"
    folder_tree(root)
    for path in (root / "images").iterdir():
        path.rename(root / path.name)
    (root / "images").rmdir()
    put_mask(root / "context/a.png")
    assert FolderDataset(root).ids == ("a", "b", "c", "d")


def test_names_stand_in_the_order_of_values(tmp_path):
    path = tmp_path / "context_classes.txt"
    assert read_context_classes(path) is None
    put_text(path, "\ufeffvoid \n wet road\nsky\n\n")
    assert read_context_classes(path) == ("void", "wet road", "sky")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sky\n\nroad\n", "line '' is empty"),
        ("sky\nsky\n", "'sky'"),
        ("", "0 names"),
        ("\n".join(map(str, range(256))), "256"),
    ],
)
def test_names_that_are_no_list(tmp_path, text, words):
    path = put_text(tmp_path / "context_classes.txt", text)
    refusal(lambda: read_context_classes(path), path, words)


def test_training_does_not_depend_on_context_but_its_own_hash_does(place):
    root, folder = place
    put_mask(folder / "a.png", 1)
    before = open_dataset("auto", root)
    hashes = before.fingerprint(), before.stat_fingerprint(), before.context_fingerprint()
    put_mask(folder / "b.png", 2)
    after = open_dataset("auto", root)
    assert after.fingerprint() == hashes[0]
    assert after.stat_fingerprint() != hashes[1]  # the audit reads the new file
    assert after.context_fingerprint() != hashes[2]
    put_text(root / "context_classes.txt", "sky\nwater\nroad\n")
    named = open_dataset("auto", root)
    assert (named.fingerprint(), named.context_fingerprint() != after.context_fingerprint()) == (hashes[0], True)


def findings(root):
    report = audit([open_dataset("auto", root)], frozenset())
    return [(finding.check, finding.where, finding.problem) for finding in report.errors]


def test_audit_of_sound_labels(place):
    root, folder = place
    put_mask(folder / "a.png", 2)
    write_mask(folder / "b.png", torch.full((40, 48), 255, dtype=torch.uint8))
    put_text(root / "context_classes.txt", "sky\nwater\nroad\n")
    assert findings(root) == []


def test_audit_of_wrong_labels(place):
    root, folder = place
    put_text(root / "context_classes.txt", "sky\nwater\n")
    put_mask(folder / "a.png", 1, height=39)
    put_mask(folder / "b.png", 2)
    (folder / "c.png").write_bytes(b"broken")
    found = {check: (where, problem) for check, where, problem in findings(root)}
    assert set(found) == {"size", "context-values", "unreadable"}
    assert found["size"] == (str(folder / "a.png"), "is 48 x 39 pixels, its image 48 x 40")
    assert found["context-values"][0] == str(folder / "b.png")
    assert "values 2, which context_classes.txt does not name" in found["context-values"][1]
    assert found["unreadable"][0] == str(folder / "c.png")


def test_values_of_labels_without_names_are_not_judged(place):
    root, folder = place
    put_mask(folder / "a.png", 200)
    assert findings(root) == []


def test_demo_scenes(tmp_path):
    """Value v is line v: the sky is at the top, and what a boat is on is water."""
    write_scenes(tmp_path, train=10, val=0, seed=0)
    dataset = VOCDataset(tmp_path, "train")
    assert dataset.context_classes == SCENE_CONTEXTS
    seen = {}
    for image_id in dataset.ids:
        mask, context = (read_mask(dataset.paths(image_id)[kind]) for kind in ("mask", "context"))
        assert (context[mask > 0] == 255).all()
        for value in context[context != 255].unique().tolist():
            rows = torch.nonzero(context == value)[:, 0].float().mean().item() / len(context)
            seen.setdefault(dataset.context_classes[value], []).append(rows)
        if dataset.classes.index("boat") in dataset.tags(image_id):
            assert (context == dataset.context_classes.index("water")).any()
    assert max(seen["sky"]) < 0.5
    assert findings(tmp_path) == []


@pytest.mark.skipif(not (SHARED / "msrc-mini").is_dir(), reason="shared/data/msrc-mini is not here")
def test_real_pictures():
    """The file of tags by name, the palette's values and the masks agree that value v is line v."""
    root = SHARED / "msrc-mini"
    dataset = open_dataset("auto", root, "val")
    rows = csv.DictReader((root / "context_tags.csv").read_text().splitlines())
    tags = {row["image"]: set(row["context_tags"].split()) for row in rows}
    boat, water = dataset.classes.index("boat") + 1, dataset.context_classes.index("water")
    for image_id in dataset.ids:
        context, mask = (read_mask(dataset.paths(image_id)[kind]) for kind in ("context", "mask"))
        values = set(context.unique().tolist()) - {255}
        assert {dataset.context_classes[value] for value in values} == tags[image_id]
        assert not (context[mask == boat] == water).any()
        assert (context[mask == boat] == dataset.context_classes.index("boat")).all()
