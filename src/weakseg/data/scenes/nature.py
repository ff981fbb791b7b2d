"""Sky, hills and woods; grass, sand, snow and water."""

import cv2
import numpy as np

from weakseg.data.scenes.palette import choose, tint
from weakseg.data.scenes.stage import Stage
from weakseg.data.scenes.textures import (
    Colour,
    Field,
    as_field,
    clouds,
    colour,
    ground_noise,
    mix,
    ramp,
    smoothstep,
    speckle,
    value_noise,
)

SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((0.26, 0.50, 0.84), (0.72, 0.86, 0.95)),
    ((0.40, 0.60, 0.82), (0.87, 0.91, 0.93)),
    ((0.60, 0.66, 0.72), (0.82, 0.84, 0.85)),
    ((0.40, 0.50, 0.74), (0.98, 0.82, 0.64)),
)
GRASS: tuple[Colour, ...] = ((0.36, 0.54, 0.20), (0.46, 0.58, 0.24), (0.30, 0.48, 0.22), (0.60, 0.60, 0.30))
FOLIAGE: tuple[Colour, ...] = ((0.22, 0.38, 0.16), (0.28, 0.42, 0.20), (0.40, 0.42, 0.18), (0.20, 0.34, 0.22))
SAND: tuple[Colour, ...] = ((0.86, 0.77, 0.59), (0.80, 0.70, 0.54), (0.90, 0.84, 0.72))
SNOW: tuple[Colour, ...] = ((0.90, 0.93, 0.98), (0.86, 0.90, 0.95), (0.95, 0.94, 0.94))
WATER: tuple[Colour, ...] = ((0.14, 0.36, 0.48), (0.12, 0.42, 0.50), (0.20, 0.35, 0.42), (0.16, 0.33, 0.55))
HILL: Colour = (0.30, 0.43, 0.38)
FIR: Colour = (0.16, 0.27, 0.22)
FIR_COUNT = 20


def sky(stage: Stage, bottom: int) -> None:
    """Sky down to a row, with few or many clouds."""
    zenith, low = choose(stage.rng, SKIES)
    shape = (bottom, stage.width)
    hidden, lit = clouds(stage.rng, shape, stage.rng.uniform(0.15, 0.75))
    cloud = mix(colour(tint(low, 0.84)), colour((0.99, 0.98, 0.97)), lit)
    stage.haze = low
    stage.lay("sky", 0, mix(ramp(shape, zenith, low), cloud, 0.9 * hidden))


def hills(stage: Stage, foot: int, rise: float, distance: float, name: str = "trees", paint: Colour = HILL) -> None:
    """Rolling hills that end at row ``foot`` and rise to a share of the height; far ones take the colour of the air."""
    profile = value_noise(stage.rng, (1, stage.width), stage.width / 2, octaves=3)[0]
    shade = value_noise(stage.rng, stage.shape, stage.height / 12, octaves=4)
    picture = speckle(stage.aerial(paint, distance), shade, 0.12)
    stage.silhouette(name, foot, foot - stage.height * rise * (1 + 0.6 * profile), picture)


def forest(stage: Stage, foot: int, rise: float, distance: float) -> None:
    """A line of round trees that ends at row ``foot``."""
    bumps = value_noise(stage.rng, (1, stage.width), stage.height * 0.28, octaves=5)[0]
    clumps = value_noise(stage.rng, stage.shape, stage.height / 10, octaves=2)
    leaves = value_noise(stage.rng, stage.shape, stage.height / 28, octaves=3)
    towards = (2, -2 if stage.light.side < 0 else 2)
    lit = (
        0.5 * clumps
        - 0.5 * np.roll(clumps, (5, towards[1] * 2), axis=(0, 1))
        + leaves
        - np.roll(leaves, towards, (0, 1))
    )
    paint = stage.aerial(choose(stage.rng, FOLIAGE), distance)
    picture = speckle(paint, 0.35 * lit + 0.16 * leaves + 0.12 * clumps, 1 - 0.6 * distance)
    stage.silhouette("trees", foot, foot - stage.height * rise * (1 + 0.5 * np.abs(bumps)), picture)


