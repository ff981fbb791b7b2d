"""The JSON files of COCO: read once, kept in little memory, asked by image.

Objects of all images are rows of a few arrays, sorted by image; the many lists of the file are gone when it is read.
"""

import hashlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from weakseg.data.annotations import Annotation, Box, Notation
from weakseg.data.coco_masks import Segmentation, read_segmentation
from weakseg.data.ids import check_id, id_of
from weakseg.data.tables import read_text
from weakseg.errors import UserError

COUNTING = "bbox is x, y, width and height in pixels, counted from 0"
NOTATION = Notation("width and height above 0", COUNTING, flat_boxes=True)
REMEDY = "Correct it; it should be like COCO's instances_val2017.json"
LARGEST_NUMBER = 2**53  # of a category; beyond, floating-point numbers skip some
KEPT_FILES = 2  # in memory: those of training and validation


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image that the file names.

    Attributes:
        file_name: As written.
        size: Height and width, ``None`` if the file does not say.
    """

    file_name: str
    size: tuple[int, int] | None


class CocoObject(NamedTuple):
    """An entry of ``annotations``.

    Attributes:
        image: Number of the image, as written.
        category: Number of the category, as written.
        x: Left.
        y: Top.
        width: Of the box.
        height: Of the box.
        area: In pixels; not a number if the file does not say.
        crowd: Whether it is a region of many objects.
        number: Of the entry.
        segmentation: Where the object is, if the file says so.
        problem: Why the entry cannot be used; empty if it can.
    """

    image: Any
    category: Any
    x: float = math.nan
    y: float = math.nan
    width: float = math.nan
    height: float = math.nan
    area: float = math.nan
    crowd: bool = False
    number: Any = None
    segmentation: Segmentation | None = None
    problem: str = ""


class CocoFile:
    """What a JSON file of COCO says.

    Attributes:
        path: The file.
        categories: Number -> name, in the order of the file.
        images: Id -> image, in the order of the file; the id is the file name without its suffix.
        stray: What is wrong with entries of which one cannot say what image they are about.
        repeated: Ids that more than one entry of ``images`` has.
        has_segmentations: Whether any object has one.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.categories = _categories(content, path)
        self.images: dict[str, CocoImage] = {}
        self.repeated: list[str] = []
        self._flaws: dict[str, list[UserError]] = defaultdict(list)
        stray: list[UserError] = []
        ids = self._read_images(content, stray)
        objects = self._sorted(content, ids, stray)
        self.stray = tuple(stray)
        self._numbers = np.array([one[1:8] for _, one in objects], dtype=np.float64).reshape(-1, 7)
        self._entries = [one.number for _, one in objects]
        self._segmentations = [one.segmentation for _, one in objects]
        self.has_segmentations = any(one is not None for one in self._segmentations)
        self._rows: dict[str, tuple[int, int]] = {}
        for row, (image_id, _) in enumerate(objects):
            self._rows[image_id] = (self._rows.get(image_id, (row, row))[0], row + 1)

    def annotation(self, image_id: str) -> Annotation | None:
        """Boxes of an image, without crowds; ``None`` if the file does not name the image."""
        if image_id not in self.images:
            return None
        objects = self.objects(image_id)
        return Annotation(
            tuple(self._box(one) for one in objects if not one.crowd),
            self.images[image_id].size,
            tuple(self._flaws.get(image_id, ())),
            tuple(dict.fromkeys(self.categories[one.category] for one in objects if one.crowd)),
            tuple(self._box(one) for one in objects if one.crowd),
        )

    def objects(self, image_id: str) -> list[CocoObject]:
        """The entries about an image that can be read, in the order of the file; ``image`` is its id."""
        first, last = self._rows.get(image_id, (0, 0))
        return [self._object(image_id, row) for row in range(first, last)]

    def is_segmented(self, image_id: str) -> bool:
        """Whether the file says of every object of the image where it is."""
        first, last = self._rows.get(image_id, (0, 0))
        known = image_id in self.images and self.has_segmentations
        return known and all(one is not None for one in self._segmentations[first:last])

    def content(self, image_id: str) -> str:
        """Hash of all that the file says about an image."""
        state = hashlib.blake2b(repr(self.images.get(image_id)).encode(), digest_size=16)
        for one in self.objects(image_id):
            numbers = (self.categories[one.category], one.x, one.y, one.width, one.height, one.area, one.crowd)
            state.update(repr(numbers).encode())
            state.update(b"" if one.segmentation is None else one.segmentation.content())
        return state.hexdigest()

    def _read_images(self, content: dict[str, Any], stray: list[UserError]) -> dict[Any, str]:
        """Number of an image -> id."""
        ids = {}
        for position, entry in enumerate(_list(content, "images", self.path)):
            where = f"{self.path}, image {_number(entry, position)}"
            try:
                if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
                    raise UserError("has no file_name", where=where, remedy=REMEDY)
                image_id = check_id(id_of(entry["file_name"]), where=where)
                if not isinstance(entry.get("id"), int | str) or entry["id"] in ids:
                    what = "has no id of its own, to which annotations could refer"
                    raise UserError(what, where=where, remedy="Give each image another id")
            except UserError as error:
                stray.append(error)
                continue
            ids[entry["id"]] = image_id
            if image_id in self.images:
                self.repeated.append(image_id)
            self.images.setdefault(image_id, CocoImage(entry["file_name"], _size(entry)))
        return ids

    def _sorted(
        self, content: dict[str, Any], ids: dict[Any, str], stray: list[UserError]
    ) -> list[tuple[str, CocoObject]]:
        """Usable objects with the ids of their images, sorted by image."""
        order = {image_id: place for place, image_id in enumerate(self.images)}
        found = []
        for position, entry in enumerate(_list(content, "annotations", self.path)):
            one = entry if isinstance(entry, CocoObject) else _object(entry if isinstance(entry, dict) else {})
            one = one._replace(number=position) if one.number is None else one
            where = f"{self.path}, annotation {one.number}"
            if not _is_key(one.image) or one.image not in ids:
                what = f"is of the image {one.image}, which 'images' lacks"
                stray.append(UserError(what, where=where, remedy="Add the image there, or remove the annotation"))
            elif one.problem:
                self._flaws[ids[one.image]].append(UserError(one.problem, where=where, remedy=REMEDY))
            elif not _is_key(one.category) or one.category not in self.categories:
                what = f"has the category {one.category}, which 'categories' lacks"
                known = ", ".join(f"{number} ({name})" for number, name in list(self.categories.items())[:5])
                more = ", ..." if len(self.categories) > 5 else ""
                remedy = f"Correct it, or add the category. Known: {known}{more}"
                self._flaws[ids[one.image]].append(UserError(what, where=where, remedy=remedy))
            else:
                found.append((ids[one.image], one))
        return sorted(found, key=lambda pair: order[pair[0]])

    def _object(self, image_id: str, row: int) -> CocoObject:
        category, x, y, width, height, area, crowd = self._numbers[row].tolist()
        segmentation = self._segmentations[row]
        number = self._entries[row]
        return CocoObject(image_id, int(category), x, y, width, height, area, bool(crowd), number, segmentation)

    def _box(self, one: CocoObject) -> Box:
        return Box(
            self.categories[one.category],
            (one.x, one.y, one.x + one.width, one.y + one.height),
            place=f"annotation {one.number}",
            written=f"x {one.x:g}, y {one.y:g}, width {one.width:g}, height {one.height:g}",
            notation=NOTATION,
        )


