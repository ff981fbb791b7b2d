"""What a saliency detector that makes mistakes might answer."""

from collections.abc import Sequence

import numpy as np

from weakseg.data.scenes.scene import SCENE_CLASSES, Image
from weakseg.data.scenes.textures import Field, enlarge, shrink, smoothstep, soften, value_noise

OVERLOOKED = {"plant": 0.5, "boat": 0.8}
SEEN_FIRST, SEEN_LATER = 0.97, 0.72


def imperfect_saliency(
    objects: Sequence[tuple[int, Field]], bright: Field, cast: Field, rng: np.random.Generator
) -> Image:
    """Blur the true objects, lose some of them or a part of them, and add what is not an object.

    Args:
        objects: For each object its class and (H, W) the share of each pixel that it covers.
        bright: (H, W) in [0, 1], decoration that may be taken for an object.
        cast: (H, W) in [0, 1], shadows and reflections that may be taken for a part of one.
        rng: Source of the mistakes.

    Returns:
        (H, W) uint8.
    """
    found = np.zeros_like(bright)
    order = sorted(range(len(objects)), key=lambda index: -float(objects[index][1].sum()))
    for rank, index in enumerate(order):
        kind, cover = objects[index]
        chance = OVERLOOKED.get(SCENE_CLASSES[kind], 1.0) * (SEEN_FIRST if rank == 0 else SEEN_LATER)
        strength = rng.uniform(0.8, 1.0) if rng.random() < chance else rng.uniform(0.0, 0.3)
        found = np.maximum(found, strength * cover * _lost_part(found.shape, rng))
    found = np.maximum(found, 0.9 * bright * (rng.random() < 0.7))
    found = np.maximum(found, rng.uniform(0.2, 0.75) * cast * (rng.random() < 0.5))
    return _as_detected(found, rng)


def _lost_part(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    """(H, W) that is 1 nearly everywhere, or in a third of the cases falls to a low value in some region."""
    noise = value_noise(rng, shape, shape[0] / 2, octaves=2)
    depth = rng.uniform(0.4, 0.9) if rng.random() < 0.35 else 0.0
    return 1 - depth * smoothstep(noise, 0.1, 0.7)


def _as_detected(found: Field, rng: np.random.Generator) -> Image:
    """Coarse, with soft edges and a faint glow that means nothing."""
    height, width = found.shape
    coarse = shrink(found, (max(height // 3, 1), max(width // 3, 1)))
    smooth = enlarge(soften(coarse, rng.uniform(0.4, 1.1)), (height, width))
    glow = np.clip(value_noise(rng, found.shape, height / 2, octaves=3), 0, 1) * rng.uniform(0, 0.22)
    return np.round(255 * np.clip(smoothstep(smooth, 0.05, 0.9) + glow, 0, 1)).astype(np.uint8)
