"""Which of the files that boxes may come from a folder of images has."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from weakseg.data.boxes import BoxSource, CsvBoxes, XmlBoxes, visible
from weakseg.data.coco_boxes import CocoBoxes
from weakseg.data.findings import Finding, Severity
from weakseg.data.layout import LABELS, Layout
from weakseg.data.yolo import YoloBoxes, label_files
from weakseg.errors import UserError

TABLE, XML = "boxes.csv", "annotations"
COCO = ("annotations.json", "instances.json")


def find_boxes(root: Path, classes: Sequence[str] | None = None, layout: Layout | None = None) -> BoxSource | None:
    """The boxes of a folder, ``None`` if it has none.

    Args:
        root: The folder.
        classes: Names of the classes, if they are known; for files that have numbers only.
        layout: How its images are arranged, if not in one folder.

    Raises:
        UserError: If there is more than one place they could come from, or it cannot be read.
    """
    found: dict[Path, Callable[[], BoxSource]] = {}
    if (root / TABLE).is_file():
        found[root / TABLE] = lambda: CsvBoxes(root / TABLE)
    bases = ("",) if layout is None else layout.bases
    labels = next((root / base / LABELS for base in bases if label_files(root / base / LABELS)), None)
    if labels is not None:
        found[labels] = lambda: YoloBoxes(root, classes, layout)
    for name in COCO:
        if (root / name).is_file():
            found[root / name] = lambda table=root / name: CocoBoxes(table)  # type: ignore[misc]
    if (root / XML).is_dir() and any(visible(root / XML, ".xml")):
        found[root / XML] = lambda: XmlBoxes(root / XML)
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"has boxes in {names}", where=root, remedy="Keep one of them, so that it is clear which count")
    return next(iter(found.values()))() if found else None


def box_findings(source: BoxSource, ids: Iterable[str], images: Mapping[str, object]) -> Iterator[Finding]:
    """Boxes that belong to no image.

    Args:
        source: Where boxes come from.
        ids: Images of the split, of which an audit reports by itself if they are not there.
        images: Images that are there.
    """
    known = {*ids, *images}
    yield from (Finding.of(error, "boxes-image") for error in source.stray)
    for image_id, where in source.mentions().items():
        if image_id not in known:
            what = f"has boxes of the image '{image_id}', which is not there"
            remedy = _other_name(image_id, known) or "Put the image there, or remove its boxes"
            yield Finding(Severity.ERROR, "boxes-image", where, what, remedy)


def _other_name(image_id: str, known: Collection[str]) -> str | None:
    """Many tools write the folder of the images, too: what to do about that, if it is so."""
    parts = image_id.split("/")
    names = ("/".join(parts[first:]) for first in range(1, len(parts)))
    name = next((name for name in names if name in known), None)
    return name and f"Call it '{name}': images are named by where they are below the folder of images"
