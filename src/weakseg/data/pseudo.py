"""What training may see of a data set: the weak labels alone, or what has been inferred from them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from weakseg.data.annotations import Annotation
from weakseg.data.dataset import FILE_OF, OBJECTS, Dataset, existing, size_error
from weakseg.data.findings import Finding
from weakseg.data.images import read_mask
from weakseg.data.instances import read_numbers
from weakseg.data.maps import read_scores
from weakseg.data.objects import Objects
from weakseg.data.sample import IGNORE, Sample, WeakLabel


class _Restricted(Dataset):
    """Another data set's images, with fewer or other labels."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.root, self.split, self.classes, self.ids = dataset.root, dataset.split, dataset.classes, dataset.ids

    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        return self.dataset.tag_names(image_id)

    def tags_file(self, image_id: str) -> Path:
        return self.dataset.tags_file(image_id)

    def paths(self, image_id: str) -> dict[str, Path]:
        return self.dataset.paths(image_id)

    @property
    def tables(self) -> frozenset[Path]:
        return self.dataset.tables

    def said(self, image_id: str) -> list[str]:
        return self.dataset.said(image_id)

    def annotation(self, image_id: str) -> Annotation | None:
        return self.dataset.annotation(image_id) if "annotation" in self.paths(image_id) else None

    def mask(self, image_id: str) -> Tensor | None:
        return self.dataset.mask(image_id) if "mask" in self.paths(image_id) else None

    def objects(self, image_id: str) -> Objects | None:
        return self.dataset.objects(image_id) if OBJECTS in self.paths(image_id) else None


class WithSaliency(_Restricted):
    """Saliency maps from another folder, whatever maps lie with the data.

    Args:
        dataset: Where everything else comes from.
        folder: Where the maps are, as ``ID.png``; there are none if ``None``.
    """

    def __init__(self, dataset: Dataset, folder: Path | None) -> None:
        super().__init__(dataset)
        self.folder, self.context_classes = folder, dataset.context_classes

    def listing_findings(self) -> Iterable[Finding]:
        """What was odd when the split was listed."""
        return self.dataset.listing_findings()

    def paths(self, image_id: str) -> dict[str, Path]:
        """Files of an image that exist."""
        others = {kind: path for kind, path in super().paths(image_id).items() if kind != "saliency"}
        return others if self.folder is None else others | existing(saliency=self.folder / f"{image_id}.png")

    def _name(self, path: Path) -> str:
        """Maps are named without their folder, so that it does not matter where it is."""
        ours = self.folder is not None and path.is_relative_to(self.folder)
        return f"saliency:{path.relative_to(self.folder or path).as_posix()}" if ours else super()._name(path)


class WeaklyLabelled(_Restricted):
    """Only the labels that a method asks for, so that no other can leak into its training.

    Args:
        dataset: Where images and labels come from.
        needs: Kinds of labels that stay.
    """

    def __init__(self, dataset: Dataset, needs: frozenset[WeakLabel]) -> None:
        super().__init__(dataset)
        self.needs = needs
        self.kept = {"image", *(FILE_OF[kind] for kind in needs if kind in FILE_OF)}

    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        """Tags, if they are among the needs."""
        return super().tag_names(image_id) if WeakLabel.TAGS in self.needs else None

    def paths(self, image_id: str) -> dict[str, Path]:
        """Files of the kinds that stay."""
        return {kind: path for kind, path in super().paths(image_id).items() if kind in self.kept}


class _Bare(_Restricted):
    """Images without any of their labels, to which what has been inferred is added."""

    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        """None: networks learn from what has been inferred alone."""
        return None

    def paths(self, image_id: str) -> dict[str, Path]:
        """The image."""
        return {"image": super().paths(image_id)["image"]}


class PseudoMasks(_Bare):
    """Images with pseudo-masks and nothing else.

    Args:
        dataset: Where the images come from.
        mask: Id of an image to the file of its pseudo-mask.
        second: Id of an image to the file of its other pseudo-mask, if there are two.
        agreed: Ignore the pixels on which the two differ.
        truly_labelled: Ids of images whose true masks take the place of both.
    """

    def __init__(
        self,
        dataset: Dataset,
        mask: Callable[[str], Path],
        second: Callable[[str], Path] | None = None,
        *,
        agreed: bool = False,
        truly_labelled: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(dataset)
        self.first, self.second, self.agreed, self.truly_labelled = mask, second, agreed, truly_labelled

    def paths(self, image_id: str) -> dict[str, Path]:
        """The image and its pseudo-mask, or its true one."""
        true = image_id in self.truly_labelled
        mask = self.dataset.paths(image_id)["mask"] if true else self.first(image_id)
        return {**super().paths(image_id), "mask": mask}

    def mask(self, image_id: str) -> Tensor | None:
        """Its pseudo-mask, or its true one."""
        true = image_id in self.truly_labelled
        return self.dataset.mask(image_id) if true else read_mask(self.first(image_id))

    def sample(self, image_id: str) -> Sample:
        """The image with its mask, and the other one if there is one.

        Raises:
            UserError: If one of them cannot be read.
        """
        sample = super().sample(image_id)
        if self.second is None or sample.mask is None:
            return sample
        second = sample.mask if image_id in self.truly_labelled else read_mask(self.second(image_id))
        if self.agreed:
            sample = replace(sample, mask=sample.mask.masked_fill(sample.mask != second, IGNORE))
        return replace(sample, second=second)


class TeacherScores(_Bare):
    """Images with a teacher's scores of every pixel and nothing else.

    Args:
        dataset: Where the images come from.
        scores: Id of an image to the file of its scores.
    """

    def __init__(self, dataset: Dataset, scores: Callable[[str], Path]) -> None:
        super().__init__(dataset)
        self.scores = scores

    def sample(self, image_id: str) -> Sample:
        """The image and its scores.

        Raises:
            UserError: If one of the two cannot be read.
        """
        return replace(super().sample(image_id), scores=read_scores(self.scores(image_id)))


class PseudoObjects(_Bare):
    """Images with pseudo objects and nothing else.

    Args:
        dataset: Where the images come from.
        objects: Id of an image to the file of its objects, see ``Instances``.
    """

    def __init__(self, dataset: Dataset, objects: Callable[[str], Path]) -> None:
        super().__init__(dataset)
        self.objects_file = objects

    def sample(self, image_id: str) -> Sample:
        """The image and its objects.

        Raises:
            UserError: If one of the two cannot be read, or they differ in size.
        """
        sample, path = super().sample(image_id), self.objects_file(image_id)
        numbers, classes = read_numbers(path, self.classes.names)
        if numbers.shape != sample.image.shape[1:]:
            raise size_error(path.with_suffix(".png"), tuple(numbers.shape), tuple(sample.image.shape))
        return replace(sample, objects=numbers, object_classes=classes)
