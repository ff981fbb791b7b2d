"""The dense CRF: class probabilities sharpened by position and colour.

P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.

Every pixel is joined to every other by two Gaussian kernels: one of position, which smooths, and one of position and
colour, which carries a label as far as a surface of one colour goes (Eq. 3). Labels that differ cost the kernels'
weight (Potts). The mean field repeats one step: each pixel hears from all others how probable each label is there,
weighted by the kernels, and adds that to what it thought by itself (algorithm 1).
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from weakseg.ops.crf import potentials
from weakseg.ops.crf.parameters import CRFParameters, parameters
from weakseg.ops.crf.prior import Prior, as_tensor, checked_image, checked_scores

Engine = Literal["auto", "exact", "lattice"]
Array = TypeVar("Array", NDArray[Any], Tensor)
Pair = tuple[Tensor, Prior]

EXACT_PIXELS = 1024
"""Largest image that the engine "auto" gives to the exact sums."""

PIXELS_TOGETHER = 2**21
"""Pixels whose lattices are made into one on an accelerator: about 11 photographs of VOC."""


def dense_crf(
    image: NDArray[Any] | Tensor,
    probabilities: Array,
    params: str | CRFParameters = "A",
    *,
    engine: Engine = "auto",
    stop: float | None = None,
) -> Array:
    """Probabilities refined by a dense CRF.

    Work on a CPU is spread over ``torch.get_num_threads()`` threads; the result is the same to the bit for any number.

    Args:
        image: (H, W, 3) uint8.
        probabilities: (L, H, W) float of any precision; need not sum to one, values below 1e-5 count as 1e-5.
        params: Name of one of ``CRF_PARAMETERS``, or parameters.
        engine: "exact" sums over all pairs of pixels in float64, in time quadratic in their number; "lattice"
            approximates the sums in linear time; "auto" is exact for images of at most 1,024 pixels, else takes the
            lattice.
        stop: In [0, 1); ends the updates once at most this share of the pixels changes its label in one. ``None`` for
            as many updates as the parameters say.

    Returns:
        (L, H, W) float32 that sums to one over L; an array for an array, a tensor on the same device for a tensor.

    Raises:
        ValueError: If shapes, types or names do not fit, or a probability is not finite.
    """
    return dense_crf_batch([image], [probabilities], params, engine=engine, stop=stop)[0]


def dense_crf_from_unary(
    image: NDArray[Any] | Tensor,
    unary: Array,
    params: str | CRFParameters = "A",
    *,
    engine: Engine = "auto",
    stop: float | None = None,
) -> Array:
    """Like ``dense_crf``, from (L, H, W) energies: negative log-probabilities up to a constant per pixel."""
    prior = Prior.of_energies(checked_scores(unary, "unary"))
    return _as_given(infer([image], [prior], params, engine=engine, stop=stop)[0], unary)


def dense_crf_labels(
    image: NDArray[Any] | Tensor,
    labels: Array,
    num_labels: int,
    params: str | CRFParameters = "B",
    gt_prob: float = 0.7,
    *,
    ignore: int | None = None,
    engine: Engine = "auto",
    stop: float | None = None,
) -> Array:
    """Like ``dense_crf``, from a label map that is believed with probability ``gt_prob``.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) integers in [0, num_labels), or ``ignore``.
        num_labels: L.
        params: Name of one of ``CRF_PARAMETERS``, or parameters.
        gt_prob: In (0, 1).
        ignore: Value of the pixels of which nothing is known, 255 in masks of VOC: all labels are equally probable
            there. ``None`` if there are none.
        engine: As for ``dense_crf``.
        stop: As for ``dense_crf``.

    Returns:
        (L, H, W) float32 that sums to one over L.

    Raises:
        ValueError: If shapes, types, names, labels or ``gt_prob`` do not fit.
    """
    given = as_tensor(labels)
    doubles = _is_exact(given.numel(), engine) and given.device.type != "mps"
    prior = Prior.of_labels(given, num_labels, gt_prob, ignore, torch.float64 if doubles else torch.float32)
    return _as_given(infer([image], [prior], params, engine=engine, stop=stop)[0], labels)


def dense_crf_batch(
    images: Sequence[NDArray[Any] | Tensor],
    probabilities: Sequence[Array],
    params: str | CRFParameters = "A",
    *,
    engine: Engine = "auto",
    stop: float | None = None,
) -> list[Array]:
    """``dense_crf`` of each pair of an image and its probabilities, side by side.

    On a CPU, threads take one image each; on an accelerator, one set of operations serves many images.

    Args:
        images: (H, W, 3) uint8 each; sizes may differ.
        probabilities: (L, H, W) float each; L may differ.
        params: As for ``dense_crf``.
        engine: As for ``dense_crf``.
        stop: As for ``dense_crf``; each image stops by itself.

    Returns:
        (L, H, W) each.

    Raises:
        ValueError: As ``dense_crf``, and if there are not as many images as probabilities.
    """
    if len(images) != len(probabilities):
        raise ValueError(f"{len(images)} images but probabilities for {len(probabilities)}")
    priors = [Prior.of_probabilities(checked_scores(scores, "probabilities")) for scores in probabilities]
    found = infer(images, priors, params, engine=engine, stop=stop)
    return [_as_given(beliefs, scores) for beliefs, scores in zip(found, probabilities, strict=True)]


def unary_from_probabilities(probabilities: Tensor) -> Tensor:
    """Energies -log(p), with p clipped to [1e-5, 1].

    Args:
        probabilities: (L, H, W) float.

    Returns:
        (L, H, W) float32.
    """
    prior = Prior.of_probabilities(probabilities.float())
    return prior.of_all_labels(prior.unary())


def unary_from_labels(labels: Tensor, num_labels: int, gt_prob: float = 0.7, *, ignore: int | None = None) -> Tensor:
    """Energies of a label map: -log q for the label given, -log((1 - q) / (L - 1)) for each other.

    Args:
        labels: (H, W) integers in [0, num_labels), or ``ignore``.
        num_labels: L.
        gt_prob: q, in (0, 1).
        ignore: As for ``dense_crf_labels``; energies are log L there.

    Returns:
        (L, H, W) float32.

    Raises:
        ValueError: If a label or ``gt_prob`` is out of range, or ``labels`` is not an integer map.
    """
    prior = Prior.of_labels(labels, num_labels, gt_prob, ignore)
    return prior.of_all_labels(prior.unary())


def infer(
    images: Sequence[NDArray[Any] | Tensor],
    priors: Sequence[Prior],
    params: str | CRFParameters,
    *,
    engine: Engine = "auto",
    stop: float | None = None,
) -> list[Tensor]:
    """What all of the above do, from any kind of prior.

    Args:
        images: (H, W, 3) uint8 each; sizes may differ.
        priors: One for each image.
        params: As for ``dense_crf``.
        engine: As for ``dense_crf``.
        stop: As for ``dense_crf``; each image stops by itself.

    Returns:
        (L, H, W) beliefs each.

    Raises:
        ValueError: If sizes, types or names do not fit.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"unknown engine '{engine}', known: {', '.join(get_args(Engine))}")
    if stop is not None and not 0 <= stop < 1:
        raise ValueError(f"stop must be at least 0 and below 1, not {stop}")
    settings = parameters(params)
    pairs = [(checked_image(image, prior), prior) for image, prior in zip(images, priors, strict=True)]
    groups = list(_groups(pairs, engine))
    on_cpu = all(prior.values.device.type == "cpu" for _, prior in pairs)
    workers = max(1, min(torch.get_num_threads(), len(groups))) if on_cpu else 1
    work = partial(_infer_group, params=settings, engine=engine, stop=stop, threads=torch.get_num_threads() // workers)
    if workers == 1:
        found = [work(group) for group in groups]
    else:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(work, groups))
    beliefs = itertools.chain.from_iterable(found)
    return [prior.of_all_labels(planes) for (_, prior), planes in zip(pairs, beliefs, strict=True)]


