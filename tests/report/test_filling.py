"""How the page shows filling rates."""

import math
import re
from dataclasses import replace

import pytest

from tests.report.test_report import NASTY, Reader, minimal, rich
from weakseg.report import charts, render

RATES = {"cat": [0.4, 0.5, 0.9, 0.5, 0.5], NASTY: [], "a class with a name that is too long": [1.0, 0.25]}


def test_the_page_has_the_section_only_with_boxes():
    page = render(replace(rich(), filling={"mask@train": RATES}))
    read = Reader(page)
    assert 'id="filling"' in page
    assert "50.0\N{NO-BREAK SPACE}%" in read.text
    assert "n/a" in read.text
    assert NASTY not in page
    for data in (minimal(), replace(minimal(), filling={"mask@train": {"cat": []}})):
        assert 'id="filling"' not in render(data)
    assert "not recorded" in render(replace(minimal(), filling={"mask@train": RATES}))


def test_a_shape_for_each_class_that_has_boxes():
    drawn = str(charts.violins(RATES))
    assert drawn.count("<polygon") == 1
    assert drawn.count('class="violin"') == drawn.count('class="median"') == 2
    assert "cat: 5, median 50.0 %" in drawn
    assert "too long: 2, median 62.5 %" in drawn
    assert "nan" not in drawn
    assert "a class with a…" in drawn


def test_a_few_values_are_dots_where_they_are():
    drawn = str(charts.violins({"cat": [0.2, 0.7]}))
    places = [float(x) for x in re.findall('<circle cx="([^"]+)"', drawn)]
    start, end = (float(x) for x in re.search('class="axis" x1="([^"]+)" y1="[^"]+" x2="([^"]+)"', drawn).groups())
    assert [(place - start) / (end - start) for place in places] == pytest.approx([0.2, 0.7], abs=1e-3)
    assert "<polygon" not in drawn


def test_the_widest_place_of_a_shape_is_where_most_values_are():
    drawn = str(charts.violins({"cat": [0.2, 0.7, 0.7, 0.7, 0.7]}))
    points = [tuple(map(float, point.split(","))) for point in re.search('points="([^"]+)"', drawn)[1].split()]
    highest = min(points, key=lambda point: point[1])
    start, end = points[0][0], max(x for x, _ in points)
    assert (highest[0] - start) / (end - start) == pytest.approx(0.7, abs=0.02)
    heights = [y for _, y in points]
    assert min(heights) + max(heights) == pytest.approx(2 * (charts._ROW * 0.5 + 8), abs=0.2)


@pytest.mark.parametrize("values", [[0.0], [1.0], [0.0, 1.0, 0.5], [0.3] * 50])
def test_a_density_has_area_one(values):
    places = [index / 2000 for index in range(2001)]
    heights = charts.density(values, places)
    assert sum(heights) / 2000 == pytest.approx(1, abs=0.02)
    assert min(heights) >= 0


def test_a_density_is_a_mean_of_gaussians():
    values, places = [0.11, 0.5, 0.97, 0.97], [0.0, 0.1, 0.48, 0.9, 1.0]

    def gaussian(distance):
        return math.exp(-0.5 * (distance / 0.04) ** 2) / (0.04 * math.sqrt(2 * math.pi))

    expected = [sum(gaussian(place - at) for v in values for at in (v, -v, 2 - v)) / 4 for place in places]
    assert charts.density(values, places) == pytest.approx(expected, rel=0.05)


def test_many_boxes_take_no_longer_than_few():
    assert charts.density([0.3, 0.8] * 50_000, [0.3, 0.5]) == pytest.approx(charts.density([0.3, 0.8], [0.3, 0.5]))
