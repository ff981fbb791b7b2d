"""Average precision, held to a slow one and to cases done by hand."""

import math

import pytest
import torch

from weakseg.data.detections import Detections
from weakseg.data.instances import Instances
from weakseg.data.objects import Objects
from weakseg.metrics.coco_ap import NAMES, CocoAP, coco_ap

SIZE = (12, 20)
RECALLS = [place / 100 for place in range(101)]
OVERLAPS = [0.5 + 0.05 * place for place in range(10)]


def rectangle(x1, y1, x2, y2, size=SIZE):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def stacked(masks, size=SIZE):
    return torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)


def found(*objects, size=SIZE):
    """Objects are (class, score, mask)."""
    classes, scores, masks = zip(*objects, strict=True) if objects else ((), (), ())
    return Detections(torch.tensor(classes, dtype=torch.int64), torch.tensor(scores), stacked(masks, size))


def truth(*objects, size=SIZE):
    """Objects are (class, mask) or (class, mask, is a crowd)."""
    masks = stacked([each[1] for each in objects], size)
    return Objects(
        classes=torch.tensor([each[0] for each in objects], dtype=torch.int64),
        masks=masks,
        crowd=torch.tensor([len(each) > 2 and each[2] for each in objects], dtype=torch.bool),
        areas=masks.sum((1, 2)).double(),
    )


def values(*images, classes=1, areas=(1024, 9216)):
    """Means over classes, by name."""
    seen, known = zip(*images, strict=True)
    metric = CocoAP(classes, areas)
    for place, (one, other) in enumerate(zip(seen, known, strict=True)):
        metric.update(f"image {place}", one, other)
    torch.testing.assert_close(metric.per_class(), coco_ap(seen, known, classes, areas), rtol=0, atol=0, equal_nan=True)
    return metric.values()


def slow_overlap(mine, true, crowd):
    both = (mine & true).sum().item()
    either = mine.sum().item() if crowd else (mine | true).sum().item()
    return both / either if either else 0.0


def slow_matches(seen, known, category, overlap, low, high):
    """(score, right, counts) of each object found in an image, and the number of true objects that count."""
    true = [i for i in range(len(known.classes)) if known.classes[i] == category]
    left_out = {i for i in true if known.crowd[i] or not low <= known.areas[i] <= high}
    mine = sorted((i for i in range(len(seen)) if seen.classes[i] == category), key=lambda i: -seen.scores[i].item())
    taken, rows = set(), []
    for i in mine:
        free = [j for j in true if j not in taken or known.crowd[j]]
        by_overlap = {j: slow_overlap(seen.masks[i], known.masks[j], known.crowd[j]) for j in free}
        for candidates in (set(free) - left_out, set(free) & left_out):
            enough = [j for j in candidates if by_overlap[j] >= min(overlap, 1 - 1e-10)]
            if enough:
                best = max(enough, key=lambda j: by_overlap[j])
                taken.add(best)
                rows.append((seen.scores[i].item(), best not in left_out, best not in left_out))
                break
        else:
            rows.append((seen.scores[i].item(), False, low <= seen.masks[i].sum().item() <= high))
    return rows, len(true) - len(left_out)


def slow_average(images, category, overlaps=OVERLAPS, low=0, high=10**10):
    """Averages of the best precision at each recall or beyond."""
    averages = []
    for overlap in overlaps:
        per_image = [slow_matches(*image, category, overlap, low, high) for image in images]
        count = sum(number for _, number in per_image)
        if count == 0:
            return math.nan
        rows = [row for rows, _ in per_image for row in rows]
        rows = sorted((row for row in rows if row[2]), key=lambda row: -row[0])
        points, right = [], 0
        for place, row in enumerate(rows, start=1):
            right += row[1]
            points.append((right / count, right / place))
        best = [max((precision for reached, precision in points if reached >= r), default=0.0) for r in RECALLS]
        averages.append(sum(best) / len(best))
    return sum(averages) / len(averages)


A, B = rectangle(0, 0, 8, 10), rectangle(10, 2, 18, 12)


def test_perfect():
    result = values((found((0, 0.9, A), (0, 0.8, B)), truth((0, A), (0, B))))
    assert result["ap"] == result["ap50"] == result["ap75"] == pytest.approx(1)


def test_names_are_those_of_the_metrics_file():
    result = values((found((0, 0.9, A)), truth((0, A))))
    assert tuple(result) == NAMES == ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def test_one_of_two_found():
    """Precision 1 up to recall 0.5: 51 of 101 recalls."""
    assert values((found((0, 0.9, A)), truth((0, A), (0, B))))["ap"] == pytest.approx(51 / 101)


def test_a_wrong_one_before_a_right_one():
    images = (found((0, 0.9, B), (0, 0.8, A)), truth((0, A)))
    assert values(images)["ap"] == pytest.approx(0.5)


def test_a_wrong_one_after_the_right_one_costs_nothing():
    assert values((found((0, 0.9, A), (0, 0.8, B)), truth((0, A))))["ap"] == pytest.approx(1)


def test_overlap_decides():
    """IoU 0.6: right at 0.50, 0.55 and 0.60 of ten overlaps."""
    half = rectangle(0, 0, 8, 6)
    result = values((found((0, 0.9, half)), truth((0, A))))
    assert result["ap"] == pytest.approx(0.3)
    assert result["ap50"] == pytest.approx(1)
    assert result["ap75"] == 0


