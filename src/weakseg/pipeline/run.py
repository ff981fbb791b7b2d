"""From a recipe to a run folder: the stages, in order, each skipped when its result is already there."""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch

from weakseg import __version__
from weakseg.data.catalog import open_dataset
from weakseg.data.dataset import Dataset
from weakseg.data.files import write_json, write_text
from weakseg.data.images import read_mask
from weakseg.data.pseudo import PseudoMasks, WeaklyLabelled
from weakseg.data.sample import WeakLabel
from weakseg.data.transforms import AugmentedDataset
from weakseg.errors import UserError
from weakseg.methods.method import Views
from weakseg.metrics import Flags, supervision_name
from weakseg.networks.weights import load_weights, save_weights
from weakseg.pipeline import build
from weakseg.pipeline.checks import audit_all
from weakseg.pipeline.device import choose_device
from weakseg.pipeline.evaluation import Evaluator, Measured, Provenance
from weakseg.pipeline.inference import localize, maps_path, mask_path, predict_dataset, prediction_path
from weakseg.pipeline.manifest import Manifest, fingerprint
from weakseg.pipeline.progress import Reporter, Silent
from weakseg.pipeline.recipe import Recipe, load_recipe
from weakseg.pipeline.reporting import report_data
from weakseg.pipeline.shards import MaskJob, refine_all
from weakseg.pipeline.training import train
from weakseg.refine.registry import create_chain
from weakseg.report.report import write_report

Until = Literal["localize", "refine", "segment", "evaluate", "report"]
LAST_STAGE = {"localize": "maps", "refine": "masks", "segment": "segmenter", "evaluate": "metrics", "report": "report"}


