"""A scene from its number: what is in it, where it stands, and the picture and labels that follow."""

from dataclasses import dataclass

import numpy as np

from weakseg.data.scenes.brush import Brush, Light
from weakseg.data.scenes.figures import FIGURES, HABITATS, Figure, neighbours
from weakseg.data.scenes.palette import choose
from weakseg.data.scenes.photograph import darken, expose, over, reflection, shadow
from weakseg.data.scenes.places import PLACES
from weakseg.data.scenes.saliency import imperfect_saliency
from weakseg.data.scenes.scene import OBJECT_HERE, SCENE_CLASSES, SCENE_CONTEXTS, Box, Image, Scene
from weakseg.data.scenes.stage import Backdrop, Stage
from weakseg.data.scenes.textures import Colour, Field, shrink, soften, value_noise

SUPERSAMPLE = 2
PORTRAIT_SHARE = 0.25
OBJECT_COUNTS, COUNT_SHARES = (1, 2, 3), (0.45, 0.42, 0.13)
SAME_CLASS_SHARE = 0.25
MIN_AREA, MIN_SHOWN = 0.012, 0.45
TINTS: tuple[Colour, ...] = ((1.0, 1.0, 1.0), (1.05, 1.0, 0.93), (0.95, 0.99, 1.05), (1.08, 0.97, 0.86))


@dataclass(frozen=True)
class Actor:
    """An object at its place.

    Attributes:
        kind: Its class.
        figure: How it is drawn.
        x: Column of its origin.
        foot: Row of its foot.
        size: Its height in pixels.
        flip: Whether it looks to the left.
        main: Whether the scene is about it; it is never left out.
    """

    kind: int
    figure: Figure
    x: float
    foot: float
    size: float
    flip: bool
    main: bool


@dataclass(frozen=True)
class Cutout:
    """An object drawn on an empty layer (H, W, 4)."""

    actor: Actor
    layer: Field


def make_scene(seed: int, index: int, size: tuple[int, int] = (120, 160)) -> Scene:
    """Scene ``index`` of the series ``seed``: a pure function of its arguments.

    The main object's class runs through all classes once in every ten scenes, in an order that the seed shuffles.

    Args:
        seed: Names the series.
        index: Number in the series, from 0.
        size: Height and width; a quarter of the scenes have them swapped.

    Returns:
        The scene.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, index)))
    height, width = size[::-1] if rng.random() < PORTRAIT_SHARE else size
    shape = height * SUPERSAMPLE, width * SUPERSAMPLE
    main = main_class(seed, index)
    place = choose(rng, HABITATS[SCENE_CLASSES[main]])
    light = _light(rng)
    stage = Stage(shape, light, rng)
    backdrop = PLACES[place](stage)
    actors = _cast(main, place, backdrop, rng)
    cutouts = _drop_hidden([_draw(actor, shape, light, rng) for actor in actors])
    return _render(backdrop, cutouts, light, (height, width), rng)


def main_class(seed: int, index: int) -> int:
    """Class of a scene's main object."""
    round_, step = divmod(index, len(SCENE_CLASSES))
    order = np.random.default_rng(np.random.SeedSequence((seed, round_, 1))).permutation(len(SCENE_CLASSES))
    return int(order[step])


def _light(rng: np.random.Generator) -> Light:
    side = rng.uniform(0.3, 1.0) * (1 if rng.random() < 0.5 else -1)
    return Light(side, rng.uniform(0.2, 0.9), choose(rng, TINTS), rng.uniform(0.3, 1.0))


def _cast(main: int, place: str, backdrop: Backdrop, rng: np.random.Generator) -> list[Actor]:
    """The main object and its companions, from back to front."""
    count = int(rng.choice(OBJECT_COUNTS, p=COUNT_SHARES))
    kinds = [main]
    others = tuple(kind for kind in map(SCENE_CLASSES.index, neighbours(place)) if kind != main)
    while len(kinds) < count:
        again = not others or rng.random() < SAME_CLASS_SHARE
        kinds.append(main if again and SCENE_CLASSES[main] != "train" else choose(rng, others or (main,)))
    slots = rng.permutation(count) + rng.uniform(0.35, 0.65, count)
    actors = [
        _place(kind, share / count, rank, backdrop, rng)
        for rank, (kind, share) in enumerate(zip(kinds, slots, strict=True))
    ]
    return sorted(actors, key=lambda actor: (actor.figure.support != "sky", actor.foot))


def _place(kind: int, across: float, rank: int, backdrop: Backdrop, rng: np.random.Generator) -> Actor:
    """Put a figure on what carries it; companions (``rank`` above 0) are smaller, mostly because they are farther."""
    height, width = backdrop.context.shape
    figure = choose(rng, FIGURES[SCENE_CLASSES[kind]])
    low, high = backdrop.feet[figure.support]
    near = rng.uniform(0.45, 1.0) if rank == 0 else rng.uniform(0.0, 0.8)
    area = rng.uniform(*figure.area) * (1 if rank == 0 else rng.uniform(0.35, 0.6))
    wide = figure.left + figure.right
    foot = (low + (high - low) * near) * height
    widest = (1.44 if figure.leaves else 0.96) * width / wide
    size = min(float(np.sqrt(area * height * width / wide)), 0.97 * foot, widest)
    flip = bool(rng.random() < 0.5)
    return Actor(kind, figure, _column(figure, across, size, flip, width), foot, size, flip, rank == 0)


