"""What other runs have trained, and a localiser that is taken from one of them instead of being trained here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakseg.errors import UserError
from weakseg.methods.method import Method
from weakseg.methods.registry import method_class
from weakseg.networks.weights import checksum, load_state, read_about, read_weights
from weakseg.pipeline import build
from weakseg.pipeline.recipe import Localize, Recipe, Trained, load_recipe
from weakseg.registry import near_matches

SEEN = "seen"
"""Option of methods that can map classes which they have not learnt."""
TRAINING_ONLY = {"weights", "sha256", "freeze", "batchnorm"}
"""What a backbone's settings say of its training alone."""


@dataclass(frozen=True)
class TrainedLocalizer:
    """A localiser of another run.

    Attributes:
        weights: Its file.
        checksum: SHA-256 of that.
        origin: Which run it is from, for people.
        places: For each class here its number there, ``None`` for those that it has not learnt.
    """

    weights: Path
    checksum: str
    origin: str
    places: tuple[int | None, ...]

    @property
    def learnt(self) -> tuple[int, ...] | None:
        """Indices of the classes here that it has learnt, ``None`` if all."""
        known = tuple(index for index, place in enumerate(self.places) if place is not None)
        return None if len(known) == len(self.places) else known

    def inputs(self) -> dict[str, object]:
        """What its maps depend on."""
        return {"weights": self.checksum, "places": self.places}

    def method(self, settings: Localize, options: dict[str, Any], num_classes: int) -> Method:
        """The method with these weights.

        Args:
            settings: The recipe's section.
            options: Of the method, defaults filled in.
            num_classes: C, here.

        Raises:
            UserError: If the weights belong to another network.
        """
        told = {**options, SEEN: self.learnt} if method_class(settings.method.name).knows_some else options
        method = build.method(settings, told, num_classes, blank=True)
        remedy = f"Write localize.method and localize.backbone as in {self.weights.parent / 'recipe.yaml'}"
        load_state(method, method.for_classes(read_weights(self.weights), self.places), self.weights, remedy)
        return method


def trained_localizer(recipe: Recipe, here: Sequence[str]) -> TrainedLocalizer | None:
    """The localiser that a recipe takes from another run, ``None`` if it trains its own or has none.

    Args:
        recipe: Checked.
        here: Names of the classes whose maps are to be made.

    Returns:
        What it is, and which of its classes are which.

    Raises:
        UserError: If there is none in that run, it has other settings, or its classes do not go with those here.
    """
    if recipe.localize is None or recipe.localize.trained is None:
        return None
    localize, settings = recipe.localize, recipe.localize.trained
    folder = Path(settings.run)
    if folder.resolve() == Path(recipe.run.folder).resolve():
        raise UserError("is this run itself", where="localize.trained.run", remedy="Choose another run.folder")
    weights, source = folder / "localizer.safetensors", run_recipe(folder, "localizer")
    there = trained_classes(weights, "localizer")
    if source.localize is None:
        raise _nothing_trained(folder, "localizer")
    _check_settings(localize, source.localize, folder / "recipe.yaml")
    numbers = _numbers(settings, there, here, _learnt(weights, there, source.localize))
    places = tuple(numbers.get(name) for name in here)
    _check_classes(places, localize, weights, there, here)
    return TrainedLocalizer(weights, checksum(weights), f"localizer of {source.name}", places)


def _check_settings(ours: Localize, theirs: Localize, where: Path) -> None:
    """What a network looks like and how images are normalised for it is no matter of choice once it is trained."""
    known, given = _fixed(theirs), _fixed(ours)
    for key in known | given:  # the method's name first
        if known.get(key) != given.get(key):
            old, new = ("null" if value is None else value for value in (known.get(key), given.get(key)))
            what = f"'{key}' is {old} there and {new} here"
            raise UserError(what, where=where, remedy=f"Write '{key}' as it is there")


