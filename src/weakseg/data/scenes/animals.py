"""Cat, dog, bird and sheep.

Cats and dogs share their bodies and coats, so that hardly more than the face tells them apart: a classifier needs no
more of the animal, and a localisation map that is made from it finds no more.
"""

import numpy as np

from weakseg.data.scenes.brush import Brush, Points, curve, ellipse, limb, mirror, polygon, ribbon, smooth, symmetric
from weakseg.data.scenes.palette import DARK, WHITE, choose, tint
from weakseg.data.scenes.textures import Colour

COATS: tuple[Colour, ...] = (
    (0.84, 0.55, 0.26),
    (0.52, 0.37, 0.25),
    (0.27, 0.26, 0.28),
    (0.88, 0.79, 0.63),
    (0.60, 0.58, 0.56),
    (0.93, 0.91, 0.87),
)
PLUMAGE: tuple[tuple[Colour, Colour], ...] = (
    ((0.30, 0.50, 0.78), (0.93, 0.72, 0.48)),
    ((0.76, 0.24, 0.20), (0.93, 0.84, 0.74)),
    ((0.92, 0.76, 0.25), (0.96, 0.92, 0.75)),
    ((0.46, 0.36, 0.28), (0.86, 0.76, 0.64)),
    ((0.36, 0.55, 0.36), (0.88, 0.88, 0.62)),
    ((0.24, 0.26, 0.32), (0.90, 0.90, 0.90)),
)
WOOL: tuple[Colour, ...] = ((0.92, 0.89, 0.82), (0.86, 0.80, 0.70), (0.74, 0.70, 0.66), (0.48, 0.42, 0.38))
TORSO = (
    *((-0.56, 0.62), (-0.25, 0.68), (0.1, 0.67), (0.42, 0.8), (0.6, 0.62), (0.5, 0.38)),
    *((0.22, 0.32), (-0.12, 0.38), (-0.42, 0.34), (-0.58, 0.42)),
)
PINK: Colour = (0.88, 0.58, 0.56)
TONGUE: Colour = (0.90, 0.42, 0.45)
IRISES: tuple[Colour, ...] = ((0.62, 0.78, 0.28), (0.93, 0.76, 0.24), (0.40, 0.68, 0.80))
FUR = 0.10
BOTH_SIDES = (np.copy, mirror)


def sitting_cat(brush: Brush, rng: np.random.Generator) -> None:
    """A cat that sits and looks at us."""
    coat = choose(rng, COATS)
    _tail(brush, curve((0.2, 0.06), (0.36, 0.08), (0.43, 0.24), (0.36, 0.4)), 0.09, 0.06, coat)
    _sitting_body(brush, coat, rng)
    cat_face(brush.at(0, 0.7, 0.28, turn=rng.uniform(-0.12, 0.12)), coat, rng)


def sitting_dog(brush: Brush, rng: np.random.Generator) -> None:
    """A dog that sits and looks at us."""
    coat = choose(rng, COATS)
    _tail(brush, curve((0.2, 0.06), (0.34, 0.1), (0.42, 0.24)), 0.09, 0.04, coat)
    _sitting_body(brush, coat, rng)
    dog_face(brush.at(0, 0.72, 0.27, turn=rng.uniform(-0.12, 0.12)), coat, rng)


def standing_cat(brush: Brush, rng: np.random.Generator) -> None:
    """A cat on four legs, its face turned to us."""
    coat = choose(rng, COATS)
    _tail(brush, curve((-0.55, 0.58), (-0.78, 0.62), (-0.82, 0.86), (-0.7, 0.98)), 0.09, 0.06, coat)
    _standing_body(brush, coat, rng)
    cat_face(brush.at(0.5, 0.7, 0.32, turn=rng.uniform(-0.12, 0.12)), coat, rng)


def standing_dog(brush: Brush, rng: np.random.Generator) -> None:
    """A dog on four legs, its face turned to us."""
    coat = choose(rng, COATS)
    _tail(brush, curve((-0.55, 0.58), (-0.7, 0.68), (-0.76, 0.86)), 0.1, 0.04, coat)
    _standing_body(brush, coat, rng)
    dog_face(brush.at(0.5, 0.72, 0.31, turn=rng.uniform(-0.12, 0.12)), coat, rng)


