"""Auditing a folder without a recipe."""

from collections.abc import Sequence
from pathlib import Path

from weakseg.data.audit import AuditReport, audit
from weakseg.data.catalog import open_dataset
from weakseg.data.dataset import Dataset
from weakseg.data.sample import WeakLabel
from weakseg.errors import UserError
from weakseg.pipeline.progress import Reporter
from weakseg.registry import near_matches

USUAL_SPLITS = ("train", "val")


def audit_folder(
    root: Path,
    *,
    kind: str,
    splits: Sequence[str] | None,
    needs: Sequence[str],
    allow_untagged: bool = False,
    reporter: Reporter,
) -> AuditReport:
    """Check the splits of a data set.

    Args:
        root: Its folder.
        kind: ``"auto"``, ``"folder"``, ``"voc"`` or ``"coco"``.
        splits: Names of the splits, training first; ``None`` takes train and, where there is one, val.
        needs: Labels that training needs.
        allow_untagged: Whether images may have an empty row of tags, showing none of the classes.
        reporter: Receives progress.

    Raises:
        UserError: If the data cannot be opened at all.
    """
    wanted = frozenset(_label(name) for name in needs)
    datasets = [open_dataset(kind, root, split) for split in splits] if splits else usual_splits(root, kind)
    return audit_all(datasets, wanted, reporter, allow_untagged=allow_untagged)


def audit_all(
    datasets: Sequence[Dataset],
    needs: frozenset[WeakLabel],
    reporter: Reporter,
    *,
    allow_untagged: bool = False,
    learns: bool = True,
) -> AuditReport:
    """``audit`` with a progress bar."""
    with reporter.track("audit", sum(map(len, datasets))) as bar:
        return audit(
            datasets,
            needs,
            lambda _done, _total: bar.advance(),
            allow_untagged=allow_untagged,
            learns=learns,
        )


def _label(name: str) -> WeakLabel:
    if name not in set(WeakLabel):
        raise UserError(f"unknown kind of label '{name}'", remedy=near_matches(name, list(WeakLabel)))
    return WeakLabel(name)


def usual_splits(root: Path, kind: str) -> list[Dataset]:
    """Train and, where there is one, val."""
    train, val = USUAL_SPLITS
    found = [open_dataset(kind, root, train)]
    try:
        found.append(open_dataset(kind, root, val))
    except UserError:  # no such split: a data set need not have one
        return found
    return found
