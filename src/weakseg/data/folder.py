"""A folder of images with a table of tags or with boxes: the simplest thing a user can bring.

::

    root/images/001.jpg  root/images/cats/002.png ...   (or the images in root itself)
    root/tags.csv                                       image,tags[,split]; without it tags are the classes of boxes
    root/classes.txt                                    optional; else the list of YOLO or COCO, else all tags, sorted
    root/masks/001.png  root/saliency/001.png                                    optional
    root/boxes.csv, root/labels/001.txt, root/annotations.json or root/annotations/001.xml     optional, one of them
    root/context/001.png  root/context_classes.txt                               optional, for measuring
    root/splits/train.txt  root/splits/val.txt                                   optional

Folders by split, and the ``data.yaml`` of YOLO, are understood as well; see ``layout``.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from weakseg.data.annotations import Annotation
from weakseg.data.box_sources import box_findings, find_boxes
from weakseg.data.boxes import BoxSource
from weakseg.data.classes import ClassList
from weakseg.data.dataset import Dataset, existing, unique
from weakseg.data.findings import Finding, Severity
from weakseg.data.layout import Layout, check_root, find_layout
from weakseg.data.tables import EXAMPLE, TagRow, read_classes, read_context_classes, read_ids, read_tags
from weakseg.data.yolo_yaml import read_yaml
from weakseg.errors import UserError


class FolderDataset(Dataset):
    """Images in a folder, tags in ``tags.csv``, or else those of the boxes.

    The splits are those of the table's column ``split`` (an empty cell means train); else those of ``splits/*.txt``;
    else those of ``data.yaml`` and of folders; else all images and all rows of the table are ``train``.

    Args:
        root: The folder.
        split: Which images; ``train`` if ``None``.
        classes: Names of the classes, instead of ``classes.txt`` or the tags that occur.

    Raises:
        UserError: If there is no such folder, or it has no images, no table and no other way to know the classes, no
            such split, or boxes in two places.
    """

    def __init__(self, root: str | Path, split: str | None = None, *, classes: Sequence[str] | None = None) -> None:
        root = Path(root)
        self.root, self.split = root, split or "train"
        check_root(root)
        self.table = root / "tags.csv"
        named = _named_classes(root, classes)
        self._rows = read_tags(self.table, named.names if named else ()) if self.table.is_file() else ()
        self._listed_apart = any(row.split for row in self._rows) or (root / "splits").is_dir()
        self.layout = self._find_layout()
        self._images = self.layout.images()
        self.source = find_boxes(root, named.names if named else None, self.layout)
        self.classes = named or self._classes_from_labels()
        self.context_classes = read_context_classes(root / "context_classes.txt")
        self._tags: dict[str, tuple[str, ...] | None] = {row.id: row.names for row in reversed(self._rows)}
        self._listing = self._listed()
        self.ids = unique(self._listing)

    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        """Tags of the image's first row; without a table those of its boxes."""
        if self._boxes_say and image_id not in self._tags:
            annotation = self.annotation(image_id)
            self._tags[image_id] = None if annotation is None else annotation.checked().tag_names
        return self._tags.get(image_id)

    def tags_file(self, image_id: str) -> Path:
        """The table, or else the file with the image's boxes."""
        return self.table if self.source is None or not self._boxes_say else self.source.file(image_id)

    def paths(self, image_id: str) -> dict[str, Path]:
        """Files of an image that exist."""
        image = {"image": self._images[image_id][0]} if image_id in self._images else {}
        return image | existing(
            mask=self.layout.beside("masks", image_id),
            saliency=self.layout.beside("saliency", image_id),
            context=self.layout.beside("context", image_id),
            **self._box_file(image_id),
        )

    @property
    def tables(self) -> frozenset[Path]:
        """The file with the boxes of all images, if there is one."""
        return frozenset(() if self.source is None or self.source.table is None else (self.source.table,))

    def said(self, image_id: str) -> list[str]:
        """Boxes, where one file has those of all images."""
        annotation = self.annotation(image_id) if self.tables else None
        if annotation is None:
            return []
        unsure = annotation.unsure
        return [
            repr([(box.name, box.corners) for box in annotation.checked().boxes]),
            *([repr([box.corners for box in unsure])] if unsure else []),
        ]

    def annotation(self, image_id: str) -> Annotation | None:
        """What is known about the objects of the image, from whichever file has boxes."""
        image = self._images.get(image_id, [None])[0]
        return None if self.source is None else self.source.annotation(image_id, image)

    def listing_findings(self) -> Iterator[Finding]:
        """Images listed twice, two files of one name, images that the table leaves out, boxes without an image."""
        yield from repeated_findings(self._listing, self._list_file())
        yield from contradicting_rows(self._rows, self.ids, self.table)
        for image_id in self.ids:
            files = self._images.get(image_id, [])
            if len(files) > 1:
                names = " and ".join(path.name for path in files)
                what = f"{names} are both the image '{image_id}'"
                yield Finding(Severity.ERROR, "duplicate", str(files[0]), what, "Rename or remove one of them")
        if any(row.split for row in self._rows):
            rows = {row.id for row in self._rows}
            for image_id, files in self._images.items():
                if image_id not in rows:
                    what = "is in no split: tags.csv has a column split but no row for it"
                    yield Finding(Severity.WARNING, "unlisted", str(files[0]), what, "Add a row, or move it elsewhere")
        if self._arranged:
            for image_id in self.layout.unlisted(self._images):
                what = "is in no split: neither its folder nor data.yaml names one"
                remedy = "Move it into the folder of a split, or elsewhere"
                yield Finding(Severity.WARNING, "unlisted", str(self._images[image_id][0]), what, remedy)
        if self.source is not None:
            yield from box_findings(self.source, self.ids, self._images)

    def _find_layout(self) -> Layout:
        """Where images are; a ``data.yaml`` that cannot be understood counts for nothing if tables tell the splits."""
        try:
            return find_layout(self.root, read_yaml(self.root))
        except UserError:
            if not self._listed_apart:
                raise
            return find_layout(self.root, None)

    @property
    def _arranged(self) -> bool:
        """Whether folders or ``data.yaml`` tell the splits."""
        return bool(self.layout.splits) and not self._listed_apart

    @property
    def _boxes_say(self) -> bool:
        """Whether tags come from boxes."""
        return self.source is not None and not self.table.is_file()

    def _box_file(self, image_id: str) -> dict[str, Path]:
        known = self.source is not None and (self.source.table is None or image_id in self.source.mentions())
        return {"annotation": self.source.file(image_id)} if self.source is not None and known else {}

    def _classes_from_labels(self) -> ClassList:
        listed = () if self.source is None else self.source.class_names()
        names = listed if self._boxes_say else sorted({name for row in self._rows for name in row.names})
        if names:
            return ClassList.named_in(names, self._classes_file)
        if self.source is not None and self._boxes_say:
            self._refuse_nameless(self.source)
        what = "has no tags" if self.table.is_file() else "is missing, so that no classes are known"
        raise UserError(what, where=self.table, remedy=EXAMPLE)

    @property
    def _classes_file(self) -> Path:
        """Which file, or folder of files, names the classes."""
        if self.source is None or not self._boxes_say:
            return self.table
        return self.source.table or self.source.file("ID").parent

    def _refuse_nameless(self, source: BoxSource) -> NoReturn:
        """There are boxes, and none of them has a class: say why, if something is wrong with them."""
        if source.stray:
            raise source.stray[0]
        raise UserError(
            "names no class", where=self._classes_file, remedy="Write boxes with their classes, or a tags.csv"
        )

    def _list_file(self) -> Path:
        if self._arranged:
            return self.layout.list_file(self.split)
        file = self.root / "splits" / f"{self.split}.txt"
        return file if not any(row.split for row in self._rows) and file.is_file() else self.table

    def _listed(self) -> tuple[str, ...]:
        """Ids of the split, with repetitions."""
        folder = self.root / "splits"
        if any(row.split for row in self._rows):
            splits = defaultdict(list)
            for row in self._rows:
                splits[row.split or "train"].append(row.id)
            return tuple(splits[self._checked(splits)])
        if folder.is_dir():
            return read_ids(folder / f"{self._checked(path.stem for path in folder.glob('*.txt'))}.txt")
        if self._arranged:
            placeless = [row.id for row in self._rows if row.id not in self._images and self.split == "train"]
            return (*self.layout.ids(self._checked(self.layout.splits), self._images), *placeless)
        self._checked(["train"])
        return tuple(sorted([row.id for row in self._rows] + [name for name in self._images if name not in self._tags]))

    def _checked(self, splits: Iterable[str]) -> str:
        """The split asked for if it is one of ``splits``."""
        listed = f"list its images in {self.root / 'splits' / f'{self.split}.txt'}"
        in_lists = (self.root / "splits").is_dir() and not any(row.split for row in self._rows)
        way = listed if in_lists else f"write '{self.split}' into the column split of {self.table}"
        if self._arranged:
            way = f"name a folder of images '{self.split}', beside that of train"
        return check_split(self.split, splits, self.root, way)