def _sitting_body(brush: Brush, coat: Colour, rng: np.random.Generator) -> None:
    paw = choose(rng, (coat, tint(coat, 1.15), WHITE))
    back = smooth(
        (-0.16, 0.6), (0.16, 0.6), (0.25, 0.34), (0.3, 0.1), (0.22, 0.0), (-0.22, 0.0), (-0.3, 0.1), (-0.25, 0.34)
    )
    brush.fill(back, coat, volume=0.9, rough=FUR)
    for side in (-1, 1):
        brush.fill(ellipse(side * 0.2, 0.14, 0.11, 0.15, side * 0.25), coat, volume=0.6, rough=FUR)
        brush.fill(ellipse(side * 0.23, 0.035, 0.1, 0.04), paw, volume=0.6, rough=FUR)
    if rng.random() < 0.5:
        brush.fill(ellipse(0, 0.42, 0.1, 0.15), tint(coat, 1.25), volume=0.2, rough=FUR)
    for side in (-1, 1):
        brush.fill(limb((side * 0.075, 0.42), (side * 0.085, 0.06), 0.13, 0.11), coat, volume=0.5, rough=FUR)
        brush.fill(ellipse(side * 0.09, 0.035, 0.075, 0.04), paw, volume=0.6, rough=FUR)


def _standing_body(brush: Brush, coat: Colour, rng: np.random.Generator) -> None:
    paw = choose(rng, (coat, tint(coat, 1.15), WHITE))
    far = tint(coat, 0.7)
    stride = rng.uniform(-0.07, 0.07)
    for x, shift in ((-0.3, stride), (0.42, -stride)):
        brush.fill(limb((x, 0.45), (x + shift, 0.06), 0.15, 0.09), far, rough=FUR)
        brush.fill(ellipse(x + shift + 0.03, 0.04, 0.075, 0.04), tint(paw, 0.7), rough=FUR)
    brush.fill(smooth(*TORSO), coat, volume=1.0, rough=FUR)
    brush.fill(limb((0.3, 0.45), (0.3 + stride, 0.06), 0.19, 0.1), coat, volume=0.4, rough=FUR)
    brush.fill(limb((-0.46, 0.32), (-0.5 - stride, 0.06), 0.14, 0.09), coat, volume=0.5, rough=FUR)
    brush.fill(ellipse(-0.43, 0.46, 0.17, 0.22, 0.15), coat, volume=0.6, rough=FUR)
    for x in (0.33 + stride, -0.47 - stride):
        brush.fill(ellipse(x, 0.04, 0.085, 0.045), paw, volume=0.6, rough=FUR)


def _tail(brush: Brush, path: Points, width: float, tip: float, coat: Colour) -> None:
    brush.fill(ellipse(path[-1, 0], path[-1, 1], tip / 2, tip / 2), coat, volume=0.4, rough=FUR)
    brush.fill(ribbon(path, width, tip), coat, rough=FUR)


def cat_face(brush: Brush, coat: Colour, rng: np.random.Generator) -> None:
    """A cat's face of radius 1: pointed ears, slit eyes, whiskers."""
    iris = choose(rng, IRISES)
    for turn in BOTH_SIDES:
        brush.fill(turn(polygon((-0.98, 0.2), (-0.86, 1.22), (-0.1, 0.72))), coat, volume=0.4, rough=FUR)
        brush.fill(turn(polygon((-0.8, 0.45), (-0.76, 1.0), (-0.32, 0.68))), PINK, volume=0.2)
    skull = symmetric((0, 0.86), (0.66, 0.66), (1.02, -0.1), (0.6, -0.7), (0, -0.84))
    brush.fill(skull, coat, rough=FUR, volume=0.8)
    if rng.random() < 0.6:
        for x in (-0.26, 0.0, 0.26):
            brush.line(curve((x * 0.7, 0.42), (x, 0.8)), 0.07, tint(coat, 0.55), end=0.13, opacity=0.8)
    for side in (-1, 1):
        brush.fill(ellipse(side * 0.24, -0.42, 0.3, 0.24), tint(coat, 1.35), volume=0.5)
        _slit_eye(brush.at(side * 0.45, 0.12), side, iris)
    brush.fill(polygon((-0.14, -0.16), (0.14, -0.16), (0, -0.32)), PINK, volume=0.2)
    _mouth_and_whiskers(brush)


