"""Car, bus, train and boat.

They share their paints and plain panels; wheels, rows of windows, a train's nose and a boat's sail tell them apart.
"""

import numpy as np

from weakseg.data.scenes.brush import Brush, Points, box, curve, ellipse, polygon, smooth
from weakseg.data.scenes.palette import DARK, WHITE, choose, tint
from weakseg.data.scenes.textures import Colour

PAINTS: tuple[Colour, ...] = (
    (0.74, 0.16, 0.15),
    (0.16, 0.34, 0.62),
    (0.88, 0.70, 0.22),
    (0.20, 0.46, 0.36),
    (0.86, 0.86, 0.84),
    (0.30, 0.32, 0.36),
    (0.90, 0.48, 0.20),
)
GLASS: Colour = (0.16, 0.22, 0.29)
SHEEN: Colour = (0.72, 0.82, 0.90)
RUBBER: Colour = (0.09, 0.09, 0.10)
METAL: Colour = (0.68, 0.69, 0.71)
LAMP: Colour = (1.0, 0.95, 0.76)
RED_LAMP: Colour = (0.80, 0.12, 0.10)


def car(brush: Brush, rng: np.random.Generator) -> None:
    """A car seen from the side."""
    paint = choose(rng, PAINTS)
    rear = rng.uniform(-0.95, -0.6)
    brush.fill(box(-1.15, 0.12, 1.15, 0.36), RUBBER, volume=0)
    roof = ((rear - 0.2, 0.6), (rear + 0.16, 0.95), (-0.2, 1.0), (0.2, 0.96), (0.66, 0.63))
    shell = smooth(
        (-1.3, 0.3),
        (-1.28, 0.52),
        *roof,
        (1.14, 0.56),
        (1.3, 0.42),
        (1.29, 0.22),
        (0.9, 0.17),
        (-0.9, 0.17),
        (-1.27, 0.2),
    )
    brush.fill(shell, paint, volume=0.45, fade=0.12)
    brush.fill(
        smooth((-1.1, 0.54), (-0.3, 0.57), (0.9, 0.55), (0.9, 0.52), (-0.3, 0.53), (-1.1, 0.51)),
        WHITE,
        volume=0,
        opacity=0.35,
    )
    _pane(brush, polygon((rear + 0.0, 0.62), (rear + 0.22, 0.88), (-0.16, 0.91), (-0.16, 0.62)))
    _pane(brush, polygon((-0.09, 0.62), (-0.09, 0.91), (0.18, 0.88), (0.5, 0.62)))
    for x in (-0.13, 0.5):
        brush.line(curve((x, 0.6), (x + 0.01, 0.25)), 0.015, tint(paint, 0.55))
    brush.fill(box(-0.28, 0.5, -0.17, 0.53, 0.01), tint(paint, 0.5), volume=0)
    brush.fill(ellipse(1.18, 0.44, 0.09, 0.055), LAMP, volume=0.2)
    brush.fill(ellipse(-1.24, 0.46, 0.05, 0.06), RED_LAMP, volume=0.2)
    for x in (-0.82, 0.82):
        brush.fill(ellipse(x, 0.25, 0.27, 0.26), tint(paint, 0.3), volume=0)
        _wheel(brush, x, 0.22, 0.22)


def bus(brush: Brush, rng: np.random.Generator) -> None:
    """A bus seen from the side: a long box with a row of windows."""
    paint, stripe = _liveries(rng)
    brush.fill(box(-1.08, 0.1, 1.08, 0.3), RUBBER, volume=0)
    brush.fill(box(-1.16, 0.15, 1.16, 1.0, 0.09), paint, volume=0.3, fade=0.1)
    brush.fill(box(-1.15, 0.36, 1.15, 0.43), stripe, volume=0)
    brush.fill(box(-1.1, 0.95, 1.1, 0.99, 0.02), WHITE, volume=0, opacity=0.4)
    for left in np.linspace(-1.06, 0.42, 6):
        _pane(brush, box(left, 0.53, left + 0.25, 0.86, 0.03))
    _pane(brush, box(0.75, 0.22, 0.93, 0.86, 0.02))
    brush.line(curve((0.84, 0.22), (0.84, 0.86)), 0.015, tint(paint, 0.6))
    _pane(brush, polygon((1.0, 0.48), (1.0, 0.86), (1.14, 0.86), (1.16, 0.48)))
    brush.fill(box(0.72, 0.89, 1.12, 0.95, 0.01), (0.98, 0.72, 0.2), volume=0)
    brush.fill(ellipse(1.13, 0.29, 0.035, 0.05), LAMP, volume=0)
    brush.fill(box(-1.16, 0.24, -1.12, 0.34), RED_LAMP, volume=0)
    for x in (-0.68, 0.56):
        brush.fill(ellipse(x, 0.19, 0.21, 0.2), tint(paint, 0.3), volume=0)
        _wheel(brush, x, 0.165, 0.165)


