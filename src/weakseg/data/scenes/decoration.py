"""Flowers, stones and balls: things that are no object of any class but may catch a saliency detector's eye."""

from collections.abc import Callable

import numpy as np

from weakseg.data.scenes.brush import Brush, ellipse
from weakseg.data.scenes.palette import WHITE, choose, tint
from weakseg.data.scenes.stage import Stage
from weakseg.data.scenes.textures import Colour, value_noise

PETALS: tuple[Colour, ...] = ((0.93, 0.90, 0.84), (0.93, 0.78, 0.24), (0.84, 0.30, 0.34), (0.66, 0.46, 0.78))
STONES: tuple[Colour, ...] = ((0.55, 0.53, 0.51), (0.65, 0.59, 0.53), (0.44, 0.44, 0.46))
BALLS: tuple[Colour, ...] = ((0.90, 0.26, 0.22), (0.20, 0.46, 0.80), (0.95, 0.62, 0.16))

Draw = Callable[[Brush, np.random.Generator], None]


def flowers(stage: Stage, top: int) -> None:
    """Flowers in the grass below row ``top``."""
    paint = choose(stage.rng, PETALS)
    for _ in range(int(stage.rng.integers(8, 40))):
        near = stage.rng.uniform(0.1, 1) ** 0.7
        x, y = stage.rng.uniform(0, stage.width), top + near * (stage.height - top)
        size = stage.height * 0.009 * (0.4 + near)
        stage.paint(ellipse(x, y, size, size * 0.8), tint(paint, stage.rng.uniform(0.85, 1.05)), 0.95)


def eyecatcher(stage: Stage, low: float, options: tuple[Draw, ...]) -> None:
    """One of some small things on the ground, its foot below the share ``low`` of the height."""
    layer = np.zeros((*stage.shape, 4), np.float32)
    grain = value_noise(stage.rng, stage.shape, 4, octaves=2)
    x, y = stage.rng.uniform(0.08, 0.92) * stage.width, stage.rng.uniform(low, 0.97) * stage.height
    size = stage.height * stage.rng.uniform(0.08, 0.15)
    stage.paint(ellipse(x - stage.light.side * size * 0.3, y, size * 0.8, size * 0.18), (0.05, 0.05, 0.07), 0.4)
    choose(stage.rng, options)(Brush(layer, grain, (x, y), size, stage.light), stage.rng)
    stage.image = stage.image * (1 - layer[..., 3:]) + layer[..., :3]
    stage.bright = np.maximum(stage.bright, layer[..., 3])


def stone(brush: Brush, rng: np.random.Generator) -> None:
    """Two grey stones."""
    grey = choose(rng, STONES)
    brush.fill(ellipse(0.35, 0.28, 0.5, 0.34), tint(grey, 0.9), volume=1.0, rough=0.2)
    brush.fill(ellipse(-0.2, 0.4, 0.6, 0.45), grey, volume=1.0, rough=0.2)


def bloom(brush: Brush, rng: np.random.Generator) -> None:
    """A cushion of flowers."""
    paint = choose(rng, PETALS)
    brush.fill(ellipse(0, 0.35, 0.75, 0.38), (0.20, 0.40, 0.18), volume=0.8, rough=0.3)
    for _ in range(16):
        x, y = rng.uniform(-0.6, 0.6), rng.uniform(0.2, 0.75)
        brush.fill(ellipse(x, y, 0.13, 0.12), tint(paint, rng.uniform(0.85, 1.1)), volume=0.7)


def ball(brush: Brush, rng: np.random.Generator) -> None:
    """A ball with a coloured stripe."""
    brush.fill(ellipse(0, 0.5, 0.5, 0.5), WHITE, volume=0)
    brush.fill(ellipse(0, 0.5, 0.28, 0.5, 0.5), choose(rng, BALLS), volume=0)
    brush.model(ellipse(0, 0.5, 0.5, 0.5), volume=1.0)
