"""Saliency without training: what is not connected with the border of the image.

W. Zhu, S. Liang, Y. Wei, J. Sun, "Saliency Optimization from Robust Background Detection", CVPR 2014.

A photographer leaves room around things. Sky, grass and walls therefore run far along the border of an image, measured
by their size, and objects do not, even where they touch it. How strongly a region is connected with the border makes a
probability of being background; a region is salient as far as it differs in colour from what is background near it.
Both cues, and the wish that like neighbours be alike, are one quadratic function of the saliency of all regions, whose
minimum is a linear system.

Regions are superpixels (R. Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", PAMI
2012); colours are CIE-Lab, positions are divided by the longer side.

Hyper-parameters, with the paper's values:

- ``superpixels``, 200 of an image of about 300 x 400 pixels. Larger images are looked at in that size.
- ``color_sigma``, sigma_clr = 10, stable within 5 and 15.
- ``boundary_sigma``, sigma_bndCon = 1, stable within 0.5 and 2.5.
- ``position_sigma``, sigma_spa = 0.25.
- ``smoothness``, mu = 0.1.

The paper leaves three things open. Compactness of the superpixels: 25 with colours from 0 to 100. How contrast becomes
a weight in [0, 1]: stretched to that range, and 0 below the threshold that separates high from low contrast best
(N. Otsu, 1979). How the result is scaled: stretched, with more contrast around such a threshold of its own.
"""

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve
from torch import Tensor
from torch.nn.functional import interpolate

from weakseg.data.saliency.provider import SaliencyProvider

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Positive = Annotated[float, Field(gt=0)]

LONGEST_SIDE = 400
COMPACTNESS = 25.0
SHARPNESS = 6.0
TINY = 1e-9


def geodesic_distances(colours: Array, edges: Labels) -> Array:
    """d_geo: length of the shortest path between any two regions, as the sum of colour differences (Eq. 2).

    Args:
        colours: (N, 3) mean colours.
        edges: (E, 2) pairs of regions that are joined, each pair once.

    Returns:
        (N, N), symmetric, 0 on the diagonal.
    """
    steps = np.linalg.norm(colours[edges[:, 0]] - colours[edges[:, 1]], axis=1)
    count = len(colours)
    graph = csr_array((np.maximum(steps, TINY), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return np.asarray(dijkstra(graph, directed=False))


def boundary_connectivity(distances: Array, on_border: NDArray[np.bool_], color_sigma: float) -> Array:
    """BndCon: length along the border over the square root of the area (Eqs. 3 to 5).

    A region's area counts every other one by how close in colour the way there stays, its length along the border those
    on the border alone.

    Args:
        distances: (N, N) geodesic.
        on_border: (N,), whether a region touches the border of the image.
        color_sigma: sigma_clr.

    Returns:
        (N,), 0 and more; large for background.
    """
    share = np.exp(-(distances**2) / (2 * color_sigma**2))
    return np.asarray(share[:, on_border].sum(1) / np.sqrt(share.sum(1)))


def background_probability(connectivity: Array, sigma: float) -> Array:
    """w_bg: from 0 for what is not connected with the border to 1 (Eq. 7)."""
    return 1 - np.exp(-(connectivity**2) / (2 * sigma**2))


def background_weighted_contrast(colours: Array, positions: Array, background: Array, position_sigma: float) -> Array:
    """wCtr: difference in colour from the background, the nearer the more it counts (Eq. 8).

    Args:
        colours: (N, 3).
        positions: (N, 2), over the longer side of the image.
        background: (N,) probability of background.
        position_sigma: sigma_spa.

    Returns:
        (N,), 0 and more.
    """
    near = np.exp(-(pair_distances(positions) ** 2) / (2 * position_sigma**2))
    return np.asarray((pair_distances(colours) * near * background).sum(1))


def optimal_saliency(background: Array, foreground: Array, edges: Labels, alike: Array) -> Array:
    """The saliency s that minimises sum w_bg s^2 + sum w_fg (s - 1)^2 + sum w_ij (s_i - s_j)^2 (Eq. 9).

    Args:
        background: (N,) w_bg, not negative.
        foreground: (N,) w_fg, likewise.
        edges: (E, 2) neighbours, each pair once.
        alike: (E,) w_ij, positive.

    Returns:
        (N,) in [0, 1].
    """
    count = len(background)
    weights = coo_array((alike, (edges[:, 0], edges[:, 1])), shape=(count, count)).tocsr()
    weights = weights + weights.T
    laplacian = diags_array(weights.sum(1)) - weights
    system = laplacian + diags_array(background + foreground + TINY)
    return np.asarray(np.clip(np.atleast_1d(spsolve(system.tocsc(), foreground)), 0, 1))


def foreground_weight(contrast: Array) -> Array:
    """w_fg: contrast in [0, 1], without what is low in this image: (N,) -> (N,)."""
    weight = by_range(contrast)
    return np.where(weight < _otsu(weight), 0, weight)


def sharpened(saliency: Array) -> Array:
    """Stretched to [0, 1], with high and low drawn apart: (N,) -> (N,)."""
    level = by_range(saliency)
    return by_range(1 / (1 + np.exp(-SHARPNESS * (level - _otsu(level)))))


def pair_distances(points: Array) -> Array:
    """(N, D) -> (N, N) Euclidean distances."""
    return np.asarray(np.sqrt(((points[:, None] - points[None]) ** 2).sum(2)))


def neighbours(labels: Labels) -> Labels:
    """(E, 2) pairs of regions that share a side of a pixel, each pair once, the smaller number first."""
    across = np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()], axis=1)
    down = np.stack([labels[:-1].ravel(), labels[1:].ravel()], axis=1)
    pairs = np.concatenate([across, down])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0).reshape(-1, 2)


