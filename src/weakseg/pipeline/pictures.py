"""Pictures of a training as it goes: after every epoch, what the network teaches itself of the same few images."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from weakseg.data.dataset import Dataset
from weakseg.data.sample import Batch
from weakseg.data.transforms import ResizeLonger
from weakseg.errors import UserError
from weakseg.methods.method import Method
from weakseg.methods.registry import method_class, methods_that
from weakseg.pipeline.inference import as_batch
from weakseg.pipeline.recipe import Localize
from weakseg.report.lessons import Lesson, lesson_sheet

PICTURES = "pictures"


class Telling(Protocol):
    """A method that can tell what it teaches itself."""

    def intermediate(self, batch: Batch) -> dict[str, Tensor]:
        """Name of a step to soft masks (B, C + 1, h, w) in [0, 1], background first, or to labels (B, h, w) uint8.

        Nothing is drawn by chance, and the network stays as it is.
        """


def check_pictures(settings: Localize) -> None:
    """See that there is something to show where pictures are wanted.

    Raises:
        UserError: If the method has nothing to show, or is not trained here.
    """
    if settings.pictures and settings.trained is not None:
        what = "a localiser that is trained already has no pictures of its training"
        raise UserError(what, where="localize.pictures", remedy="Leave it out")
    if settings.pictures and not _tells(method_class(settings.method.name)):
        able = ", ".join(f"'{name}'" for name in methods_that(_tells))
        raise UserError(
            f"method '{settings.method.name}' does not teach itself and has no pictures of that",
            where="localize.pictures",
            remedy=f"Leave it out, or choose {able}",
        )


def picture_path(folder: Path, epochs: int) -> Path:
    """Where the sheet is that was drawn after so many epochs."""
    return folder / PICTURES / f"epoch-{epochs:03}.png"


def last_picture(folder: Path) -> Path | None:
    """The sheet of the last epoch that has one."""
    return max((folder / PICTURES).glob("epoch-*.png"), key=lambda path: (len(path.name), path.name), default=None)


def pictures(method: Method, dataset: Dataset, settings: Localize, folder: Path) -> Callable[[int], None] | None:
    """What draws a sheet after an epoch, from the number of epochs that are over; ``None`` if none is wanted.

    The images are spread evenly over the training set, whole, and as long as the crop that the network is trained on.

    Args:
        method: The localiser, see ``Telling``.
        dataset: Training images with their tags.
        settings: The recipe's section.
        folder: The run folder.
    """
    count = min(settings.pictures, len(dataset))
    if not count:
        return None
    ids = [dataset.ids[number * len(dataset) // count] for number in range(count)]

    def draw(epochs: int) -> None:
        lessons = [_lesson(method, dataset, image_id, settings.train.augment.crop) for image_id in ids]
        lesson_sheet(lessons, picture_path(folder, epochs), dataset.classes.with_background)

    return draw


def _tells(kind: type) -> bool:
    return callable(getattr(kind, "intermediate", None))


def _lesson(method: Method, dataset: Dataset, image_id: str, side: int) -> Lesson:
    sample = ResizeLonger(side, side)(dataset.sample(image_id), torch.Generator())
    batch = as_batch([sample], len(dataset.classes), method.backbone.mean, method.backbone.std)
    told = cast("Telling", method).intermediate(batch.to(next(method.parameters()).device))
    tags = () if sample.tags is None else tuple(sample.tags.nonzero().flatten().tolist())
    steps = {name: taught[0].cpu().numpy() for name, taught in told.items()}
    return Lesson(image_id, tags, sample.image.permute(1, 2, 0).numpy(), steps)
