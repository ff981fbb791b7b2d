"""Which images have boxes, and which of them nothing else."""

import torch

from weakseg.data.dataset import FILE_OF, Dataset
from weakseg.data.images import image_size
from weakseg.data.sample import WeakLabel
from weakseg.ops.box_masks import inside_boxes


def boxed_ids(dataset: Dataset) -> tuple[str, ...]:
    """The images whose boxes are known, be it that there are none."""
    kind = FILE_OF[WeakLabel.BOXES]
    return tuple(image_id for image_id in dataset.ids if kind in dataset.paths(image_id))


def is_covered(dataset: Dataset, image_id: str) -> bool:
    """Whether boxes and crowds cover an image entirely, so that no background is certain; its boxes must be known."""
    known = dataset.box_tensors(image_id)
    assert known is not None
    unsure = dataset.unsure_boxes(image_id)
    boxes = known[0] if unsure is None else torch.cat([known[0], unsure])
    return bool(inside_boxes(boxes, image_size(dataset.paths(image_id)["image"])).all())
