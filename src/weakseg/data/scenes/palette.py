"""Colours that several figures share, and how to pick and change them."""

from typing import TypeVar

import numpy as np

from weakseg.data.scenes.textures import Colour

T = TypeVar("T")

DARK: Colour = (0.10, 0.08, 0.08)
WHITE: Colour = (0.97, 0.96, 0.94)


def choose(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def tint(paint: Colour, factor: float) -> Colour:
    """A lighter (above 1) or darker colour."""
    red, green, blue = (min(1.0, channel * factor) for channel in paint)
    return red, green, blue
