"""What is known about the objects of an image: their boxes, from the XML files of PASCAL VOC and from others."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from weakseg.errors import UserError


@dataclass(frozen=True)
class Notation:
    """How a kind of file writes boxes, for messages.

    Attributes:
        has_area: What is true of a box with an area.
        counting: How places are counted.
        flat_boxes: Whether boxes without width or height occur in data sets as they are published (COCO's has some).
    """

    has_area: str
    counting: str
    flat_boxes: bool = False


VOC_NOTATION = Notation("xmin <= xmax, ymin <= ymax", "pixels are counted from 1")


@dataclass(frozen=True)
class Box:
    """One object.

    Attributes:
        name: Its class as written in the file.
        corners: x1, y1, x2, y2 in pixels from 0, upper bounds exclusive.
        difficult: Whether the annotator found it hard to recognise.
        place: Where it stands in its file, such as ``"line 7"``; empty if that is not known.
        written: Its numbers as the file has them.
        notation: How the file writes boxes.
    """

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False
    place: str = field(default="", compare=False)
    written: str = field(default="", compare=False)
    notation: Notation = field(default=VOC_NOTATION, compare=False)


@dataclass(frozen=True)
class Annotation:
    """What a file says about the objects of one image.

    Attributes:
        boxes: Of its objects, those that can be read.
        size: Height and width of the image as the file has them, ``None`` if it does not say.
        flaws: What is wrong with the entries that cannot be read.
        others: Classes of objects that have no box of their own, such as a crowd.
        unsure: Boxes around such objects: what is in them is not known to be background.
    """

    boxes: tuple[Box, ...]
    size: tuple[int, int] | None = None
    flaws: tuple[UserError, ...] = ()
    others: tuple[str, ...] = ()
    unsure: tuple[Box, ...] = ()

    def checked(self) -> "Annotation":
        """The annotation itself.

        Raises:
            UserError: If an entry cannot be read; the first.
        """
        if self.flaws:
            raise self.flaws[0]
        return self

    @property
    def tag_names(self) -> tuple[str, ...]:
        """All classes that the image shows, each once."""
        return tuple(dict.fromkeys((*(box.name for box in self.boxes), *self.others)))


def read_annotation(path: Path) -> Annotation:
    """All objects of an annotation file of PASCAL VOC, difficult ones too.

    The file counts pixels from 1 and includes the last one; here they are counted from 0 and the last one is excluded.

    Raises:
        UserError: If the file is missing, damaged, declares a document type, or an object lacks a name or a box.
    """
    remedy = "Correct it; it should be a PASCAL VOC annotation"
    try:
        root = _parse(path.read_bytes())
        return Annotation(tuple(_box(element) for element in root.iterfind("object")), _size(root))
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=path, remedy="Put the annotation there") from error
    except (OSError, expat.ExpatError, LookupError, ValueError) as error:  # LookupError: an encoding nobody knows
        raise UserError(f"cannot be read as an annotation ({error})", where=path, remedy=remedy) from error


def finite(words: list[str]) -> list[float]:
    """The numbers that words stand for.

    Raises:
        ValueError: If one is no number or not finite; names it.
    """
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError as error:
            raise ValueError(f"'{word}' is not a number") from error
        if not math.isfinite(values[-1]):
            raise ValueError(f"'{word}' is not finite")
    return values


def _parse(content: bytes) -> Element:
    """The root element. Document types are refused: they are what entity expansion and outside entities need."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    parser.Parse(content, True)
    return builder.close()


def _refuse(*_: object) -> None:
    raise ValueError("document types and entities are not allowed")


def _size(root: Element) -> tuple[int, int] | None:
    """Height and width; many tools write 0 where they do not know them."""
    words = [(root.findtext(f"size/{key}") or "").strip() for key in ("height", "width")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        return None
    return int(words[0]), int(words[1])


def _box(element: Element) -> Box:
    name = (element.findtext("name") or "").strip()
    keys = ("xmin", "ymin", "xmax", "ymax")
    words = [element.findtext(f"bndbox/{key}") for key in keys]
    if not name or None in words:
        raise ValueError("an object has no name or no bndbox")
    x1, y1, x2, y2 = (float(word or "") for word in words)
    if not all(math.isfinite(corner) for corner in (x1, y1, x2, y2)):
        raise ValueError(f"the box of '{name}' is not finite")
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    written = ", ".join(f"{key} {value:g}" for key, value in zip(keys, (x1, y1, x2, y2), strict=True))
    return Box(name, (x1 - 1, y1 - 1, x2, y2), difficult, written=written)