def train(brush: Brush, rng: np.random.Generator) -> None:
    """A train: an engine with a sloping nose, and plain carriages that mostly leave the picture."""
    paint, stripe = _liveries(rng)
    for offset in (-5.75, -3.55, -1.35):
        _carriage(brush.at(offset, 0), paint, stripe)
    engine = smooth(
        (-0.2, 0.2), (-0.2, 0.98), (0.2, 1.0), (0.95, 0.98), (1.35, 0.82), (1.62, 0.45), (1.66, 0.22), (1.2, 0.16)
    )
    brush.fill(box(-0.15, 0.06, 1.5, 0.26), RUBBER, volume=0)
    brush.fill(engine, paint, volume=0.45, fade=0.1)
    brush.fill(
        smooth((1.0, 0.95), (1.36, 0.81), (1.63, 0.45), (1.66, 0.22), (1.42, 0.18), (1.3, 0.45), (1.1, 0.75)),
        stripe,
        volume=0.4,
    )
    _pane(brush, polygon((1.06, 0.9), (1.33, 0.79), (1.47, 0.6), (1.2, 0.6)))
    _pane(brush, box(0.74, 0.6, 0.98, 0.85, 0.03))
    brush.fill(box(-0.16, 0.36, 1.2, 0.43), stripe, volume=0)
    for left in (-0.05, 0.3):
        _pane(brush, box(left, 0.55, left + 0.26, 0.82, 0.03))
    for x, y, radius in ((1.56, 0.36, 0.06), (1.44, 0.36, 0.045)):
        brush.fill(ellipse(x, y, radius, radius), LAMP, volume=0)
    _bogies(brush, (0.1, 1.1))


def _carriage(brush: Brush, paint: Colour, stripe: Colour) -> None:
    brush.fill(box(-1.0, 0.06, 1.2, 0.3), RUBBER, volume=0)
    brush.fill(box(-0.95, 0.18, 1.1, 0.98, 0.08), paint, volume=0.3, fade=0.1)
    brush.fill(box(-0.95, 0.36, 1.1, 0.43), stripe, volume=0)
    brush.fill(box(-0.9, 0.93, 1.05, 0.97, 0.02), WHITE, volume=0, opacity=0.3)
    for left in np.linspace(-0.55, 0.5, 4):
        _pane(brush, box(left, 0.55, left + 0.25, 0.82, 0.03))
    brush.fill(box(-0.82, 0.2, -0.66, 0.84, 0.02), tint(paint, 0.7), volume=0)
    _bogies(brush, (-0.6, 0.75))


def _bogies(brush: Brush, places: tuple[float, ...]) -> None:
    for place in places:
        for x in (place - 0.17, place + 0.17):
            brush.fill(ellipse(x, 0.12, 0.12, 0.12), (0.24, 0.23, 0.23), volume=0.5)
            brush.fill(ellipse(x, 0.12, 0.05, 0.05), METAL, volume=0)


