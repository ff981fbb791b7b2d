"""Every class with its figures: how it is drawn, how wide it is, what carries it, where it is found."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weakseg.data.scenes import animals, things, vehicles
from weakseg.data.scenes.brush import Brush
from weakseg.data.scenes.scene import SCENE_CLASSES


@dataclass(frozen=True)
class Figure:
    """One way to draw a class.

    Attributes:
        draw: Draws it, one unit tall, with its foot at the origin.
        left: Extent to the left of the origin, in units.
        right: Extent to the right.
        area: Smallest and largest share of the picture that its bounding box covers as a main object.
        support: What carries it: ground, water, rails or sky.
        leaves: Whether its left part may leave the picture.
    """

    draw: Callable[[Brush, np.random.Generator], None]
    left: float
    right: float
    area: tuple[float, float]
    support: str = "ground"
    leaves: bool = False


FIGURES: dict[str, tuple[Figure, ...]] = {
    "balloon": (Figure(things.balloon, 0.39, 0.39, (0.2, 0.42), "sky"),),
    "bird": (Figure(animals.bird, 0.92, 0.66, (0.24, 0.42)),),
    "boat": (
        Figure(vehicles.sailing_boat, 0.62, 0.62, (0.2, 0.42), "water"),
        Figure(vehicles.fishing_boat, 0.96, 0.96, (0.2, 0.4), "water"),
    ),
    "bus": (Figure(vehicles.bus, 1.16, 1.16, (0.2, 0.4)),),
    "car": (Figure(vehicles.car, 1.3, 1.3, (0.18, 0.36)),),
    "cat": (
        Figure(animals.sitting_cat, 0.32, 0.44, (0.2, 0.42)),
        Figure(animals.standing_cat, 0.8, 0.86, (0.24, 0.44)),
    ),
    "dog": (
        Figure(animals.sitting_dog, 0.32, 0.44, (0.2, 0.42)),
        Figure(animals.standing_dog, 0.8, 0.86, (0.24, 0.44)),
    ),
    "plant": (
        Figure(things.leafy_plant, 0.45, 0.45, (0.2, 0.42)),
        Figure(things.bladed_plant, 0.42, 0.42, (0.2, 0.42)),
    ),
    "sheep": (Figure(animals.sheep, 0.66, 0.86, (0.22, 0.42)),),
    "train": (Figure(vehicles.train, 2.6, 1.66, (0.3, 0.42), "rails", leaves=True),),
}

HABITATS: dict[str, tuple[str, ...]] = {
    "balloon": ("heaven", "meadow", "lake", "snowfield", "beach", "country road"),
    "bird": ("meadow", "snowfield", "beach", "street"),
    "boat": ("lake", "beach", "lake"),
    "bus": ("street", "country road"),
    "car": ("street", "country road", "snowfield"),
    "cat": ("room", "meadow", "street"),
    "dog": ("room", "meadow", "beach", "snowfield"),
    "plant": ("room", "room", "street", "meadow"),
    "sheep": ("meadow", "snowfield", "country road"),
    "train": ("railway",),
}
VISITORS: dict[str, tuple[str, ...]] = {"railway": ("bird", "sheep")}


def neighbours(place: str) -> tuple[str, ...]:
    """Classes that are found at a place, be it as a visitor only: without a train there are no rails."""
    return tuple(name for name in SCENE_CLASSES if place in HABITATS[name] or name in VISITORS.get(place, ()))
