"""Mask R-CNN on any timm backbone: torchvision's heads, our features, initial weights and normalisation.

K. He, G. Gkioxari, P. Dollar, R. Girshick, "Mask R-CNN", ICCV 2017.

A small network slides over a pyramid of features and proposes boxes. The features in each are cut out; one head then
says what is there and where exactly, another which pixels of the box belong to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from weakseg.errors import UserError
from weakseg.networks.backbone import Backbone
from weakseg.networks.stages import last_stages
from weakseg.registry import find

Positive = Annotated[int, Field(ge=1)]
Size = tuple[int, int]

FINEST = 4  # stride; features finer than that see no object whole
RATIOS = (0.5, 1.0, 2.0)  # height to width of anchors
BOX_CELLS, MASK_CELLS, SAMPLING = 7, 14, 2  # of a region: side as the two heads see it, points per cell and axis
MASK_LAYERS = 4
LEAST_KNOWN = 1e-5  # share of a cell; less is rounding
LOSSES = {
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposals",
    "loss_classifier": "classes",
    "loss_box_reg": "boxes",
    "loss_mask": "masks",
}


class Target(NamedTuple):
    """Objects that one image is to be learnt with.

    Attributes:
        boxes: (n, 4) float32 x1 y1 x2 y2, upper bounds exclusive, none empty; n may be 0.
        labels: (n,) int64, class + 1.
        masks: (n, H, W) bool.
        unsure: (H, W) bool, pixels that nobody knows to belong to an object or not; they take no part in the loss of
            masks. ``None`` if there are none.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    unsure: Tensor | None = None

    def for_torchvision(self) -> dict[str, Tensor]:
        """Its dictionary; the mask behind the last object's is what is unsure."""
        unsure = self.masks.new_zeros(self.masks.shape[1:]) if self.unsure is None else self.unsure
        return {"boxes": self.boxes, "labels": self.labels, "masks": torch.cat((self.masks, unsure[None]))}


class Found(NamedTuple):
    """Objects found in one image, the surest first.

    Attributes:
        labels: (n,) int64, class + 1.
        scores: (n,) float32 in [0, 1].
        masks: (n, H, W) float32 in [0, 1].
    """

    labels: Tensor
    scores: Tensor
    masks: Tensor


