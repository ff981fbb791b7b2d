"""The generated demo scenes: repeatable, their labels consistent, their difficulties as promised."""

import filecmp
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

from weakseg.data.scenes import OBJECT_HERE, SCENE_CLASSES, SCENE_CONTEXTS, Scene, make_scene, write_scenes
from weakseg.data.scenes.compose import MIN_AREA, main_class
from weakseg.errors import UserError

ARRAYS = ("image", "mask", "instances", "context", "saliency")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(7, index) for index in range(60)]


def test_same_arguments_same_scene(scenes):
    again = make_scene(7, 3)
    assert all(np.array_equal(getattr(again, name), getattr(scenes[3], name)) for name in ARRAYS)
    assert (again.tags, again.boxes) == (scenes[3].tags, scenes[3].boxes)


def test_scene_does_not_depend_on_threads(scenes):
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        assert np.array_equal(make_scene(7, 4).image, scenes[4].image)
    finally:
        cv2.setNumThreads(threads)


def test_other_index_or_seed_other_scene(scenes):
    others = [scene.image for scene in scenes[1:]] + [make_scene(8, 0).image]
    assert not any(np.array_equal(scenes[0].image, image) for image in others)


def test_shapes_types_and_orientations(scenes):
    for scene in scenes:
        shape = scene.mask.shape
        assert shape in ((120, 160), (160, 120))
        assert scene.image.shape == (*shape, 3)
        assert all(getattr(scene, name).dtype == np.uint8 for name in ARRAYS)
        assert all(getattr(scene, name).shape == shape for name in ARRAYS[1:])
    assert {scene.mask.shape for scene in scenes} == {(120, 160), (160, 120)}


def test_size_is_configurable():
    scene = make_scene(7, 0, size=(90, 90))
    assert scene.image.shape == (90, 90, 3)


def test_boxes_are_the_extents_of_the_instances(scenes):
    for scene in scenes:
        assert np.unique(scene.instances[scene.instances > 0]).tolist() == list(range(1, len(scene.boxes) + 1))
        for number, (kind, left, top, right, bottom) in enumerate(scene.boxes, start=1):
            visible = scene.instances == number
            assert np.all(scene.mask[visible] == kind + 1)
            outside = visible.copy()
            outside[top:bottom, left:right] = False
            inside = visible[top:bottom, left:right]
            assert not outside.any()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_tags_are_the_classes_of_the_mask(scenes):
    for scene in scenes:
        assert scene.tags == tuple(int(value) - 1 for value in np.unique(scene.mask) if value)
        assert np.array_equal(scene.mask > 0, scene.instances > 0)


def test_objects_are_large_enough_to_be_tagged(scenes):
    for scene in scenes:
        areas = np.bincount(scene.instances.ravel())[1:] / scene.mask.size
        assert areas.min() > 0.9 * MIN_AREA
        assert areas.max() > 0.04


def test_context_names_everything_that_is_no_object(scenes):
    for scene in scenes:
        assert np.array_equal(scene.context == OBJECT_HERE, scene.mask > 0)
        assert scene.context[scene.mask == 0].max() < len(SCENE_CONTEXTS)


@pytest.mark.parametrize(("kind", "context"), [("train", "rails"), ("boat", "water"), ("balloon", "sky")])
def test_objects_that_always_come_with_a_context(scenes, kind, context):
    found = 0
    for scene in scenes:
        shape = scene.mask == SCENE_CLASSES.index(kind) + 1
        if shape.any():
            around = cv2.dilate(shape.astype(np.uint8), np.ones((5, 5))) > 0
            assert (scene.context[around] == SCENE_CONTEXTS.index(context)).any()
            found += 1
    assert found >= 5


def test_rails_come_only_with_trains(scenes):
    for scene in scenes:
        rails = (scene.context == SCENE_CONTEXTS.index("rails")).any()
        assert rails == (SCENE_CLASSES.index("train") in scene.tags)


def test_other_animals_and_things_stand_on_several_grounds(scenes):
    grounds = {SCENE_CONTEXTS.index(name) for name in ("floor", "grass", "rails", "sand", "snow", "water")}
    for kind in set(SCENE_CLASSES) - {"train", "boat"}:
        views = [scene for scene in scenes if SCENE_CLASSES.index(kind) in scene.tags]
        always = set.intersection(*({int(value) for value in np.unique(scene.context)} for scene in views))
        assert not always & grounds, kind


def test_main_classes_are_balanced(scenes):
    for start in range(0, 60, 10):
        mains = [main_class(7, index) for index in range(start, start + 10)]
        assert sorted(mains) == list(range(len(SCENE_CLASSES)))
        assert all(kind in scenes[start + step].tags for step, kind in enumerate(mains))


