"""IRN: a network that learns where classes end, and where from each pixel the middle of its object lies.

J. Ahn, S. Cho, S. Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019.

As in AffinityNet, places where localisation maps are sure say of pairs of nearby pixels whether both show the same
class. Two things are learnt from them. A boundary map, without ever seeing a boundary: two pixels are alike if no
boundary crosses the line between them, so there must be one between unlike pixels and none between like ones. A
displacement field: the displacements of two pixels of one object differ by the way from one to the other if both point
at the same spot. The boundary keeps a random walk of the maps within the objects; the field tells objects of a class
apart.

Hyper-parameters: thresholds 0.30 for sure objects and 0.05 for sure background; pairs nearer than 10 cells of 4 pixels,
in the walk 5; beta 10; 256 steps; background 0.25 after the walk; 300 steps along the field, short below 2.5 cells.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from weakseg.data.colour import normalised
from weakseg.data.instances import Instances
from weakseg.data.maps import LocalizationMaps
from weakseg.data.sample import IGNORE, Batch
from weakseg.errors import UserError
from weakseg.networks.backbone import Backbone
from weakseg.networks.interpixel import STRIDE, TAPS, BoundaryBranch, DisplacementBranch
from weakseg.networks.stages import Stage, last_stages, pooled
from weakseg.ops.crf import CRFParameters, dense_crf_labels
from weakseg.ops.displacement import cluster_centroids, connected_parts, refine_centroids, split_by_cluster
from weakseg.ops.maps import constant_background, padded_size, resize, strided_size, unflip
from weakseg.ops.pairs import PairLabels, pair_ends, pair_labels, path_maximum, path_offsets
from weakseg.ops.random_walk import boundary_links, random_walk
from weakseg.refine.affinitynet import EPS, WEIGHTS, Positive, affinity_losses, fitting_radius
from weakseg.refine.crf import scaled_parameters
from weakseg.refine.masks import at_image_size
from weakseg.refine.refiner import TrainedRefiner

DISPLACEMENT_FACTOR = 10.0  # how much faster the displacement branch learns than the boundary branch
SMALLEST_PART = 0.01  # share of the image below which an instance is a fragment
CHUNK = 64  # instances enlarged at a time

Share = Annotated[float, Field(ge=0, le=1)]


def crf_labels(image: Tensor, scores: Tensor, background: Tensor, params: CRFParameters, gt_prob: float) -> Tensor:
    """The strongest of background and classes, refined by a CRF that believes it with probability ``gt_prob``.

    Args:
        image: (3, H, W) uint8 RGB.
        scores: (P, H, W), P may be 0.
        background: (H, W).
        params: Of the CRF.
        gt_prob: In (0, 1).

    Returns:
        (H, W) int64 in [0, P], 0 background.
    """
    if not len(scores):
        return torch.zeros_like(background, dtype=torch.int64)
    labels = torch.cat([background[None], scores]).argmax(0)
    return dense_crf_labels(image.permute(1, 2, 0).contiguous(), labels, len(scores) + 1, params, gt_prob).argmax(0)


def merge_confident(foreground: Tensor, background: Tensor) -> Tensor:
    """Sure labels (Sec. 4.2): what is an object even for a high threshold, and background even for a low one.

    Args:
        foreground: (..., H, W) labels, 0 background, with the high threshold.
        background: (..., H, W) labels with the low threshold.

    Returns:
        (..., H, W) labels; 255 where the two do not agree that it is background and none is sure of an object.
    """
    labels = foreground.masked_fill(foreground == 0, IGNORE)
    return labels.masked_fill((foreground == 0) & (background == 0), 0)


def shrink_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """The label at the middle of each cell: of the pixels 4 i to 4 i + 3 that of 4 i + 2 (PIL's "nearest").

    Args:
        labels: (..., H, W).
        size: h, w.

    Returns:
        (..., h, w).
    """
    rows, columns = (
        (2 * torch.arange(cells, device=labels.device) + 1) * pixels // (2 * cells)
        for pixels, cells in zip(labels.shape[-2:], size, strict=True)
    )
    return labels[..., rows[:, None], columns]


def displacement_losses(displacement: Tensor, labels: PairLabels, radius: int, eps: float = EPS) -> dict[str, Tensor]:
    """Mean distance of the pairs' differences D(i) - D(j) from what they should be (Sec. 4.3).

    It is the way from i to j for two pixels of one class, which so point at the same spot, and 0 for two of background.

    Args:
        displacement: (B, 2, h, w) dy, dx in cells.
        labels: (B, O, S) each, in the order of ``path_offsets``.
        radius: Of the pairs.
        eps: Keeps means of nothing finite.

    Returns:
        Scalars "foreground" and "background".
    """
    offsets = path_offsets(radius)
    here, there = pair_ends(displacement, radius, offsets=offsets)
    way = offsets.T.to(displacement)[:, :, None]

    def mean(distance: Tensor, chosen: Tensor) -> Tensor:
        return (distance.sum(1) * chosen).sum() / (2 * chosen.sum() + eps)

    difference = here - there
    return {
        "foreground": mean((difference - way).abs(), labels.foreground),
        "background": mean(difference.abs(), labels.background),
    }


class IRN(TrainedRefiner):
    """Boundaries and displacements learnt from sure pixels; a random walk that boundaries stop.

    SIPE uses it with ``label_background=True, walk_background=True, power=1.5`` on maps that have a background,
    Spatial-BCE with ``fg_threshold=0.6, bg_threshold=0.25, crf="B'"``.

    Args:
        backbone: The network's body, which is not trained; its last five stages are read, or all if there are fewer.
        fg_threshold: A class that beats this everywhere else is sure.
        bg_threshold: What no class beats is surely background.
        label_background: Take the maps' own background for the first threshold and half of it for the second.
        crf: Parameter set of the CRF behind both label maps.
        scale_factor: Divides that set's widths in position; 2 for photographs at half the size it was made for.
        gt_prob: What this CRF believes the labels with, in (0, 1).
        radius: Pairs of training are nearer than this, in cells of 4 pixels.
        calibration: Side of the image corners over which the mean displacement is taken after training; with images
            much smaller than that, their padding would decide it.
        pad_to: Images are padded to at least this many pixels, 0 for no more than whole cells of the backbone.
        power: Exponent of the maps before the walk.
        walk_background: Let the maps' own background walk like a class, in place of a threshold after the walk.
        walk_radius: Links of the walk are shorter than this, in cells.
        beta: Exponent of the affinities.
        logt: Binary logarithm of the number of steps.
        background: Threshold after the walk, when the largest score of an image is 1.
        instances: Tell the objects of a class apart, too.

    Raises:
        UserError: If there is no such parameter set, ``scale_factor`` makes its kernels too narrow, or the backbone has
            fewer than three stages.
    """

    target: ClassVar[Literal["mask", "scores"]] = "mask"
    output_stride = 16
    settings: ClassVar[Mapping[str, Any]] = {
        "epochs": 3,
        "batch": 32,
        "lr": 0.1,
        "momentum": None,
        "weight_decay": 1e-4,
        "schedule": "poly",
        "power": 0.9,
        "augment": {"crop": 512, "scale": (0.5, 1.5), "flip": 0.5, "padding": "mean"},
    }
    inference_options = frozenset(
        {"pad_to", "power", "walk_background", "walk_radius", "beta", "logt", "background", "instances"}
    )

    def __init__(
        self,
        backbone: Backbone,
        *,
        fg_threshold: Share = 0.30,
        bg_threshold: Share = 0.05,
        label_background: bool = False,
        crf: str = "B",
        scale_factor: Positive = 1.0,
        gt_prob: Annotated[float, Field(gt=0, lt=1)] = 0.7,
        radius: Annotated[int, Field(ge=2)] = 10,
        calibration: Annotated[int, Field(ge=1)] = 512,
        pad_to: Annotated[int, Field(ge=0)] = 512,
        power: Positive = 1.0,
        walk_background: bool = False,
        walk_radius: Annotated[int, Field(ge=2)] = 5,
        beta: Positive = 10.0,
        logt: Annotated[int, Field(ge=0, le=16)] = 8,
        background: Share = 0.25,
        instances: bool = False,
    ) -> None:
        super().__init__(backbone.requires_grad_(False).eval())
        self.thresholds, self.label_background = (fg_threshold, bg_threshold), label_background
        self.params, self.gt_prob = scaled_parameters(crf, scale_factor), gt_prob
        self.radius, self.calibration, self.pad_to = radius, calibration, pad_to
        self.power, self.walk_background, self.background = power, walk_background, background
        self.walk_radius, self.beta, self.steps = walk_radius, beta, 2**logt
        self.tells_objects_apart = instances
        self.stages = last_stages(backbone, TAPS)
        self.cell = self.stages[-1].stride
        taps = [Stage(channels, max(stride, STRIDE)) for channels, stride in self.stages]
        self.boundary, self.displacement = BoundaryBranch(taps), DisplacementBranch(taps)

    def train(self, mode: bool = True) -> "IRN":
        """As usual, except that the backbone stays as it is."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised images to (B, h, w) boundary logits and (B, 2, h, w) displacements at stride 4."""
        height, width = images.shape[-2:]
        with torch.no_grad():
            stages = self.backbone.stages(pad(images, (0, -width % self.cell, 0, -height % self.cell)))[-TAPS:]
            taps = [pooled(maps, stage.stride, STRIDE) for maps, stage in zip(stages, self.stages, strict=True)]
        rows, columns = strided_size(height, STRIDE), strided_size(width, STRIDE)
        return self.boundary(taps)[:, 0, :rows, :columns], self.displacement(taps)[..., :rows, :columns]

    @torch.no_grad()
    def targets(self, image: Tensor, maps: LocalizationMaps) -> Tensor:
        """Sure labels after a CRF with each threshold (Sec. 4.2), (H, W) uint8, class + 1."""
        full = at_image_size(maps)
        if self.label_background:
            own = _own_background(full)
            backgrounds = [own, own / 2]
        else:
            backgrounds = [constant_background(full.scores, threshold) for threshold in self.thresholds]
        foreground, background = (crf_labels(image, full.scores, b, self.params, self.gt_prob) for b in backgrounds)
        values = torch.full((IGNORE + 1,), IGNORE, dtype=torch.uint8, device=foreground.device)
        values[0], values[1 : len(full.classes) + 1] = 0, full.classes + 1
        return values[merge_confident(foreground, background)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of the boundaries (Sec. 4.4) and of the displacements (Sec. 4.3), weighted."""
        logits, displacement = (answer.float() for answer in self(batch.images))
        height, width = logits.shape[-2:]
        radius = fitting_radius(self.radius, height, width)
        labels = shrink_labels(batch.masks, (height, width))
        pairs = pair_labels(labels, radius, IGNORE, offsets=path_offsets(radius))
        boundary = affinity_losses(1 - path_maximum(logits.sigmoid(), radius), pairs)
        field = displacement_losses(displacement, pairs, radius)
        return {
            **{f"boundary_{name}": WEIGHTS[name] * value for name, value in boundary.items()},
            **{f"displacement_{name}": value / 2 for name, value in field.items()},
        }

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The boundary branch at ``lr``, the displacement branch ten times faster; the backbone is not trained."""
        branches = ((self.boundary, 1.0), (self.displacement, DISPLACEMENT_FACTOR))
        return [
            {"params": list(branch.parameters()), "lr": lr * factor, "weight_decay": weight_decay}
            for branch, factor in branches
        ]

    def calibration_crop(self) -> int:
        """Side of the crops that ``calibrate`` wants to see."""
        return self.calibration

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Subtract the mean displacement from now on: that of each batch, padding included, averaged over batches."""
        self.displacement.mean.zero_()
        means = [self.eval()(images)[1].float().mean((0, 2, 3)) for images in batches]
        if means:
            self.displacement.mean.copy_(torch.stack(means).mean(0))

    @torch.no_grad()
    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """Maps after the walk and their background, at image size; the largest score is 1 (Sec. 5.2)."""
        boundary, _ = self._look(image)
        start = resize(maps.scores, _size(boundary))
        if self.walk_background:
            start = torch.cat([resize(_own_background(maps)[None], _size(boundary)), start])
        walked = _enlarged(self._walk(start, boundary), maps.size)
        walked = walked / _highest(walked)
        if self.walk_background:
            return maps.with_scores(walked[1:], walked[0])
        return maps.with_scores(walked, constant_background(walked, self.background))

    @torch.no_grad()
    def instances(self, image: Tensor, maps: LocalizationMaps) -> Instances | None:
        """Objects (Secs. 5.1 and 5.2): each class walks anew from each centroid's pixels, and the strongest wins.

        The score is the highest that the walk leaves in an object; fragments below 1 % of the image have 0.
        """
        if not self.tells_objects_apart:
            return None
        boundary, field = self._look(image)
        clusters = cluster_centroids(field, refine_centroids(field))
        seeds, classes = split_by_cluster(resize(maps.scores, _size(boundary)), clusters)
        best, owner = strongest(self._walk(seeds, boundary), maps.size)
        best = best / _highest(best)
        parts, owners = connected_parts(owner.masked_fill(best <= self.background, 0))
        masks = parts == torch.arange(1, len(owners) + 1, device=parts.device)[:, None, None]
        least = SMALLEST_PART * best.numel()
        scores = best.new_tensor([float(best[mask].max()) if mask.sum() >= least else 0.0 for mask in masks])
        return Instances(maps.classes[classes[owners - 1]], scores, masks)

    def _look(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(h, w) boundary in [0, 1], from image and mirror image, and (2, h, w) displacement, from the image alone."""
        height, width = image.shape[-2:]
        straight = normalised(image, self.backbone.mean, self.backbone.std)
        both = torch.stack([straight, straight.flip(-1)])
        below, beside = (max(self.pad_to, padded_size(side, self.cell)) - side for side in (height, width))
        logits, field = (answer.float() for answer in self(pad(both, (0, beside, 0, below))))
        rows, columns = strided_size(height, STRIDE), strided_size(width, STRIDE)
        logits = logits[:, :rows, :columns]
        return ((logits[0] + unflip(logits[1])) / 2).sigmoid(), field[0, :, :rows, :columns]

    def _walk(self, maps: Tensor, boundary: Tensor) -> Tensor:
        """(N, h, w) maps, weak on boundaries, after the walk."""
        links = boundary_links(boundary, self.walk_radius)
        return random_walk(maps**self.power * (1 - boundary), links, beta=self.beta, steps=self.steps)


def strongest(maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The strongest of many maps at image size, enlarged a few at a time.

    Args:
        maps: (N, h, w) at stride 4, N may be 0.
        size: H, W.

    Returns:
        (H, W) its value, and (H, W) int64 its number from 1, 0 where none is positive.
    """
    best, owner = maps.new_zeros(size), torch.zeros(size, dtype=torch.int64, device=maps.device)
    for first in range(0, len(maps), CHUNK):
        value, index = _enlarged(maps[first : first + CHUNK], size).max(0)
        owner = torch.where(value > best, index + first + 1, owner)
        best = torch.maximum(value, best)
    return best, owner


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) maps four times as large (bilinear), cut to the image."""
    height, width = _size(maps)
    return resize(maps, (STRIDE * height, STRIDE * width))[:, : size[0], : size[1]]


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _highest(maps: Tensor) -> Tensor:
    """The largest value of all, or 1 where nothing is positive."""
    highest = maps.max() if maps.numel() else maps.new_ones(())
    return torch.where(highest > 0, highest, torch.ones_like(highest))


def _own_background(maps: LocalizationMaps) -> Tensor:
    if maps.background is None:
        raise UserError(
            "the maps have no background of their own", where="refine", remedy="Put 'power' or 'threshold' before 'irn'"
        )
    return maps.background
