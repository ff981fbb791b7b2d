"""Single-stage segmentation: one network learns to classify and, from its own refined masks, to segment.

N. Araslanov, S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020.

Other methods train a classifier, make masks of its maps and train a segmenter on them. Here the classifier *is* the
segmenter: its class scores are means inside its own soft masks (nGWP), so it can only recognise what it segments, and a
penalty keeps masks from shrinking to the most telling spot. Its masks are drawn towards the image's edges (PAMR); the
pixels that are sure by then are its own segmentation targets. That learning from itself does not settle on its first
errors is the business of the stochastic gate, see ``weakseg.networks.gated``.

Hyper-parameters, with the paper's values:

- ``penalty_power`` p = 3 and ``penalty_floor`` lambda = 0.01 of the focal penalty; p = 0 penalises size alone.
- ``gate_rate``, psi = 0.3; Table 1c has 0.5, too.
- ``foreground_cut`` 0.6 and ``background_cut`` 0.7 of a mask's maximum, above which a pixel is sure.
- PAMR: 10 iterations, dilations 1, 2, 4, 8, 12 and 24.
- ``pretrain_epochs``: classification alone for 5 epochs, then 15 with both losses.

The published code made the published figures and differs from the paper; where it does, options have values for both.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Annotated, Any, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss, pad

from weakseg.data.maps import LocalizationMaps
from weakseg.data.sample import IGNORE, Batch
from weakseg.methods.method import Activation, Method, Views, rescale
from weakseg.networks.backbone import Backbone
from weakseg.networks.gated import GATE_RATE, RATES, WIDTH, Cues, Gate, GatedDecoder, fine_level, two_levels
from weakseg.ops.maps import resize, resize_like, strided_size, unflip
from weakseg.ops.pamr import DILATIONS, Normalization, pamr
from weakseg.ops.pooling import gap, ngwp
from weakseg.ops.self_labels import (
    BACKGROUND_CUT,
    FOREGROUND_CUT,
    LEAST_SCORE,
    Balance,
    balanced_mask_loss,
    label_map,
    of_present_classes,
    pseudo_ground_truth,
    sure_scores,
)
from weakseg.registry import check_variant

BACKGROUND_SCORE = 1.0
POOLING_EPS = 1.0
PENALTY_POWER, PENALTY_FLOOR = 3.0, 0.01
LEAST_MISSING = 1e-7  # of a mask: at 0 the slope of a power below 1 is infinite, and rounding can go below 0
BACKGROUND_POWER, KEEP_THRESHOLD = 3.0, 0.1

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


def with_background(scores: Tensor) -> Tensor:
    """y: scores (B, C, h, w) with the background's before them, which is 1 everywhere; (B, C + 1, h, w)."""
    return pad(scores, (0, 0, 0, 0, 1, 0), value=BACKGROUND_SCORE)


def soft_masks(scores: Tensor) -> Tensor:
    """m: softmax over background and classes; (B, C, h, w) of any sign to (B, C + 1, h, w), background first."""
    return with_background(scores).softmax(1)


def focal_mask_penalty(size: Tensor, power: float = PENALTY_POWER, floor: float = PENALTY_FLOOR) -> Tensor:
    """y^size-focal = (1 - m)^p log(lambda + m): large for small masks, and next to nothing for large ones.

    Args:
        size: (...) in [0, 1], the mean of a mask over its positions.
        power: p; 0 is the plain penalty of size.
        floor: lambda, positive; it bounds the penalty.

    Returns:
        (...), from log(lambda) for an empty mask to 0 for a full one (log(1 + lambda) if ``power`` is 0).
    """
    missing = (1 - size).clamp(min=LEAST_MISSING)
    return missing**power * (floor + size).log()


def class_scores(
    scores: Tensor,
    *,
    eps: float = POOLING_EPS,
    power: float | None = PENALTY_POWER,
    floor: float = PENALTY_FLOOR,
) -> Tensor:
    """Image-level scores: nGWP of each class in its own mask, and the penalty of that mask's size.

    Args:
        scores: (B, C, h, w), any sign.
        eps: See ``ngwp``.
        power: See ``focal_mask_penalty``; ``None`` for no penalty.
        floor: See ``focal_mask_penalty``.

    Returns:
        (B, C).
    """
    masks = soft_masks(scores)[:, 1:]
    pooled = ngwp(scores, masks, eps)
    return pooled if power is None else pooled + focal_mask_penalty(gap(masks), power, floor)


