"""Tables 1 to 4 of "Splitting vs. Merging" in miniature: what discrepancy and intersection do to the maps.

    python -m benchmarks.split_merge --data PATH_OF_MSRC_MINI --seeds 0 1 2

    python -m benchmarks.split_merge --data runs/demo/scenes --recipe scenes/split-merge \
        --output results/split_merge-scenes.csv

Trains the localiser of a recipe for every weight of the discrepancy, with and without the intersection, and measures

- how alike the maps of A and B are; soft precision, recall and overlap of each classifier's map and of their unions, on
  the images of val (one view, at image size; for each class the mean over the images that show it, then the mean over
  classes; true tags),
- the mIoU of pseudo-masks of the training images, by the refiners of the recipe.

Writes one row for each number to results/split_merge.csv, prints the means over seeds and whether the paper's trends
hold, and ends with status 1 if one does not.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import Row, write_table
from weakseg.data.catalog import open_dataset
from weakseg.data.dataset import Dataset
from weakseg.data.maps import LocalizationMaps
from weakseg.data.pseudo import WeaklyLabelled
from weakseg.data.transforms import AugmentedDataset
from weakseg.methods.method import Views
from weakseg.methods.split_merge import SplitMerge, union
from weakseg.metrics import ConfusionMatrix
from weakseg.metrics.localization import SoftLocalization, map_similarity
from weakseg.networks.weights import load_weights, read_about, save_weights
from weakseg.pipeline import build
from weakseg.pipeline.device import choose_device
from weakseg.pipeline.inference import as_batch
from weakseg.pipeline.progress import Silent
from weakseg.pipeline.recipe import Recipe, load_recipe
from weakseg.pipeline.shipped import recipe_path
from weakseg.pipeline.training import train
from weakseg.refine.masks import pseudo_mask
from weakseg.refine.registry import refiner_class

ONE_VIEW = Views(scales=(1.0,), flip=False, stride=1)
UNIONS = ("a", "b", "c", "ab", "abc")
BETAS = (0.0, 10.0, 20.0, 50.0)
MASKS_OF = "abc"


def recipe_for(arguments: argparse.Namespace, seed: int, beta: float, intersection: bool) -> Recipe:
    """The recipe of one training; settings given on the command line win over its own."""
    chosen = [f"data.root={arguments.data}", *arguments.settings, f"seed={seed}"]
    chosen += [f"localize.method.beta={beta}", f"localize.method.intersection={str(intersection).lower()}"]
    return load_recipe(recipe_path(arguments.recipe), chosen)


def weights_name(seed: int, beta: float, *, intersection: bool) -> str:
    """File of a trained localiser."""
    return f"seed{seed}-beta{beta:g}{'' if intersection else '-no-intersection'}.safetensors"


def localiser(recipe: Recipe, path: Path | None, dataset: Dataset) -> SplitMerge:
    """A trained localiser, the one that is kept in a file if there is one."""
    if path is None:
        return trained(recipe, dataset)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(trained(recipe, dataset), path, {"localize": recipe.localize.model_dump_json()})
    return kept(recipe, path, dataset)


def kept(recipe: Recipe, path: Path, dataset: Dataset) -> SplitMerge:
    """The localiser of a file, which has to be of the same recipe."""
    if not path.exists() or read_about(path).get("localize") != recipe.localize.model_dump_json():
        sys.exit(f"{path}: is not there, or was trained otherwise. Name another folder with --weights")
    method = untrained(recipe, dataset)
    load_weights(method, path)
    return method.eval()


def untrained(recipe: Recipe, dataset: Dataset) -> SplitMerge:
    """The localiser of a recipe, as it starts."""
    torch.manual_seed(recipe.seed)
    settings = recipe.localize
    method = build.method(settings, build.method_options(settings.method), len(dataset.classes))
    assert isinstance(method, SplitMerge)
    return method


def trained(recipe: Recipe, dataset: Dataset) -> SplitMerge:
    """The localiser of a recipe, after its training."""
    method, settings = untrained(recipe, dataset), recipe.localize
    transform = build.transform(settings.train.augment, method.backbone)
    images = AugmentedDataset(WeaklyLabelled(dataset, method.needs), transform, recipe.seed, cache=True)
    device = choose_device(recipe.run.device, recipe.run.devices)
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "localizer.ckpt"
        train(
            *(method, images, settings.train.model_copy(update={"workers": 0}), checkpoint),
            **{"seed": recipe.seed, "device": device, "reporter": Silent(), "label": "train"},
        )
    return method.cpu().eval()


def localised(method: SplitMerge, dataset: Dataset, image_id: str) -> dict[str, LocalizationMaps]:
    """Maps of an image's tags for each of ``UNIONS``, at image size; each classifier is normalised by itself."""
    sample = dataset.sample(image_id)
    batch = as_batch([sample], len(dataset.classes), method.backbone.mean, method.backbone.std)
    alone = {}
    for name in "abc":
        method.maps = name
        alone[name] = method.localize(batch, ONE_VIEW)[0]
    return {names: alone["a"].with_scores(union([alone[name].scores for name in names]), None) for names in UNIONS}


