"""Everything in a run folder that can be compared with the truth, each under the name of its protocol."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from weakseg.data.detections import Detections
from weakseg.data.images import read_mask
from weakseg.data.instances import Instances
from weakseg.data.objects import Objects
from weakseg.data.sample import WeakLabel
from weakseg.metrics import BoundaryRule, Flags, supervision_name
from weakseg.metrics.protocol import NO_NETWORK
from weakseg.networks.weights import load_weights
from weakseg.pipeline.box_accuracy import BOX_ACCURACY, boxes_right
from weakseg.pipeline.evaluation import FILLING, Evaluator, Provenance, ids_with_objects
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.inference import detections_path, instances_path, maps_path, mask_path, prediction_path
from weakseg.pipeline.measured import Measured
from weakseg.pipeline.recipe import BackboneSettings, Start
from weakseg.pipeline.saliency import provenance
from weakseg.pipeline.steps import Step


def measure(experiment: Experiment) -> Measured:
    """Seeds, pseudo-masks, pseudo objects, predictions, detections, as far as there are any and truth to them."""
    return _Measuring(experiment).everything()


class _Measuring:
    """One method for each kind of result."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.recipe, self.folder = experiment, experiment.recipe, experiment.folder
        self.train_set = experiment.train_set
        about = self._provenance(self.recipe.backbone, experiment.supervision)
        self.evaluator = Evaluator(about, experiment.reporter)

    def everything(self) -> Measured:
        """All results, in the order in which they were made."""
        if BOX_ACCURACY in self.recipe.evaluate.metrics:
            self._boxes()
        if self.train_set.has(WeakLabel.MASKS):
            self._labels()
        if FILLING in self.recipe.evaluate.metrics:
            self._filled_boxes()
        if self.experiment.measures_objects:
            self._pseudo_objects()
        self._predictions()
        if self.experiment.measures_objects:
            self._detections()
        return self.evaluator.measured

    def _boxes(self) -> None:
        """Boxes of validation images, classified by the localiser."""
        experiment, val_set = self.experiment, self.experiment.val_set
        assert val_set is not None
        self._about(experiment.localizer_backbone, experiment.needs)
        load_weights(experiment.method, self.folder / "localizer.safetensors")
        found = boxes_right(experiment.method, val_set, experiment.localize, experiment.device, experiment.reporter)
        self.evaluator.boxes(val_set.split, found, Flags())

    def _labels(self) -> None:
        """Seeds and pseudo-masks."""
        first, second = partial(mask_path, self.folder), self.experiment.second_masks
        if self.recipe.localize is not None:
            self._seeds()
        made = frozenset(self.experiment.pseudo_ids)
        measured = partial(self.evaluator.measure, split=self.train_set.split, dataset=self.train_set, among=made)
        measured("mask", predicted=_read(first), flags=self._refined_by(self.experiment.first))
        if second is None:
            return
        others = self._refined_by(self.experiment.steps)
        measured("second", predicted=_read(second), flags=others)
        measured("agreed", predicted=_read(first), flags=others, left_out=partial(_differ, first, second))

    def _filled_boxes(self) -> None:
        """How much of the boxes the pseudo-masks fill, which takes no true masks."""
        first, second = partial(mask_path, self.folder), self.experiment.second_masks
        filled = partial(self.evaluator.filled, dataset=self.train_set, ids=self.experiment.pseudo_ids)
        filled("mask", predicted=_read(first), flags=self._refined_by(self.experiment.first))
        if second is not None:
            filled("second", predicted=_read(second), flags=self._refined_by(self.experiment.steps))

    def _seeds(self) -> None:
        """The threshold is swept on the training images alone."""
        maps = partial(maps_path, self.folder)
        self._about(self.experiment.localizer_backbone, self.experiment.needs)
        self.evaluator.sweep(self.train_set, maps, frozenset(self.experiment.seed_ids(self.train_set)))
        for dataset in self.experiment.seed_sets:
            wanted = dataset is not self.train_set or "train" in self.recipe.evaluate.seeds
            if wanted and dataset.has(WeakLabel.MASKS):
                flags = self._flags(self.evaluator.measured.threshold)
                self.evaluator.seeds(dataset.split, dataset, maps, flags, self.experiment.seed_ids(dataset))

    def _pseudo_objects(self) -> None:
        """Objects told apart in the training images."""
        experiment, dataset = self.experiment, self.train_set
        told_apart = set(experiment.object_ids)
        ids = [image_id for image_id in ids_with_objects(dataset) if image_id in told_apart]
        if not ids:
            return
        steps = experiment.first if experiment.object_masks == "first" else experiment.steps
        flags = self._refined_by(steps, experiment.object_supervision)
        self.evaluator.objects("instances", dataset, ids, self._told_apart, flags)

    def _predictions(self) -> None:
        """What the segmenter makes of images."""
        predict = self.experiment.predicting
        if predict is None:
            return
        true = {WeakLabel.MASKS} if self.experiment.truly_labelled else set()
        if self.recipe.segment is None:
            self._about(self.experiment.localizer_backbone, self.experiment.needs)
        else:
            backbone = self._started(self.experiment.segmenter_backbone, self.recipe.segment.start)
            self._about(backbone, self.experiment.supervision | true)
        for dataset in self.experiment.segmented_sets:
            helped = dataset.split in self.experiment.tagged_splits
            flags = Flags(gt_tags=helped, crf=predict.crf is not None, multi_scale=len(predict.scales) > 1)
            if dataset.has(WeakLabel.MASKS):
                masks = _read(partial(prediction_path, self.folder))
                self.evaluator.measure("seg", dataset.split, dataset, masks, flags)

    def _detections(self) -> None:
        """What the detector finds in images."""
        for dataset in self.experiment.detected_sets:
            backbone = self._started(self.experiment.detector_backbone, self.experiment.detect.start)
            self._about(backbone, self.experiment.object_supervision)
            if ids := ids_with_objects(dataset):
                self.evaluator.objects("detect", dataset, ids, self._detected, Flags())

    def _told_apart(self, image_id: str, _: Objects) -> Instances:
        return Instances.load(instances_path(self.folder, image_id), self.train_set.classes.names)

    def _detected(self, image_id: str, truth: Objects) -> Detections:
        height, width = truth.masks.shape[1:]
        return Detections.load(detections_path(self.folder, image_id), self.train_set.classes.names, (height, width))

    def _flags(self, threshold: float | None, *, crf: bool = False) -> Flags:
        multi_scale = self.recipe.localize is not None and len(self.recipe.localize.scales) > 1
        return Flags(gt_tags=True, crf=crf, multi_scale=multi_scale, threshold_swept=threshold)

    def _refined_by(self, steps: Sequence[Step], labels: frozenset[WeakLabel] | None = None) -> Flags:
        """Note which network had a part in what some refiners made, if any, and tell the help that it had."""
        trained = (step.learning.backbone for step in steps if step.learning is not None)
        backbone = next(trained, None) if self.recipe.localize is None else self.experiment.localizer_backbone
        self._about(backbone, self.experiment.supervision if labels is None else labels)
        return self._flags(None, crf=any("crf" in step.name for step in steps))

    def _started(self, backbone: BackboneSettings, start: Start) -> BackboneSettings:
        """With the weights that a network's training really started from."""
        if start == "pretrained":
            return backbone
        return backbone.model_copy(update={"weights": self.experiment.localizer_backbone.weights})

    def _about(self, backbone: BackboneSettings | None, labels: frozenset[WeakLabel]) -> None:
        """What the numbers that follow have in common."""
        self.evaluator.provenance = self._provenance(backbone, labels)

    def _provenance(self, backbone: BackboneSettings | None, labels: frozenset[WeakLabel]) -> Provenance:
        salient = WeakLabel.SALIENCY in labels & self.experiment.indispensable
        return Provenance(
            supervision=supervision_name(labels),
            saliency=provenance(self.train_set, self.experiment.source) if salient else None,
            backbone=NO_NETWORK if backbone is None else backbone.name,
            weights=NO_NETWORK if backbone is None else Path(backbone.weights).name,
            absent=self.recipe.evaluate.absent,
            metrics=self.recipe.evaluate.metrics,
            confusion=self.recipe.evaluate.confusion,
            boundary=BoundaryRule(**self.recipe.evaluate.boundary.model_dump()),
            learnt=self.experiment.learnt,
        )


def _read(path: Callable[[str], Path]) -> Callable[[str], Tensor]:
    return lambda image_id: read_mask(path(image_id))


def _differ(first: Callable[[str], Path], second: Callable[[str], Path], image_id: str) -> Tensor:
    """(H, W) bool, where two masks of an image say different things."""
    return read_mask(first(image_id)) != read_mask(second(image_id))
