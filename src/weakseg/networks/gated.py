"""A segmentation network in which shallow features take part at random, as in single-stage segmentation.

N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, Sec. 3.5 and 3.6; after L.-C.
Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018.

Deep features know what an object is and are coarse, shallow ones see every edge and know little. A network that learns
from its own masks would use whichever helps to repeat their errors. So a stochastic gate hands the decoder now the one
and now the other, place by place: both must be able to explain the masks, and in inference they are mixed. Shallow
features know too little of the image for that, which is why global cues, the maximum of what the deep features say
anywhere, shift and scale them.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from weakseg.errors import UserError
from weakseg.networks.backbone import Backbone
from weakseg.networks.norm import hold_statistics
from weakseg.networks.split import ADVICE
from weakseg.networks.stages import last_stages
from weakseg.ops.maps import resize_like
from weakseg.registry import check_variant

Gate = Literal["code", "paper", "deterministic", "none"]
Cues = Literal["code", "paper", "none"]

FINE_STRIDE = 4
WIDTH, SKIP_WIDTH = 256, 48
RATES = (12, 24, 36)
GATE_RATE = 0.3
EPS = 1e-5


def stochastic_gate(
    deep: Tensor,
    shallow: Tensor,
    *,
    rate: float = GATE_RATE,
    training: bool = True,
    variant: Gate = "code",
    take_shallow: Tensor | None = None,
) -> Tensor:
    """Deep or shallow features by chance in training, their mixture in inference (Eqs. 9 and 10).

    Args:
        deep: (B, D, h, w), x^(d).
        shallow: (B, D, h, w), x^(s).
        rate: psi, how often shallow features are taken, in [0, 1].
        training: Otherwise, (1 - psi) deep + psi shallow, whatever the variant; but "none" gives ``deep``.
        variant: "paper" takes one or the other at every position. "code" draws for every element, and takes
            (deep - psi shallow) / (1 - psi) instead of ``deep``, so that the mean is ``deep``. "deterministic" mixes as
            in inference; "none" gives ``deep``.
        take_shallow: Where to take shallow features, broadcastable; drawn if ``None``.

    Returns:
        (B, D, h, w).

    Raises:
        UserError: If there is no such variant.
    """
    check_variant(variant, get_args(Gate))
    if variant == "none":
        return deep
    if not training or variant == "deterministic":
        return (1 - rate) * deep + rate * shallow
    if take_shallow is None:
        channels = 1 if variant == "paper" else deep.shape[1]
        take_shallow = torch.rand(len(deep), channels, *deep.shape[2:], device=deep.device) < rate
    if variant == "code":
        deep = (deep - rate * shallow) / max(1e-8, 1 - rate)
    return torch.where(take_shallow.bool(), shallow, deep)


def gci_modulation(normalised: Tensor, scale: Tensor, shift: Tensor, *, variant: Cues = "code") -> Tensor:
    """Shallow features, normalised, under the influence of the whole image (Eq. 11): ReLU(z x + b).

    Args:
        normalised: (B, D, h, w), see ``cue_normalisation``.
        scale: (B, D), z; "code" scales by 1 + z.
        shift: (B, D), b.
        variant: "code", "paper", or "none": neither scale nor shift.

    Returns:
        (B, D, h, w), not negative.

    Raises:
        UserError: If there is no such variant.
    """
    check_variant(variant, get_args(Cues))
    if variant == "none":
        return relu(normalised)
    factor = scale if variant == "paper" else 1 + scale
    return relu(factor[..., None, None] * normalised + shift[..., None, None])


def cue_normalisation(channels: int, variant: Cues = "code", eps: float = EPS) -> nn.Module:
    """Per image in the paper, batch normalisation in its code; without parameters either way."""
    return ImageNorm(eps) if variant == "paper" else nn.BatchNorm2d(channels, eps, affine=False)


class ImageNorm(nn.Module):
    """Each channel of each image less its mean, divided by its standard deviation.

    Args:
        eps: Added to the variance.
    """

    def __init__(self, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w), also of a single position, which becomes 0."""
        variance, mean = torch.var_mean(features, (-2, -1), correction=0, keepdim=True)
        return (features - mean) / (variance + self.eps).sqrt()