def test_every_class_has_positives_and_negatives_and_companions(scenes):
    for kind in range(len(SCENE_CLASSES)):
        positives = sum(kind in scene.tags for scene in scenes)
        assert 6 <= positives <= 40
    assert sum(len(scene.tags) > 1 for scene in scenes) >= 15
    assert sum(len(scene.boxes) > len(scene.tags) for scene in scenes) >= 3


def test_saliency_is_right_on_the_whole_and_wrong_in_places(scenes):
    overlaps = []
    for scene in scenes:
        salient, foreground = scene.saliency > 127, scene.mask > 0
        overlaps.append((salient & foreground).sum() / (salient | foreground).sum())
    assert 0.6 < np.mean(overlaps) < 0.85
    assert min(overlaps) < 0.3
    assert max(overlaps) > 0.9


def test_detector_overlooks_plants_more_than_cats():
    def recall(kind: str) -> float:
        value = SCENE_CLASSES.index(kind)
        mains = [index for index in range(150) if main_class(1, index) == value]
        views = [make_scene(1, index, size=(60, 80)) for index in mains]
        return float(np.mean([(scene.saliency[scene.mask == value + 1] > 127).mean() for scene in views]))

    assert recall("plant") < recall("cat") - 0.1


def test_tree_is_complete_and_agrees_with_the_scenes(tmp_path):
    calls = []
    write_scenes(tmp_path, train=6, val=2, seed=7, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 8) for done in range(1, 9)]
    lists = tmp_path / "ImageSets" / "Segmentation"
    ids = (lists / "trainval.txt").read_text().split()
    assert ids == [f"scene_{number:04d}" for number in range(1, 9)]
    assert (lists / "train.txt").read_text().split() + (lists / "val.txt").read_text().split() == ids
    assert (tmp_path / "classes.txt").read_text().split() == ["background", *SCENE_CLASSES]
    assert (tmp_path / "context_classes.txt").read_text().split() == list(SCENE_CONTEXTS)
    rows = dict(line.split(",") for line in (tmp_path / "tags.csv").read_text().splitlines()[1:])
    for index, name in enumerate(ids):
        scene = make_scene(7, index)
        assert rows[name].split() == [SCENE_CLASSES[tag] for tag in scene.tags]
        assert np.array_equal(_read(tmp_path / "SegmentationClass" / f"{name}.png"), scene.mask)
        assert np.array_equal(_read(tmp_path / "SegmentationObject" / f"{name}.png"), scene.instances)
        assert np.array_equal(_read(tmp_path / "SegmentationContext" / f"{name}.png"), scene.context)
        assert np.array_equal(_read(tmp_path / "SaliencyMaps" / f"{name}.png"), scene.saliency)
        assert np.abs(_read(tmp_path / "JPEGImages" / f"{name}.jpg").astype(int) - scene.image).mean() < 6
        assert _read_boxes(tmp_path / "Annotations" / f"{name}.xml") == list(scene.boxes)


def test_second_write_keeps_scenes_and_repairs_missing_ones(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        write_scenes(root, train=4, val=1, seed=3, size=(60, 80))
    (second / "SaliencyMaps" / "scene_0002.png").unlink()
    (second / "JPEGImages" / ".tmp-left.jpg").write_bytes(b"cut short")
    kept = second / "JPEGImages" / "scene_0001.jpg"
    written = kept.stat().st_mtime_ns
    write_scenes(second, train=4, val=1, seed=3, size=(60, 80))
    assert kept.stat().st_mtime_ns == written
    assert _same_tree(first, second)


def test_other_series_replaces_the_scenes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write_scenes(first, train=2, val=1, seed=4, size=(60, 80))
    write_scenes(second, train=5, val=1, seed=3, size=(60, 80))
    write_scenes(second, train=2, val=1, seed=4, size=(60, 80))
    assert _same_tree(first, second)


def test_folder_of_someone_else_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("background\ncat\n")
    with pytest.raises(UserError, match="holds other files"):
        write_scenes(tmp_path, train=1, val=0, seed=0)
    assert (tmp_path / "classes.txt").read_text() == "background\ncat\n"


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": -1}, {"size": (8, 160)}, {"seed": -1}])
def test_senseless_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="cannot draw"):
        write_scenes(tmp_path / "scenes", **{"train": 1, "val": 0, "seed": 0, **wrong})
    assert not (tmp_path / "scenes").exists()


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def _read_boxes(path: Path) -> list[tuple[int, ...]]:
    boxes = []
    for entry in ElementTree.parse(path).getroot().iter("object"):
        left, top, right, bottom = (int(entry.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append((SCENE_CLASSES.index(entry.findtext("name")), left - 1, top - 1, right, bottom))
    return boxes


def _same_tree(first: Path, second: Path) -> bool:
    names = [
        sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) for root in (first, second)
    ]
    match, mismatch, errors = filecmp.cmpfiles(first, second, names[0], shallow=False)
    return names[0] == names[1] and not mismatch and not errors and len(match) > 0
