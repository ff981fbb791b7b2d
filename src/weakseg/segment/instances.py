"""The instance segmenter: trained on pseudo objects, it finds objects and their masks without any label."""

from typing import Any

import torch
from torch import Tensor, nn

from weakseg.data.detections import Detections
from weakseg.data.sample import Batch
from weakseg.networks.groups import parameter_groups
from weakseg.networks.mask_rcnn import Found, MaskRCNN, Target
from weakseg.ops.instances import mask_boxes, told_apart

INSIDE = 0.5  # a pixel belongs to an object from that probability on


class InstanceSegmenter(nn.Module):
    """A detector with masks, and what it learns from a batch.

    Args:
        network: Images and objects to losses, images to objects.
        head_factor: How much faster the new layers learn than the pretrained backbone.
    """

    def __init__(self, network: MaskRCNN, head_factor: float = 1.0) -> None:
        super().__init__()
        self.network, self.head_factor = network, head_factor

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised; images may show no object."""
        targets = map(target, batch.objects, batch.object_classes)
        return self.network.losses(batch.images, list(targets))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Nothing changes with time."""

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The backbone at ``lr``, the others ``head_factor`` times faster."""
        return parameter_groups(self, self.network.pretrained, lr, weight_decay, self.head_factor)

    @torch.no_grad()
    def predict(self, images: Tensor, score: float = 0.05, most: int = 100) -> list[Detections]:
        """Objects in images, on their device; in evaluation mode.

        Args:
            images: (B, 3, H, W) normalised.
            score: Lowest that counts.
            most: Objects per image.

        Returns:
            For each image its objects, the surest first, none of them empty; they may overlap.
        """
        return [_detections(found) for found in self.network.detect(images, score, most)]


def target(numbers: Tensor, classes: Tensor) -> Target:
    """What an image is to be learnt with: the objects that it still shows, in tight boxes.

    Args:
        numbers: (H, W) integers, 0 where no object is, i + 1 on object i, negative where that is not known.
        classes: (n,) int64 in [0, C) of all objects, whether the image shows them or not.
    """
    shown, masks = told_apart(numbers)
    return Target(mask_boxes(masks), classes[shown - 1] + 1, masks, numbers < 0)


def _detections(found: Found) -> Detections:
    masks = found.masks >= INSIDE
    seen = masks.any(2).any(1)
    return Detections(found.labels[seen] - 1, found.scores[seen], masks[seen])
