"""Small data sets for the tests of this room."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from weakseg.data.images import write_mask
from weakseg.errors import UserError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"""


def put_image(path: Path, width: int = 48, height: int = 40, colour=(200, 30, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)
    return path


def put_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def put_mask(path: Path, value: int = 1, width: int = 48, height: int = 40) -> Path:
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[10:20, 10:30] = value
    write_mask(path, mask)
    return path


def put_saliency(path: Path, width: int = 48, height: int = 40) -> Path:
    """Where the object of ``put_mask`` is, a map of 1, and elsewhere of 0.2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saliency = Image.new("L", (width, height), 51)
    saliency.paste(255, (10, 10, 30, 20))
    saliency.save(path)
    return path


def put_boxes(path: Path, *boxes: tuple, difficult: int = 0) -> Path:
    """Boxes are (name, xmin, ymin, xmax, ymax) as written in the file."""
    keys = ("name", "xmin", "ymin", "xmax", "ymax")
    objects = "".join(OBJECT.format(difficult=difficult, **dict(zip(keys, box, strict=True))) for box in boxes)
    return put_text(path, f"<annotation><size><width>48</width></size>{objects}</annotation>")


def folder_tree(root: Path, table: str = "image,tags\na,cat\nb,dog\nc,cat dog\nd,dog\n") -> Path:
    """Images a, b, c, d and a table."""
    for name in "abcd":
        put_image(root / "images" / f"{name}.jpg")
    put_text(root / "tags.csv", table)
    return root


def voc_tree(root: Path, train: str = "a\nb\nc\n", val: str = "d\n") -> Path:
    """Classes cat and dog; a and d show a cat, b a dog, c both; everything is annotated."""
    put_text(root / "classes.txt", "background\ncat\ndog\n")
    put_text(root / "ImageSets/Segmentation/train.txt", train)
    put_text(root / "ImageSets/Segmentation/val.txt", val)
    shown = {"a": ["cat"], "b": ["dog"], "c": ["cat", "dog"], "d": ["cat"]}
    for name, classes in shown.items():
        put_image(root / f"JPEGImages/{name}.jpg")
        put_saliency(root / f"SaliencyMaps/{name}.png")
        put_boxes(root / f"Annotations/{name}.xml", *((which, 11, 11, 30, 20) for which in classes))
        mask = torch.zeros(40, 48, dtype=torch.uint8)
        for which in classes:
            mask[10:20, slice(10, 20) if which == "cat" else slice(20, 30)] = 1 + (which == "dog")
        write_mask(root / f"SegmentationClass/{name}.png", mask)
    return root


def refusal(action, *parts) -> str:
    """The one line with which ``action`` is refused; it has a remedy and all of ``parts``."""
    with pytest.raises(UserError) as raised:
        action()
    line = str(raised.value)
    assert raised.value.remedy
    assert "\n" not in line
    for part in parts:
        assert str(part) in line
    return line


def box_tree(root: Path) -> Path:
    """Images a, b, c, d of 48 x 40 pixels without any label."""
    for name in "abcd":
        put_image(root / "images" / f"{name}.jpg")
    return root


def coco_content() -> dict:
    """Images a, b, c of 48 x 40 pixels, dog (number 18) before cat (17).

    A large dog with a cat on it and a crowd of cats beside them in a, a cat in b, nothing in c.
    """

    def rectangle(x, y, width, height):
        return [[x, y, x + width, y, x + width, y + height, x, y + height]]

    def entry(number, image, category, *box, **more):
        shape = {"segmentation": rectangle(*box), "area": box[2] * box[3]}
        return {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": list(box),
            "iscrowd": 0,
            **shape,
            **more,
        }

    crowd = {"size": [40, 48], "counts": [30 * 40, 18 * 40]}  # columns from 30 on
    return {
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "width": 48, "height": 40}
            for number, name in enumerate("abc", 7)
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            entry(1, 7, 17, 10, 10, 5, 5),
            entry(2, 8, 17, 0, 0, 20, 10),
            entry(3, 7, 18, 4, 4, 30, 30),
            entry(4, 7, 17, 30, 0, 18, 40, iscrowd=1, segmentation=crowd),
        ],
    }


def put_json(path: Path, content: object) -> Path:
    return put_text(path, json.dumps(content))


def coco_tree(root: Path, json_file: str = "annotations/instances_train.json", images: str = "train") -> Path:
    """The images and the JSON file of ``coco_content``."""
    for name in "abc":
        put_image(root / images / f"{name}.jpg")
    put_json(root / json_file, coco_content())
    return root
