"""The retrieval of BANA: labels from what pixels of one label have in common.

Y. Oh, B. Kim, B. Ham, "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation",
CVPR 2021 (Eqs. 8 and 9, labels Y_ret).

A CRF knows colours, a network knows features. The mean feature of all pixels that the masks so far give to a class is
its prototype; every pixel then takes the class whose prototype is most like its own feature. Where the two kinds of
masks disagree, at least one of them is wrong.
"""

import torch
from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError
from weakseg.ops.box_masks import inside_boxes
from weakseg.ops.enlarged import enlarged, enlarged_norms, masked_means
from weakseg.ops.maps import label_map
from weakseg.refine.boxes import boxes_of, own_boxes
from weakseg.refine.crf import range_like
from weakseg.refine.masks import at_image_size, background_of
from weakseg.refine.refiner import Refiner

_LEAST_NORM = 1e-12


def correlation(features: Tensor, prototypes: Tensor, size: tuple[int, int]) -> Tensor:
    """C_c(p) = cos(f(p), q_c) at image size (Eq. 9); norms count as at least 1e-12.

    Args:
        features: (D, h, w), enlarged to the image (bilinear, align_corners=True).
        prototypes: (K, D) q_c.
        size: Height and width of the image.

    Returns:
        (K, H, W) in [-1, 1], 0 where a feature or a prototype is 0.
    """
    directions = prototypes / prototypes.norm(dim=1, keepdim=True).clamp(min=_LEAST_NORM)
    along = enlarged(torch.einsum("kd,dhw->khw", directions, features), size)
    return (along / enlarged_norms(features, size).clamp(min=_LEAST_NORM)).clamp(-1, 1)


def within_boxes(correlations: Tensor, areas: Tensor, inside: Tensor) -> Tensor:
    """Correlations as scores that know the boxes: background is 1 outside all of them, a class 0 outside its own.

    Args:
        correlations: (P + 1, H, W) in [-1, 1], background first; negative ones count as 0.
        areas: (P, H, W) bool, the boxes of each class.
        inside: (H, W) bool, where any box is.

    Returns:
        (P + 1, H, W) in [0, 1].
    """
    scores = correlations.relu()
    background = torch.where(inside, scores[0], torch.ones_like(scores[0]))
    return torch.cat([background[None], scores[1:] * areas])


class Retrieval(Refiner):
    """Labels by the mean features of the labels so far, at image size.

    Prototypes are means of features over the pixels whose strongest score so far is the class (Eq. 8), background
    included; features are enlarged to the image first (bilinear, align_corners=True). A class that is the strongest
    nowhere has the mean over its boxes as its prototype; the authors' code takes the classifier's weight, which a
    refiner does not have. A class without a box, too, is chosen nowhere, and so is background where the labels have
    none.

    Args:
        constrained: As in the authors' code: correlations below 0 count as 0, background is 1 outside all boxes, and a
            class 0 outside of its own. ``False`` is the paper: the highest correlation wins, wherever the boxes are;
            the scores are (1 + C_c) / 2 then.
    """

    needs_background = True
    needs_boxes = True
    needs_features = True

    def __init__(self, *, constrained: bool = True) -> None:
        self.constrained = constrained

    def refine(self, image: Tensor, maps: LocalizationMaps) -> LocalizationMaps:
        """Correlations with the prototypes as scores in [0, 1]."""
        full = at_image_size(maps)
        labels = label_map(full.scores, background_of(full), range_like(full.classes))
        areas = own_boxes(full)
        found = self._correlations(features_of(full), labels, areas)
        if self.constrained:
            inside = inside_boxes(boxes_of(full)[0], full.size).to(found.device)
            scores = within_boxes(found, areas, inside)
        else:
            scores = (1 + found) / 2
        return full.with_scores(scores[1:], scores[0])

    def _correlations(self, features: Tensor, labels: Tensor, areas: Tensor) -> Tensor:
        """(P + 1, H, W) in [-1, 1], background first; -1 for what has no prototype."""
        local = torch.arange(len(areas) + 1, dtype=labels.dtype, device=labels.device)
        masks = labels == local[:, None, None]
        missing = ~masks[1:].flatten(1).any(1)
        masks[1:] |= areas & missing[:, None, None]
        known = masks.flatten(1).any(1)
        found = correlation(features, masked_means(features, masks), (labels.shape[0], labels.shape[1]))
        return torch.where(known[:, None, None], found, -1.0)


def features_of(maps: LocalizationMaps) -> Tensor:
    """(D, h, w) features, at least in single precision, of maps that need them.

    Raises:
        UserError: If the method's features were not kept.
    """
    if maps.features is None:
        raise UserError(
            "the maps have no features",
            where="refine",
            remedy="Take a method that gives features, or take this refiner out of the chain",
        )
    return maps.features.to(torch.promote_types(maps.features.dtype, torch.float32))
