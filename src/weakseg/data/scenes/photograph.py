"""What light and a camera do: shadows, reflections, the lens, exposure and noise."""

import cv2
import numpy as np

from weakseg.data.scenes.brush import Light
from weakseg.data.scenes.scene import Image
from weakseg.data.scenes.textures import Field, as_field, colour, shrink, soften, value_noise

SHADOW: Field = colour((0.05, 0.06, 0.10))


def shadow(alpha: Field, foot: float, size: float, light: Light) -> Field:
    """Shadow that an object casts on the ground, and the darkness where it touches it.

    Args:
        alpha: (H, W) opacity of the object.
        foot: Row of its foot.
        size: Its height in pixels.
        light: Light of the scene.

    Returns:
        (H, W) in [0, 1].
    """
    slant, length = 0.9 * light.side * (1.2 - light.height), 0.35 * (1.3 - light.height)
    cast = _warp(alpha, ((1, slant, -slant * foot), (0, length, foot * (1 - length))))
    contact = _warp(alpha, ((1, 0, 0), (0, 0.07, foot * 0.93 + size * 0.02)))
    blur = size * (0.02 + 0.05 * (1 - light.hardness))
    dark = 0.62 * light.hardness * soften(cast, blur) + 0.55 * soften(contact, size * 0.025)
    return np.minimum(dark, 0.8)


def reflection(layer: Field, foot: float, rng: np.random.Generator) -> Field:
    """An object's image in the water below it, broken by ripples: (H, W, 4), multiplied by its opacity."""
    height, width = layer.shape[:2]
    ripples = value_noise(rng, (height, width), height / 30, octaves=3, stretch=5)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = ripples * height * 0.012
    seen = cv2.remap(layer, columns + wave, 2 * foot - rows + wave, cv2.INTER_LINEAR)
    depth = np.clip((rows - foot) / (0.5 * height), 0, 1)
    strength = 0.62 * (rows >= foot - 1) * (1 - depth) * (1 + 0.3 * ripples)
    return as_field(cv2.blur(seen, (3, 5)) * np.clip(strength, 0, 0.8)[..., None])


def darken(picture: Field, amount: Field) -> Field:
    """Lay a shadow of strength (H, W) over a picture."""
    return picture * (1 - amount[..., None]) + SHADOW * amount[..., None]


def over(picture: Field, layer: Field) -> Field:
    """Lay (H, W, 4) colours, multiplied by their opacity, over a picture."""
    return picture * (1 - layer[..., 3:]) + layer[..., :3]


def expose(picture: Field, size: tuple[int, int], light: Light, rng: np.random.Generator) -> Image:
    """The picture as a small camera delivers it, (H, W, 3) uint8 of the given height and width."""
    seen = soften(picture, rng.uniform(0.2, 0.75) * picture.shape[0] / 240)
    small = shrink(seen, size)
    small = small * (colour(light.tint) * rng.uniform(1.0, 1.18)) * _vignette(size, rng.uniform(0.05, 0.3))[..., None]
    contrast = rng.uniform(0.0, 0.35)
    small = np.clip(small, 0, 1)
    small = (1 - contrast) * small + contrast * small * small * (3 - 2 * small)
    small = small + rng.normal(0, rng.uniform(0.002, 0.011), (*size, 1)).astype(np.float32)
    small = small + rng.normal(0, 0.004, (*size, 3)).astype(np.float32)
    return np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)


def _vignette(size: tuple[int, int], strength: float) -> Field:
    y, x = (np.linspace(-1, 1, length, dtype=np.float32) for length in size)
    return 1 - np.float32(strength / 2) * (y[:, None] ** 2 + x[None] ** 2)


def _warp(alpha: Field, matrix: tuple[tuple[float, ...], tuple[float, ...]]) -> Field:
    return as_field(cv2.warpAffine(alpha, np.array(matrix, np.float64), alpha.shape[::-1], flags=cv2.INTER_LINEAR))
