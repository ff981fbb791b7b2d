"""Where a folder has its images and which of them are a split: as we ask for it, and as tools around YOLO write it.

::

    root/images/...           root/labels/...             one folder of images (or the images in root itself)
    root/images/train/...     root/labels/train/...       splits within it: all folders beside train
    root/train/images/...     root/train/labels/...       or a folder for each split
    root/data.yaml                                        train, val, test: folders or lists of images, below path

An image's id is its path below root without the part ``images`` and the suffix: ``train/001`` in the second and third.
Its ``labels``, ``masks``, ``saliency`` and ``context`` are beside the folder ``images`` that it is in; all else, like
XML files in ``annotations``, is in root.
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakseg.data.ids import IMAGE_SUFFIXES, check_id, id_of
from weakseg.data.saliency.cache import FOLDER_PREFIX
from weakseg.data.tables import read_text
from weakseg.data.yolo_yaml import DataYaml
from weakseg.errors import UserError

IMAGES, LABELS = "images", "labels"
LABEL_FOLDERS = ("masks", "saliency", "annotations", LABELS, "context", "splits")
TRAIN = re.compile(r"train(ing)?(\d{4})?")
MEASURED = re.compile(r"(val(id(ation)?)?|test)(\d{4})?")
YEAR = re.compile(r"\d{4}$")
USUAL = {"training": "train", "valid": "val", "validation": "val"}
SCENES = "scenes"
"""Name of the folder into which the demo draws its own."""
HIDDEN = (".", "__MACOSX")
Images = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Place:
    """Where images of a split are.

    Attributes:
        path: A folder, or a text file with an image a line; ``None`` where there is neither.
        where: What says so, for messages.
        written: As it stands there.
    """

    path: Path | None
    where: str
    written: str


@dataclass(frozen=True)
class Layout:
    """How the images of a folder are arranged.

    Attributes:
        root: The folder.
        folders: Those that have images: each is called ``images``, or is ``root``.
        splits: Places of each split; empty where nothing arranges images in splits.
    """

    root: Path
    folders: tuple[Path, ...]
    splits: Mapping[str, tuple[Place, ...]]

    @property
    def bases(self) -> tuple[str, ...]:
        """Folders below root that have a folder ``images``; the last is root itself, ``""``."""
        found = (_below(self.root, folder.parent) for folder in self.folders if folder != self.root)
        return (*(base for base in found if base), "")

    def images(self) -> dict[str, list[Path]]:
        """Id -> files of that id (more than one if they differ in the suffix only), sorted.

        Raises:
            UserError: If there is none, or a name cannot be an id.
        """
        found: dict[str, list[Path]] = defaultdict(list)
        for folder in self.folders:
            base = "" if folder == self.root else _below(self.root, folder.parent)
            for path in _images_below(folder, skip=LABEL_FOLDERS if folder == self.root else ()):
                found[check_id(id_of(_joined(base, _below(folder, path))), where=path)].append(path)
        if not found:
            kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
            raise UserError("there are no images", where=self.folders[0], remedy=f"Put some there ({kinds})")
        return dict(found)

    def beside(self, kind: str, image_id: str, suffix: str = ".png") -> Path:
        """File of an image in the folder ``kind`` beside its folder of images; it need not exist."""
        fitting = (base for base in self.bases if not base or image_id.startswith(f"{base}/"))
        base = max(fitting, key=len)
        return self.root / base / kind / f"{image_id.removeprefix(base).lstrip('/')}{suffix}"

    def ids(self, split: str, images: Images) -> tuple[str, ...]:
        """Images of a split in their order, with repetitions.

        Args:
            split: One of ``splits``.
            images: All of them, see ``images``.

        Raises:
            UserError: If a place is not there or has no images, or a list names one that is not there.
        """
        found: list[str] = []
        for place in self.splits[split]:
            if place.path is None:
                what = f"'{place.written}' is no folder and no list of images within {self.root}"
                raise UserError(what, where=place.where, remedy="Correct it, or remove it where folders tell splits")
            held = _held(self.root, place.path, images)
            if not held:
                what = f"there are no images of {split} in {place.path}"
                raise UserError(what, where=place.where, remedy="Put some there, in or below a folder 'images'")
            found += held
        return tuple(found)

    def unlisted(self, images: Images) -> list[str]:
        """Images in no split, as far as lists of other splits can be read."""
        listed: set[str] = set()
        for split in self.splits:
            try:
                listed.update(self.ids(split, images))
            except UserError:
                continue
        return [image_id for image_id in images if image_id not in listed]

    def list_file(self, split: str) -> Path:
        """File that lists a split, or root."""
        paths = (place.path for place in self.splits.get(split, ()))
        return next((path for path in paths if path is not None and path.is_file()), self.root)


def find_layout(root: Path, content: DataYaml | None) -> Layout:
    """How a folder is arranged.

    Args:
        root: The folder.
        content: Its ``data.yaml``, if it has one; where that and folders name a split, the file counts.

    Raises:
        UserError: If the file says it in a form that is not known.
    """
    named = {} if content is None else {split: _places(root, split, content) for split in content.splits}
    told = [place for places in named.values() for place in places if place.path is not None]
    folders, splits = _arranged(root, [place.path for place in told if place.path is not None])
    for place in told:
        found = _image_folders(root, place)
        folders += [folder for folder in found if not any(folder.is_relative_to(known) for known in folders)]
    return Layout(root, tuple(folders) or (root,), _with_usual({**splits, **named}))


def check_root(root: Path) -> None:
    """See that the folder of a data set is there.

    Raises:
        UserError: If it is not.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "there is no such folder"
        drawn = "; the demo's scenes are drawn by 'weakseg demo'" if root.name == SCENES else ""
        raise UserError(what, where=root, remedy=f"Set data.root to the folder of your data set{drawn}")


