"""What training may see of a data set: the weak labels alone, or what has been inferred from them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from weakseg.data.dataset import FILE_OF, Dataset, existing
from weakseg.data.findings import Finding
from weakseg.data.maps import read_scores
from weakseg.data.sample import Sample, WeakLabel


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


class PseudoMasks(_Restricted):
    """Images with pseudo-masks and nothing else.

    Args:
        dataset: Where the images come from.
        mask: Id of an image to the file of its pseudo-mask.
    """

    def __init__(self, dataset: Dataset, mask: Callable[[str], Path]) -> None:
        super().__init__(dataset)
        self.mask = mask

    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        """None: the segmenter learns from masks alone."""
        return None

    def paths(self, image_id: str) -> dict[str, Path]:
        """The image and its pseudo-mask."""
        return {"image": super().paths(image_id)["image"], "mask": self.mask(image_id)}


class TeacherScores(_Restricted):
    """Images with a teacher's scores of every pixel and nothing else.

    Args:
        dataset: Where the images come from.
        scores: Id of an image to the file of its scores.
    """

    def __init__(self, dataset: Dataset, scores: Callable[[str], Path]) -> None:
        super().__init__(dataset)
        self.scores = scores

    def tag_names(self, image_id: str) -> tuple[str, ...] | None:
        """None: which classes the scores belong to does not matter."""
        return None

    def paths(self, image_id: str) -> dict[str, Path]:
        """The image."""
        return {"image": super().paths(image_id)["image"]}

    def sample(self, image_id: str) -> Sample:
        """The image and its scores.

        Raises:
            UserError: If one of the two cannot be read.
        """
        return replace(super().sample(image_id), scores=read_scores(self.scores(image_id)))
