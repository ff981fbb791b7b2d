"""What every refiner is: the image and its maps in, better maps out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from weakseg.data.instances import Instances
from weakseg.data.maps import LocalizationMaps
from weakseg.data.sample import Batch
from weakseg.errors import UserError
from weakseg.networks.backbone import Backbone


class Refiner(ABC):
    """One step from localisation maps towards a pseudo-mask.

    Attributes:
        gives_background: Whether its maps say what background is.
        needs_background: Whether the maps that come in must say so.
        needs_saliency: Whether the maps that come in should carry the image's saliency, where it is known.
        needs_boxes: Whether the maps that come in must carry the image's boxes.
        needs_features: Whether the maps that come in must carry the method's features.
        makes_maps: Whether it makes maps of the labels, whatever comes in.
    """

    gives_background: ClassVar[bool] = True
    needs_background: ClassVar[bool] = False
    needs_saliency: ClassVar[bool] = False
    needs_boxes: ClassVar[bool] = False
    needs_features: ClassVar[bool] = False
    makes_maps: ClassVar[bool] = False

    @abstractmethod
    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """Better maps.

        Args:
            image: (3, H, W) uint8 RGB.
            maps: Maps of that image, on its device; ``maps.size == (H, W)``.
        """

    def refine_batch(self, images: Sequence[Tensor], maps: Sequence[LocalizationMaps]) -> list[LocalizationMaps]:
        """``refine`` of several images, whose sizes may differ; for refiners that are faster on many at once."""
        return [self.refine(image, its_maps) for image, its_maps in zip(images, maps, strict=True)]

    def instances(self, image: Tensor, maps: LocalizationMaps) -> Instances | None:
        """The objects of an image told apart, where this refiner can; arguments as for ``refine``."""
        return None


class TrainedRefiner(nn.Module, Refiner):
    """A refiner whose network learns from the training images and their maps, without any other label.

    The pipeline asks it for a target of every training image, trains it on them, calibrates it, and then refines.

    Args:
        backbone: The network's body.

    Attributes:
        target: What ``targets`` gives: ``"mask"``, a label map that comes back as ``batch.masks``, or ``"scores"``,
            which come back as ``batch.scores``.
        output_stride: Of its backbone, unless the recipe says otherwise.
        settings: The paper's training, as the recipe's section ``train`` would say it.
        inference_options: Names of the options that change neither its targets nor its training.
    """

    target: ClassVar[Literal["mask", "scores"]]
    output_stride: ClassVar[int]
    settings: ClassVar[Mapping[str, Any]]
    inference_options: ClassVar[frozenset[str]]

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @abstractmethod
    def targets(self, image: Tensor, maps: LocalizationMaps) -> Tensor:
        """What the network is to learn from an image.

        Args:
            image: (3, H, W) uint8 RGB.
            maps: Maps of that image.

        Returns:
            (H, W) uint8, 255 ignore; or (K, H, W) float in [0, 1], where K may differ between images.
        """

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised."""

    @abstractmethod
    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch."""

    def calibration_crop(self) -> int | None:
        """Side of the crops that ``calibrate`` wants to see after the training; ``None`` if there is nothing to do."""
        return None

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set what follows from the trained network's answers.

        Args:
            batches: (B, 3, side, side) each: the top left corners of the training images, normalised.
        """


class Chain(Refiner):
    """Refiners one after the other.

    Args:
        steps: Refiners; named for messages.
        background: Whether the maps that come in say what background is.

    Raises:
        UserError: If a step needs a background that none before it gives, or the last maps have none.
    """

    def __init__(self, steps: Sequence[tuple[str, Refiner]], *, background: bool = False) -> None:
        self.steps = [step for _, step in steps]
        check_backgrounds([(name, type(step)) for name, step in steps], known=background)

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """All steps in their order."""
        return self.refine_batch([image], [maps])[0]

    def refine_batch(self, images: Sequence[Tensor], maps: Sequence[LocalizationMaps]) -> list[LocalizationMaps]:
        """All steps in their order, each with all images."""
        refined = list(maps)
        for step in self.steps:
            refined = step.refine_batch(images, refined)
        return refined

    def instances(self, image: Tensor, maps: LocalizationMaps) -> Instances | None:
        """Those of the first step that tells objects apart."""
        for step in self.steps:
            found = step.instances(image, maps)
            if found is not None:
                return found
            maps = step.refine(image, maps)
        return None


def check_backgrounds(steps: Sequence[tuple[str, type[Refiner]]], *, known: bool = False) -> None:
    """See that background scores are there when they are needed.

    Args:
        steps: Names and classes of refiners, in order.
        known: Whether the maps that come in say what background is.

    Raises:
        UserError: If a step needs a background that none before it gives, or the last maps have none.
    """
    for name, step in steps:
        if step.needs_background and not known:
            raise UserError(
                f"refiner '{name}' needs a background", where="refine", remedy="Put 'power' or 'threshold' before"
            )
        known = known or step.gives_background
    if not known:
        raise UserError(
            "no refiner says what background is", where="refine", remedy="Start with 'power' or 'threshold'"
        )
