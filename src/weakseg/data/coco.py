"""Data sets in the format of COCO: a JSON file that says everything, and a folder of images.

::

    root/annotations/instances_SPLIT.json      or root/coco_json/..., root/...; a year may follow SPLIT
    root/annotations/instances.json            or one file for all splits (also annotations.json), and for the splits
    root/ImageSets/Segmentation/SPLIT.txt      a list each (also ImageSets, ImageSets/Main, splits); else all is train
    root/SPLIT2017/ID.jpg                      or images/SPLIT2017, SPLIT, images/SPLIT, JPEGImages, images, root itself
    root/SaliencyMaps/ID.png                   optional (also saliency/)
    classes.txt beside the JSON file           optional; else all of its categories
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weakseg.data.annotations import Annotation
from weakseg.data.classes import ClassList
from weakseg.data.coco_file import CocoObject, read_coco
from weakseg.data.coco_masks import area, decoded, encoded
from weakseg.data.dataset import OBJECTS, Dataset, existing, unique
from weakseg.data.findings import Finding, Severity
from weakseg.data.folder import check_split, repeated_findings
from weakseg.data.images import MAX_PIXELS, image_size
from weakseg.data.objects import Objects
from weakseg.data.sample import IGNORE
from weakseg.data.tables import read_classes, read_ids
from weakseg.errors import UserError
from weakseg.registry import near_matches

FOLDERS = ("annotations", "coco_json", "")
LISTS = ("ImageSets/Segmentation", "ImageSets", "ImageSets/Main", "splits")
PREFIX = "instances_"
SINGLE = ("instances.json", "annotations.json")
LOOKED_AT = 20  # images whose files decide which folder they are in
YEAR = re.compile(r"\d{4}$")


class CocoDataset(Dataset):
    """Images, boxes and masks of a JSON file of COCO; tags are the classes of an image's objects, crowds too.

    Masks are drawn when they are asked for: a smaller object over a larger one, 255 where there is nothing but a crowd.

    Args:
        root: The folder.
        split: Which images; ``train`` if ``None``.
        classes: Names of categories, instead of those of ``classes.txt`` or all; objects of the others are left out.

    Raises:
        UserError: If there is no JSON file, no folder of images, no such split or no such category.
    """

    def __init__(self, root: str | Path, split: str | None = None, *, classes: Sequence[str] | None = None) -> None:
        root = Path(root)
        self.root, self.split = root, split or "train"
        self.json, listed = _json_of(root, self.split)
        self._file = read_coco(self.json)
        self.classes = self._chosen_classes(classes)
        self._listing = tuple(self._file.images) if listed is None else read_ids(listed)
        self._list_file = listed or self.json
        self.ids = unique(image_id for image_id in self._listing if image_id in self._file.images)
        if not self.ids:
            what = f"has none of the images of {self.split}"
            raise UserError(what, where=self.json, remedy=f"Compare its file names with {self._list_file}")
        self.image_folder = self._folder_of_images()

    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        """Classes of the image's objects, crowds too."""
        annotation = self.annotation(image_id)
        return None if annotation is None else annotation.checked().tag_names

    def tags_file(self, image_id: str) -> Path:
        """The JSON file."""
        return self.json

    def paths(self, image_id: str) -> dict[str, Path]:
        """The image's file and the JSON file; it counts as a mask where it says of all objects where they are."""
        if image_id not in self._file.images:
            return {}
        maps = (self.root / folder / f"{image_id}.png" for folder in ("saliency", "SaliencyMaps"))
        drawn = {"mask": self.json, OBJECTS: self.json} if self._file.is_segmented(image_id) else {}
        found = existing(image=self.image_folder / self._file.images[image_id].file_name)
        for path in maps:
            found |= existing(saliency=path)
        return found | {"annotation": self.json} | drawn

    @property
    def tables(self) -> frozenset[Path]:
        """The JSON file."""
        return frozenset((self.json,))

    def said(self, image_id: str) -> list[str]:
        """Hash of what the file says about the image."""
        return [self._file.content(image_id)]

    def annotation(self, image_id: str) -> Annotation | None:
        """What the file says about the image's objects of our classes."""
        found = self._file.annotation(image_id)
        if found is None:
            return None
        boxes, unsure = (
            tuple(box for box in kind if box.name in self.classes.names) for kind in (found.boxes, found.unsure)
        )
        others = tuple(name for name in found.others if name in self.classes.names)
        return Annotation(boxes, found.size, found.flaws, others, unsure)

    def mask(self, image_id: str) -> Tensor | None:
        """(H, W) uint8 label map, drawn from the objects.

        Raises:
            UserError: If one of them cannot be drawn.
        """
        if not self._file.is_segmented(image_id):
            return None
        height, width = self._size(image_id)
        labels = np.zeros((height, width), dtype=np.uint8)
        drawn = [(one, self._encoded(one, (height, width))) for one in self._file.objects(image_id)]
        for one, runs in sorted(drawn, key=lambda pair: (not pair[0].crowd, -area(pair[1]))):
            labels[decoded(runs)] = self._value(one)
        return torch.from_numpy(labels)

    def objects(self, image_id: str) -> Objects | None:
        """The objects of our classes, crowds too, in the order of the file.

        Raises:
            UserError: If one of them cannot be drawn.
        """
        if not self._file.is_segmented(image_id):
            return None
        size = self._size(image_id)
        ours = [one for one in self._file.objects(image_id) if self._category(one) in self.classes.names]
        runs = [self._encoded(one, size) for one in ours]
        areas = [one.area if one.area == one.area else area(run) for one, run in zip(ours, runs, strict=True)]
        masks = [torch.from_numpy(decoded(run)) for run in runs]
        return Objects(
            torch.tensor([self.classes.index(self._category(one)) for one in ours], dtype=torch.int64),
            torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool),
            torch.tensor([one.crowd for one in ours], dtype=torch.bool),
            torch.tensor(areas, dtype=torch.float64),
        )

    def listing_findings(self) -> Iterator[Finding]:
        """Images listed twice or not in the file, and entries that belong to no image."""
        yield from repeated_findings(self._listing, self._list_file)
        yield from (Finding.of(error, "boxes-image") for error in self._file.stray)
        for image_id in self._file.repeated:
            what = f"more than one entry of 'images' is the image '{image_id}'"
            yield Finding(Severity.ERROR, "duplicate", str(self.json), what, "Rename or remove one of them")
        for image_id in unique(self._listing):
            if image_id not in self._file.images:
                what = f"image '{image_id}' is not in {self.json.name}"
                remedy = "Remove it from the list, or add it to the JSON file"
                yield Finding(Severity.ERROR, "missing", str(self._list_file), what, remedy)

    def _chosen_classes(self, classes: Sequence[str] | None) -> ClassList:
        names, file = tuple(self._file.categories.values()), self.json.parent / "classes.txt"
        if classes is None and not file.is_file():
            return ClassList.named_in(names, self.json)
        chosen = ClassList(tuple(classes)) if classes is not None else read_classes(file)
        for name in chosen.names:
            if name not in names:
                where = file if classes is None else self.json
                raise UserError(f"unknown class '{name}'", where=where, remedy=near_matches(name, names))
        return chosen

    def _folder_of_images(self) -> Path:
        stem = self.json.stem.removeprefix(PREFIX)
        names = unique(name for split in (stem, self.split) for name in (split, f"images/{split}"))
        folders = [self.root / name for name in (*names, "JPEGImages", "images", ".") if (self.root / name).is_dir()]
        looked_at = [self._file.images[image_id].file_name for image_id in self.ids[:LOOKED_AT]]
        for folder in folders:
            if any((folder / name).is_file() for name in looked_at):
                return folder
        raise UserError(
            f"there is no folder with the images of {self.json.name}, such as {looked_at[0]}",
            where=self.root,
            remedy=f"Put them into {stem}, images or JPEGImages",
        )

    def _size(self, image_id: str) -> tuple[int, int]:
        image = self._file.images[image_id]
        if image.size is None:
            return image_size(self.image_folder / image.file_name)
        height, width = image.size
        if height * width > MAX_PIXELS:
            what = f"says that the image '{image_id}' is {width} x {height} pixels"
            raise UserError(what, where=self.json, remedy="Correct its width and height")
        return image.size

    def _encoded(self, one: CocoObject, size: tuple[int, int]) -> dict[str, object]:
        assert one.segmentation is not None
        try:
            return encoded(one.segmentation, size)
        except ValueError as error:
            where = f"{self.json}, annotation {one.number}"
            raise UserError(str(error), where=where, remedy="Correct or remove its segmentation") from error

    def _category(self, one: CocoObject) -> str:
        return self._file.categories[one.category]

    def _value(self, one: CocoObject) -> int:
        """Value in a label map; objects of no class are background."""
        name = self._category(one)
        if name not in self.classes.names:
            return 0
        return IGNORE if one.crowd else self.classes.index(name) + 1


