"""Colours of objects on the report page: a found one has that of the true one that it is measured against."""

from tests.metrics.test_coco_ap import found, rectangle
from tests.metrics.test_coco_ap import truth as true
from weakseg.pipeline import reporting


def test_colours_tell_the_pairs_of_the_overlap():
    square, crowd = rectangle(2, 2, 6, 6), rectangle(0, 0, 20, 12)
    truth = true((0, crowd, True), (0, square))
    seen = found((0, 0.0, square), (0, 0.4, square), (0, 0.9, crowd), (0, 0.8, rectangle(2, 2, 6, 5)))
    drawn = reporting.outlined(seen, truth, ["cat"], least=0.0)
    assert [one.colour for one in drawn] == [2, 3, 1]
    assert [one.colour for one in reporting.outlined(seen, truth, ["cat"], least=0.5)] == [2, 1]
    assert [one.colour for one in reporting.outlined(seen, None, ["cat"], least=0.5)] == [None, None]
