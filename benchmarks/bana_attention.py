"""How well BANA's attention tells background from objects inside boxes.

    python -m benchmarks.bana_attention runs/benchmark-bana/bap-0 runs/benchmark-bana/gap-0

For run folders that ``python -m benchmarks.bana`` has left, on every third training image: the mean of A on the
background inside boxes and on objects, and which share of a box's weight 1 - A goes to objects, beside their share of
its area, the weight that plain averages give. Also for the network before its training.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.timing import Row
from weakseg.data.dataset import Dataset
from weakseg.data.sample import IGNORE
from weakseg.methods.bana import BANA, background_attention, background_queries, definite_background
from weakseg.networks.weights import load_weights
from weakseg.ops.maps import resize_like
from weakseg.ops.rois import whole_rois
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.inference import as_batch
from weakseg.pipeline.progress import Silent
from weakseg.pipeline.recipe import load_recipe


@torch.no_grad()
def attention(method: BANA, dataset: Dataset, image_id: str) -> tuple[Tensor, Tensor, Tensor]:
    """(h, w): A of an image as in training, which cells are background in boxes, and which are objects."""
    sample = dataset.sample(image_id)
    assert sample.mask is not None
    batch = as_batch([sample], len(dataset.classes), method.backbone.mean, method.backbone.std)
    features = method.backbone(batch.images).float()
    definite = resize_like(definite_background(batch).float(), features, "nearest")
    queries, valid = background_queries(features, definite, method.grid)
    grid = (features.shape[-2], features.shape[-1])
    found = background_attention(features, queries, valid, whole_rois(grid, features))[0]
    truth = resize_like(sample.mask[None, None].float(), features, "nearest")[0, 0]
    inside = definite[0, 0] == 0
    return found, inside & (truth == 0), inside & (truth > 0) & (truth < IGNORE)


def measured(method: BANA, dataset: Dataset) -> Row:
    """Means over images whose boxes have both."""
    rows: list[tuple[float, float, float, float]] = []
    for image_id in dataset.ids[::3]:
        found, background, objects = attention(method, dataset, image_id)
        if background.any() and objects.any():
            weight = 1 - found
            both = background | objects
            share = (weight[objects].sum() / weight[both].sum()).item()
            area = (objects.sum() / both.sum()).item()
            rows.append((found[background].mean().item(), found[objects].mean().item(), share, area))
    if not rows:
        sys.exit("no image has background in its boxes and objects")
    names = ("A on background", "A on objects", "objects' share of the weight", "objects' share of boxes")
    return {name: round(fmean(values), 3) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    for place, folder in enumerate(arguments.runs):
        experiment = Experiment(load_recipe(folder / "recipe.yaml"), Silent())
        method = experiment.method.eval()
        assert isinstance(method, BANA)
        if not place:
            Console().print("before training", measured(method, experiment.train_set))
        load_weights(method, folder / "localizer.safetensors")
        Console().print(folder.name, measured(method, experiment.train_set))


if __name__ == "__main__":
    main()
