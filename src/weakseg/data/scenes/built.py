"""Streets, houses and railways; walls and floors of rooms."""

import numpy as np

from weakseg.data.scenes.brush import box, polygon
from weakseg.data.scenes.nature import GRASS, SAND, SKIES, ground
from weakseg.data.scenes.palette import WHITE, choose, tint
from weakseg.data.scenes.stage import Stage
from weakseg.data.scenes.textures import Colour, Field, colour, ramp, speckle, value_noise

ASPHALT: tuple[Colour, ...] = ((0.41, 0.41, 0.43), (0.47, 0.46, 0.45), (0.35, 0.36, 0.39))
KERB: Colour = (0.68, 0.66, 0.62)
PLASTER: tuple[Colour, ...] = (
    *((0.82, 0.70, 0.55), (0.74, 0.48, 0.40), (0.66, 0.70, 0.72), (0.87, 0.81, 0.69), (0.60, 0.67, 0.60)),
    *((0.80, 0.61, 0.52), (0.64, 0.54, 0.50)),
)
ROOM_PAINT: tuple[Colour, ...] = (
    *((0.86, 0.81, 0.72), (0.64, 0.74, 0.74), (0.76, 0.65, 0.58), (0.58, 0.66, 0.58), (0.84, 0.77, 0.64)),
    (0.69, 0.67, 0.76),
)
WOOD: tuple[Colour, ...] = ((0.62, 0.43, 0.26), (0.50, 0.34, 0.22), (0.74, 0.57, 0.38))
PANES: tuple[Colour, ...] = ((0.22, 0.27, 0.33), (0.36, 0.42, 0.48), (0.62, 0.55, 0.38))
BALLAST: Colour = (0.48, 0.45, 0.43)
SLEEPER: Colour = (0.30, 0.23, 0.18)
STEEL: Colour = (0.66, 0.66, 0.68)
RUST: Colour = (0.18, 0.14, 0.12)


