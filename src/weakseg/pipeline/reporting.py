"""What the report page shows of a run folder."""

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from weakseg.data.dataset import OBJECTS, Dataset
from weakseg.data.detections import Detections
from weakseg.data.images import read_image, read_mask
from weakseg.data.instances import Instances
from weakseg.data.maps import LocalizationMaps
from weakseg.data.objects import Objects
from weakseg.metrics.overlap import SURE, paired
from weakseg.pipeline.evaluation import AP, FILLING, extremes
from weakseg.pipeline.inference import detections_path, instances_path, maps_path, mask_path, prediction_path
from weakseg.pipeline.manifest import read_json
from weakseg.pipeline.pictures import last_picture
from weakseg.pipeline.recipe import Recipe
from weakseg.refine.masks import at_image_size
from weakseg.report.overlays import Outlined
from weakseg.report.pictures import Panel
from weakseg.report.report import ReportData

SHOWN = 4


Stage = tuple[str, list[Panel], list[Panel]]


def report_data(
    recipe: Recipe,
    folder: Path,
    train_set: Dataset,
    val_set: Dataset | None,
    timings: dict[str, Any],
    warnings: Sequence[str] = (),
) -> ReportData:
    """Gather numbers and pictures.

    Args:
        recipe: The run's recipe.
        folder: The run folder, evaluated.
        train_set: Images with maps and pseudo-masks.
        val_set: Images with predictions, or ``None``.
        timings: The object of ``timings.json``.
        warnings: What is wrong with the run's results, if anything.
    """
    metrics = read_json(folder / "metrics.json")
    scores = _image_scores(folder / "images.csv", "miou")
    stages: list[Stage] = []
    for name, dataset in ((f"mask@{train_set.split}", train_set), (f"seg@{val_set.split if val_set else ''}", val_set)):
        if dataset is not None and scores.get(name):
            best, worst = extremes(scores[name], SHOWN)
            panel = partial(_panel, folder, dataset, scores[name])
            stages.append((name, list(map(panel, best)), list(map(panel, worst))))
    if not stages:
        panel = partial(_panel, folder, train_set, {})
        stages = [(train_set.split, list(map(panel, train_set.ids[: 2 * SHOWN])), [])]
    stages += _object_stages(recipe, folder, metrics, train_set, val_set)
    saved = read_saved_environment(folder)
    return ReportData(
        title=recipe.name,
        recipe=recipe.model_copy(update={"environment": None}).to_yaml(),
        classes=train_set.classes.with_background,
        metrics=metrics,
        curve=_curve(folder / "thresholds.csv"),
        seed_threshold=_swept(metrics),
        filling=_filling(folder / "filling.csv", metrics),
        lessons=None if (sheet := last_picture(folder)) is None else sheet.read_bytes(),
        stages=stages,
        timings=timings,
        environment=saved,
        warnings=[*warnings, *_warnings(metrics, train_set, val_set)],
    )


def read_saved_environment(folder: Path) -> dict[str, str]:
    """Versions and data fingerprints that the run noted in its ``recipe.yaml``."""
    saved = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    return dict(saved.get("environment") or {})


def _panel(folder: Path, dataset: Dataset, scores: dict[str, float], image_id: str) -> Panel:
    paths = dataset.paths(image_id)
    tags = dataset.tags(image_id) or ()
    return Panel(
        id=image_id,
        score=scores.get(image_id, float("nan")),
        classes=tuple(dataset.classes.names[tag] for tag in tags),
        image=read_image(paths["image"]).permute(1, 2, 0).numpy(),
        map_=_if_there(maps_path(folder, image_id), _heat),
        mask=_if_there(mask_path(folder, image_id), _labels),
        prediction=_if_there(prediction_path(folder, image_id), _labels),
        truth=None if (truth := dataset.mask(image_id)) is None else truth.numpy(),
    )


def _object_stages(
    recipe: Recipe, folder: Path, metrics: dict[str, Any], train_set: Dataset, val_set: Dataset | None
) -> list[Stage]:
    """Pseudo objects and what a detector found: the best and worst images, or the first where none was measured."""
    told_apart = any(step.options.get("instances") for step in (*recipe.refine, *recipe.second))
    wanted: list[tuple[str, Dataset | None]] = []
    if told_apart or recipe.detect is not None or AP in recipe.evaluate.metrics:
        wanted += [("instances", train_set)]
    if recipe.detect is not None:
        wanted += [("detect", train_set), ("detect", val_set)]
    scores = _image_scores(folder / "objects.csv", "overlap")
    stages = []
    for stage, dataset in wanted:
        if dataset is None:
            continue
        path, name = instances_path if stage == "instances" else detections_path, f"{stage}@{dataset.split}"
        its_scores = scores.get(name, {}) if AP in metrics.get(name, {}) else {}
        ids = [image_id for image_id in dataset.ids if path(folder, image_id).exists()]
        best, worst = extremes(its_scores, SHOWN) if its_scores else (ids[: 2 * SHOWN], [])
        panel = partial(_object_panel, folder, dataset, its_scores, stage)
        stages += [(name, list(map(panel, best)), list(map(panel, worst)))] if best or worst else []
    return stages


