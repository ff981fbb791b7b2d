"""Measuring seeds, pseudo-masks and predictions against true masks, each under the name of its protocol."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from weakseg.data.dataset import CONTEXT, OBJECTS, Dataset, size_error
from weakseg.data.detections import Detections
from weakseg.data.images import read_mask
from weakseg.data.instances import Instances
from weakseg.data.maps import LocalizationMaps
from weakseg.data.objects import Objects
from weakseg.data.sample import IGNORE
from weakseg.errors import UserError
from weakseg.metrics import (
    METRICS,
    BoundaryRule,
    ConfusionMatrix,
    ConfusionRatio,
    Flags,
    ProtocolResult,
    SeedSweep,
    SetBoundary,
    SetMetric,
    SoftLocalization,
    protocol_name,
)
from weakseg.metrics.boxes import CAMPrecision, FillingRates
from weakseg.metrics.coco_ap import NAMES, CocoAP
from weakseg.metrics.iou import Absent
from weakseg.metrics.overlap import image_overlap
from weakseg.metrics.protocol import RATIO
from weakseg.pipeline.box_accuracy import BOX_ACCURACY, Right
from weakseg.pipeline.measured import Measured
from weakseg.pipeline.progress import Reporter
from weakseg.refine.background import ThresholdBackground
from weakseg.refine.masks import at_image_size, pseudo_mask
from weakseg.registry import near_matches

SOFT, PRECISION = "soft", "cam_precision"
FILLING = "filling_rate"
AP = "ap"
OF_MAPS = {SOFT: SoftLocalization, PRECISION: CAMPrecision}
ELSEWHERE = (SOFT, PRECISION, FILLING, AP, BOX_ACCURACY)  # what is not a metric of any two label maps
BOUNDARY = "boundary_f1"
CONFUSION = "evaluate.confusion"


@dataclass(frozen=True)
class Provenance:
    """What every number of a run has in common.

    Attributes:
        supervision: Kinds of labels that training saw.
        backbone: Name of the network's backbone.
        weights: Where its initial weights come from.
        absent: What is done with classes that the truth lacks.
        metrics: Names of the metrics measured beside the mIoU: keys of ``METRICS``, ``"soft"`` and ``"cam_precision"``
            (of seeds alone), ``"filling_rate"`` (of pseudo-masks alone), ``"ap"`` (of objects alone),
            ``"box_accuracy"`` (of boxes alone).
        confusion: Pairs of a class and what coincides with it whose confusion ratio is measured.
        saliency: Where the saliency maps came from, ``None`` if none were used.
        boundary: By which rule boundaries are compared, where that is one of the metrics.
        learnt: Indices of the classes that the method learns, ``None`` if all; the precision of objects is then told of
            these and of the others, too.
    """

    supervision: str
    backbone: str
    weights: str
    absent: Absent
    metrics: tuple[str, ...] = ()
    confusion: tuple[tuple[str, str], ...] = ()
    saliency: str | None = None
    boundary: BoundaryRule = field(default_factory=BoundaryRule)
    learnt: tuple[int, ...] | None = None


class Evaluator:
    """Measures label maps of whole sets.

    Args:
        provenance: What all numbers have in common.
        reporter: Receives progress.
    """

    def __init__(self, provenance: Provenance, reporter: Reporter) -> None:
        self.provenance, self.reporter = provenance, reporter
        self.measured = Measured()

    def sweep(self, dataset: Dataset, maps: Callable[[str], Path], among: Collection[str]) -> None:
        """Find the background threshold at which the maps' seeds agree best with the truth, on some images."""
        sweep = SeedSweep(len(dataset.classes) + 1)
        ids = [image_id for image_id in masked_ids(dataset) if image_id in among]
        with self.reporter.track("sweep thresholds", len(ids)) as bar:
            for image_id in ids:
                full = at_image_size(LocalizationMaps.load(maps(image_id)))
                sweep.update(full.scores, full.classes, true_mask(dataset, image_id))
                bar.advance()
        self.measured.curve = sweep.curve(self.provenance.absent)
        self.measured.threshold = sweep.best(self.provenance.absent)[0]

    def seeds(
        self, split: str, dataset: Dataset, maps: Callable[[str], Path], flags: Flags, among: Collection[str]
    ) -> None:
        """Measure what the maps of some images give at the threshold found by ``sweep``."""
        assert self.measured.threshold is not None
        background = ThresholdBackground(value=self.measured.threshold)

        @lru_cache(maxsize=1)
        def full(image_id: str) -> LocalizationMaps:
            return at_image_size(LocalizationMaps.load(maps(image_id)))

        def seed(image_id: str) -> Tensor:
            return pseudo_mask(background.refine(torch.empty(0), full(image_id)))

        self.measure("seed", split, dataset, seed, flags, full, among=frozenset(among))

    def measure(
        self,
        stage: str,
        split: str,
        dataset: Dataset,
        predicted: Callable[[str], Tensor],
        flags: Flags,
        maps: Callable[[str], LocalizationMaps] | None = None,
        left_out: Callable[[str], Tensor] | None = None,
        among: frozenset[str] | None = None,
    ) -> None:
        """Compare label maps with the true masks of a set.

        Args:
            stage: ``"seed"``, ``"mask"`` or ``"seg"``.
            split: Name of the split.
            dataset: Images with true masks.
            predicted: Id to (H, W) label map.
            flags: Help that the label maps had.
            maps: Id to the maps, at image size, that the label map was made of.
            left_out: Id to (H, W) bool, pixels that are not compared; their share is told.
            among: Images that may be measured; all if ``None``.
        """
        name, names = protocol_name(stage, split), dataset.classes.with_background
        confusion, scores = ConfusionMatrix(len(names)), {}
        metrics = self.provenance.metrics
        others = [self._metric(metric, len(names)) for metric in metrics if metric not in ELSEWHERE]
        soft = [] if maps is None else [kind(len(names)) for metric, kind in OF_MAPS.items() if metric in metrics]
        confused = ConfusionRatio(confusion_pairs(self.provenance.confusion, dataset))
        ids = [image_id for image_id in masked_ids(dataset) if among is None or image_id in among]
        compared = Share()
        with self.reporter.track(name, len(ids)) as bar:
            for image_id in ids:
                mask, truth = predicted(image_id), true_mask(dataset, image_id)
                if mask.shape != truth.shape:
                    raise UserError(
                        f"is {tuple(truth.shape)}, what is measured {tuple(mask.shape)}",
                        where=dataset.paths(image_id)["mask"],
                        remedy="Masks must have the size of their images",
                    )
                if left_out is not None:
                    truth = compared.without(truth, left_out(image_id))
                one = ConfusionMatrix(len(names))
                one.update(mask, truth)
                confusion.merge([one])
                scores[image_id] = one.miou()
                for other in others:
                    other.update(mask, truth)
                if maps is not None:
                    for score in soft:
                        score.update(maps(image_id).scores, maps(image_id).classes, truth)
                if confused.pairs and (context := context_labels(dataset, image_id, truth)) is not None:
                    confused.update(mask, truth, context)
                bar.advance()
        values = [other.values() for other in (*others, *soft)]
        values += [] if left_out is None else [{"compared": compared.value()}]
        values.append(dict(zip(map(confusion_name, self.provenance.confusion), confused.ratios(), strict=True)))
        self.measured.images[name] = {key: value for key, value in scores.items() if not math.isnan(value)}
        self.measured.results[name] = ProtocolResult.from_confusion(
            confusion,
            names,
            flags=flags,
            supervision=self.provenance.supervision,
            images=len(ids),
            backbone=self.provenance.backbone,
            weights=self.provenance.weights,
            others={name: value for found in values for name, value in found.items()},
            absent=self.provenance.absent,
            saliency=self.provenance.saliency,
            boundary=self.provenance.boundary if BOUNDARY in metrics else None,
        )

    def filled(
        self, stage: str, dataset: Dataset, ids: Sequence[str], predicted: Callable[[str], Tensor], flags: Flags
    ) -> None:
        """Measure how much of their boxes label maps fill, of images with true masks and without.

        Args:
            stage: ``"mask"`` or ``"second"``.
            dataset: Images with boxes.
            ids: Those of them that have label maps.
            predicted: Id to (H, W) label map.
            flags: Help that the label maps had.
        """
        name, rates = protocol_name(stage, dataset.split), FillingRates(len(dataset.classes) + 1)
        boxed = [(image_id, boxes) for image_id in ids if (boxes := dataset.box_tensors(image_id)) is not None]
        with self.reporter.track(f"{name}, boxes", len(boxed)) as bar:
            for image_id, boxes in boxed:
                rates.update(predicted(image_id), *boxes)
                bar.advance()
        self.measured.filling[name] = dict(zip(dataset.classes.names, rates.rates, strict=True))
        if name not in self.measured.results:
            self._note(name, {}, len(boxed), flags)
        self.measured.results[name] = self.measured.results[name].with_others(rates.values())

    def objects(
        self,
        stage: str,
        dataset: Dataset,
        ids: Sequence[str],
        found: Callable[[str, Objects], Detections | Instances],
        flags: Flags,
    ) -> None:
        """Compare objects told apart with the true ones.

        Args:
            stage: ``"instances"`` or ``"detect"``.
            dataset: Images.
            ids: Those of them that have true objects and others to compare.
            found: Id and true objects to what was found.
            flags: Help that it had.
        """
        name, metric = protocol_name(stage, dataset.split), CocoAP(len(dataset.classes))
        overlaps = {}
        with self.reporter.track(name, len(ids)) as bar:
            for image_id in ids:
                truth = true_objects(dataset, image_id)
                objects = found(image_id, truth)
                metric.update(image_id, objects, truth)
                overlaps[image_id] = image_overlap(objects, truth)
                bar.advance()
        self.measured.overlaps[name] = {image_id: value for image_id, value in overlaps.items() if value == value}
        of_class, names = metric.per_class(), dataset.classes.names
        values = dict(zip(NAMES, of_class.nanmean(0).tolist(), strict=True))
        self.measured.precision[name] = dict(zip(names, of_class.tolist(), strict=True))
        absent = [name for name, value in zip(names, of_class[:, 0].tolist(), strict=True) if math.isnan(value)]
        self._note(name, values | _split(of_class[:, 0], self.provenance.learnt), len(ids), flags, absent)

    def boxes(self, split: str, found: Right, flags: Flags) -> None:
        """Note how many boxes of a split were classified right."""
        self._note(protocol_name("boxes", split), {BOX_ACCURACY: found.value()}, found.images, flags)

    def _note(self, name: str, values: dict[str, float], images: int, flags: Flags, absent: Sequence[str] = ()) -> None:
        """Keep what was measured of objects or boxes, and where it came from."""
        self.measured.results[name] = ProtocolResult.of_objects(
            values,
            absent=absent,
            flags=flags,
            supervision=self.provenance.supervision,
            images=images,
            backbone=self.provenance.backbone,
            weights=self.provenance.weights,
            saliency=self.provenance.saliency,
        )

    def _metric(self, name: str, num_values: int) -> SetMetric:
        rule = self.provenance.boundary
        return SetBoundary(rule.tolerance, thin=rule.thin) if name == BOUNDARY else METRICS[name](num_values)


