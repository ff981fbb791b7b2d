"""Measuring seeds, pseudo-masks and predictions against true masks, each under the name of its protocol."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from weakseg.data.dataset import Dataset
from weakseg.data.images import read_mask
from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError
from weakseg.metrics import (
    METRICS,
    ConfusionMatrix,
    Flags,
    ProtocolResult,
    SeedSweep,
    protocol_name,
)
from weakseg.metrics.iou import Absent
from weakseg.pipeline.progress import Reporter
from weakseg.refine.background import ThresholdBackground
from weakseg.refine.masks import at_image_size, pseudo_mask


@dataclass(frozen=True)
class Provenance:
    """What every number of a run has in common.

    Attributes:
        supervision: Kinds of labels that training saw.
        backbone: Name of the network's backbone.
        weights: Where its initial weights come from.
        absent: What is done with classes that the truth lacks.
        metrics: Names of the metrics measured beside the mIoU, keys of ``METRICS``.
    """

    supervision: str
    backbone: str
    weights: str
    absent: Absent
    metrics: tuple[str, ...] = ()


@dataclass
class Measured:
    """Results by protocol, and the score of every image.

    Attributes:
        results: By protocol name.
        images: Protocol name -> id -> mean IoU over the classes that truth or prediction of that image has.
        curve: (threshold, mIoU) of the seeds on the training split.
        threshold: The best of them.
    """

    results: dict[str, ProtocolResult] = field(default_factory=dict)
    images: dict[str, dict[str, float]] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)
    threshold: float | None = None

    def to_csv(self) -> str:
        """``protocol,image,miou``, one line per image."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["protocol", "image", "miou"])
        for protocol, scores in self.images.items():
            writer.writerows([protocol, image_id, f"{score:.6f}"] for image_id, score in scores.items())
        return text.getvalue()


class Evaluator:
    """Measures label maps of whole sets.

    Args:
        provenance: What all numbers have in common.
        reporter: Receives progress.
    """

    def __init__(self, provenance: Provenance, reporter: Reporter) -> None:
        self.provenance, self.reporter = provenance, reporter
        self.measured = Measured()

    def sweep(self, dataset: Dataset, maps: Callable[[str], Path]) -> None:
        """Find the background threshold at which the maps' seeds agree best with the truth."""
        sweep = SeedSweep(len(dataset.classes) + 1)
        ids = masked_ids(dataset)
        with self.reporter.track("sweep thresholds", len(ids)) as bar:
            for image_id in ids:
                full = at_image_size(LocalizationMaps.load(maps(image_id)))
                sweep.update(full.scores, full.classes, true_mask(dataset, image_id))
                bar.advance()
        self.measured.curve = sweep.curve(self.provenance.absent)
        self.measured.threshold = sweep.best(self.provenance.absent)[0]

    def seeds(self, split: str, dataset: Dataset, maps: Callable[[str], Path], flags: Flags) -> None:
        """Measure what the maps give at the threshold found by ``sweep``."""
        assert self.measured.threshold is not None
        background = ThresholdBackground(value=self.measured.threshold)

        def seed(image_id: str) -> Tensor:
            full = at_image_size(LocalizationMaps.load(maps(image_id)))
            return pseudo_mask(background.refine(torch.empty(0), full))

        self.measure("seed", split, dataset, seed, flags)

    def measure(
        self, stage: str, split: str, dataset: Dataset, predicted: Callable[[str], Tensor], flags: Flags
    ) -> None:
        """Compare label maps with the true masks of a set.

        Args:
            stage: ``"seed"``, ``"mask"`` or ``"seg"``.
            split: Name of the split.
            dataset: Images with true masks.
            predicted: Id to (H, W) label map.
            flags: Help that the label maps had.
        """
        name, names = protocol_name(stage, split), dataset.classes.with_background
        confusion, scores = ConfusionMatrix(len(names)), {}
        others = {metric: METRICS[metric](len(names)) for metric in self.provenance.metrics}
        ids = masked_ids(dataset)
        with self.reporter.track(name, len(ids)) as bar:
            for image_id in ids:
                mask, truth = predicted(image_id), true_mask(dataset, image_id)
                if mask.shape != truth.shape:
                    raise UserError(
                        f"is {tuple(truth.shape)}, what is measured {tuple(mask.shape)}",
                        where=dataset.paths(image_id)["mask"],
                        remedy="Masks must have the size of their images",
                    )
                one = ConfusionMatrix(len(names))
                one.update(mask, truth)
                confusion.merge([one])
                scores[image_id] = one.miou()
                for other in others.values():
                    other.update(mask, truth)
                bar.advance()
        self.measured.images[name] = {key: value for key, value in scores.items() if not math.isnan(value)}
        self.measured.results[name] = ProtocolResult.from_confusion(
            confusion,
            names,
            flags=flags,
            supervision=self.provenance.supervision,
            images=len(ids),
            backbone=self.provenance.backbone,
            weights=self.provenance.weights,
            others={metric: other.value() for metric, other in others.items()},
            absent=self.provenance.absent,
        )


def masked_ids(dataset: Dataset) -> list[str]:
    """The images that have a true mask; the others cannot be measured."""
    return [image_id for image_id in dataset.ids if "mask" in dataset.paths(image_id)]


def true_mask(dataset: Dataset, image_id: str) -> Tensor:
    """(H, W) uint8 true mask of an image."""
    return read_mask(dataset.paths(image_id)["mask"])


def extremes(scores: dict[str, float], count: int) -> tuple[Sequence[str], Sequence[str]]:
    """Ids of the ``count`` best and worst images; no image is in both."""
    ranked = sorted(scores, key=lambda image_id: (-scores[image_id], image_id))
    count = min(count, len(ranked) // 2)
    return ranked[:count], ranked[len(ranked) - count :][::-1]