def _object_panel(folder: Path, dataset: Dataset, scores: dict[str, float], stage: str, image_id: str) -> Panel:
    paths, names = dataset.paths(image_id), dataset.classes.names
    image = read_image(paths["image"]).permute(1, 2, 0).numpy()
    truth = dataset.objects(image_id) if OBJECTS in paths else None
    objects: dict[str, list[Outlined]] = {}
    if stage == "instances":
        told_apart = Instances.load(instances_path(folder, image_id), names)
        objects["instances"] = outlined(told_apart, truth, names, least=0.0)
    else:
        found = Detections.load(detections_path(folder, image_id), names, image.shape[:2])
        objects["detections"] = outlined(found, truth, names, least=SURE)
    if truth is not None:
        rows = zip(truth.classes.tolist(), truth.crowd.tolist(), truth.masks.numpy(), strict=True)
        objects["true_objects"] = [Outlined(names[one] + " (crowd)" * crowd, mask) for one, crowd, mask in rows]
    return Panel(
        id=image_id,
        score=scores.get(image_id, float("nan")),
        classes=tuple(names[tag] for tag in dataset.tags(image_id) or ()),
        image=image,
        objects=objects,
        metric="overlap",
    )


def outlined(
    found: Detections | Instances, truth: Objects | None, names: Sequence[str], least: float
) -> list[Outlined]:
    """Objects of at least that score, none of 0; those that the overlap pairs with a true object have its colour.

    A score of 1 is not told, as that of a known box.
    """
    shown = ((found.scores >= least) & (found.scores > 0)).nonzero().flatten()
    partners = {} if truth is None else {one: other for one, other, _ in paired(found, truth)}
    masks, classes, scores = found.masks[shown], found.classes[shown], found.scores[shown].tolist()
    colours: list[int | None] = [None] * len(shown)
    if truth is not None:
        colours = [partners.get(one, len(truth) + place) for place, one in enumerate(shown.tolist())]
    rows = zip(classes.tolist(), masks.cpu().numpy(), scores, colours, strict=True)
    return [Outlined(names[one], mask, None if score == 1 else score, colour) for one, mask, score, colour in rows]


def _if_there(path: Path, read: Callable[[Path], NDArray[Any]]) -> NDArray[Any] | None:
    return read(path) if path.exists() else None


def _labels(path: Path) -> NDArray[np.uint8]:
    return read_mask(path).numpy()


def _heat(path: Path) -> NDArray[np.float32]:
    maps = at_image_size(LocalizationMaps.load(path))
    if len(maps.classes) == 0:
        return np.zeros(maps.size, dtype=np.float32)
    heat: NDArray[np.float32] = maps.scores.amax(0).numpy()
    return heat


def _image_scores(path: Path, column: str) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    for row in _rows(path):
        scores.setdefault(row["protocol"], {})[row["image"]] = float(row[column])
    return scores


def _curve(path: Path) -> list[tuple[float, float]]:
    return [(float(row["threshold"]), float(row["miou"])) for row in _rows(path)]


def _filling(path: Path, metrics: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Of the protocols that were measured; a file of an earlier evaluation may tell of others."""
    rates: dict[str, dict[str, list[float]]] = {}
    for row in _rows(path):
        if FILLING in metrics.get(row["protocol"], {}):
            rates.setdefault(row["protocol"], {}).setdefault(row["class"], []).append(float(row["rate"]))
    return rates


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _swept(metrics: dict[str, Any]) -> float | None:
    swept = [result["flags"]["threshold_swept"] for result in metrics.values()]
    return next((threshold for threshold in swept if threshold is not None), None)


def _warnings(metrics: dict[str, Any], train_set: Dataset, val_set: Dataset | None) -> list[str]:
    found = []
    if not metrics:
        found.append("The data have no true masks: nothing could be measured.")
    elif all(result["miou"] is None and FILLING in result for result in metrics.values()):
        found.append("The data have no true masks: only how masks fill their boxes could be measured.")
    elif val_set is None:
        found.append("There is no validation split: the segmenter was not measured.")
    for name, result in metrics.items():
        if result["absent"]:
            found.append(f"{name}: classes that do not occur are left out of the mean: {', '.join(result['absent'])}.")
    return found