def check_split(split: str, splits: Iterable[str], root: Path, way: str) -> str:
    """``split`` if there is such a split.

    Args:
        split: Its name.
        splits: Those there are.
        root: Folder of the data set.
        way: How to add it.

    Raises:
        UserError: If there is none; lists those there are.
    """
    known = sorted(splits)
    if split in known:
        return split
    do_without = ", or do without: --set data.val=null" if split == "val" else ""
    remedy = f"There are: {', '.join(known) or 'none'}. Choose one, or {way}{do_without}"
    raise UserError(f"there is no split '{split}'", where=root, remedy=remedy)


def repeated_findings(listing: Sequence[str], where: Path) -> Iterator[Finding]:
    """A warning for each image that stands in a list more than once; it is used once all the same."""
    for image_id, count in Counter(listing).items():
        if count > 1:
            what = f"image '{image_id}' is listed {count} times; it is used once"
            yield Finding(Severity.WARNING, "duplicate", str(where), what, "Remove the repeated lines")


def contradicting_rows(rows: Sequence[TagRow], ids: Sequence[str], where: Path) -> Iterator[Finding]:
    """An error for each image with two rows whose tags differ."""
    seen: dict[str, set[str]] = {}
    known = set(ids)
    for row in rows:
        names = set(row.names)
        if row.id in known and seen.setdefault(row.id, names) != names:
            what = f"image '{row.id}' has two rows with different tags"
            yield Finding(Severity.ERROR, "duplicate", str(where), what, "Keep one row an image, with all its tags")


def _named_classes(root: Path, classes: Sequence[str] | None) -> ClassList | None:
    if classes is not None:
        return ClassList(tuple(classes))
    file = root / "classes.txt"
    return read_classes(file) if file.is_file() else None
