"""Data sets in the folders of PASCAL VOC.

::

    root/JPEGImages/ID.jpg
    root/ImageSets/Segmentation/SPLIT.txt
    root/SegmentationClass/ID.png  root/Annotations/ID.xml  root/SaliencyMaps/ID.png       optional
    root/SegmentationObject/ID.png                                                         optional, for measuring
    root/SegmentationContext/ID.png  root/context_classes.txt                              optional, for measuring
    root/classes.txt                                       optional; else the 20 classes of VOC
    root/tags.csv                                          optional; else from Annotations, else from SegmentationClass
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from weakseg.data.annotations import read_annotation
from weakseg.data.classes import VOC_CLASSES, ClassList
from weakseg.data.dataset import Dataset, existing, size_error, unique
from weakseg.data.findings import Finding
from weakseg.data.folder import check_split, contradicting_rows, repeated_findings
from weakseg.data.ids import IMAGE_SUFFIXES
from weakseg.data.images import read_mask
from weakseg.data.objects import Objects, objects_of
from weakseg.data.tables import read_classes, read_context_classes, read_ids, read_tags
from weakseg.errors import UserError


class VOCDataset(Dataset):
    """A tree like PASCAL VOC's.

    An image's tags are those of ``tags.csv`` if there is one; else the classes of its boxes, difficult ones too, if it
    has an annotation; else the classes in its mask.

    Args:
        root: The folder that has ``JPEGImages``.
        split: Name of a list in ``ImageSets/Segmentation``; ``train`` if ``None``.
        classes: Names of the classes, instead of ``classes.txt`` or the 20 of VOC.

    Raises:
        UserError: If there is no such tree or no such split.
    """

    def __init__(self, root: str | Path, split: str | None = None, *, classes: Sequence[str] | None = None) -> None:
        root = Path(root)
        self.root, self.split = root, split or "train"
        lists = root / "ImageSets" / "Segmentation"
        for folder in (root / "JPEGImages", lists):
            if not folder.is_dir():
                remedy = "Choose the folder that has JPEGImages and ImageSets/Segmentation (VOCdevkit/VOC2012)"
                raise UserError("there is no such folder", where=folder, remedy=remedy)
        self.list_file = lists / f"{self.split}.txt"
        known = (path.stem for path in lists.glob("*.txt"))
        check_split(self.split, known, root, f"list its images in {self.list_file}")
        self.classes = self._named_classes(classes)
        self.context_classes = read_context_classes(root / "context_classes.txt")
        self._listing = read_ids(self.list_file)
        self.ids = unique(self._listing)
        self.table = root / "tags.csv"
        self._rows = read_tags(self.table, self.classes.names) if self.table.is_file() else None
        self._tags = {row.id: row.names for row in reversed(self._rows or ())}
        self._derived: dict[Path, tuple[str, ...] | None] = {}

    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        """Tags from the table, the annotation or the mask."""
        if self._rows is not None:
            return self._tags.get(image_id)
        file = self.tags_file(image_id)
        if file not in self._derived:
            self._derived[file] = self._tags_from(file)
        return self._derived[file]

    def tags_file(self, image_id: str) -> Path:
        """The table, or else the annotation, or else the mask."""
        paths = self.paths(image_id)
        annotation = self.root / "Annotations" / f"{image_id}.xml"
        return self.table if self._rows is not None else paths.get("annotation", paths.get("mask", annotation))

    def paths(self, image_id: str) -> dict[str, Path]:
        """Files of an image that exist."""
        return self._image(image_id) | existing(
            mask=self.root / "SegmentationClass" / f"{image_id}.png",
            saliency=self.root / "SaliencyMaps" / f"{image_id}.png",
            annotation=self.root / "Annotations" / f"{image_id}.xml",
            context=self.root / "SegmentationContext" / f"{image_id}.png",
            objects=self.root / "SegmentationObject" / f"{image_id}.png",
        )

    def objects(self, image_id: str) -> Objects | None:
        """Objects from ``SegmentationObject``, their classes from ``SegmentationClass``.

        Raises:
            UserError: If one of the two cannot be read, or their sizes differ.
        """
        file, labels = self.paths(image_id).get("objects"), self.mask(image_id)
        if file is None or labels is None:
            return None
        numbers = read_mask(file)
        if numbers.shape != labels.shape:
            raise size_error(file, numbers.shape, labels.shape)
        return objects_of(numbers, labels)

    def listing_findings(self) -> Iterator[Finding]:
        """Images listed twice."""
        yield from repeated_findings(self._listing, self.list_file)
        yield from contradicting_rows(self._rows or (), self.ids, self.table)

    def _named_classes(self, classes: Sequence[str] | None) -> ClassList:
        if classes is not None:
            return ClassList(tuple(classes))
        file = self.root / "classes.txt"
        return read_classes(file) if file.is_file() else ClassList(VOC_CLASSES)

    def _image(self, image_id: str) -> dict[str, Path]:
        for suffix in IMAGE_SUFFIXES:
            if (path := self.root / "JPEGImages" / f"{image_id}{suffix}").is_file():
                return {"image": path}
        return {}

    def _tags_from(self, file: Path) -> tuple[str, ...] | None:
        """Tags from an annotation or a mask; values that are no class are left to the audit."""
        if not file.is_file():
            return None
        if file.suffix == ".xml":
            return read_annotation(file).tag_names
        values = np.unique(read_mask(file).numpy()).tolist()
        return tuple(self.classes.names[value - 1] for value in values if 0 < value <= len(self.classes))