def within(root: Path, path: Path) -> Path | None:
    """The same path in a form that starts with ``root``; ``None`` if it leads elsewhere."""
    whole, start = (Path(os.path.abspath(one)) for one in (path, root))  # noqa: PTH100  (links are not followed)
    return root / whole.relative_to(start) if whole.is_relative_to(start) else None


def _arranged(root: Path, told: Collection[Path]) -> tuple[list[Path], dict[str, tuple[Place, ...]]]:
    """Folders with images and the splits that folders tell: below ``images``, or around it."""
    if (root / IMAGES).is_dir():
        inner = _folders(root / IMAGES)
        labelled = [path for path in inner if (root / LABELS / path.name).is_dir()]
        return [root / IMAGES], _by_name(inner) if _are_splits(inner, labelled, told) else {}
    parts = [path for path in _folders(root) if (path / IMAGES).is_dir()]
    if _are_splits(parts, [path for path in parts if (path / LABELS).is_dir()], told):
        return [path / IMAGES for path in parts], _by_name(parts)
    return [], {}


def _are_splits(folders: Sequence[Path], labelled: Sequence[Path], told: Collection[Path]) -> bool:
    """Whether folders are those of splits, not of classes of which one is called ``train``.

    Args:
        folders: All of them.
        labelled: Those that have labels.
        told: Folders that ``data.yaml`` names.
    """
    if not any(TRAIN.fullmatch(folder.name) for folder in labelled):
        return False
    others = [folder for folder in folders if not TRAIN.fullmatch(folder.name)]
    named = any(folder in told or folder / IMAGES in told for folder in folders)
    return named or not others or any(MEASURED.fullmatch(folder.name) for folder in others)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(HIDDEN))


def _by_name(folders: Iterable[Path]) -> dict[str, tuple[Place, ...]]:
    return {folder.name: (Place(folder, str(folder), folder.name),) for folder in folders}


def _with_usual(splits: Mapping[str, tuple[Place, ...]]) -> dict[str, tuple[Place, ...]]:
    """Splits by their usual names, too: ``valid`` is ``val``, the newest of several years is the one without."""
    plain = {name: YEAR.sub("", name) for name in sorted(splits)}
    return {**{USUAL.get(short, short): splits[name] for name, short in plain.items() if short}, **splits}


def _places(root: Path, split: str, content: DataYaml) -> tuple[Place, ...]:
    """What ``data.yaml`` says of a split.

    Its paths start from ``path``; where there is no such place, from the file's folder, or from that without a leading
    ``..``, as one platform writes it.
    """
    where, places = content.where(split), []
    for written in content.splits[split]:
        starts = [root / content.path, root]
        short = written.replace("\\", "/")
        while short.startswith("../"):
            short = short[3:]
        tried = (within(root, start / name) for name in (written, short) for start in starts)
        path = next((path for path in tried if path is not None and path.exists()), None)
        places.append(Place(path, where, f"{split}: {written}"))
    return tuple(places)


def _image_folders(root: Path, place: Place) -> list[Path]:
    """The folders ``images`` that a place is in, has, or lists images of."""
    assert place.path is not None
    if place.path.is_dir():
        found = [_images_above(root, place.path)]
        found += [place.path / IMAGES] if found == [None] and (place.path / IMAGES).is_dir() else []
    else:
        listed = (path for _, _, path in _lines(root, place.path) if path is not None)
        found = list(dict.fromkeys(_images_above(root, path.parent) for path in listed))
    return [folder for folder in found if folder is not None]


def _images_above(root: Path, folder: Path) -> Path | None:
    """The innermost ``images`` in a path."""
    parts = folder.relative_to(root).parts
    ends = [end for end in range(1, len(parts) + 1) if parts[end - 1] == IMAGES]
    return root.joinpath(*parts[: ends[-1]]) if ends else None


def _held(root: Path, path: Path, images: Images) -> list[str]:
    """Images of a folder or list.

    Raises:
        UserError: If a list names an image that is not there.
    """
    if path.is_dir():
        return [image_id for image_id, files in images.items() if files[0].is_relative_to(path)]
    known = {file: image_id for image_id, files in images.items() for file in files}
    held = []
    for number, line, file in _lines(root, path):
        if file not in known:
            remedy = "Put it there, or correct the line: paths start from the folder of the list"
            raise UserError(f"there is no image '{line}'", where=f"{path}, line {number}", remedy=remedy)
        held.append(known[file])
    return held


def _lines(root: Path, file: Path) -> Iterator[tuple[int, str, Path | None]]:
    """Number and text of each line of a list, and the file that it names, if that is there."""
    for number, line in enumerate(map(str.strip, read_text(file).splitlines()), start=1):
        tried = (within(root, start / line) for start in (file.parent, root))
        if line:
            yield number, line, next((path for path in tried if path is not None and path.is_file()), None)


def _below(folder: Path, path: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    return "" if relative == "." else relative


def _joined(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def _images_below(folder: Path, skip: Sequence[str]) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(HIDDEN) for part in parts)
        label = skip and (parts[0] in skip or parts[0].startswith(FOLDER_PREFIX))
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not label and path.is_file():
            yield path
