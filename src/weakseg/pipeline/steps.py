"""The refiners that a recipe names, as things that can be handed to other processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from weakseg.errors import UserError
from weakseg.methods.method import Method
from weakseg.methods.registry import method_class, methods_that
from weakseg.networks.backbone import Backbone
from weakseg.networks.weights import load_backbone_weights, load_weights, read_weights
from weakseg.pipeline.options import Section, checked_options, known_keys, recipe_error
from weakseg.pipeline.recipe import BackboneSettings, Named, Recipe, Start, Training
from weakseg.refine.refiner import Refiner, TrainedRefiner, check_backgrounds
from weakseg.refine.registry import REFINERS, refiner_class

SIZES = ("resize", "scale", "area")
"""Ways in which the size of training images may be drawn, of which a recipe says one."""


class Learning(Section):
    """What a recipe may say of a trained refiner beside its options; ``start`` as for the segmenter."""

    backbone: BackboneSettings
    start: Start = "pretrained"
    train: Training


@dataclass(frozen=True)
class Step:
    """One refiner of a recipe.

    Attributes:
        name: In the registry.
        key: Name of its files; unlike those of all other steps.
        options: Keyword arguments, defaults filled in.
        learning: How it is trained, or ``None``.
    """

    name: str
    key: str
    options: dict[str, Any]
    learning: Learning | None = None

    @property
    def kind(self) -> type[Refiner]:
        """The refiner's class."""
        return refiner_class(self.name)

    def named(self) -> Named:
        """The step as a recipe spells it out."""
        learning = {} if self.learning is None else self.learning.model_dump(mode="json")
        return Named(name=self.name, **self.options, **learning)

    def training_options(self) -> dict[str, Any]:
        """The options on which its training depends."""
        assert issubclass(self.kind, TrainedRefiner)
        return {key: value for key, value in self.options.items() if key not in self.kind.inference_options}

    def untrained(self, localizer: Path | None = None) -> TrainedRefiner:
        """A trained refiner with its initial weights.

        Args:
            localizer: Weights of the localiser, for ``start: localizer``; initial weights are read from nowhere else
                when it is given.
        """
        assert self.learning is not None
        refiner = self._with_backbone(self.learning.backbone)
        if localizer is not None and self.learning.start == "localizer":
            body = read_weights(localizer, prefix="backbone.model.")
            load_backbone_weights(refiner.backbone.model, body, localizer)
        return refiner

    def ready(self, weights: Path | None) -> Refiner:
        """The refiner, ready to refine; ``weights`` are those of its trained network."""
        if self.learning is None:
            return self.kind(**self.options)
        refiner = self._with_backbone(self.learning.backbone.blank())
        if weights is not None:
            load_weights(refiner, weights)
        return refiner

    def _with_backbone(self, settings: BackboneSettings) -> TrainedRefiner:
        assert issubclass(self.kind, TrainedRefiner)
        return self.kind(Backbone(**settings.model_dump()), **self.options)


Weighted = tuple[Step, Path | None]
"""A step and the weights of its trained network."""


def refiner_steps(recipe: Recipe) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The refiners of a recipe and those of its second masks, all settings checked and defaults filled in.

    Raises:
        UserError: If a refiner, an option or a setting is unknown, maps or a background are missing where they are
            needed, or a refiner without a network cannot be built.
    """
    steps: list[Step] = []
    chains = {"refine": recipe.refine, "second": recipe.second}
    for where, chosen in ((f"{name}.{i}", chosen) for name, chain in chains.items() for i, chosen in enumerate(chain)):
        steps.append(_step(chosen, where, recipe.backbone, [step.key for step in steps]))
    first = len(recipe.refine)
    method = None if recipe.localize is None else method_class(recipe.localize.method.name)
    if method is None:
        _check_makers(steps)
    kinds = [(step.name, step.kind) for step in steps[:first]]
    check_backgrounds(kinds, known=method is not None and method.gives_background)
    _check_features(steps, recipe, method)
    for step in steps:
        if step.learning is None:
            step.ready(None)
    return tuple(steps[:first]), tuple(steps[first:])


def _check_makers(steps: Sequence[Step]) -> None:
    """Without a localiser the first refiner makes the maps."""
    if steps and steps[0].kind.makes_maps:
        return
    makers = ", ".join(f"'{name}'" for name, kind in REFINERS.items() if kind.makes_maps)
    raise UserError(
        f"'localize: none' leaves refiner '{steps[0].name}' without maps" if steps else "nothing makes maps",
        where="refine",
        remedy=f"Start with one of {makers}, or name a localiser",
    )


def _check_features(steps: Sequence[Step], recipe: Recipe, method: type[Method] | None) -> None:
    """Features are kept by few methods, and not if a recipe does not want them."""
    asking = next((step.name for step in steps if step.kind.needs_features), None)
    if asking is None:
        return
    if method is None or not method.gives_features:
        keepers = ", ".join(f"'{name}'" for name in methods_that(lambda kind: kind.gives_features))
        raise UserError(f"refiner '{asking}' needs features", where="recipe", remedy=f"Choose method {keepers}")
    assert recipe.localize is not None
    if recipe.localize.method.options.get("keep_features") is False:
        raise UserError(
            f"refiner '{asking}' needs features", where="localize.method", remedy="Leave out 'keep_features: false'"
        )


def _step(chosen: Named, where: str, backbone: BackboneSettings, taken: Sequence[str]) -> Step:
    kind, options = refiner_class(chosen.name), chosen.options
    learning = None
    if issubclass(kind, TrainedRefiner):
        given = {key: options.pop(key) for key in Learning.model_fields if key in options}
        learning = _learning(kind, given, where, backbone)
    key = next(key for key in (chosen.name, *(f"{chosen.name}-{n}" for n in range(2, 99))) if key not in taken)
    return Step(chosen.name, key, checked_options(kind, options, where), learning)


def _learning(kind: type[TrainedRefiner], given: Mapping[str, Any], where: str, backbone: BackboneSettings) -> Learning:
    """The paper's training, and the localiser's backbone at the refiner's stride, as far as nothing else is given."""
    body = given.get("backbone", {})
    if isinstance(body, Mapping) and "name" not in body:
        body = {**backbone.model_dump(), "output_stride": kind.output_stride, **body}
    train = given.get("train", {})
    train = merged(kind.settings, train) if isinstance(train, Mapping) else train
    try:
        return Learning.model_validate({**given, "backbone": body, "train": train})
    except ValidationError as error:
        raise recipe_error(error, where, known_keys(Learning, error)) from error


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, those given in place of the defaults; a way to draw a size takes the place of any other."""
    drawn = any(given.get(way) is not None for way in SIZES)
    kept = {key: value for key, value in defaults.items() if not (drawn and key in SIZES)}
    both = {key: (kept[key], given[key]) for key in given if key in kept}
    inner = {
        key: merged(old, new)
        for key, (old, new) in both.items()
        if isinstance(old, Mapping) and isinstance(new, Mapping)
    }
    return {**kept, **given, **inner}