def class_loss(scores: Tensor, tags: Tensor) -> Tensor:
    """L_cls: multi-label soft margin, the mean over (B, C) classes and images; 0 without images."""
    return multilabel_soft_margin_loss(scores, tags.to(scores.dtype), reduction="sum") / max(len(scores), 1)


def keep_classes_from_scores(scores: Tensor, threshold: float = KEEP_THRESHOLD) -> Tensor:
    """Which classes an image shows: those that one of its views is surer of than ``threshold``.

    Args:
        scores: (V, ..., C) class scores of V views.
        threshold: In [0, 1].

    Returns:
        (..., C) bool.
    """
    return scores.sigmoid().amax(0) > threshold


def merge_masks(masks: Tensor, keep: Tensor, background_power: float = BACKGROUND_POWER) -> Tensor:
    """What the views together say: masks of rejected classes left out, and a weaker background.

    Args:
        masks: (..., C + 1, H, W) in [0, 1], the mean over views, background first.
        keep: (..., C) bool.
        background_power: Exponent of the background.

    Returns:
        (..., C + 1, H, W) in [0, 1]; the sum over channels need not be 1.
    """
    kept = of_present_classes(masks, keep)
    return torch.cat([kept[..., :1, :, :] ** background_power, kept[..., 1:, :, :]], -3)


