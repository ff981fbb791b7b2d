"""Files that appear whole or not at all."""

import errno
import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from weakseg.errors import UserError

TEMPORARY = ".tmp-"


def write_bytes(path: Path, content: bytes) -> None:
    """Write under a temporary name beside ``path``, then rename.

    Raises:
        UserError: If the disk is full or the folder cannot be written.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            "the disk is full" if full else f"cannot be written ({error.strerror})",
            where=path,
            remedy="Free some space and run the same command again" if full else "Choose a folder you may write to",
        ) from error


def remove_unfinished(folder: Path, older: float = 0.0) -> None:
    """Remove what a process that was killed had not finished writing.

    Args:
        folder: Where; it need not exist.
        older: Seconds since the last change; 0 removes all, so that nobody else may be writing there.
    """
    for path in folder.rglob(f"{TEMPORARY}*"):
        with suppress(OSError):  # finished or removed by another process in the meantime, or not to be removed
            if older <= 0 or time.time() - path.stat().st_mtime > older:
                path.unlink()


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text; see ``write_bytes``."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  (any JSON value)
    """Write JSON, indented, with keys in their given order; see ``write_bytes``."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
