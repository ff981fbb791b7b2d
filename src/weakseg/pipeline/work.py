"""What the stages of a run do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Module

from weakseg.data.dataset import Dataset
from weakseg.data.files import write_json, write_text
from weakseg.data.images import read_mask
from weakseg.data.pseudo import PseudoMasks, TeacherScores, WeaklyLabelled
from weakseg.data.sample import WeakLabel
from weakseg.data.transforms import AugmentedDataset, Transform
from weakseg.methods.method import Views
from weakseg.metrics import BoundaryRule, Flags, supervision_name
from weakseg.networks.weights import load_backbone_weights, load_weights, read_weights, save_weights
from weakseg.pipeline import build
from weakseg.pipeline.evaluation import Evaluator, Measured, Provenance
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.inference import (
    calibrate_refiner,
    instances_path,
    label_path,
    localize,
    maps_path,
    mask_path,
    predict_datasets,
    prediction_path,
    second_path,
)
from weakseg.pipeline.recipe import BackboneSettings, Training
from weakseg.pipeline.reporting import report_data
from weakseg.pipeline.saliency import check_useful, provenance
from weakseg.pipeline.shards import Job, Refining, Wanted, refine_all
from weakseg.pipeline.steps import Step, Weighted
from weakseg.pipeline.training import train
from weakseg.report.report import write_report

CACHE_BYTES = 2**30


class Work:
    """One method for each stage; each returns the number of images it worked on.

    Args:
        experiment: What to work with.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.recipe = experiment, experiment.recipe
        self.folder, self.reporter = experiment.folder, experiment.reporter

    def make_saliency(self) -> int:
        """Images to saliency maps, beside the data."""
        maps = self.experiment.saliency
        assert maps is not None
        made = maps.make(self.recipe.run.workers or self.experiment.device.cores, self.reporter)
        check_useful(maps, maps.check(self.reporter))
        return made

    def train_localizer(self) -> int:
        """Tags, or what else the method needs, to ``localizer.safetensors``."""
        method, settings = self.experiment.method, self.experiment.localize.train
        weak = WeaklyLabelled(self.experiment.train_set, self.experiment.needs)
        transform = build.transform(settings.augment, method.backbone)
        return self._train(method, self._augmented(weak, transform, settings), settings, "localizer")

    def localize(self) -> int:
        """The localiser to ``maps/``."""
        experiment, settings = self.experiment, self.experiment.localize
        load_weights(experiment.method, self.folder / "localizer.safetensors")
        return localize(
            experiment.method,
            experiment.seed_sets,
            Views(settings.scales, settings.flip, settings.stride),
            self.folder,
            batch=settings.batch,
            precision=settings.precision,
            device=experiment.device,
            reporter=self.reporter,
        )

    def label(self, step: Step) -> int:
        """What a trained refiner learns from, to ``labels/<key>/``."""
        wanted = Refining((*self._before(step), (step, None)), "targets", self.experiment.train_set.classes.names)
        return self._refine(wanted, partial(label_path, self.folder, step), f"label for {step.key}")

    def train_refiner(self, step: Step) -> int:
        """Its labels to ``<key>.safetensors``."""
        experiment, learning, labels = self.experiment, step.learning, partial(label_path, self.folder, step)
        assert learning is not None
        refiner = experiment.refiner(step)
        if learning.start == "localizer":
            self._start_from_localizer(refiner.backbone.model)
        taught = PseudoMasks if refiner.target == "mask" else TeacherScores
        transform = build.transform(learning.train.augment, refiner.backbone, masks=True)
        dataset = self._augmented(taught(experiment.train_set, labels), transform, learning.train)
        calibrate = partial(calibrate_refiner, refiner, experiment.train_set, learning.train.batch, experiment.device)
        return self._train(refiner, dataset, learning.train, step.key, finish=calibrate)

    def tell_objects(self) -> int:
        """Maps of the training images to ``instances/``."""
        return self._refine(self._refining("instances"), partial(instances_path, self.folder), "instances")

    def refine(self) -> int:
        """Maps of the training images to ``masks/``, and to the folder of second masks."""
        return self._refine(self._refining("masks"), partial(mask_path, self.folder), "refine")

    def train_segmenter(self) -> int:
        """Pseudo-masks to ``segmenter.safetensors``."""
        segmenter, settings = self.experiment.segmenter, self.experiment.segment.train
        if self.experiment.segment.start == "localizer":
            self._start_from_localizer(segmenter.network.encoder)
            segmenter.network.copy_encoder()
        transform = build.transform(settings.augment, segmenter.network, masks=True)
        return self._train(segmenter, self._augmented(self._taught(), transform, settings), settings, "segmenter")

    def predict(self) -> int:
        """The trained network to ``predictions/``."""
        experiment, settings = self.experiment, self.experiment.predicting
        assert settings is not None
        segmenter, name = experiment.predictor
        load_weights(segmenter, self.folder / f"{name}.safetensors")
        return predict_datasets(
            segmenter,
            experiment.segmented_sets,
            experiment.tagged_splits,
            settings,
            self.folder,
            device=experiment.device,
            reporter=self.reporter,
        )

    def evaluate(self) -> int:
        """Everything so far to ``metrics.json``, as far as there are true masks."""
        measured = self._measure()
        write_text(self.folder / "images.csv", measured.to_csv())
        if measured.filling:
            write_text(self.folder / "filling.csv", measured.filling_csv())
        curve = "".join(f"{threshold:.2f},{miou:.6f}\n" for threshold, miou in measured.curve)
        write_text(self.folder / "thresholds.csv", "threshold,miou\n" + curve)
        write_json(self.folder / "metrics.json", {name: result.to_json() for name, result in measured.results.items()})
        if not measured.results:
            self.reporter.warn("the data have no true masks: nothing could be measured")
        return sum(len(scores) for scores in measured.images.values())

    def report(self) -> int:
        """The run folder to ``report/index.html``."""
        experiment = self.experiment
        data = report_data(
            experiment.resolved(), self.folder, experiment.train_set, experiment.val_set, experiment.manifest.timings
        )
        write_report(self.folder / "report", data)
        return 0

    def _taught(self) -> PseudoMasks:
        """The masks that the segmenter learns from."""
        experiment, chosen = self.experiment, self.experiment.segment.masks
        first: Callable[[str], Path] = partial(mask_path, self.folder)
        second = self._second
        if chosen == "second":
            assert second is not None
            first, second = second, first
        return PseudoMasks(
            experiment.train_set,
            first,
            second,
            agreed=chosen == "agreed",
            truly_labelled=experiment.truly_labelled,
        )

    @property
    def _second(self) -> Callable[[str], Path] | None:
        """Where second masks are, if there are any."""
        steps = self.experiment.second
        return partial(second_path, steps, self.folder) if steps else None

    def _refining(self, wanted: Wanted) -> Refining:
        first, second = (
            tuple((step, self._weights(step)) for step in steps)
            for steps in (self.experiment.first, self.experiment.second)
        )
        return Refining(first, wanted, self.experiment.train_set.classes.names, second)

    def _before(self, step: Step) -> tuple[Weighted, ...]:
        """The steps that come before another one."""
        steps = self.experiment.steps
        return tuple((other, self._weights(other)) for other in steps[: steps.index(step)])

    def _weights(self, step: Step) -> Path | None:
        return None if step.learning is None else self.folder / f"{step.key}.safetensors"

    def _refine(self, refining: Refining, result: Callable[[str], Path], label: str) -> int:
        experiment, dataset = self.experiment, self.experiment.train_set
        undone = [image_id for image_id in dataset.ids if not result(image_id).exists()]
        jobs = [self._job(image_id, result(image_id), refining) for image_id in undone]
        workers = self.recipe.run.workers or experiment.device.cores
        with self.reporter.track(label, len(dataset), len(dataset) - len(jobs)) as bar:
            for done in refine_all(jobs, refining, workers=workers, device=experiment.device):
                bar.advance(done)
        return len(jobs)

    def _job(self, image_id: str, result: Path, refining: Refining) -> Job:
        dataset, kinds = self.experiment.train_set, [step.kind for step, _ in (*refining.steps, *refining.again)]
        paths = dataset.paths(image_id)
        return Job(
            image=paths["image"],
            maps=None if self.recipe.localize is None else maps_path(self.folder, image_id),
            result=result,
            second=self._second(image_id) if self._second and refining.wanted == "masks" else None,
            saliency=paths.get("saliency") if any(kind.needs_saliency for kind in kinds) else None,
            boxes=dataset.box_tensors(image_id) if any(kind.needs_boxes for kind in kinds) else None,
        )

    def _start_from_localizer(self, body: Module) -> None:
        localizer = self.folder / "localizer.safetensors"
        load_backbone_weights(body, read_weights(localizer, prefix="backbone.model."), localizer)

    def _augmented(self, dataset: Dataset, transform: Transform, settings: Training) -> AugmentedDataset:
        """Decoded images are kept where this process loads them itself and they fit into memory."""
        workers = self.experiment.device.workers if settings.workers is None else settings.workers
        cache = workers == 0 and _decoded_bytes(dataset) <= CACHE_BYTES
        return AugmentedDataset(dataset, transform, self.recipe.seed, cache=cache)

    def _train(
        self,
        model: Any,  # noqa: ANN401
        dataset: AugmentedDataset,
        settings: Training,
        name: str,
        finish: Callable[[], None] | None = None,
    ) -> int:
        seen = train(
            model,
            dataset,
            settings,
            self.folder / "checkpoints" / f"{name}.ckpt",
            seed=self.recipe.seed,
            device=self.experiment.device,
            reporter=self.reporter,
            label=f"train {name}",
        )
        if finish is not None:
            finish()
        about = {"recipe": self.recipe.name, "classes": "\n".join(dataset.dataset.classes.names)}
        save_weights(model, self.folder / f"{name}.safetensors", about)
        return seen

    def _measure(self) -> Measured:
        evaluator = Evaluator(self._provenance(self.recipe.backbone, self.experiment.supervision), self.reporter)
        if self.experiment.train_set.has(WeakLabel.MASKS):
            self._measure_labels(evaluator)
        predict = self.experiment.predicting
        if predict is not None:
            true = {WeakLabel.MASKS} if self.experiment.truly_labelled else set()
            labels = self.experiment.supervision | true
            evaluator.provenance = self._provenance(self.experiment.segmenter_backbone, labels)
            for dataset in self.experiment.segmented_sets:
                helped = dataset.split in self.experiment.tagged_splits
                flags = Flags(gt_tags=helped, crf=predict.crf is not None, multi_scale=len(predict.scales) > 1)
                if dataset.has(WeakLabel.MASKS):
                    evaluator.measure(
                        "seg", dataset.split, dataset, _read(partial(prediction_path, self.folder)), flags
                    )
        return evaluator.measured

    def _measure_labels(self, evaluator: Evaluator) -> None:
        """Seeds and pseudo-masks."""
        train_set, first, second = self.experiment.train_set, partial(mask_path, self.folder), self._second
        if self.recipe.localize is not None:
            self._measure_seeds(evaluator)
            evaluator.provenance = self._provenance(self.recipe.backbone, self.experiment.supervision)
        flags = self._flags(None, crf=any("crf" in step.name for step in self.experiment.first))
        evaluator.measure("mask", train_set.split, train_set, _read(first), flags)
        if second is None:
            return
        others = self._flags(None, crf=any("crf" in step.name for step in self.experiment.steps))
        evaluator.measure("second", train_set.split, train_set, _read(second), others)
        differ = partial(_differ, first, second)
        evaluator.measure("agreed", train_set.split, train_set, _read(first), others, left_out=differ)

    def _measure_seeds(self, evaluator: Evaluator) -> None:
        """The threshold is swept on the training images alone."""
        maps, train_set = partial(maps_path, self.folder), self.experiment.train_set
        evaluator.provenance = self._provenance(self.recipe.backbone, self.experiment.needs)
        evaluator.sweep(train_set, maps)
        for dataset in self.experiment.seed_sets:
            wanted = dataset is not train_set or "train" in self.recipe.evaluate.seeds
            if wanted and dataset.has(WeakLabel.MASKS):
                evaluator.seeds(dataset.split, dataset, maps, self._flags(evaluator.measured.threshold))

    def _flags(self, threshold: float | None, *, crf: bool = False) -> Flags:
        multi_scale = self.recipe.localize is not None and len(self.recipe.localize.scales) > 1
        return Flags(gt_tags=True, crf=crf, multi_scale=multi_scale, threshold_swept=threshold)

    def _provenance(self, backbone: BackboneSettings, labels: frozenset[WeakLabel]) -> Provenance:
        salient = WeakLabel.SALIENCY in labels
        return Provenance(
            supervision=supervision_name(labels),
            saliency=provenance(self.experiment.train_set, self.experiment.source) if salient else None,
            backbone=backbone.name,
            weights=Path(backbone.weights).name,
            absent=self.recipe.evaluate.absent,
            metrics=self.recipe.evaluate.metrics,
            confusion=self.recipe.evaluate.confusion,
            boundary=BoundaryRule(**self.recipe.evaluate.boundary.model_dump()),
        )


def _decoded_bytes(dataset: Dataset) -> int:
    """About what all samples take in memory, judged by the first."""
    return len(dataset) * sum(value.nbytes for value in vars(dataset[0]).values() if isinstance(value, Tensor))


def _read(path: Callable[[str], Path]) -> Callable[[str], Tensor]:
    return lambda image_id: read_mask(path(image_id))


def _differ(first: Callable[[str], Path], second: Callable[[str], Path], image_id: str) -> Tensor:
    """(H, W) bool, where two masks of an image say different things."""
    return read_mask(first(image_id)) != read_mask(second(image_id))
