"""The text files of a data set: tags, lists of images, class names."""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from weakseg.data.classes import ClassList
from weakseg.data.ids import check_id, id_of
from weakseg.data.sample import IGNORE
from weakseg.errors import UserError

TAG_SEPARATORS = ";|,"
EXAMPLE = "Write a line 'image,tags' and below it a line an image, such as '001,cat dog'"


@dataclass(frozen=True)
class TagRow:
    """A line of ``tags.csv``.

    Attributes:
        id: Name of the image without its suffix.
        names: Its tags as written.
        split: Empty where the file names none.
    """

    id: str
    names: tuple[str, ...]
    split: str = ""


def read_tags(path: Path, known: Collection[str] = ()) -> tuple[TagRow, ...]:
    """Read ``image,tags[,split]``.

    Tags are separated by ``;``, ``|`` or (in quotes) a comma where one of these stands anywhere in the column, and may
    then contain spaces; otherwise they are separated by spaces.

    Args:
        path: UTF-8, with or without byte-order mark, any line ends.
        known: Class names, if they are known already; a cell that is one of them is not taken apart.

    Raises:
        UserError: If the file is missing, not such a table, or names an image that may not be named so.
    """
    lines = list(_csv_lines(path))
    cells = [cell["tags"] for _, cell in lines]
    separated = any(mark in cell for cell in cells if cell not in known for mark in TAG_SEPARATORS)
    rows = []
    for number, cell in lines:
        name = check_id(id_of(cell["image"]), where=f"{path}, line {number}")
        rows.append(TagRow(name, _tag_names(cell["tags"], known, separated), cell.get("split", "")))
    return tuple(rows)


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids of a list of images, one a line, with or without suffix, repeated where the file repeats them.

    Raises:
        UserError: If the file is missing, empty, or an id is refused.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    ids = tuple(check_id(id_of(line), where=path) for line in lines if line)
    if not ids:
        raise UserError("the list of images is empty", where=path, remedy="Write the name of one image a line")
    return ids


def read_classes(path: Path) -> ClassList:
    """The classes named in a ``classes.txt``, one a line.

    Raises:
        UserError: If the file is missing or is no such list.
    """
    try:
        return ClassList.from_lines(read_text(path).splitlines())
    except UserError as error:
        raise UserError(error.problem, where=error.where or path, remedy=error.remedy) from error


def read_context_classes(path: Path) -> tuple[str, ...] | None:
    """The names in a ``context_classes.txt``, if there is one: the first line names value 0 of the context labels.

    Raises:
        UserError: If a line is empty or stands twice, or there are more than 255 lines.
    """
    if not path.is_file():
        return None
    names = tuple(line.strip() for line in read_text(path).rstrip().splitlines())
    repeated = sorted({name for name in names if not name or names.count(name) > 1})
    if repeated or not 1 <= len(names) <= IGNORE:
        what = f"{len(names)} names" if not repeated else f"line '{repeated[0]}' is empty or stands twice"
        remedy = f"Write one name a line, the first for the value 0, at most {IGNORE} lines"
        raise UserError(what, where=path, remedy=remedy)
    return names


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte-order mark.

    Raises:
        UserError: If the file is missing or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=path, remedy="Save it as UTF-8 (in Excel: CSV UTF-8)") from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=path, remedy="Put the file there") from error


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and stripped cells by column."""
    reader = csv.reader(read_text(path).splitlines(), strict=True)
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        if header[:2] != ["image", "tags"] or header[2:] not in ([], ["split"]):
            what = f"the first line is '{','.join(header)}' instead of 'image,tags' or 'image,tags,split'"
            raise UserError(what, where=path, remedy=EXAMPLE)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                what = f"line {reader.line_num} has {len(row)} columns instead of {len(header)}"
                raise UserError(what, where=path, remedy="Separate the tags of an image by spaces or ';'")
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} is not CSV ({error})", where=path, remedy=EXAMPLE) from error


def _tag_names(cell: str, known: Collection[str], separated: bool) -> tuple[str, ...]:
    """Tags of one cell, each once, in their order."""
    if cell in known:
        return (cell,)
    for mark in TAG_SEPARATORS[1:] if separated else "":
        cell = cell.replace(mark, TAG_SEPARATORS[0])
    names = cell.split(TAG_SEPARATORS[0] if separated else None)
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
