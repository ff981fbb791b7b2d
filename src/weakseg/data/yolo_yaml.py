"""The ``data.yaml`` of YOLO: names of the classes, and where the images of each split are."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from weakseg.data.tables import read_text
from weakseg.errors import UserError

FILES = ("data.yaml", "data.yml")
SPLITS = ("train", "val", "valid", "test")
NAMES_REMEDY = "Write 'names: [cat, dog]'"


@dataclass(frozen=True)
class DataYaml:
    """Its entries, and on which line each stands.

    Attributes:
        file: The file.
        entries: Its content; empty where it is no mapping.
        lines: Number of the line of each entry, from 1.
    """

    file: Path
    entries: Mapping[str, Any]
    lines: Mapping[str, int]

    def where(self, key: str) -> str:
        """The file, and the line of an entry that it has."""
        return f"{self.file}, line {self.lines[key]}" if key in self.lines else str(self.file)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the classes by their numbers.

        Raises:
            UserError: If there is no such list, or one of another length than ``nc`` says.
        """
        names = self.entries.get("names")
        if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
            numbered = {int(number): name for number, name in names.items()}
            names = [numbered[number] for number in range(len(numbered))]
        if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
            what = "has no entry 'names' that lists the classes, or gives their numbers from 0 without a gap"
            raise UserError(what, where=self.where("names"), remedy=NAMES_REMEDY)
        count = self.entries.get("nc", len(names))
        if count != len(names):
            what = f"says 'nc: {count}', but 'names' has {len(names)} classes"
            raise UserError(what, where=self.where("nc"), remedy="Correct one of them, or remove 'nc'")
        return tuple(str(name).strip() for name in names)

    @cached_property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Paths of each split as they are written; splits without any are left out.

        Raises:
            UserError: If one is neither a path nor a list of paths.
        """
        found = {}
        for key in SPLITS:
            given = self.entries.get(key) or []
            paths = given if isinstance(given, list) else [given]
            if not all(isinstance(path, str) and path.strip() for path in paths):
                what = f"its '{key}' is neither a path nor a list of paths"
                raise UserError(what, where=self.where(key), remedy=f"Write '{key}: images/{key}'")
            if paths:
                found[key] = tuple(path.strip() for path in paths)
        return found

    @property
    def path(self) -> str:
        """What the splits' paths are relative to, itself relative to the file's folder.

        Raises:
            UserError: If it is no path.
        """
        path = self.entries.get("path") or "."
        if not isinstance(path, str):
            raise UserError("its 'path' is no path", where=self.where("path"), remedy="Write 'path: .'")
        return path


def read_yaml(root: Path) -> DataYaml | None:
    """The ``data.yaml`` or ``data.yml`` of a folder, if there is one.

    Raises:
        UserError: If it cannot be read as YAML.
    """
    file = next((root / name for name in FILES if (root / name).is_file()), None)
    if file is None:
        return None
    text = read_text(file)
    try:
        content, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = file if mark is None else f"{file}, line {mark.line + 1}"
        reason = getattr(error, "problem", None) or str(error)
        raise UserError(f"is not YAML ({' '.join(reason.split())})", where=where, remedy="Correct it") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        return DataYaml(file, {}, {})
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    return DataYaml(file, content, lines)
