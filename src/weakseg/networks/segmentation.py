"""Segmentation networks: any decoder of segmentation-models-pytorch on any timm encoder, and networks of papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

import weakseg.networks.resnet38
import weakseg.networks.resnet_caffe
import weakseg.networks.vgg16  # noqa: F401  (all make their names known to timm)
from weakseg.data.colour import IMAGENET_MEAN, IMAGENET_STD
from weakseg.errors import UserError
from weakseg.networks.backbone import Backbone
from weakseg.networks.classifier import SCALE, ClassifierKind, classifier_options, end_with_cosines
from weakseg.networks.deeplab import DeepLabV1, DeepLabV2
from weakseg.networks.freeze import freeze_modules
from weakseg.networks.global_stream import GlobalStream
from weakseg.networks.network import Network
from weakseg.networks.norm import NormMode, freeze_affine, hold_statistics
from weakseg.networks.weights import load_backbone_weights, read_weights
from weakseg.ops.maps import padded_size
from weakseg.registry import find, near_matches

MULTIPLE = 32
SMALLEST = {"pan": 128}  # sides below which a decoder's own pooling leaves nothing
DECODERS: Mapping[str, type[nn.Module]] = smp.MODEL_ARCHITECTURES_MAPPING
OURS: dict[str, type[Network]] = {"deeplab_v1": DeepLabV1, "deeplab_v2": DeepLabV2, "global_stream": GlobalStream}
"""Networks that take a ``Backbone``, the number of mask values, and their options as keywords."""

NETWORKS: Mapping[str, type[nn.Module]] = {**DECODERS, **OURS}
PROBE = 128
ATROUS = frozenset({"deeplabv3", "deeplabv3plus"})


class SegmentationNetwork(Network):
    """Encoder and decoder; takes images of any size and answers at their size.

    Args:
        name: Decoder, a key of ``DECODERS`` such as ``"deeplabv3plus"``, ``"unet"`` or ``"fpn"``.
        num_outputs: K, number of mask values: the object classes and background.
        encoder: timm model name.
        weights: ``"timm"``, a local file, or ``"none"``; see ``Backbone``.
        output_stride: Of the encoder, 8 or 16, for the DeepLab decoders; the others use all of its stages.
        batchnorm: How the encoder's batch normalisation behaves; see ``Backbone``. The decoder's is always trained.
        freeze: Prefixes of the encoder's module names; see ``Backbone``.
        mean: Mean of the normalised image's RGB channels; ``None`` takes the encoder's own.
        std: Standard deviation, likewise.
        sha256: Expected checksum of a local weights file.
        options: Further keyword arguments of the timm encoder.
        decoder: Further keyword arguments of the decoder.
        classifier: How the decoder ends: ``"dot"``, with its own last convolution; ``"cosine"``, with a 1x1 layer of
            scaled cosines in that one's place, enlarged to the image as the decoder does.
        scale: tau of the cosines.

    Raises:
        UserError: If decoder and encoder do not go together, or the weights do not fit.
    """

    def __init__(
        self,
        name: str,
        num_outputs: int,
        *,
        encoder: str,
        weights: str = "timm",
        output_stride: int | None = 16,
        batchnorm: NormMode = "statistics",
        freeze: Sequence[str] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        sha256: str | None = None,
        options: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        classifier: ClassifierKind = "dot",
        scale: float = SCALE,
    ) -> None:
        super().__init__()
        find(name, DECODERS, "network")
        if not timm.is_model(encoder):
            raise UserError(f"unknown backbone '{encoder}'", remedy=near_matches(encoder, timm.list_models()))
        settings = {**(options or {}), **(decoder or {})}
        if name in ATROUS and output_stride is not None:
            settings["encoder_output_stride"] = output_stride
        self.model = _create(name, encoder, num_outputs, settings, pretrained=weights == "timm")
        if weights not in ("timm", "none"):
            load_backbone_weights(self.encoder, read_weights(Path(weights), sha256), weights)
        if classifier == "cosine":
            end_with_cosines(self.model.segmentation_head, scale)
            self.cosine_scale = scale
        self.batchnorm, self.smallest = batchnorm, SMALLEST.get(name, MULTIPLE)
        config = timm.get_pretrained_cfg(encoder)
        self.mean = tuple(mean or (config.mean if config else IMAGENET_MEAN))
        self.std = tuple(std or (config.std if config else IMAGENET_STD))
        freeze_modules(self.encoder, freeze, f"the segmenter's encoder '{encoder}'")
        freeze_affine(self.encoder, batchnorm)

    @property
    def encoder(self) -> nn.Module:
        """The part that starts from pretrained weights."""
        features: nn.Module = self.model.encoder.model
        wrapped = getattr(features, "model", None)  # timm's feature getters keep the whole model inside
        return wrapped if isinstance(wrapped, nn.Module) else features

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, K, H, W) logits; inside, zeros pad the sides as the decoder needs."""
        height, width = images.shape[-2:]
        below, right = (max(padded_size(side, MULTIPLE), self.smallest) - side for side in (height, width))
        logits: Tensor = self.model(nn.functional.pad(images, (0, right, 0, below)))
        return logits[..., :height, :width]

    def train(self, mode: bool = True) -> "SegmentationNetwork":
        """As usual, except for the encoder's batch normalisation."""
        super().train(mode)
        hold_statistics(self.encoder, self.batchnorm)
        return self


def create_network(
    name: str,
    num_outputs: int,
    *,
    encoder: str,
    decoder: Mapping[str, Any] | None = None,
    dilate: bool = True,
    **settings: Any,  # noqa: ANN401
) -> Network:
    """Any network of ``NETWORKS``.

    Args:
        name: A decoder, or one of ours.
        num_outputs: K, number of mask values.
        encoder: timm model name.
        decoder: Keyword arguments of the decoder or network, those of its classifier among them.
        dilate: As for ``Backbone``, for our networks; those of segmentation-models-pytorch dilate always.
        settings: Further arguments as for ``SegmentationNetwork``, and for ``Backbone`` alike.

    Raises:
        UserError: If the name is unknown, or the network cannot be built.
    """
    find(name, NETWORKS, "network")
    if name in OURS:
        return OURS[name](Backbone(encoder, dilate=dilate, **settings), num_outputs, **(decoder or {}))
    options = dict(decoder or {})
    last = {option: options.pop(option) for option in classifier_options(options)}
    return SegmentationNetwork(name, num_outputs, encoder=encoder, decoder=options, **last, **settings)


def _create(name: str, encoder: str, num_outputs: int, settings: dict[str, Any], *, pretrained: bool) -> Any:  # noqa: ANN401
    try:
        model = smp.create_model(
            name,
            encoder_name=f"tu-{encoder}",
            encoder_weights="imagenet" if pretrained else None,
            classes=num_outputs,
            **settings,
        )
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, PROBE, PROBE))
    except (TypeError, ValueError, AssertionError, AttributeError, LookupError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"decoder '{name}' on encoder '{encoder}' cannot be built ({reason})",
            remedy="Choose another decoder, encoder or output_stride, or local weights",
        ) from error
    return model
