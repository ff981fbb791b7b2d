"""The stages of a run, and what each one's result depends on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from weakseg import __version__
from weakseg.data.sample import WeakLabel
from weakseg.pipeline import build
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.manifest import fingerprint
from weakseg.pipeline.steps import Learning, Step
from weakseg.pipeline.work import Work

SALIENCY = "saliency"
Until = Literal["localize", "refine", "segment", "evaluate", "report"]
LAST_STAGE = {"localize": "maps", "refine": "masks", "segment": "segmenter", "evaluate": "metrics", "report": "report"}


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: Key in the manifest.
        inputs: Hash of everything that its result depends on.
        outputs: Files and folders that it makes, within the run folder.
        work: Does it; returns the number of images it worked on.
        ready: Whether what it makes outside of the run folder is there.
    """

    name: str
    inputs: str
    outputs: tuple[str, ...]
    work: Callable[[], int]
    ready: Callable[[], bool] = lambda: True

    def done(self, experiment: Experiment) -> bool:
        """Whether its result is there, made from the same inputs."""
        made = all((experiment.folder / name).exists() for name in self.outputs)
        return made and experiment.manifest.done(self.name, self.inputs) and self.ready()


def plan(experiment: Experiment, until: Until) -> list[Stage]:
    """All stages up to the one that ``until`` names; what depends on saliency maps depends on those there are now."""
    work = Work(experiment)
    stages = [*_saliency(experiment, work), *_labelling(experiment, work)]
    stages += _segmenting(experiment, work, stages[-1].inputs)
    stages += _telling(experiment, work, fingerprint(stages=[stage.inputs for stage in stages]))
    names = [stage.name for stage in stages]
    last = LAST_STAGE[until] if LAST_STAGE[until] in names else "masks"
    return stages[: names.index(last) + 1]


def _common(experiment: Experiment) -> dict[str, object]:
    return {
        "version": __version__,
        "seed": experiment.recipe.seed,
        "classes": experiment.train_set.classes.names,
        "device": experiment.device.kind,
    }


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
    settings = experiment.recipe.localize
    made = {} if experiment.saliency is None else {"saliency": experiment.saliency.fingerprint()}
    localizer = fingerprint(
        **_common(experiment),
        data=experiment.data[experiment.train_set.split],
        method=[settings.method.name, experiment.method_options],
        backbone=build.backbone_inputs(settings.backbone),
        head_factor=settings.head_factor,
        train=settings.train.model_dump(exclude={"workers"}),
        **(made if WeakLabel.SALIENCY in experiment.needs else {}),
    )
    maps = fingerprint(
        localizer=localizer,
        data=[experiment.data[dataset.split] for dataset in experiment.seed_sets],
        views=settings.model_dump(include={"scales", "flip", "stride", "batch", "precision"}),
    )
    stages = [
        Stage("localizer", localizer, _trained("localizer"), work.train_localizer),
        Stage("maps", maps, ("maps",), work.localize),
    ]
    steps: list[object] = []
    for step in experiment.steps:
        learning = [] if step.learning is None else _learning(experiment, work, step, step.learning, maps, steps)
        steps.append([step.name, step.options, *(stage.inputs for stage in learning)])
        steps.extend(made.values() if step.kind.needs_saliency else ())
        stages += learning
    masks = fingerprint(maps=maps, steps=steps)
    if experiment.tells_objects:
        stages.append(Stage("instances", masks, ("instances",), work.tell_objects))
    return [*stages, Stage("masks", masks, ("masks",), work.refine)]


def _learning(
    experiment: Experiment, work: Work, step: Step, learning: Learning, maps: str, before: list[object]
) -> list[Stage]:
    """What a trained refiner learns from, and its training."""
    labels = fingerprint(maps=maps, before=before, name=step.name, options=step.training_options())
    trained = fingerprint(
        **_common(experiment),
        labels=labels,
        backbone=build.backbone_inputs(learning.backbone),
        start=learning.start,
        train=learning.train.model_dump(exclude={"workers"}),
    )
    return [
        Stage(f"{step.key}-labels", labels, (f"labels/{step.key}",), partial(work.label, step)),
        Stage(step.key, trained, _trained(step.key), partial(work.train_refiner, step)),
    ]


def _segmenting(experiment: Experiment, work: Work, masks: str) -> list[Stage]:
    if experiment.recipe.segment is None:
        return []
    settings = experiment.recipe.segment
    segmenter = fingerprint(
        **_common(experiment),
        masks=masks,
        network=settings.model_dump(include={"network", "loss", "head_factor", "start"}),
        backbone=build.backbone_inputs(experiment.segmenter_backbone),
        train=settings.train.model_dump(exclude={"workers"}),
    )
    stages = [Stage("segmenter", segmenter, _trained("segmenter"), work.train_segmenter)]
    if experiment.segmented_sets:
        predictions = fingerprint(
            segmenter=segmenter,
            data=[experiment.data[dataset.split] for dataset in experiment.segmented_sets],
            tagged=sorted(experiment.tagged_splits),
            predict=settings.predict.model_dump(),
        )
        stages.append(Stage("predictions", predictions, ("predictions",), work.predict))
    return stages


def _telling(experiment: Experiment, work: Work, results: str) -> list[Stage]:
    settings = experiment.recipe.evaluate
    context = [dataset.context_fingerprint() for dataset in experiment.datasets] if settings.confusion else []
    metrics = fingerprint(results=results, data=experiment.data, context=context, evaluate=settings.model_dump())
    report = fingerprint(metrics=metrics, recipe=experiment.resolved().model_dump(exclude={"environment"}))
    return [
        Stage("metrics", metrics, ("metrics.json", "images.csv", "thresholds.csv"), work.evaluate),
        Stage("report", report, ("report",), work.report),
    ]
