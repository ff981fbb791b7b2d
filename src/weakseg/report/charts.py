"""Charts as inline SVG: no script, no fixed colours; the page's style sheet paints them for light, dark and print."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 30, 62
_NAMES, _LONGEST, _ROW, _STEPS = 180, 16, 30, 80
_FEW = 5  # values below which a distribution is drawn as dots


def bar(fraction: float, mark: float | None = None) -> Markup:
    """A bar from 0 to 1, with a thin line at ``mark``; its number stands beside it as text."""
    line = Markup('<rect class="mark" x="{:.2f}" y="0" width="0.6" height="10"/>').format(
        min(100 * mark, 99.4) if mark is not None else 0
    )
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<rect class="track" x="0" y="2" width="100" height="6"/>'
        '<rect class="value" x="0" y="2" width="{:.2f}" height="6"/>{}</svg>'
    ).format(100 * min(max(fraction, 0.0), 1.0), line if mark is not None else "")


def best_point(points: Sequence[Point]) -> Point:
    """The point with the highest value; of equals the first."""
    return max(points, key=lambda point: point[1])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``, about ``count`` of them."""
    span = max(high - low, 1e-9)
    power: float = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(index * step, 10) for index in range(first, last + 1)]


def curve(points: Sequence[Point], chosen: float | None = None) -> Markup:
    """Draw the mIoU of the seeds against their threshold.

    Args:
        points: At least one (threshold, mIoU as a fraction), ascending thresholds.
        chosen: The threshold that was used; drawn as a dashed line if it lies among the points.

    Returns:
        An ``svg`` element.
    """
    x_axis = _Axis(points[0][0], points[-1][0], _LEFT, WIDTH - _RIGHT)
    y_axis = _Axis(0.0, _ceiling(best_point(points)[1]), HEIGHT - _BOTTOM, _TOP)
    best = best_point(points)
    parts = [
        *_grid(x_axis, y_axis),
        *([_chosen_line(x_axis, chosen)] if chosen is not None and points[0][0] <= chosen <= points[-1][0] else []),
        _line(points, x_axis, y_axis),
        *(_dot(point, x_axis, y_axis) for point in points),
        _best_mark(best, x_axis, y_axis),
    ]
    label = Markup("mIoU of the seeds against the threshold; best {:.1f} % at {:g}").format(100 * best[1], best[0])
    return Markup('<svg class="curve" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def violins(rates: Mapping[str, Sequence[float]]) -> Markup:
    """Draw how values from 0 to 1 are distributed, one shape below the other.

    A shape's height shows how many values are near; the line in it is the median. Each has its own scale. A few values
    have no distribution to speak of, so they are drawn as dots.

    Args:
        rates: Names and values in [0, 1], in the order wanted; a name without values has no shape.

    Returns:
        An ``svg`` element.
    """
    axis = _Axis(0.0, 1.0, _NAMES, WIDTH - _RIGHT)
    bottom = _ROW * len(rates) + 8
    parts = [*_share_grid(axis, bottom)]
    for number, (name, values) in enumerate(rates.items()):
        middle = _ROW * (number + 0.5) + 8
        short = name if len(name) <= _LONGEST else name[: _LONGEST - 1].rstrip() + "…"
        parts.append(_text(_NAMES - 14, middle + 5, short, "end"))
        if values:
            title = f"{name}: {len(values)}, median {100 * median(values):.1f} %"
            drawn = _violin(title, values, middle, axis) if len(values) >= _FEW else _dots(title, values, middle, axis)
            parts += [drawn, _median(axis(median(values)), middle)]
    return Markup('<svg class="curve" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, bottom + 50, "Distribution of filling rates by class", Markup("").join(parts)
    )


def _share_grid(axis: "_Axis", bottom: float) -> list[Markup]:
    """Per cent from left to right."""
    parts = [_rule(axis.start, bottom, axis.end, bottom, "axis")]
    for value in ticks(0.0, 1.0):
        parts += [_rule(axis(value), 8, axis(value), bottom, "grid")]
        parts += [_text(axis(value), bottom + 20, f"{100 * value:g}", "middle")]
    return [*parts, _text(axis.end, bottom + 44, "filling rate, %", "end")]


def _violin(title: str, values: Sequence[float], middle: float, axis: "_Axis") -> Markup:
    """A mirrored density."""
    places = [index / _STEPS for index in range(_STEPS + 1)]
    heights = density(values, places)
    scale = 0.42 * _ROW / max(heights)
    above = [(axis(place), middle - scale * height) for place, height in zip(places, heights, strict=True)]
    below = [(x, 2 * middle - y) for x, y in reversed(above)]
    outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in above + below)
    return Markup('<polygon class="violin" points="{}"><title>{}</title></polygon>').format(outline, title)


