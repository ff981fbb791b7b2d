"""Names of images: the path below the image folder without its suffix, such as ``cats/001``."""

from pathlib import Path

from weakseg.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

LONGEST_NAME = 240  # bytes; file systems take 255, with the suffix


def check_id(name: str, where: str | Path | None = None) -> str:
    """``name`` itself if it cannot lead out of the folder it is joined to.

    Args:
        name: The id; sub-folders are written with ``/``.
        where: File in which it stands, for the message.

    Raises:
        UserError: If it is empty, absolute or too long for a file name, or has an empty part, a ``.`` or ``..`` part, a
            backslash, a drive letter or a control character.
    """
    parts = name.split("/")
    if not name.strip():
        raise UserError("an image id is empty", where=where, remedy="Give each image a name, such as cats/001")
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        what = f"image id '{name[:40]}...' is longer than file names can be"
        raise UserError(what, where=where, remedy="Use shorter names")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or name[1:2] == ":" or min(name) < " ":
        what = f"image id {name!r} is not a plain path below the image folder"
        raise UserError(
            what, where=where, remedy="Use names such as 001 or cats/001, with no '..', '\\' or leading '/'"
        )
    return name


def id_of(image: str) -> str:
    """``cats/001.jpg`` or ``cats/001`` -> ``cats/001``; only the suffix of an image is taken off."""
    stem, dot, suffix = image.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else image
