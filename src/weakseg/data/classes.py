"""The list of object classes and its colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weakseg.errors import UserError
from weakseg.registry import near_matches

MAX_CLASSES = 254
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def voc_palette() -> NDArray[np.uint8]:
    """(256, 3) colours of PASCAL VOC: the bits of an index, dealt to red, green and blue from the top bit down."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> channel) & 1) << (7 - bit)).astype(np.uint8)
        index = index >> 3
    return colours


@dataclass(frozen=True)
class ClassList:
    """Names of the object classes; mask value 0 is background, class ``c`` has mask value ``c + 1``.

    Raises:
        UserError: If a name is empty or stands twice, or there are none or more than 254.
    """

    names: tuple[str, ...]

    @classmethod
    def named_in(cls, names: Sequence[str], where: Path) -> "ClassList":
        """The classes that a file of the data names.

        Raises:
            UserError: As above; names the file.
        """
        try:
            return cls(tuple(names))
        except UserError as error:
            remedy = f"{error.remedy}; correct the file, or name the classes that count in data.classes"
            raise UserError(error.problem, where=where, remedy=remedy) from error

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise UserError(f"{len(self.names)} classes", remedy=f"Name between 1 and {MAX_CLASSES} classes")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1 or not name})
        if repeated or "background" in self.names:
            what = f"class '{repeated[0]}' stands twice" if repeated else "'background' is listed as an object class"
            raise UserError(what, remedy="List each object class once, background only as the first line")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def with_background(self) -> tuple[str, ...]:
        """Names in the order of mask values."""
        return ("background", *self.names)

    def index(self, name: str) -> int:
        """Index of an object class.

        Raises:
            UserError: If there is no such class; lists near matches.
        """
        if name not in self.names:
            raise UserError(f"unknown class '{name}'", remedy=near_matches(name, self.names))
        return self.names.index(name)

    @classmethod
    def from_lines(cls, lines: Sequence[str]) -> "ClassList":
        """From the lines of a ``classes.txt``; a first line ``background`` is allowed and left out."""
        names = [line.strip() for line in lines if line.strip()]
        return cls(tuple(names[1:] if names[:1] == ["background"] else names))