def _groups(pairs: Sequence[Pair], engine: Engine) -> Iterator[list[Pair]]:
    """Neighbours whose lattices become one."""
    group: list[Pair] = []
    for pair in pairs:
        if group and not _is_together([*group, pair], engine):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _is_together(pairs: Sequence[Pair], engine: Engine) -> bool:
    """Whether one lattice serves them: on the same accelerator, and not too many pixels."""
    devices = {prior.values.device for _, prior in pairs}
    pixels = sum(prior.values[0].numel() for _, prior in pairs)
    exact = any(_is_exact(prior.values[0].numel(), engine) for _, prior in pairs)
    return len(devices) == 1 and devices.pop().type != "cpu" and not exact and pixels <= PIXELS_TOGETHER


def _is_exact(pixels: int, engine: Engine) -> bool:
    return engine == "exact" or (engine == "auto" and pixels <= EXACT_PIXELS)


def _infer_group(
    group: list[Pair], *, params: CRFParameters, engine: Engine, stop: float | None, threads: int
) -> list[Tensor]:
    """(P, H, W) beliefs for each image."""
    images, priors = [image for image, _ in group], [prior for _, prior in group]
    exact = _is_exact(priors[0].values[0].numel(), engine)
    if not exact and images[0].device.type == "cpu":
        with suppress(OverflowError):  # kernels so narrow that only the general lattice can number their corners
            return [_infer_on_cpu(images[0], priors[0], params, stop, threads)]
    return potentials.infer(images, priors, params, exact=exact, stop=stop)


def _infer_on_cpu(image: Tensor, prior: Prior, params: CRFParameters, stop: float | None, threads: int) -> Tensor:
    from weakseg.ops.crf import cpu

    beliefs = cpu.infer(
        image.contiguous().numpy(),
        prior.values.float().flatten(1).contiguous().numpy(),
        prior.copies.numpy(),
        params,
        energies=prior.energies,
        least=prior.least,
        stop=stop,
        threads=threads,
    )
    return torch.from_numpy(beliefs).view_as(prior.values)


def _as_given(result: Tensor, given: Array) -> Array:
    """The result as an array unless a tensor was given."""
    return result if isinstance(given, Tensor) else result.numpy()
