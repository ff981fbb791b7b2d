"""The boxes of a JSON file of COCO, for a folder of images."""

from collections.abc import Mapping
from pathlib import Path

from weakseg.data.annotations import Annotation
from weakseg.data.boxes import BoxSource
from weakseg.data.coco_file import read_coco


class CocoBoxes(BoxSource):
    """The boxes of a JSON file of COCO, without crowds.

    Raises:
        UserError: If it cannot be read.
    """

    def __init__(self, table: Path) -> None:
        self.table: Path = table
        self._file = read_coco(table)
        self.stray = self._file.stray

    def file(self, image_id: str) -> Path:
        """The JSON file."""
        return self.table

    def mentions(self) -> Mapping[str, str]:
        """All images of the file."""
        return dict.fromkeys(self._file.images, str(self.table))

    def class_names(self) -> tuple[str, ...]:
        """The categories, in the order of the file."""
        return tuple(self._file.categories.values())

    def annotation(self, image_id: str, image: Path | None) -> Annotation | None:
        """What the file says about the image."""
        return self._file.annotation(image_id)
