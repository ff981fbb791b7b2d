"""Demo scenes as a folder laid out like PASCAL VOC."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image as PilImage

from weakseg.data.classes import voc_palette
from weakseg.data.files import write_bytes, write_json, write_text
from weakseg.data.scenes.compose import make_scene
from weakseg.data.scenes.scene import SCENE_CLASSES, SCENE_CONTEXTS, Image, Scene
from weakseg.errors import UserError

DRAWING = 1
"""Number of the way scenes are drawn; whoever changes a pixel adds one, so that older scenes are drawn anew."""

STAMP = "scenes.json"
JPEG_QUALITY = 92
SMALLEST_SIDE = 48
MASKS = "SegmentationClass"
SUFFIXES = {
    "JPEGImages": ".jpg",
    MASKS: ".png",
    "SegmentationObject": ".png",
    "SegmentationContext": ".png",
    "SaliencyMaps": ".png",
    "Annotations": ".xml",
}


def write_scenes(
    root: Path,
    *,
    train: int,
    val: int,
    seed: int,
    size: tuple[int, int] = (120, 160),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write demo scenes as a VOC tree; scenes that an earlier call with the same seed and size has written are kept.

    Every class is the main one in each ten scenes once, so ten training scenes give each class a positive example.

    Args:
        root: Folder of the tree; new, empty, or written by an earlier call.
        train: Number of training scenes, at least 1; they come first.
        val: Number of validation scenes.
        seed: Names the series of scenes.
        size: Height and width; a quarter of the scenes have them swapped.
        progress: Called with the number of scenes done and of all scenes.

    Raises:
        UserError: If a number makes no sense, or ``root`` holds something else.
    """
    if train < 1 or val < 0 or seed < 0 or min(size) < SMALLEST_SIDE:
        what = f"cannot draw {train} + {val} scenes of {size[0]} x {size[1]} pixels from seed {seed}"
        raise UserError(
            what, remedy=f"Ask for one scene or more, {SMALLEST_SIDE} pixels or more a side, and a seed from 0"
        )
    total = train + val
    ids = [f"scene_{index + 1:04d}" for index in range(total)]
    _claim(root, {"drawing": DRAWING, "seed": seed, "size": list(size)}, ids)
    tags: dict[str, list[int]] = {}
    for index, name in enumerate(ids):
        if not _complete(root, name):
            _write_scene(root, name, make_scene(seed, index, size))
        tags[name] = _tags(root / MASKS / f"{name}.png")
        if progress is not None:
            progress(index + 1, total)
    _write_lists(root, ids[:train], ids[train:], tags)


def _claim(root: Path, stamp: dict[str, object], ids: list[str]) -> None:
    """Make sure that the folder is ours, and that what is in it comes from the same series."""
    path = root / STAMP
    ours = path.is_file()
    if not ours and root.exists() and any(root.iterdir()):
        raise UserError("holds other files than demo scenes", where=root, remedy="Choose a new or empty folder")
    same = ours and _read_stamp(path) == stamp
    _remove_strangers(root, set(ids) if same else set())
    if not same:
        write_json(path, stamp)


def _read_stamp(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def _remove_strangers(root: Path, ids: set[str]) -> None:
    """Remove scenes of other calls, and what an interrupted call has left."""
    for folder in SUFFIXES:
        for pattern in ("scene_*", ".tmp-*"):
            for path in (root / folder).glob(pattern):
                if path.stem not in ids:
                    path.unlink()


def _complete(root: Path, name: str) -> bool:
    return all((root / folder / f"{name}{suffix}").is_file() for folder, suffix in SUFFIXES.items())


def _write_scene(root: Path, name: str, scene: Scene) -> None:
    contents = {
        "JPEGImages": _jpeg(scene.image),
        MASKS: _png(scene.mask, palette=True),
        "SegmentationObject": _png(scene.instances, palette=True),
        "SegmentationContext": _png(scene.context, palette=True),
        "SaliencyMaps": _png(scene.saliency, palette=False),
        "Annotations": _annotation(name, scene),
    }
    for folder, content in contents.items():
        write_bytes(root / folder / f"{name}{SUFFIXES[folder]}", content)


def _jpeg(image: Image) -> bytes:
    stream = io.BytesIO()
    PilImage.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def _png(labels: Image, *, palette: bool) -> bytes:
    stream = io.BytesIO()
    picture = PilImage.fromarray(labels)
    if palette:
        picture.putpalette(voc_palette().tobytes())
    picture.save(stream, "PNG")
    return stream.getvalue()


def _tags(mask: Path) -> list[int]:
    with PilImage.open(mask) as picture:
        values = np.unique(np.asarray(picture))
    return [int(value) - 1 for value in values if value]


def _annotation(name: str, scene: Scene) -> bytes:
    """VOC's XML: boxes count from 1 and include their last pixel."""
    height, width = scene.mask.shape
    root = ElementTree.Element("annotation")
    _add(root, folder="weakseg-scenes", filename=f"{name}.jpg")
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=1)
    for kind, left, top, right, bottom in scene.boxes:
        cut = left == 0 or top == 0 or right == width or bottom == height
        entry = ElementTree.SubElement(root, "object")
        _add(entry, name=SCENE_CLASSES[kind], pose="Unspecified", truncated=int(cut), difficult=0)
        _add(ElementTree.SubElement(entry, "bndbox"), xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root) + b"\n"


def _add(parent: ElementTree.Element, **values: str | int) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _write_lists(root: Path, train: list[str], val: list[str], tags: dict[str, list[int]]) -> None:
    for split, ids in (("train", train), ("val", val), ("trainval", train + val)):
        write_text(root / "ImageSets" / "Segmentation" / f"{split}.txt", _lines(ids))
    write_text(root / "classes.txt", _lines(["background", *SCENE_CLASSES]))
    write_text(root / "context_classes.txt", _lines(list(SCENE_CONTEXTS)))
    rows = [f"{name},{' '.join(SCENE_CLASSES[tag] for tag in present)}" for name, present in tags.items()]
    write_text(root / "tags.csv", _lines(["image,tags", *rows]))


def _lines(values: list[str]) -> str:
    return "".join(f"{value}\n" for value in values)
