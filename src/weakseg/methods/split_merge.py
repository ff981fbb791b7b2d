"""Splitting vs. Merging: two classifiers that are pushed apart, and forced to share evidence.

T. Zhang, G. Lin, W. Liu, J. Cai, A. Kot, "Splitting vs. Merging: Mining Object Regions with Discrepancy and
Intersection Loss for Weakly Supervised Semantic Segmentation", ECCV 2020.

One classifier looks at the most telling part of an object and no further. Here two of them, A and B, read the same
features, and a loss rewards them for looking at different places (splitting): each has to find parts that the other
leaves. Alone that drives them off the object. So the place-by-place minimum of both score maps has to recognise the
image's classes, too (merging), which it can only where both see evidence. The discrepancy moves the two classifiers and
never the features. A third classifier, C, on later layers of its own, is an ordinary one and keeps the most telling
part. The localisation map is the union of the three.

Hyper-parameters, with the paper's values:

- ``beta``, weight of the discrepancy: 0, 10, 20 and 50 studied, 20 for the final masks. The discrepancy is a mean over
  all positions and classes and lies in [-2 / (h w), 0]; beta is tuned for that, on 14 x 14 positions.
- ``hidden``, width of the classifiers' hidden layer: 512, that of VGG16's features.
- ``shared_stages``: the streams share the first two blocks of VGG16 with their pools.
- Learning rates 0.01 (extractors) and 0.1 (classifiers), 20 epochs, crops resized to 224 x 224; in the recipe.

No code was published, and the paper is silent on some points. Chosen here: weights of the classifiers by Kaiming's
rule, biases 0; a map without any range is 0; score maps are enlarged before they are rectified and normalised; several
views of an image are merged as ``SplitMerge.localize`` says.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss

from weakseg.data.maps import LocalizationMaps
from weakseg.data.sample import Batch
from weakseg.methods.method import Activation, Method, Views, rescale
from weakseg.networks.backbone import Backbone
from weakseg.networks.groups import parameter_groups
from weakseg.networks.split import split
from weakseg.ops.maps import normalize_minmax, resize, strided_size, unflip
from weakseg.ops.pooling import gap


def spatial_softmax(scores: Tensor) -> Tensor:
    """z: each class's share of every position, exp(s_ijc) / sum_i'j' exp(s_i'j'c).

    Args:
        scores: (..., h, w), any sign.

    Returns:
        (..., h, w), positive; every map sums to 1.
    """
    return scores.flatten(-2).softmax(-1).view_as(scores)


def discrepancy_loss(a: Tensor, b: Tensor) -> Tensor:
    """L_disc: minus the mean, over positions, all classes and images, of how far two spatial softmaxes are apart.

    Args:
        a: (B, C, h, w) scores of one classifier.
        b: (B, C, h, w) scores of the other.

    Returns:
        A scalar in [-2 / (h w), 0], 0 where the maps differ by a constant for each class.
    """
    return -(spatial_softmax(a) - spatial_softmax(b)).abs().mean()


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """S_inter: at each position the smaller of two raw scores, which alone receives the gradient.

    Args:
        a: (..., h, w).
        b: (..., h, w).

    Returns:
        (..., h, w); its spatial mean is at most the smaller of theirs.
    """
    return torch.minimum(a, b)


def classification_loss(scores: Tensor, tags: Tensor) -> Tensor:
    """L_cls: multi-label soft margin of the spatial mean, averaged over classes and images.

    Args:
        scores: (B, C, h, w).
        tags: (B, C) bool.
    """
    return multilabel_soft_margin_loss(gap(scores), tags.to(scores.dtype))


def normalised_maps(scores: Tensor) -> Tensor:
    """M: scores rectified, then stretched from their minimum to their maximum, each map for itself.

    Args:
        scores: (..., h, w), any sign.

    Returns:
        (..., h, w) in [0, 1]; 0 where a map has no range, as when all its scores are negative.
    """
    return normalize_minmax(scores.relu(), eps=0)


def union(maps: Sequence[Tensor]) -> Tensor:
    """U: the largest of several normalised maps at each position; all (..., h, w) of one shape."""
    return torch.stack(list(maps)).amax(0)


class Scores(NamedTuple):
    """Score maps (B, C, h, w) of the three classifiers."""

    a: Tensor
    b: Tensor
    c: Tensor


def classifier(channels: int, hidden: int, num_classes: int) -> nn.Sequential:
    """1x1 convolution, ReLU, 1x1 convolution; (B, channels, h, w) to (B, num_classes, h, w)."""
    first, second = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, num_classes, 1)
    for layer in (first, second):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(inplace=True), second)


class SplitMerge(Method):
    """Discrepancy and intersection of two classifiers beside an ordinary one; maps are their union.

    The backbone as it is given is the reference stream; the expanding stream shares its first stages and has a copy of
    the others, which starts from the same weights.

    Args:
        backbone: The network's body; its layers must form a chain, see ``networks.split``.
        num_classes: C, number of object classes.
        beta: Weight of the discrepancy; 0 leaves it out.
        intersection: Classify by the intersection, too (Table 2 compares).
        hidden: Width of the classifiers' hidden layer; ``None`` takes the backbone's number of channels.
        shared_stages: How many stages the two streams share.
        maps: Whose maps are united: of the classifiers A, B and C (Tables 2 and 3 compare).

    Raises:
        UserError: If the backbone cannot be cut after these stages.
    """

    inference_options = frozenset({"maps"})

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        beta: Annotated[float, Field(ge=0)] = 20.0,
        intersection: bool = True,
        hidden: Annotated[int, Field(ge=1)] | None = 512,
        shared_stages: Annotated[int, Field(ge=1)] = 2,
        maps: Literal["abc", "ab", "a", "b", "c"] = "abc",
    ) -> None:
        super().__init__(backbone, num_classes)
        self.beta, self.intersection, self.maps = beta, intersection, maps
        self.parts = split(backbone, shared_stages)  # a tuple: the weights are listed under the backbone already
        self.expanding = deepcopy(self.parts.rest)
        width = hidden or backbone.channels
        self.a, self.b, self.c = (classifier(backbone.channels, width, num_classes) for _ in range(3))

    def forward(self, images: Tensor) -> Activation:
        """The reference stream: an ordinary classifier, which pools its score maps by the mean."""
        features = self.backbone(images)
        scores = self.c(features)
        return Activation(scores, gap(scores), features)

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) features of the expanding and of the reference stream."""
        shared = self.parts.trunk(images)
        return self.expanding(shared), self.parts.rest(shared)

    def scores(self, images: Tensor) -> Scores:
        """What the three classifiers say of (B, 3, H, W) normalised images."""
        expanding, reference = self.extract(images)
        return Scores(self.a(expanding), self.b(expanding), self.c(reference))

    def look(self, images: Tensor) -> Scores:
        """Maps are made of all three."""
        return self.scores(images)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_cls of A, B, C and the intersection, and beta L_disc, which sees the features as constants."""
        expanding, reference = self.extract(batch.images)
        a, b, c = self.a(expanding).float(), self.b(expanding).float(), self.c(reference).float()
        judged = {"a": a, "b": b, "c": c, **({"intersection": intersection(a, b)} if self.intersection else {})}
        losses = {f"classification_{name}": classification_loss(s, batch.tags) for name, s in judged.items()}
        if self.beta:
            constant = expanding.detach()
            losses["discrepancy"] = self.beta * discrepancy_loss(self.a(constant).float(), self.b(constant).float())
        return losses

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Both extractors at ``lr``, the classifiers ``head_factor`` times faster."""
        pretrained = nn.ModuleList([self.backbone, self.expanding])
        return parameter_groups(self, pretrained, lr, weight_decay, self.head_factor)

    @torch.no_grad()
    def localize(self, batch: Batch, views: Views) -> list[LocalizationMaps]:
        """The union of the classifiers' normalised maps, for the classes that each image is tagged with.

        The raw scores of all views are brought to one grid (bilinear, align_corners=False), unflipped and averaged, for
        each classifier by itself. Then come, in this order, rectifying, normalising by minimum and maximum, and the
        union; with one view and ``stride`` 1 that is the paper's order.

        Args:
            batch: Images of one size, normalised, with their tags.
            views: Which versions of the image to look at.

        Returns:
            For each image the maps of its present classes, scores in [0, 1].
        """
        height, width = batch.images.shape[-2:]
        grid = strided_size(height, views.stride), strided_size(width, views.stride)
        seen = [view for scale in views.scales for view in self._views(rescale(batch.images, scale), views.flip)]
        found = []
        for number, tags in enumerate(batch.tags):
            classes = tags.nonzero().flatten()
            scores = torch.stack([resize(view[:, number, classes], grid) for view in seen]).mean(0)
            maps = union(normalised_maps(scores).unbind())
            found.append(LocalizationMaps(classes.cpu(), maps.cpu(), (height, width)))
        return found

    def _views(self, images: Tensor, flip: bool) -> list[Tensor]:
        """Scores (n, B, C, h, w) of the n classifiers that are united, and those of the mirror image if wanted."""
        straight = self._united(images)
        return [straight, unflip(self._united(images.flip(-1)))] if flip else [straight]

    def _united(self, images: Tensor) -> Tensor:
        scores = self.scores(images)._asdict()
        return torch.stack([scores[name].float() for name in self.maps])
