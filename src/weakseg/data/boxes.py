"""Where a folder of images has its boxes from: one interface, PASCAL VOC's XML files and a table behind it."""

import csv
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from weakseg.data.annotations import Annotation, Box, Notation, finite, read_annotation
from weakseg.data.ids import check_id, id_of
from weakseg.data.tables import read_text
from weakseg.errors import UserError

COLUMNS = ("image", "class", "x1", "y1", "x2", "y2")
CSV_NOTATION = Notation("x1 < x2, y1 < y2", "pixels are counted from 0, and x2 and y2 are the first ones outside")
EXAMPLE = "Write a line 'image,class,x1,y1,x2,y2' and below it a line a box, such as '001,cat,10,20,110,90'"


class BoxSource(ABC):
    """Boxes of the images of a folder.

    What cannot be read is kept as a flaw of the image it is about, so that an audit can list everything at once.

    Attributes:
        table: The file that is about all images; ``None`` if each has its own.
        stray: What is wrong with entries of which one cannot say what image they are about.
    """

    table: Path | None = None
    stray: tuple[UserError, ...] = ()

    @abstractmethod
    def file(self, image_id: str) -> Path:
        """File that has the boxes of an image, or would have them if it were there."""

    @abstractmethod
    def mentions(self) -> Mapping[str, str]:
        """Each image that boxes are given for, and where it is named."""

    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their list, or sorted where there is none."""

    @abstractmethod
    def annotation(self, image_id: str, image: Path | None) -> Annotation | None:
        """What is known about an image's objects, ``None`` if nothing is.

        Args:
            image_id: The image.
            image: Its file, if it is there.

        Raises:
            UserError: If the file cannot be read at all.
        """


class XmlBoxes(BoxSource):
    """``ID.xml`` of PASCAL VOC below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, image_id: str) -> Path:
        """The image's XML."""
        return self.folder / f"{image_id}.xml"

    def mentions(self) -> Mapping[str, str]:
        """All XML files of the folder."""
        return {id_below(path, self.folder): str(path) for path in visible(self.folder, ".xml")}

    def class_names(self) -> tuple[str, ...]:
        """All that occur, sorted; a file that cannot be read is left to the audit."""
        names: set[str] = set()
        for path in visible(self.folder, ".xml"):
            try:
                names.update(read_annotation(path).tag_names)
            except UserError:
                continue
        return tuple(sorted(names))

    def annotation(self, image_id: str, image: Path | None) -> Annotation | None:
        """What the image's XML says."""
        file = self.file(image_id)
        return read_annotation(file) if file.is_file() else None


class CsvBoxes(BoxSource):
    """A table ``image,class,x1,y1,x2,y2`` with a line for each box; the columns may have another order.

    A line with nothing but an image says that it shows no object.

    Args:
        table: UTF-8, with or without byte-order mark, any line ends.

    Raises:
        UserError: If it is not such a table.
    """

    def __init__(self, table: Path) -> None:
        self.table: Path = table
        self._boxes: dict[str, list[Box]] = {}
        self._flaws: dict[str, list[UserError]] = defaultdict(list)
        self._first: dict[str, str] = {}
        stray = []
        for number, cells in _rows(table):
            where = f"{table}, line {number}"
            try:
                image_id = check_id(id_of(cells.get("image", "")), where=where)
            except UserError as error:
                stray.append(error)
                continue
            self._first.setdefault(image_id, where)
            self._boxes.setdefault(image_id, [])
            try:
                self._boxes[image_id].extend(_boxes(cells, f"line {number}"))
            except ValueError as error:
                self._flaws[image_id].append(UserError(str(error), where=where, remedy=EXAMPLE))
        self.stray = tuple(stray)

    def file(self, image_id: str) -> Path:
        """The table."""
        return self.table

    def mentions(self) -> Mapping[str, str]:
        """The images of all lines."""
        return self._first

    def class_names(self) -> tuple[str, ...]:
        """All that occur, sorted."""
        return tuple(sorted({box.name for boxes in self._boxes.values() for box in boxes}))

    def annotation(self, image_id: str, image: Path | None) -> Annotation | None:
        """What the lines about the image say."""
        if image_id not in self._first:
            return None
        return Annotation(tuple(self._boxes[image_id]), flaws=tuple(self._flaws.get(image_id, ())))


def visible(folder: Path, suffix: str) -> Iterator[Path]:
    """Files of a suffix below a folder, sorted, without those that are hidden."""
    for path in sorted(folder.rglob(f"*{suffix}")):
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def id_below(path: Path, folder: Path) -> str:
    """``folder/cats/001.xml`` -> ``cats/001``."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and stripped cells by column; a line of another length has its image and nothing else."""
    reader = csv.reader(read_text(table).splitlines(), strict=True)
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        if sorted(header) != sorted(COLUMNS):
            what = f"the first line is '{','.join(header)}' instead of '{','.join(COLUMNS)}'"
            raise UserError(what, where=table, remedy=EXAMPLE)
        for row in reader:
            if any(cell.strip() for cell in row):
                cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
                yield reader.line_num, cells if len(row) == len(header) else {**cells, "": str(len(row))}
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} is not CSV ({error})", where=table, remedy=EXAMPLE) from error


def _boxes(cells: Mapping[str, str], place: str) -> Iterator[Box]:
    """The box of a line, or none.

    Raises:
        ValueError: If the line is malformed.
    """
    if "" in cells:
        raise ValueError(f"has {cells['']} columns instead of {len(COLUMNS)}")
    words = [cells[column] for column in COLUMNS[2:]]
    if not cells["class"] and not any(words):
        return
    if not cells["class"]:
        raise ValueError("names no class")
    x1, y1, x2, y2 = finite(words)
    written = ", ".join(f"{column} {word}" for column, word in zip(COLUMNS[2:], words, strict=True))
    yield Box(cells["class"], (x1, y1, x2, y2), place=place, written=written, notation=CSV_NOTATION)
