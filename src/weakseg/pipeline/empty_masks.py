"""Pseudo-masks that show nothing of images that show something: what is left of a training whose features have died."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from weakseg.data.dataset import Dataset
from weakseg.data.images import read_mask
from weakseg.data.sample import IGNORE
from weakseg.pipeline.inference import mask_path
from weakseg.pipeline.recipe import Recipe

MANY = 0.95  # share of such masks from which on something is wrong


def empty_masks(dataset: Dataset, mask: Callable[[str], Path]) -> tuple[int, int]:
    """How many masks show no object, and how many should.

    Args:
        dataset: Images; those count whose tags or boxes name a class and that have a mask.
        mask: Id of an image to its mask.
    """
    named = [image_id for image_id in dataset.ids if mask(image_id).exists() and _shows(dataset, image_id)]
    return sum(_is_empty(mask(image_id)) for image_id in named), len(named)


def mask_warnings(recipe: Recipe, dataset: Dataset, folder: Path) -> list[str]:
    """What to tell of the pseudo-masks of a run: one line if nearly all show nothing, else none.

    Args:
        recipe: The run's recipe.
        dataset: Its training images.
        folder: The run folder.
    """
    empty, named = empty_masks(dataset, partial(mask_path, folder))
    if not named or empty < MANY * named:
        return []
    what = (
        f"{empty} of {named} pseudo-masks in {folder / 'masks'} are background alone, though their images show objects"
    )
    if recipe.localize is None:
        remedy = "Look at boxes and photographs in the report, and at the options of the refiners"
    else:
        remedy = (
            "Look at the maps in the report. If they are empty or alike, lower localize.train.lr (a tenth is a start); "
            "if they are not, let background have less: a lower threshold, or a higher alpha"
        )
    return [f"{what}. {remedy}."]


def _shows(dataset: Dataset, image_id: str) -> bool:
    return bool(dataset.tags(image_id) or dataset.boxes(image_id))


def _is_empty(path: Path) -> bool:
    mask = read_mask(path)
    return not ((mask > 0) & (mask != IGNORE)).any()