def _split(values: Tensor, learnt: tuple[int, ...] | None) -> dict[str, float]:
    """Means over the classes that a method has learnt and over the others; nothing if it has learnt all."""
    if learnt is None:
        return {}
    seen = torch.zeros(len(values), dtype=torch.bool)
    seen[list(learnt)] = True
    return {f"{AP}_seen": values[seen].nanmean().item(), f"{AP}_unseen": values[~seen].nanmean().item()}


@dataclass
class Share:
    """How much of what the truth labels is compared."""

    labelled: int = 0
    kept: int = 0

    def without(self, truth: Tensor, left_out: Tensor) -> Tensor:
        """The truth, 255 where pixels are left out."""
        others = truth.masked_fill(left_out, IGNORE)
        self.labelled += int((truth != IGNORE).sum())
        self.kept += int((others != IGNORE).sum())
        return others

    def value(self) -> float:
        """In [0, 1]; not a number before anything was seen."""
        return self.kept / self.labelled if self.labelled else math.nan


def confusion_name(pair: tuple[str, str]) -> str:
    """Name in ``metrics.json``, such as ``confusion_boat_water``."""
    return RATIO + "_".join(pair)


def confusion_pairs(pairs: Iterable[tuple[str, str]], dataset: Dataset) -> list[tuple[int, int]]:
    """Mask value of each class and context value of what coincides with it.

    Raises:
        UserError: If a name is unknown, or the data set has no context labels, or none of images with a mask.
    """
    return [(_class_value(name, dataset), _context_value(name, coincident, dataset)) for name, coincident in pairs]