def _column(figure: Figure, across: float, size: float, flip: bool, width: int) -> float:
    """Column of a figure's origin, such that it stands around ``across`` of the width and inside the picture."""
    left, right = (figure.right, figure.left) if flip else (figure.left, figure.right)
    if figure.leaves:
        nose = (0.86 + 0.1 * across) * width - figure.right * size
        return width - nose if flip else nose
    middle = across * width - (right - left) / 2 * size
    return float(np.clip(middle, left * size * 0.85, width - right * size * 0.85))


def _draw(actor: Actor, shape: tuple[int, int], light: Light, rng: np.random.Generator) -> Cutout:
    layer = np.zeros((*shape, 4), np.float32)
    grain = value_noise(rng, shape, shape[0] / 60, octaves=2)
    brush = Brush(layer, grain, (actor.x, actor.foot), actor.size, light, actor.flip, rng.uniform(-0.015, 0.015))
    actor.figure.draw(brush, rng)
    return Cutout(actor, np.clip(layer, 0, 1))


def _drop_hidden(cutouts: list[Cutout]) -> list[Cutout]:
    """Leave out companions until each object that stays can be seen well enough."""
    while len(cutouts) > 1:
        alphas = [cutout.layer[..., 3] for cutout in cutouts]
        seen = [_well_seen(alpha, cover) for alpha, cover in zip(alphas, visible(alphas), strict=True)]
        if all(seen):
            break
        companions = [index for index, cutout in enumerate(cutouts) if not cutout.actor.main]
        hidden = [index for index in companions if not seen[index]]
        cutouts.pop((hidden or companions)[-1])
    return cutouts


def _well_seen(alpha: Field, cover: Field) -> bool:
    shown = float(cover.mean())
    return shown >= MIN_AREA and shown >= MIN_SHOWN * float(alpha.mean())


def visible(alphas: list[Field]) -> list[Field]:
    """For opacities (H, W) from back to front, the share of each pixel where each one is seen."""
    free = np.ones_like(alphas[0])
    seen = []
    for alpha in reversed(alphas):
        seen.append(alpha * free)
        free = free * (1 - alpha)
    return seen[::-1]


def _render(
    backdrop: Backdrop, cutouts: list[Cutout], light: Light, size: tuple[int, int], rng: np.random.Generator
) -> Scene:
    picture = soften(backdrop.image, rng.uniform(0, 2.2) * size[0] / 120)
    picture, cast = _ground_effects(picture, backdrop.context, cutouts, light, rng)
    for cutout in cutouts:
        picture = over(picture, cutout.layer)
    covers = [shrink(cover, size) for cover in visible([cutout.layer[..., 3] for cutout in cutouts])]
    kinds = [cutout.actor.kind for cutout in cutouts]
    instances = _winners(covers)
    mask = np.array([0, *(kind + 1 for kind in kinds)], np.uint8)[instances]
    context = backdrop.context[::SUPERSAMPLE, ::SUPERSAMPLE].copy()
    context[instances > 0] = OBJECT_HERE
    saliency = imperfect_saliency(
        list(zip(kinds, covers, strict=True)), shrink(backdrop.bright, size), shrink(cast, size), rng
    )
    image = expose(picture, size, light, rng)
    return Scene(image, mask, instances, context, saliency, tuple(sorted(set(kinds))), _boxes(instances, kinds))


def _ground_effects(
    picture: Field, context: Image, cutouts: list[Cutout], light: Light, rng: np.random.Generator
) -> tuple[Field, Field]:
    """Shadows on the ground and images in the water; also where they are."""
    cast = np.zeros(picture.shape[:2], np.float32)
    water = (context == SCENE_CONTEXTS.index("water"))[..., None]
    for cutout in cutouts:
        actor, alpha = cutout.actor, cutout.layer[..., 3]
        if actor.figure.support == "water":
            image = reflection(cutout.layer, actor.foot, rng) * water
            picture, cast = over(picture, image), np.maximum(cast, image[..., 3])
        elif actor.figure.support != "sky":
            dark = shadow(alpha, actor.foot, actor.size, light)
            picture, cast = darken(picture, dark), np.maximum(cast, dark)
    return picture, cast


def _winners(covers: list[Field]) -> Image:
    """Number of the object that covers most of each pixel, 0 where the background does."""
    free = 1 - np.sum(covers, axis=0)
    return np.asarray(np.argmax(np.stack([free, *covers]), axis=0), np.uint8)


def _boxes(instances: Image, kinds: list[int]) -> tuple[Box, ...]:
    boxes = []
    for number, kind in enumerate(kinds, start=1):
        rows, columns = np.nonzero(instances == number)
        boxes.append((kind, int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    return tuple(boxes)
