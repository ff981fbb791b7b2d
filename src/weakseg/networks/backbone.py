"""Any timm model as a fully convolutional backbone at output stride 8, 16 or 32."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

import weakseg.networks.resnet38
import weakseg.networks.resnet_caffe
import weakseg.networks.vgg16  # noqa: F401  (all make their names known to timm)
from weakseg.data.colour import IMAGENET_MEAN, IMAGENET_STD
from weakseg.errors import UserError
from weakseg.networks.dilate import dilate, power_of_two, unstride
from weakseg.networks.freeze import freeze_modules
from weakseg.networks.norm import NormMode, freeze_affine, hold_statistics
from weakseg.networks.weights import hub_error, load_backbone_weights, read_weights
from weakseg.ops.maps import padded_size
from weakseg.registry import near_matches

UNUSUAL = (129, 161)  # height and width that no model is made for
SMALL = (96, 160)  # height and width of 3 and 5 of the coarsest usual cells


class Backbone(nn.Module):
    """The layers of an image classifier up to its last feature map.

    Args:
        name: timm model name.
        weights: ``"timm"`` (pretrained weights of that model, from its hub), a local file, or ``"none"``.
        output_stride: Image pixels per feature map cell, 8, 16 or 32; ``None`` keeps the model's own.
        dilate: Whether the layers after a stride that is taken away are dilated in exchange, so that pretrained filters
            keep looking at the same places; IRN's ResNet50 does without.
        batchnorm: ``"train"`` as usual; ``"statistics"`` uses the stored mean and deviation and trains the affine part
            (IRN's ResNet50); ``"frozen"`` freezes both (PSA's ResNet38).
        freeze: Prefixes of module names whose parameters stay as they are, such as ``["conv1", "bn1", "layer1"]``.
        mean: Mean of the normalised image's RGB channels, for images in [0, 1]; ``None`` takes the model's own.
        std: Standard deviation, likewise.
        sha256: Expected checksum of a local weights file.
        options: Further keyword arguments of the timm model, such as ``{"pad_type": "same"}``.

    Attributes:
        channels: D, channels of the last feature map.
        stride: Output stride.
        options: As given.

    Raises:
        UserError: If the model is unknown, cannot run at this stride, or its weights do not fit.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str = "timm",
        output_stride: int | None = 16,
        dilate: bool = True,
        batchnorm: NormMode = "statistics",
        freeze: Sequence[str] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        sha256: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.weights, self.batchnorm, self.options = name, weights, batchnorm, dict(options or {})
        build = _Builder(name, dict(options or {}), weights == "timm")
        self.model, self.stride = _create(build, output_stride, dilated=dilate)
        if weights not in ("timm", "none"):
            load_backbone_weights(self.model, read_weights(Path(weights), sha256), weights)
        self.channels = int(self.model.num_features)
        self._check_size()
        config = cast("dict[str, Any]", getattr(self.model, "pretrained_cfg", {}))
        self.mean = tuple(mean or config.get("mean", IMAGENET_MEAN))
        self.std = tuple(std or config.get("std", IMAGENET_STD))
        freeze_modules(self.model, freeze, f"backbone '{name}'")
        freeze_affine(self, batchnorm)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D, h, w) features."""
        fitted = self._whole_patches(images)
        return self._as_map(self.model.forward_features(fitted), fitted)

    def stages(self, images: Tensor) -> list[Tensor]:
        """All intermediate feature maps, finest first, each (B, D_k, h_k, w_k).

        Raises:
            UserError: If timm gives no access to the stages of this model.
        """
        if not hasattr(self.model, "forward_intermediates"):
            raise UserError(f"timm gives no stages for '{self.name}'", remedy="Choose another backbone")
        fitted = self._whole_patches(images)
        return list(self.model.forward_intermediates(fitted, output_fmt="NCHW", intermediates_only=True))

    def stage_and_last(self, images: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """One of ``stages`` by its number, and what the backbone gives, computed in one pass."""
        fitted = self._whole_patches(images)
        last, (stage,) = self.model.forward_intermediates(fitted, indices=[number], output_fmt="NCHW")
        return stage, self._as_map(last, fitted)

    def train(self, mode: bool = True) -> "Backbone":
        """As usual, except that batch normalisation keeps to its stored statistics unless it is to be trained."""
        super().train(mode)
        hold_statistics(self, self.batchnorm)
        return self

    def _check_size(self) -> None:
        """See that images need not have the size that the model was made for."""
        height, width = UNUSUAL
        with torch.no_grad(), _refused(f"backbone '{self.name}' does not take images of {width} x {height} pixels"):
            features = self(torch.zeros(1, 3, height, width))
            if features.ndim != 4 or features.shape[1] != self.channels:
                raise ValueError(f"its features are {tuple(features.shape)}")

    def _whole_patches(self, images: Tensor) -> Tensor:
        """Transformers cut the image into patches: a side that these do not fill is stretched up to the next patch."""
        if not hasattr(self.model, "patch_embed"):
            return images
        size = [padded_size(side, self.stride) for side in images.shape[-2:]]
        if size == list(images.shape[-2:]):
            return images
        return nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)

    def _as_map(self, features: Tensor, images: Tensor) -> Tensor:
        if features.ndim == 3:
            height, width = images.shape[-2] // self.stride, images.shape[-1] // self.stride
            patches = features[:, -height * width :]
            return patches.transpose(1, 2).reshape(len(images), -1, height, width)
        if features.shape[1] != self.channels:
            return features.permute(0, 3, 1, 2)
        return features


def _create(build: "_Builder", stride: int | None, *, dilated: bool) -> tuple[Any, int]:
    """The timm model and its output stride."""
    name, has_options = build.name, bool(build.options)
    if not timm.is_model(name):
        raise UserError(f"unknown backbone '{name}'", remedy=near_matches(name, timm.list_models()))
    with _refused(f"backbone '{name}' cannot be built", has_options):
        own = build()
    with _refused(f"backbone '{name}' gives no feature map", has_options):
        own_stride = _stride(own)
    if stride is None or stride == own_stride:
        return own, own_stride
    with _refused(f"backbone '{name}' cannot run at output stride {stride}"):
        model = _dilated(build, own, stride) if dilated else _unstrided(own, stride)
        reached = _stride(model)
    if reached != stride:
        raise UserError(
            f"backbone '{name}' cannot run at output stride {stride}",
            remedy=f"Set output_stride to {own_stride} or choose a convolutional backbone",
        )
    return model, reached


def _dilated(build: "_Builder", own: Any, stride: int) -> Any:  # noqa: ANN401
    """The model with a finer feature map, by timm's means or else by ours."""
    try:
        return build(output_stride=stride)
    except (TypeError, AssertionError, NotImplementedError):
        with suppress(ValueError):
            dilate(own, _example(own), stride)
        return own