def _dots(title: str, values: Sequence[float], middle: float, axis: "_Axis") -> Markup:
    """Every value by itself."""
    circle = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"/>')
    dots = Markup("").join(circle.format(axis(value), middle) for value in values)
    return Markup('<g class="violin"><title>{}</title>{}</g>').format(title, dots)


def _median(place: float, middle: float) -> Markup:
    return _rule(place, middle - 0.3 * _ROW, place, middle + 0.3 * _ROW, "median")


def density(values: Sequence[float], places: Sequence[float], width: float = 0.04) -> list[float]:
    """Smooth share of the values around each place: the mean of Gaussians about them, reflected at 0 and 1.

    Args:
        values: At least one, in [0, 1].
        places: Where to look, in [0, 1].
        width: Standard deviation; values are rounded to a twentieth of it.

    Returns:
        One number for each place; its integral from 0 to 1 is 1, up to tails of more than a reflection.
    """
    counts = Counter(round(value / width * 20) / 20 * width for value in values)  # so that thousands of values are few
    scale = len(values) * width * math.sqrt(2 * math.pi)

    def near(place: float) -> float:
        images = ((image, count) for value, count in counts.items() for image in (value, -value, 2 - value))
        return sum(count * math.exp(-0.5 * ((place - image) / width) ** 2) for image, count in images)

    return [near(place) / scale for place in places]


class _Axis:
    """From values to places in the picture."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = (low, high) if high > low else (low - 0.5, low + 0.5)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def _ceiling(value: float) -> float:
    """Top of the axis: the next tick above the value."""
    rising = ticks(0.0, max(value, 0.01))
    step = rising[1] - rising[0] if len(rising) > 1 else max(value, 0.01)
    return step * math.ceil(max(value, 0.01) / step - 1e-6)


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[Markup]:
    """Axes, ticks and names."""
    parts = []
    for value in ticks(y_axis.low, y_axis.high):
        place = y_axis(value)
        parts += [_rule(x_axis.start, place, x_axis.end, place, "grid")]
        parts += [_text(x_axis.start - 8, place + 5, f"{100 * value:g}", "end")]
    for value in ticks(x_axis.low, x_axis.high, 6):
        place = x_axis(value)
        parts += [_rule(place, y_axis.start, place, y_axis.start + 5, "axis")]
        parts += [_text(place, y_axis.start + 24, f"{value:g}", "middle")]
    parts += [_rule(x_axis.start, y_axis.start, x_axis.end, y_axis.start, "axis")]
    parts += [_text(x_axis.start - 42, y_axis.end - 14, "mIoU, %", "start")]
    parts += [_text(x_axis.end, y_axis.start + 52, "threshold", "end")]
    return parts


def _line(points: Sequence[Point], x_axis: _Axis, y_axis: _Axis) -> Markup:
    places = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in points)
    return Markup('<polyline class="line" points="{}"/>').format(places)


def _dot(point: Point, x_axis: _Axis, y_axis: _Axis) -> Markup:
    return Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3"><title>{:g}: {:.1f} %</title></circle>').format(
        x_axis(point[0]), y_axis(point[1]), point[0], 100 * point[1]
    )


def _best_mark(best: Point, x_axis: _Axis, y_axis: _Axis) -> Markup:
    x, y = x_axis(best[0]), y_axis(best[1])
    share = (x - x_axis.start) / (x_axis.end - x_axis.start)
    anchor = "start" if share < 0.2 else "end" if share > 0.8 else "middle"
    circle = Markup('<circle class="best" cx="{:.1f}" cy="{:.1f}" r="6"/>').format(x, y)
    return circle + _text(x, y - 13, f"best {100 * best[1]:.1f} % at {best[0]:g}", anchor, "strong")


def _chosen_line(x_axis: _Axis, chosen: float) -> Markup:
    return _rule(x_axis(chosen), _TOP, x_axis(chosen), HEIGHT - _BOTTOM, "chosen")


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)
