"""Places: each is a few strips of a stage, and says where in it objects can have their feet."""

from collections.abc import Callable

from weakseg.data.scenes.built import facades, floor, picture_frame, rails, road, wall
from weakseg.data.scenes.decoration import ball, bloom, eyecatcher, flowers, stone
from weakseg.data.scenes.nature import firs, forest, grass, hills, sand, sky, snow, surf, water
from weakseg.data.scenes.palette import choose
from weakseg.data.scenes.stage import Backdrop, Stage
from weakseg.data.scenes.textures import Colour

SNOWY: Colour = (0.74, 0.78, 0.84)
EYECATCHER_SHARE = 0.35


def meadow(stage: Stage) -> Backdrop:
    """Grass before hills or a wood."""
    horizon = _row(stage, 0.34, 0.5)
    sky(stage, horizon)
    _distance(stage, horizon)
    grass(stage, horizon)
    if stage.rng.random() < 0.5:
        flowers(stage, horizon)
    if stage.rng.random() < EYECATCHER_SHARE:
        eyecatcher(stage, 0.72, (stone, bloom, ball))
    return stage.backdrop(sky=(0.36, 0.66), ground=(0.74, 0.96))


def snowfield(stage: Stage) -> Backdrop:
    """Snow before firs."""
    horizon = _row(stage, 0.36, 0.5)
    sky(stage, horizon)
    hills(stage, horizon, stage.rng.uniform(0.08, 0.18), 0.5, "snow", SNOWY)
    firs(stage, horizon, stage.rng.uniform(0.14, 0.26), stage.rng.uniform(0.1, 0.4))
    snow(stage, horizon)
    if stage.rng.random() < EYECATCHER_SHARE:
        eyecatcher(stage, 0.72, (stone, ball))
    return stage.backdrop(sky=(0.36, 0.64), ground=(0.74, 0.96))


def beach(stage: Stage) -> Backdrop:
    """Sand, and the sea behind it."""
    horizon, shore = _row(stage, 0.28, 0.36), _row(stage, 0.6, 0.68)
    sky(stage, horizon)
    if stage.rng.random() < 0.4:
        hills(stage, horizon, 0.06, 0.55)
    water(stage, horizon, shore)
    sand(stage, shore)
    surf(stage, shore)
    if stage.rng.random() < EYECATCHER_SHARE:
        eyecatcher(stage, 0.76, (stone, ball))
    return stage.backdrop(sky=(0.36, 0.54), water=(0.52, 0.57), ground=(0.8, 0.96))


def lake(stage: Stage) -> Backdrop:
    """Water up to our feet, a wood or hills behind."""
    horizon = _row(stage, 0.4, 0.54)
    sky(stage, horizon)
    _distance(stage, horizon)
    water(stage, horizon, stage.height)
    return stage.backdrop(sky=(0.36, 0.6), water=(0.7, 0.9))


def heaven(stage: Stage) -> Backdrop:
    """Nearly nothing but sky."""
    horizon = _row(stage, 0.82, 0.92)
    sky(stage, horizon)
    _distance(stage, horizon)
    grass(stage, horizon)
    return stage.backdrop(sky=(0.6, 0.92))


def street(stage: Stage) -> Backdrop:
    """Asphalt before houses."""
    kerb = _row(stage, 0.5, 0.6)
    sky(stage, kerb)
    facades(stage, kerb, stage.rng.uniform(0.4, 0.62))
    road(stage, kerb)
    return stage.backdrop(ground=(0.76, 0.96))


def country_road(stage: Stage) -> Backdrop:
    """A road through meadows or sand."""
    horizon, kerb = _row(stage, 0.32, 0.42), _row(stage, 0.56, 0.64)
    sky(stage, horizon)
    _distance(stage, horizon)
    choose(stage.rng, (grass, grass, sand))(stage, horizon)
    road(stage, kerb)
    return stage.backdrop(sky=(0.4, 0.58), ground=(0.76, 0.96))


def railway(stage: Stage) -> Backdrop:
    """A track through grass, sand or snow."""
    horizon, top = _row(stage, 0.34, 0.46), _row(stage, 0.66, 0.72)
    bottom = top + _row(stage, 0.12, 0.15)
    sky(stage, horizon)
    ground = choose(stage.rng, (grass, grass, sand, snow))
    if ground is snow:
        firs(stage, horizon, stage.rng.uniform(0.14, 0.26), stage.rng.uniform(0.1, 0.4))
    else:
        _distance(stage, horizon)
    ground(stage, horizon)
    rails(stage, top, bottom)
    foot = (top + 0.62 * (bottom - top)) / stage.height
    return stage.backdrop(rails=(foot, foot), ground=(0.93, 0.98))


def room(stage: Stage) -> Backdrop:
    """A room with a wall and a floor."""
    foot = _row(stage, 0.58, 0.72)
    wall(stage, foot)
    if stage.rng.random() < 0.5:
        picture_frame(stage)
    floor(stage, foot)
    if stage.rng.random() < EYECATCHER_SHARE:
        eyecatcher(stage, 0.8, (ball,))
    return stage.backdrop(ground=(0.82, 0.97))


def _row(stage: Stage, low: float, high: float) -> int:
    """A row between two shares of the height."""
    return int(stage.height * stage.rng.uniform(low, high))


def _distance(stage: Stage, horizon: int) -> None:
    """Hills, a wood, or both, at the horizon."""
    rng = stage.rng
    if rng.random() < 0.6:
        hills(stage, horizon, rng.uniform(0.06, 0.14), rng.uniform(0.45, 0.7))
    if rng.random() < 0.7:
        forest(stage, horizon, rng.uniform(0.06, 0.14), rng.uniform(0.1, 0.45))


PLACES: dict[str, Callable[[Stage], Backdrop]] = {
    "meadow": meadow,
    "snowfield": snowfield,
    "beach": beach,
    "lake": lake,
    "heaven": heaven,
    "street": street,
    "country road": country_road,
    "railway": railway,
    "room": room,
}