def sailing_boat(brush: Brush, rng: np.random.Generator) -> None:
    """A boat under sail."""
    paint, stripe = _liveries(rng)
    cloth = choose(rng, ((0.95, 0.93, 0.88), (0.95, 0.93, 0.88), (0.84, 0.36, 0.24), (0.93, 0.80, 0.45)))
    brush.fill(
        smooth((0.09, 0.95), (0.32, 0.6), (0.56, 0.27), (0.3, 0.25), (0.08, 0.27)), tint(cloth, 0.94), volume=0.5
    )
    brush.fill(
        smooth((-0.01, 0.98), (-0.03, 0.6), (-0.02, 0.28), (-0.3, 0.27), (-0.52, 0.3), (-0.25, 0.62)), cloth, volume=0.5
    )
    for y, left in ((0.45, -0.36), (0.63, -0.24), (0.8, -0.12)):
        brush.line(curve((-0.03, y), (left, y - 0.02)), 0.008, tint(cloth, 0.7))
    brush.line(curve((0.03, 0.15), (0.03, 1.0)), 0.03, (0.42, 0.28, 0.17))
    brush.line(curve((0.03, 0.27), (-0.54, 0.29)), 0.025, (0.42, 0.28, 0.17))
    _hull(brush, 0.62, 0.2, paint, stripe)


def fishing_boat(brush: Brush, rng: np.random.Generator) -> None:
    """A small boat with a cabin."""
    paint, stripe = _liveries(rng)
    brush.line(curve((-0.3, 0.4), (-0.3, 1.0)), 0.035, (0.42, 0.28, 0.17))
    brush.line(curve((-0.3, 0.96), (0.85, 0.42)), 0.014, (0.25, 0.2, 0.18))
    brush.line(curve((-0.3, 0.96), (-0.8, 0.38)), 0.014, (0.25, 0.2, 0.18))
    brush.fill(box(-0.5, 0.3, 0.22, 0.74, 0.04), (0.92, 0.90, 0.85), volume=0.4)
    brush.fill(box(-0.57, 0.72, 0.29, 0.8, 0.03), stripe, volume=0.4)
    for left in (-0.42, -0.17, 0.06):
        _pane(brush, box(left, 0.48, left + 0.16, 0.66, 0.02))
    _hull(brush, 0.95, 0.36, paint, stripe)


def _hull(brush: Brush, half: float, height: float, paint: Colour, stripe: Colour) -> None:
    deck = ((-half, height * 0.95), (-half * 0.3, height * 0.82), (half * 0.4, height * 0.88), (half, height * 1.15))
    sides = ((half * 0.78, height * 0.3), (half * 0.68, 0.0), (-half * 0.78, 0.0), (-half * 0.92, height * 0.4))
    brush.fill(smooth(*deck, *sides), paint, volume=0.6)
    band = curve(
        (-half * 0.95, height * 0.82), (-half * 0.3, height * 0.68), (half * 0.4, height * 0.74), (half * 0.92, height)
    )
    brush.line(band, height * 0.16, stripe)
    brush.fill(box(-half * 0.8, 0.0, half * 0.7, height * 0.16), tint(paint, 0.55), volume=0)


def _liveries(rng: np.random.Generator) -> tuple[Colour, Colour]:
    first = int(rng.integers(len(PAINTS)))
    return PAINTS[first], choose(rng, (WHITE, PAINTS[(first + 2) % len(PAINTS)], tint(PAINTS[first], 0.6)))


def _pane(brush: Brush, outline: Points) -> None:
    brush.fill(outline, GLASS, volume=0, fade=-0.25)
    low, high = outline.min(axis=0), outline.max(axis=0)
    width, height = high - low
    gleam = polygon(
        (low[0] + 0.2 * width, low[1] + 0.2 * height),
        (low[0] + 0.45 * width, low[1] + 0.2 * height),
        (low[0] + 0.75 * width, high[1] - 0.12 * height),
        (low[0] + 0.5 * width, high[1] - 0.12 * height),
    )
    brush.fill(gleam, SHEEN, volume=0, opacity=0.4)


def _wheel(brush: Brush, x: float, y: float, radius: float) -> None:
    brush.fill(ellipse(x, y, radius, radius), RUBBER, volume=0.3)
    brush.fill(ellipse(x, y, radius * 0.62, radius * 0.62), METAL, volume=0.5)
    for turn in np.linspace(0, 2 * np.pi, 5, endpoint=False):
        dot = x + radius * 0.36 * np.cos(turn), y + radius * 0.36 * np.sin(turn)
        brush.fill(ellipse(dot[0], dot[1], radius * 0.11, radius * 0.11), DARK, volume=0)
    brush.fill(ellipse(x, y, radius * 0.16, radius * 0.16), DARK, volume=0)
