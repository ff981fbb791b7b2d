"""From a displacement field to the objects whose middle it points at.

J. Ahn, S. Cho, S. Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019,
Sec. 5.1.

Each pixel follows the field until it stands still. Where many pixels arrive the field is short, and such a place, as a
connected region, is the centroid of one object: pixels that arrive in the same region belong together.
"""

import torch
from torch import Tensor

ITERATIONS = 300
WEAK = 2.5


def refine_centroids(displacement: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Where each pixel arrives when it follows the field (Sec. 5.1).

    A step reads both components bilinearly where the pixel stands, adds them, and stays within the grid. In float64,
    because a field may send two pixels that hardly stand apart to different places.

    Args:
        displacement: (2, h, w) float, dy and dx in pixels.
        iterations: Number of steps.

    Returns:
        (2, h, w) int64, row and column, rounded.

    Raises:
        ValueError: If the field is not finite.
    """
    if not displacement.isfinite().all():
        raise ValueError("displacement must be finite, but some of it is infinite or not a number")
    height, width = displacement.shape[-2:]
    field = displacement.detach().to(torch.float32 if displacement.device.type == "mps" else torch.float64)
    last = field.new_tensor([height - 1, width - 1]).view(2, 1, 1)
    place = torch.stack(torch.meshgrid(*(torch.arange(n, device=field.device) for n in (height, width)), indexing="ij"))
    place = place.to(field.dtype)
    for _ in range(iterations):
        place = torch.minimum((place + _between_pixels(field, place)).clamp(min=0), last)
    return place.round().long()


def _between_pixels(field: Tensor, place: Tensor) -> Tensor:
    """A (K, h, w) field read bilinearly at (2, h, w) rows and columns within the grid."""
    (height, width), start = field.shape[-2:], place.floor()
    (top, left), (down, across) = start.long(), place - start
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    above = (1 - across) * field[:, top, left] + across * field[:, top, right]
    below = (1 - across) * field[:, bottom, left] + across * field[:, bottom, right]
    values: Tensor = (1 - down) * above + down * below
    return values


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
    arrived = _regions(short)[0][centroids[0], centroids[1]]
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
    regions, count = _regions(labels)
    owners = labels.new_zeros(count + 1).scatter_(0, regions.flatten(), labels.flatten())
    owners, order = owners[1:].sort(stable=True)
    numbers = regions.new_zeros(count + 1)
    numbers[1 + order] = torch.arange(1, count + 1, device=labels.device)
    return numbers[regions], owners


def _regions(labels: Tensor) -> tuple[Tensor, int]:
    """(h, w) int64 numbers of the 4-connected regions of equal labels, from 1 row by row, and how many; 0 is none."""
    from weakseg.ops.regions_cpu import number_regions

    given = labels.detach().long().cpu().contiguous()
    numbers = torch.empty_like(given)
    count = number_regions(given.numpy(), numbers.numpy())
    return numbers.to(labels.device), count