def _slit_eye(brush: Brush, side: int, iris: Colour) -> None:
    brush.fill(ellipse(0, 0, 0.27, 0.21, side * 0.25), DARK, volume=0)
    brush.fill(ellipse(0, 0, 0.23, 0.18, side * 0.25), iris, volume=0.3)
    brush.fill(ellipse(0, 0, 0.07, 0.18), DARK, volume=0)
    brush.fill(ellipse(0.08, 0.07, 0.05, 0.05), WHITE, volume=0)


def _mouth_and_whiskers(brush: Brush) -> None:
    for turn in BOTH_SIDES:
        brush.line(turn(curve((0, -0.3), (0.05, -0.48), (0.26, -0.52))), 0.05, DARK, opacity=0.8)
        for drop in (0.0, 0.13, 0.27):
            whisker = curve((0.35, -0.38 - drop / 2), (0.8, -0.36 - drop), (1.3, -0.42 - 1.5 * drop))
            brush.line(turn(whisker), 0.045, WHITE, end=0.02, opacity=0.9)


def dog_face(brush: Brush, coat: Colour, rng: np.random.Generator) -> None:
    """A dog's face of radius 1: drooping ears, long muzzle, big nose, perhaps a tongue."""
    skull = symmetric((0, 0.92), (0.6, 0.74), (0.82, 0.1), (0.6, -0.6), (0, -1.0))
    muzzle = symmetric((0, 0.75), (0.16, 0.2), (0.46, -0.35), (0.38, -0.82), (0, -0.98))
    brush.fill(skull, coat, rough=FUR, volume=0.8)
    brush.fill(muzzle, choose(rng, (tint(coat, 1.3), WHITE)), volume=0.7)
    if rng.random() < 0.6:
        tongue = smooth((-0.17, -0.68), (0.17, -0.68), (0.18, -1.1), (0, -1.25), (-0.18, -1.1))
        brush.fill(tongue, TONGUE, volume=0.6)
    ear = smooth((0.5, 0.86), (0.86, 0.74), (1.16, 0.1), (1.08, -0.55), (0.84, -0.6), (0.72, 0.0))
    for turn in BOTH_SIDES:
        brush.fill(turn(ear), tint(coat, 0.62), rough=FUR, volume=0.6)
        brush.line(turn(curve((0, -0.4), (0.08, -0.62), (0.36, -0.6))), 0.06, DARK, opacity=0.85)
    for side in (-1, 1):
        _round_eye(brush.at(side * 0.4, 0.2))
    nose = smooth((-0.28, -0.1), (0.28, -0.1), (0.22, -0.34), (0, -0.44), (-0.22, -0.34))
    brush.fill(nose, DARK, volume=0)
    brush.fill(ellipse(-0.06, -0.17, 0.11, 0.05), (0.55, 0.53, 0.55), volume=0, opacity=0.8)


def _round_eye(brush: Brush) -> None:
    brush.fill(ellipse(0, 0, 0.17, 0.19), DARK, volume=0)
    brush.fill(ellipse(0, -0.01, 0.12, 0.13), (0.34, 0.2, 0.1), volume=0)
    brush.fill(ellipse(0.05, 0.07, 0.055, 0.055), WHITE, volume=0)


def bird(brush: Brush, rng: np.random.Generator) -> None:
    """A bird seen from the side."""
    back, belly = choose(rng, PLUMAGE)
    lift = rng.uniform(-0.05, 0.08)
    for x in (-0.04, 0.1):
        brush.line(curve((x, 0.34), (x + 0.02, 0.18), (x, 0.02)), 0.045, (0.80, 0.52, 0.22))
        brush.line(curve((x - 0.08, 0.015), (x, 0.03), (x + 0.13, 0.01)), 0.04, (0.80, 0.52, 0.22))
    brush.fill(
        smooth((-0.36, 0.46), (-0.9, 0.34 + lift), (-0.94, 0.44 + lift), (-0.4, 0.62)),
        tint(back, 0.7),
        volume=0.4,
        rough=FUR,
    )
    trunk = smooth(
        (0.26, 0.98), (0.46, 0.82), (0.44, 0.55), (0.2, 0.29), (-0.16, 0.28), (-0.5, 0.47), (-0.3, 0.66), (0.02, 0.8)
    )
    brush.fill(trunk, back, volume=0.9, rough=FUR)
    brush.fill(
        smooth((0.4, 0.7), (0.42, 0.52), (0.18, 0.3), (-0.14, 0.29), (-0.1, 0.42), (0.16, 0.5)),
        belly,
        volume=0.5,
        rough=FUR,
    )
    _wing(brush, back)
    brush.fill(smooth((0.42, 0.88), (0.68, 0.79), (0.42, 0.74)), (0.95, 0.62, 0.15), volume=0.5)
    brush.line(curve((0.42, 0.79), (0.64, 0.788)), 0.018, DARK)
    brush.fill(ellipse(0.29, 0.85, 0.062, 0.062), WHITE, volume=0)
    brush.fill(ellipse(0.3, 0.85, 0.045, 0.045), DARK, volume=0)
    brush.fill(ellipse(0.315, 0.87, 0.015, 0.015), WHITE, volume=0)


