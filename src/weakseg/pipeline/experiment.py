"""A recipe with its data and networks, checked and ready to run; nothing is written here."""

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import torch

from weakseg.data.dataset import Dataset
from weakseg.data.pseudo import WithSaliency
from weakseg.data.sample import WeakLabel
from weakseg.errors import UserError
from weakseg.methods.method import Method
from weakseg.methods.registry import method_class
from weakseg.pipeline import build
from weakseg.pipeline.box_accuracy import check_box_accuracy
from weakseg.pipeline.boxed import boxed_ids, is_covered
from weakseg.pipeline.checks import audit_all
from weakseg.pipeline.device import choose_device
from weakseg.pipeline.evaluation import AP, FILLING, confusion_pairs, ids_with_objects
from weakseg.pipeline.inference import Predictor, second_path
from weakseg.pipeline.manifest import Manifest, fingerprint
from weakseg.pipeline.pictures import check_pictures
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import BackboneSettings, Detect, Localize, Masks, Named, Predict, Recipe, Segment, Training
from weakseg.pipeline.saliency import SaliencyMaps, maps_folder, saliency_source, with_given_saliency
from weakseg.pipeline.steps import Step, refiner_steps
from weakseg.pipeline.trained import SEEN, trained_localizer
from weakseg.refine.refiner import TrainedRefiner
from weakseg.segment.instances import InstanceSegmenter
from weakseg.segment.segmenter import Segmenter