@dataclass(frozen=True)
class RunResult:
    """What a run has made.

    Attributes:
        folder: The run folder.
        metrics: The object of ``metrics.json``; empty before the evaluation.
        report: The report page, or ``None`` before it is written.
    """

    folder: Path
    metrics: dict[str, Any]
    report: Path | None


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: Key in the manifest.
        inputs: Hash of everything that its result depends on.
        outputs: Files and folders that it makes, within the run folder.
        work: Does it; returns the number of images it worked on.
    """

    name: str
    inputs: str
    outputs: tuple[str, ...]
    work: Callable[[], int]


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: Sequence[str] = (),
    until: Until = "report",
    reporter: Reporter | None = None,
) -> RunResult:
    """Do what a recipe says, going on where an earlier run of the same recipe has stopped.

    Args:
        recipe: A YAML file, a mapping, or a checked recipe.
        overrides: Such as ``"data.root=photos"``.
        until: The stage after which to stop.
        reporter: Receives messages and progress; nothing is shown if ``None``.

    Raises:
        UserError: For anything wrong in recipe or data; the run folder is then as it was before.
    """
    checked = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    experiment = Experiment(checked, reporter or Silent())
    return experiment.run(until)


class Experiment:
    """A recipe with its data, ready to run; nothing is written before ``run``.

    Args:
        recipe: What to do.
        reporter: Receives messages and progress.

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
        self.steps = build.refiner_steps(recipe.refine)
        create_chain(self.steps)
        build.check_loss(recipe.segment)
        self.needs = build.needs(recipe.localize.method)
        self.manifest = Manifest(self.folder)
        self.train_set, self.val_set = self._open(recipe.data.train), self._open_val()
        self.data = self._audited()
        self._check_evaluation()
        self.measured: Measured | None = None

    @property
    def classes(self) -> int:
        """C, number of object classes."""
        return len(self.train_set.classes)

    def run(self, until: Until) -> RunResult:
        """Work through the stages up to ``until``."""
        stages = self._stages(until)
        self._build_what_is_due(stages)
        self._write_recipe()
        for stage in stages:
            self._do(stage)
        metrics = self.folder / "metrics.json"
        report = self.folder / "report" / "index.html"
        return RunResult(
            self.folder,
            build.read_json(metrics) if until in ("evaluate", "report") else {},
            report if until == "report" else None,
        )

    def _open(self, split: str) -> Dataset:
        data = self.recipe.data
        return open_dataset(data.kind, Path(data.root), split)

    def _open_val(self) -> Dataset | None:
        return None if self.recipe.data.val is None else self._open(self.recipe.data.val)

    @property
    def _datasets(self) -> list[Dataset]:
        return [self.train_set] + ([] if self.val_set is None else [self.val_set])

    def _audited(self) -> dict[str, str]:
        """Hashes of the data; the audit is repeated only when a file has changed."""
        state = fingerprint(
            files=[dataset.stat_fingerprint() for dataset in self._datasets],
            needs=sorted(self.needs),
            untagged=self.recipe.data.allow_untagged,
        )
        known = self.manifest.stages.get("audit", {})
        if known.get("inputs") == state and "data" in known:
            return dict(known["data"])
        allow_untagged = self.recipe.data.allow_untagged
        report = audit_all(self._datasets, self.needs, self.reporter, allow_untagged=allow_untagged)
        report.raise_for_errors()
        for finding in report.warnings:
            self.reporter.warn(f"{finding.where}: {finding.problem}. {finding.remedy}.")
        data = {dataset.split: dataset.fingerprint() for dataset in self._datasets}
        self.manifest.stages["audit"] = {"inputs": state, "done": True, "data": data}
        return data

    def _check_evaluation(self) -> None:
        for split in self.recipe.evaluate.seeds:
            if split == "val" and self.val_set is None:
                raise UserError("no val split for 'evaluate.seeds'", where="recipe", remedy="Set data.val")

    def _stages(self, until: Until) -> list[Stage]:
        recipe, folder = self.recipe, self.folder
        views, seed_sets = recipe.localize, [self.train_set, *self._val_seeds()]
        common = {"version": __version__, "seed": recipe.seed, "classes": self.train_set.classes.names}
        localizer = fingerprint(
            **common,
            data=self.data[self.train_set.split],
            method=self.method_options,
            name=views.method.name,
            backbone=build.backbone_inputs(views.backbone),
            train=views.train.model_dump(exclude={"workers"}),
        )
        maps = fingerprint(
            localizer=localizer,
            data=[self.data[dataset.split] for dataset in seed_sets],
            views=[views.scales, views.flip, views.stride, views.batch],
        )
        masks = fingerprint(maps=maps, steps=self.steps)
        stages = [
            Stage(
                "localizer", localizer, ("localizer.safetensors", "checkpoints/localizer.ckpt"), self._train_localizer
            ),
            Stage("maps", maps, ("maps",), self._localize),
            Stage("masks", masks, ("masks",), self._refine),
        ]
        measured = masks
        if recipe.segment is not None:
            segment = recipe.segment
            segmenter = fingerprint(
                **common,
                masks=masks,
                network=segment.model_dump(exclude={"predict", "train"}),
                backbone=build.backbone_inputs(self._segmenter_backbone),
                train=segment.train.model_dump(exclude={"workers"}),
            )
            stages.append(
                Stage(
                    "segmenter",
                    segmenter,
                    ("segmenter.safetensors", "checkpoints/segmenter.ckpt"),
                    self._train_segmenter,
                )
            )
            measured = segmenter
            if self.val_set is not None:
                measured = fingerprint(
                    segmenter=segmenter, data=self.data[self.val_set.split], predict=segment.predict.model_dump()
                )
                stages.append(Stage("predictions", measured, ("predictions",), partial(self._predict, self.val_set)))
        metrics = fingerprint(
            measured=measured, maps=maps, masks=masks, data=self.data, evaluate=recipe.evaluate.model_dump()
        )
        stages.append(Stage("metrics", metrics, ("metrics.json", "images.csv", "thresholds.csv"), self._evaluate))
        report = fingerprint(metrics=metrics, recipe=recipe.model_dump(exclude={"environment"}))
        stages.append(Stage("report", report, ("report",), self._report))
        names = [stage.name for stage in stages]
        last = LAST_STAGE[until] if LAST_STAGE[until] in names else "masks"
        assert folder is not None
        return stages[: names.index(last) + 1]

    def _val_seeds(self) -> list[Dataset]:
        wanted = "val" in self.recipe.evaluate.seeds and self.val_set is not None
        return [self.val_set] if wanted and self.val_set is not None else []

    def _build_what_is_due(self, stages: Sequence[Stage]) -> None:
        """Networks that do not fit together are found before the run folder is touched."""
        due = {stage.name for stage in stages if not self._done(stage)}
        if due & {"localizer", "maps"}:
            assert self.method is not None
        if due & {"segmenter", "predictions"}:
            assert self.segmenter is not None

    def _done(self, stage: Stage) -> bool:
        made = all((self.folder / name).exists() for name in stage.outputs)
        return self.manifest.done(stage.name, stage.inputs) and made

    def _do(self, stage: Stage) -> None:
        if self._done(stage):
            self.reporter.say(f"{stage.name}: done before")
            return
        self.manifest.begin(stage.name, stage.inputs, stage.outputs)
        start = time.perf_counter()
        images = stage.work()
        seconds = time.perf_counter() - start
        self.manifest.finish(
            stage.name,
            stage.inputs,
            {
                "seconds": round(seconds, 2),
                "images": images,
                "images_per_second": round(images / seconds, 2) if images else None,
                "peak_memory_mb": _peak_memory(),
            },
        )

    def _write_recipe(self) -> None:
        environment = {**build.versions(), "device": self.device.kind}
        environment |= {f"data ({split})": content for split, content in self.data.items()}
        write_text(self.folder / "recipe.yaml", self.recipe.model_copy(update={"environment": environment}).to_yaml())
        write_json(self.folder / "MANIFEST.json", self.manifest.stages)

    @cached_property
    def method(self) -> Any:  # noqa: ANN401
        """The localiser, with its initial weights."""
        torch.manual_seed(self.recipe.seed)
        return build.method(self.recipe.localize, self.method_options, self.classes)

    @cached_property
    def segmenter(self) -> Any:  # noqa: ANN401
        """The segmenter, with its initial weights."""
        assert self.recipe.segment is not None
        torch.manual_seed(self.recipe.seed)
        return build.segmenter(self.recipe.segment, self._segmenter_backbone, self.classes)

    @property
    def _segmenter_backbone(self) -> Any:  # noqa: ANN401
        assert self.recipe.segment is not None
        return self.recipe.segment.backbone or self.recipe.localize.backbone

    def _train_localizer(self) -> int:
        settings = self.recipe.localize.train
        weak = WeaklyLabelled(self.train_set, self.needs)
        transform = build.transform(settings.augment, self.method.backbone)
        self._train(self.method, AugmentedDataset(weak, transform, self.recipe.seed), settings, "localizer")
        return len(weak) * settings.epochs

    def _train_segmenter(self) -> int:
        assert self.recipe.segment is not None
        settings = self.recipe.segment.train
        pseudo = PseudoMasks(self.train_set, partial(mask_path, self.folder))
        transform = build.transform(settings.augment, self.segmenter.network, masks=True)
        self._train(self.segmenter, AugmentedDataset(pseudo, transform, self.recipe.seed), settings, "segmenter")
        return len(pseudo) * settings.epochs

    def _train(self, model: Any, dataset: AugmentedDataset, settings: Any, name: str) -> None:  # noqa: ANN401
        train(
            model,
            dataset,
            settings,
            self.folder / "checkpoints" / f"{name}.ckpt",
            seed=self.recipe.seed,
            device=self.device,
            reporter=self.reporter,
            label=f"train {name}",
        )
        about = {"recipe": self.recipe.name, "classes": "\n".join(self.train_set.classes.names)}
        save_weights(model, self.folder / f"{name}.safetensors", about)

    def _localize(self) -> int:
        load_weights(self.method, self.folder / "localizer.safetensors")
        settings = self.recipe.localize
        return localize(
            self.method,
            [self.train_set, *self._val_seeds()],
            Views(settings.scales, settings.flip, settings.stride),
            self.folder,
            batch=settings.batch,
            device=self.device,
            reporter=self.reporter,
        )

    def _refine(self) -> int:
        jobs = [
            MaskJob(self.train_set.paths(image_id)["image"], maps_path(self.folder, image_id), mask)
            for image_id in self.train_set.ids
            if not (mask := mask_path(self.folder, image_id)).exists()
        ]
        total = len(self.train_set)
        with self.reporter.track("refine", total, total - len(jobs)) as bar:
            workers = self.recipe.run.workers or self.device.cores
            for done in refine_all(jobs, self.steps, workers=workers, device=self.device):
                bar.advance(done)
        return len(jobs)

    def _predict(self, dataset: Dataset) -> int:
        assert self.recipe.segment is not None
        load_weights(self.segmenter, self.folder / "segmenter.safetensors")
        return predict_dataset(
            self.segmenter,
            dataset,
            self.recipe.segment.predict,
            self.folder,
            device=self.device,
            reporter=self.reporter,
        )

    def _evaluate(self) -> int:
        measured = self._measure()
        write_text(self.folder / "images.csv", measured.to_csv())
        curve = "".join(f"{threshold:.2f},{miou:.6f}\n" for threshold, miou in measured.curve)
        write_text(self.folder / "thresholds.csv", "threshold,miou\n" + curve)
        results = {name: result.to_json() for name, result in measured.results.items()}
        write_json(self.folder / "metrics.json", results)
        if not results:
            self.reporter.warn("no true masks, nothing could be measured")
        return sum(len(scores) for scores in measured.images.values())

    def _measure(self) -> Measured:
        recipe, provenance = self.recipe, self._provenance(self.recipe.localize.backbone)
        evaluator = Evaluator(provenance, self.reporter)
        maps = partial(maps_path, self.folder)
        if self.train_set.has(WeakLabel.MASKS):
            evaluator.sweep(self.train_set, maps)
            for split in recipe.evaluate.seeds:
                dataset = self.train_set if split == "train" else self.val_set
                if dataset is not None and dataset.has(WeakLabel.MASKS):
                    evaluator.seeds(dataset.split, dataset, maps, self._flags(evaluator.measured.threshold))
            flags = self._flags(None, crf=any(name == "crf" for name, _ in self.steps))
            masks = partial(_mask, partial(mask_path, self.folder))
            evaluator.measure("mask", self.train_set.split, self.train_set, masks, flags)
        if recipe.segment is not None and self.val_set is not None and self.val_set.has(WeakLabel.MASKS):
            predict = recipe.segment.predict
            evaluator.provenance = self._provenance(self._segmenter_backbone)
            flags = Flags(crf=predict.crf is not None, multi_scale=len(predict.scales) > 1)
            predictions = partial(_mask, partial(prediction_path, self.folder))
            evaluator.measure("seg", self.val_set.split, self.val_set, predictions, flags)
        return evaluator.measured

    def _flags(self, threshold: float | None, *, crf: bool = False) -> Flags:
        return Flags(True, crf, len(self.recipe.localize.scales) > 1, threshold)

    def _provenance(self, backbone: Any) -> Provenance:  # noqa: ANN401
        return Provenance(
            supervision=supervision_name(self.needs),
            backbone=backbone.name,
            weights=Path(backbone.weights).name,
            absent=self.recipe.evaluate.absent,
            metrics=self.recipe.evaluate.metrics,
        )

    def _report(self) -> int:
        data = report_data(self.recipe, self.folder, self.train_set, self.val_set, self.manifest.timings)
        write_report(self.folder / "report", data)
        return 0


def _mask(path: Callable[[str], Path], image_id: str) -> torch.Tensor:
    return read_mask(path(image_id))


def _peak_memory() -> int:
    """Highest resident memory of this process so far, or of its GPU, in MB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def rewrite_report(folder: Path) -> Path:
    """Write the report page of an evaluated run again.

    Raises:
        UserError: If the folder is no evaluated run.
    """
    recipe_file = folder / "recipe.yaml"
    if not recipe_file.is_file() or not (folder / "metrics.json").is_file():
        raise UserError("holds no evaluated run", where=folder, remedy="Run 'weakseg evaluate' first")
    recipe = load_recipe(recipe_file)
    data = recipe.data
    train_set = open_dataset(data.kind, Path(data.root), data.train)
    val_set = None if data.val is None else open_dataset(data.kind, Path(data.root), data.val)
    manifest = Manifest(folder)
    return write_report(folder / "report", report_data(recipe, folder, train_set, val_set, manifest.timings))
