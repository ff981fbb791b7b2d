"""The stages of a run, and what each one's result depends on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from weakseg import __version__
from weakseg.data.instances import UNSURE
from weakseg.data.sample import WeakLabel
from weakseg.methods.registry import method_class
from weakseg.pipeline import build
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.inference import second_folder
from weakseg.pipeline.manifest import fingerprint
from weakseg.pipeline.pictures import PICTURES
from weakseg.pipeline.recipe import BackboneSettings, Training
from weakseg.pipeline.steps import Learning, Step
from weakseg.pipeline.trained import TRAINING_ONLY
from weakseg.pipeline.work import Work

SALIENCY = "saliency"
Until = Literal["localize", "refine", "segment", "evaluate", "report"]
LAST_STAGES = {
    "localize": ("maps",),
    "refine": ("masks", "instances"),
    "segment": ("segmenter", "detector"),
    "evaluate": ("metrics",),
    "report": ("report",),
}
"""After the last of these a run stops; where there is none, after the masks and what is made of them."""
TABLES = ("precision.csv", "objects.csv", "filling.csv")
"""What only some metrics write."""


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: Key in the manifest.
        inputs: Hash of everything that its result depends on.
        outputs: Files and folders that it makes, within the run folder.
        work: Does it; returns the number of images it worked on.
        ready: Whether what it makes outside of the run folder is there.
        beside: What it may make there, too, without which it is done all the same.
    """

    name: str
    inputs: str
    outputs: tuple[str, ...]
    work: Callable[[], int]
    ready: Callable[[], bool] = lambda: True
    beside: tuple[str, ...] = ()

    def done(self, experiment: Experiment) -> bool:
        """Whether its result is there, made from the same inputs."""
        made = all((experiment.folder / name).exists() for name in self.outputs)
        return made and experiment.manifest.done(self.name, self.inputs) and self.ready()


def plan(experiment: Experiment, until: Until) -> list[Stage]:
    """All stages up to the one that ``until`` names; what depends on saliency maps depends on those there are now."""
    work = Work(experiment)
    stages = [*_saliency(experiment, work), *_labelling(experiment, work)]
    stages += _cutting(experiment, work, _inputs(stages, "masks"))
    trained = _segmenting(experiment, work, _inputs(stages, "masks"))
    trained += _detecting(experiment, work, _inputs(stages, "instances"))
    stages += [*trained, *_looking(experiment, work, [*stages, *trained])]
    stages += _telling(experiment, work, fingerprint(stages=[stage.inputs for stage in stages]))
    last = max(_places(stages, LAST_STAGES[until]) or _places(stages, LAST_STAGES["refine"]))
    return stages[: last + 1]


def _inputs(stages: Sequence[Stage], name: str) -> str:
    """Hash of a stage, empty where there is no such stage."""
    return next((stage.inputs for stage in stages if stage.name == name), "")


def _places(stages: Sequence[Stage], names: tuple[str, ...]) -> list[int]:
    return [place for place, stage in enumerate(stages) if stage.name in names]


def _common(experiment: Experiment) -> dict[str, object]:
    return {
        "version": __version__,
        "seed": experiment.recipe.seed,
        "classes": experiment.train_set.classes.names,
        "device": experiment.device.kind,
    }


def _training(experiment: Experiment, backbone: BackboneSettings, train: Training, **others: object) -> str:
    """Hash of what a trained network depends on; ``others`` may take the place of what all stages have in common."""
    settings = {"backbone": build.backbone_inputs(backbone), "train": train.model_dump(exclude={"workers"})}
    return fingerprint(**{**_common(experiment), **settings, **others})


def _trained(name: str) -> tuple[str, ...]:
    return f"{name}.safetensors", f"checkpoints/{name}.ckpt", f"checkpoints/{name}.csv"


