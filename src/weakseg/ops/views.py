"""One segmentation from several views of an image (scales, flips).

These ways give different masks, so a number has to say which one made it:

- mean of logits, then softmax: SEAM's segmentation codebase and its descendants;
- maximum of probabilities: MCTformer's segmentation test;
- mean of probabilities: Bootstrapping and Splitting vs. Merging, whose sum has the same arg-max;
- maximum of logits: DeepLab-v2, L.-C. Chen et al., "DeepLab", TPAMI 2018, inside the network, in training and test.

Views come back to the image's frame first: ``maps.unflip`` for mirrored ones, ``maps.resize`` to one size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from weakseg.ops.maps import resize


def mean_of_logits(views: Sequence[Tensor]) -> Tensor:
    """Softmax over classes of the mean logits.

    Args:
        views: At least one (..., L, h, w) of one shape, logits.

    Returns:
        (..., L, h, w) probabilities.
    """
    return torch.stack(list(views)).mean(0).softmax(-3)


def max_of_probabilities(views: Sequence[Tensor]) -> Tensor:
    """Element-wise maximum of probabilities; the sum over classes is 1 or more, the arg-max is what counts.

    Args:
        views: At least one (..., L, h, w) of one shape, probabilities.

    Returns:
        (..., L, h, w) in [0, 1], not normalised.
    """
    return torch.stack(list(views)).amax(0)


def mean_of_probabilities(views: Sequence[Tensor]) -> Tensor:
    """Mean of probabilities.

    Args:
        views: At least one (..., L, h, w) of one shape, probabilities.

    Returns:
        (..., L, h, w) probabilities.
    """
    return torch.stack(list(views)).mean(0)


def max_of_logits(views: Sequence[Tensor], *, align_corners: bool = False) -> Tensor:
    """Element-wise maximum of logits at several scales, at the size of the largest.

    Args:
        views: At least one (..., L, h_v, w_v), logits, in any order.
        align_corners: See ``maps.resize``.

    Returns:
        (..., L, h, w) with the largest height and width among the views, logits.
    """
    size = (max(view.shape[-2] for view in views), max(view.shape[-1] for view in views))
    return torch.stack([resize(view, size, align_corners=align_corners) for view in views]).amax(0)
