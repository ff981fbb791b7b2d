"""One run in a folder at a time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weakseg.errors import UserError

LOCK = ".lock"


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: If another process works in the folder, or it cannot be written.
    """
    if sys.platform == "win32":  # no flock there; two runs in one folder are then the user's own care
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror})", where=folder, remedy="Choose a run.folder you may write to"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "another run works in this folder", where=folder, remedy="Wait for it, or choose another run.folder"
            ) from error
        yield
