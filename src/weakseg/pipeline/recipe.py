"""Recipes: one experiment in YAML, checked before anything is touched."""

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from weakseg.errors import UserError
from weakseg.metrics.boundary import TOLERANCE
from weakseg.networks.norm import NormMode
from weakseg.pipeline.options import Section, known_keys, recipe_error
from weakseg.pipeline.overrides import LEFT_OUT, OPTIONAL, override
from weakseg.registry import near_matches

Precision = Annotated[Literal["auto", "32", "bf16"], BeforeValidator(lambda value: str(value))]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], Field(description="lowest and highest")]
Masks = Literal["first", "second", "agreed"]
Start = Literal["pretrained", "localizer"]
Scales = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class Named(BaseModel):
    """Something chosen by name, with options: ``{name: crf, params: D}`` or just ``crf``."""

    model_config = {"extra": "allow", "frozen": True}
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The other keys."""
        return dict(self.model_extra or {})


Choice = Annotated[Named, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]


class Choosing(Section):
    """A section where options without a name belong to the choice that is the default."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:  # noqa: ANN401
        if not isinstance(given, dict):
            return given
        usual = {key: field.default.name for key, field in cls.model_fields.items() if isinstance(field.default, Named)}
        unnamed = {key: given[key] for key in usual if isinstance(given.get(key), dict)}
        return {**given, **{key: {"name": usual[key], **options} for key, options in unnamed.items()}}


class Data(Choosing):
    """Where the images and their labels are, and which provider makes the saliency maps if a method needs them.

    ``classes`` are their names, instead of those that the data set lists.
    """

    root: str
    kind: str = "auto"
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    train: str = "train"
    val: str | None = "val"
    allow_untagged: bool = False
    saliency: Choice = Named(name="folder")


class BackboneSettings(Section):
    """The network's body and its initial weights; see ``Backbone``.

    For a segmenter that has no backbone of its own these are its encoder's settings, too, ``freeze`` included;
    ``output_stride`` then concerns the DeepLab decoders alone, which always dilate.
    """

    name: str = "resnet50"
    weights: str = "timm"
    sha256: str | None = None
    output_stride: Literal[8, 16, 32] | None = 16
    dilate: bool = True
    batchnorm: NormMode = "statistics"
    freeze: tuple[str, ...] = ()
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    def blank(self) -> "BackboneSettings":
        """That of a network whose weights are about to be read, so that none are looked for elsewhere."""
        return self.model_copy(update={"weights": "none", "sha256": None})


class Augment(Section):
    """How training images are varied.

    ``resize`` draws the longer side in pixels, ``scale`` a factor, ``area`` the share of a part that is resized to the
    crop; without any, a localiser's images are resized to 256 to 512 pixels and a segmenter's by 0.5 to 1.5.
    ``padding`` is the colour around an image that is smaller than the crop.
    """

    crop: Positive = 448
    resize: tuple[Positive, Positive] | None = None
    scale: Range | None = None
    area: Range | None = None
    flip: Share = 0.5
    brightness: Annotated[float, Field(ge=0)] = 0.0
    contrast: Annotated[float, Field(ge=0)] = 0.0
    saturation: Annotated[float, Field(ge=0)] = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    padding: Literal["mean", "black"] = "mean"


class Training(Section):
    """Optimisation of one network.

    ``momentum: null`` takes the weight decay's value as momentum, as the optimiser that PSA, IRN, SEAM and their
    descendants share does by accident; it is needed to reproduce their figures. ``schedule: step`` divides the rate by
    ten after every ``step_epochs``.
    """

    epochs: Positive = 15
    batch: Annotated[int, Field(ge=2)] = 16
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.01
    momentum: Share | None = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["poly", "cosine", "step", "constant"] = "poly"
    power: float = 0.9
    step_epochs: Annotated[float, Field(gt=0)] = 8
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    clip_gradients: Annotated[float, Field(gt=0)] | None = None
    precision: Precision = "auto"
    workers: Annotated[int, Field(ge=0)] | None = None
    augment: Augment = Augment()


class Predict(Section):
    """How the segmenter looks at an image."""

    scales: Scales = (1.0,)
    flip: bool = True
    merge: Literal["logits", "probabilities", "mean"] = "logits"
    crf: str | None = None
    batch: Positive = 4
    precision: Precision = "auto"