class Experiment:
    """What a run works with.

    Args:
        recipe: What to do.
        reporter: Receives messages and progress.

    Attributes:
        folder: The run folder; need not exist yet.
        train_set: Images with weak labels.
        val_set: Images to be segmented without tags, or ``None``.
        truly_labelled: Training images that the segmenter learns with their true masks.
        data: Split -> hash of its content.
        trained: The localiser of another run, or ``None`` if it is trained here.
        source: Where saliency maps come from, if any are needed.
        saliency: Those that are to be made of the training images, or ``None``.

    Raises:
        UserError: If anything in the recipe cannot be built or the data do not pass the audit.
    """

    def __init__(self, recipe: Recipe, reporter: Reporter) -> None:
        self.recipe, self.reporter = recipe, reporter
        self.folder = Path(recipe.run.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError("is a file", where=self.folder, remedy="Choose another run.folder")
        self.device = choose_device(recipe.run.device, recipe.run.devices)
        self.method_options = {} if recipe.localize is None else build.method_options(recipe.localize.method)
        self.first, self.second = refiner_steps(recipe)
        self.steps = (*self.first, *self.second)
        build.check_settings(recipe)
        if recipe.localize is not None:
            check_pictures(recipe.localize)
        self.source = saliency_source(recipe.data.saliency.name, recipe.data.saliency.options)
        self._refiners: dict[str, TrainedRefiner] = {}
        self.needs = frozenset() if recipe.localize is None else build.needs(recipe.localize.method)
        self.manifest = Manifest(self.folder)
        self.train_set = self._open(recipe.data.train)
        self.val_set = None if recipe.data.val is None else self._open(recipe.data.val)
        self.trained = trained_localizer(recipe, self.train_set.classes.names)
        self.truly_labelled = self._truly_labelled()
        for dataset in self.datasets:
            if self._measured(dataset):
                confusion_pairs(recipe.evaluate.confusion, dataset)
        if FILLING in recipe.evaluate.metrics and not self.train_set.has(WeakLabel.BOXES):
            raise UserError(
                f"'{FILLING}' is measured in boxes, of which {self.train_set.split} has none",
                where=self.train_set.root,
                remedy=f"Add boxes, or leave {FILLING} out of evaluate.metrics",
            )
        self._check_objects()
        check_box_accuracy(recipe, self.val_set)
        build.check_trainings(self._trainings(), len(self.train_set), recipe.run.devices)
        if recipe.detect is not None:
            build.check_trainings({"detect.train": recipe.detect.train}, len(self.object_ids), recipe.run.devices)
        self.data = self._audited()
        self._check_boxes()
        self.saliency = self._computed_saliency() if self._makes_saliency else None

    def resolved(self) -> Recipe:
        """The recipe with the options of method, refiners and saliency provider filled in."""
        changes: dict[str, object] = {
            "data": self.recipe.data.model_copy(update={"saliency": self.source.named()}),
            "refine": tuple(step.named() for step in self.first),
            "second": tuple(step.named() for step in self.second),
        }
        if self.recipe.localize is not None:
            method = Named(name=self.localize.method.name, **self.method_options)
            changes["localize"] = self.localize.model_copy(update={"method": method})
        return self.recipe.model_copy(update=changes)

    @property
    def datasets(self) -> list[Dataset]:
        """Training images first."""
        return [self.train_set] + ([] if self.val_set is None else [self.val_set])

    @property
    def pseudo_ids(self) -> tuple[str, ...]:
        """The training images that get pseudo-masks: all, or those with boxes where method or refiner needs them."""
        needed = WeakLabel.BOXES in self.needs or any(step.kind.needs_boxes for step in self.steps)
        return self._boxed_ids if needed else self.train_set.ids

    def seed_ids(self, dataset: Dataset) -> tuple[str, ...]:
        """The images of a set whose maps say something: all, or those with boxes where the method needs them."""
        return boxed_ids(dataset) if WeakLabel.BOXES in self.needs else dataset.ids

    @property
    def seed_sets(self) -> list[Dataset]:
        """The data sets whose maps are wanted; those of the training images always are where there are maps."""
        if self.recipe.localize is None:
            return []
        return self.datasets if "val" in self.recipe.evaluate.seeds else [self.train_set]

    @property
    def segmented_sets(self) -> list[Dataset]:
        """The data sets that the trained network is to segment, if it can."""
        return [] if self.predicting is None else self._looked_at()

    @property
    def tagged_splits(self) -> set[str]:
        """Splits in which the segmenter is helped by the tags."""
        names = {"train": self.recipe.data.train, "val": self.recipe.data.val or ""}
        return {names[split] for split in self.recipe.evaluate.tagged}

    @property
    def supervision(self) -> frozenset[WeakLabel]:
        """The weak labels that the pseudo-masks are made from: the method's, and what refiners need beside them."""
        return self.needs | self._refined_with

    @property
    def object_supervision(self) -> frozenset[WeakLabel]:
        """The weak labels that pseudo objects are made from, where there are any."""
        return self.supervision | ({WeakLabel.BOXES} if self.boxes_tell_objects else set())

    @property
    def _refined_with(self) -> frozenset[WeakLabel]:
        """The weak labels that refiners need."""
        salient = any(step.kind.needs_saliency for step in self.steps)
        boxed = any(step.kind.needs_boxes for step in self.steps)
        return frozenset(({WeakLabel.SALIENCY} if salient else set()) | ({WeakLabel.BOXES} if boxed else set()))

    @property
    def indispensable(self) -> frozenset[WeakLabel]:
        """The weak labels that the images must have: a localiser that is trained already may need fewer."""
        trained = self.recipe.localize is not None and self.recipe.localize.trained is not None
        kind = method_class(self.localize.method.name) if trained else None
        own = self.needs if kind is None or kind.map_needs is None else kind.map_needs
        return own | self._refined_with | ({WeakLabel.BOXES} if self.boxes_tell_objects else set())

    @cached_property
    def method(self) -> Method:
        """The localiser, with its initial weights or those that another run has trained."""
        torch.manual_seed(self.recipe.seed)
        count = len(self.train_set.classes)
        if self.trained is None:
            return build.method(self.localize, self.method_options, count)
        return self.trained.method(self.localize, self.method_options, count)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter, with its initial weights."""
        torch.manual_seed(self.segmenter_seed)
        return build.segmenter(self.segment, self.segmenter_backbone, len(self.train_set.classes))

    @property
    def predicting(self) -> Predict | None:
        """How the network that is left in the end looks at images; ``None`` if there is none."""
        return build.predicting(self.recipe)

    @property
    def predictor(self) -> tuple[Predictor, str]:
        """That network, with its initial weights, and the name of its file."""
        return (self.method, "localizer") if self.recipe.segment is None else (self.segmenter, "segmenter")

    @property
    def second_masks(self) -> Callable[[str], Path] | None:
        """Where the second mask of an image is, if there are any."""
        return partial(second_path, self.second, self.folder) if self.second else None

    def refiner(self, step: Step) -> TrainedRefiner:
        """A trained refiner, with its initial weights."""
        if step.key not in self._refiners:
            torch.manual_seed(self.recipe.seed)
            self._refiners[step.key] = step.untrained()
        return self._refiners[step.key]

    @property
    def tells_objects(self) -> bool:
        """Whether a refiner is asked to tell objects apart."""
        return any(step.options.get("instances") for step in self.steps)

    @property
    def boxes_tell_objects(self) -> bool:
        """Whether objects are wanted and no refiner tells them apart, so that boxes have to."""
        return (self.recipe.detect is not None or self.measures_objects) and not self.tells_objects

    @property
    def object_masks(self) -> Masks:
        """The masks from which boxes cut objects."""
        return "first" if self.recipe.detect is None else self.recipe.detect.masks

    @property
    def measures_objects(self) -> bool:
        """Whether objects are to be compared with true ones."""
        return AP in self.recipe.evaluate.metrics

    @property
    def object_ids(self) -> tuple[str, ...]:
        """The training images whose objects are told apart: all, or those whose boxes are known."""
        return self.train_set.ids if self.tells_objects else self._boxed_ids

    @cached_property
    def _boxed_ids(self) -> tuple[str, ...]:
        """The training images whose boxes are known, be it that there are none."""
        return boxed_ids(self.train_set)

    @property
    def covered_ids(self) -> list[str]:
        """The training images that boxes cover entirely, so that there is no certain background."""
        return [image_id for image_id in self._boxed_ids if is_covered(self.train_set, image_id)]

    @property
    def detected_sets(self) -> list[Dataset]:
        """The data sets that the detector is to look at, if there is one."""
        return [] if self.recipe.detect is None else self._looked_at()

    @cached_property
    def detector(self) -> InstanceSegmenter:
        """The detector, with its initial weights."""
        torch.manual_seed(self.recipe.seed)
        return build.detector(self.detect, self.detector_backbone, len(self.train_set.classes))

    @property
    def detect(self) -> Detect:
        """The recipe's section, which must be there."""
        assert self.recipe.detect is not None
        return self.recipe.detect

    @property
    def detector_backbone(self) -> BackboneSettings:
        """The detector's own, or else the localiser's."""
        return (self.recipe.detect and self.recipe.detect.backbone) or self.recipe.backbone

    @property
    def learnt(self) -> tuple[int, ...] | None:
        """The classes that the method has learnt, if it leaves out some."""
        return self.method_options.get(SEEN) if self.trained is None else self.trained.learnt

    @property
    def localizer_backbone(self) -> BackboneSettings:
        """The localiser's, with what its weights come from."""
        own = self.recipe.backbone
        return own if self.trained is None else own.model_copy(update={"weights": self.trained.origin})

    @property
    def localize(self) -> Localize:
        """The recipe's section, which must be there."""
        assert self.recipe.localize is not None
        return self.recipe.localize

    @property
    def segment(self) -> Segment:
        """The recipe's section, which must be there."""
        assert self.recipe.segment is not None
        return self.recipe.segment

    @property
    def segmenter_seed(self) -> int:
        """The segmenter's own, or else the run's."""
        return self.recipe.seed if self.segment.seed is None else self.segment.seed

    @property
    def segmenter_backbone(self) -> BackboneSettings:
        """The segmenter's own, or else the localiser's."""
        return (self.recipe.segment and self.recipe.segment.backbone) or self.recipe.backbone

    def _measured(self, dataset: Dataset) -> bool:
        """Whether there is something to measure in a data set, and true masks to do so."""
        wanted = (self.train_set, *self.seed_sets, *self.segmented_sets)
        return any(dataset is one for one in wanted) and dataset.has(WeakLabel.MASKS)

    def _looked_at(self) -> list[Dataset]:
        """The data sets that trained networks are to look at."""
        wanted = self.recipe.evaluate.segmenter
        train = [self.train_set] if "train" in wanted else []
        return train + ([self.val_set] if self.val_set is not None and "val" in wanted else [])

    def _check_boxes(self) -> None:
        """An image without boxes needs a true mask where a method or refiner needs boxes."""
        lacking = sorted(set(self.train_set.ids) - set(self.pseudo_ids) - self.truly_labelled)
        if lacking:
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise UserError(
                f"has no boxes{more}, which method or refiners need",
                where=self.train_set.paths(lacking[0]).get("image", self.train_set.root / lacking[0]),
                remedy="Add its boxes, take it from the list of images, or name a split of images with true masks, "
                "it among them, in segment.true_masks",
            )

    def _check_objects(self) -> None:
        """Somebody has to tell objects apart, and true ones are needed to measure that."""
        wanting = "detect" if self.recipe.detect is not None else f"evaluate.metrics: {AP}"
        if self.boxes_tell_objects and not self.object_ids:
            raise UserError(
                f"'{wanting}' needs objects told apart, and {self.train_set.split} has no boxes to do so",
                where=self.train_set.root,
                remedy="Add boxes, or a refiner that tells objects apart ({name: irn, instances: true})",
            )
        if self.measures_objects and not any(map(ids_with_objects, (self.train_set, *self.detected_sets))):
            raise UserError(
                f"'{AP}' is measured with true objects, of which {self.train_set.split} has none",
                where=self.train_set.root,
                remedy="Add SegmentationObject/ID.png and SegmentationClass/ID.png (VOC) or segmentations (COCO), "
                f"or leave {AP} out of evaluate.metrics",
            )

    def _trainings(self) -> dict[str, Training]:
        """All trainings on all training images, by their section in the recipe."""
        own = self.recipe.localize is not None and self.trained is None
        found = {"localize.train": self.localize.train} if own else {}
        for chain, steps in (("refine", self.first), ("second", self.second)):
            found |= {f"{chain}.{i}.train": step.learning.train for i, step in enumerate(steps) if step.learning}
        if self.recipe.segment is not None:
            found["segment.train"] = self.recipe.segment.train
        return found

    def _truly_labelled(self) -> frozenset[str]:
        """The training images in the recipe's split of true masks."""
        split = None if self.recipe.segment is None else self.recipe.segment.true_masks
        if split is None:
            return frozenset()
        found = frozenset(self._open(split).ids) & frozenset(self.train_set.ids)
        lacking = sorted(image_id for image_id in found if "mask" not in self.train_set.paths(image_id))
        if lacking or not found:
            problem = f"'{lacking[0]}' has no true mask" if lacking else f"no training image is in '{split}'"
            raise UserError(problem, where="segment.true_masks", remedy="Name a split of masked training images")
        return found

    def _open(self, split: str) -> Dataset:
        dataset = build.dataset(self.recipe.data, split)
        return WithSaliency(dataset, None) if self._makes_saliency else with_given_saliency(dataset, self.source)

    @property
    def _makes_saliency(self) -> bool:
        return self.source.computes and WeakLabel.SALIENCY in self.indispensable

    def _computed_saliency(self) -> SaliencyMaps:
        """Maps that a provider makes of the training images, which the training set has from now on."""
        folder = maps_folder(self.train_set, self.source, self.folder)
        if not folder.is_relative_to(self.train_set.root):
            self.reporter.warn(f"{self.train_set.root}: cannot be written. Saliency maps are kept in {folder}.")
        maps = SaliencyMaps(self.source, self.train_set, folder)
        self.train_set = WithSaliency(self.train_set, folder)
        return maps

    def _audited(self) -> dict[str, str]:
        """Hashes of the data; the audit is repeated only when a file has changed."""
        allow_untagged = self.recipe.data.allow_untagged
        needs, learns = self.indispensable, self.trained is None
        needs -= {WeakLabel.SALIENCY} if self._makes_saliency else set()
        state = fingerprint(
            files=[dataset.stat_fingerprint() for dataset in self.datasets],
            needs=sorted(needs),
            untagged=allow_untagged,
            learns=learns,
        )
        known = self.manifest.stages.get("audit", {})
        if known.get("inputs") == state and "data" in known:
            return dict(known["data"])
        report = audit_all(self.datasets, needs, self.reporter, allow_untagged=allow_untagged, learns=learns)
        report.raise_for_errors()
        for row in report.rows():
            more = f" (and {row.count - 1} more)" if row.count > 1 else ""
            self.reporter.warn(f"{row.where}: {row.problem}{more}. {row.remedy}.")
        data = {dataset.split: dataset.fingerprint() for dataset in self.datasets}
        tiny = report.tiny[self.train_set.split]
        self.manifest.stages["audit"] = {"inputs": state, "done": True, "data": data, "tiny_boxes": tiny}
        return data

    @property
    def tiny_boxes(self) -> int:
        """How many boxes of the training images cover no pixel, so that they are left out."""
        return int(self.manifest.stages["audit"].get("tiny_boxes", 0))
