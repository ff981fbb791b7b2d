"""What the stages of a run do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Module

from weakseg.data.dataset import Dataset
from weakseg.data.files import write_json, write_text
from weakseg.data.instances import Instances
from weakseg.data.pseudo import PseudoMasks, PseudoObjects, TeacherScores, WeaklyLabelled
from weakseg.data.sample import WeakLabel
from weakseg.data.transforms import AugmentedDataset, Transform
from weakseg.methods.method import Views
from weakseg.networks.weights import load_backbone_weights, load_weights, read_weights, save_weights
from weakseg.pipeline import build
from weakseg.pipeline.empty_masks import mask_warnings
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.inference import (
    calibrate_refiner,
    detect_datasets,
    instances_path,
    label_path,
    localize,
    maps_path,
    mask_path,
    predict_datasets,
)
from weakseg.pipeline.manifest import read_json
from weakseg.pipeline.measuring import measure
from weakseg.pipeline.pictures import pictures
from weakseg.pipeline.recipe import Masks, Training
from weakseg.pipeline.reporting import report_data
from weakseg.pipeline.saliency import check_useful
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
        self._tell_of_tiny_boxes(self.experiment.needs)
        for sentence in method.advice(settings.epochs):
            self.reporter.warn(sentence)
        weak = WeaklyLabelled(self.experiment.train_set, self.experiment.needs)
        transform = build.transform(settings.augment, method.backbone)
        drawing = pictures(method, weak, self.experiment.localize, self.folder)
        dataset = self._augmented(weak, transform, settings)
        return self._train(method, dataset, settings, "localizer", after_epoch=drawing)

    def take_localizer(self) -> int:
        """A localiser that another run has trained to ``localizer.safetensors``."""
        self._tell_of_tiny_boxes(self.experiment.needs)
        self._save(self.experiment.method, "localizer", self.experiment.train_set)
        names, learnt = self.experiment.train_set.classes.names, self.experiment.learnt
        if learnt is not None:
            new = ", ".join(name for index, name in enumerate(names) if index not in learnt)
            self.reporter.say(f"localizer: has learnt {len(learnt)} of {len(names)} classes, not {new}")
        return 0

    def localize(self) -> int:
        """The localiser to ``maps/``."""
        experiment, settings = self.experiment, self.experiment.localize
        load_weights(experiment.method, self.folder / "localizer.safetensors")
        if WeakLabel.BOXES in experiment.needs:
            self._tell_of_covered_images()
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
        labelled = taught(experiment.train_set, labels)
        labelled.ids = experiment.pseudo_ids
        dataset = self._augmented(labelled, transform, learning.train)
        calibrate = partial(calibrate_refiner, refiner, experiment.train_set, learning.train.batch, experiment.device)
        return self._train(refiner, dataset, learning.train, step.key, finish=calibrate)

    def tell_objects(self) -> int:
        """Maps of the training images to ``instances/``."""
        return self._refine(self._refining("instances"), partial(instances_path, self.folder), "instances")

    def refine(self) -> int:
        """Maps of the training images to ``masks/``, and to the folder of second masks."""
        self._tell_of_tiny_boxes(self.experiment.supervision - self.experiment.needs)
        made = self._refine(self._refining("masks"), partial(mask_path, self.folder), "refine")
        self._mask_warnings()
        return made

    def cut_objects(self) -> int:
        """Masks and boxes of the training images to ``instances/``."""
        experiment, dataset = self.experiment, self.experiment.train_set
        masks, ids = self._pseudo_masks(experiment.object_masks), experiment.object_ids
        undone = [image_id for image_id in ids if not instances_path(self.folder, image_id).exists()]
        with self.reporter.track("instances", len(ids), len(ids) - len(undone)) as bar:
            for image_id in undone:
                mask, boxes = masks.sample(image_id).mask, dataset.box_tensors(image_id)
                assert mask is not None
                assert boxes is not None
                Instances.in_boxes(mask, *boxes).save(instances_path(self.folder, image_id), dataset.classes.names)
                bar.advance()
        self._tell_of_lost_boxes()
        return len(undone)

    def train_segmenter(self) -> int:
        """Pseudo-masks to ``segmenter.safetensors``."""
        segmenter, settings = self.experiment.segmenter, self.experiment.segment.train
        if self.experiment.segment.start == "localizer":
            self._start_from_localizer(segmenter.network.encoder)
            segmenter.network.copy_encoder()
        transform = build.transform(settings.augment, segmenter.network, masks=True)
        seed = self.experiment.segmenter_seed
        taught = self._pseudo_masks(self.experiment.segment.masks, self.experiment.truly_labelled)
        dataset = self._augmented(taught, transform, settings, seed)
        return self._train(segmenter, dataset, settings, "segmenter", seed=seed)

    def train_detector(self) -> int:
        """Pseudo objects to ``detector.safetensors``."""
        experiment, settings = self.experiment, self.experiment.detect.train
        detector = experiment.detector
        if experiment.detect.start == "localizer":
            self._start_from_localizer(detector.network.encoder)
        transform = build.transform(settings.augment, detector.network, masks=True)
        taught = PseudoObjects(experiment.train_set, partial(instances_path, self.folder))
        taught.ids = experiment.object_ids
        return self._train(detector, self._augmented(taught, transform, settings), settings, "detector")

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

    def detect(self) -> int:
        """The trained detector to ``detections/``."""
        experiment = self.experiment
        load_weights(experiment.detector, self.folder / "detector.safetensors")
        return detect_datasets(
            experiment.detector,
            experiment.detected_sets,
            experiment.detect.predict,
            self.folder,
            device=experiment.device,
            reporter=self.reporter,
        )

    def evaluate(self) -> int:
        """Everything so far to ``metrics.json``, as far as there is truth to it."""
        measured = measure(self.experiment)
        write_text(self.folder / "images.csv", measured.to_csv())
        if measured.filling:
            write_text(self.folder / "filling.csv", measured.filling_csv())
        if measured.overlaps:
            write_text(self.folder / "objects.csv", measured.objects_csv())
        if measured.precision:
            write_text(self.folder / "precision.csv", measured.precision_csv())
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
            experiment.resolved(),
            self.folder,
            experiment.train_set,
            experiment.val_set,
            experiment.manifest.timings,
            self._mask_warnings(),
        )
        write_report(self.folder / "report", data)
        return 0

    def _tell_of_tiny_boxes(self, used: frozenset[WeakLabel]) -> None:
        """Where boxes are among the labels that are used first here."""
        count = self.experiment.tiny_boxes
        if count and WeakLabel.BOXES in used:
            what = f"boxes of {self.experiment.train_set.split} that cover no pixel are left out: {count}"
            self.reporter.warn(f"{what}. 'weakseg audit {self.recipe.data.root}' names them.")

    def _tell_of_lost_boxes(self) -> None:
        """Of which the pseudo-masks have left nothing."""
        ids, dataset = self.experiment.object_ids, self.experiment.train_set
        boxes = sum(len(tensors[0]) for tensors in map(dataset.box_tensors, ids) if tensors is not None)
        objects = sum(len(read_json(instances_path(self.folder, image_id))) for image_id in ids)
        if objects < boxes:
            what = f"{boxes - objects} of {boxes} boxes are left without a pixel of their class"
            self.reporter.say(f"instances: {what} and make no object")

    def _tell_of_covered_images(self) -> None:
        """Where background cannot be told from objects."""
        covered = self.experiment.covered_ids
        if covered:
            more = f" (and {len(covered) - 1} more)" if len(covered) > 1 else ""
            what = f"boxes cover the whole image '{covered[0]}'{more}: nothing in it is background for certain"
            self.reporter.warn(f"{what}, so the refiners alone tell it there. Draw boxes more tightly where you can.")

    def _mask_warnings(self) -> list[str]:
        """What is wrong with the pseudo-masks, told at once."""
        found = mask_warnings(self.recipe, self.experiment.train_set, self.folder)
        for warning in found:
            self.reporter.warn(warning)
        return found

    def _pseudo_masks(self, chosen: Masks, truly_labelled: frozenset[str] = frozenset()) -> PseudoMasks:
        """The training images with the masks that a network is to learn from, or objects to be cut from."""
        first: Callable[[str], Path] = partial(mask_path, self.folder)
        second = self.experiment.second_masks
        if chosen == "second":
            assert second is not None
            first, second = second, first
        return PseudoMasks(
            self.experiment.train_set,
            first,
            second,
            agreed=chosen == "agreed",
            truly_labelled=truly_labelled,
        )

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
        experiment = self.experiment
        ids = experiment.pseudo_ids
        undone = [image_id for image_id in ids if not result(image_id).exists()]
        jobs = [self._job(image_id, result(image_id), refining) for image_id in undone]
        workers = self.recipe.run.workers or experiment.device.cores
        with self.reporter.track(label, len(ids), len(ids) - len(jobs)) as bar:
            for done in refine_all(jobs, refining, workers=workers, device=experiment.device):
                bar.advance(done)
        return len(jobs)

    def _job(self, image_id: str, result: Path, refining: Refining) -> Job:
        dataset, kinds = self.experiment.train_set, [step.kind for step, _ in (*refining.steps, *refining.again)]
        paths, second = dataset.paths(image_id), self.experiment.second_masks
        boxed = WeakLabel.BOXES in self.experiment.supervision
        return Job(
            image=paths["image"],
            maps=None if self.recipe.localize is None else maps_path(self.folder, image_id),
            result=result,
            second=second(image_id) if second and refining.wanted == "masks" else None,
            saliency=paths.get("saliency") if any(kind.needs_saliency for kind in kinds) else None,
            boxes=dataset.box_tensors(image_id) if boxed else None,
            unsure=dataset.unsure_boxes(image_id) if boxed else None,
        )

    def _start_from_localizer(self, body: Module) -> None:
        localizer = self.folder / "localizer.safetensors"
        load_backbone_weights(body, read_weights(localizer, prefix="backbone.model."), localizer)

    def _augmented(
        self, dataset: Dataset, transform: Transform, settings: Training, seed: int | None = None
    ) -> AugmentedDataset:
        """Decoded images are kept where this process loads them itself and they fit into memory."""
        workers = self.experiment.device.workers if settings.workers is None else settings.workers
        cache = workers == 0 and _decoded_bytes(dataset) <= CACHE_BYTES
        return AugmentedDataset(dataset, transform, self.recipe.seed if seed is None else seed, cache=cache)

    def _train(
        self,
        model: Any,  # noqa: ANN401
        dataset: AugmentedDataset,
        settings: Training,
        name: str,
        finish: Callable[[], None] | None = None,
        seed: int | None = None,
        after_epoch: Callable[[int], None] | None = None,
    ) -> int:
        seen = train(
            model,
            dataset,
            settings,
            self.folder / "checkpoints" / f"{name}.ckpt",
            seed=self.recipe.seed if seed is None else seed,
            device=self.experiment.device,
            reporter=self.reporter,
            label=f"train {name}",
            after_epoch=after_epoch,
        )
        if finish is not None:
            finish()
        self._save(model, name, dataset.dataset)
        return seen

    def _save(self, model: Module, name: str, dataset: Dataset) -> None:
        names, learnt = dataset.classes.names, self.experiment.learnt
        about = {"recipe": self.recipe.name, "classes": "\n".join(names)}
        if name == "localizer" and learnt is not None:
            about["learnt"] = "\n".join(names[index] for index in learnt)
        save_weights(model, self.folder / f"{name}.safetensors", about)


def _decoded_bytes(dataset: Dataset) -> int:
    """About what all samples take in memory, judged by the first."""
    return len(dataset) * sum(value.nbytes for value in vars(dataset[0]).values() if isinstance(value, Tensor))