def read_coco(path: Path) -> CocoFile:
    """Read a file, or what was kept of it if it has not changed since.

    Raises:
        UserError: If it is missing, is no JSON, or has no images, annotations or categories.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=path, remedy="Put the file there") from error
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=KEPT_FILES)
def _read(path: Path, _changed: int, _bytes: int) -> CocoFile:
    text = read_text(path)
    try:
        content = json.loads(text, object_hook=_compact)
    except json.JSONDecodeError as error:
        what = f"is not JSON ({error.msg}, line {error.lineno}, column {error.colno})"
        raise UserError(what, where=path, remedy=REMEDY) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"cannot be read as JSON ({error})", where=path, remedy=REMEDY) from error
    if not isinstance(content, dict):
        raise UserError("is no JSON object", where=path, remedy=REMEDY)
    return CocoFile(path, content)


def _compact(entry: dict[str, Any]) -> object:
    """Annotations take little memory as soon as they are read; all other objects stay as they are."""
    return _object(entry) if "image_id" in entry and "category_id" in entry else entry


def _object(entry: dict[str, Any]) -> CocoObject:
    one = CocoObject(entry.get("image_id"), entry.get("category_id"), number=entry.get("id"))
    try:
        x, y, width, height = _box_numbers(entry.get("bbox"))
        segmentation = read_segmentation(entry.get("segmentation"))
    except ValueError as error:
        return one._replace(problem=str(error))
    area = _float(entry["area"]) if _is_number(entry.get("area")) else math.nan
    area = area if 0 <= area < math.inf else math.nan
    crowd = entry.get("iscrowd") in (1, True)
    return one._replace(x=x, y=y, width=width, height=height, area=area, crowd=crowd, segmentation=segmentation)


def _box_numbers(value: object) -> list[float]:
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(number) for number in value):
        raise ValueError("has no bbox of four numbers")
    numbers = [_float(number) for number in value]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("has a bbox that is not finite")
    return numbers


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: Any) -> float:  # noqa: ANN401  (any JSON number)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_key(value: object) -> bool:
    return isinstance(value, int | str)


def _number(entry: object, position: int) -> object:
    return entry.get("id", position) if isinstance(entry, dict) else position


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    known = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return (int(height or 0), int(width or 0)) if known else None


def _list(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise UserError(f"has no list '{key}'", where=path, remedy=REMEDY)
    return value


def _categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for position, entry in enumerate(_list(content, "categories", path)):
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        named = isinstance(name, str) and bool(name.strip())
        if not isinstance(number, int) or abs(number) > LARGEST_NUMBER or number in found or not named:
            what = f"its category {_number(entry, position)} has no name, or no number of its own"
            remedy = f"Give each category a name and an id, a whole number up to {LARGEST_NUMBER}"
            raise UserError(what, where=path, remedy=remedy)
        found[number] = str(name).strip()
    if not found:
        raise UserError("has no categories", where=path, remedy=REMEDY)
    return found