def test_a_true_object_is_found_once():
    twice = found((0, 0.9, A), (0, 0.8, A), (0, 0.7, B))
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert values((twice, truth((0, A), (0, B))))["ap"] == pytest.approx(expected)


def test_a_crowd_counts_neither_for_nor_against():
    crowd = rectangle(8, 0, 20, 12)
    inside = [(0, 0.95, rectangle(9, 1, 13, 5)), (0, 0.94, rectangle(14, 1, 19, 5))]
    known = truth((0, A), (0, crowd, True))
    assert values((found((0, 0.9, A), *inside), known))["ap"] == pytest.approx(1)
    assert values((found((0, 0.9, A), *inside), truth((0, A))))["ap"] == pytest.approx(1 / 3)
    assert math.isnan(values((found(*inside), truth((0, crowd, True))))["ap"])


def test_ranges_of_areas():
    small, large = rectangle(0, 0, 3, 3), rectangle(4, 0, 19, 11)
    areas = (10, 100)
    result = values((found((0, 0.9, small), (0, 0.8, A)), truth((0, small), (0, A), (0, large))), areas=areas)
    assert result["ap_small"] == pytest.approx(1)
    assert result["ap_medium"] == pytest.approx(1)
    assert result["ap_large"] == 0
    assert result["ap"] == pytest.approx(67 / 101)


def test_areas_are_those_of_the_truth():
    known = truth((0, A))
    known = Objects(known.classes, known.masks, known.crowd, torch.tensor([5.0]))
    result = values((found((0, 0.9, A)), known), areas=(10, 100))
    assert result["ap_small"] == pytest.approx(1)
    assert math.isnan(result["ap_medium"])


def test_classes_without_truth_are_left_out():
    seen, known = found((0, 0.9, A), (2, 0.9, B)), truth((0, A), (1, B))
    table = coco_ap([seen], [known], 4)
    assert table[:, 0].tolist()[:2] == [pytest.approx(1), 0]
    assert table[2:].isnan().all()
    assert values((seen, known), classes=4)["ap"] == pytest.approx(0.5)


def test_nothing_at_all():
    assert all(math.isnan(value) for value in CocoAP(2).values().values())
    assert all(math.isnan(value) for value in values((found(), truth()), (found((0, 1.0, A)), truth())).values())
    assert values((found(), truth((0, A))))["ap"] == 0
    assert values((found(), truth((0, A))), (found(), truth()))["ap"] == 0


def random_image(generator):
    def rectangles(count):
        ends = torch.rand(count, 2, 2, generator=generator).sort(1).values * torch.tensor([20.0, 12.0])
        low, high = ends[:, 0].floor().int().tolist(), ends[:, 1].ceil().int().tolist()
        return [rectangle(x1, y1, x2, y2) for (x1, y1), (x2, y2) in zip(low, high, strict=True)]

    def draw(high, count):
        return torch.randint(0, high, (count,), generator=generator).tolist()

    known = rectangles(int(torch.randint(0, 5, (), generator=generator)))
    known = [(kind, mask, not crowd) for kind, mask, crowd in zip(draw(2, 9), known, draw(5, 9), strict=False)]
    moved = [mask.roll(shift, 1) for (_, mask, _), shift in zip(known, draw(3, 9), strict=False)]
    seen = [*moved, *rectangles(2)]
    scores = torch.rand(len(seen), generator=generator).tolist()
    return found(*zip(draw(2, len(seen)), scores, seen, strict=True)), truth(*known)


@pytest.mark.parametrize("seed", range(30))
def test_random_cases_agree_with_the_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    images, areas = [random_image(generator) for _ in range(4)], (40, 90)
    table = coco_ap(*zip(*images, strict=True), 2, areas)
    for category in range(2):
        expected = [
            slow_average(images, category),
            slow_average(images, category, [0.5]),
            slow_average(images, category, [0.75]),
            slow_average(images, category, high=40),
            slow_average(images, category, low=40, high=90),
            slow_average(images, category, low=90),
        ]
        assert table[category].tolist() == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_order_and_processes_do_not_matter():
    generator = torch.Generator().manual_seed(3)
    images = {f"{place}": random_image(generator) for place in range(5)}
    whole, one, other = CocoAP(2), CocoAP(2), CocoAP(2)
    for name, image in images.items():
        whole.update(name, *image)
    for place, name in enumerate(reversed(images)):
        (one if place % 2 else other).update(name, *images[name])
    one.merge([other])
    torch.testing.assert_close(one.per_class(), whole.per_class(), rtol=0, atol=0, equal_nan=True)
    assert one.value() == one.values()["ap"]
    with pytest.raises(ValueError, match="different classes"):
        one.merge([CocoAP(3)])


def test_pseudo_objects_are_measured_alike():
    seen = Instances(torch.tensor([0]), torch.ones(1), A[None])
    assert values((seen, truth((0, A))))["ap"] == pytest.approx(1)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="true masks"):
        CocoAP(1).update("a", found((0, 1.0, A)), truth(size=(3, 4)))


def test_nothing_is_printed(capsys):
    values((found((0, 0.9, A)), truth((0, A))))
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
