"""Which stages of a run are done, and from which inputs."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weakseg.data.files import write_json
from weakseg.errors import UserError

MANIFEST, TIMINGS = "MANIFEST.json", "timings.json"


def fingerprint(**parts: Any) -> str:  # noqa: ANN401
    """A short hash of everything that a stage's result depends on."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Manifest:
    """``MANIFEST.json`` of a run folder: for each stage the hash of its inputs and whether it is done.

    Args:
        folder: The run folder; need not exist yet.

    Raises:
        UserError: If the file is there but damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages: dict[str, Any] = {}
        self.reload()

    def reload(self, kept: Sequence[str] = ()) -> None:
        """Read the file, again; another process may have written to it.

        Args:
            kept: Stages that stay as they were noted here.

        Raises:
            UserError: If the file is damaged.
        """
        noted = {stage: self.stages[stage] for stage in kept}
        self.stages = {**_read(self.folder / MANIFEST), **noted}
        self.timings = _read(self.folder / TIMINGS)

    def done(self, stage: str, inputs: str) -> bool:
        """Whether the stage is finished for these inputs."""
        entry = self.stages.get(stage, {})
        return bool(entry.get("done")) and entry.get("inputs") == inputs

    def begin(self, stage: str, inputs: str, outputs: Sequence[str]) -> None:
        """Note that the stage is being worked on; what it made from other inputs is removed first."""
        if self.stages.get(stage, {}).get("inputs") != inputs:
            self._note(stage, "", done=False)  # so that what a stopped removal leaves is nobody's result
            for name in outputs:
                _remove(self.folder / name)
        self._note(stage, inputs, done=False)

    def finish(self, stage: str, inputs: str, timing: Mapping[str, Any]) -> None:
        """Note that the stage is done and how long it took."""
        self.timings[stage] = dict(timing)
        write_json(self.folder / TIMINGS, self.timings)
        self._note(stage, inputs, done=True)

    def _note(self, stage: str, inputs: str, *, done: bool) -> None:
        self.stages[stage] = {"inputs": inputs, "done": done}
        write_json(self.folder / MANIFEST, self.stages)


def _read(path: Path) -> dict[str, Any]:
    """An object of objects; empty where there is no file."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise _damaged(path)
    return content


def read_json(path: Path) -> Any:  # noqa: ANN401  (any JSON value)
    """Content of a JSON file; an empty mapping where there is none.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError("is damaged", where=path, remedy="Remove the run folder, or choose another run.folder")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