def _unstrided(own: Any, stride: int) -> Any:  # noqa: ANN401
    """The model with a finer feature map and the filters that it has."""
    with suppress(ValueError):
        unstride(own, _example(own), stride)
    return own


@contextmanager
def _refused(problem: str, has_options: bool = False) -> Iterator[None]:
    """A model that does not fit makes timm and torch raise nearly anything."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        remedy = "Correct backbone.options" if has_options else "Choose another backbone, such as a ResNet"
        raise UserError(f"{problem} ({reason})", remedy=remedy) from error


class _Builder:
    """Creates one timm model in several ways; transformers are asked to accept images of any size."""

    def __init__(self, name: str, options: dict[str, Any], pretrained: bool) -> None:
        self.name, self.options, self.pretrained = name, options, pretrained

    def __call__(self, **more: Any) -> Any:  # noqa: ANN401
        for flexible in ({"dynamic_img_size": True}, {"strict_img_size": False}):
            try:
                return self._create(**flexible, **more)
            except TypeError:
                continue
        return self._create(**more)

    def _create(self, **more: Any) -> Any:  # noqa: ANN401
        try:
            return timm.create_model(
                self.name, pretrained=self.pretrained, num_classes=0, **{**self.options, **more}
            ).eval()
        except (OSError, RuntimeError) as error:
            if not self.pretrained:
                raise
            raise hub_error(self.name, error) from error


def _example(model: Any) -> Tensor:  # noqa: ANN401
    size = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-1]
    return torch.zeros(1, 3, size, size)


def _stride(model: Any) -> int:  # noqa: ANN401
    """Image pixels per cell of the last feature map, by looking: at a small image, if that is enough."""
    was_training = model.training
    with torch.no_grad():
        found = _small_stride(model.eval()) or _own_stride(model)
    model.train(was_training)
    return found


def _small_stride(model: Any) -> int | None:  # noqa: ANN401
    """The stride, if the model takes a small image and both of its sides become whole cells of one power of two.

    Where layers cut the borders off, the longer side loses the smaller share, and there is no such number.
    """
    if hasattr(model, "patch_embed"):
        return None
    with suppress(Exception):  # whatever it is: at its own size the model shows what it can
        features = model.forward_features(torch.zeros(1, 3, *SMALL))
        cells = features.shape[2:] if features.shape[1] == model.num_features else features.shape[1:3]
        down, along = (side / count for side, count in zip(SMALL, cells, strict=True))
        if down == along == power_of_two(down):
            return power_of_two(down)
    return None


def _own_stride(model: Any) -> int:  # noqa: ANN401
    """The stride at the size that the model was made for."""
    image = _example(model)
    features = model.forward_features(image)
    if features.ndim == 3:
        return int(model.patch_embed.patch_size[0])
    return power_of_two(image.shape[-1] / int(features.shape[2]))