def border_regions(labels: Labels) -> Labels:
    """Ascending numbers of the regions that touch the border."""
    return np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))


def joined(edges: Labels, border: Labels) -> Labels:
    """``edges`` with every two ``border`` regions joined as well, so that background that an object divides is one."""
    first, second = np.triu_indices(len(border), 1)
    every = np.concatenate([edges, np.stack([border[first], border[second]], axis=1)])
    return np.unique(every, axis=0).reshape(-1, 2)


def region_means(values: Array, labels: Labels) -> Array:
    """(H, W, D) values -> (N, D) means of the regions 0 to N - 1."""
    flat, count = labels.ravel(), np.bincount(labels.ravel())
    sums = [np.bincount(flat, channel.ravel(), len(count)) for channel in np.moveaxis(values, 2, 0)]
    return np.stack(sums, axis=1) / count[:, None]


def by_range(values: Array) -> Array:
    """Stretched to [0, 1]; all 0 if there is no difference to speak of."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high - low > 1e-6 else np.zeros_like(values)


class BackgroundConnectivity(SaliencyProvider):
    """Saliency from colours alone, without weights: robust background detection (Zhu et al. 2014).

    Args:
        superpixels: About how many regions.
        color_sigma: sigma_clr, colour difference within which two regions are one surface.
        boundary_sigma: sigma_bndCon, connectivity above which a region is background.
        position_sigma: sigma_spa, share of the longer side within which background is compared.
        smoothness: mu, how much any two neighbours are drawn together.
    """

    def __init__(
        self,
        *,
        superpixels: Annotated[int, Field(ge=2)] = 200,
        color_sigma: Positive = 10.0,
        boundary_sigma: Positive = 1.0,
        position_sigma: Positive = 0.25,
        smoothness: Annotated[float, Field(ge=0)] = 0.1,
    ) -> None:
        self.superpixels, self.smoothness = superpixels, smoothness
        self.color_sigma, self.boundary_sigma, self.position_sigma = color_sigma, boundary_sigma, position_sigma

    def __call__(self, image: Tensor) -> Tensor:
        """Saliency of every pixel, constant within a superpixel of the shrunk image."""
        height, width = image.shape[1:]
        small = _shrunk(image)
        labels = self._regions(small)
        saliency = torch.from_numpy(self._saliency(_lab(small), labels)[labels].astype(np.float32))
        if saliency.shape == (height, width):
            return saliency
        return interpolate(saliency[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]

    def _regions(self, image: Tensor) -> Labels:
        from skimage.segmentation import slic  # slow to import, and rarely needed

        found = slic(image.permute(1, 2, 0).numpy(), self.superpixels, COMPACTNESS, start_label=0, channel_axis=2)
        return np.unique(found, return_inverse=True)[1].reshape(found.shape)

    def _saliency(self, lab: Array, labels: Labels) -> Array:
        """(N,) saliency of the regions."""
        colours, edges, border = region_means(lab, labels), neighbours(labels), border_regions(labels)
        on_border = np.isin(np.arange(len(colours)), border)
        distances = geodesic_distances(colours, joined(edges, border))
        connectivity = boundary_connectivity(distances, on_border, self.color_sigma)
        background = background_probability(connectivity, self.boundary_sigma)
        rows, columns = np.indices(labels.shape) / max(labels.shape)
        positions = region_means(np.stack([rows, columns], axis=2), labels)
        contrast = background_weighted_contrast(colours, positions, background, self.position_sigma)
        differences = np.linalg.norm(colours[edges[:, 0]] - colours[edges[:, 1]], axis=1)
        alike = np.exp(-(differences**2) / (2 * self.color_sigma**2)) + self.smoothness
        return sharpened(optimal_saliency(background, foreground_weight(contrast), edges, alike))


def _otsu(values: Array) -> float:
    """The threshold between two groups of values that differ most."""
    from skimage.filters import threshold_otsu  # slow to import, and rarely needed

    return float(threshold_otsu(values))  # type: ignore[no-untyped-call]


def _shrunk(image: Tensor) -> Tensor:
    """The image with at most ``LONGEST_SIDE`` pixels a side."""
    height, width = image.shape[1:]
    factor = LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    return interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte()


def _lab(image: Tensor) -> Array:
    """(3, H, W) uint8 RGB -> (H, W, 3) CIE-Lab."""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(image.permute(1, 2, 0).numpy()), dtype=np.float64)
