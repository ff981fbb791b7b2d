"""Making the saliency maps of a folder without a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from weakseg.data.catalog import open_dataset
from weakseg.errors import UserError
from weakseg.pipeline.checks import usual_splits
from weakseg.pipeline.device import choose_device
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.saliency import SaliencyMaps, maps_folder, saliency_source


def fill_saliency(
    root: Path,
    provider: str,
    options: Sequence[str],
    *,
    kind: str,
    splits: Sequence[str] | None,
    workers: int | None,
    reporter: Reporter,
) -> tuple[Path, int]:
    """Make the saliency maps of a data set without training anything.

    Args:
        root: Its folder.
        provider: Name of one that makes maps.
        options: Such as ``"superpixels=300"``.
        kind: ``"auto"``, ``"folder"`` or ``"voc"``.
        splits: Names of the splits; ``None`` takes train and, where there is one, val.
        workers: Processes; ``None`` for one a core.
        reporter: Receives warnings and progress.

    Returns:
        The folder of the maps and the number that had to be made.

    Raises:
        UserError: If provider, option, data or an image is wrong, or nothing can be written.
    """
    source = saliency_source(provider, _parsed(options))
    if not source.computes:
        raise UserError(
            f"'{provider}' takes maps that are there already",
            remedy="Choose a provider that makes them; see weakseg saliency --list",
        )
    datasets = [open_dataset(kind, root, split) for split in splits] if splits else usual_splits(root, kind)
    folder = maps_folder(datasets[0], source, None)
    processes = workers or choose_device("cpu", 1).cores
    made = 0
    for maps in (SaliencyMaps(source, dataset, folder) for dataset in datasets):
        made += maps.make(processes, reporter)
        maps.check(reporter)
    return folder, made


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts, values as YAML reads them."""
    found = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key.strip():
            raise UserError(f"'--option {option}' has no value", remedy="Write --option key=value")
        try:
            found[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"'--option {option}' is not YAML", remedy="Quote the value") from error
    return found
