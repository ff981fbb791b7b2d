"""BANA: background-aware pooling of what is in a box.

Y. Oh, B. Kim, B. Ham, "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation",
CVPR 2021. Here is its classification network with the maps that are read from it; the labels made of them, and the loss
that knows noise, are refiners and a loss.

What lies outside all boxes is background for certain, and the background inside a box often looks like that outside.
So features are averaged over the outside, cell by cell of a coarse grid (queries), and every point of a box is compared
with them: the less it resembles any, the more it counts when the box's features are averaged for classification.
Plain averages reward a classifier for knowing that boats come with water; these do not. Once trained, the resemblance
says where background is, and the classifier's weights say where the classes are.

Hyper-parameters, with the values that gave the published figures; [DIFF] where the published code departs from the
paper:

- ``grid``, N = 4 in training; ``localize_grid``, N = 1 in generation (Table 1 of the supplement compares 1 to 5).
- ``bins``, 2 [DIFF]: the code divides every box into 2 x 2 and classifies all four; the paper has one vector, 1.
- ``roi`` [DIFF]: the paper extracts regions by RoIAlign ("align"), the code reads points from edge to edge of the box
  ("edges"). The latter's positions are meant for ``align_corners`` (our default); the code leaves it to PyTorch, which
  does without from 1.3 on.
- ``min_background``, 0.125 [DIFF]: the code averages plainly where certain background covers no more of the crop.
- ``background_threshold``, 0.99; with ``relative_threshold`` [DIFF] of the image's maximum, in the paper of 1.
- ``normalize``, "box" [DIFF]: the code divides a class's map by its maximum in each box, the paper by the image's.
- Learning rate [DIFF]: 1e-4 in the paper, ten times that in the code, and ten times more for the classifier in both. 15
  epochs, a tenth after 10, in the paper; in the code 8000 steps of 20 images, a tenth after 5000; in the recipe.

Chosen here: where no background is certain (a box covers the image), nothing inside resembles it, and what follows has
to decide; a crop without boxes only adds its queries; several views of an image are averaged before any threshold; a
box in which nothing speaks for its class is filled with what does not resemble background (``fill_mute``).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.nn.functional import normalize as unit

from weakseg.data.maps import LocalizationMaps
from weakseg.data.sample import Batch, WeakLabel
from weakseg.errors import UserError
from weakseg.methods.method import Activation, Method, Views, rescale
from weakseg.networks.backbone import Backbone
from weakseg.ops.box_masks import Box, fill_regions, inside_boxes, pixel_regions, region_maximum
from weakseg.ops.cells import grid_cells
from weakseg.ops.enlarged import masked_means
from weakseg.ops.maps import class_activation, resize, resize_like, strided_size, unflip
from weakseg.ops.pooling import gap
from weakseg.ops.rois import Reading, Rois, box_rois, pool_rois, sample_rois, sample_squares, whole_rois

Pooling = Literal["bap", "gap"]
Normalization = Literal["box", "class"]
BackgroundSource = Literal["attention", "cam"]
Size = tuple[int, int]
EPS = 1e-12


def definite_background(batch: Batch) -> Tensor:
    """M: pixels outside all boxes and crowds; padding is none, nor is an image whose boxes are unknown.

    Args:
        batch: Images (B, 3, H, W) with their boxes.

    Returns:
        (B, 1, H, W) bool.
    """
    size = (batch.images.shape[-2], batch.images.shape[-1])
    unsure = batch.unsure or tuple(boxes[:0] for boxes in batch.boxes)
    taken = (torch.cat(both) for both in zip(batch.boxes, unsure, strict=True))
    outside = torch.stack([~inside_boxes(boxes, size) for boxes in taken])
    known = batch.known[WeakLabel.BOXES].to(outside.device)
    return batch.valid & outside[:, None] & known[:, None, None, None]


def background_queries(features: Tensor, definite: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """q_j: mean feature of the certain background in each cell of a grid (Eq. 1).

    Args:
        features: (B, D, h, w), f.
        definite: (B, 1, h, w) in {0, 1}, M, of the features' type.
        grid: N; the map, padded with zeros, is divided into N x N cells.

    Returns:
        Queries (B, N * N, D), row by row, and (B, N * N) bool, whether the cell has certain background; the query of
        one that has none is 0.
    """
    rows, columns = (grid_cells(length, grid, features) for length in features.shape[-2:])
    weights = torch.einsum("ih,jw,bhw->bijhw", rows, columns, definite[:, 0]).flatten(1, 2).flatten(2)
    counts = weights.sum(-1)
    return weights @ features.flatten(2).mT / (counts[..., None] + EPS), counts > 0


def enlarged_queries(features: Tensor, definite: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """``background_queries`` of features enlarged to the image (bilinear, align_corners=True), for maps (Section 3.2).

    Args:
        features: (1, D, h, w), f.
        definite: (1, 1, H, W) bool, M at image size.
        grid: N.

    Returns:
        As ``background_queries``.
    """
    rows, columns = (grid_cells(length, grid, features).bool() for length in definite.shape[-2:])
    masks = (rows[:, None, :, None] & columns[None, :, None, :] & definite[0]).flatten(0, 1)
    return masked_means(features[0], masks)[None], masks.flatten(1).any(1)[None]


def background_attention(features: Tensor, queries: Tensor, valid: Tensor, rois: Rois) -> Tensor:
    """A: how much a point resembles certain background (Eqs. 2 and 3), the mean over queries of ReLU(cos(f, q_j)).

    Args:
        features: (B, D, h, w).
        queries: (B, J, D).
        valid: (B, J) bool, which of them count.
        rois: Where the features are read, n grids of P times Q points.

    Returns:
        (n, P, Q) in [0, 1]; 0 in an image without a valid query.
    """
    products = sample_rois(torch.einsum("bjd,bdhw->bjhw", unit(queries, dim=-1, eps=EPS), features), rois)
    lengths = sample_squares(features, rois).clamp(min=EPS**2).sqrt()
    counting = valid[rois.image].to(features.dtype)[..., None, None]
    cosines = (products / lengths[:, None]).relu().clamp(max=1)
    return (cosines * counting).sum(1) / counting.sum(1).clamp(min=1)


def background_unary(attention: Tensor, outside: Tensor, threshold: float = 0.99, *, relative: bool = True) -> Tensor:
    """u_0: attention above a threshold; 1 outside all boxes (Section 3.2).

    Args:
        attention: (H, W) in [0, 1], of boxes and background alike.
        outside: (H, W) bool, certain background.
        threshold: What the attention has to reach.
        relative: Reach as a share of its maximum in the image [DIFF].

    Returns:
        (H, W) in [0, 1].
    """
    least = threshold * attention.max() if relative else threshold
    return torch.where(outside, 1.0, torch.where(attention < least, 0.0, attention))


def foreground_unary(maps: Tensor, boxes: Sequence[Box], normalization: Normalization = "box") -> Tensor:
    """u_c: class maps, normalised, within the boxes of their class (Eq. 5).

    Args:
        maps: (P, H, W), not negative.
        boxes: Regions, and in [0, P) the map of each box's class; of overlapping boxes of one class the last counts.
        normalization: Divide by the maximum in the box ("box" [DIFF]), or in the whole map ("class").

    Returns:
        (P, H, W) in [0, 1], 0 outside the class's boxes.
    """
    unaries = torch.zeros_like(maps)
    for region, channel in boxes:
        seen = maps[channel]
        highest = region_maximum(seen, region) if normalization == "box" else seen.max()
        unaries[channel][region] = seen[region] / (highest + EPS)
    return unaries


class BANA(Method):
    """Classification of boxes and of background, and the unaries of pseudo-labels read from it.

    Attributes:
        learnt: (C,) bool, which classes are.

    Args:
        backbone: The network's body.
        num_classes: C, number of object classes; the classifier has background before them.
        pooling: ``"bap"``, weights 1 - A (Eq. 4); ``"gap"``, plain averages, A = 0.
        grid: N, cells along each side for the queries in training.
        bins: Every box is pooled in ``bins`` x ``bins`` parts, which overlap if need be (code 2, paper 1).
        roi: Where features are read in boxes: ``"edges"``, from edge to edge (code), or ``"align"``, as RoIAlign does
            (paper); as many points as cells that the box touches.
        align_corners: For ``roi: edges``: read where the positions are meant to be; otherwise half a cell too far at
            the margins, as with a recent PyTorch the published code does.
        min_background: Share of a crop that certain background must exceed for background-aware pooling, for ``"bap"``
            (code 0.125, paper 0).
        localize_grid: N, when maps are read, for ``background: attention``.
        normalize: Divide class maps by the maximum in each ``"box"`` (code), or in the image (``"class"``, paper).
        background: u_0 from ``"attention"``, or from the map of the background class (``"cam"``, divided by its maximum
            in the image), Table 1's row without u_0.
        background_threshold: What attention must reach to count as background, for ``background: attention``.
        relative_threshold: As a share of its maximum in the image (code) instead of 1 (paper).
        keep_features: Keep the features with the maps, for refiners that compare pixels.
        seen: Indices from 0 of the classes that are learnt, ``None`` for all. Boxes of the others are known not to be
            certain background, but not classified; as maps they get 1 - u_0 in their boxes (VOC-to-COCO), where such
            boxes overlap, in the smallest (our choice, the paper does not say).
        fill_mute: Give 1 - u_0 also to a box in which the map of its class is 0 everywhere, as it happens with classes
            of a few images; otherwise such a box stays empty, as in the code.

    Raises:
        UserError: If there is no such choice or class.
    """

    learnt: Tensor
    needs = frozenset({WeakLabel.BOXES})
    knows_some = gives_background = gives_features = True
    inference_options = frozenset(
        {"localize_grid", "normalize", "background", "background_threshold", "relative_threshold"}
        | {"keep_features", "fill_mute"}
    )

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pooling: Pooling = "bap",
        grid: Annotated[int, Field(ge=1)] = 4,
        bins: Annotated[int, Field(ge=1)] = 2,
        roi: Reading = "edges",
        align_corners: bool = True,
        min_background: Annotated[float, Field(ge=0, le=1)] = 0.125,
        localize_grid: Annotated[int, Field(ge=1)] = 1,
        normalize: Normalization = "box",
        background: BackgroundSource = "attention",
        background_threshold: Annotated[float, Field(ge=0, le=1)] = 0.99,
        relative_threshold: bool = True,
        keep_features: bool = True,
        seen: tuple[int, ...] | None = None,
        fill_mute: bool = True,
    ) -> None:
        super().__init__(backbone, num_classes)
        chosen = ((pooling, Pooling), (roi, Reading), (normalize, Normalization), (background, BackgroundSource))
        for given, known in chosen:
            _check(given, known)
        self.head = nn.Conv2d(backbone.channels, num_classes + 1, kernel_size=1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)
        self.pooling, self.grid, self.bins = pooling, grid, bins
        self.roi, self.align_corners = roi, align_corners
        self.min_background, self.localize_grid, self.normalize = min_background, localize_grid, normalize
        self.background, self.keep_features = background, keep_features
        self.background_threshold, self.relative_threshold = background_threshold, relative_threshold
        self.fill_mute = fill_mute
        self.register_buffer("learnt", _learnt(seen, num_classes), persistent=False)

    def forward(self, images: Tensor) -> Activation:
        """Score maps of the classes, without background, and their means."""
        features = self.backbone(images)
        scores = self.head(features)[:, 1:]
        return Activation(scores, gap(scores), features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the boxes' bins and of all valid queries, which are background, in one mean."""
        logits, labels = self._logits(batch)
        with _full_precision(logits):
            total = cross_entropy(logits, labels, reduction="sum")
        return {"classification": total / max(len(labels), 1)}

    def for_classes(self, weights: Mapping[str, Tensor], places: Sequence[int | None]) -> dict[str, Tensor]:
        """Rows of the classifier in the order of the classes here, 0 for those that were not learnt."""
        there = weights["head.weight"]
        rows = [0, *(len(there) if place is None else place + 1 for place in places)]
        return {**weights, "head.weight": torch.cat([there, torch.zeros_like(there[:1])])[rows]}

    @torch.no_grad()
    def classify_boxes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores of the boxes as in training, the mean over their bins.

        Args:
            batch: Images with their boxes; those of classes that are not learnt are left out.

        Returns:
            (n, C + 1), background first, -inf for classes that are not learnt; and (n,) int64, class + 1.
        """
        logits, labels = self._logits(batch)
        bins, foreground = self.bins**2, labels > 0
        return logits[foreground].view(-1, bins, logits.shape[1]).mean(1), labels[foreground][::bins]

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(n, C + 1) of all bins and queries, and (n,) what they are."""
        features = self.backbone(batch.images)
        with _full_precision(features):
            vectors, labels = self._classified(features.float(), batch)
            known = torch.cat([self.learnt.new_ones(1), self.learnt])
            return linear(vectors, self.head.weight.flatten(1)).masked_fill(~known, -torch.inf), labels

    def _classified(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(n, D) vectors and (n,) what they are: class + 1, or 0."""
        definite = definite_background(batch).to(features.dtype)
        queries, valid = background_queries(features, resize_like(definite, features, "nearest"), self.grid)
        kept = [self.learnt[classes] for classes in batch.box_classes]
        boxes = [boxes[its] for boxes, its in zip(batch.boxes, kept, strict=True)]
        sizes = _size(batch.images), _size(features)
        rois = box_rois(boxes, *sizes, reading=self.roi, align_corners=self.align_corners)
        attention = features.new_zeros(len(rois), rois.rows.shape[1], rois.columns.shape[1])
        if self.pooling == "bap":
            enough = definite.mean((1, 2, 3)) > self.min_background
            attention = background_attention(features, queries, valid & enough[:, None], rois)
        pooled = pool_rois(features, rois, 1 - attention, self.bins, EPS)
        background = queries[valid]
        classes = torch.cat([classes[its] for classes, its in zip(batch.box_classes, kept, strict=True)])
        labels = (classes + 1).repeat_interleave(pooled.shape[1])
        return torch.cat([pooled.flatten(0, 1), background]), torch.cat([labels, labels.new_zeros(len(background))])

    @torch.no_grad()
    def localize(self, batch: Batch, views: Views) -> list[LocalizationMaps]:
        """Unaries of the classes of each image's boxes, and of the background (Section 3.2).

        Features are read on the grid of ``views`` (bilinear, align_corners=True; ``stride`` 1 is the paper's), in the
        frame of their view. The attention and the rectified class maps of all views are averaged before thresholds
        and normalisation; the paper has one view.

        Args:
            batch: Images of one size, normalised, with their boxes.
            views: Which versions of the image to look at.

        Returns:
            For each image the maps of its boxes' classes, the background, and features (D, h, w) if they are kept:
            those of the first view, or their mean over views on its grid.
        """
        definite = definite_background(batch)
        seen = [view for scale in views.scales for view in self._views(rescale(batch.images, scale), views.flip)]
        height, width = (strided_size(length, views.stride) for length in _size(batch.images))
        with _full_precision(batch.images):
            return [self._unaries(seen, definite, batch, number, (height, width)) for number in range(len(batch))]

    def _views(self, images: Tensor, flip: bool) -> list[tuple[Tensor, bool]]:
        """Features (B, D, h, w) in the frame of their view, and whether that is a mirror image."""
        straight = [(self.backbone(images).float(), False)]
        return [*straight, (self.backbone(images.flip(-1)).float(), True)] if flip else straight

    def _unaries(
        self, seen: list[tuple[Tensor, bool]], definite: Tensor, batch: Batch, number: int, grid: Size
    ) -> LocalizationMaps:
        """Of one image."""
        size = _size(batch.images)
        classes, channels = torch.unique(batch.box_classes[number], return_inverse=True)
        own = [(features[number, None], mirrored) for features, mirrored in seen]
        views = [self._read(features, definite[number, None], classes, grid, mirrored) for features, mirrored in own]
        maps = torch.stack(views).mean(0)
        boxes = list(zip(pixel_regions(batch.boxes[number], size, grid), channels.tolist(), strict=True))
        scores = foreground_unary(maps[1:], boxes, self.normalize)
        background = self._background(maps[0], resize(definite[number, 0], grid, "nearest"))
        learnt = self.learnt[batch.box_classes[number]].tolist()
        scores = fill_regions(scores, 1 - background, self._mapless(maps[1:], boxes, learnt))
        features = _together(own).cpu() if self.keep_features else None
        return LocalizationMaps(classes.cpu(), scores.cpu(), size, background.cpu(), features)

    def _mapless(self, maps: Tensor, boxes: Sequence[Box], learnt: Sequence[bool]) -> list[Box]:
        """The boxes whose class is not learnt, or does not show in them."""
        mute = [self.fill_mute and not region_maximum(maps[channel], region) for region, channel in boxes]
        return [box for box, known, silent in zip(boxes, learnt, mute, strict=True) if silent or not known]

    def _read(self, features: Tensor, definite: Tensor, classes: Tensor, grid: Size, mirrored: bool) -> Tensor:
        """(1 + P, *grid) evidence for background and for each class in one view (1, D, h, w), in the image's frame."""
        definite = definite.flip(-1) if mirrored else definite
        weight = self.head.weight[torch.cat([classes.new_zeros(1), classes + 1])]
        maps = resize(class_activation(features, weight)[0], grid, align_corners=True).relu()
        if self.background == "attention":
            queries, valid = enlarged_queries(features, definite, self.localize_grid)
            maps[0] = background_attention(features, queries, valid, whole_rois(grid, features))[0]
        return unflip(maps) if mirrored else maps

    def _background(self, evidence: Tensor, outside: Tensor) -> Tensor:
        """u_0 from (H, W) attention, or from the background's map."""
        if self.background == "attention":
            relative = self.relative_threshold
            return background_unary(evidence, outside, self.background_threshold, relative=relative)
        return torch.where(outside, 1.0, evidence / (evidence.max() + EPS))


def _learnt(seen: tuple[int, ...] | None, num_classes: int) -> Tensor:
    """(C,) bool, which classes are learnt."""
    chosen = range(num_classes) if seen is None else seen
    strange = [index for index in chosen if not 0 <= index < num_classes]
    if strange or not chosen:
        what = f"there is no class number {strange[0]}" if strange else "names no class"
        raise UserError(what, where="localize.method.seen", remedy=f"Count the {num_classes} classes from 0")
    learnt = torch.zeros(num_classes, dtype=torch.bool)
    learnt[list(chosen)] = True
    return learnt


def _together(views: list[tuple[Tensor, bool]]) -> Tensor:
    """(D, h, w) mean of (1, D, h', w') features in the image's frame, on the grid of the first."""
    straight = [unflip(features) if mirrored else features for features, mirrored in views]
    return torch.cat([resize_like(features, straight[0], align_corners=True) for features in straight]).mean(0)


def _size(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]


def _full_precision(like: Tensor) -> torch.autocast:
    """Cosines are compared with 0.99 of others, and weights 1 - A are differences: no place for eight bits."""
    return torch.autocast(like.device.type, enabled=False)


def _check(given: str, known: Any) -> None:  # noqa: ANN401
    if given not in get_args(known):
        choices = ", ".join(get_args(known))
        raise UserError(f"unknown choice '{given}'", where="localize.method", remedy=f"Choose one of {choices}")