class OwnPredict(Section):
    """How a method that is its own segmenter looks at an image; what is not said here is as for the maps."""

    scales: Scales | None = None
    flip: bool | None = None
    crf: str | None = None
    batch: Positive | None = None
    precision: Precision | None = None


class Trained(Section):
    """A localiser that another run has trained.

    ``run`` is the folder of that run, which alone is short for a section without ``names``. These say what classes
    there that have another name are called here, such as ``{aeroplane: airplane}``, or by ``null`` that a class of the
    same name is another thing here.
    """

    run: str
    names: dict[str, str | None] = Field(default_factory=dict)


def _of_run(given: Any) -> Any:  # noqa: ANN401
    """A run folder alone is short for its section."""
    if given == LEFT_OUT:
        return None
    return {"run": given} if isinstance(given, str) else given


Taken = Annotated[Trained | None, BeforeValidator(_of_run)]


class Localize(Choosing):
    """The method, its training, and the views from which its maps are merged.

    ``head_factor`` is how much faster the new layers learn than the pretrained ones; 1 where nothing is pretrained.
    ``predict`` is for methods whose network is already the segmenter, with ``segment: none``; it has the views of the
    maps where nothing else is said. ``pictures`` says of how many training images a method that teaches itself shows
    after every epoch what it makes of them. With ``trained`` nothing is trained: the localiser is that of another run.
    """

    method: Choice = Named(name="cam")
    backbone: BackboneSettings = BackboneSettings()
    head_factor: Annotated[float, Field(gt=0)] = 10.0
    train: Training = Training()
    trained: Taken = None
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    stride: Positive = 4
    batch: Positive = 4
    precision: Precision = "auto"
    predict: OwnPredict | None = None
    pictures: Annotated[int, Field(ge=0)] = 0


class Segment(Choosing):
    """The segmenter, its loss and its training; ``backbone`` defaults to the localiser's.

    ``start: localizer`` takes the encoder's initial weights from the trained localiser (as MCTformer does), which
    must then have the same backbone; ``pretrained`` those that the backbone section names. ``masks`` says which
    pseudo-masks it learns from where ``second`` makes others: those of ``refine``, the others, or the pixels on which
    both agree; losses that compare two label maps are given both, and do not go with the latter. ``true_masks`` names
    a split whose images are among the training images and are learnt with their true masks (semi-supervised). ``seed``
    takes the place of the run's for the segmenter alone, so that several can be trained on the same masks.
    """

    network: Choice = Named(name="deeplabv3plus")
    masks: Masks = "first"
    true_masks: str | None = None
    seed: int | None = None
    backbone: BackboneSettings | None = None
    start: Start = "pretrained"
    loss: Choice = Named(name="cross_entropy")
    head_factor: Annotated[float, Field(gt=0)] = 10.0
    train: Training = Training()
    predict: Predict = Predict()


class DetectPredict(Section):
    """How the detector looks at an image: the lowest score that counts, and objects per image."""

    score: Share = 0.05
    most: Positive = 100
    batch: Positive = 4
    precision: Precision = "auto"


class Detect(Choosing):
    """The detector, which learns from pseudo objects, and its training; ``backbone`` and ``start`` as for ``Segment``.

    ``masks`` says from which pseudo-masks boxes cut the objects: those of ``refine``, the others that ``second`` makes,
    or the pixels on which both agree. A refiner that tells objects apart takes the place of the boxes.
    """

    network: Choice = Named(name="mask_rcnn")
    masks: Masks = "first"
    backbone: BackboneSettings | None = None
    start: Start = "pretrained"
    head_factor: Annotated[float, Field(gt=0)] = 1.0
    train: Training = Training()
    predict: DetectPredict = DetectPredict()


class Boundary(Section):
    """How ``boundary_f1`` compares boundaries: at most how far apart, and whether as lines of one pixel.

    ``tolerance`` is a share of the image's diagonal, or pixels if it is 1 or more.
    """

    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = TOLERANCE
    thin: bool = True


class Evaluate(Section):
    """What is measured.

    ``seeds`` names the splits whose maps are thresholded (the sweep runs on the training split), ``segmenter`` those
    that the trained networks look at: without tags, or in those named by ``tagged`` with the image's tags as help for
    the segmenter, which the result's flag ``gt_tags`` then says. ``confusion`` are pairs of a class and what coincides
    with it, such as ``[[boat, water]]``, named as in ``context_classes.txt``.
    """

    seeds: tuple[Literal["train", "val"], ...] = ("train",)
    segmenter: tuple[Literal["train", "val"], ...] = ("val",)
    tagged: tuple[Literal["train", "val"], ...] = ()
    absent: Literal["skip", "eps", "gt-only"] = "skip"
    metrics: tuple[
        Literal["contour_f", "boundary_f1", "soft", "cam_precision", "filling_rate", "box_accuracy", "ap"], ...
    ] = ()
    boundary: Boundary = Boundary()
    confusion: tuple[tuple[str, str], ...] = ()


