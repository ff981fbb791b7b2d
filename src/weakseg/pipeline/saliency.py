"""Saliency maps that a provider makes: found again, or made in several processes, one image at a time."""

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from weakseg.data.catalog import open_dataset
from weakseg.data.dataset import Dataset, file_hash
from weakseg.data.images import read_image, read_saliency
from weakseg.data.pseudo import WithSaliency
from weakseg.data.saliency.cache import folder_name, is_of, write_saliency
from weakseg.data.saliency.provider import FolderSaliency, SaliencyProvider
from weakseg.data.saliency.quality import Flaw, flaw
from weakseg.data.saliency.registry import saliency_class
from weakseg.errors import UserError
from weakseg.pipeline.checks import usual_splits
from weakseg.pipeline.device import choose_device
from weakseg.pipeline.manifest import fingerprint
from weakseg.pipeline.options import checked_options
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import Named
from weakseg.pipeline.shards import one_thread

WHERE = "data.saliency"


@dataclass(frozen=True)
class SaliencySource:
    """Where a recipe's saliency maps come from.

    Attributes:
        name: Of the provider.
        options: Its options, defaults filled in.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def computes(self) -> bool:
        """Whether maps are made from the images, rather than given."""
        return not issubclass(saliency_class(self.name), FolderSaliency)

    @property
    def folder_name(self) -> str:
        """Name of the folder for the maps that are made."""
        return folder_name(self.name, self._provider_class.version, self.options)

    def provider(self) -> SaliencyProvider:
        """The provider, ready to work.

        Raises:
            UserError: If something that it needs is not there.
        """
        return self._provider_class(**self.options)

    def described(self) -> str:
        """The provider with the options that are not its defaults, such as ``rembg(model=u2netp)``."""
        usual = checked_options(saliency_class(self.name), {}, WHERE)
        special = [f"{key}={value}" for key, value in self.options.items() if value != usual[key]]
        return f"{self.name}({', '.join(special)})" if special else self.name

    def named(self) -> Named:
        """The source as a recipe spells it out."""
        return Named(name=self.name, **self.options)

    @property
    def _provider_class(self) -> type[SaliencyProvider]:
        found = saliency_class(self.name)
        assert issubclass(found, SaliencyProvider)
        return found


def saliency_source(name: str, options: Mapping[str, Any]) -> SaliencySource:
    """What a recipe names, its options checked.

    Raises:
        UserError: If there is no such provider or option, or a given folder is not there.
    """
    source = SaliencySource(name, checked_options(saliency_class(name), dict(options), WHERE))
    path = None if source.computes else source.options["path"]
    if path is not None and not Path(path).is_dir():
        raise UserError("there is no such folder", where=path, remedy=f"Correct {WHERE}.path, or leave it out")
    return source


def with_given_saliency(dataset: Dataset, source: SaliencySource) -> Dataset:
    """The data set with the maps of a folder, if the source names another one than the data's own."""
    path = None if source.computes else source.options["path"]
    return dataset if path is None else WithSaliency(dataset, Path(path))


def provenance(dataset: Dataset, source: SaliencySource) -> str:
    """Where the maps came from, for results: the provider, or the folder such as ``folder:SaliencyMaps``."""
    if source.computes:
        return source.described()
    if source.options["path"] is not None:
        return f"{source.name}:{Path(source.options['path']).name}"
    for image_id in dataset.ids:
        if (path := dataset.paths(image_id).get("saliency")) is not None:
            return f"{source.name}:{path.parents[image_id.count('/')].name}"
    return source.name


