"""The dense CRF: class probabilities sharpened by position and colour.

P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.

Every pixel is joined to every other by two Gaussian kernels: one of position, which smooths, and one of position and
colour, which carries a label as far as a surface of one colour goes (Eq. 3). Labels that differ cost the kernels'
weight (Potts). The mean field repeats one step: each pixel hears from all others how probable each label is there,
weighted by the kernels, and adds that to what it thought by itself (algorithm 1).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakseg.ops.crf.exact import DenseKernel, SeparableKernel
from weakseg.ops.crf.lattice import PermutohedralLattice
from weakseg.ops.crf.parameters import CRFParameters, parameters

Engine = Literal["auto", "exact", "lattice"]
Kernel = Callable[[Tensor], Tensor]
Array = TypeVar("Array", NDArray[Any], Tensor)

LEAST_PROBABILITY = 1e-5
LEAST_MASS = 1e-20
EXACT_PIXELS = 1024
"""Largest image that the engine "auto" gives to the exact sums."""


def dense_crf(
    image: NDArray[Any] | Tensor, probabilities: Array, params: str | CRFParameters = "A", *, engine: Engine = "auto"
) -> Array:
    """Probabilities refined by a dense CRF.

    Args:
        image: (H, W, 3) uint8.
        probabilities: (L, H, W) float of any precision; need not sum to one, values below 1e-5 count as 1e-5.
        params: Name of one of ``CRF_PARAMETERS``, or parameters.
        engine: "exact" sums over all pairs of pixels, in time quadratic in their number; "lattice" approximates the
            sums in linear time; "auto" is exact for images of at most 1,024 pixels, else takes the lattice.

    Returns:
        (L, H, W) float32 that sums to one over L; an array for an array, a tensor on the same device for a tensor.

    Raises:
        ValueError: If shapes, types or names do not fit, or a probability is not finite.
    """
    scores = _scores(probabilities, "probabilities")
    return _as_given(_infer(image, unary_from_probabilities(scores), params, engine), probabilities)


def dense_crf_from_unary(
    image: NDArray[Any] | Tensor, unary: Array, params: str | CRFParameters = "A", *, engine: Engine = "auto"
) -> Array:
    """Like ``dense_crf``, from (L, H, W) energies: negative log-probabilities up to a constant per pixel."""
    return _as_given(_infer(image, _scores(unary, "unary"), params, engine), unary)


def dense_crf_labels(
    image: NDArray[Any] | Tensor,
    labels: Array,
    num_labels: int,
    params: str | CRFParameters = "B",
    gt_prob: float = 0.7,
    *,
    engine: Engine = "auto",
) -> Array:
    """Like ``dense_crf``, from a label map that is believed with probability ``gt_prob``.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) integers in [0, num_labels).
        num_labels: L.
        params: Name of one of ``CRF_PARAMETERS``, or parameters.
        gt_prob: In (0, 1).
        engine: As for ``dense_crf``.

    Returns:
        (L, H, W) float32 that sums to one over L.

    Raises:
        ValueError: If shapes, types, names, labels or ``gt_prob`` do not fit.
    """
    unary = unary_from_labels(_tensor(labels), num_labels, gt_prob)
    return _as_given(_infer(image, unary, params, engine), labels)


def dense_crf_batch(
    images: Sequence[NDArray[Any] | Tensor],
    probabilities: Sequence[Array],
    params: str | CRFParameters = "A",
    *,
    engine: Engine = "auto",
) -> list[Array]:
    """``dense_crf`` of each pair of an image and its probabilities; sizes may differ between pairs."""
    if len(images) != len(probabilities):
        raise ValueError(f"{len(images)} images but probabilities for {len(probabilities)}")
    pairs = zip(images, probabilities, strict=True)
    return [dense_crf(image, scores, params, engine=engine) for image, scores in pairs]


def unary_from_probabilities(probabilities: Tensor) -> Tensor:
    """Energies -log(p), with p clipped to [1e-5, 1].

    Args:
        probabilities: (L, H, W) float.

    Returns:
        (L, H, W) float32.
    """
    return -probabilities.float().clamp(LEAST_PROBABILITY, 1).log()


def unary_from_labels(labels: Tensor, num_labels: int, gt_prob: float = 0.7) -> Tensor:
    """Energies of a label map: -log q for the label given, -log((1 - q) / (L - 1)) for each other.

    Args:
        labels: (H, W) integers in [0, num_labels).
        num_labels: L.
        gt_prob: q, in (0, 1).

    Returns:
        (L, H, W) float32.

    Raises:
        ValueError: If a label or ``gt_prob`` is out of range, or ``labels`` is not an integer map.
    """
    if labels.ndim != 2 or labels.numel() == 0 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be (H, W) integers, not {_described(labels)}")
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must be between 0 and 1, not {gt_prob}")
    labels = labels.long()
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_labels:
        raise ValueError(f"labels must be in [0, {num_labels}), not in [{lowest}, {highest}]")
    others = max(num_labels - 1, 1)
    energies = -torch.tensor([(1 - gt_prob) / others, gt_prob], device=labels.device).log()
    given = labels == torch.arange(num_labels, device=labels.device)[:, None, None]
    return energies[given.long()]


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
    def of(cls, kernel: Kernel, compat: float, count: int, device: torch.device) -> "Potential":
        """The potential of a kernel over ``count`` pixels."""
        mass = kernel(torch.ones(count, 1, device=device)) + LEAST_MASS
        return cls(kernel, mass.rsqrt(), compat)

    def message(self, beliefs: Tensor) -> Tensor:
        """What all pixels say to each: compat * sum_j k_ij / sqrt(n_i n_j) Q_j, for (N, L) beliefs."""
        return self.kernel(beliefs * self.scale).mul_(self.scale * self.compat)


def mean_field(unary: Tensor, kernels: Sequence[Potential], iterations: int) -> Tensor:
    """Beliefs Q after some updates of all pixels together (algorithm 1).

    Args:
        unary: (L, N) energies.
        kernels: Potentials over N pixels.
        iterations: Number of updates.

    Returns:
        (L, N) that sums to one over L.
    """
    beliefs = softmax(-unary)
    for _ in range(iterations if kernels else 0):
        rows = beliefs.T.contiguous()
        heard = torch.stack([kernel.message(rows) for kernel in kernels]).sum(0)
        beliefs = softmax(heard.T.contiguous() - unary)
    return beliefs


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the first dimension; PyTorch's own rounds differently when the number of threads changes."""
    powers = (logits - logits.amax(0)).exp_()
    return powers.div_(powers.sum(0))


