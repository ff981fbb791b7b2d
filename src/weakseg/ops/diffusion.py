"""Maps diffused over an image: every value becomes a weighted mean of its neighbours', again and again.

This is the step that the random walk of AffinityNet and IRN and the refinement of PAMR have in common: a sparse matrix
of transitions is applied to the maps, never multiplied by itself. A step reads each of the K neighbours at its offset,
as a shifted map, and needs no memory beyond one more copy of the maps.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

Engine = Literal["auto", "numba", "torch"]


def diffuse(maps: Tensor, weights: Tensor, offsets: Tensor, steps: int, *, engine: Engine = "auto") -> Tensor:
    """M(p) <- M(p) + sum_k w_k(p) (M(p + offset_k) - M(p)), several times and without gradient.

    This is the weighted mean of the neighbours, where the pixel itself has the weight that the others leave of 1. Sums
    of differences lose less to rounding than sums of values, which hundreds of steps would show. A neighbour outside of
    the grid is the pixel of the grid that is nearest to it.

    Args:
        maps: (B, C, H, W); B and C may be 0. float64 is computed in float64, everything else in float32.
        weights: (B, K, H, W), not negative, sum over K at most 1.
        offsets: (K, 2) int64 (dy, dx).
        steps: How often, 0 or more.
        engine: "numba" is compiled for CPUs and gives the same bits for any number of threads; "torch" runs on every
            device; "auto" takes numba for tensors on a CPU.

    Returns:
        (B, C, H, W) of the maps' dtype, float32 for integers and booleans, each map within its own range.

    Raises:
        ValueError: If there is no such engine, or not for the maps' device; if the shapes of maps, weights and offsets
            do not fit each other; if ``steps`` is negative.
    """
    _check(maps, weights, offsets, steps, engine)
    precision = torch.promote_types(maps.dtype, torch.float32)
    given = maps.dtype if maps.is_floating_point() else precision
    start, shares = maps.detach().to(precision), weights.detach().to(precision)
    if maps.numel() == 0:
        return start.to(given, copy=True)
    compiled = engine == "numba" or (engine == "auto" and maps.device.type == "cpu")
    diffused = (_diffuse_numba if compiled else _diffuse_torch)(start, shares, offsets, steps)
    # Rounding may leave the range that a weighted mean has.
    return diffused.clamp(start.amin((-2, -1), keepdim=True), start.amax((-2, -1), keepdim=True)).to(given)


def _check(maps: Tensor, weights: Tensor, offsets: Tensor, steps: int, engine: Engine) -> None:
    if engine not in get_args(Engine):
        raise ValueError(f"unknown engine '{engine}', known: {', '.join(get_args(Engine))}")
    if engine == "numba" and maps.device.type != "cpu":
        raise ValueError(f"engine 'numba' works on the CPU, but maps are on '{maps.device}'; take 'torch' or 'auto'")
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, not {steps}")
    if offsets.ndim != 2 or offsets.shape[1] != 2:
        raise ValueError(f"offsets must be (K, 2), not {tuple(offsets.shape)}")
    fitting = (*maps.shape[:1], len(offsets), *maps.shape[2:])
    if maps.ndim != 4 or weights.shape != fitting:
        raise ValueError(
            f"maps of {tuple(maps.shape)} and weights of {tuple(weights.shape)} do not fit: "
            f"for {len(offsets)} offsets they must be (B, C, H, W) and (B, {len(offsets)}, H, W)"
        )


def reach(offsets: Tensor) -> tuple[int, int]:
    """The largest distance in rows and in columns."""
    down, across = offsets.abs().amax(0).tolist()
    return down, across


def _diffuse_torch(maps: Tensor, weights: Tensor, offsets: Tensor, steps: int) -> Tensor:
    (height, width), (ry, rx) = maps.shape[-2:], reach(offsets)
    for _ in range(steps):
        padded = pad(maps, (rx, rx, ry, ry), mode="replicate")
        change = torch.zeros_like(maps)
        for weight, (dy, dx) in zip(weights.unbind(1), offsets.tolist(), strict=True):
            neighbour = padded[..., ry + dy : ry + dy + height, rx + dx : rx + dx + width]
            change.addcmul_(weight[:, None], neighbour - maps)
        maps = maps + change
    return maps


def _diffuse_numba(maps: Tensor, weights: Tensor, offsets: Tensor, steps: int) -> Tensor:
    from weakseg.ops.diffusion_cpu import negligible, repeat_steps

    (height, width), (ry, rx) = maps.shape[-2:], reach(offsets)
    diffused = torch.empty_like(maps)
    for image, planes in enumerate(pad(maps, (rx, rx, ry, ry), mode="replicate")):
        shares = pad(weights[image], (0, 2 * rx))
        values, border = planes.numpy(), (ry, rx)
        shares[shares < float(negligible(values.dtype))] = 0
        found = repeat_steps(values, shares.numpy(), offsets.numpy(), border, steps, torch.get_num_threads())
        diffused[image] = torch.from_numpy(found)[:, ry : ry + height, rx : rx + width]
    return diffused
