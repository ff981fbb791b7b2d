"""From recipe sections to the things they describe."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

from weakseg import __version__
from weakseg.data.catalog import DATASETS, open_dataset
from weakseg.data.dataset import Dataset
from weakseg.data.sample import WeakLabel
from weakseg.data.transforms import Transform, classification, segmentation
from weakseg.errors import UserError
from weakseg.methods.method import Method
from weakseg.methods.registry import method_class
from weakseg.metrics import protocol_name
from weakseg.networks.backbone import Backbone
from weakseg.networks.classifier import build_classifier, classifier_options
from weakseg.networks.mask_rcnn import DETECTORS, create_detector
from weakseg.networks.segmentation import NETWORKS, OURS, create_network
from weakseg.networks.weights import checksum
from weakseg.ops.crf import CRF_PARAMETERS
from weakseg.pipeline.options import checked_options
from weakseg.pipeline.recipe import (
    Augment,
    BackboneSettings,
    Data,
    Detect,
    Localize,
    Named,
    Predict,
    Recipe,
    Segment,
    Training,
)
from weakseg.registry import find
from weakseg.segment.instances import InstanceSegmenter
from weakseg.segment.losses import loss_function, loss_options, needs_second
from weakseg.segment.segmenter import Segmenter

PACKAGES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "lightning", "numpy")


class Normalising(Protocol):
    """A network that knows how its images are to be normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def dataset(settings: Data, split: str) -> Dataset:
    """One split of a recipe's data.

    Raises:
        UserError: If it cannot be opened, or this kind of data set does not take ``data.classes``.
    """
    if settings.classes is None:
        return open_dataset(settings.kind, settings.root, split)
    if settings.kind != "auto":
        opens = find(settings.kind, DATASETS, "kind of data set", "datasets")
        if "classes" not in signature(opens).parameters:
            what = f"data sets of kind '{settings.kind}' have classes of their own"
            raise UserError(what, where="data.classes", remedy="Leave it out")
    return open_dataset(settings.kind, settings.root, split, classes=settings.classes)


def method_options(chosen: Named) -> dict[str, Any]:
    """Options of the localisation method, defaults filled in.

    Raises:
        UserError: If the method or one of its options is unknown.
    """
    return checked_options(method_class(chosen.name), chosen.options, "localize.method")


def needs(chosen: Named) -> frozenset[WeakLabel]:
    """The weak labels that the method is trained on."""
    return method_class(chosen.name).needs


def check_settings(recipe: Recipe) -> None:
    """What can be seen to be wrong without building anything.

    Raises:
        UserError: If decoder, loss, CRF set, detector or an option is unknown, or seeds are wanted
            of a split that is not there.
    """
    for split in filter(None, (recipe.data.train, recipe.data.val)):
        protocol_name("seed", split)
    if "val" in recipe.evaluate.seeds and recipe.data.val is None:
        raise UserError("'evaluate.seeds' names val, but 'data.val' is null", where="recipe", remedy="Set data.val")
    _check_predict(recipe)
    if recipe.segment is not None:
        segment = recipe.segment
        _check_start(recipe, segment, "segment")
        _check_masks(recipe, segment)
        find(segment.network.name, NETWORKS, "network")
        if segment.network.name in OURS:
            checked_options(OURS[segment.network.name], segment.network.options, "segment.network")
        else:
            checked_options(build_classifier, classifier_options(segment.network.options), "segment.network")
        checked_options(loss_function(segment.loss.name), segment.loss.options, "segment.loss")
        _check_crf(segment.predict.crf)
    if recipe.detect is not None:
        detect = recipe.detect
        _check_start(recipe, detect, "detect")
        _check_second(recipe, f"detect.masks: {detect.masks}" if detect.masks != "first" else None)
        kind = find(detect.network.name, DETECTORS, "detector")
        checked_options(kind, detect.network.options, "detect.network")


def _check_start(recipe: Recipe, settings: Segment | Detect, section: str) -> None:
    if settings.start != "localizer":
        return
    if recipe.localize is None:
        raise UserError(
            f"'{section}.start: localizer' without a localiser", where="recipe", remedy="Write start: pretrained"
        )
    backbone = settings.backbone or recipe.backbone
    if backbone.name != recipe.backbone.name:
        raise UserError(
            f"'{section}.start: localizer' needs backbone '{recipe.backbone.name}', not '{backbone.name}'",
            where="recipe",
            remedy="Use the same backbone, or start: pretrained",
        )


def _check_masks(recipe: Recipe, segment: Segment) -> None:
    """Second masks have to be made by somebody, and a loss that compares two needs them to differ."""
    wanting = f"segment.masks: {segment.masks}" if segment.masks != "first" else None
    if needs_second(segment.loss.name):
        wanting = f"segment.loss: {segment.loss.name}"
        if segment.masks == "agreed":
            raise UserError(
                f"'{wanting}' learns from where two masks differ, which 'segment.masks: agreed' leaves out",
                where="recipe",
                remedy="Leave segment.masks out, or choose loss: cross_entropy",
            )
    _check_second(recipe, wanting)


def _check_second(recipe: Recipe, wanting: str | None) -> None:
    if wanting and not recipe.second:
        raise UserError(
            f"'{wanting}' needs second masks", where="recipe", remedy="Name the refiners that make them under 'second'"
        )


