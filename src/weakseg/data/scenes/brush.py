"""Shapes and the brush that draws them, each lit like a small cushion."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from weakseg.data.scenes.textures import Colour, Field, as_field, colour, enlarge, shrink

Points = NDArray[np.float64]
Point = tuple[float, float]
Window = tuple[slice, slice]

SHIFT = 4
RELIEF_SIDE = 40


def ellipse(x: float, y: float, width: float, height: float, turn: float = 0.0) -> Points:
    """Outline of an ellipse with half axes ``width`` and ``height``, turned by ``turn`` radians."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    across, along = width * np.cos(angle), height * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([x + across * cos - along * sin, y + across * sin + along * cos], axis=1)


def polygon(*points: Point) -> Points:
    """A polygon with sharp corners."""
    return np.array(points, np.float64)


def smooth(*points: Point) -> Points:
    """A closed curve through the points (Catmull-Rom)."""
    knots = np.array(points, np.float64)
    return _spline(np.roll(knots, 1, 0), knots, np.roll(knots, -1, 0), np.roll(knots, -2, 0))


def symmetric(*points: Point) -> Points:
    """A closed curve from the points of its right half, the first and last of which lie on the vertical axis."""
    return smooth(*points, *((-x, y) for x, y in points[-2:0:-1]))


def curve(*points: Point) -> Points:
    """An open curve through the points (Catmull-Rom)."""
    knots = np.array([points[0], *points, points[-1]], np.float64)
    inner = _spline(knots[:-3], knots[1:-2], knots[2:-1], knots[3:])
    return np.concatenate([inner, knots[-1:]])


def _spline(before: Points, start: Points, end: Points, after: Points) -> Points:
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    a, b, c, d = (knots[:, None] for knots in (before, start, end, after))
    spline = b + t * ((c - a) / 2 + t * ((a - 2.5 * b + 2 * c - d / 2) + t * (1.5 * (b - c) + (d - a) / 2)))
    return spline.reshape(-1, 2)


def box(left: float, bottom: float, right: float, top: float, radius: float = 0.0) -> Points:
    """A rectangle with rounded corners."""
    if radius <= 0:
        return polygon((left, bottom), (right, bottom), (right, top), (left, top))
    quarter = np.linspace(0, np.pi / 2, 6)
    corners = ((right, top, 0), (left, top, 1), (left, bottom, 2), (right, bottom, 3))
    arcs = []
    for x, y, turn in corners:
        angle = quarter + turn * np.pi / 2
        inset_x, inset_y = (-radius if x == right else radius), (-radius if y == top else radius)
        arcs.append(np.stack([x + inset_x + radius * np.cos(angle), y + inset_y + radius * np.sin(angle)], axis=1))
    return np.concatenate(arcs)


def ribbon(path: Points, start: float, end: float | None = None) -> Points:
    """Outline of a stroke along a path, its width running from ``start`` to ``end``."""
    step = np.gradient(path, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.maximum(np.hypot(*step.T), 1e-9)[:, None]
    width = np.linspace(start, start if end is None else end, len(path))[:, None] / 2
    return np.concatenate([path + normal * width, (path - normal * width)[::-1]])


def limb(start: Point, end: Point, width: float, end_width: float | None = None) -> Points:
    """A straight stroke with round ends."""
    low, high = np.array(start, np.float64), np.array(end, np.float64)
    along = (high - low) / max(float(np.hypot(*(high - low))), 1e-9)
    across = np.array([-along[1], along[0]])
    angle = np.linspace(-np.pi / 2, np.pi / 2, 9)[:, None]
    arc = np.sin(angle) * across + np.cos(angle) * along
    last = width if end_width is None else end_width
    return np.concatenate([high + arc * last / 2, low - arc * width / 2])


def mirror(points: Points) -> Points:
    """The shape on the other side of the vertical axis."""
    return points * (-1, 1)


def rasterise(pixels: Points, shape: tuple[int, ...]) -> tuple[Field, Window, Window] | None:
    """Coverage of a polygon, drawn whole so that its relief does not depend on what the picture cuts off.

    Args:
        pixels: (n, 2) corners, x and y in pixels.
        shape: Height and width of the picture.

    Returns:
        (h, w) coverage in [0, 1], the window of the picture and the window of the coverage that show the same; or
        ``None`` if the polygon lies outside.
    """
    height, width = shape
    low = np.floor(pixels.min(axis=0)).astype(int) - 1
    high = np.ceil(pixels.max(axis=0)).astype(int) + 2
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]), width), min(int(high[1]), height)
    if left >= right or top >= bottom:
        return None
    mask = np.zeros((int(high[1] - low[1]), int(high[0] - low[0])), np.uint8)
    fixed = np.round((pixels - low) * (1 << SHIFT)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, SHIFT)
    inner = slice(top - int(low[1]), bottom - int(low[1])), slice(left - int(low[0]), right - int(low[0]))
    return as_field(mask / np.float32(255)), (slice(top, bottom), slice(left, right)), inner