class MaskRCNN(nn.Module):
    """Mask R-CNN with a feature pyramid.

    Args:
        backbone: Its stages of stride 4 and more, one of each stride, feed the pyramid.
        num_classes: C, object classes.
        width: Channels of pyramid and mask head.
        box_width: Channels of the head that classifies.
        anchor_scale: Side of a level's anchors in cells of the level; 8 gives 32 pixels at stride 4 and 512 at 64.
        samples: Regions of an image that the second stage learns from.
        overlap: Of two boxes of a class that overlap by more (IoU), the surer is kept.
        min_size: Shorter side to which images are resized before they are looked at; ``None`` leaves them as they are.
        max_size: Longest that the longer side may become by that.
        resize_training: Whether training images are resized likewise; they are varied in size already.

    Attributes:
        mean: Of the normalised image's RGB channels, for images in [0, 1].
        std: Likewise.

    Raises:
        UserError: If the backbone has no stages, or not of strides that are powers of two.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: Positive = 256,
        box_width: Positive = 1024,
        anchor_scale: Annotated[float, Field(gt=0)] = 8.0,
        samples: Positive = 512,
        overlap: Annotated[float, Field(gt=0, le=1)] = 0.5,
        min_size: Positive | None = None,
        max_size: Positive = 1333,
        resize_training: bool = False,
    ) -> None:
        super().__init__()
        self.mean, self.std = backbone.mean, backbone.std
        pyramid = Pyramid(backbone, width)
        levels = [str(level) for level in range(len(pyramid.strides))]
        sides = [(anchor_scale * stride,) for stride in (*pyramid.strides, 2 * pyramid.strides[-1])]
        self.model = TorchvisionMaskRCNN(
            pyramid,
            rpn_anchor_generator=AnchorGenerator(tuple(sides), (RATIOS,) * len(sides)),
            box_roi_pool=MultiScaleRoIAlign(levels, BOX_CELLS, SAMPLING),
            box_head=TwoMLPHead(width * BOX_CELLS**2, box_width),
            box_predictor=FastRCNNPredictor(box_width, num_classes + 1),
            box_batch_size_per_image=samples,
            box_nms_thresh=overlap,
            mask_roi_pool=MultiScaleRoIAlign(levels, MASK_CELLS, SAMPLING),
            mask_head=MaskRCNNHeads(width, (width,) * MASK_LAYERS, 1),
            mask_predictor=MaskRCNNPredictor(width, width, num_classes + 1),
        )
        self.model.transform = _Sizes(min_size, max_size, max(32, pyramid.strides[-1]), resize_training)
        heads = self.model.roi_heads
        for part in (self.model.rpn.head, heads.box_predictor, heads.mask_predictor):
            part.register_forward_hook(_in_float32)

    @property
    def encoder(self) -> nn.Module:
        """The timm model, which starts from pretrained weights or the localiser's."""
        model: nn.Module = self.model.backbone.body.model
        return model

    @property
    def pretrained(self) -> nn.Module:
        """All layers that learn slowly."""
        return self.encoder

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised; in training mode only.

        Args:
            images: (B, 3, H, W) normalised.
            targets: B times the objects of an image, of which some or all images may have none.
        """
        with own_kernels(images.device), _watched(self.model.roi_heads) as seen:
            found = self.model(list(images), [target.for_torchvision() for target in targets])
            found["loss_mask"] = known_mask_loss(**seen)
        return {name: found[theirs] for theirs, name in LOSSES.items()}

    def detect(self, images: Tensor, score: float = 0.05, most: int = 100) -> list[Found]:
        """Objects in images; in evaluation mode only.

        Args:
            images: (B, 3, H, W) normalised.
            score: Lowest that counts.
            most: Objects per image.
        """
        self.model.roi_heads.score_thresh, self.model.roi_heads.detections_per_img = score, most
        return [Found(found["labels"], found["scores"], found["masks"][:, 0]) for found in self.model(list(images))]


def known_mask_loss(logits: Tensor, regions: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Binary cross-entropy of the masks in regions, over what is known of them.

    A cell of a region counts by the share of its pixels that are known, and its target is the share of these that
    belong to the object: BANA's detector learns from pixels on which two masks agree (Sec. 4.3). Where everything is
    known, that is torchvision's loss.

    Args:
        logits: (R, C + 1, M, M), for the regions of all images in turn; R may be 0.
        regions: For each image (r, 4), boxes.
        targets: For each image "boxes" (n, 4), "labels" (n,) and "masks" (n + 1, H, W) of its objects, with what is
            unsure behind the last. A region is about the object that it overlaps most.

    Returns:
        A scalar, 0 if nothing is known.
    """
    labels, shares, known = [], [], []
    for boxes, target in zip(regions, targets, strict=True):
        if len(boxes):
            owners = box_iou(target["boxes"], boxes).argmax(0)
            labels.append(target["labels"][owners])
            shares.append(_in_cells(target["masks"], boxes, owners, logits.shape[-1]))
            known.append(1 - _in_cells(target["masks"][-1:], boxes, torch.zeros_like(owners), logits.shape[-1]))
    if not labels:
        return logits.sum() * 0
    chosen = logits[torch.arange(len(logits), device=logits.device), torch.cat(labels)]
    weights = torch.cat(known)
    weights = weights * (weights > LEAST_KNOWN)
    wanted = (torch.cat(shares) / weights.clamp(min=LEAST_KNOWN)).clamp(max=1)
    surprise = binary_cross_entropy_with_logits(chosen, wanted, reduction="none") * weights
    return surprise.sum() / weights.sum().clamp(min=LEAST_KNOWN)


def _in_cells(masks: Tensor, boxes: Tensor, numbers: Tensor, side: int) -> Tensor:
    """(r, side, side): of each box the share of its cells that the mask with its number covers."""
    regions = torch.cat((numbers[:, None].to(boxes), boxes), 1)
    found: Tensor = roi_align(masks[:, None].to(boxes), regions, (side, side))[:, 0]
    return found


