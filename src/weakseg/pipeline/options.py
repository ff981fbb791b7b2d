"""Recipe sections read off the signatures of what they configure, so that each default stands in one place."""

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from weakseg.errors import UserError
from weakseg.registry import near_matches

Model = type[BaseModel] | None


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def checked_options(target: Callable[..., Any], options: dict[str, Any], where: str) -> dict[str, Any]:
    """All keyword-only arguments of ``target`` with the given values or their defaults.

    Args:
        target: A class or function.
        options: Values from a recipe.
        where: Name of the recipe section, for messages.

    Raises:
        UserError: If a key is unknown or a value has the wrong type.
    """
    arguments = inspect.signature(target).parameters
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if argument.default is inspect.Parameter.empty else argument.default)
        for name, argument in arguments.items()
        if argument.kind is inspect.Parameter.KEYWORD_ONLY
    }
    model = create_model("Options", __base__=Section, **fields)
    try:
        return dict(model(**options))
    except ValidationError as error:
        raise recipe_error(error, where, list(fields)) from error


def recipe_error(error: ValidationError, where: str, known: list[str]) -> UserError:
    """The first thing that pydantic found, in one line."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in (where, *first["loc"]) if part != "")
    if first["type"] == "extra_forbidden":
        return UserError(f"unknown key '{key}'", where="recipe", remedy=near_matches(str(first["loc"][-1]), known))
    if first["type"] == "missing":
        return UserError(f"'{key}' is missing", where="recipe", remedy=f"Add it, or use --set {key}=VALUE")
    given = repr(first.get("input"))
    return UserError(
        f"'{key}' is {given if len(given) < 60 else given[:57] + '...'}: {first['msg'].lower()}",
        where="recipe",
        remedy="Correct the value",
    )


def known_keys(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Keys of ``model`` that would have been allowed where the first unknown one stands."""
    place: Model = model
    for part in error.errors()[0]["loc"][:-1]:
        place = model_below(place, str(part))
    return [] if place is None else list(place.model_fields)


def model_below(model: Model, key: str) -> Model:
    """The model of what stands under a key of another one, if it has one."""
    found = annotation(model, key)
    models = [each for each in (found, *get_args(found)) if isinstance(each, type)]
    return next((each for each in models if issubclass(each, BaseModel)), None)


def annotation(model: Model, key: str) -> Any:  # noqa: ANN401
    """The type of what stands under a key; ``None`` if the model does not say."""
    return model.model_fields[key].annotation if model is not None and key in model.model_fields else None
