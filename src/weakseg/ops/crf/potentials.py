"""The mean field on tensors of any device: all pairs of pixels, or the lattices of several images at once.

Sums over all pairs are made in float64: where colours hardly differ, updates enlarge what float32 loses a hundredfold.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from weakseg.ops.crf.exact import DenseKernel, SeparableKernel
from weakseg.ops.crf.lattice import PermutohedralLattice
from weakseg.ops.crf.parameters import CRFParameters
from weakseg.ops.crf.prior import Prior

Kernel = Callable[[Tensor], Tensor]

LEAST_MASS = 1e-20


@dataclass(frozen=True)
class Potential:
    """A kernel, normalised symmetrically, and its Potts weight.

    Attributes:
        kernel: (N, L) values to their (N, L) weighted sums over all pixels, the pixel itself included.
        scale: (N, 1), 1 / sqrt(n_i), where n_i is the sum of the kernel's values between pixel i and all others.
        compat: Weight.
    """

    kernel: Kernel
    scale: Tensor
    compat: float

    @classmethod
    def of(
        cls, kernel: Kernel, compat: float, count: int, device: torch.device, precision: torch.dtype = torch.float32
    ) -> "Potential":
        """The potential of a kernel over ``count`` pixels."""
        mass = kernel(torch.ones(count, 1, device=device, dtype=precision)) + LEAST_MASS
        return cls(kernel, mass.rsqrt(), compat)

    def message(self, beliefs: Tensor) -> Tensor:
        """What all pixels say to each: compat * sum_j k_ij / sqrt(n_i n_j) Q_j, for (N, L) beliefs."""
        return self.kernel(beliefs * self.scale).mul_(self.scale * self.compat)


@dataclass(frozen=True)
class Pixels:
    """The pixels of one image or of several, one image after the other, row by row.

    Attributes:
        unary: (L, N) energies; infinite for labels that an image does not have.
        copies: (L, N) or (L, 1), how many labels of the same energies each one stands for.
        owner: (N,) int64, the image of each pixel.
    """

    unary: Tensor
    copies: Tensor
    owner: Tensor

    @classmethod
    def of(cls, priors: Sequence[Prior], precision: torch.dtype = torch.float32) -> "Pixels":
        """The pixels that these are the priors of, with energies in that precision."""
        labels = max(len(prior.values) for prior in priors)
        unary, copies, sizes = [], [], []
        for prior in priors:
            energies, missing = prior.unary(precision).flatten(1), labels - len(prior.values)
            unary.append(pad(energies, (0, 0, 0, missing), value=torch.inf))
            copies.append(pad(prior.copies.to(precision), (0, missing))[:, None].expand(-1, energies.shape[1]))
            sizes.append(energies.shape[1])
        lengths = torch.tensor(sizes, device=unary[0].device)
        owner = torch.arange(len(priors), device=lengths.device).repeat_interleave(lengths)
        return cls(torch.cat(unary, 1), torch.cat(copies, 1), owner)


def infer(
    images: Sequence[Tensor], priors: Sequence[Prior], params: CRFParameters, *, exact: bool, stop: float | None = None
) -> list[Tensor]:
    """Beliefs for images on one device, each by itself; several images only on the lattice.

    Args:
        images: (H, W, 3) uint8 each.
        priors: Of P planes, in the size of the image.
        params: Kernels and number of updates.
        exact: Whether to sum over all pairs, or on the lattice.
        stop: See ``mean_field``.

    Returns:
        (P, H, W) float32 each.
    """
    doubles = exact and priors[0].values.device.type != "mps"  # which has none
    pixels = Pixels.of(priors, torch.float64 if doubles else torch.float32)
    with torch.no_grad():
        kernels = list(potentials(images, pixels, params, exact=exact)) if params.iterations else []
        beliefs = mean_field(pixels, kernels, params.iterations, stop).float()
    parts = torch.split(beliefs, [prior.values[0].numel() for prior in priors], 1)
    return [part[: len(prior.values)].view_as(prior.values) for part, prior in zip(parts, priors, strict=True)]


def mean_field(pixels: Pixels, kernels: Sequence[Potential], iterations: int, stop: float | None = None) -> Tensor:
    """Beliefs Q after some updates of all pixels together (algorithm 1).

    Args:
        pixels: N of them.
        kernels: Potentials over N pixels.
        iterations: Number of updates.
        stop: Ends the updates of an image once at most this share of its pixels changes its label; ``None`` for never.

    Returns:
        (L, N) that sums to one over L.
    """
    beliefs = softmax(-pixels.unary, pixels.copies)
    sizes = pixels.owner.bincount()
    going = torch.ones_like(sizes, dtype=torch.bool)
    for _ in range(iterations if kernels else 0):
        rows = beliefs.T.contiguous()
        heard = torch.stack([kernel.message(rows) for kernel in kernels]).sum(0)
        updated = softmax(heard.T.contiguous() - pixels.unary, pixels.copies)
        if stop is None:
            beliefs = updated
            continue
        updated = torch.where(going[pixels.owner], updated, beliefs)
        changed = pixels.owner[updated.argmax(0) != beliefs.argmax(0)].bincount(minlength=len(sizes))
        beliefs, going = updated, going & (changed > stop * sizes)
        if not going.any():
            break
    return beliefs


def softmax(logits: Tensor, copies: Tensor) -> Tensor:
    """Softmax over the first dimension, where each entry counts several times.

    PyTorch's own rounds differently when the number of threads changes.
    """
    powers = (logits - logits.amax(0)).exp_()
    return powers.div_((powers * copies).sum(0))


def pixel_features(
    image: Tensor, sxy: float, srgb: float | None = None, precision: torch.dtype = torch.float32
) -> Tensor:
    """Position, and colour unless ``srgb`` is ``None``, in units of the kernel's widths.

    Args:
        image: (H, W, 3) uint8.
        sxy: Width in pixels.
        srgb: Width in grey levels.
        precision: Of the features.

    Returns:
        (H * W, 2 or 5): x, y, and the three colours.
    """
    height, width = image.shape[:2]
    down, along = (torch.arange(side, dtype=precision, device=image.device) / sxy for side in (height, width))
    features = [along.repeat(height), down.repeat_interleave(width)]
    if srgb is not None:
        features.extend(image.reshape(-1, 3).T.to(precision) / srgb)
    return torch.stack(features, 1)


def potentials(images: Sequence[Tensor], pixels: Pixels, params: CRFParameters, *, exact: bool) -> Iterator[Potential]:
    """The kernels that have a weight: of position, and of position and colour (Eq. 3).

    Args:
        images: (H, W, 3) uint8 each; one if ``exact``.
        pixels: Of all images.
        params: Widths and weights.
        exact: Whether to sum over all pairs, or on the lattice.
    """
    (height, width), owner, precision = images[0].shape[:2], pixels.owner, pixels.unary.dtype
    for compat, sxy, srgb in (
        (params.gaussian_compat, params.gaussian_sxy, None),
        (params.bilateral_compat, params.bilateral_sxy, params.bilateral_srgb),
    ):
        if not compat:
            continue
        kernel: Kernel
        features = [pixel_features(image, sxy, srgb, precision) for image in images]
        if not exact:
            kernel = PermutohedralLattice(torch.cat(features), owner)
        elif srgb is None:
            kernel = SeparableKernel(height, width, sxy, owner.device, precision)
        else:
            kernel = DenseKernel(features[0])
        yield Potential.of(kernel, compat, len(owner), owner.device, precision)
