"""What the discrepancy does to the maps of "Splitting vs. Merging", as a picture.

    python -m benchmarks.split_merge --data runs/demo/scenes --recipe scenes/split-merge --betas 0 50 --weights WEIGHTS
    python -m benchmarks.split_merge_picture --data runs/demo/scenes --recipe scenes/split-merge --betas 0 50 \
        --weights WEIGHTS --picture docs/pictures/split-merge.png

Draws images of val with the maps of the classifiers A, B and C and their union over the photograph, a row for each
image and weight of the discrepancy, and one for the largest weight without the intersection, from the localisers that
the benchmark has kept.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from benchmarks.sheet import sheet
from benchmarks.split_merge import kept, localised, recipe_for, weights_name
from weakseg.data.catalog import open_dataset
from weakseg.data.dataset import Dataset
from weakseg.methods.split_merge import SplitMerge
from weakseg.report.overlays import overlay_heat

MAPS = {"A": "a", "B": "b", "C": "c", "A, B and C": "abc"}


def found(arguments: argparse.Namespace, beta: float, intersection: bool, dataset: Dataset) -> SplitMerge:
    """One of the benchmark's localisers."""
    path = arguments.weights / weights_name(arguments.seed, beta, intersection=intersection)
    return kept(recipe_for(arguments, arguments.seed, beta, intersection), path, dataset)


def row(method: SplitMerge, dataset: Dataset, image_id: str, title: str) -> list[tuple[str, Image.Image]]:
    """Titled pictures of one image: as it is, and below each map of its first class."""
    sample = dataset.sample(image_id)
    photograph = sample.image.permute(1, 2, 0).contiguous().numpy()
    maps = localised(method, dataset, image_id)
    name = dataset.classes.names[int(maps["a"].classes[0])]
    heats = [
        (f"{name}: {label}", overlay_heat(photograph, maps[names].scores[0].numpy())) for label, names in MAPS.items()
    ]
    return [(title, Image.fromarray(photograph)), *((label, Image.fromarray(heat)) for label, heat in heats)]


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="mini/split-merge")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--betas", type=float, nargs="+", default=[0.0, 50.0])
    parser.add_argument("--weights", type=Path, required=True, help="folder that benchmarks.split_merge has filled")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--images", nargs="+", help="ids of images of val; the first four if not given")
    parser.add_argument("--picture", type=Path, required=True, help="the PNG to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset("auto", arguments.data, "val")
    highest = max(arguments.betas)
    tried = {f"beta {beta:g}": (beta, True) for beta in arguments.betas}
    tried[f"beta {highest:g}, no intersection"] = (highest, False)
    methods = {title: found(arguments, *which, dataset) for title, which in tried.items()}
    rows = [
        row(method, dataset, image_id, title)
        for image_id in arguments.images or dataset.ids[:4]
        for title, method in methods.items()
    ]
    sheet(rows).quantize(128).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
