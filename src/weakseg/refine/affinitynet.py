"""AffinityNet (PSA): a network that learns which neighbouring pixels belong together.

J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2018.

Localisation maps are right where they are sure, and silent elsewhere. Where they are sure, of a class or of background,
they tell for pairs of nearby pixels whether both show the same thing, and that is enough to train a network whose
features are alike where labels are. It knows nothing of classes, so it holds for pixels that no map reaches, too. A
random walk along its affinities then carries each class from where its map is strong over the rest of the object.

Hyper-parameters: background (1 - max)^alpha with alpha 4 for sure objects and 32 (in the paper 24) for sure background,
16 at the start of the walk; pairs nearer than 5 cells of 8 pixels; beta 8; 256 steps. Where paper and published code
differ, the code has made the figures and stands here; the documentation says where.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, elu, pad

from weakseg.data.colour import normalised
from weakseg.data.maps import LocalizationMaps
from weakseg.data.sample import IGNORE, Batch
from weakseg.networks.backbone import Backbone
from weakseg.networks.groups import parameter_groups
from weakseg.networks.stages import Stage, last_stages, pooled
from weakseg.ops.crf import CRFParameters, dense_crf
from weakseg.ops.maps import constant_background, power_background, resize, resize_like
from weakseg.ops.pairs import PairLabels, pair_distance, pair_labels
from weakseg.ops.random_walk import Connection, feature_links, random_walk
from weakseg.refine.crf import scaled_parameters
from weakseg.refine.masks import at_image_size
from weakseg.refine.refiner import TrainedRefiner

EPS = 1e-5
WEIGHTS = {"background": 1 / 4, "foreground": 1 / 4, "negative": 1 / 2}
TAPS, WIDTHS, GROUPS = 3, (64, 128, 256), (8, 16, 32)

Positive = Annotated[float, Field(gt=0)]


def confident_scores(image: Tensor, scores: Tensor, alphas: tuple[float, float], params: CRFParameters) -> Tensor:
    """What a CRF makes of the maps with a strong background, and with a weak one (Sec. 3.2).

    Args:
        image: (3, H, W) uint8 RGB.
        scores: (P, H, W) in [0, 1], P may be 0.
        alphas: Exponents of the strong and of the weak background; the first is the lower one.
        params: Of the CRF.

    Returns:
        (2 (P + 1), H, W) probabilities: strong and weak in turn, first of background, then of class after class. So the
        channels of a class stay where they are when zeros are appended.
    """
    if not len(scores):
        return scores.new_ones(2, *scores.shape[1:])
    pixels = image.permute(1, 2, 0).contiguous()
    stacks = [torch.cat([power_background(scores, alpha)[None], scores]) for alpha in alphas]
    return torch.stack([dense_crf(pixels, stack, params) for stack in stacks], 1).flatten(0, 1)


def confident_labels(strong: Tensor, weak: Tensor, eps: float = EPS) -> Tensor:
    """Labels where both backgrounds agree: a class that beats the strong one, or background even where it is weak.

    Args:
        strong: (..., L, h, w) scores with the strong background (low alpha), background first.
        weak: (..., L, h, w) scores with the weak background (high alpha).
        eps: Where no score reaches it there is no image.

    Returns:
        (..., h, w) int64: 0 background, 1 to L - 1 the classes in the scores' order, 255 unsure.
    """
    labels = strong.argmax(-3)
    labels = labels.masked_fill(labels == 0, IGNORE).masked_fill(weak.argmax(-3) == 0, 0)
    return labels.masked_fill(torch.maximum(strong, weak).amax(-3) < eps, IGNORE)


def fitting_radius(radius: int, height: int, width: int) -> int:
    """The usual radius where the grid has pairs of training with it, otherwise (shorter side - 1) / 2, at least 2.

    ``training_window`` is empty below ``radius`` rows and ``2 * radius - 1`` columns. What SEAM does below
    ``2 * radius + 1`` rows or columns, pairs or not, is done here where nothing could be learnt otherwise.
    """
    fits = height >= radius and width >= 2 * radius - 1
    return radius if fits else max(2, (min(height, width) - 1) // 2)


def pair_affinity(features: Tensor, radius: int) -> Tensor:
    """Affinities a_ij = exp(-mean_k |f_k(i) - f_k(j)|) (Eq. 3, where channels are summed).

    Args:
        features: (B, D, h, w).
        radius: As for ``pair_ends``.

    Returns:
        (B, O, S) in (0, 1].
    """
    return pair_distance(features, radius).neg().exp()


def affinity_losses(affinity: Tensor, labels: PairLabels, eps: float = EPS) -> dict[str, Tensor]:
    """Mean cross-entropy of affinities over each kind of pair (Sec. 3.2); ``WEIGHTS`` are those of their sum.

    Args:
        affinity: (..., O, S) in [0, 1].
        labels: What is known of these pairs.
        eps: Keeps logarithms and means of nothing finite.

    Returns:
        Scalars "background" and "foreground" of like pairs, "negative" of unlike ones.
    """
    like, unlike = -(affinity + eps).log(), -(1 + eps - affinity).log()
    terms = zip(WEIGHTS, (like, like, unlike), labels, strict=True)
    return {name: (values * chosen).sum() / (chosen.sum() + eps) for name, values, chosen in terms}


def reducer(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """1x1 convolution without bias, group normalisation unless there are 0 groups, ELU."""
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return nn.Sequential(convolution, nn.GroupNorm(groups, outputs) if groups else nn.Identity(), nn.ELU())


class AffinityHead(nn.Module):
    """Three stages reduced, brought to the grid of the first, joined and mixed.

    Args:
        stages: What comes in.
        group_norm: Normalise what has been reduced, as the code does on its VGG16.
    """

    def __init__(self, stages: Sequence[Stage], *, group_norm: bool) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(
            reducer(stage.channels, width, groups if group_norm else 0)
            for stage, width, groups in zip(stages, WIDTHS, GROUPS, strict=True)
        )
        self.mix = nn.Conv2d(sum(WIDTHS), sum(WIDTHS), 1, bias=False)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """(B, D_k, h_k, w_k) stages, finest first, to (B, 448, h, w) on the grid of the first."""
        reduced = [layer(maps) for layer, maps in zip(self.reduce, stages, strict=True)]
        return elu(self.mix(torch.cat([resize_like(maps, reduced[0]) for maps in reduced], 1)))


class AffinityNet(TrainedRefiner):
    """Affinities learnt from sure pixels, and a random walk along them.

    Beside the defaults, which are those of PSA with ResNet38 (4, 32 and 16, 256 steps; 61.0 on VOC's train list), the
    field uses ``alpha_low``/``alpha_high`` 4/24 (PSA's CVPR submission, SEAM), 1/24 (maps of ISL and FSL) and 1/12
    (MCTformer); ``logt`` 6 with ``walk_alpha`` 6 (SEAM) or ``walk_threshold`` 0.39 (MCTformer).

    Args:
        backbone: The network's body, all of it trained; its last three stages are read, on the grid of its stride.
        alpha_low: Exponent of the strong background, which a class must beat to be sure.
        alpha_high: Exponent of the weak background, which is sure where it wins.
        crf: Parameter set of the CRF behind both.
        scale_factor: Divides that set's widths in position; 2 for photographs at half the size it was made for.
        radius: Pairs are nearer than this, in cells of the feature map.
        group_norm: Normalise the reduced stages, as PSA does on its VGG16. That network, with fc6 and fc7, is not
            among the backbones.
        walk_alpha: Exponent of the background that takes part in the walk.
        walk_threshold: A constant background in its place.
        beta: Exponent of the affinities.
        logt: Binary logarithm of the number of steps.
        connect: ``"cropped"`` walks between the pairs of training only, as the published figures do, and leaves out
            some at the left, right and lower edge; ``"all"`` walks between all.

    Raises:
        UserError: If there is no such parameter set, ``scale_factor`` makes its kernels too narrow, or the backbone has
            fewer than three stages.
    """

    target: ClassVar[Literal["mask", "scores"]] = "scores"
    output_stride = 8
    settings: ClassVar[Mapping[str, Any]] = {
        "epochs": 8,
        "batch": 8,
        "lr": 0.01,
        "momentum": None,
        "weight_decay": 5e-4,
        "schedule": "poly",
        "power": 0.9,
        "augment": {
            "crop": 448,
            "scale": (1.0, 1.0),
            "flip": 0.5,
            "brightness": 0.3,
            "contrast": 0.3,
            "saturation": 0.3,
            "hue": 0.1,
            "padding": "black",
        },
    }
    inference_options = frozenset({"walk_alpha", "walk_threshold", "beta", "logt", "connect"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        alpha_low: Positive = 4.0,
        alpha_high: Positive = 32.0,
        crf: str = "A",
        scale_factor: Positive = 1.0,
        radius: Annotated[int, Field(ge=2)] = 5,
        group_norm: bool = False,
        walk_alpha: Positive = 16.0,
        walk_threshold: Annotated[float, Field(ge=0, le=1)] | None = None,
        beta: Positive = 8.0,
        logt: Annotated[int, Field(ge=0, le=16)] = 8,
        connect: Connection = "cropped",
    ) -> None:
        super().__init__(backbone)
        self.params = scaled_parameters(crf, scale_factor)
        self.alphas, self.radius = (alpha_low, alpha_high), radius
        self.walk_alpha, self.walk_threshold = walk_alpha, walk_threshold
        self.beta, self.steps, self.connect = beta, 2**logt, connect
        self.stages = last_stages(backbone, TAPS)
        self.head = AffinityHead(self.stages, group_norm=group_norm)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, 448, h, w) features that are alike where labels are."""
        found = zip(self.backbone.stages(images)[-TAPS:], self.stages, strict=True)
        features: Tensor = self.head([pooled(maps, stage.stride, self.backbone.stride) for maps, stage in found])
        return features

    @torch.no_grad()
    def targets(self, image: Tensor, maps: LocalizationMaps) -> Tensor:
        """Scores of background and present classes from both CRFs, (2 (P + 1), H, W); see ``confident_scores``."""
        return confident_scores(image, at_image_size(maps).scores, self.alphas, self.params)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The three terms for like and unlike pairs, weighted."""
        features = self(batch.images).float()
        height, width = features.shape[-2:]
        scores = adaptive_avg_pool2d(batch.scores, (height, width))
        labels = confident_labels(scores[:, 0::2], scores[:, 1::2])
        radius = fitting_radius(self.radius, height, width)
        found = affinity_losses(pair_affinity(features, radius), pair_labels(labels, radius, IGNORE))
        return {name: WEIGHTS[name] * value for name, value in found.items()}

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The backbone at ``lr``, the new layers ten times faster."""
        return parameter_groups(self, self.backbone, lr, weight_decay)

    @torch.no_grad()
    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """Maps and background after the walk, at image size (Sec. 3.3)."""
        height, width = maps.size
        margin = (0, -width % self.backbone.stride, 0, -height % self.backbone.stride)
        features = self(pad(normalised(image, self.backbone.mean, self.backbone.std), margin)[None])[0]
        rows, columns = features.shape[-2:]
        radius = self.radius if self.connect == "all" else fitting_radius(self.radius, rows, columns)
        links = feature_links(features, radius, self.connect)
        start = pad(self._with_background(at_image_size(maps).scores), margin)
        walked = random_walk(adaptive_avg_pool2d(start, (rows, columns)), links, beta=self.beta, steps=self.steps)
        walked = resize(walked, (start.shape[-2], start.shape[-1]))[:, :height, :width]
        return maps.with_scores(walked[1:], walked[0])

    def _with_background(self, scores: Tensor) -> Tensor:
        """(P, H, W) to (P + 1, H, W), background first."""
        if self.walk_threshold is None:
            background = power_background(scores, self.walk_alpha)
        else:
            background = constant_background(scores, self.walk_threshold)
        return torch.cat([background[None], scores])