def _saliency(experiment: Experiment, work: Work) -> list[Stage]:
    """The making of saliency maps, where a provider is to make them."""
    maps = experiment.saliency
    if maps is None:
        return []
    inputs = fingerprint(folder=maps.folder.name, data=experiment.data[experiment.train_set.split])
    return [Stage(SALIENCY, inputs, (), work.make_saliency, maps.complete)]


def _labelling(experiment: Experiment, work: Work) -> list[Stage]:
    """Maps and what the refiners make of them; without a localiser they start from the data."""
    localizing = [] if experiment.recipe.localize is None else _localizing(experiment, work)
    if localizing:
        maps = localizing[-1].inputs
    else:
        maps = fingerprint(**_common(experiment), data=experiment.data[experiment.train_set.split])
    made = _made(experiment)
    steps: list[object] = []
    refining = []
    for step in experiment.steps:
        learning = [] if step.learning is None else _learning(experiment, work, step, step.learning, maps, steps)
        steps.append([step.name, step.options, *(stage.inputs for stage in learning)])
        steps.extend(made.values() if step.kind.needs_saliency else ())
        refining += learning
    again = {"first": len(experiment.first)} if experiment.second else {}
    masks = fingerprint(maps=maps, steps=steps, **again)
    if experiment.tells_objects:
        refining.append(Stage("instances", masks, ("instances",), work.tell_objects))
    folders = ("masks", *([second_folder(experiment.second)] if experiment.second else []))
    return [*localizing, *refining, Stage("masks", masks, folders, work.refine)]


def _made(experiment: Experiment) -> dict[str, str]:
    """Saliency maps that a provider makes, as part of a hash."""
    return {} if experiment.saliency is None else {"saliency": experiment.saliency.fingerprint()}


def _localizing(experiment: Experiment, work: Work) -> list[Stage]:
    settings = experiment.localize
    kind = method_class(settings.method.name)
    localizer = _localizer(experiment, work, kind.inference_options)
    maps = fingerprint(
        localizer=localizer.inputs,
        method=_options(experiment, kind.inference_options - kind.prediction_options),
        data=[experiment.data[dataset.split] for dataset in experiment.seed_sets],
        views=settings.model_dump(include={"scales", "flip", "stride", "batch", "precision"}),
    )
    return [localizer, Stage("maps", maps, ("maps",), work.localize)]


def _localizer(experiment: Experiment, work: Work, inference_options: frozenset[str]) -> Stage:
    """The training of a localiser, or the taking of one that is trained."""
    settings, made = experiment.localize, _made(experiment)
    method = [settings.method.name, _options(experiment, inference_options, among=False)]
    if experiment.trained is not None:
        backbone = settings.backbone.model_dump(exclude=TRAINING_ONLY)
        about = {"backbone": backbone, "method": method, "trained": experiment.trained.inputs()}
        inputs = fingerprint(**_common(experiment), **about)
        weights, *others = _trained("localizer")
        return Stage("localizer", inputs, (weights,), work.take_localizer, beside=(PICTURES, *others))
    inputs = _training(
        experiment,
        settings.backbone,
        settings.train,
        data=experiment.data[experiment.train_set.split],
        method=method,
        head_factor=settings.head_factor,
        **(made if WeakLabel.SALIENCY in experiment.needs else {}),
    )
    return Stage("localizer", inputs, _trained("localizer"), work.train_localizer, beside=(PICTURES,))


def _options(experiment: Experiment, names: frozenset[str], *, among: bool = True) -> dict[str, object]:
    """The method's options of these names, or all others."""
    return {name: value for name, value in experiment.method_options.items() if (name in names) is among}


def _learning(
    experiment: Experiment, work: Work, step: Step, learning: Learning, maps: str, before: list[object]
) -> list[Stage]:
    """What a trained refiner learns from, and its training."""
    labels = fingerprint(maps=maps, before=before, name=step.name, options=step.training_options())
    trained = _training(experiment, learning.backbone, learning.train, labels=labels, start=learning.start)
    return [
        Stage(f"{step.key}-labels", labels, (f"labels/{step.key}",), partial(work.label, step)),
        Stage(step.key, trained, _trained(step.key), partial(work.train_refiner, step)),
    ]