@contextmanager
def _inference(network: nn.Module) -> Iterator[None]:
    """Every layer as in inference, and afterwards as it was before."""
    modes = {layer: layer.training for layer in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


class SingleStage(Method):
    """Class scores from soft masks, and the masks' own refinement as their target: L_cls + L_mask.

    Args:
        backbone: The network's body; needs features at stride 4.
        num_classes: C, number of object classes.
        pretrain_epochs: Epochs of classification alone.
        penalty_power: p of the size penalty; 0 for the plain one, ``None`` for none.
        penalty_floor: lambda of the size penalty.
        pooling_eps: Of nGWP, in positions of the masks (code 1; the paper's is "small").
        gate: ``"code"`` and ``"paper"`` draw in different ways, ``"deterministic"`` mixes in training, too, ``"none"``
            leaves shallow features to the skip connection; see ``networks.gated``.
        gate_rate: psi, share of the shallow features.
        cues: Global cue injection: ``"code"`` with batch normalisation, ``"paper"`` per image, or ``"none"``.
        foreground_cut: Share of a class's maximum above which a pixel is sure.
        background_cut: The same for background.
        least_score: No pixel is sure of less (code 0.2, the paper has ``None``).
        balance: Of the classes in L_mask: ``"code"``, a class's weight in its image is the share of the others;
            ``"paper"``, each counts by the mean over its own pixels.
        dilations: Of PAMR, in positions of the masks.
        iterations: Of PAMR; 0 leaves it out, and masks are labelled as they are.
        normalization: Of PAMR's colour differences, ``"code"`` or ``"paper"``.
        background_power: Exponent of the background in inference (code 3; the paper has 1).
        keep_threshold: What a class's probability has to exceed to be seen in an image without tags.
        canvas: In inference, images are centred on a square of zeros with this side, which has its part in global
            pooling (published: 1024 for ResNet38, 768 otherwise); ``None`` for no margin.
        width: Of the new layers.
        rates: Of the ASPP, in cells of the last features.
        bias_factor: How much faster biases learn (the code's ResNet50 and ResNet101: 1).

    Raises:
        UserError: If a variant is unknown, or the backbone has no features at stride 4.
    """

    segments = gives_background = True
    prediction_options = frozenset({"keep_threshold"})
    inference_options = frozenset({"background_power", "canvas"}) | prediction_options

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pretrain_epochs: Annotated[int, Field(ge=0)] = 5,
        penalty_power: NotNegative | None = PENALTY_POWER,
        penalty_floor: Annotated[float, Field(gt=0)] = PENALTY_FLOOR,
        pooling_eps: NotNegative = POOLING_EPS,
        gate: Gate = "code",
        gate_rate: Share = GATE_RATE,
        cues: Cues = "code",
        foreground_cut: Share = FOREGROUND_CUT,
        background_cut: Share = BACKGROUND_CUT,
        least_score: Share | None = LEAST_SCORE,
        balance: Balance = "code",
        dilations: Annotated[Sequence[Positive], Field(min_length=1)] = DILATIONS,
        iterations: Annotated[int, Field(ge=0)] = 10,
        normalization: Normalization = "code",
        background_power: NotNegative = BACKGROUND_POWER,
        keep_threshold: Share = KEEP_THRESHOLD,
        canvas: Positive | None = None,
        width: Positive = WIDTH,
        rates: Annotated[Sequence[Positive], Field(min_length=1)] = RATES,
        bias_factor: Annotated[float, Field(gt=0)] = 2.0,
    ) -> None:
        super().__init__(backbone, num_classes)
        check_variant(balance, get_args(Balance))
        check_variant(normalization, get_args(Normalization))
        self.level, shallow = fine_level(backbone)
        self.head = GatedDecoder(
            shallow, backbone.channels, num_classes, width=width, rates=rates, gate=gate, gate_rate=gate_rate, cues=cues
        )
        self.pretrain_epochs, self.learns_masks = pretrain_epochs, pretrain_epochs == 0
        self.pool = partial(class_scores, eps=pooling_eps, power=penalty_power, floor=penalty_floor)
        self.cuts, self.balance = (foreground_cut, background_cut, least_score), balance
        self.dilations, self.iterations, self.normalization = tuple(dilations), iterations, normalization
        self.background_power, self.keep_threshold, self.canvas = background_power, keep_threshold, canvas
        self.bias_factor = bias_factor

    def forward(self, images: Tensor) -> Activation:
        """Logits of the classes at stride 4 without the background's, which is constant, and class scores."""
        scores, features = self.head(*two_levels(self.backbone, images, self.level))
        return Activation(scores, self.pool(scores.float()), features)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """After the epochs of classification, masks are learnt, too."""
        self.learns_masks = epoch >= self.pretrain_epochs

    def advice(self, epochs: int) -> list[str]:
        """Whether masks are learnt at all."""
        if epochs > self.pretrain_epochs:
            return []
        what = f"all {epochs} epochs classify alone (pretrain_epochs is {self.pretrain_epochs})"
        return [
            f"{what}: masks are never learnt. Raise localize.train.epochs, or lower localize.method.pretrain_epochs."
        ]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_cls, and L_mask, which is 0 as long as only classification is learnt."""
        seen: Activation = self(batch.images)
        scores = seen.scores.float()
        losses = {"classification": class_loss(seen.logits, batch.tags), "mask": scores.new_zeros(())}
        if self.learns_masks:
            pseudo = self._pseudo_labels(self._refined(batch, scores))
            logits = resize_like(with_background(scores), pseudo, align_corners=True)
            losses["mask"] = balanced_mask_loss(logits, pseudo, batch.tags, self.balance).mean()
        return losses

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Old and new parameters; biases, also those of normalisation, learn faster and have no weight decay."""
        old = {id(parameter) for parameter in self.backbone.parameters()}
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((id(parameter) in old, name.endswith("bias")), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": lr * (1.0 if is_old else self.head_factor) * (self.bias_factor if is_bias else 1.0),
                "weight_decay": 0.0 if is_bias else weight_decay,
            }
            for (is_old, is_bias), parameters in groups.items()
        ]

    @torch.no_grad()
    def localize(self, batch: Batch, views: Views) -> list[LocalizationMaps]:
        """Masks of the classes that each image is tagged with and of background, merged over scales and flips.

        The masks of all views are brought to one grid, unflipped and averaged; the background is raised to its power.
        Nothing is normalised: with their background, these maps make the method's own segmentation.

        Args:
            batch: Images of one size, normalised, with their tags.
            views: Which versions of the image to look at.

        Returns:
            For each image the maps of its present classes and of background, in [0, 1].
        """
        height, width = batch.images.shape[-2:]
        grid = strided_size(height, views.stride), strided_size(width, views.stride)
        _, masks = self._look(batch.images, views.scales, views.flip, grid)
        merged = merge_masks(masks, batch.tags, self.background_power).cpu()
        present = [tags.nonzero().flatten().cpu() for tags in batch.tags]
        return [
            LocalizationMaps(classes, masks[classes + 1], (height, width), masks[0])
            for masks, classes in zip(merged, present, strict=True)
        ]

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tags: Tensor | None = None,
    ) -> Tensor:
        """The method as a segmenter: scores of background and classes at image size.

        Args:
            images: (B, 3, H, W) normalised.
            scales: Factors by which the images are resized.
            flip: Also look at the mirror images.
            tags: (B, C) bool, the classes that may be seen; ``None`` for those that the image is classified as.

        Returns:
            (B, C + 1, H, W) in [0, 1], background first; not normalised.
        """
        scores, masks = self._look(images, scales, flip, (images.shape[-2], images.shape[-1]))
        keep = keep_classes_from_scores(scores, self.keep_threshold) if tags is None else tags
        return merge_masks(masks, keep, self.background_power)

    @torch.no_grad()
    def intermediate(self, batch: Batch) -> dict[str, Tensor]:
        """What the network teaches itself, for pictures; nothing changes, and nothing is drawn by chance.

        Returns:
            "mask" (B, C + 1, h, w) and "refined" (B, C + 1, H, W), both in [0, 1] with background first and absent
            classes 0, and "labels" (B, H, W) uint8: 0 background, class + 1, 255 ignore.
        """
        with _inference(self):
            scores = self(batch.images).scores.float()
        refined = self._refined(batch, scores)
        labels = label_map(self._pseudo_labels(refined), IGNORE).to(torch.uint8)
        return {"mask": of_present_classes(soft_masks(scores), batch.tags), "refined": refined, "labels": labels}

    @torch.no_grad()
    def _refined(self, batch: Batch, scores: Tensor) -> Tensor:
        """(B, C + 1, H, W) masks after PAMR, which works on their grid; absent classes and margins are 0."""
        shown = pad(batch.tags.any(0), (1, 0), value=True)  # no class depends on another in PAMR
        masks = of_present_classes(soft_masks(scores), batch.tags)[:, shown]
        refined = self._pamr(batch.images, masks) if self.iterations else masks
        whole = refined.new_zeros(len(scores), len(shown), *batch.images.shape[-2:])
        whole[:, shown] = resize_like(refined, batch.images, align_corners=True) * batch.valid
        return whole

    def _pamr(self, images: Tensor, masks: Tensor) -> Tensor:
        """Masks (B, P, h, w) refined by images (B, 3, H, W), which are normalised."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.backbone.mean, self.backbone.std))
        return pamr(
            (images * std + mean).clamp(0, 1),
            masks,
            dilations=self.dilations,
            iterations=self.iterations,
            normalization=self.normalization,
        )

    def _pseudo_labels(self, refined: Tensor) -> Tensor:
        """(B, C + 1, H, W) bool; margins, where all masks are 0, have no labels and no say in what is sure."""
        return pseudo_ground_truth(refined, sure_scores(refined, *self.cuts))

    def _look(
        self, images: Tensor, scales: Sequence[float], flip: bool, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Class scores (V, B, C) of all V views, and the mean of their masks, (B, C + 1, *size)."""
        scores, total = [], images.new_zeros(len(images), self.num_classes + 1, *size, dtype=torch.float32)
        for scale, mirrored in product(scales, (False, True)[: 1 + flip]):
            scaled = rescale(images, scale)
            seen, masks = self._on_canvas(scaled.flip(-1) if mirrored else scaled)
            masks = resize(masks, size)
            scores.append(seen)
            total += unflip(masks) if mirrored else masks
        return torch.stack(scores), total / len(scores)

    def _on_canvas(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores (B, C) and masks (B, C + 1, H, W) of images as they are, looked at on the canvas."""
        height, width = images.shape[-2:]
        below, right = (max(0, (self.canvas or 0) - side) for side in (height, width))
        top, left = below // 2, right // 2
        framed = pad(images, (left, right - left, top, below - top))
        seen: Activation = self(framed)
        masks = resize_like(soft_masks(seen.scores.float()), framed, align_corners=True)
        return seen.logits, masks[..., top : top + height, left : left + width]
