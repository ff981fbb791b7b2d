"""Saliency maps that a provider makes: found again, or made in several processes, one image at a time."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weakseg.data.dataset import Dataset, file_hash
from weakseg.data.files import remove_unfinished
from weakseg.data.images import read_image, read_saliency
from weakseg.data.pseudo import WithSaliency
from weakseg.data.saliency.cache import folder_name, is_of, write_saliency
from weakseg.data.saliency.provider import FolderSaliency, SaliencyProvider
from weakseg.data.saliency.quality import Flaw, flaw
from weakseg.data.saliency.registry import saliency_class
from weakseg.errors import UserError
from weakseg.pipeline.manifest import fingerprint
from weakseg.pipeline.options import checked_options
from weakseg.pipeline.processes import in_processes, one_thread
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import Named

WHERE = "data.saliency"
ABANDONED = 3600.0
"""Seconds after which a file that is not finished belongs to a process that was killed."""


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
            return f"{source.name}:{_folder_of(path, image_id)}"
    return source.name


def _folder_of(path: Path, image_id: str) -> str:
    """Name of the folder that has the maps: the one above what path and id have in common at their ends."""
    same = zip(reversed(path.with_suffix("").parts), reversed(image_id.split("/")), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], same))
    return path.parents[shared - 1].name


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
        content = [_hash(path) if path.is_file() else None for path in paths]
        return fingerprint(name=self.source.name, options=dict(self.source.options), maps=content)

    def make(self, workers: int, reporter: Reporter) -> int:
        """Make those that are missing.

        Returns:
            The number of maps made.

        Raises:
            UserError: If an image cannot be read, the provider lacks something or fails, the disk is full or a process
                dies.
        """
        remove_unfinished(self.folder, older=ABANDONED)
        undone = self.missing()
        label = f"saliency {self.dataset.split}"
        with reporter.track(label, len(self.dataset), len(self.dataset) - len(undone)) as bar:
            jobs = [
                Job(self.dataset.paths(image_id)["image"], _image_hash(self, image_id), self.path(image_id))
                for image_id in undone
            ]
            for _ in compute_all(jobs, self.source, workers=workers):
                bar.advance()
        return len(undone)

    def check(self, reporter: Reporter) -> int:
        """Look at all maps, which must be there, and warn of each kind of flaw.

        Returns:
            The number of maps that are of no use.
        """
        found: dict[str, tuple[Flaw, Path, int]] = {}
        with reporter.track(f"check saliency {self.dataset.split}", len(self.dataset)) as bar:
            for path in map(self.path, self.dataset.ids):
                saliency = read_saliency(path)
                if (why := flaw(saliency, saliency.shape[-2:])) is not None:
                    first, where, count = found.get(why.check, (why, path, 0))
                    found[why.check] = (first, where, count + 1)
                bar.advance()
        for first, where, count in found.values():
            more = f" (and {count - 1} more of {len(self.dataset)})" if count > 1 else ""
            reporter.warn(f"{where}: {first.problem}{more}. Try another provider or other options.")
        return sum(count for _, _, count in found.values())


def check_useful(maps: SaliencyMaps, useless: int) -> None:
    """See that at least one map can be learnt from.

    Args:
        maps: All that were made.
        useless: How many of them are of no use.

    Raises:
        UserError: If none can.
    """
    if useless == len(maps.dataset):
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


def _hash(path: Path) -> str:
    """Hash of a file's content, which is read again only if its size or time of change is another one."""
    stat = path.stat()
    return _hash_of(path, stat.st_size, stat.st_mtime_ns)


def _image_hash(maps: SaliencyMaps, image_id: str) -> str:
    path = maps.dataset.paths(image_id).get("image")
    if path is None:
        raise UserError(f"there is no file for the image '{image_id}'", where=maps.dataset.root, remedy="Put it there")
    return _hash(path)


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
    maker = Maker(source)  # also if others do the work: they would all download the same weights at once
    if workers < 2 or len(jobs) < 2 * workers:
        for job in jobs:
            with one_thread():
                maker(job)
            yield
        return
    del maker
    yield from in_processes(
        _work,
        jobs,
        processes=workers,
        start=_start,
        given=(source,),
        what="a process that makes saliency maps",
        remedy="Run again, with fewer workers if it recurs",
    )


class Maker:
    """A provider that does jobs.

    Args:
        source: Names it.
    """

    def __init__(self, source: SaliencySource) -> None:
        self.name, self.provider = source.name, source.provider()

    def __call__(self, job: Job) -> None:
        """Do one."""
        image = read_image(job.image)
        write_saliency(job.result, self._map(image, job.image), job.content)

    def _map(self, image: Tensor, where: Path) -> Tensor:
        try:
            saliency = self.provider(image)
        except UserError:
            raise
        except Exception as error:  # whatever somebody else's network may raise
            reason = next(iter(str(error).splitlines()), "")
            what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
            raise self._failed(what, where) from error
        if saliency.shape != image.shape[1:]:
            size, expected = (" x ".join(map(str, shape)) for shape in (saliency.shape, image.shape[1:]))
            raise self._failed(f"its map is {size} instead of {expected}", where)
        if not saliency.isfinite().all():
            raise self._failed("its map has values that are no numbers", where)
        return saliency

    def _failed(self, reason: str, where: Path) -> UserError:
        return UserError(
            f"the saliency provider '{self.name}' fails on it ({reason})",
            where=where,
            remedy=f"Choose another {WHERE}, or take the image out",
        )


_source: SaliencySource


def _start(source: SaliencySource) -> None:
    global _source
    torch.set_num_threads(1)
    _source = source


@cache
def _maker() -> Maker:
    """Of this process, made for its first job: what is raised before that, the pool only reports as a death."""
    return Maker(_source)


def _work(job: Job) -> None:
    _maker()(job)