def soft_rows(method: SplitMerge, dataset: Dataset) -> Iterator[tuple[str, str, float]]:
    """Map, measure, value: similarity of A and B (Table 1), soft scores of maps and unions (Tables 2 and 3)."""
    scores = {names: SoftLocalization(len(dataset.classes) + 1) for names in UNIONS}
    alike: dict[int, list[float]] = {}
    for image_id in dataset.ids:
        truth = dataset.sample(image_id).mask
        if truth is None:
            continue
        found = localised(method, dataset, image_id)
        for names, maps in found.items():
            scores[names].update(maps.scores, maps.classes, truth)
        similar = map_similarity(found["a"].scores, found["b"].scores, truth != 255)
        for index, value in zip(found["a"].classes.tolist(), similar.tolist(), strict=True):
            if value == value:  # NaN where both maps are empty
                alike.setdefault(index, []).append(value)
    yield "a and b", "similarity", fmean(map(fmean, alike.values())) if alike else math.nan
    for names, measured in scores.items():
        for measure, value in measured.values().items():
            yield names, measure, value


def mask_miou(method: SplitMerge, dataset: Dataset, recipe: Recipe, limit: int | None) -> float:
    """Mean IoU of pseudo-masks by the recipe's refiners: saliency in the background, dense CRF (Table 4)."""
    refiners = [refiner_class(step.name)(**step.options) for step in recipe.refine]
    matrix = ConfusionMatrix(len(dataset.classes) + 1)
    for image_id in dataset.ids[:limit]:
        sample = dataset.sample(image_id)
        if sample.mask is None:
            continue
        saliency: Tensor | None = None if sample.saliency is None else sample.saliency[0]
        maps = replace(localised(method, dataset, image_id)[MASKS_OF], saliency=saliency)
        for refiner in refiners:
            maps = refiner.refine(sample.image, maps)
        matrix.update(pseudo_mask(maps), sample.mask)
    return matrix.miou()


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """One row for each number."""
    train_set, val_set = (open_dataset("auto", arguments.data, split) for split in ("train", "val"))
    for seed in arguments.seeds:
        for intersection in (True, False):
            for beta in arguments.betas if intersection else arguments.without or arguments.betas:
                recipe = recipe_for(arguments, seed, beta, intersection)
                name = weights_name(seed, beta, intersection=intersection)
                method = localiser(recipe, arguments.weights and arguments.weights / name, train_set)
                about: Row = {"seed": seed, "intersection": intersection, "beta": beta}
                for maps, measure, value in soft_rows(method, val_set):
                    yield {**about, "maps": maps, "measure": measure, "value": round(value, 5)}
                if intersection:
                    miou = mask_miou(method, train_set, recipe, arguments.limit)
                    yield {**about, "maps": MASKS_OF, "measure": "mask_miou", "value": round(miou, 5)}


def means(found: Sequence[Row]) -> dict[tuple[object, ...], float]:
    """Mean over seeds by intersection, beta, maps and measure."""
    groups: dict[tuple[object, ...], list[float]] = {}
    for row in found:
        key = (row["intersection"], row["beta"], row["maps"], row["measure"])
        groups.setdefault(key, []).append(float(str(row["value"])))
    return {key: fmean(values) for key, values in groups.items()}


