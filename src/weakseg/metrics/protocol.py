"""Numbers with the name of the protocol that made them.

Results in this field disagree because of protocol, not code: seeds or refined masks or a trained network, on which
images, with the image's true tags or not, with a threshold chosen on the truth or not. No number leaves without saying
so.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from weakseg.errors import UserError
from weakseg.metrics.boundary import BoundaryRule
from weakseg.metrics.iou import Absent, ConfusionMatrix
from weakseg.registry import near_matches

STAGES = ("boxes", "seed", "mask", "second", "agreed", "instances", "seg", "detect")
LABELS = ("tags", "boxes", "saliency", "masks")
RATIO = "confusion_"
NO_NETWORK = "none"

_SPLIT = re.compile(r"[a-z0-9][a-z0-9_-]*")


def protocol_name(stage: str, split: str) -> str:
    """``stage@split``, such as ``seed@train``, ``mask@train`` or ``seg@val``.

    Args:
        stage: "boxes", classified by the localiser; "seed", masks straight from localisation maps; "mask", refined
            ones; "second", others made beside them; "agreed", the pixels on which both agree, the others left out;
            "instances", objects told apart in them; "seg", of the segmentation network; "detect", objects that a
            detector finds.
        split: Name of the list of images.

    Raises:
        UserError: If there is no such stage, or the split's name has other characters than a-z, 0-9, - and _.
    """
    if stage not in STAGES:
        raise UserError(f"unknown stage '{stage}'", remedy=near_matches(stage, STAGES))
    if not _SPLIT.fullmatch(split):
        raise UserError(f"'{split}' cannot name a split", remedy="Use lower-case letters, digits, - and _")
    return f"{stage}@{split}"


def supervision_name(labels: Iterable[str]) -> str:
    """Kinds of weak labels in their usual order, such as ``tags+saliency``.

    Raises:
        UserError: If there is none, or an unknown one.
    """
    kinds = set(labels)
    for kind in sorted(kinds - set(LABELS)):
        raise UserError(f"unknown supervision '{kind}'", remedy=near_matches(kind, LABELS))
    if not kinds:
        raise UserError("a result without supervision", remedy="Name at least one of " + ", ".join(LABELS))
    return "+".join(kind for kind in LABELS if kind in kinds)


@dataclass(frozen=True)
class Flags:
    """Help that a number had.

    Attributes:
        gt_tags: The image's true tags chose the classes.
        crf: A conditional random field refined the result.
        multi_scale: The image was seen at several scales.
        threshold_swept: The background threshold, if it was chosen by the truth; ``None`` if it was fixed before.
    """

    gt_tags: bool = False
    crf: bool = False
    multi_scale: bool = False
    threshold_swept: float | None = None

    def words(self) -> list[str]:
        """What is on, in words."""
        words = {"gt tags": self.gt_tags, "crf": self.crf, "multi-scale": self.multi_scale}
        swept = [] if self.threshold_swept is None else [f"threshold swept {self.threshold_swept:g}"]
        return [word for word, on in words.items() if on] + swept


@dataclass(frozen=True)
class ProtocolResult:
    """What one protocol measured; mIoU and IoU are fractions.

    Attributes:
        miou: Mean over the classes that are not absent; ``None`` if all are, or IoU was not measured.
        per_class: IoU by class name, background first; ``None`` for a class left out. Empty where objects were measured
            instead.
        flags: Help it had.
        supervision: Kinds of labels that training saw, see ``supervision_name``.
        images: How many were measured.
        backbone: Name of the network's backbone, ``"none"`` if none was trained for it.
        weights: Where its initial weights come from.
        absent: Names of the classes left out of the mean.
        saliency: Where the saliency maps came from that training saw, such as ``folder:SaliencyMaps`` or the name of
            what made them; ``None`` if it saw none.
        boundary: By which rule boundaries were compared, ``None`` if they were not.
        others: Other metrics by name, such as ``contour_f``; all but ``confusion_...`` are fractions.

    Raises:
        UserError: If ``supervision`` is not in the form of ``supervision_name``.
        ValueError: If another metric has a reserved name.
    """

    miou: float | None
    per_class: dict[str, float | None]
    flags: Flags
    supervision: str
    images: int
    backbone: str
    weights: str
    absent: tuple[str, ...] = ()
    saliency: str | None = None
    boundary: BoundaryRule | None = None
    others: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = supervision_name(self.supervision.split("+"))
        if named != self.supervision:
            raise UserError(f"supervision '{self.supervision}'", remedy=f"Write it as '{named}'")
        if reserved := sorted(set(self.others) & _RESERVED):
            raise ValueError(f"a metric cannot be called '{reserved[0]}'")

    @classmethod
    def from_confusion(
        cls,
        confusion: ConfusionMatrix,
        class_names: Sequence[str],
        *,
        flags: Flags,
        supervision: str,
        images: int,
        backbone: str,
        weights: str,
        others: Mapping[str, float] | None = None,
        absent: Absent = "skip",
        saliency: str | None = None,
        boundary: BoundaryRule | None = None,
    ) -> "ProtocolResult":
        """Result of a confusion matrix over a whole set.

        Args:
            confusion: Of K classes.
            class_names: K names, background first.
            flags: See the class, as for the following.
            supervision: Kinds of labels that training saw.
            images: How many were measured.
            backbone: Name of the network's backbone.
            weights: Where its initial weights come from.
            others: Other metrics by name.
            absent: Which classes are left out, see ``iou_per_class``.
            saliency: See the class.
            boundary: See the class.

        Raises:
            ValueError: If the number of names is not K.
        """
        return cls(
            miou=_finite(confusion.miou(absent)),
            per_class=dict(zip(class_names, map(_finite, confusion.iou(absent).tolist()), strict=True)),
            flags=flags,
            supervision=supervision,
            images=images,
            backbone=backbone,
            weights=weights,
            absent=tuple(class_names[value] for value in confusion.left_out(absent)),
            saliency=saliency,
            boundary=boundary,
            others={name: _finite(value) for name, value in (others or {}).items()},
        )

    @classmethod
    def of_objects(
        cls,
        values: Mapping[str, float],
        *,
        flags: Flags,
        supervision: str,
        images: int,
        backbone: str,
        weights: str,
        absent: Iterable[str] = (),
        saliency: str | None = None,
    ) -> "ProtocolResult":
        """Result about objects, boxes or how masks fill them, which have no IoU of classes.

        Args:
            values: Metrics by name.
            flags: See the class, as for the following.
            supervision: Kinds of labels that training saw.
            images: How many were measured.
            backbone: Name of the network's backbone.
            weights: Where its initial weights come from.
            absent: Names of the classes left out of the means.
            saliency: See the class.
        """
        return cls(
            miou=None,
            per_class={},
            flags=flags,
            supervision=supervision,
            images=images,
            backbone=backbone,
            weights=weights,
            absent=tuple(absent),
            saliency=saliency,
            others={name: _finite(value) for name, value in values.items()},
        )

    def with_others(self, values: Mapping[str, float]) -> "ProtocolResult":
        """The same and further metrics by name."""
        return replace(self, others=self.others | {name: _finite(value) for name, value in values.items()})

    def to_json(self) -> dict[str, Any]:
        """Value of the protocol's key in ``metrics.json``."""
        found = asdict(self)
        others, boundary = found.pop("others"), None if self.boundary is None else self.boundary._asdict()
        return {"miou": found.pop("miou"), **others, **found, "absent": list(self.absent), "boundary": boundary}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ProtocolResult":
        """Read what ``to_json`` gave."""
        known = {name: value[name] for name in _RESERVED - {"absent", "saliency", "boundary"}}
        known |= {"flags": Flags(**value["flags"]), "absent": tuple(value.get("absent", ()))}
        rule = value.get("boundary")
        known |= {"saliency": value.get("saliency"), "boundary": None if rule is None else BoundaryRule(**rule)}
        return cls(**known, others={name: other for name, other in value.items() if name not in _RESERVED})


