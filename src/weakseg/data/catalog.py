"""The kinds of data sets that can be opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from weakseg.data.coco import CocoDataset, looks_like_coco
from weakseg.data.dataset import Dataset
from weakseg.data.folder import FolderDataset
from weakseg.data.layout import check_root
from weakseg.data.voc import VOCDataset
from weakseg.registry import find

DATASETS: dict[str, Callable[..., Dataset]] = {"folder": FolderDataset, "voc": VOCDataset, "coco": CocoDataset}


def open_dataset(kind: str, root: str | Path, split: str | None = None, **options: Any) -> Dataset:  # noqa: ANN401
    """Open one split of a data set.

    Args:
        kind: A name in ``DATASETS``, that of an entry point in the group ``weakseg.datasets``, or ``"auto"``.
        root: Folder of the data set.
        split: Such as ``"train"``; the data set's own default if ``None``.
        options: Further arguments of that kind of data set.

    Raises:
        UserError: If there is no such kind, folder or split.
    """
    root = Path(root)
    check_root(root)
    name = recognise(root) if kind == "auto" else kind
    return find(name, DATASETS, "kind of data set", "datasets")(root, split, **options)


def recognise(root: Path) -> str:
    """The kind of data set in a folder: a tree like PASCAL VOC's, JSON files like COCO's, or images with a table."""
    if (root / "ImageSets").is_dir() and (root / "JPEGImages").is_dir():
        return "voc"
    return "coco" if looks_like_coco(root) else "folder"
