"""Balloon and potted plant."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from weakseg.data.scenes.brush import Brush, box, curve, ellipse, polygon, smooth
from weakseg.data.scenes.palette import DARK, WHITE, choose, tint
from weakseg.data.scenes.textures import Colour

SILKS: tuple[tuple[Colour, Colour], ...] = (
    ((0.84, 0.22, 0.18), (0.96, 0.80, 0.32)),
    ((0.18, 0.40, 0.70), (0.92, 0.92, 0.88)),
    ((0.90, 0.52, 0.16), (0.45, 0.20, 0.42)),
    ((0.20, 0.52, 0.42), (0.94, 0.86, 0.52)),
    ((0.80, 0.30, 0.46), (0.96, 0.90, 0.84)),
)
POTS: tuple[Colour, ...] = (
    (0.72, 0.38, 0.24),
    (0.88, 0.86, 0.82),
    (0.24, 0.38, 0.52),
    (0.36, 0.34, 0.34),
    (0.86, 0.68, 0.30),
)
LEAVES: tuple[Colour, ...] = ((0.20, 0.46, 0.20), (0.34, 0.55, 0.22), (0.16, 0.38, 0.28), (0.44, 0.52, 0.26))
WICKER: Colour = (0.50, 0.34, 0.18)


def balloon(brush: Brush, rng: np.random.Generator) -> None:
    """A hot-air balloon: a big striped envelope and a small basket."""
    first, second = choose(rng, SILKS)
    for x in (-0.09, -0.03, 0.03, 0.09):
        brush.line(curve((x * 0.7, 0.1), (x, 0.26)), 0.012, DARK)
    brush.fill(box(-0.085, 0.0, 0.085, 0.12, 0.02), WICKER, volume=0.6)
    for y in (0.035, 0.07):
        brush.line(curve((-0.08, y), (0.08, y)), 0.012, tint(WICKER, 0.6))
    brush.line(curve((-0.09, 0.118), (0.09, 0.118)), 0.024, tint(WICKER, 0.55))
    height = np.linspace(0.24, 1.0, 40)
    half = _envelope((height - 0.24) / 0.76)
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 2 * int(rng.integers(3, 5)) + 2))
    for index, (left, right) in enumerate(pairwise(edges)):
        gore = np.concatenate([np.stack([half * left, height], 1), np.stack([half * right, height], 1)[::-1]])
        brush.fill(gore, first if index % 2 else second, volume=0)
    whole = np.concatenate([np.stack([-half, height], 1), np.stack([half, height], 1)[::-1]])
    if rng.random() < 0.5:
        inside = (height > 0.58) & (height < 0.7)
        belt = np.concatenate([np.stack([-half, height], 1)[inside], np.stack([half, height], 1)[inside][::-1]])
        brush.fill(belt, WHITE, volume=0, opacity=0.85)
    brush.model(whole, volume=1.1)


def _envelope(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half width of a balloon at heights ``t`` from the mouth, 0, to the crown, 1."""
    dome = np.sqrt(np.clip(1 - ((t - 0.6) / 0.4) ** 2, 0, 1))
    cone = 0.2 + 0.8 * np.sin(np.clip(t / 0.6, 0, 1) * np.pi / 2)
    return 0.39 * np.where(t > 0.6, dome, cone)


def leafy_plant(brush: Brush, rng: np.random.Generator) -> None:
    """A potted plant with broad leaves."""
    green = choose(rng, LEAVES)
    angles = np.linspace(-1.35, 1.35, 9)
    order = rng.permutation(len(angles))
    for rank, index in enumerate(order):
        angle = angles[index] + rng.uniform(-0.1, 0.1)
        length = 0.6 - 0.14 * abs(angle) + rng.uniform(-0.06, 0.04)
        paint = tint(green, 0.7 + 0.5 * rank / len(order))
        stem = (np.sin(angle) * 0.22, 0.36 + np.cos(angle) * 0.2)
        brush.line(curve((0.0, 0.34), stem), 0.03, tint(green, 0.7))
        _leaf(brush, stem, angle * 1.15, length * 0.75, 0.13, paint)
    _pot(brush, choose(rng, POTS))


def bladed_plant(brush: Brush, rng: np.random.Generator) -> None:
    """A potted plant with long blades, sometimes in flower."""
    green = choose(rng, LEAVES)
    for angle in rng.permutation(np.linspace(-1.0, 1.0, 11)):
        reach = 0.62 - 0.12 * abs(angle) + rng.uniform(-0.08, 0.0)
        tip = (np.sin(angle) * reach * 1.0, 0.35 + np.cos(angle) * reach)
        bend = (tip[0] * 0.4, 0.35 + (tip[1] - 0.35) * 0.62)
        blade = smooth((-0.03, 0.33), (bend[0] - 0.045, bend[1]), tip, (bend[0] + 0.045, bend[1] - 0.02), (0.03, 0.33))
        brush.fill(blade, tint(green, rng.uniform(0.7, 1.25)), volume=0.6)
    if rng.random() < 0.4:
        petals = choose(rng, ((0.90, 0.35, 0.40), (0.95, 0.80, 0.30), (0.80, 0.50, 0.80)))
        for _ in range(5):
            x, y = rng.uniform(-0.3, 0.3), rng.uniform(0.6, 0.92)
            brush.fill(ellipse(x, y, 0.06, 0.06), petals, volume=0.7)
            brush.fill(ellipse(x, y, 0.02, 0.02), (0.98, 0.86, 0.35), volume=0)
    _pot(brush, choose(rng, POTS))


def _leaf(brush: Brush, foot: tuple[float, float], angle: float, length: float, half: float, paint: Colour) -> None:
    part = brush.at(foot[0], foot[1], turn=-angle)
    outline = smooth(
        (0, 0),
        (half, length * 0.38),
        (half * 0.55, length * 0.75),
        (0, length),
        (-half * 0.55, length * 0.75),
        (-half, length * 0.38),
    )
    part.fill(outline, paint, volume=0.6)
    part.line(curve((0, 0.0), (0, length * 0.9)), 0.014, tint(paint, 1.35), opacity=0.8)


def _pot(brush: Brush, paint: Colour) -> None:
    brush.fill(polygon((-0.22, 0.34), (0.22, 0.34), (0.16, 0.0), (-0.16, 0.0)), paint, volume=0.9)
    brush.fill(box(-0.25, 0.3, 0.25, 0.39, 0.02), paint, volume=0.7)
    brush.fill(box(-0.24, 0.285, 0.24, 0.302), tint(paint, 0.55), volume=0, opacity=0.7)
