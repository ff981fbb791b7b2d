"""The recipes that come along with the package."""

from pathlib import Path

import yaml

from weakseg.errors import UserError
from weakseg.registry import near_matches

PACKAGE = Path(__file__).parents[1]


def recipes_folder() -> Path:
    """Inside the installed package, or beside ``src`` in a checkout."""
    installed = PACKAGE / "recipes"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names such as ``mini/cam``."""
    folder = recipes_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe given by its path or by its name.

    Raises:
        UserError: If there is no such file; lists near matches.
    """
    known = recipe_names()
    if Path(name).is_file() and name not in known:
        return Path(name)
    if name.removesuffix(".yaml").removeprefix("recipes/") in known:
        return recipes_folder() / f"{name.removesuffix('.yaml').removeprefix('recipes/')}.yaml"
    raise UserError("no such recipe", where=name, remedy=near_matches(name.removesuffix(".yaml"), known))


def describe_recipes() -> list[tuple[str, str]]:
    """Names and descriptions."""
    return [(name, _description(recipes_folder() / f"{name}.yaml")) for name in recipe_names()]


def _description(path: Path) -> str:
    return str(yaml.safe_load(path.read_text(encoding="utf-8")).get("description", ""))
