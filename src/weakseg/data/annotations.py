"""Bounding boxes from the XML files of PASCAL VOC."""

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from weakseg.errors import UserError


@dataclass(frozen=True)
class Box:
    """One object.

    Attributes:
        name: Its class as written in the file.
        corners: x1, y1, x2, y2 in pixels from 0, upper bounds exclusive.
        difficult: Whether the annotator found it hard to recognise.
    """

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False


def read_annotation(path: Path) -> tuple[Box, ...]:
    """All objects of an annotation file, difficult ones too.

    The file counts pixels from 1 and includes the last one; here they are counted from 0 and the last one is excluded.

    Raises:
        UserError: If the file is missing, damaged, declares a document type, or an object lacks a name or a box.
    """
    remedy = "Correct it; it should be a PASCAL VOC annotation"
    try:
        return tuple(_box(element) for element in _parse(path.read_bytes()).iterfind("object"))
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=path, remedy="Put the annotation there") from error
    except (OSError, expat.ExpatError, ValueError) as error:
        raise UserError(f"cannot be read as an annotation ({error})", where=path, remedy=remedy) from error


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


def _box(element: Element) -> Box:
    name = (element.findtext("name") or "").strip()
    corners = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    if not name or None in corners:
        raise ValueError("an object has no name or no bndbox")
    x1, y1, x2, y2 = (float(corner or "") for corner in corners)
    if not all(math.isfinite(corner) for corner in (x1, y1, x2, y2)):
        raise ValueError(f"the box of '{name}' is not finite")
    return Box(name, (x1 - 1, y1 - 1, x2, y2), (element.findtext("difficult") or "0").strip() == "1")
