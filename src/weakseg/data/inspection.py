"""The part of an audit that looks at one image and its labels."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from weakseg.data.annotations import Box
from weakseg.data.dataset import BOX_SLACK, CONTEXT, Dataset, covering, size_error
from weakseg.data.findings import Finding, Severity
from weakseg.data.images import read_image, read_mask, read_saliency
from weakseg.data.saliency.quality import flaw
from weakseg.data.sample import IGNORE, WeakLabel
from weakseg.errors import UserError

SMALL = 32  # pixels; a network of stride 32 sees one position
ROUNDING = 0.05  # pixels; what is left over of a box at the border where a file has few digits


@dataclass
class Inspection:
    """What is known about one image after all of its files have been read.

    Attributes:
        image_id: Its id.
        findings: What is wrong with it.
        size: Height and width, ``None`` if it cannot be read.
        tags: Tags that are classes, ``None`` if unknown.
        boxes: Number of boxes by class.
        tiny: How many of them have an area but cover no pixel.
        in_mask: Names of the classes in the mask, ``None`` if there is none that can be read.
        contradiction: How tags and mask differ; empty where they agree or one of them is unknown.
        kinds: Which labels it has.
        unfit: Labels that it has but that are left out, such as an empty saliency map.
    """

    image_id: str
    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] | None = None
    tags: frozenset[str] | None = None
    boxes: Counter[str] = field(default_factory=Counter)
    tiny: int = 0
    in_mask: frozenset[str] | None = None
    contradiction: str = ""
    kinds: set[WeakLabel] = field(default_factory=set)
    unfit: set[WeakLabel] = field(default_factory=set)

    @property
    def classes(self) -> frozenset[str] | None:
        """What the image shows, from its tags or else its boxes; ``None`` if neither is known."""
        return self.tags if self.tags is not None or WeakLabel.BOXES not in self.kinds else frozenset(self.boxes)


def inspect(dataset: Dataset, image_id: str, *, untagged: Severity, allow_untagged: bool) -> Inspection:
    """Read an image and all its labels, and note everything that is wrong.

    Args:
        dataset: Where it is.
        image_id: Which one.
        untagged: How bad it is if nothing says what the image shows.
        allow_untagged: Whether an image may be said to show none of the classes.
    """
    seen, paths = Inspection(image_id), dataset.paths(image_id)
    checks = (
        _check_image(seen, dataset, paths),
        _check_saliency(seen, paths),
        _check_mask(seen, dataset, paths),
        _check_context(seen, dataset, paths),
        _check_boxes(seen, dataset, paths),
        _check_tags(seen, dataset, untagged, allow_untagged),
    )
    for check in checks:
        try:
            seen.findings.extend(check)
        except UserError as error:
            seen.findings.append(Finding.of(error, "unreadable"))
    first: dict[tuple[str, str], Finding] = {}
    for finding in seen.findings:  # tags taken from boxes repeat what is wrong with these
        first.setdefault((finding.where, finding.problem), finding)
    seen.findings = list(first.values())
    return seen


def _check_image(seen: Inspection, dataset: Dataset, paths: dict[str, Path]) -> Iterator[Finding]:
    if "image" not in paths:
        what = f"there is no file for the image '{seen.image_id}'"
        remedy = "Put it there, or remove it from the list of images"
        yield Finding(Severity.ERROR, "missing", str(dataset.root), what, remedy)
        return
    image = read_image(paths["image"])
    height, width = seen.size = (image.shape[1], image.shape[2])
    if min(seen.size) < SMALL:
        what = f"is only {width} x {height} pixels"
        remedy = f"Use images of at least {SMALL} x {SMALL} pixels"
        yield Finding(Severity.WARNING, "small", str(paths["image"]), what, remedy)


def _check_saliency(seen: Inspection, paths: dict[str, Path]) -> Iterator[Finding]:
    if (path := paths.get("saliency")) is None:
        return
    saliency = read_saliency(path)
    found = flaw(saliency, seen.size or saliency.shape[-2:])
    (seen.kinds if found is None else seen.unfit).add(WeakLabel.SALIENCY)
    if found is not None:
        yield Finding(Severity.WARNING, found.check, str(path), found.problem, found.remedy)


def _check_mask(seen: Inspection, dataset: Dataset, paths: dict[str, Path]) -> Iterator[Finding]:
    if (path := paths.get("mask")) is None:
        return
    seen.kinds.add(WeakLabel.MASKS)
    mask = dataset.mask(seen.image_id)
    if mask is None:
        return
    yield from _check_size(seen, path, mask.shape)
    values = set(np.unique(mask.numpy()).tolist())
    strange = sorted(values - {*range(len(dataset.classes) + 1), IGNORE})
    seen.in_mask = frozenset(dataset.classes.with_background[value] for value in values - {0, IGNORE, *strange})
    if strange:
        what = f"has the mask values {_listed(map(str, strange))}, which are no class"
        remedy = (
            f"Use 0 for background, 1 to {len(dataset.classes)} for the classes, {IGNORE} for what is to be ignored"
        )
        yield Finding(Severity.ERROR, "mask-values", str(path), what, remedy)


def _check_context(seen: Inspection, dataset: Dataset, paths: dict[str, Path]) -> Iterator[Finding]:
    if (path := paths.get(CONTEXT)) is None:
        return
    context = read_mask(path)
    yield from _check_size(seen, path, context.shape)
    if dataset.context_classes is not None:
        named = len(dataset.context_classes)
        strange = sorted(set(np.unique(context.numpy()).tolist()) - {*range(named), IGNORE})
        if strange:
            what = f"has the context values {_listed(map(str, strange))}, which context_classes.txt does not name"
            remedy = f"Use 0 to {named - 1} for its lines, {IGNORE} for what is unknown; or complete it"
            yield Finding(Severity.ERROR, "context-values", str(path), what, remedy)


def _check_size(seen: Inspection, path: Path, shape: tuple[int, ...]) -> Iterator[Finding]:
    if seen.size is not None and shape[-2:] != seen.size:
        yield Finding.of(size_error(path, shape, seen.size), "size")


def _check_boxes(seen: Inspection, dataset: Dataset, paths: dict[str, Path]) -> Iterator[Finding]:
    annotation = dataset.annotation(seen.image_id)
    if annotation is None:
        return
    seen.kinds.add(WeakLabel.BOXES)
    path = paths["annotation"]
    yield from (Finding.of(flaw, "unreadable") for flaw in annotation.flaws)
    if annotation.size is not None and seen.size not in (None, annotation.size):
        yield Finding.of(_other_size(seen, path, annotation.size), "size")
    for box, count in Counter(annotation.boxes).items():
        where = f"{path}, {box.place}" if box.place else str(path)
        seen.boxes[box.name] += count
        yield from _check_name(dataset, box.name, path, seen.image_id)
        if count > 1:
            what = f"{_described(box)} stands there {count} times"
            yield Finding(Severity.WARNING, "box", where, what, "Remove the repetitions")
        yield from _check_corners(seen, box, where)


def _other_size(seen: Inspection, path: Path, size: tuple[int, int]) -> UserError:
    height, width = seen.size or size
    return UserError(
        f"says that the image '{seen.image_id}' is {size[1]} x {size[0]} pixels, it is {width} x {height}",
        where=path,
        remedy="Put the image there that was annotated (it may have been resized, or be turned by its EXIF data), or "
        "correct size and boxes",
    )


def _check_corners(seen: Inspection, box: Box, where: str) -> Iterator[Finding]:
    x1, y1, x2, y2 = box.corners
    if box.notation.flat_boxes and (x2 == x1 or y2 == y1) and x2 >= x1 and y2 >= y1:
        seen.tiny += 1
        what = f"{_described(box)} has no area, and is left out"
        yield Finding(Severity.WARNING, "tiny-box", where, what, f"Correct or remove it ({box.notation.has_area})")
    elif x2 <= x1 or y2 <= y1:
        remedy = f"Correct or remove it ({box.notation.has_area})"
        yield Finding(Severity.ERROR, "box", where, f"{_described(box)} has no area", remedy)
    elif seen.size is not None:
        height, width = seen.size
        beyond = max(-x1, -y1, x2 - width, y2 - height)
        shown = x2 > 0 and y2 > 0 and x1 < width and y1 < height
        if beyond > ROUNDING:
            how = f"reaches {beyond:.4g} pixels" if shown else "lies"
            what = f"{_described(box)} {how} outside the image of {width} x {height} pixels"
            severity = Severity.WARNING if shown and beyond <= BOX_SLACK else Severity.ERROR
            remedy = f"Correct it: {box.notation.counting}; check that image and boxes belong together"
            yield Finding(severity, "box", where, what, remedy)
        if shown and not covering(torch.tensor([box.corners]), seen.size).all():
            seen.tiny += 1
            what = f"{_described(box)} is so small that no pixel's centre lies in it, and is left out"
            yield Finding(Severity.WARNING, "tiny-box", where, what, "Enlarge or remove it, or use larger images")


def _check_tags(seen: Inspection, dataset: Dataset, untagged: Severity, allow_untagged: bool) -> Iterator[Finding]:
    names, file = dataset.tag_names(seen.image_id), dataset.tags_file(seen.image_id)
    if names is None:
        addition = "a row with its tags to the table" if file.name == "tags.csv" else "its boxes there, or a tags.csv"
        remedy = f"Add {addition if file.is_file() else 'it, or a tags.csv'}"
        yield Finding(untagged, "tags", str(file), f"nothing says what the image '{seen.image_id}' shows", remedy)
        return
    seen.kinds.add(WeakLabel.TAGS)
    if not names and not allow_untagged:
        remedy = "Add its tags, or set data.allow_untagged to true if it shows none of the classes"
        yield Finding(untagged, "tags", str(file), f"image '{seen.image_id}' has no tags", remedy)
    for name in names:
        yield from _check_name(dataset, name, file, seen.image_id)
    seen.tags = frozenset(names) & set(dataset.classes.names)
    if seen.in_mask is not None and seen.tags != seen.in_mask:
        only_tag, only_mask = _listed(sorted(seen.tags - seen.in_mask)), _listed(sorted(seen.in_mask - seen.tags))
        parts = (
            f"tagged but not in the mask: {only_tag}" * bool(only_tag),
            f"in the mask only: {only_mask}" * bool(only_mask),
        )
        seen.contradiction = "; ".join(filter(None, parts))


def _check_name(dataset: Dataset, name: str, where: Path, image_id: str) -> Iterator[Finding]:
    try:
        dataset.classes.index(name)
    except UserError as error:
        what = f"{error.problem} of the image '{image_id}'"
        yield Finding(Severity.ERROR, "class-name", str(where), what, error.remedy or "")


def _described(box: Box) -> str:
    x1, y1, x2, y2 = box.corners
    return f"the box of '{box.name}' ({box.written or f'x1 {x1:g}, y1 {y1:g}, x2 {x2:g}, y2 {y2:g}'})"


def _listed(names: Iterator[str] | list[str], most: int = 8) -> str:
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
