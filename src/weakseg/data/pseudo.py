"""What training may see of a data set: the weak labels alone, or pseudo-masks in place of true ones."""

from collections.abc import Callable
from pathlib import Path

from weakseg.data.dataset import FILE_OF, Dataset
from weakseg.data.sample import WeakLabel


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