def _wing(brush: Brush, back: Colour) -> None:
    brush.fill(
        smooth((0.16, 0.68), (0.18, 0.52), (-0.1, 0.42), (-0.62, 0.4), (-0.3, 0.62)), tint(back, 0.75), volume=0.7
    )
    for start, end in (((0.04, 0.58), (-0.52, 0.43)), ((0.02, 0.51), (-0.36, 0.42)), ((-0.02, 0.64), (-0.46, 0.5))):
        brush.line(curve(start, end), 0.02, tint(back, 0.45), opacity=0.8)


def sheep(brush: Brush, rng: np.random.Generator) -> None:
    """A sheep: a heap of curls, a smooth face and thin legs."""
    wool = choose(rng, WOOL)
    skin = choose(rng, ((0.16, 0.14, 0.14), (0.80, 0.70, 0.60)))
    for x, shade in ((-0.3, 0.7), (0.34, 0.7), (-0.42, 1.0), (0.22, 1.0)):
        brush.fill(limb((x, 0.4), (x + 0.01, 0.04), 0.1, 0.08), tint(skin, shade), volume=0.5)
        brush.fill(ellipse(x + 0.025, 0.035, 0.055, 0.035), tint(skin, 0.45), volume=0.5)
    _fleece(brush, wool, rng)
    head = brush.at(0.6, 0.7, 0.2, turn=rng.uniform(-0.2, 0.15))
    for turn in BOTH_SIDES:
        head.fill(turn(smooth((0.5, 0.45), (1.35, 0.5), (1.3, 0.15), (0.6, 0.05))), tint(skin, 0.9), volume=0.5)
    head.fill(
        smooth((-0.62, 0.6), (0.62, 0.6), (0.6, -0.2), (0.34, -1.05), (-0.34, -1.05), (-0.6, -0.2)), skin, volume=0.7
    )
    for side in (-1, 1):
        head.fill(ellipse(side * 0.36, 0.06, 0.15, 0.15), WHITE, volume=0)
        head.fill(ellipse(side * 0.34, 0.03, 0.1, 0.11), DARK, volume=0)
        head.fill(ellipse(side * 0.14, -0.82, 0.08, 0.06), tint(skin, 0.4), volume=0)
    for x in (-0.4, 0.4, 0.0):
        head.fill(ellipse(x, 0.68 + 0.1 * (x == 0), 0.36, 0.3), wool, volume=0.9, rough=FUR)


def _fleece(brush: Brush, wool: Colour, rng: np.random.Generator) -> None:
    trunk = ellipse(0, 0.58, 0.56, 0.32)
    brush.fill(trunk, tint(wool, 0.8), volume=0.6)
    ring = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    curls = [(0.5 * np.cos(a), 0.58 + 0.27 * np.sin(a)) for a in ring]
    curls += [(0.32 * np.cos(a), 0.58 + 0.15 * np.sin(a)) for a in ring[::2]] + [(0.0, 0.58)]
    for x, y in curls:
        radius = rng.uniform(0.11, 0.15)
        paint = tint(wool, rng.uniform(0.92, 1.04))
        brush.fill(
            ellipse(x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03), radius, radius * 0.9),
            paint,
            volume=0.7,
            rough=FUR,
        )
    brush.model(ellipse(0, 0.58, 0.66, 0.42), volume=0.5)
