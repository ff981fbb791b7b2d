"""Procedural textures: fractal noise, skies, and noise laid on the ground in perspective."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Colour = tuple[float, float, float]


def as_field(values: NDArray[Any]) -> Field:
    """The array as float32, itself if it is that already."""
    return np.asarray(values, np.float32)


def value_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, *, octaves: int = 4, stretch: float = 1.0
) -> Field:
    """Fractal value noise: random grids, each twice as fine and half as strong as the one before.

    Args:
        rng: Source of the grids.
        shape: Height and width of the result.
        cell: Height in pixels of a cell of the coarsest grid.
        octaves: Number of grids; those finer than a pixel are left out.
        stretch: Width of a cell over its height.

    Returns:
        (H, W) with mean near 0 and nearly all values in [-1, 1].
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    strength = 1.0
    for octave in range(octaves):
        size = cell / 2**octave
        if octave and size < 1:
            break
        rows, columns = int(height / size) + 2, int(width / (size * stretch)) + 2
        grid = rng.random((rows, columns), np.float32) * 2 - 1
        total += strength * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        strength /= 2
    return total


def smoothstep(values: Field, low: float, high: float) -> Field:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return as_field(t * t * (3 - 2 * t))


def mix(first: Field, second: Field, weight: Field) -> Field:
    """Blend of two (H, W, 3) pictures or colours, ``weight`` (H, W) being that of the second."""
    share = weight[..., None]
    return first * (1 - share) + second * share


def colour(value: Colour) -> Field:
    """A colour as (3,) float32."""
    return np.array(value, np.float32)


def ramp(shape: tuple[int, int], top: Colour, bottom: Colour) -> Field:
    """(H, W, 3) vertical gradient from ``top`` to ``bottom``."""
    height, width = shape
    column = mix(colour(top), colour(bottom), np.linspace(0, 1, height, dtype=np.float32)[:, None])
    return np.repeat(column, width, axis=1)


def speckle(picture: Field, noise: Field, amount: float) -> Field:
    """Multiply a picture (H, W, 3) by noise (H, W) around 1."""
    return picture * (1 + amount * noise)[..., None]


def plane_coordinates(shape: tuple[int, int], horizon: float, tile: int) -> tuple[Field, Field]:
    """Where each pixel of a picture looks at a horizontal plane below the camera.

    Args:
        shape: Height and width of the strip of ground; its first row is ``horizon`` rows below the true horizon.
        horizon: Rows between the vanishing line and the strip's first row, above 0.
        tile: Pixels of the plane that the strip's last row shows across.

    Returns:
        Two (H, W) fields: across and away, in pixels of the plane.
    """
    height, width = shape
    below = np.arange(height, dtype=np.float32)[:, None] + horizon
    depth = (height + horizon) / below
    across = (np.arange(width, dtype=np.float32)[None] / width - 0.5) * depth * tile
    away = np.repeat(depth * tile / 2, width, axis=1)
    return as_field(across), as_field(away)


def ground_noise(
    rng: np.random.Generator, shape: tuple[int, int], *, cell: float, stretch: float = 1.0, horizon: float = 0.15
) -> Field:
    """Fractal noise on the ground: coarse at the picture's bottom, finer and fainter towards the horizon.

    Args:
        rng: Source of the noise.
        shape: Height and width of the strip of ground.
        cell: Size of the coarsest grain at the bottom, as a share of the strip's width.
        stretch: Width of a grain over its height.
        horizon: Distance of the vanishing line above the strip, as a share of its height.

    Returns:
        (H, W) with mean near 0.
    """
    tile = shape[1]
    across, away = plane_coordinates(shape, horizon * shape[0], tile)
    noise = value_noise(rng, (tile, tile), cell * tile, octaves=5, stretch=stretch)
    seen = cv2.remap(noise, across, away, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return seen * np.linspace(0.25, 1, shape[0], dtype=np.float32)[:, None]


def clouds(rng: np.random.Generator, shape: tuple[int, int], cover: float) -> tuple[Field, Field]:
    """Clouds: how much of the sky they hide and how brightly they are lit from above, both (H, W) in [0, 1]."""
    noise = value_noise(rng, shape, shape[1] / 4, octaves=6, stretch=2.2)
    threshold = 1 - 1.6 * cover
    hidden = smoothstep(noise, threshold, threshold + 0.75)
    step = max(2, shape[0] // 25)
    above = np.roll(noise, step, axis=0)
    lit = np.clip(0.75 + 0.6 * (noise - above), 0, 1)
    return hidden, lit


def shrink(picture: Field, size: tuple[int, int]) -> Field:
    """Each pixel the mean of those it replaces; ``size`` is the new height and width."""
    return as_field(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA))


def enlarge(picture: Field, size: tuple[int, int]) -> Field:
    """Linear interpolation to a new height and width."""
    return as_field(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR))


def soften(picture: Field, sigma: float) -> Field:
    """Gaussian blur; nothing happens below a fifth of a pixel."""
    return picture if sigma < 0.2 else as_field(cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))