class Run(Section):
    """Where the results go and what computes them."""

    folder: str = "runs/${name}"
    device: str = "auto"
    devices: Positive = 1
    workers: Positive | None = None


class Recipe(Section):
    """One experiment.

    ``localize: none`` leaves out the localiser; ``refine`` then starts with a refiner that makes maps of the labels,
    such as ``boxes``. ``second`` are refiners that go on from the masks of ``refine`` to other ones, which are kept
    beside them. ``detect`` trains a network that tells objects apart.
    """

    name: str
    description: str = ""
    seed: int = 0
    data: Data
    localize: Localize | None = Localize()
    refine: tuple[Choice, ...] = (Named(name="power"), Named(name="crf"))
    second: tuple[Choice, ...] = ()
    segment: Segment | None = Segment()
    detect: Detect | None = None
    evaluate: Evaluate = Evaluate()
    run: Run = Run()
    environment: dict[str, str] | None = Field(None, description="written by the run: versions, data fingerprint")

    @property
    def backbone(self) -> BackboneSettings:
        """The localiser's backbone, without one the segmenter's or detector's, and the usual one if nothing is said."""
        stated = self.localize or self.segment or self.detect
        return (None if stated is None else stated.backbone) or BackboneSettings()

    def to_yaml(self) -> str:
        """All settings, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply ``key=value`` overrides, fill in ``${section.key}`` and check everything.

    Args:
        source: A YAML file or a mapping.
        overrides: Such as ``"localize.train.epochs=5"``; see ``override``.

    Raises:
        UserError: For unknown keys (near matches named), wrong values, a missing or malformed file.
    """
    tree = _copy(_read(Path(source)) if isinstance(source, str | Path) else source)
    for setting in overrides:
        override(tree, setting, Recipe)
    try:
        recipe = Recipe.model_validate(_without_sections(tree))
        filled = _fill(recipe.model_dump(), recipe.model_dump())
        return Recipe.model_validate(filled)
    except ValidationError as error:
        raise recipe_error(error, "", known_keys(Recipe, error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such recipe", where=path, remedy="'weakseg recipes' lists those that come along") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(getattr(error, "problem", None) or type(error).__name__)
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"is not YAML ({reason}{line})", where=path, remedy="Correct the file") from error
    if not isinstance(tree, dict):
        raise UserError("holds no settings", where=path, remedy="A recipe is a YAML mapping with 'name' and 'data'")
    return tree


def _copy(value: Any) -> Any:  # noqa: ANN401
    """The same settings, what a YAML anchor shares written twice, so that an override of one leaves the other alone."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _without_sections(tree: dict[str, Any]) -> dict[str, Any]:
    """``none`` leaves a section out."""
    return {**tree, **{key: None for key in OPTIONAL if tree.get(key) == LEFT_OUT}}


def _fill(value: Any, root: dict[str, Any], within: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    """Replace ``${section.key}`` in every string, also where what it refers to refers to something else."""
    if isinstance(value, dict):
        return {key: _fill(item, root, within) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, root, within) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{([\w.]+)\}", lambda match: _look_up(match[1], root, within), value)


def _look_up(key: str, root: dict[str, Any], within: tuple[str, ...]) -> str:
    if key in within:
        raise UserError(f"'${{{key}}}' refers to itself", where="recipe", remedy="Write its value")
    try:
        found = reduce(lambda tree, part: tree[part], key.split("."), root)
    except (KeyError, TypeError) as error:
        near = near_matches(key, _dotted(root))
        remedy = near if near.startswith("Did") else near_matches(key, root)
        raise UserError(f"'${{{key}}}' refers to nothing", where="recipe", remedy=remedy) from error
    return str(_fill(found, root, (*within, key)))


def _dotted(tree: dict[str, Any]) -> list[str]:
    """All keys, those within sections as ``section.key``."""
    below = [f"{key}.{name}" for key, value in tree.items() if isinstance(value, dict) for name in _dotted(value)]
    return [*tree, *below]
