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
from weakseg.pipeline.evaluation import confusion_pairs
from weakseg.pipeline.manifest import Manifest, fingerprint
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import BackboneSettings, Named, Recipe, Segment, Training
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
        self.method_options = build.method_options(recipe.localize.method)
        self.steps = refiner_steps(recipe)
        build.check_settings(recipe)
        self.source = saliency_source(recipe.data.saliency.name, recipe.data.saliency.options)
        self._refiners: dict[str, TrainedRefiner] = {}
        self.needs = build.needs(recipe.localize.method)
        self.manifest = Manifest(self.folder)
        self.train_set = self._open(recipe.data.train)
        self.val_set = None if recipe.data.val is None else self._open(recipe.data.val)
        for dataset in self.datasets:
            if self._measured(dataset):
                confusion_pairs(recipe.evaluate.confusion, dataset)
        build.check_trainings(self._trainings(), len(self.train_set), recipe.run.devices)
        self.data = self._audited()
        self.saliency = self._computed_saliency() if self._makes_saliency else None

    def resolved(self) -> Recipe:
        """The recipe with the options of method, refiners and saliency provider filled in."""
        method = Named(name=self.recipe.localize.method.name, **self.method_options)
        localize = self.recipe.localize.model_copy(update={"method": method})
        refine = tuple(step.named() for step in self.steps)
        data = self.recipe.data.model_copy(update={"saliency": self.source.named()})
        return self.recipe.model_copy(update={"data": data, "localize": localize, "refine": refine})

    @property
    def datasets(self) -> list[Dataset]:
        """Training images first."""
        return [self.train_set] + ([] if self.val_set is None else [self.val_set])

    @property
    def seed_sets(self) -> list[Dataset]:
        """The data sets whose maps are wanted; those of the training images always are."""
        return self.datasets if "val" in self.recipe.evaluate.seeds else [self.train_set]

    @property
    def segmented_sets(self) -> list[Dataset]:
        """The data sets that the trained segmenter is to segment."""
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
        return self.needs | ({WeakLabel.SALIENCY} if salient else set())

    @cached_property
    def method(self) -> Method:
        """The localiser, with its initial weights."""
        torch.manual_seed(self.recipe.seed)
        return build.method(self.recipe.localize, self.method_options, len(self.train_set.classes))

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter, with its initial weights."""
        torch.manual_seed(self.recipe.seed)
        return build.segmenter(self.segment, self.segmenter_backbone, len(self.train_set.classes))

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
    def segment(self) -> Segment:
        """The recipe's section, which must be there."""
        assert self.recipe.segment is not None
        return self.recipe.segment

    @property
    def segmenter_backbone(self) -> BackboneSettings:
        """The segmenter's own, or else the localiser's."""
        return self.segment.backbone or self.recipe.localize.backbone

    def _measured(self, dataset: Dataset) -> bool:
        """Whether there is something to measure in a data set, and true masks to do so."""
        segmented = self.recipe.segment is not None and dataset in self.segmented_sets
        return (dataset in self.seed_sets or segmented) and dataset.has(WeakLabel.MASKS)

    def _trainings(self) -> dict[str, Training]:
        """All trainings, by their section in the recipe."""
        found = {"localize.train": self.recipe.localize.train}
        for position, step in enumerate(self.steps):
            if step.learning is not None:
                found[f"refine.{position}.train"] = step.learning.train
        if self.recipe.segment is not None:
            found["segment.train"] = self.recipe.segment.train
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
