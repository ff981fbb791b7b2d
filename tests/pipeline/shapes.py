"""A small data set of discs and squares, in both layouts, and a recipe that goes through it in seconds."""

import io
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.data.trees import put_boxes, put_text
from weakseg.data.images import write_mask
from weakseg.pipeline.run import run

HEIGHT, WIDTH = 48, 64
CLASSES = ("disc", "square")
SHOWN = ((0,), (1,), (0, 1))
TRAIN, VAL = 12, 4
STAGES = ["localizer", "maps", "masks", "segmenter", "predictions", "metrics", "report"]


def scene(number: int) -> tuple[np.ndarray, torch.Tensor, tuple[str, ...]]:
    """Image (H, W, 3) uint8, its mask, and the names of what it shows."""
    chance = np.random.default_rng(number)
    image = chance.integers(90, 140, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for shown in SHOWN[number % len(SHOWN)]:
        row, column = chance.integers(14, 34), chance.integers(12, 22) + 30 * shown
        reach = np.hypot(y - row, x - column) if shown == 0 else np.maximum(abs(y - row), abs(x - column))
        image[reach < 10] = (220, 40, 30) if shown == 0 else (30, 60, 220)
        mask[torch.from_numpy(reach < 10)] = shown + 1
    return image, mask, tuple(CLASSES[shown] for shown in SHOWN[number % len(SHOWN)])


def folder_shapes(root: Path, masks: bool = True, train: int = TRAIN, val: int = VAL) -> Path:
    """``images``, ``tags.csv`` with a column split, ``masks``; one image is in a sub-folder, one turned by EXIF."""
    lines = ["image,tags,split"]
    for number in range(train + val):
        name = "more/s00" if number == 0 else f"s{number:02}"
        image, mask, tags = scene(number)
        lines.append(f"{name},{' '.join(tags)},{'train' if number < train else 'val'}")
        path = root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number == 1:
            turned = Image.fromarray(np.ascontiguousarray(np.rot90(image)))
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned clockwise before it is looked at
            turned.save(path.with_suffix(".jpg"), exif=exif, quality=95)
        else:
            Image.fromarray(image).save(path)
        if masks:
            write_mask(root / "masks" / f"{name}.png", mask)
    put_text(root / "tags.csv", "\n".join(lines) + "\n")
    return root


def voc_shapes(root: Path) -> Path:
    """``JPEGImages``, ``ImageSets`` and ``SegmentationClass``; tags come from the masks."""
    put_text(root / "classes.txt", "\n".join(CLASSES))
    for number in range(TRAIN + VAL):
        image, mask, _ = scene(number)
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / f"JPEGImages/s{number:02}.jpg", quality=95)
        write_mask(root / f"SegmentationClass/s{number:02}.png", mask)
    names = [f"s{number:02}" for number in range(TRAIN + VAL)]
    put_text(root / "ImageSets/Segmentation/train.txt", "\n".join(names[:TRAIN]))
    put_text(root / "ImageSets/Segmentation/val.txt", "\n".join(names[TRAIN:]))
    return root


def boxed_shapes(root: Path) -> Path:
    """``voc_shapes`` with a tight box around each disc and square."""
    voc_shapes(root)
    for number in range(TRAIN + VAL):
        _, mask, tags = scene(number)
        put_boxes(root / f"Annotations/s{number:02}.xml", *(box_around(mask, name) for name in tags))
    return root


def box_around(mask: torch.Tensor, name: str) -> tuple[str, int, int, int, int]:
    """Name and corners, from 1 and inclusive as in VOC's files, of what a mask shows of a class."""
    rows, columns = (mask == CLASSES.index(name) + 1).nonzero(as_tuple=True)
    corners = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
    return name, *map(int, corners)


def recipe(root: Path, folder: Path, **more) -> dict:
    """Everything small; ``more`` replaces whole sections."""
    training = {"epochs": 2, "batch": 4, "lr": 0.01, "precision": "32", "workers": 0}
    return {
        "name": "shapes",
        "seed": 3,
        "data": {"root": str(root)},
        "localize": {
            "method": {"name": "cam", "dropout": 0.3},
            "backbone": {"name": "test_resnet", "weights": "none", "output_stride": 8, "batchnorm": "train"},
            "train": {**training, "augment": {"crop": 48, "resize": [48, 64], "brightness": 0.2}},
            "scales": [1.0, 0.5],
            "batch": 3,
        },
        "refine": [{"name": "power", "alpha": 4}, {"name": "crf", "params": "D", "iterations": 2}],
        "segment": {
            "network": {"name": "deeplabv3plus", "decoder_channels": 32, "decoder_atrous_rates": [2, 4, 6]},
            "train": {**training, "augment": {"crop": 48, "scale": [0.75, 1.25]}},
            "predict": {"scales": [1.0], "batch": 3},
        },
        "evaluate": {"seeds": ["train", "val"], "metrics": ["contour_f"]},
        "run": {"folder": str(folder), "device": "cpu", "workers": 1},
        **more,
    }


def snapshot(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def results(folder: Path) -> dict[str, bytes]:
    """The files of a run that must be the same whenever, wherever and in however many goes it was made.

    What says when and where, or how long it took, is left out.
    """
    told = ("recipe.yaml", "timings.json", "MANIFEST.json", "report/", ".lock", "checkpoints/")
    return {name: content for name, content in snapshot(folder).items() if not name.startswith(told)}


class Screen:
    """A reporter that remembers."""

    def __init__(self):
        self.lines, self.tracked = [], []

    def say(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(f"warning: {text}")

    @contextmanager
    def track(self, label, total, done=0):
        self.tracked.append((label, total, done))
        yield self

    def advance(self, images=1, note=""):
        pass

    def skip(self, images):
        pass


def run_until_killed(settings: dict, name: str, count: int) -> None:
    """Run a recipe; the process is killed when a file called ``name`` is about to appear for the ``count``-th time.

    To be the target of a process of its own.
    """
    torch.set_num_threads(1)
    rename, seen = Path.replace, []

    def replace(path, target):
        if Path(target).match(name):
            seen.append(target)
            if len(seen) == count:
                os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.replace = replace
    run(settings)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
