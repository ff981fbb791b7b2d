"""EPS: explicit pseudo-pixel supervision from saliency maps.

S. Lee, M. Lee, J. Lee, H. Shim, "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised
Semantic Segmentation", CVPR 2021.

Tags do not say where an object ends, nor that rails are not a part of the train; a saliency map does, without knowing
what the object is. A classifier with one more channel, the background, has to explain the saliency map: the maps of the
image's tags together are what is salient, the background map is what is not. Saliency detectors overlook some objects
(a sofa, the people beside a train); a tag's map that hardly overlaps with the saliency map is therefore counted as
background in this loss. Once trained, the classifier is read like a CAM, without saliency.

Hyper-parameters, with the paper's values:

- ``blend``, lambda = 0.5. The published scripts use 0.5 for VOC and 0.9 for COCO.
- ``min_overlap``, tau = 0.4; values from 0.3 to 0.5 behave alike.
- ``selection``, adaptive; Table 3 compares it with the others.
- ``overlap_eps``, 0 in the paper. The published code adds 1e-4 at every pixel of a map before it sums them up, which
  leaves small maps without overlap and gave the published figures; it is the default.

The paper does not say how scores become maps in [0, 1]; the published code takes the softmax over all channels, in
training and afterwards, and so does this file.
"""

from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss

from weakseg.data.sample import Batch, WeakLabel
from weakseg.errors import UserError
from weakseg.methods.method import Activation, Method
from weakseg.networks.backbone import Backbone
from weakseg.ops.maps import resize_like
from weakseg.ops.pooling import gap

Selection = Literal["adaptive", "naive", "predefined", "foreground"]
BLEND = 0.5
OVERLAP_EPS = 1e-4


def class_scores(scores: Tensor) -> Tensor:
    """Image-level scores: the mean over positions of the raw object channels; the background has none.

    Args:
        scores: (B, C + 1, h, w), background last.

    Returns:
        (B, C).
    """
    return gap(scores[:, :-1])


