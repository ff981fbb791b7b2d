"""How well saliency maps show where the objects are, whatever they are, and what they cost.

    python -m benchmarks.saliency --data PATH_OF_MSRC_MINI
    python -m benchmarks.saliency --scenes 60 --out results/saliency-scenes.csv
    python -m benchmarks.saliency --scenes 5 --picture docs/pictures/saliency.png

Compares the maps that lie with a data set (or generated scenes), and those of a provider, with the union of all classes
in the true masks of train and val: IoU at one half and at the best threshold of all images together, mean over images.
With ``--picture`` the images, the given maps, the provider's maps and the true masks are drawn instead.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from benchmarks.timing import Row, write_table
from weakseg.data.dataset import Dataset
from weakseg.data.sample import IGNORE, Sample
from weakseg.data.scenes import write_scenes
from weakseg.pipeline.checks import usual_splits
from weakseg.pipeline.saliency import saliency_source

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
SCENE_SIZE = (150, 200)
EXAMPLES, GAP = 5, 4


def overlaps(saliency: Tensor, mask: Tensor) -> list[float]:
    """IoU of what exceeds each threshold with what is no background; ignored pixels are left out."""
    known, objects = mask != IGNORE, (mask > 0) & (mask != IGNORE)
    found = [(saliency > threshold) & known for threshold in THRESHOLDS]
    return [((one & objects).sum() / (one | objects).sum().clamp(min=1)).item() for one in found]


def measured(name: str, samples: Sequence[Sample], maps: Callable[[Sample], Tensor | None]) -> Row:
    """Columns of the table."""
    scores, seconds, without = [], [], 0
    for sample in samples:
        start = perf_counter()
        saliency = maps(sample)
        seconds.append(perf_counter() - start)
        without += saliency is None
        if saliency is not None and sample.mask is not None:
            scores.append(overlaps(saliency, sample.mask))
    means = np.mean(scores, axis=0)
    best = int(means.argmax())
    return {
        "maps": name,
        "images": len(samples),
        "without": without,
        "iou_at_half": round(float(means[THRESHOLDS.index(0.5)]), 3),
        "best_iou": round(float(means[best]), 3),
        "best_threshold": THRESHOLDS[best],
        "seconds": float(f"{median(seconds):.2g}"),
    }


def picture(samples: Sequence[Sample], columns: Sequence[Callable[[Sample], Tensor]]) -> Image.Image:
    """A row for each sample; all of them are (H, W) in [0, 1] or (3, H, W) uint8, and fill equal cells."""
    width, height = max(one.size[1] for one in samples), max(one.size[0] for one in samples)
    sheet = Image.new("RGB", (len(samples) * (width + GAP) - GAP, len(columns) * (height + GAP) - GAP), "white")
    for across, sample in enumerate(samples):
        for down, column in enumerate(columns):
            drawn = column(sample)
            levels = drawn if drawn.dtype == torch.uint8 else (255 * drawn).round().byte()[None].expand(3, -1, -1)
            tile = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
            corner = ((width - tile.width) // 2, (height - tile.height) // 2)
            sheet.paste(tile, (across * (width + GAP) + corner[0], down * (height + GAP) + corner[1]))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set with true masks and saliency maps")
    parser.add_argument("--scenes", type=int, default=60, help="scenes to draw where there are no data")
    parser.add_argument("--provider", default="background-connectivity")
    parser.add_argument("--out", type=Path, help="a CSV file for the table")
    parser.add_argument("--picture", type=Path, help="draw the first images into this PNG instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    provider = saliency_source(arguments.provider, {}).provider()
    with TemporaryDirectory() as folder:
        root = arguments.data or Path(folder)
        if arguments.data is None:
            write_scenes(root, train=arguments.scenes, val=0, seed=0, size=SCENE_SIZE)
        datasets: list[Dataset] = usual_splits(root, "auto")
        samples = [dataset.sample(image_id) for dataset in datasets for image_id in dataset.ids]
    if arguments.picture is not None:
        columns = (_image, _given, lambda sample: provider(sample.image), _truth)
        picture(samples[:EXAMPLES], columns).quantize(64).save(arguments.picture, optimize=True)
        return
    rows = [
        measured("given", samples, lambda sample: None if sample.saliency is None else sample.saliency[0]),
        measured(arguments.provider, samples, lambda sample: provider(sample.image)),
    ]
    for row in rows:
        Console().print(row)
    if arguments.out is not None:
        write_table(rows, arguments.out)


def _image(sample: Sample) -> Tensor:
    return sample.image


def _given(sample: Sample) -> Tensor:
    return torch.zeros(sample.size) if sample.saliency is None else sample.saliency[0]


def _truth(sample: Sample) -> Tensor:
    assert sample.mask is not None
    return (sample.mask > 0).float()


if __name__ == "__main__":
    main()
