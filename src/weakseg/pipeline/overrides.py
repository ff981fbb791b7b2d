"""``--set key=value``: one setting of a recipe replaced before the recipe is checked."""

from typing import Any

import yaml
from pydantic import BaseModel

from weakseg.errors import UserError
from weakseg.pipeline.options import Model, annotation, model_below

OPTIONAL = ("localize", "segment", "detect")
SHORT = {"trained": "run"}
"""What text alone stands for in a section, where it is not its name."""
LEFT_OUT = "none"
"""What a recipe says of a section that it does without."""


def override(tree: dict[str, Any], setting: str, schema: type[BaseModel]) -> None:
    """Set one value in place.

    The key is a path of names, and of numbers from 0 where a list is. What the tree lacks on the way there starts from
    the schema's default. The value is YAML, but for a setting that is text it is that text as it stands.

    Args:
        tree: Settings as they stand in a recipe.
        setting: Such as ``"localize.train.epochs=5"`` or ``"refine.1.params=A"``.
        schema: What the tree will be checked against.

    Raises:
        UserError: If there is no key or no value, the value is no YAML, or a list has no such item.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UserError(f"'--set {setting}' has no value", remedy="Write --set section.key=value")
    place: Any = tree
    model: Model = schema
    *sections, last = key.strip().split(".")
    for part in sections:
        place, model = _enter(place, _key(place, part, setting), model), model_below(model, part)
    place[_key(place, last, setting)] = _value(text, setting, annotation(model, last) in (str, str | None))


def _key(place: dict[str, Any] | list[Any], part: str, setting: str) -> Any:  # noqa: ANN401
    """The part of a path, as a number where a list is."""
    if not isinstance(place, list):
        return part
    if not part.isdecimal() or int(part) >= len(place):
        raise UserError(
            f"'--set {setting}' names the item '{part}' of a list of {len(place)}",
            remedy="Count from 0, or give the whole list",
        )
    return int(part)


def _enter(place: Any, key: Any, model: Model) -> dict[str, Any] | list[Any]:  # noqa: ANN401
    """What stands under the key, made ready to be written into."""
    below = place[key] if isinstance(place, list) or place.get(key) is not None else _default(model, key)
    if below == LEFT_OUT and key in OPTIONAL:
        below = _default(model, key)
    if isinstance(below, str):
        below = {SHORT.get(key, "name"): below}
    place[key] = below if isinstance(below, dict | list) else {}
    return place[key]  # type: ignore[no-any-return]


def _default(model: Model, key: str) -> Any:  # noqa: ANN401
    """The schema's default, as it would stand in a recipe."""
    field = None if model is None else model.model_fields.get(key)
    default = None if field is None else field.get_default(call_default_factory=True)
    return [_dumped(item) for item in default] if isinstance(default, tuple) else _dumped(default)


def _dumped(value: Any) -> Any:  # noqa: ANN401
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _value(text: str, setting: str, is_text: bool) -> Any:  # noqa: ANN401
    text = text.strip()
    quoted = text.startswith(("'", '"'))
    if " #" in f" {text}" and not quoted and not text.startswith(("[", "{")):
        return text  # YAML would see a comment
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        if is_text:
            return text
        raise UserError(f"'--set {setting}' is not YAML", remedy="Quote the value") from error
    return text if is_text and not quoted and value is not None else value
