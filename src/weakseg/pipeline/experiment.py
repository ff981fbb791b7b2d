"""A recipe with its data and networks, checked and ready to run; nothing is written here."""

from functools import cached_property
from pathlib import Path

import torch

from weakseg.data.catalog import open_dataset
from weakseg.data.dataset import Dataset
from weakseg.data.pseudo import WithSaliency
from weakseg.data.sample import WeakLabel
from weakseg.errors import UserError
from weakseg.methods.method import Method
from weakseg.pipeline import build
from weakseg.pipeline.checks import audit_all
from weakseg.pipeline.device import choose_device
from weakseg.pipeline.evaluation import FILLING, confusion_pairs
from weakseg.pipeline.inference import Predictor
from weakseg.pipeline.manifest import Manifest, fingerprint
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import BackboneSettings, Localize, Named, Predict, Recipe, Segment, Training
from weakseg.pipeline.saliency import SaliencyMaps, maps_folder, saliency_source, with_given_saliency
from weakseg.pipeline.steps import Step, refiner_steps
from weakseg.refine.refiner import TrainedRefiner
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
        self.source = saliency_source(recipe.data.saliency.name, recipe.data.saliency.options)
        self._refiners: dict[str, TrainedRefiner] = {}
        self.needs = frozenset() if recipe.localize is None else build.needs(recipe.localize.method)
        self.manifest = Manifest(self.folder)
        self.train_set = self._open(recipe.data.train)
        self.val_set = None if recipe.data.val is None else self._open(recipe.data.val)
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
        build.check_trainings(self._trainings(), len(self.train_set), recipe.run.devices)
        self.data = self._audited()
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
    def seed_sets(self) -> list[Dataset]:
        """The data sets whose maps are wanted; those of the training images always are where there are maps."""
        if self.recipe.localize is None:
            return []
        return self.datasets if "val" in self.recipe.evaluate.seeds else [self.train_set]

    @property
    def segmented_sets(self) -> list[Dataset]:
        """The data sets that the trained network is to segment, if it can."""
        if self.predicting is None:
            return []
        wanted = self.recipe.evaluate.segmenter
        train = [self.train_set] if "train" in wanted else []
        return train + ([self.val_set] if self.val_set is not None and "val" in wanted else [])

    @property
    def tagged_splits(self) -> set[str]:
        """Splits in which the segmenter is helped by the tags."""
        names = {"train": self.recipe.data.train, "val": self.recipe.data.val or ""}
        return {names[split] for split in self.recipe.evaluate.tagged}

    @property
    def supervision(self) -> frozenset[WeakLabel]:
        """The weak labels that the pseudo-masks are made from: the method's, and what refiners need beside them."""
        salient = any(step.kind.needs_saliency for step in self.steps)
        boxed = any(step.kind.needs_boxes for step in self.steps)
        return self.needs | ({WeakLabel.SALIENCY} if salient else set()) | ({WeakLabel.BOXES} if boxed else set())

    @cached_property
    def method(self) -> Method:
        """The localiser, with its initial weights."""
        torch.manual_seed(self.recipe.seed)
        return build.method(self.localize, self.method_options, len(self.train_set.classes))

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter, with its initial weights."""
        torch.manual_seed(self.recipe.seed)
        return build.segmenter(self.segment, self.segmenter_backbone, len(self.train_set.classes))

    @property
    def predicting(self) -> Predict | None:
        """How the network that is left in the end looks at images; ``None`` if there is none."""
        return build.predicting(self.recipe)

    @property
    def predictor(self) -> tuple[Predictor, str]:
        """That network, with its initial weights, and the name of its file."""
        return (self.method, "localizer") if self.recipe.segment is None else (self.segmenter, "segmenter")

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
    def segmenter_backbone(self) -> BackboneSettings:
        """The segmenter's own, or else the localiser's."""
        return (self.recipe.segment and self.recipe.segment.backbone) or self.recipe.backbone

    def _measured(self, dataset: Dataset) -> bool:
        """Whether there is something to measure in a data set, and true masks to do so."""
        wanted = (self.train_set, *self.seed_sets, *self.segmented_sets)
        return any(dataset is one for one in wanted) and dataset.has(WeakLabel.MASKS)

    def _trainings(self) -> dict[str, Training]:
        """All trainings, by their section in the recipe."""
        found = {} if self.recipe.localize is None else {"localize.train": self.recipe.localize.train}
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
        dataset = open_dataset(self.recipe.data.kind, Path(self.recipe.data.root), split)
        return WithSaliency(dataset, None) if self._makes_saliency else with_given_saliency(dataset, self.source)

    @property
    def _makes_saliency(self) -> bool:
        return self.source.computes and WeakLabel.SALIENCY in self.supervision

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
        needs = self.supervision - {WeakLabel.SALIENCY} if self._makes_saliency else self.supervision
        state = fingerprint(
            files=[dataset.stat_fingerprint() for dataset in self.datasets],
            needs=sorted(needs),
            untagged=allow_untagged,
        )
        known = self.manifest.stages.get("audit", {})
        if known.get("inputs") == state and "data" in known:
            return dict(known["data"])
        report = audit_all(self.datasets, needs, self.reporter, allow_untagged=allow_untagged)
        report.raise_for_errors()
        for row in report.rows():
            more = f" (and {row.count - 1} more)" if row.count > 1 else ""
            self.reporter.warn(f"{row.where}: {row.problem}{more}. {row.remedy}.")
        data = {dataset.split: dataset.fingerprint() for dataset in self.datasets}
        self.manifest.stages["audit"] = {"inputs": state, "done": True, "data": data}
        return data