def pixel_features(image: Tensor, sxy: float, srgb: float | None = None) -> Tensor:
    """Position, and colour unless ``srgb`` is ``None``, in units of the kernel's widths.

    Args:
        image: (H, W, 3) uint8.
        sxy: Width in pixels.
        srgb: Width in grey levels.

    Returns:
        (H * W, 2 or 5) float32: x, y, and the three colours.
    """
    height, width = image.shape[:2]
    down, along = (torch.arange(side, dtype=torch.float32, device=image.device) / sxy for side in (height, width))
    features = [along.repeat(height), down.repeat_interleave(width)]
    if srgb is not None:
        features.extend(image.reshape(-1, 3).T.float() / srgb)
    return torch.stack(features, 1)


def potentials(image: Tensor, params: CRFParameters, *, exact: bool) -> Iterator[Potential]:
    """The kernels that have a weight: of position, and of position and colour (Eq. 3).

    Args:
        image: (H, W, 3) uint8.
        params: Widths and weights.
        exact: Whether to sum over all pairs, or on the lattice.
    """
    height, width = image.shape[:2]
    position, colour = params.gaussian_compat, params.bilateral_compat
    kernel: Kernel
    if position and exact:
        kernel = SeparableKernel(height, width, params.gaussian_sxy, image.device)
        yield Potential.of(kernel, position, height * width, image.device)
    elif position:
        kernel = PermutohedralLattice(pixel_features(image, params.gaussian_sxy))
        yield Potential.of(kernel, position, height * width, image.device)
    if colour:
        features = pixel_features(image, params.bilateral_sxy, params.bilateral_srgb)
        kernel = DenseKernel(features) if exact else PermutohedralLattice(features)
        yield Potential.of(kernel, colour, height * width, image.device)


def _infer(image: NDArray[Any] | Tensor, unary: Tensor, params: str | CRFParameters, engine: Engine) -> Tensor:
    """(L, H, W) beliefs for an image and energies of its size."""
    if engine not in get_args(Engine):
        raise ValueError(f"unknown engine '{engine}', known: {', '.join(get_args(Engine))}")
    settings = parameters(params)
    pixels = _pixels(image, unary)
    exact = engine == "exact" or (engine == "auto" and unary[0].numel() <= EXACT_PIXELS)
    with torch.no_grad():
        kernels = list(potentials(pixels, settings, exact=exact)) if settings.iterations else []
        return mean_field(unary.flatten(1), kernels, settings.iterations).view_as(unary)


def _tensor(values: NDArray[Any] | Tensor) -> Tensor:
    """Tensors stay as they are; arrays, and what can become one, are copied."""
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, order="C"))


def _scores(values: NDArray[Any] | Tensor, name: str) -> Tensor:
    """(L, H, W) float32, checked."""
    scores = _tensor(values)
    if scores.ndim != 3 or scores.numel() == 0 or not scores.is_floating_point():
        raise ValueError(f"{name} must be (L, H, W) floating point, not {_described(scores)}")
    if not scores.isfinite().all():
        raise ValueError(f"{name} must be finite, but some are infinite or not a number")
    return scores.float()


def _pixels(image: NDArray[Any] | Tensor, unary: Tensor) -> Tensor:
    """(H, W, 3) uint8 on the device of the unary, checked against its size."""
    pixels = _tensor(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != torch.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, not {_described(pixels)}")
    size, expected = tuple(pixels.shape[:2]), tuple(unary.shape[1:])
    if size != expected:
        raise ValueError(f"image is {size[0]} x {size[1]} pixels but its labels are {expected[0]} x {expected[1]}")
    return pixels.to(unary.device)


def _described(values: Tensor) -> str:
    return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"


def _as_given(result: Tensor, given: Array) -> Array:
    """The result as an array unless a tensor was given."""
    return result if isinstance(given, Tensor) else result.numpy()