def looks_like_coco(root: Path) -> bool:
    """Whether a folder has COCO's JSON files where this kind of data set looks for them, by split or in a folder."""
    return bool(_by_split(root)) or any((root / folder / SINGLE[0]).is_file() for folder in FOLDERS[:-1])


def _json_of(root: Path, split: str) -> tuple[Path, Path | None]:
    """The JSON file of a split, and the list of its images if the file has others too.

    Raises:
        UserError: If there is no such file or no such split.
    """
    by_split = _by_split(root)
    exact = by_split.get(split) or _newest(by_split, split)
    if exact is not None:
        return exact, None
    single = [root / folder / name for folder in FOLDERS for name in SINGLE if (root / folder / name).is_file()]
    if not single:
        wanted = root / "annotations" / f"{PREFIX}{split}.json"
        if by_split:
            check_split(split, by_split, root, f"write {wanted}")
        raise UserError("there is no JSON file of COCO", where=root, remedy=f"Put it at {wanted}")
    lists = [root / folder for folder in LISTS if any((root / folder).glob("*.txt"))]
    known = {path.stem: path for folder in reversed(lists) for path in folder.glob("*.txt")}
    folder = lists[0] if lists else root / LISTS[-1]
    check_split(split, known or ("train",), root, f"list its images in {folder / f'{split}.txt'}")
    return single[0], known.get(split)


def _by_split(root: Path) -> dict[str, Path]:
    files = (path for folder in reversed(FOLDERS) for path in sorted((root / folder).glob(f"{PREFIX}*.json")))
    return {path.stem.removeprefix(PREFIX): path for path in files}


def _newest(by_split: Mapping[str, Path], split: str) -> Path | None:
    """The file of a split with a year, such as ``train2017`` for ``train``."""
    years: Iterable[str] = (name for name in by_split if YEAR.sub("", name) == split)
    newest = max(years, default=None)
    return None if newest is None else by_split[newest]