@dataclass(frozen=True)
class SaliencyMaps:
    """Maps of a data set that a provider makes.

    Attributes:
        source: The provider.
        dataset: The images.
        folder: Where the maps are kept, as ``ID.png``.
    """

    source: SaliencySource
    dataset: Dataset
    folder: Path

    def path(self, image_id: str) -> Path:
        """File of an image's map."""
        return self.folder / f"{image_id}.png"

    def missing(self) -> list[str]:
        """Ids of the images without a map, or with one that was made of another image of that name."""
        return [
            image_id for image_id in self.dataset.ids if not is_of(self.path(image_id), _image_hash(self, image_id))
        ]

    def complete(self) -> bool:
        """Whether all are there."""
        return not self.missing()

    def fingerprint(self) -> str:
        """Hash of the provider, its options and the content of the maps that are there."""
        paths = [self.path(image_id) for image_id in self.dataset.ids]
        content = [file_hash(path) if path.is_file() else None for path in paths]
        return fingerprint(name=self.source.name, options=dict(self.source.options), maps=content)

    def make(self, workers: int, reporter: Reporter) -> int:
        """Make those that are missing, and say which are of no use.

        Returns:
            The number of maps made.

        Raises:
            UserError: If an image cannot be read, the provider lacks something, the disk is full or a process dies.
        """
        undone = self.missing()
        label = f"saliency {self.dataset.split}"
        with reporter.track(label, len(self.dataset), len(self.dataset) - len(undone)) as bar:
            jobs = [
                Job(self.dataset.paths(image_id)["image"], _image_hash(self, image_id), self.path(image_id))
                for image_id in undone
            ]
            for _ in compute_all(jobs, self.source, workers=workers):
                bar.advance()
        for found, where, count in self.flaws():
            more = f" (and {count - 1} more of {len(self.dataset)})" if count > 1 else ""
            reporter.warn(f"{where}: {found.problem}{more}. Try another provider or other options.")
        return len(undone)

    def flaws(self) -> list[tuple[Flaw, Path, int]]:
        """What makes maps useless: each kind of flaw with the first file and the number of maps."""
        found: dict[str, tuple[Flaw, Path, int]] = {}
        for image_id in self.dataset.ids:
            saliency = read_saliency(self.path(image_id))
            if (why := flaw(saliency, saliency.shape[-2:])) is not None:
                first, where, count = found.get(why.check, (why, self.path(image_id), 0))
                found[why.check] = (first, where, count + 1)
        return list(found.values())


def check_useful(maps: SaliencyMaps) -> None:
    """See that at least one map can be learnt from.

    Raises:
        UserError: If none can.
    """
    if sum(count for _, _, count in maps.flaws()) == len(maps.dataset):
        raise UserError(
            f"'{maps.source.name}' finds nothing salient in any image of {maps.dataset.split}",
            where=maps.folder,
            remedy=f"Choose another {WHERE}, or a method that does without",
        )


def maps_folder(dataset: Dataset, source: SaliencySource, instead: Path | None) -> Path:
    """Where a data set's maps are kept: beside the data, or ``instead`` if nothing can be written there.

    Raises:
        UserError: If nothing can be written beside the data and there is no other place.
    """
    beside = dataset.root / source.folder_name
    if _writable(beside) or SaliencyMaps(source, dataset, beside).complete():
        return beside
    if instead is None:
        raise UserError("cannot be written", where=beside, remedy="Make the folder of the data writable, or copy it")
    return instead / source.folder_name


def _writable(folder: Path) -> bool:
    return os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK)


@cache
def _hash_of(path: Path, _size: int, _changed: int) -> str:
    return file_hash(path)


def _image_hash(maps: SaliencyMaps, image_id: str) -> str:
    path = maps.dataset.paths(image_id).get("image")
    if path is None:
        raise UserError(f"there is no file for the image '{image_id}'", where=maps.dataset.root, remedy="Put it there")
    stat = path.stat()
    return _hash_of(path, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class Job:
    """One image, the hash of its file, and where its map goes."""

    image: Path
    content: str
    result: Path


def compute_all(jobs: Sequence[Job], source: SaliencySource, *, workers: int) -> Iterator[None]:
    """Do every job; the result does not depend on the number of processes.

    Args:
        jobs: Images without a map.
        source: The provider.
        workers: Processes.

    Yields:
        Once for each map written.

    Raises:
        UserError: See ``SaliencyMaps.make``.
    """
    if not jobs:
        return
    provider = source.provider()  # here first: what a worker cannot build would only be seen to have died
    if workers < 2 or len(jobs) < 2 * workers:
        for job in jobs:
            with one_thread():
                _do(job, provider)
            yield
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(source,)) as pool:
        try:
            for done in as_completed([pool.submit(_work, job) for job in jobs]):
                yield done.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that makes saliency maps died; what was finished is kept",
                remedy="Run again, with fewer workers if it recurs (in a script, guard it with __name__ == '__main__')",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _do(job: Job, provider: SaliencyProvider) -> None:
    image = read_image(job.image)
    saliency = provider(image)
    if saliency.shape != image.shape[1:]:
        raise ValueError(f"a map of shape {tuple(saliency.shape)} for an image of {tuple(image.shape)}")
    write_saliency(job.result, saliency, job.content)


_provider: SaliencyProvider


def _start(source: SaliencySource) -> None:
    global _provider
    torch.set_num_threads(1)
    _provider = source.provider()


def _work(job: Job) -> None:
    _do(job, _provider)


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
    made = sum(SaliencyMaps(source, dataset, folder).make(processes, reporter) for dataset in datasets)
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