def overlap_ratio(maps: Tensor, saliency: Tensor, eps: float = OVERLAP_EPS) -> Tensor:
    """O: share of the pixels where a map exceeds one half that are salient, that is, exceed one half there, too.

    Args:
        maps: (B, C, h, w) in [0, 1].
        saliency: (B, 1, h, w) in [0, 1].
        eps: Added to the denominator for each pixel of the map; 0 is the paper's ratio.

    Returns:
        (B, C) in [0, 1]; 0 for a map that nowhere exceeds one half.
    """
    inside, salient = maps > 0.5, saliency > 0.5
    both, area = (inside & salient).sum((-2, -1)), inside.sum((-2, -1))
    total = area + eps * maps.shape[-2] * maps.shape[-1]
    return torch.where(area > 0, both / total.clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def foreground_classes(
    maps: Tensor,
    tags: Tensor,
    saliency: Tensor,
    *,
    selection: Selection = "adaptive",
    min_overlap: float = 0.4,
    overlap_eps: float = OVERLAP_EPS,
    background_classes: tuple[int, ...] = (),
) -> Tensor:
    """Which of the image's classes have to be salient; the others count as background (Section 3.3, Table 3).

    Args:
        maps: (B, C, h, w) in [0, 1], of the object classes.
        tags: (B, C) bool.
        saliency: (B, 1, h, w) in [0, 1].
        selection: ``"adaptive"``, those whose map overlaps with the saliency map; ``"predefined"``, all but
            ``background_classes``; ``"naive"`` and ``"foreground"``, all.
        min_overlap: tau, what the overlap has to exceed.
        overlap_eps: See ``overlap_ratio``.
        background_classes: Classes that saliency detectors overlook, for ``"predefined"``.

    Returns:
        (B, C) bool, a part of the tags.
    """
    if selection == "adaptive":
        return tags & (overlap_ratio(maps, saliency, overlap_eps) > min_overlap)
    chosen = tags.clone()
    if selection == "predefined":
        chosen[:, list(background_classes)] = False
    return chosen


def foreground_and_background(maps: Tensor, tags: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """M_fg and M_bg: the maps of the classes that have to be salient, and all else that the image shows (Eq. 1).

    Args:
        maps: (B, C + 1, h, w) softmax over channels, background last.
        tags: (B, C) bool.
        foreground: (B, C) bool, see ``foreground_classes``; the other tags join the background map.

    Returns:
        Two (B, 1, h, w) in [0, 1]; their sum is below 1 by the share of classes that the image is not tagged with.
    """
    objects, background = maps[:, :-1], maps[:, -1:]
    return _sum_of(objects, tags & foreground), background + _sum_of(objects, tags & ~foreground)


def estimated_saliency(foreground: Tensor, background: Tensor, blend: float = BLEND) -> Tensor:
    """Saliency as the maps explain it (Eq. 2): lambda M_fg + (1 - lambda) (1 - M_bg).

    Args:
        foreground: (B, 1, h, w) in [0, 1], M_fg.
        background: (B, 1, h, w) in [0, 1], M_bg.
        blend: lambda, weight of the foreground map against the inverted background map.

    Returns:
        (B, 1, h, w) in [0, 1].
    """
    return blend * foreground + (1 - blend) * (1 - background)


def _sum_of(maps: Tensor, chosen: Tensor) -> Tensor:
    """(B, 1, h, w) sum of the chosen ones among (B, C, h, w) maps."""
    return torch.einsum("bchw,bc->bhw", maps, chosen.to(maps.dtype))[:, None]


def saliency_loss(estimate: Tensor, saliency: Tensor, known: Tensor) -> Tensor:
    """Mean squared difference over the pixels of the images whose saliency is known (Eq. 3).

    Args:
        estimate: (B, 1, h, w) in [0, 1].
        saliency: (B, 1, h, w) in [0, 1].
        known: (B,) bool.

    Returns:
        A scalar in [0, 1]; 0, with zero gradients, where no saliency is known.
    """
    per_image = (estimate - saliency).square().mean((1, 2, 3))
    return (per_image * known).sum() / known.sum().clamp(min=1)


class EPS(Method):
    """Multi-label classification and saliency, trained jointly (Eqs. 3 and 4).

    Args:
        backbone: The network's body.
        num_classes: C, number of object classes.
        blend: lambda, weight of the foreground maps against the inverted background map (VOC 0.5, COCO's script 0.9);
            ``None`` for 0.5, or for 1 with ``selection: foreground``, which leaves no choice.
        min_overlap: tau, share of a map that must be salient for it to count as foreground; for ``"adaptive"``.
        selection: Which tags count as foreground. ``"adaptive"``: those whose map overlaps with the saliency map;
            ``"naive"``: all; ``"predefined"``: all but ``background_classes``; ``"foreground"``: all, and no background
            map takes part, our reading of the paper's baseline.
        background_classes: Classes that saliency detectors overlook, for ``"predefined"``: their numbers in the class
            list, from 0. The paper names sofa, chair and dining table, in VOC 17, 8 and 10.
        overlap_eps: Added for each pixel of a map to the denominator of its overlap (code 1e-4, paper 0); for
            ``"adaptive"``.

    Raises:
        UserError: If ``background_classes`` or ``blend`` has no use, classes are missing, or one is none.
    """

    needs = frozenset({WeakLabel.TAGS, WeakLabel.SALIENCY})
    map_needs = frozenset({WeakLabel.TAGS})

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        blend: Annotated[float, Field(ge=0, le=1)] | None = None,
        min_overlap: Annotated[float, Field(ge=0, le=1)] = 0.4,
        selection: Selection = "adaptive",
        background_classes: tuple[Annotated[int, Field(ge=0)], ...] = (),
        overlap_eps: Annotated[float, Field(ge=0)] = OVERLAP_EPS,
    ) -> None:
        super().__init__(backbone, num_classes)
        _check(selection, blend, background_classes, num_classes)
        self.head = nn.Conv2d(backbone.channels, num_classes + 1, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.head.weight)
        self.blend = (1.0 if selection == "foreground" else BLEND) if blend is None else blend
        self.min_overlap, self.overlap_eps = min_overlap, overlap_eps
        self.selection, self.background_classes = selection, background_classes

    def forward(self, images: Tensor) -> Activation:
        """Score maps of the classes and, last, of the background."""
        features = self.backbone(images)
        scores = self.head(features)
        return Activation(scores, class_scores(scores), features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Classification and saliency, weighted alike (Eq. 4); images without saliency take part in the first alone."""
        seen: Activation = self(batch.images)
        maps = seen.scores.float().softmax(1)
        saliency = resize_like(batch.saliency, maps, mode="nearest")
        foreground = foreground_classes(
            maps[:, :-1].detach(),
            batch.tags,
            saliency,
            selection=self.selection,
            min_overlap=self.min_overlap,
            overlap_eps=self.overlap_eps,
            background_classes=self.background_classes,
        )
        estimate = estimated_saliency(*foreground_and_background(maps, batch.tags, foreground), self.blend)
        return {
            "classification": multilabel_soft_margin_loss(seen.logits.float(), batch.tags.float()),
            "saliency": saliency_loss(estimate, saliency, batch.known[WeakLabel.SALIENCY]),
        }

    def view_maps(self, images: Tensor) -> Tensor:
        """Softmax over all channels, (B, C, h, w) without the background."""
        seen: Activation = self(images)
        return seen.scores.float().softmax(1)[:, :-1]


def _check(selection: str, blend: float | None, background_classes: tuple[int, ...], num_classes: int) -> None:
    if selection not in get_args(Selection):
        raise UserError(f"unknown selection '{selection}'", remedy="Choose one of " + ", ".join(get_args(Selection)))
    if selection == "foreground" and blend is not None:
        raise UserError(
            "'blend' is of no use with 'selection: foreground', in which no background map takes part",
            where="localize.method",
            remedy="Leave it out, or choose another selection",
        )
    if (selection == "predefined") != bool(background_classes):
        raise UserError(
            "'background_classes' and 'selection: predefined' belong together",
            where="localize.method",
            remedy="Give both or neither",
        )
    if beyond := [number for number in background_classes if number >= num_classes]:
        raise UserError(
            f"'background_classes' names class {beyond[0]}, there are {num_classes}",
            where="localize.method",
            remedy="Classes are counted from 0, in the order of the class list",
        )