def _fixed(localize: Localize) -> dict[str, object]:
    """Settings by their place in a recipe, but for those that training or inference alone depends on."""
    kind = method_class(localize.method.name)
    changing = kind.inference_options | ({SEEN} if kind.knows_some else set())
    options = {name: value for name, value in build.method_options(localize.method).items() if name not in changing}
    backbone = localize.backbone.model_dump(mode="json", exclude=TRAINING_ONLY)
    return {
        "localize.method.name": localize.method.name,
        **{f"localize.method.{name}": value for name, value in options.items()},
        **{f"localize.backbone.{name}": value for name, value in backbone.items()},
    }


def _learnt(weights: Path, there: Sequence[str], source: Localize) -> list[str]:
    """Names of the classes that were learnt: the file says so if not all were, or its recipe, if the file is older."""
    noted = read_about(weights).get("learnt")
    if noted is not None:
        return noted.split("\n")
    seen = source.method.options.get(SEEN)
    return [there[index] for index in (range(len(there)) if seen is None else seen)]


def _numbers(settings: Trained, there: Sequence[str], here: Sequence[str], learnt: Sequence[str]) -> dict[str, int]:
    """Name here of every class that was learnt there -> its number there."""
    for who, given, known in (
        ("the other run has", settings.names, there),
        ("the data have", settings.names.values(), here),
    ):
        strange = next((name for name in given if name is not None and name not in known), None)
        if strange is not None:
            what = f"{who} no class '{strange}'"
            raise UserError(what, where="localize.trained.names", remedy=near_matches(strange, known))
    numbers: dict[str, int] = {}
    for old in learnt:
        name = settings.names.get(old, old)
        if name in numbers:
            what = f"'{there[numbers[name]]}' and '{old}' would both be '{name}'"
            raise UserError(what, where="localize.trained.names", remedy="Name each class once")
        if name is not None:
            numbers[name] = there.index(old)
    return numbers


def _check_classes(
    places: Sequence[int | None], localize: Localize, weights: Path, there: Sequence[str], here: Sequence[str]
) -> None:
    """Methods map what they have learnt, unless they have a way with other classes."""
    method = localize.method.name
    if method_class(method).knows_some:
        if all(place is None for place in places):
            remedy = "Say which is which in localize.trained.names"
            raise UserError("has learnt none of the classes here", where=weights, remedy=remedy)
        if localize.method.options.get(SEEN) is not None:
            what = "what a trained localiser has learnt, it knows itself"
            raise UserError(what, where=f"localize.method.{SEEN}", remedy="Leave it out, or write null")
    elif tuple(places) != tuple(range(len(there))):
        new = next(
            (f"has not learnt '{name}'" for name, place in zip(here, places, strict=True) if place is None), None
        )
        left = next((f"has learnt '{there[i]}', too" for i in range(len(there)) if i not in places), None)
        remedy = f"Method '{method}' needs the same classes; see localize.trained.names and data.classes"
        raise UserError(new or left or "has its classes in another order", where=weights, remedy=remedy)


def run_recipe(run_folder: Path, kind: str) -> Recipe:
    """The recipe of a run that has trained something.

    Args:
        run_folder: Of the run.
        kind: What is looked for, for the message.

    Returns:
        As it was written there, with all options.

    Raises:
        UserError: If the folder is no run, or its recipe is not to be read.
    """
    recipe_file = run_folder / "recipe.yaml"
    if not recipe_file.is_file():
        raise _nothing_trained(run_folder, kind)
    try:
        return load_recipe(recipe_file)
    except UserError as error:
        what = error.problem if error.where in (None, "recipe", recipe_file) else f"{error.where}: {error.problem}"
        raise UserError(what, where=recipe_file, remedy=error.remedy) from error


def trained_classes(weights: Path, kind: str) -> list[str]:
    """Names of the object classes that a network was trained for.

    Args:
        weights: Its file in a run folder.
        kind: What it is, for the message.

    Returns:
        In their order.

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