def predicting(recipe: Recipe) -> Predict | None:
    """How the network that is left in the end looks at images; ``None`` if there is none."""
    if recipe.segment is not None:
        return recipe.segment.predict
    localize = recipe.localize
    if localize is None or not method_class(localize.method.name).segments:
        return None
    as_maps = localize.model_dump(include={"scales", "flip", "batch", "precision"})
    said = localize.predict.model_dump(exclude_none=True) if localize.predict else {}
    return Predict(merge="mean", **{**as_maps, **said})


def _check_predict(recipe: Recipe) -> None:
    """A method predicts if it is a segmenter and no other comes after it."""
    localize = recipe.localize
    if localize is None or localize.predict is None:
        return
    problem = None
    if not method_class(localize.method.name).segments:
        problem = f"method '{localize.method.name}' is no segmenter"
    elif recipe.segment is not None:
        problem = "it is the segmenter of 'segment' that predicts"
    if problem:
        raise UserError(problem, where="localize.predict", remedy="Leave it out, see segment.predict")
    _check_crf(localize.predict.crf)


def _check_crf(params: str | None) -> None:
    if params is not None:
        find(params, CRF_PARAMETERS, "CRF parameter set")


def check_augment(augment: Augment, where: str) -> None:
    """See that the size of training images is drawn in one way; without any, the usual one of the task is.

    Args:
        augment: What the recipe says.
        where: Name of its section.

    Raises:
        UserError: If more than one of ``resize``, ``scale`` and ``area`` is given, or a range is upside down.
    """
    ways = {"resize": augment.resize, "scale": augment.scale, "area": augment.area}
    given = [f"'{name}'" for name, way in ways.items() if way is not None]
    if len(given) > 1:
        raise UserError(f"gives both {given[0]} and {given[1]}", where=where, remedy="Remove one of them")
    low, high = augment.resize or augment.scale or augment.area or (1, 1)
    if not 0 < low <= high or (augment.area is not None and high > 1):
        raise UserError(f"from {low} to {high} is no range", where=where, remedy="Write [lowest, highest]")


def check_trainings(trainings: Mapping[str, Training], images: int, devices: int) -> None:
    """See that all trainings are possible.

    Args:
        trainings: By their section in the recipe.
        images: How many there are.
        devices: On how many they are trained.

    Raises:
        UserError: If the size of training images is ambiguous, or the images do not fill one batch on every device.
    """
    for where, training in trainings.items():
        check_augment(training.augment, f"{where}.augment")
        if images < training.batch * devices:
            raise UserError(
                f"{images} training images do not fill one batch of {training.batch} on {devices} device(s)",
                where="recipe",
                remedy=f"Lower {where}.batch",
            )


def method(settings: Localize, options: dict[str, Any], num_classes: int, *, blank: bool = False) -> Method:
    """The localiser with its initial weights, or, ``blank``, with random ones as others are about to be read."""
    body = settings.backbone.blank() if blank else settings.backbone
    backbone = Backbone(**body.model_dump())
    built = method_class(settings.method.name)(backbone, num_classes, **options)
    built.head_factor = settings.head_factor
    return built


def segmenter(settings: Segment, backbone: BackboneSettings, num_classes: int) -> Segmenter:
    """The segmenter with its initial weights."""
    encoder = backbone.model_dump(exclude={"name"})
    stride = encoder.pop("output_stride")
    network = create_network(
        settings.network.name,
        num_classes + 1,
        encoder=backbone.name,
        output_stride=min(stride or 16, 16),
        decoder=settings.network.options,
        **encoder,
    )
    return Segmenter(network, loss_options(settings.loss.name, settings.loss.options), settings.head_factor)


def detector(settings: Detect, backbone: BackboneSettings, num_classes: int) -> InstanceSegmenter:
    """The detector with its initial weights; ``output_stride`` and ``dilate`` are for localisers."""
    network = create_detector(
        settings.network.name,
        num_classes,
        encoder=backbone.name,
        detector=settings.network.options,
        **backbone.model_dump(exclude={"name", "output_stride", "dilate"}),
    )
    return InstanceSegmenter(network, settings.head_factor)


def transform(augment: Augment, network: Normalising, *, masks: bool = False) -> Transform:
    """Training augmentation, for a classifier or for a segmenter."""
    jitter = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    ways = {"resize": augment.resize, "scale": augment.scale, "area": augment.area}
    size: dict[str, Any] = ways if any(ways.values()) else {}
    preset = segmentation if masks else classification
    return preset(
        augment.crop,
        **size,
        flip=augment.flip,
        jitter=jitter,
        padding=augment.padding,
        mean=network.mean,
        std=network.std,
    )


def backbone_inputs(backbone: BackboneSettings) -> dict[str, Any]:
    """What a trained network depends on: the settings, and the content of a local weights file."""
    path = Path(backbone.weights)
    content = checksum(path) if backbone.weights not in ("timm", "none") and path.is_file() else None
    return {**backbone.model_dump(exclude={"weights"}), "weights": content or backbone.weights}


def versions() -> dict[str, str]:
    """Versions of what computed a result."""
    found = {"weakseg": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "?"
    return found