def _cutting(experiment: Experiment, work: Work, masks: str) -> list[Stage]:
    """Objects from masks and boxes, where they are wanted and no refiner has told them apart."""
    if not experiment.boxes_tell_objects:
        return []
    objects = fingerprint(masks=masks, chosen=experiment.object_masks, unsure=UNSURE)
    return [Stage("instances", objects, ("instances",), work.cut_objects)]


def _segmenting(experiment: Experiment, work: Work, masks: str) -> list[Stage]:
    """The training of a segmenter, unless the localiser is one."""
    if experiment.recipe.segment is None:
        return []
    settings = experiment.recipe.segment
    network = settings.model_dump(include={"network", "loss", "head_factor", "start", "masks", "true_masks"})
    about = {"masks": masks, "network": network, "seed": experiment.segmenter_seed}
    segmenter = _training(experiment, experiment.segmenter_backbone, settings.train, **about)
    return [Stage("segmenter", segmenter, _trained("segmenter"), work.train_segmenter)]


def _detecting(experiment: Experiment, work: Work, instances: str) -> list[Stage]:
    """The training of a detector."""
    if experiment.recipe.detect is None:
        return []
    settings = experiment.recipe.detect
    network = settings.model_dump(include={"network", "head_factor", "start"})
    detector = _training(experiment, experiment.detector_backbone, settings.train, instances=instances, network=network)
    return [Stage("detector", detector, _trained("detector"), work.train_detector)]


def _looking(experiment: Experiment, work: Work, stages: Sequence[Stage]) -> list[Stage]:
    """What trained networks make of images."""
    segmenter = _inputs(stages, "localizer" if experiment.recipe.segment is None else "segmenter")
    return [
        *_predicting(experiment, work, segmenter),
        *_finding(experiment, work, _inputs(stages, "detector")),
    ]


def _finding(experiment: Experiment, work: Work, detector: str) -> list[Stage]:
    if not experiment.detected_sets:
        return []
    detections = fingerprint(
        detector=detector,
        data=[experiment.data[dataset.split] for dataset in experiment.detected_sets],
        predict=experiment.detect.predict.model_dump(),
    )
    return [Stage("detections", detections, ("detections",), work.detect)]


def _predicting(experiment: Experiment, work: Work, segmenter: str) -> list[Stage]:
    settings = experiment.predicting
    if settings is None or not experiment.segmented_sets:
        return []
    alone = experiment.recipe.segment is None
    names = method_class(experiment.localize.method.name).inference_options if alone else frozenset()
    predictions = fingerprint(
        segmenter=segmenter,
        method=_options(experiment, names),
        data=[experiment.data[dataset.split] for dataset in experiment.segmented_sets],
        tagged=sorted(experiment.tagged_splits),
        predict=settings.model_dump(),
    )
    return [Stage("predictions", predictions, ("predictions",), work.predict)]


def _telling(experiment: Experiment, work: Work, results: str) -> list[Stage]:
    settings = experiment.recipe.evaluate
    context = [dataset.context_fingerprint() for dataset in experiment.datasets] if settings.confusion else []
    inputs = {"data": experiment.data, "context": context, "evaluate": settings.model_dump()}
    if experiment.measures_objects:
        inputs["objects"] = [dataset.objects_fingerprint() for dataset in experiment.datasets]
    metrics = fingerprint(results=results, **inputs)
    report = fingerprint(metrics=metrics, recipe=experiment.resolved().model_dump(exclude={"environment"}))
    return [
        Stage("metrics", metrics, ("metrics.json", "images.csv", "thresholds.csv"), work.evaluate, beside=TABLES),
        Stage("report", report, ("report",), work.report),
    ]