def new_convolution(inputs: int, outputs: int, size: int = 1, rate: int = 1) -> nn.Conv2d:
    """Convolution that keeps the grid, without bias, by Kaiming's rule."""
    layer = nn.Conv2d(inputs, outputs, size, padding=rate * (size // 2), dilation=rate, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    return layer


def new_layer(inputs: int, outputs: int, size: int = 1, rate: int = 1, dropout: float = 0.0) -> nn.Sequential:
    """``new_convolution``, batch normalisation, ReLU, and dropout if there is any."""
    layers = [new_convolution(inputs, outputs, size, rate), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))


class FrozenASPP(nn.Module):
    """Parallel dilated convolutions and the mean of the image, joined.

    Batch normalisation keeps to the statistics it was made with, mean 0 and variance 1, so that it only scales and
    shifts; the paper does not mention that, its code does it.

    Args:
        channels: D.
        width: Of every branch, and of what comes out.
        rates: Distance between the taps of each branch's 3x3 convolution.
    """

    def __init__(self, channels: int, width: int = WIDTH, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        dilated = (new_layer(channels, width, 3, rate) for rate in rates)
        self.branches = nn.ModuleList([new_layer(channels, width), *dilated])
        self.whole = new_layer(channels, width)
        self.join = new_layer(width * (len(rates) + 2), width, dropout=0.5)
        hold_statistics(self, "statistics")

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) to (B, width, h, w)."""
        whole = self.whole(features.mean((-2, -1), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        joined: Tensor = self.join(torch.cat([*(branch(features) for branch in self.branches), whole], 1))
        return joined

    def train(self, mode: bool = True) -> "FrozenASPP":
        """As usual, except for batch normalisation."""
        super().train(mode)
        hold_statistics(self, "statistics")
        return self


class GlobalCues(nn.Module):
    """Global cue injection (Sec. 3.6): shallow features that the deep ones have told what is in the image.

    Args:
        channels: Of the shallow features.
        width: Of the deep features, and of what comes out.
        variant: See ``gci_modulation``; "none" reads shallow features alone.
    """

    def __init__(self, channels: int, width: int = WIDTH, variant: Cues = "code") -> None:
        super().__init__()
        self.variant, self.width = variant, width
        self.cues = new_layer(width, 2 * width) if variant != "none" else None
        self.reduce = new_convolution(channels, width)
        self.norm = cue_normalisation(width, variant)
        self.mix = new_layer(width, width)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """(B, channels, h, w) and (B, width, h, w) to x^(s), (B, width, h, w)."""
        normalised = self.norm(self.reduce(shallow))
        if self.cues is None:
            scale = shift = normalised.new_zeros(normalised.shape[:2])
        else:
            scale, shift = self.cues(deep).amax((-2, -1)).chunk(2, 1)
        mixed: Tensor = self.mix(gci_modulation(normalised, scale, shift, variant=self.variant))
        return mixed


class GatedDecoder(nn.Module):
    """ASPP, fusion with shallow features, global cues, the stochastic gate, and a decoder on the fine grid.

    Args:
        shallow: Channels of the fine features.
        deep: Channels of the coarse features.
        num_outputs: C.
        width: Of the new layers.
        rates: Of the ASPP.
        gate: Variant of ``stochastic_gate``; "none" leaves the global cues out, too.
        gate_rate: Its rate.
        cues: Variant of ``GlobalCues``.

    Raises:
        UserError: If there is no such variant.
    """

    def __init__(
        self,
        shallow: int,
        deep: int,
        num_outputs: int,
        *,
        width: int = WIDTH,
        rates: Sequence[int] = RATES,
        gate: Gate = "code",
        gate_rate: float = GATE_RATE,
        cues: Cues = "code",
    ) -> None:
        super().__init__()
        check_variant(gate, get_args(Gate))
        check_variant(cues, get_args(Cues))
        self.gate, self.gate_rate = gate, gate_rate
        self.aspp = FrozenASPP(deep, width, rates)
        self.skip = new_layer(shallow, SKIP_WIDTH)
        self.fuse = new_layer(width + SKIP_WIDTH, width, 3)
        self.cues = None if gate == "none" else GlobalCues(shallow, width, cues)
        self.refine = nn.Sequential(new_layer(width, width, 3, dropout=0.5), new_layer(width, width, 3, dropout=0.1))
        self.classify = nn.Conv2d(width, num_outputs, 1)
        nn.init.kaiming_normal_(self.classify.weight)

    def forward(self, shallow: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
        """Features on the fine and on the coarse grid to logits (B, C, h, w) and what they are read from, both fine."""
        wide = resize_like(self.aspp(deep), shallow, align_corners=True)
        fused = self.fuse(torch.cat([wide, self.skip(shallow)], 1))
        features = self.refine(self._gated(fused, shallow))
        return self.classify(features), features

    def _gated(self, deep: Tensor, shallow: Tensor) -> Tensor:
        if self.cues is None:
            return deep
        told = self.cues(shallow, deep)
        return stochastic_gate(deep, told, rate=self.gate_rate, training=self.training, variant=self.gate)


class Level(NamedTuple):
    """A stage of a backbone by its number, finest first, and its channels."""

    number: int
    channels: int


def fine_level(backbone: Backbone, stride: int = FINE_STRIDE) -> Level:
    """The last stage with that many image pixels per cell.

    Raises:
        UserError: If there is none, as in a plain transformer, or timm does not give stages.
    """
    stages = last_stages(backbone)
    found = [Level(number, stage.channels) for number, stage in enumerate(stages) if stage.stride == stride]
    if not found:
        raise UserError(f"backbone '{backbone.name}' has no features at stride {stride}", remedy=ADVICE)
    return found[-1]


def two_levels(backbone: Backbone, images: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """One stage of a backbone, and its last features.

    Where units are pre-activated, as in ResNet38, the stage is what leaves the last unit, not yet normalised.

    Args:
        backbone: Its model gives its stages, see ``fine_level``.
        images: (B, 3, H, W), normalised.
        number: Of the stage.
    """
    if hasattr(backbone.model, "sections"):
        sections = backbone.model.sections()
        shallow = _through(sections[: number + 1], images)
        return shallow, _through(sections[number + 1 :], shallow)
    return backbone.stage_and_last(images, number)


def _through(sections: Sequence[Sequence[tuple[str, nn.Module]]], features: Tensor) -> Tensor:
    for section in sections:
        for _, layer in section:
            features = layer(features)
    return features
