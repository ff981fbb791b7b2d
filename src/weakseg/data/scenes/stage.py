"""A picture of a place that is painted from the sky down to the ground, with the name of what each pixel shows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakseg.data.scenes.brush import Light, Points, rasterise
from weakseg.data.scenes.scene import SCENE_CONTEXTS
from weakseg.data.scenes.textures import Colour, Field, colour, mix


@dataclass(frozen=True)
class Backdrop:
    """A painted place.

    Attributes:
        image: (H, W, 3) float32.
        context: (H, W) uint8 index into ``SCENE_CONTEXTS``.
        bright: (H, W) float32 in [0, 1], decoration that might catch the eye.
        feet: For each support (sky, water, rails, ground) the shares of the height between which objects' feet are.
    """

    image: Field
    context: NDArray[np.uint8]
    bright: Field
    feet: dict[str, tuple[float, float]]


class Stage:
    """Where a place is painted; the functions of ``nature`` and ``built`` do so.

    Attributes:
        shape: Height and width.
        light: Light of the scene.
        rng: Source of all variation.
        image: (H, W, 3) float32.
        context: (H, W) uint8 index into ``SCENE_CONTEXTS``.
        bright: (H, W) float32, decoration that might catch the eye.
        haze: Colour that distance lends to things.
    """

    def __init__(self, shape: tuple[int, int], light: Light, rng: np.random.Generator) -> None:
        self.shape = shape
        self.light = light
        self.rng = rng
        self.image: Field = np.zeros((*shape, 3), np.float32)
        self.context: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self.bright: Field = np.zeros(shape, np.float32)
        self.haze: Colour = (0.8, 0.85, 0.9)

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return self.shape[1]

    def backdrop(self, **feet: tuple[float, float]) -> Backdrop:
        """What has been painted, and where objects have their feet."""
        return Backdrop(self.image, self.context, self.bright, feet)

    def lay(self, name: str, top: int, strip: Field) -> None:
        """Paint a strip (h, W, 3) from row ``top`` on."""
        rows = slice(top, top + strip.shape[0])
        self.image[rows] = strip
        self.context[rows] = SCENE_CONTEXTS.index(name)

    def cover(self, name: str, cover: Field, picture: Field) -> None:
        """Paint a picture (H, W, 3) where ``cover`` (H, W) says so."""
        self.image = mix(self.image, picture, cover)
        self.context[cover > 0.5] = SCENE_CONTEXTS.index(name)

    def silhouette(self, name: str, foot: int, top: Field, picture: Field) -> None:
        """Paint a picture (H, W, 3) between a skyline, for each column its row, and row ``foot``."""
        rows = np.arange(self.height, dtype=np.float32)[:, None]
        cover = np.clip(rows - top[None] + 0.5, 0, 1).astype(np.float32) * (rows < foot)
        self.cover(name, cover, picture)

    def paint(self, outline: Points, paint: Colour, opacity: float = 1.0) -> None:
        """Fill an outline, given in pixels; the context below stays."""
        placed = rasterise(outline, self.shape)
        if placed is None:
            return
        mask, window, inner = placed
        cover = mask[inner][..., None] * np.float32(opacity)
        target = self.image[window]
        target *= 1 - cover
        target += cover * colour(paint)

    def catch_eye(self, outline: Points) -> None:
        """Note that what is inside an outline, in pixels, might be taken for an object."""
        placed = rasterise(outline, self.shape)
        if placed is not None:
            mask, window, inner = placed
            self.bright[window] = np.maximum(self.bright[window], mask[inner])

    def aerial(self, paint: Colour, distance: float) -> Field:
        """A colour (3,) as it looks from a distance between 0 and 1."""
        return (1 - distance) * colour(paint) + distance * colour(self.haze)