@dataclass(frozen=True)
class Light:
    """Where light comes from and how it colours the scene.

    Attributes:
        side: -1 from the left to 1 from the right.
        height: 0 at the horizon to 1 overhead.
        tint: Colour of the light.
        hardness: 0 overcast to 1 full sun; darkens shadows.
    """

    side: float
    height: float
    tint: Colour
    hardness: float

    @property
    def direction(self) -> Field:
        """Unit vector towards the light: right, down, towards the viewer."""
        vector = np.array([self.side * 0.8, -0.35 - 0.5 * self.height, 0.75], np.float32)
        return as_field(vector / np.sqrt(np.sum(vector**2)))


@dataclass(frozen=True)
class Brush:
    """Draws shapes given in an object's own coordinates: x to the right, y up, the object's foot at (0, 0).

    Attributes:
        layer: (H, W, 4) float32, colours multiplied by their opacity, and opacity.
        grain: (H, W) noise that roughens surfaces.
        origin: Pixel of the object's foot, x and y.
        scale: Pixels per unit; objects are about one unit tall.
        light: Light of the scene.
        flip: Whether left and right are swapped.
        tilt: Rotation in radians, anticlockwise.
    """

    layer: Field
    grain: Field
    origin: Point
    scale: float
    light: Light
    flip: bool = False
    tilt: float = 0.0

    def at(self, x: float, y: float, scale: float = 1.0, turn: float = 0.0) -> "Brush":
        """A brush for a part: its origin at (x, y), its unit ``scale`` of ours, turned by ``turn`` radians."""
        origin = self._pixels(np.array([[x, y]]))[0]
        tilt = self.tilt + (-turn if self.flip else turn)
        return replace(self, origin=(float(origin[0]), float(origin[1])), scale=self.scale * scale, tilt=tilt)

    def fill(
        self,
        outline: Points,
        paint: Colour,
        *,
        volume: float = 0.5,
        rough: float = 0.0,
        fade: float = 0.0,
        opacity: float = 1.0,
    ) -> None:
        """Fill an outline.

        Args:
            outline: (n, 2) in the object's coordinates.
            paint: Colour.
            volume: How strongly the shape bulges towards the viewer.
            rough: Strength of the grain.
            fade: How much lighter the top and darker the bottom is.
            opacity: 1 hides what is below.
        """
        placed = rasterise(self._pixels(outline), self.layer.shape[:2])
        if placed is None:
            return
        mask, window, inner = placed
        shade = self._shade(mask, volume, fade)[inner]
        if rough:
            shade = shade * (1 + rough * self.grain[window])
        cover = mask[inner][..., None] * np.float32(opacity)
        target = self.layer[window]
        target *= 1 - cover
        target[..., :3] += cover * shade[..., None] * colour(paint)
        target[..., 3:] += cover

    def model(self, outline: Points, *, volume: float = 0.5, fade: float = 0.0) -> None:
        """Light and shade what is already drawn as if it were one bulging shape."""
        placed = rasterise(self._pixels(outline), self.layer.shape[:2])
        if placed is None:
            return
        mask, window, inner = placed
        shade = 1 + mask[inner] * (self._shade(mask, volume, fade)[inner] - 1)
        self.layer[window][..., :3] *= shade[..., None]

    def line(
        self, path: Points, width: float, paint: Colour, *, end: float | None = None, opacity: float = 1.0
    ) -> None:
        """Draw a stroke without volume along a path."""
        self.fill(ribbon(path, width, end), paint, volume=0.0, opacity=opacity)

    def _pixels(self, points: Points) -> Points:
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        x = -points[:, 0] if self.flip else points[:, 0]
        y = points[:, 1]
        turned = np.stack([x * cos - y * sin, -(x * sin + y * cos)], axis=1)
        return np.array(self.origin) + turned * self.scale

    def _shade(self, mask: Field, volume: float, fade: float) -> Field:
        """(h, w) brightness around 1, from the relief that the blurred coverage makes."""
        height, width = mask.shape
        shade = np.ones_like(mask)
        if volume:
            factor = min(1.0, RELIEF_SIDE / max(height, width))
            size = max(3, round(height * factor)), max(3, round(width * factor))
            shade = enlarge(self._relief(mask, size, volume), (height, width))
        if fade:
            shade = shade * np.linspace(1 + fade, 1 - fade, height, dtype=np.float32)[:, None]
        return shade

    def _relief(self, mask: Field, size: tuple[int, int], volume: float) -> Field:
        small = np.pad(shrink(mask, size), 4)
        sigma = max(1.0, 0.22 * min(size))
        bulge = cv2.GaussianBlur(small, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        slope_y, slope_x = np.gradient(bulge)
        steep = np.float32(2.6 * sigma * volume)
        x, y, z = self.light.direction
        facing = z - steep * (slope_x * x + slope_y * y)
        norm = np.sqrt(1 + steep * steep * (slope_x**2 + slope_y**2))
        return as_field(np.clip(facing / norm / z, 0.35, 1.45))[4:-4, 4:-4]