def trends(mean: dict[tuple[object, ...], float], betas: Sequence[float]) -> dict[str, bool]:
    """What the paper's tables show, and whether it is so here."""
    low, high, ordered = min(betas), max(betas), sorted(betas)

    def of(beta: float, maps: str, measure: str = "soft_overlap", intersection: bool = True) -> float:
        return mean[intersection, beta, maps, measure]

    alike = [of(beta, "a and b", "similarity") for beta in ordered]
    return {
        "Table 1: A and B are less alike with every larger beta": all(a > b for a, b in pairwise(alike)),
        "Table 1: A and B are less alike at the largest beta than at the smallest": alike[-1] < alike[0],
        "Table 2: soft recall of A and B together is higher at the largest beta": (
            of(high, "ab", "soft_recall") > of(low, "ab", "soft_recall")
        ),
        "Table 2: with discrepancy, A and B together overlap more with the intersection than without": (
            of(high, "ab") > of(high, "ab", intersection=False)
        ),
        "Table 2: with discrepancy, soft recall is higher with the intersection than without": (
            of(high, "ab", "soft_recall") > of(high, "ab", "soft_recall", intersection=False)
        ),
        "Table 2: soft recall of A and B together rises with beta": all(
            of(a, "ab", "soft_recall") < of(b, "ab", "soft_recall") for a, b in pairwise(ordered)
        ),
        "Table 3: the union of all three overlaps more than each of them, at every beta": all(
            of(beta, "abc") > max(of(beta, name) for name in "abc") for beta in ordered
        ),
        "Table 3: the union of A and B overlaps more than either, at every beta": all(
            of(beta, "ab") > max(of(beta, "a"), of(beta, "b")) for beta in ordered
        ),
        "Table 3: the union of all three overlaps more than that of A and B, at every beta": all(
            of(beta, "abc") > of(beta, "ab") for beta in ordered
        ),
        "Table 3: the union of all three overlaps more at the largest beta": of(high, "abc") > of(low, "abc"),
        "Table 4: the best masks are at a beta between the smallest and the largest": (
            max(ordered, key=lambda beta: of(beta, MASKS_OF, "mask_miou")) not in (low, high)
        ),
    }


def shown(mean: dict[tuple[object, ...], float], betas: Sequence[float]) -> Table:
    """Means over seeds in %, one column for each beta."""
    table = Table("intersection", "maps", "measure", *(f"beta {beta:g}" for beta in betas))
    for intersection, maps, measure in dict.fromkeys((key[0], key[2], key[3]) for key in mean):
        found = (mean.get((intersection, beta, maps, measure)) for beta in betas)
        values = ("" if value is None else f"{100 * value:.2f}" for value in found)
        table.add_row(str(intersection), str(maps), str(measure), *values)
    return table


def parsed() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description="Tables 1 to 4 of Splitting vs. Merging in miniature.")
    parser.add_argument("--data", type=Path, required=True, help="a data set with tags, true masks and saliency maps")
    parser.add_argument("--recipe", default="mini/split-merge")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--betas", type=float, nargs="+", default=list(BETAS))
    parser.add_argument("--limit", type=int, help="pseudo-masks of the first so many training images only")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--weights", type=Path, help="folder that keeps trained localisers and is asked for them")
    parser.add_argument(
        "--without", type=float, nargs="+", help="weights tried without the intersection, too; all of --betas"
    )
    parser.add_argument("--output", type=Path, default=Path("results/split_merge.csv"))
    arguments = parser.parse_args()
    if arguments.without is not None and max(arguments.betas) not in arguments.without:
        parser.error("--without has to name the largest of --betas, which the trends are about")
    return arguments


if __name__ == "__main__":
    arguments = parsed()
    found = []
    for row in rows(arguments):
        found.append(row)
        write_table(found, arguments.output)
    mean = means(found)
    console = Console()
    console.print(shown(mean, arguments.betas))
    judged = trends(mean, arguments.betas)
    for sentence, holds in judged.items():
        console.print(f"{'holds  ' if holds else 'differs'}  {sentence}")
    sys.exit(0 if all(judged.values()) else 1)
