"""What every localisation method is: a network, the objective that trains it, and a way to read maps from it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weakseg.data.maps import LocalizationMaps
from weakseg.data.sample import Batch, WeakLabel
from weakseg.networks.backbone import Backbone
from weakseg.networks.groups import HEAD_FACTOR, parameter_groups
from weakseg.ops.maps import normalize_max, resize, strided_size, unflip


@dataclass(frozen=True)
class Activation:
    """What one pass through a method's network gives.

    Attributes:
        scores: (B, C, h, w) raw score maps of the object classes (some methods add background channels).
        logits: (B, C) image-level class scores.
        features: (B, D, h, w) the features they were read from.
    """

    scores: Tensor
    logits: Tensor
    features: Tensor


@dataclass(frozen=True)
class Views:
    """The versions of an image that are looked at, and the grid on which their maps are merged.

    Args:
        scales: Factors by which the image is resized.
        flip: Also look at the mirror image at every scale.
        stride: Image pixels per cell of the merged maps; 1 merges at image resolution as PSA does, 4 as IRN does.
    """

    scales: Sequence[float] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    stride: int = 4

    @property
    def several(self) -> bool:
        """Whether this is multi-scale inference."""
        return len(self.scales) > 1


class Method(nn.Module, ABC):
    """A localisation network with the objective that trains it; the pipeline owns loops, files and devices.

    A method that treats several scales and flips in a way of its own overrides ``localize``; for the others it is
    enough to say in ``view_maps`` what one view's maps are.

    Args:
        backbone: The network's body.
        num_classes: C, number of object classes.

    Attributes:
        needs: The weak labels without which it cannot be trained.
        map_needs: Those without which a trained one cannot make maps, ``None`` if they are the same.
        knows_some: Whether it can map classes that it has not learnt; it then has an option ``seen`` and overrides
            ``for_classes``.
        gives_background: Whether its maps say what background is.
        gives_features: Whether its maps carry the features that refiners may ask for.
        inference_options: Names of the options that change maps and predictions, but not the training.
        prediction_options: Those among them that change predictions alone.
        segments: Whether its network is already the segmenter; it then has ``predict``, which needs no tags.
        head_factor: How much faster the new layers learn than the pretrained ones.
    """

    needs: ClassVar[frozenset[WeakLabel]] = frozenset({WeakLabel.TAGS})
    map_needs: ClassVar[frozenset[WeakLabel] | None] = None
    knows_some: ClassVar[bool] = False
    gives_background: ClassVar[bool] = False
    gives_features: ClassVar[bool] = False
    inference_options: ClassVar[frozenset[str]] = frozenset()
    prediction_options: ClassVar[frozenset[str]] = frozenset()
    segments: ClassVar[bool] = False
    head_factor: float = HEAD_FACTOR

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes

    @abstractmethod
    def forward(self, images: Tensor) -> Activation:
        """Look at (B, 3, H, W) normalised images once."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch (from 0) of ``epochs``; for objectives that change with time."""

    def advice(self, epochs: int) -> list[str]:
        """What to tell before a training.

        Args:
            epochs: How long it is.

        Returns:
            Sentences, none if all is well.
        """
        return []

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates: the backbone at ``lr``, everything new ``head_factor`` times faster."""
        return parameter_groups(self, self.backbone, lr, weight_decay, self.head_factor)

    def for_classes(self, weights: Mapping[str, Tensor], places: Sequence[int | None]) -> dict[str, Tensor]:
        """Weights of this method, trained on other classes, as they would be for those here.

        Args:
            weights: Name to parameter or buffer.
            places: For each class here its number there, ``None`` for those that were not learnt.

        Returns:
            Those of a method with ``len(places)`` classes.

        Raises:
            ValueError: If the classes are not the same and this method has no way with others.
        """
        if tuple(places) != tuple(range(len(places))):
            raise ValueError(f"{type(self).__name__} maps only the classes that it has learnt, in their order")
        return dict(weights)

    def look(self, images: Tensor) -> object:
        """All that ``localize`` and ``predict`` read of the network in one view, in any nest of tensors.

        What ``forward`` gives, unless a method uses more of its layers; ``networks.fold`` goes by it.

        Args:
            images: (B, 3, H, W) normalised.
        """
        return self(images)

    def view_maps(self, images: Tensor) -> Tensor:
        """Non-negative (B, C, h, w) maps of one view, before they are merged with the other views'."""
        activation: Activation = self(images)
        return activation.scores.relu()

    def predict(
        self, images: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False, tags: Tensor | None = None
    ) -> Tensor:
        """Segmentation without tags, for methods that say so by ``segments``.

        Args:
            images: (B, 3, H, W) normalised.
            scales: Factors by which the images are resized.
            flip: Also look at the mirror images.
            tags: (B, C) bool, the classes that may be seen; ``None`` if nothing is known.

        Returns:
            (B, C + 1, H, W) non-negative scores at image size, background first.

        Raises:
            NotImplementedError: If the method is no segmenter.
        """
        raise NotImplementedError(f"{type(self).__name__} is no segmenter")

    @torch.no_grad()
    def localize(self, batch: Batch, views: Views) -> list[LocalizationMaps]:
        """Maps of the classes that each image is tagged with, merged over scales and flips.

        The views' maps are brought to one grid (bilinear, align_corners=False), unflipped and summed; each class is
        then divided by its maximum.

        Args:
            batch: Images of one size, normalised, with their weak labels.
            views: Which versions of the image to look at.

        Returns:
            For each image the maps of its present classes, scores in [0, 1].
        """
        height, width = batch.images.shape[-2:]
        grid = strided_size(height, views.stride), strided_size(width, views.stride)
        merged = torch.stack([self._view(batch.images, scale, views.flip, grid) for scale in views.scales]).sum(0)
        return [self._present(maps, tags, (height, width)) for maps, tags in zip(merged, batch.tags, strict=True)]

    def _view(self, images: Tensor, scale: float, flip: bool, grid: tuple[int, int]) -> Tensor:
        scaled = rescale(images, scale)
        maps = self.view_maps(torch.cat([scaled, scaled.flip(-1)]) if flip else scaled)
        maps = resize(maps.float(), grid)
        if not flip:
            return maps
        straight, mirrored = maps.chunk(2)
        merged: Tensor = straight + unflip(mirrored)
        return merged

    def _present(self, maps: Tensor, tags: Tensor, size: tuple[int, int]) -> LocalizationMaps:
        classes = tags.nonzero().flatten()
        return LocalizationMaps(classes.cpu(), normalize_max(maps[classes]).cpu(), size)


def rescale(images: Tensor, scale: float) -> Tensor:
    """(B, 3, H, W) images at another scale (bicubic, smoothed when shrinking), sides rounded and at least 1."""
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return nn.functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=scale < 1)