def _class_value(name: str, dataset: Dataset) -> int:
    try:
        return dataset.classes.index(name) + 1
    except UserError as error:
        raise UserError(error.problem, where=CONFUSION, remedy=error.remedy) from error


def _context_value(name: str, coincident: str, dataset: Dataset) -> int:
    known = dataset.context_classes
    if known is None or not any(CONTEXT in dataset.paths(image_id) for image_id in masked_ids(dataset)):
        raise UserError(
            f"'{CONFUSION}' is measured with context labels, of which {dataset.split} has none",
            where=dataset.root,
            remedy="Add SegmentationContext/ID.png (in a plain folder context/ID.png) and context_classes.txt, "
            f"or leave out {CONFUSION}",
        )
    if coincident == name:
        raise UserError(f"'{name}' cannot be confused with itself", where=CONFUSION, remedy="Name what is around it")
    if coincident not in known:
        raise UserError(f"unknown context '{coincident}'", where=CONFUSION, remedy=near_matches(coincident, known))
    return known.index(coincident)


def context_labels(dataset: Dataset, image_id: str, truth: Tensor) -> Tensor | None:
    """(H, W) uint8 context labels of an image, if it has some.

    Raises:
        UserError: If they are not of the size of its true mask.
    """
    path = dataset.paths(image_id).get(CONTEXT)
    if path is None:
        return None
    context = read_mask(path)
    if context.shape != truth.shape:
        raise size_error(path, context.shape, truth.shape)
    return context


def masked_ids(dataset: Dataset) -> list[str]:
    """The images that have a true mask; the others cannot be measured."""
    return [image_id for image_id in dataset.ids if "mask" in dataset.paths(image_id)]


def true_mask(dataset: Dataset, image_id: str) -> Tensor:
    """(H, W) uint8 true mask of an image that has one."""
    mask = dataset.mask(image_id)
    assert mask is not None
    return mask


def ids_with_objects(dataset: Dataset) -> list[str]:
    """The images whose true objects are told apart and have a class."""
    return [image_id for image_id in dataset.ids if {OBJECTS, "mask"} <= dataset.paths(image_id).keys()]


def true_objects(dataset: Dataset, image_id: str) -> Objects:
    """True objects of an image that has some."""
    objects = dataset.objects(image_id)
    assert objects is not None
    return objects


def extremes(scores: dict[str, float], count: int) -> tuple[Sequence[str], Sequence[str]]:
    """Ids of the ``count`` best and worst images; no image is in both."""
    ranked = sorted(scores, key=lambda image_id: (-scores[image_id], image_id))
    count = min(count, len(ranked) // 2)
    return ranked[:count], ranked[len(ranked) - count :][::-1]