_RESERVED = {name for name in ProtocolResult.__dataclass_fields__ if name != "others"}


def number(metric: str, value: float | None) -> str:
    """A metric's value for people: a share in per cent, a ratio (``confusion_...``) as it is.

    Args:
        metric: Its name in ``metrics.json``.
        value: Its value there, ``None`` if it has none.
    """
    if value is None:
        return "undefined"
    return f"{value:.2f}" if metric.startswith(RATIO) else f"{100 * value:.1f} %"


def protocol_line(name: str, result: ProtocolResult) -> str:
    """One line for people: the number, and everything that one has to know to compare it.

    Args:
        name: See ``protocol_name``.
        result: What it measured.

    Returns:
        Such as ``seed@train 43.5 % mIoU (tags, 219 images, gt tags, multi-scale, threshold swept 0.45;
        mobilenetv2_100, weights imagenet)``.
    """
    numbers = [f"{number('miou', result.miou)} mIoU"] if result.per_class else []
    numbers += [f"{number(metric, value)} {metric}" for metric, value in result.others.items()]
    help_had = result.flags.words() or ["no flags"]
    absent = [f"absent classes left out: {len(result.absent)}"] if result.absent else []
    supervision = result.supervision + (f", saliency from {result.saliency}" if result.saliency else "")
    boundary = [] if result.boundary is None else [f"boundaries {result.boundary.words()}"]
    facts = ", ".join([supervision, f"{result.images} images", *help_had, *boundary, *absent])
    network = "no network" if result.backbone == NO_NETWORK else f"{result.backbone}, weights {result.weights}"
    return f"{name} {', '.join(numbers)} ({facts}; {network})"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
