"""What other runs have trained, and a localiser that is taken from one of them instead of being trained here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakseg.errors import UserError
from weakseg.methods.method import Method
from weakseg.networks.weights import checksum, read_about, read_weights
from weakseg.pipeline.recipe import Localize, Recipe, Trained, load_recipe
from weakseg.registry import near_matches

SEEN = "seen"
"""Option of methods that need not have learnt all classes."""


@dataclass(frozen=True)
class TrainedLocalizer:
    """A localiser of another run.

    Attributes:
        weights: Its file.
        places: For each class here its number there, ``None`` for those that it has not learnt.
    """

    weights: Path
    places: tuple[int | None, ...]

    @property
    def learnt(self) -> tuple[int, ...] | None:
        """Indices of the classes here that it has learnt, ``None`` if all."""
        known = tuple(index for index, place in enumerate(self.places) if place is not None)
        return None if len(known) == len(self.places) else known

    def inputs(self) -> dict[str, object]:
        """What its maps depend on."""
        return {"weights": checksum(self.weights), "places": self.places}

    def give(self, method: Method) -> None:
        """Its weights to a method that has the classes here.

        Raises:
            UserError: If they belong to another network.
        """
        weights = method.for_classes(read_weights(self.weights), self.places)
        try:
            method.load_state_dict(weights)
        except RuntimeError as error:
            remedy = f"Write localize.method and localize.backbone as in {self.weights.parent / 'recipe.yaml'}"
            raise UserError("belongs to another network", where=self.weights, remedy=remedy) from error


def trained_localizer(
    localize: Localize, options: Mapping[str, Any], here: Sequence[str], run_folder: Path
) -> TrainedLocalizer | None:
    """The localiser that a recipe takes from another run, ``None`` if it trains its own.

    Args:
        localize: The recipe's section.
        options: Of the method, defaults filled in.
        here: Names of the classes whose maps it is to make.
        run_folder: Of the run that takes it.

    Raises:
        UserError: If there is none in that run, it is of another method, or its classes do not go with those here.
    """
    settings = localize.trained
    if settings is None:
        return None
    folder = Path(settings.run)
    if folder.resolve() == run_folder.resolve():
        raise UserError("is this run itself", where="localize.trained.run", remedy="Choose another run.folder")
    weights = folder / "localizer.safetensors"
    source, there = run_recipe(folder, "localizer"), trained_classes(weights, "localizer")
    assert source.localize is not None
    if source.localize.method.name != localize.method.name:
        raise UserError(
            f"was trained by method '{source.localize.method.name}', not '{localize.method.name}'",
            where=weights,
            remedy="Write the same localize.method",
        )
    numbers = _numbers(settings, there, here, source.localize.method.options.get(SEEN))
    found = TrainedLocalizer(weights, tuple(numbers.get(name) for name in here))
    _check_classes(found, localize.method.name, options, len(there), here)
    return found


def _numbers(
    settings: Trained, there: Sequence[str], here: Sequence[str], learnt: Sequence[int] | None
) -> dict[str, int]:
    """Name here of every class that was learnt there -> its number there."""
    for kind, given, known in (("there", settings.names, there), ("here", settings.names.values(), here)):
        for name in given:
            if name not in known:
                what = f"there is no class '{name}' {kind}"
                raise UserError(what, where="localize.trained.names", remedy=near_matches(name, known))
    named: dict[str, int] = {}
    for number in range(len(there)) if learnt is None else learnt:
        name = settings.names.get(there[number], there[number])
        if name in named:
            raise UserError(
                f"'{there[named[name]]}' and '{there[number]}' would both be '{name}'",
                where="localize.trained.names",
                remedy="Name each class once",
            )
        named[name] = number
    return named


def _check_classes(
    found: TrainedLocalizer, method: str, options: Mapping[str, Any], count: int, here: Sequence[str]
) -> None:
    """Methods map what they have learnt, unless they have a way with other classes."""
    same = found.places == tuple(range(count))
    if not same and SEEN not in options:
        strange = next((name for name, place in zip(here, found.places, strict=True) if place is None), None)
        what = "has its classes in another order" if strange is None else f"has not learnt '{strange}'"
        remedy = f"Method '{method}' needs the same classes; see localize.trained.names and data.classes"
        raise UserError(what, where=found.weights, remedy=remedy)
    if found.learnt == ():
        remedy = "Say which is which in localize.trained.names"
        raise UserError("has learnt none of the classes here", where=found.weights, remedy=remedy)
    given = options.get(SEEN)
    if given is not None and tuple(sorted(given)) != found.learnt:
        what = "names other classes than the trained localiser knows"
        raise UserError(what, where=f"localize.method.{SEEN}", remedy="Leave it out")


def run_recipe(run_folder: Path, kind: str) -> Recipe:
    """The recipe of a run that has trained something.

    Args:
        run_folder: Of the run.
        kind: What is looked for, for the message.

    Raises:
        UserError: If the folder is no run.
    """
    recipe_file = run_folder / "recipe.yaml"
    if not recipe_file.is_file():
        raise _nothing_trained(run_folder, kind)
    return load_recipe(recipe_file)


def trained_classes(weights: Path, kind: str) -> list[str]:
    """Names of the object classes that a network was trained for.

    Args:
        weights: Its file in a run folder.
        kind: What it is, for the message.

    Raises:
        UserError: If there is no such file, or it does not say.
    """
    if not weights.is_file():
        raise _nothing_trained(weights.parent, kind)
    classes = read_about(weights).get("classes")
    if classes is None:
        raise UserError("names no classes in its header", where=weights, remedy=f"Train the {kind} again")
    return classes.split("\n")


def _nothing_trained(run_folder: Path, kind: str) -> UserError:
    return UserError(f"holds no trained {kind}", where=run_folder, remedy="Give the folder of a finished run")
