"""What an evaluation has found, and the tables it is written to."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from weakseg.metrics import ProtocolResult
from weakseg.metrics.coco_ap import NAMES

T = TypeVar("T")


@dataclass
class Measured:
    """Results by protocol, and the score of every image.

    Attributes:
        results: By protocol name.
        images: Protocol name -> id -> mean IoU over the classes that truth or prediction of that image has.
        filling: Protocol name -> class -> the share of each of its boxes that it fills.
        precision: Protocol name -> class -> its average precisions, in the order of ``NAMES`` of ``coco_ap``.
        overlaps: Protocol name -> id -> how far found and true objects of that image coincide, see ``image_overlap``.
        curve: (threshold, mIoU) of the seeds on the training split.
        threshold: The best of them.
    """

    results: dict[str, ProtocolResult] = field(default_factory=dict)
    images: dict[str, dict[str, float]] = field(default_factory=dict)
    filling: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    precision: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    overlaps: dict[str, dict[str, float]] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)
    threshold: float | None = None

    def to_csv(self) -> str:
        """``protocol,image,miou``, one line per image."""
        return _table(("protocol", "image", "miou"), ((*key, [score]) for key, score in _pairs(self.images)))

    def filling_csv(self) -> str:
        """``protocol,class,rate``, one line per box."""
        rows = ((*key, [rate]) for key, rates in _pairs(self.filling) for rate in rates)
        return _table(("protocol", "class", "rate"), rows)

    def objects_csv(self) -> str:
        """``protocol,image,overlap``, one line per image."""
        return _table(("protocol", "image", "overlap"), ((*key, [value]) for key, value in _pairs(self.overlaps)))

    def precision_csv(self) -> str:
        """``protocol,class,ap,ap50,...``, one line per class; empty where no true object counts."""
        return _table(("protocol", "class", *NAMES), ((*key, values) for key, values in _pairs(self.precision)))


def _pairs(nested: Mapping[str, Mapping[str, T]]) -> Iterator[tuple[tuple[str, str], T]]:
    return (((outer, inner), value) for outer, values in nested.items() for inner, value in values.items())


def _table(columns: Sequence[str], rows: Iterable[tuple[str, str, Sequence[float]]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for one, other, values in rows:
        writer.writerow([one, other, *("" if math.isnan(value) else f"{value:.6f}" for value in values)])
    return text.getvalue()
