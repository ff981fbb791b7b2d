"""Looking things up by name: explicit dictionaries, entry points of third parties, and near matches."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import TypeVar

from weakseg.errors import UserError

T = TypeVar("T")


def near_matches(name: str, known: Iterable[str]) -> str:
    """Names like ``name``, for an error message.

    Returns:
        "Did you mean 'a' or 'b'?"-like text without the question mark, or the list of all known names.
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    if not close:
        folded = {other.casefold(): other for other in known}
        close = [folded[hit] for hit in get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]
    if close:
        return "Did you mean " + " or ".join(f"'{hit}'" for hit in close)
    return "Known: " + ", ".join(known)


def extended(mapping: Mapping[str, T], group: str) -> dict[str, T]:
    """``mapping`` with the entry points of ``weakseg.<group>`` added; our own names win."""
    others = {point.name: point for point in entry_points(group=f"weakseg.{group}")}
    return {**{name: point.load() for name, point in others.items() if name not in mapping}, **mapping}


def check_variant(given: str, known: Sequence[str]) -> None:
    """See that an equation is read in a way that there is.

    Raises:
        UserError: If there is no such variant.
    """
    if given not in known:
        raise UserError(f"unknown variant '{given}'", remedy="Choose one of " + ", ".join(known))


def find(name: str, mapping: Mapping[str, T], kind: str, group: str | None = None) -> T:
    """The entry called ``name``.

    Args:
        name: Name asked for.
        mapping: The known entries.
        kind: Singular word for the message, such as ``"method"``.
        group: Entry-point group ``weakseg.<group>`` for third parties; none is looked at if ``None``.

    Raises:
        UserError: If there is no such entry; lists the near matches.
    """
    if name in mapping:
        return mapping[name]
    known = extended(mapping, group) if group else dict(mapping)
    if name not in known:
        raise UserError(f"unknown {kind} '{name}'", remedy=near_matches(name, known))
    return known[name]