def road(stage: Stage, top: int) -> None:
    """Asphalt from row ``top`` on: pavement, kerb, then the lane with its markings."""
    ground(stage, "road", top, choose(stage.rng, ASPHALT), cell=0.016, stretch=1.2, rough=0.12)
    depth = stage.height - top
    edge = top + int(depth * stage.rng.uniform(0.1, 0.2))
    stage.image[top:edge] = 0.35 * stage.image[top:edge] + 0.65 * colour(KERB)
    stage.image[edge : edge + max(2, depth // 30)] *= 0.6
    line = top + int(depth * stage.rng.uniform(0.6, 0.75))
    thick, phase = max(3, depth // 22), stage.rng.uniform(0, 0.35)
    for left in np.arange(-0.35, 1.0, 0.35) + phase:
        dash = polygon((left, line), (left + 0.16, line), (left + 0.155, line + thick), (left - 0.01, line + thick))
        stage.paint(dash * (stage.width, 1), (0.90, 0.89, 0.84), 0.8)


def rails(stage: Stage, top: int, bottom: int) -> None:
    """A railway track across the picture, between two rows."""
    depth, step = bottom - top, stage.width / 15
    gravel = value_noise(stage.rng, (depth, stage.width), max(3.0, depth / 7), octaves=3)
    stage.lay("rails", top, speckle(ramp(gravel.shape, tint(BALLAST, 1.1), tint(BALLAST, 0.8)), gravel, 0.22))
    for left in np.arange(-1, 16) * step + stage.rng.uniform(0, step):
        low, high = top + depth * 0.88, top + depth * 0.22
        near = left + (left - stage.width / 2) * 0.06
        stage.paint(
            polygon((near, low), (near + step * 0.45, low), (left + step * 0.4, high), (left, high)), SLEEPER, 0.9
        )
    for level, thick in ((0.34, 0.07), (0.72, 0.10)):
        row, size = top + depth * level, max(2.0, depth * thick)
        stage.paint(box(-4, row, stage.width + 4, row + size * 1.7), RUST, 0.8)
        stage.paint(box(-4, row - size * 0.4, stage.width + 4, row + size * 0.6), STEEL)


def facades(stage: Stage, foot: int, roof: float) -> None:
    """A row of houses that ends at row ``foot`` and is about a share ``roof`` of the picture high."""
    left = -stage.rng.uniform(0, 0.2) * stage.width
    grain = value_noise(stage.rng, stage.shape, stage.height / 30, octaves=3, stretch=3)
    while left < stage.width:
        right = left + stage.width * stage.rng.uniform(0.28, 0.5)
        top = foot - stage.height * roof * stage.rng.uniform(0.75, 1.15)
        _house(stage, (left, max(top, -8.0), right), foot, grain)
        left = right


def _house(stage: Stage, extent: tuple[float, float, float], foot: int, grain: Field) -> None:
    left, top, right = extent
    paint = choose(stage.rng, PLASTER)
    columns = np.arange(stage.width)
    skyline = np.where((columns >= left) & (columns < right), top, stage.height).astype(np.float32)
    stage.silhouette("wall", foot, skyline, speckle(colour(paint), grain, 0.07))
    stage.paint(box(left, top, right, top + stage.height * 0.018), tint(paint, 0.6))
    side, gap = stage.height * 0.10, stage.height * 0.17
    count = max(1, int((right - left) / gap))
    margin = left + (right - left - count * gap + gap - side) / 2
    for row in np.arange(foot - gap * 1.75, max(top, -side), -gap * 1.25):
        for column in range(count):
            _window(stage, margin + column * gap, float(row), side)
    door = margin + gap * int(stage.rng.integers(count))
    stage.paint(box(door, foot - gap * 1.25, door + side, foot), tint(paint, 0.4))


def _window(stage: Stage, left: float, top: float, side: float) -> None:
    frame, low = side * 0.12, top + side * 1.25
    stage.paint(box(left - frame, top - frame, left + side + frame, low + frame), WHITE, 0.75)
    stage.paint(box(left, top, left + side, low), choose(stage.rng, PANES))
    stage.paint(box(left + side * 0.46, top, left + side * 0.54, low), WHITE, 0.75)


def wall(stage: Stage, foot: int) -> None:
    """Wall of a room: painted, papered with stripes, or brick; light falls on it from one side."""
    shape = (foot, stage.width)
    paint = choose(stage.rng, ROOM_PAINT)
    relief = 0.03 * value_noise(stage.rng, shape, stage.height / 25, octaves=3)
    style = stage.rng.random()
    if style < 0.3:
        relief = relief + 0.07 * _stripes(shape)
    elif style < 0.5:
        relief = relief + 0.16 * _bricks(shape, stage)
    fall = np.linspace(0.14, -0.14, stage.width, dtype=np.float32)[None] * (1 if stage.light.side < 0 else -1)
    stage.lay("wall", 0, speckle(ramp(shape, tint(paint, 1.05), tint(paint, 0.92)), relief + fall, 1))
    stage.paint(box(-4, foot - stage.height * 0.035, stage.width + 4, foot), (0.92, 0.90, 0.86), 0.9)


def _stripes(shape: tuple[int, int]) -> Field:
    wave = np.arange(shape[1]) // max(2, shape[1] // 28) % 2
    return np.broadcast_to((wave * 2 - 1).astype(np.float32), shape)


def _bricks(shape: tuple[int, int], stage: Stage) -> Field:
    course, length = max(6, stage.height // 20), max(14, stage.width // 11)
    rows = np.arange(shape[0])[:, None] // course
    along = np.arange(shape[1])[None] + rows % 2 * (length // 2)
    tones = stage.rng.uniform(-0.6, 0.6, (int(rows.max()) + 1, int(along.max()) // length + 1)).astype(np.float32)
    joint = (np.arange(shape[0])[:, None] % course < 2) | (along % length < 2)
    return np.where(joint, np.float32(1.0), tones[rows, along // length])


def floor(stage: Stage, top: int) -> None:
    """Floor of a room from row ``top`` on, mostly of boards."""
    paint = choose(stage.rng, WOOD)
    stage.haze = tint(paint, 1.1)
    ground(stage, "floor", top, paint, cell=0.03, stretch=8.0, rough=0.12)
    if stage.rng.random() < 0.65:
        for far in np.linspace(-1.2, 2.2, 16):
            near = (far - 0.5) * 1.9 + 0.5
            seam = polygon(
                *((far - 0.002, top), (far + 0.002, top)),
                *((near + 0.004, stage.height), (near - 0.004, stage.height)),
            )
            stage.paint(seam * (stage.width, 1), tint(paint, 0.5), 0.7)


def picture_frame(stage: Stage) -> None:
    """A picture on the wall, which may catch the eye."""
    left, top = stage.width * stage.rng.uniform(0.05, 0.75), stage.height * stage.rng.uniform(0.04, 0.14)
    right = left + stage.width * stage.rng.uniform(0.14, 0.22)
    low = top + stage.height * stage.rng.uniform(0.18, 0.28)
    rim = stage.height * 0.016
    air, land = choose(stage.rng, SKIES), choose(stage.rng, (*GRASS, *SAND))
    stage.paint(box(left + rim, top + rim, right + 2 * rim, low + 2 * rim), (0.1, 0.1, 0.1), 0.3)
    stage.paint(box(left - rim, top - rim, right + rim, low + rim), choose(stage.rng, (*WOOD, WHITE)))
    stage.paint(box(left, top, right, low), air[1])
    stage.paint(box(left, top + (low - top) * 0.6, right, low), land)
    stage.catch_eye(box(left - rim, top - rim, right + rim, low + rim))
