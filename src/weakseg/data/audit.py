"""Is there anything wrong with the data? Asked before anything is trained on them.

Every image and every label is read once; all that is wrong is collected, each with the file and the remedy.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from weakseg.data.dataset import Dataset
from weakseg.data.findings import Finding, Severity
from weakseg.data.inspection import Inspection, inspect
from weakseg.data.sample import WeakLabel
from weakseg.errors import UserError

EXAMPLES = 5
SOURCE = {
    WeakLabel.TAGS: "Add a tags.csv with a line 'image,tags' and below it a line an image, such as '001,cat dog'",
    WeakLabel.BOXES: "Add PASCAL VOC annotations (Annotations/ID.xml, in a plain folder annotations/ID.xml), or in a "
    "plain folder a boxes.csv, YOLO's labels/ID.txt or COCO's annotations.json",
    WeakLabel.SALIENCY: "Add saliency maps (SaliencyMaps/ID.png, in a plain folder saliency/ID.png), white for "
    "salient, or have them made (data.saliency: background-connectivity)",
    WeakLabel.MASKS: "Add masks (SegmentationClass/ID.png, in a plain folder masks/ID.png)",
}
NOUN = {
    WeakLabel.TAGS: "tags",
    WeakLabel.BOXES: "boxes",
    WeakLabel.SALIENCY: "saliency map",
    WeakLabel.MASKS: "mask",
}


@dataclass(frozen=True)
class ClassRow:
    """How often a class occurs in a split.

    Attributes:
        split: The split.
        name: The class.
        positives: Images that show it.
        negatives: Images known not to show it.
        boxes: Boxes of it.
        images: All images of the split.
    """

    split: str
    name: str
    positives: int
    negatives: int
    boxes: int
    images: int


@dataclass(frozen=True)
class FindingRow:
    """All findings of one check and one severity.

    Attributes:
        severity: Of all of them.
        check: Name of the check.
        count: Number of images concerned.
        where: File of the first.
        problem: The first.
        remedy: Of the first.
        examples: The first few files.
    """

    severity: Severity
    check: str
    count: int
    where: str
    problem: str
    remedy: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """The outcome of an audit.

    Attributes:
        findings: Everything that is wrong, errors first.
        classes: For each split and class, how often it occurs.
        images: Number of images by split.
        tiny: Number of boxes by split that cover no pixel.
    """

    findings: tuple[Finding, ...]
    classes: tuple[ClassRow, ...]
    images: dict[str, int]
    tiny: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What has to be put right first."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What the user should know."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.WARNING)

    def raise_for_errors(self) -> None:
        """Stop if there is an error.

        Raises:
            UserError: The first error, with the number of the others.
        """
        if not self.errors:
            return
        first, *others = self.errors
        problems = "problem" if len(others) == 1 else "problems"
        more = f". And {len(others)} more {problems}: run weakseg audit" if others else ""
        raise UserError(first.problem, where=first.where, remedy=f"{first.remedy}{more}")

    def rows(self) -> list[FindingRow]:
        """Findings of one check together, errors first; for printing."""
        groups: dict[tuple[Severity, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.severity, finding.check), []).append(finding)
        return [_row(group) for group in groups.values()]


def audit(
    datasets: Sequence[Dataset],
    needs: frozenset[WeakLabel],
    progress: Callable[[int, int], None] | None = None,
    *,
    allow_untagged: bool = False,
    learns: bool = True,
) -> AuditReport:
    """Look for everything that is wrong.

    Args:
        datasets: The first is what is trained on, the others are only evaluated: what a classifier cannot do without
            is an error in the first and a warning in the others.
        needs: Labels that training needs.
        progress: Called after each image with the number of images done and of all.
        allow_untagged: Whether images may have an empty row of tags, showing none of the classes.
        learns: Whether classes are learnt from the labels; a classifier that is trained already can do without images
            of some.
    """
    findings: list[Finding] = []
    rows: list[ClassRow] = []
    tiny: dict[str, int] = {}
    total, done = sum(map(len, datasets)), 0
    for dataset in datasets:
        training = dataset is datasets[0]
        required = needs if training else frozenset()
        untagged = Severity.ERROR if WeakLabel.TAGS in required else Severity.WARNING
        seen = []
        findings.extend(dataset.listing_findings())
        for image_id in dataset.ids:
            seen.append(inspect(dataset, image_id, untagged=untagged, allow_untagged=allow_untagged))
            done += 1
            if progress is not None:
                progress(done, total)
        tiny[dataset.split] = sum(one.tiny for one in seen)
        table = class_table(dataset, seen)
        rows.extend(table)
        findings.extend(_missing_kinds(dataset, seen, required))
        findings.extend(finding for one in seen for finding in one.findings)
        findings.extend(_balance(dataset, table, required, training and learns))
        findings.extend(_contradictions(dataset, seen))
    findings.extend(_leaks(datasets))
    findings = list(dict.fromkeys(findings))  # a file about several splits is looked at with each of them
    findings.sort(key=_urgency)
    return AuditReport(tuple(findings), tuple(rows), {dataset.split: len(dataset) for dataset in datasets}, tiny)


def _urgency(finding: Finding) -> tuple[bool, bool]:
    """Errors first, and first of these what cannot be read: labels that are missing may be missing because of it."""
    return finding.severity is not Severity.ERROR, finding.check != "unreadable"


def class_table(dataset: Dataset, seen: Sequence[Inspection]) -> list[ClassRow]:
    """How often each class occurs."""
    shown = [one.classes for one in seen if one.classes is not None]
    positives = Counter(name for names in shown for name in names)
    boxes: Counter[str] = sum((one.boxes for one in seen), Counter())
    return [
        ClassRow(dataset.split, name, positives[name], len(shown) - positives[name], boxes[name], len(seen))
        for name in dataset.classes.names
    ]


def _missing_kinds(dataset: Dataset, seen: Sequence[Inspection], needs: Iterable[WeakLabel]) -> Iterator[Finding]:
    """A label that training needs and that no image has, or that some images lack."""
    for kind in sorted(needs):
        lacking = [one.image_id for one in seen if kind not in one.kinds]
        absent = [one.image_id for one in seen if kind not in one.kinds | one.unfit]
        if lacking and len(lacking) == len(seen):
            usable = f"a usable {NOUN[kind]}" if any(kind in one.unfit for one in seen) else NOUN[kind]
            what = f"no image of {dataset.split} has {usable}, which the method or a refiner needs"
            remedy = f"{SOURCE[kind]}, or choose a method or refiner that does without"
            yield Finding(Severity.ERROR, "label-kind", str(dataset.root), what, remedy, len(lacking))
        elif absent and kind is not WeakLabel.TAGS:
            what = f"{len(absent)} of {len(seen)} images of {dataset.split} have no {NOUN[kind]}, such as '{absent[0]}'"
            yield Finding(Severity.WARNING, "label-kind", str(dataset.root), what, SOURCE[kind], len(absent))


def _balance(
    dataset: Dataset, table: Sequence[ClassRow], needs: frozenset[WeakLabel], training: bool
) -> Iterator[Finding]:
    """Classes that no image or every image shows; where boxes are learnt from, a class without any is left alone."""
    boxed = WeakLabel.BOXES in needs and WeakLabel.TAGS not in needs
    where = str(dataset.tags_file(dataset.ids[0]))
    for row in table:
        if row.positives + row.negatives == 0:
            continue
        if row.positives == 0:
            severity = Severity.ERROR if training and not boxed else Severity.WARNING
            why = "so it cannot be learnt" if training else "so nothing is measured for it"
            remedy = f"Add images of it to {dataset.split}" + (", or remove it from the classes" if training else "")
            yield Finding(severity, "positives", where, f"no image of {row.split} shows '{row.name}', {why}", remedy)
        elif training and row.negatives == 0:
            severity = Severity.ERROR if WeakLabel.TAGS in needs else Severity.WARNING
            what = f"every image of {row.split} shows '{row.name}', so a classifier cannot learn where it is"
            remedy = "Add images without it, with other tags or (data.allow_untagged: true) none, or remove the class"
            yield Finding(severity, "negatives", where, what, remedy)


def _contradictions(dataset: Dataset, seen: Sequence[Inspection]) -> Iterator[Finding]:
    """Tags that differ from what the mask shows, counted over the split."""
    both = [one for one in seen if one.tags is not None and one.in_mask is not None]
    differing = [one for one in both if one.contradiction]
    if differing:
        first = differing[0]
        what = (
            f"tags and masks disagree in {len(differing)} of {len(both)} images of {dataset.split}, "
            f"such as '{first.image_id}' ({first.contradiction})"
        )
        where = str(dataset.tags_file(first.image_id))
        yield Finding(Severity.WARNING, "contradiction", where, what, "Check which is right", len(differing))


def _leaks(datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """Images that are trained on and evaluated."""
    for other in datasets[1:]:
        shared = [image_id for image_id in other.ids if image_id in datasets[0]]
        if shared:
            these = f"{len(shared)} of {len(other)} images of {other.split}"
            what = f"{these} are in {datasets[0].split} too, such as '{shared[0]}'"
            remedy = "Take them out of one of the lists: results on images that were trained on say little"
            yield Finding(Severity.WARNING, "leak", str(other.root), what, remedy, len(shared))


def _row(group: Sequence[Finding]) -> FindingRow:
    first, examples = group[0], tuple(dict.fromkeys(finding.where for finding in group))[:EXAMPLES]
    count = sum(finding.count for finding in group)
    return FindingRow(first.severity, first.check, count, first.where, first.problem, first.remedy, examples)