@contextmanager
def _watched(heads: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """What torchvision's heads look at meanwhile: the arguments of ``known_mask_loss``."""
    seen: dict[str, Any] = {}
    handles = (
        heads.register_forward_pre_hook(lambda _, inputs: seen.update(targets=inputs[3])),
        heads.mask_roi_pool.register_forward_hook(lambda _, inputs, __: seen.update(regions=inputs[1])),
        heads.mask_predictor.register_forward_hook(lambda _, __, output: seen.update(logits=output)),
    )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class Pyramid(nn.Module):
    """A backbone's stages, each with what the coarser ones know, in as many channels, and one level more on top.

    Args:
        backbone: Any that has stages.
        width: Channels of each level.

    Attributes:
        strides: Of the levels that come from stages, finest first.
        out_channels: As torchvision calls the width.
    """

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        self.body, self.out_channels = backbone, width
        stages = last_stages(backbone)
        last = {stage.stride: place - len(stages) for place, stage in enumerate(stages) if stage.stride >= FINEST}
        self.places, self.strides = list(last.values()), list(last)
        self._check_strides()
        channels = [stages[place].channels for place in self.places]
        self.merge = FeaturePyramidNetwork(channels, width, LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) images, sides multiples of the coarsest stride, to a float32 (B, width, h, w) for each level.

        Anchors and boxes get the type of the features, and bfloat16 does not tell pixel 500 from 501.
        """
        stages = self.body.stages(images)
        merged = self.merge({str(level): stages[place] for level, place in enumerate(self.places)})
        return {name: level.float() for name, level in merged.items()}

    @torch.no_grad()
    def _check_strides(self) -> None:
        """Regions are looked up by strides that are powers of two, exactly."""
        side = 2 * self.strides[-1]
        was_training = self.body.training
        maps = self.body.eval().stages(next(self.body.parameters()).new_zeros(1, 3, side, side))
        self.body.train(was_training)
        for place, stride in zip(self.places, self.strides, strict=True):
            if maps[place].shape[-2:] != (side // stride, side // stride):
                raise UserError(
                    f"the stages of backbone '{self.body.name}' have strides that are not powers of two",
                    remedy="Choose another backbone for the detector, such as a ResNet",
                )


class _Sizes(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """Images are normalised already, and resized only where that is asked for; zeros fill them up to whole cells."""

    def __init__(self, min_size: int | None, max_size: int, multiple: int, resize_training: bool) -> None:
        super().__init__(min_size or 1, max_size, [0.0] * 3, [1.0] * 3, size_divisible=multiple)
        self.resizes, self.resizes_training = min_size is not None, resize_training

    def normalize(self, image: Tensor) -> Tensor:
        return image

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        if not self.resizes or (self.training and not self.resizes_training):
            return image, target
        found: tuple[Tensor, dict[str, Tensor] | None] = super().resize(image, target)
        return found


DETECTORS: dict[str, type[MaskRCNN]] = {"mask_rcnn": MaskRCNN}
"""Networks that take a ``Backbone``, the number of object classes, and their options as keywords."""


def create_detector(
    name: str,
    num_classes: int,
    *,
    encoder: str,
    detector: Mapping[str, Any] | None = None,
    **settings: Any,  # noqa: ANN401
) -> MaskRCNN:
    """Any network of ``DETECTORS``, on a backbone with the strides that it was made with.

    Args:
        name: Of the network.
        num_classes: C, object classes.
        encoder: timm model name.
        detector: Keyword arguments of the network.
        settings: Further arguments of ``Backbone``, without ``output_stride``.

    Raises:
        UserError: If the name is unknown, or the network cannot be built.
    """
    kind = find(name, DETECTORS, "detector")
    return kind(Backbone(encoder, output_stride=None, **settings), num_classes, **(detector or {}))


@contextmanager
def own_kernels(device: torch.device) -> Iterator[None]:
    """Elsewhere than on a CPU, do without torchvision's repeatable operators where they are only wished for.

    It would compile them on first use, which takes a compiler and minutes, and they are slower.
    """
    wanted, wished = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(wanted and (device.type == "cpu" or not wished), warn_only=wished)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(wanted, warn_only=wished)


def _in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ANN401
    """Forward hook: scores and offsets of boxes are used as they come, and boxes take their type."""
    if isinstance(output, Tensor):
        return output.float()
    return type(output)(_in_float32(module, inputs, part) for part in output)
