"""From a displacement field to the objects whose middle it points at.

J. Ahn, S. Cho, S. Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019,
Sec. 5.1.

Each pixel follows the field until it stands still. Where many pixels arrive the field is short, and such a place, as a
connected region, is the centroid of one object: pixels that arrive in the same region belong together.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import grid_sample

ITERATIONS = 300
WEAK = 2.5


def refine_centroids(displacement: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Where each pixel arrives when it follows the field (Sec. 5.1).

    A step reads both components bilinearly where the pixel stands, adds them, and stays within the grid.

    Args:
        displacement: (2, h, w) float, dy and dx in pixels.
        iterations: Number of steps.

    Returns:
        (2, h, w) int64, row and column, rounded.
    """
    height, width = displacement.shape[-2:]
    field = displacement.float()
    last = field.new_tensor([height - 1, width - 1]).view(2, 1, 1)
    place = torch.stack(torch.meshgrid(*(torch.arange(n, device=field.device) for n in (height, width)), indexing="ij"))
    place = place.to(field.dtype)
    for _ in range(iterations):
        # grid_sample counts from -1 to 1 between the first and the last pixel, and wants x before y.
        relative = (place / last.clamp(min=1) * 2 - 1).flip(0).permute(1, 2, 0)
        step = grid_sample(field[None], relative[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
        place = torch.minimum((place + step).clamp(min=0), last)
    return place.round().long()


def cluster_centroids(displacement: Tensor, centroids: Tensor, weak: float = WEAK) -> Tensor:
    """Number of the object that each pixel belongs to: the region of short displacements in which it arrives.

    Regions are 4-connected; the pixels that arrive where the field is not short are one object more.

    Args:
        displacement: (2, h, w) float.
        centroids: (2, h, w) int64, of ``refine_centroids``.
        weak: Length below which a displacement is short.

    Returns:
        (h, w) int64 on the field's device, numbers 0 to n - 1, each of them used.
    """
    short = displacement.float().norm(dim=0) < weak
    regions, _ = ndimage.label(short.cpu().numpy())
    arrived = torch.from_numpy(regions).to(displacement.device)[centroids[0], centroids[1]]
    numbers: Tensor = arrived.unique(return_inverse=True)[1]  # type: ignore[no-untyped-call]
    return numbers.view_as(arrived)


def split_by_cluster(scores: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
    """Each class's map cut into clusters; empty pieces, which no walk would fill, are left out.

    Args:
        scores: (P, h, w).
        clusters: (h, w) int64, 0 to n - 1.

    Returns:
        (N, h, w) pieces, (N,) int64 place of their class.
    """
    members = clusters == torch.arange(int(clusters.max()) + 1, device=clusters.device)[:, None, None]
    filled = torch.einsum("phw,nhw->pn", scores, members.to(scores.dtype)).nonzero()
    return scores[filled[:, 0]] * members[filled[:, 1]], filled[:, 0]


def connected_parts(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split each label's pixels into 4-connected parts.

    Args:
        labels: (h, w) int64, 0 for pixels of no label.

    Returns:
        (h, w) int64 numbers of parts from 1, 0 as before; (n,) int64 label of each part; both on the labels' device.
    """
    pixels = labels.cpu()
    numbers = torch.zeros_like(pixels)
    owners: list[int] = []
    for label in np.unique(pixels.numpy()).tolist():
        if label == 0:
            continue
        parts, count = ndimage.label((pixels == label).numpy())
        found = torch.from_numpy(parts).long()
        numbers += torch.where(found > 0, found + len(owners), 0)
        owners += [label] * count
    return numbers.to(labels.device), labels.new_tensor(owners)
