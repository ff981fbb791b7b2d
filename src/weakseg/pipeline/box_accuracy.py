"""How many boxes a method that classifies them gets right: a check of the classifier, before any mask is made."""

import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from weakseg.data.dataset import Dataset
from weakseg.data.sample import Batch, WeakLabel
from weakseg.errors import UserError
from weakseg.methods.method import Method
from weakseg.methods.registry import method_class, methods_that
from weakseg.pipeline.device import Device
from weakseg.pipeline.inference import as_batch, chunks, ready
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import Localize, Recipe

BOX_ACCURACY = "box_accuracy"


class ClassifiesBoxes(Protocol):
    """A method that knows classes of boxes."""

    def classify_boxes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(n, C + 1) scores of boxes, background first, and (n,) int64 what they are, class + 1."""


@dataclass
class Right:
    """How many boxes were classified right, and of how many images."""

    boxes: int = 0
    right: int = 0
    images: int = 0

    def value(self) -> float:
        """In [0, 1], not a number without a box."""
        return self.right / self.boxes if self.boxes else math.nan


def check_box_accuracy(recipe: Recipe, val_set: Dataset | None) -> None:
    """See that there is something to measure where it is wanted.

    Raises:
        UserError: If the method classifies no boxes, or there are none to be classified.
    """
    if BOX_ACCURACY not in recipe.evaluate.metrics:
        return
    if recipe.localize is None or not _classifies(method_class(recipe.localize.method.name)):
        remedy = f"Leave it out, or choose one that does: {', '.join(methods_that(_classifies))}"
        raise UserError(f"'{BOX_ACCURACY}' is of methods that classify boxes", where="evaluate.metrics", remedy=remedy)
    if val_set is None or not val_set.has(WeakLabel.BOXES):
        raise UserError(
            f"'{BOX_ACCURACY}' is measured with boxes of validation images, of which there are none",
            where="evaluate.metrics" if val_set is None else val_set.root,
            remedy=f"Add them, or leave {BOX_ACCURACY} out of evaluate.metrics",
        )


def _classifies(kind: type[Method]) -> bool:
    return hasattr(kind, "classify_boxes")


@torch.no_grad()
def boxes_right(method: Method, dataset: Dataset, settings: Localize, device: Device, reporter: Reporter) -> Right:
    """Count the boxes of all images, whole and at their size, that get their class.

    Args:
        method: Trained; one of ``ClassifiesBoxes``.
        dataset: Images; those without known boxes are left out.
        settings: Batch and precision.
        device: Where to compute.
        reporter: Receives progress.
    """
    classifier, found = cast(ClassifiesBoxes, ready(method, device)), Right()
    with reporter.track("classify boxes", len(dataset)) as bar:
        for ids in chunks(dataset, settings.batch):
            samples = [sample for sample in map(dataset.sample, ids) if sample.boxes is not None]
            if samples:
                images = as_batch(samples, len(dataset.classes), method.backbone.mean, method.backbone.std)
                with device.autocast(settings.precision):
                    scores, classes = classifier.classify_boxes(images.to(device.target))
                found.boxes += len(classes)
                found.right += int((scores.argmax(1) == classes).sum())
                found.images += len(samples)
            bar.advance(len(ids))
    return found
