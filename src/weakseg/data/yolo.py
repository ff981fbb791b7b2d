"""Boxes from the text files of YOLO.

::

    root/labels/ID.txt        a line a box: class, centre x, centre y, width, height
    root/train/labels/...     or, where images are arranged by split, beside each folder of images
    root/data.yaml            its entry names is a list of the classes or a mapping of numbers to them
    root/classes.txt          or labels/classes.txt: instead of data.yaml, one class a line; else those of the splits

The class is a number from 0, the others are shares of the image's width and height.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from weakseg.data.annotations import Annotation, Box, Notation, finite
from weakseg.data.boxes import BoxSource, id_below, visible
from weakseg.data.images import image_size
from weakseg.data.layout import LABELS, Layout
from weakseg.data.tables import read_text
from weakseg.data.yolo_yaml import read_yaml
from weakseg.errors import UserError

CLASSES = "classes.txt"
KEYS = ("x", "y", "width", "height")
POLYGON = 6  # numbers of a triangle, without the class
CLASS = re.compile(r"[+-]?[0-9]{1,9}")
NOTATION = Notation("width and height above 0", "places are shares of the image, from 0 to 1, x and y of the centre")
REMEDY = "Write 'CLASS X Y WIDTH HEIGHT', such as '0 0.5 0.5 0.25 0.3', shares of the image with the centre first"


class YoloBoxes(BoxSource):
    """``labels/ID.txt`` below a folder; an empty file says that there is no object.

    Args:
        root: The folder that has ``labels``.
        classes: Names of the classes, if the folder has no list of its own.
        layout: How the images are arranged, if not in one folder.

    Raises:
        UserError: If nothing names the classes.
    """

    def __init__(self, root: Path, classes: Sequence[str] | None = None, layout: Layout | None = None) -> None:
        self.layout = layout or Layout(root, (root,), {})
        self.names, self.names_file = read_names(root, classes, self.layout.bases)

    def file(self, image_id: str) -> Path:
        """The image's text file."""
        return self.layout.beside(LABELS, image_id, ".txt")

    def mentions(self) -> Mapping[str, str]:
        """All text files of the folders but the list of classes."""
        found: dict[str, str] = {}
        for base in self.layout.bases:
            folder = self.layout.root / base / LABELS
            start = f"{base}/" if base else ""
            found |= {f"{start}{id_below(path, folder)}": str(path) for path in label_files(folder)}
        return found

    def class_names(self) -> tuple[str, ...]:
        """In the order of their numbers."""
        return self.names

    def annotation(self, image_id: str, image: Path | None) -> Annotation | None:
        """What the image's text file says; where the image is not there, as of an image of one pixel."""
        file = self.file(image_id)
        if not file.is_file():
            return None
        height, width = (1, 1) if image is None else image_size(image)
        boxes, flaws = [], []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                boxes.append(self._box(line.split(), height, width, f"line {number}"))
            except ValueError as error:
                flaws.append(UserError(str(error), where=f"{file}, line {number}", remedy=REMEDY))
            except UserError as error:
                flaws.append(UserError(error.problem, where=f"{file}, line {number}", remedy=error.remedy))
        return Annotation(tuple(boxes), flaws=tuple(flaws))

    def _box(self, words: list[str], height: int, width: int, place: str) -> Box:
        if len(words) != len(KEYS) + 1:
            polygon = ", as a polygon has" if len(words) > POLYGON and len(words) % 2 else ""
            raise ValueError(f"has {len(words)} columns instead of {len(KEYS) + 1}{polygon}")
        number, places = words[0], words[1:]
        if not CLASS.fullmatch(number):
            raise ValueError(f"the class '{number}' is not a whole number")
        if not 0 <= int(number) < len(self.names):
            what = f"has the class {number}, but there are {len(self.names)} classes, counted from 0"
            raise UserError(what, remedy=f"Correct it, or complete the list in {self.names_file}")
        x, y, across, down = finite(places)
        left, top, right, bottom = x - across / 2, y - down / 2, x + across / 2, y + down / 2
        corners = (left * width, top * height, right * width, bottom * height)
        written = ", ".join(f"{key} {word}" for key, word in zip(KEYS, places, strict=True))
        return Box(self.names[int(number)], corners, place=place, written=written, notation=NOTATION)


def label_files(folder: Path) -> list[Path]:
    """Files with boxes below ``labels``; tools write a list of the classes beside them."""
    return [path for path in visible(folder, ".txt") if path.name != CLASSES]


def read_names(
    root: Path, classes: Sequence[str] | None = None, bases: Sequence[str] = ("",)
) -> tuple[tuple[str, ...], Path | str]:
    """Names of the classes by their numbers, and what says so: ``data.yaml``, ``classes.txt`` or the caller.

    Here every line of a ``classes.txt`` counts, also a first line ``background``, as with the tools that write it.

    Args:
        root: The folder.
        classes: Names that count where there is no list.
        bases: Folders below root that have ``labels``, see ``Layout.bases``.

    Raises:
        UserError: If there is no list, it cannot be read, or those of two splits differ.
    """
    content = read_yaml(root)
    if content is not None:
        return content.names, content.file
    for file in (root / "labels" / CLASSES, root / CLASSES):
        if file.is_file():
            return _lines(file), file
    if lists := _lists_of_splits(root, bases):
        first, *others = lists
        for file in others:
            if _lines(file) != _lines(first):
                remedy = f"Make them the same, or write the list that counts to {root / CLASSES}"
                raise UserError(f"names other classes than {first}, or in another order", where=file, remedy=remedy)
        return _lines(first), first
    if classes is None:
        what = "nothing names the classes, of which the files have numbers"
        raise UserError(what, where=root / "labels", remedy="Write a classes.txt, or a data.yaml with their names")
    return tuple(classes), "the classes"


def _lists_of_splits(root: Path, bases: Sequence[str]) -> list[Path]:
    """Each ``classes.txt`` beside or below the ``labels`` of a split."""
    found: list[Path] = []
    for base in bases:
        found += [file for file in visible(root / base / LABELS, CLASSES) if file.name == CLASSES]
        found += [file for file in (root / base / CLASSES,) if file.is_file()]
    return found


def _lines(file: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