def firs(stage: Stage, foot: int, rise: float, distance: float) -> None:
    """A row of fir trees that ends at row ``foot``."""
    step = stage.width / (FIR_COUNT - 3)
    places = (np.arange(-1, FIR_COUNT - 1) + stage.rng.uniform(-0.5, 0.5, FIR_COUNT)) * step
    tall = stage.height * rise * stage.rng.uniform(0.6, 1.25, FIR_COUNT)
    slope = np.abs(np.arange(stage.width, dtype=np.float32)[None] - places[:, None]) * 3.2
    jag = value_noise(stage.rng, (1, stage.width), stage.height / 20, octaves=3)[0] * stage.height * 0.02
    top = foot - np.maximum((tall[:, None] - slope).max(axis=0), stage.height * rise * 0.25) - jag
    needles = value_noise(stage.rng, stage.shape, stage.height / 18, octaves=4, stretch=0.7)
    stage.silhouette("trees", foot, top.astype(np.float32), speckle(stage.aerial(FIR, distance), needles, 0.35))


def ground(stage: Stage, name: str, top: int, paint: Colour, *, cell: float, stretch: float, rough: float) -> None:
    """Ground from row ``top`` to the picture's lower edge; see ``ground_noise`` for its grain."""
    shape = (stage.height - top, stage.width)
    noise = ground_noise(stage.rng, shape, cell=cell, stretch=stretch)
    patches = ground_noise(stage.rng, shape, cell=cell * 8, stretch=2.0)
    red, green, blue = stage.aerial(paint, 0.35).tolist()
    strip = ramp(shape, (red, green, blue), tint(paint, 0.97))
    stage.lay(name, top, speckle(strip, rough * noise + 0.09 * patches, 1))


def grass(stage: Stage, top: int) -> None:
    """Meadow from row ``top`` on."""
    ground(stage, "grass", top, choose(stage.rng, GRASS), cell=0.045, stretch=0.45, rough=0.25)


def sand(stage: Stage, top: int) -> None:
    """Sand from row ``top`` on."""
    ground(stage, "sand", top, choose(stage.rng, SAND), cell=0.03, stretch=2.5, rough=0.09)


def snow(stage: Stage, top: int) -> None:
    """Snow from row ``top`` on."""
    ground(stage, "snow", top, choose(stage.rng, SNOW), cell=0.12, stretch=2.5, rough=0.06)


def water(stage: Stage, top: int, bottom: int) -> None:
    """Water between two rows that mirrors what is above it."""
    shape = (bottom - top, stage.width)
    ripples = ground_noise(stage.rng, shape, cell=0.05, stretch=6.0, horizon=0.12)
    seen = _mirrored(stage.image, top, ripples)
    deep = np.broadcast_to(np.linspace(0.35, 0.85, shape[0], dtype=np.float32)[:, None], shape)
    strip = speckle(mix(seen, colour(choose(stage.rng, WATER)), deep), ripples, 0.2)
    glints = 0.3 * smoothstep(ripples, 0.7, 1.1)
    stage.lay("water", top, mix(strip, colour((1, 1, 1)), glints))


def surf(stage: Stage, shore: int) -> None:
    """Foam along row ``shore``, and wet sand below it."""
    foam = max(2, stage.height // 60)
    edge = stage.image[shore - foam : shore + foam]
    stage.image[shore - foam : shore + foam] = 0.4 * edge + 0.57
    stage.image[shore + foam : shore + 5 * foam] *= 0.86


def _mirrored(image: Field, top: int, ripples: Field) -> Field:
    """What the water below row ``top`` mirrors, (h, W, 3), its lines bent by ripples (h, W)."""
    height, width = ripples.shape
    rows = top - 1 - 0.9 * np.arange(height, dtype=np.float32)[:, None] + ripples * height * 0.12
    columns = np.arange(width, dtype=np.float32)[None] + ripples * 3
    above = np.clip(rows, 0, max(top - 1, 0)).astype(np.float32)
    return as_field(cv2.remap(image, as_field(columns), above, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
