"""What the rest of the house sees of a data set."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from weakseg.data.annotations import Annotation, Box, read_annotation
from weakseg.data.classes import ClassList
from weakseg.data.findings import Finding
from weakseg.data.images import image_size, read_image, read_mask
from weakseg.data.objects import Objects
from weakseg.data.saliency.quality import read_usable
from weakseg.data.sample import Sample, WeakLabel
from weakseg.errors import UserError
from weakseg.ops.box_masks import pixel_regions, region_area
from weakseg.registry import near_matches

BOX_SLACK = 1  # pixels that a box may reach outside its image, as when pixels were counted from 0; it is clipped
CONTEXT, OBJECTS = "context", "objects"
MEASURED = (CONTEXT, OBJECTS)  # kinds of files that nothing is trained with
FILE_OF = {WeakLabel.BOXES: "annotation", WeakLabel.SALIENCY: "saliency", WeakLabel.MASKS: "mask"}


class Dataset(ABC):
    """The images of one split with what is known about them; labels are read when they are asked for.

    A data set is opened without looking at the labels' sense: ``audit`` finds everything that is wrong with them at
    once, and whoever uses a wrong one all the same gets a ``UserError`` that names the file.

    Attributes:
        root: Folder that all relative paths start from.
        split: Such as ``"train"``.
        classes: Names of the object classes, the same for all splits.
        ids: Each image of the split once, in a fixed order.
        context_classes: What the values of the context labels mean, value v at index v; ``None`` if nothing says so.
    """

    root: Path
    split: str
    classes: ClassList
    ids: tuple[str, ...]
    context_classes: tuple[str, ...] | None = None

    @abstractmethod
    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        """Tags as they are written, each once; ``None`` if nothing says what the image shows.

        Raises:
            UserError: If the file that says so cannot be read.
        """

    @abstractmethod
    def tags_file(self, image_id: str) -> Path:
        """File that ``tag_names`` looks at, or would look at if it were there."""

    @abstractmethod
    def paths(self, image_id: str) -> dict[str, Path]:
        """Files of an image that exist, by kind: image, mask, saliency, annotation, context, objects.

        A file may be about many images; ``tables`` names those that are.
        """

    @property
    def tables(self) -> frozenset[Path]:
        """Files about many images, whose content belongs to ``said`` instead of the files of an image."""
        return frozenset()

    def said(self, image_id: str) -> list[str]:
        """What ``tables`` say about an image, its tags apart; for the fingerprint."""
        return []

    def listing_findings(self) -> Iterable[Finding]:
        """What was odd when the split was listed, such as an image that is listed twice."""
        return ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(self.ids[index])

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._known

    def tags(self, image_id: str) -> tuple[int, ...] | None:
        """Indices of the tags, ascending; the image is not read.

        Raises:
            UserError: If a tag is no class, or its file cannot be read.
        """
        names = self.tag_names(image_id)
        return None if names is None else tuple(sorted(self._class_indices(names, self.tags_file(image_id))))

    def annotation(self, image_id: str) -> Annotation | None:
        """What is known about the objects of the image, ``None`` if it has no annotation.

        Raises:
            UserError: If the annotation cannot be read at all.
        """
        path = self.paths(image_id).get("annotation")
        return None if path is None else read_annotation(path)

    def boxes(self, image_id: str) -> tuple[Box, ...] | None:
        """Boxes of the image, ``None`` if it has no annotation; an annotation without objects gives ``()``.

        Raises:
            UserError: If the annotation cannot be read.
        """
        annotation = self.annotation(image_id)
        return None if annotation is None else annotation.checked().boxes

    def mask(self, image_id: str) -> Tensor | None:
        """(H, W) uint8 true mask of the image, ``None`` if it has none.

        Raises:
            UserError: If it cannot be read.
        """
        path = self.paths(image_id).get("mask")
        return None if path is None else read_mask(path)

    def objects(self, image_id: str) -> Objects | None:
        """True objects of the image told apart, ``None`` if nothing tells them apart.

        Raises:
            UserError: If they cannot be read.
        """
        return None

    def sample(self, image_id: str) -> Sample:
        """An image with all its labels; a saliency map that is empty, constant or stretched is left out.

        Raises:
            UserError: If there is no such image, a file cannot be read, the mask has another size than the image, or a
                class is unknown.
        """
        if image_id not in self:
            raise UserError(
                f"there is no image '{image_id}' in {self.split}", where=self.root, remedy=self._near(image_id)
            )
        paths = self.paths(image_id)
        if "image" not in paths:
            raise UserError(f"there is no file for the image '{image_id}'", where=self.root, remedy="Put it there")
        image = read_image(paths["image"])
        mask = self.mask(image_id)
        if mask is not None and mask.shape != image.shape[1:]:
            raise size_error(paths["mask"], mask.shape, image.shape)
        saliency = read_usable(paths["saliency"], (image.shape[1], image.shape[2])) if "saliency" in paths else None
        annotation = self.annotation(image_id)
        boxes, box_classes = self._box_tensors(annotation, image_id, image.shape[1], image.shape[2])
        unsure = _unsure(annotation)
        return Sample(image_id, image, self._tag_vector(image_id), boxes, box_classes, saliency, mask, unsure=unsure)

    def has(self, kind: WeakLabel) -> bool:
        """Whether at least one image has this kind of label."""
        if kind is WeakLabel.TAGS:
            return any(self.tag_names(image_id) is not None for image_id in self.ids)
        return any(FILE_OF[kind] in self.paths(image_id) for image_id in self.ids)

    def fingerprint(self) -> str:
        """Hash of the content: classes, ids, tags, and every byte of the files of this split.

        Context labels and objects told apart are left out, with which nothing is trained; see ``context_fingerprint``
        and ``objects_fingerprint``.

        Raises:
            UserError: If a file cannot be read.
        """
        tags = [[image_id, self.tag_names(image_id), *self.said(image_id)] for image_id in self.ids]
        files = self._files(lambda kind: kind not in MEASURED)
        return self._hash([[list(self.classes.names), tags], *([name, file_hash(path)] for name, path in files)])

    def context_fingerprint(self) -> str:
        """Hash of the context labels of this split and their names.

        Raises:
            UserError: If a file cannot be read.
        """
        files = self._files(lambda kind: kind == CONTEXT)
        return self._hash([self.context_classes, *([name, file_hash(path)] for name, path in files)])

    def objects_fingerprint(self) -> str:
        """Hash of what tells the objects of this split apart, the masks included.

        Raises:
            UserError: If a file cannot be read.
        """
        files = self._files(lambda kind: kind in (OBJECTS, "mask"))
        said = [self.said(image_id) for image_id in self.ids]
        return self._hash([list(self.classes.names), said, *([name, file_hash(path)] for name, path in files)])

    def stat_fingerprint(self) -> str:
        """Like ``fingerprint``, of sizes and times of change instead of content; quick, but a copied tree differs."""
        files = self._files(lambda _: True, self.tags_file)
        files += sorted((self._name(path), path) for path in self.tables)
        stats = ((name, path.stat()) for name, path in dict(files).items())
        lines = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        return self._hash([[list(self.classes.names), self.context_classes, list(self.ids)], *lines])

    def _files(self, wanted: Callable[[str], bool], *others: Callable[[str], Path]) -> list[tuple[str, Path]]:
        """Sorted names below the root, and paths, of the wanted kinds of files of all images and of ``others``."""
        found = (file for image_id in self.ids for file in self.paths(image_id).items())
        used = {path for kind, path in found if wanted(kind)}
        used |= {other(image_id) for image_id in self.ids for other in others}
        used -= self.tables
        return sorted((self._name(path), path) for path in used if path.is_file())

    def _name(self, path: Path) -> str:
        """What a file is called in fingerprints."""
        return path.relative_to(self.root).as_posix()

    @staticmethod
    def _hash(lines: Iterable[object]) -> str:
        state = hashlib.blake2b(digest_size=16)
        for line in lines:
            state.update(json.dumps(line).encode() + b"\n")
        return state.hexdigest()

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.ids)

    def _near(self, image_id: str) -> str:
        near = near_matches(image_id, self.ids)
        return near if near.startswith("Did") else "Choose one of its images"

    def _class_indices(self, names: Iterable[str], where: Path) -> list[int]:
        try:
            return [self.classes.index(name) for name in names]
        except UserError as error:
            raise UserError(error.problem, where=where, remedy=error.remedy) from error

    def _tag_vector(self, image_id: str) -> Tensor | None:
        tags = self.tags(image_id)
        if tags is None:
            return None
        vector = torch.zeros(len(self.classes), dtype=torch.bool)
        vector[list(tags)] = True
        return vector

    def box_tensors(self, image_id: str) -> tuple[Tensor, Tensor] | None:
        """(n, 4) float32 boxes, clipped to the image, and (n,) int64 classes; ``None`` if the image has no annotation.

        Boxes that cover no pixel (see ``box_masks``) are left out: nothing can be learnt from them.

        Raises:
            UserError: If the annotation cannot be read, or a class is unknown.
        """
        size = image_size(self.paths(image_id)["image"])
        boxes, classes = self._box_tensors(self.annotation(image_id), image_id, *size)
        return None if boxes is None or classes is None else (boxes, classes)

    def unsure_boxes(self, image_id: str) -> Tensor | None:
        """(m, 4) float32 boxes of crowds, in which nothing is known to be background; ``None`` if there is none."""
        return _unsure(self.annotation(image_id))

    def _box_tensors(
        self, annotation: Annotation | None, image_id: str, height: int, width: int
    ) -> tuple[Tensor | None, Tensor | None]:
        if annotation is None:
            return None, None
        boxes = annotation.checked().boxes
        classes = self._class_indices((box.name for box in boxes), self.paths(image_id)["annotation"])
        corners = torch.tensor([box.corners for box in boxes], dtype=torch.float32).reshape(-1, 4)
        corners = corners.clamp(torch.zeros(4), torch.tensor([width, height] * 2).float())
        kept = covering(corners, (height, width))
        return corners[kept], torch.tensor(classes, dtype=torch.int64)[kept]


def _unsure(annotation: Annotation | None) -> Tensor | None:
    if annotation is None or not annotation.unsure:
        return None
    return torch.tensor([box.corners for box in annotation.unsure], dtype=torch.float32)


def covering(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """(n,) bool, which of (n, 4) boxes cover a pixel of an image of this height and width."""
    areas = [region_area(region) for region in pixel_regions(corners, size)]
    return torch.tensor(areas, dtype=torch.int64) > 0


def size_error(path: Path, found: tuple[int, ...], image: tuple[int, ...]) -> UserError:
    """What to say of a mask whose size is not the image's; sizes end in height and width."""
    return UserError(
        f"is {found[-1]} x {found[-2]} pixels, its image {image[-1]} x {image[-2]}",
        where=path,
        remedy="Make both the same size (an image may be turned by its EXIF data), or remove the file",
    )


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, where it stands first."""
    return tuple(dict.fromkeys(names))


def existing(**paths: Path) -> dict[str, Path]:
    """Those of the paths that are files."""
    return {kind: path for kind, path in paths.items() if path.is_file()}


def file_hash(path: Path) -> str:
    """Hash of a file's content.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=path, remedy="Make it readable") from error
