"""Soft overlap, precision and recall against loops over pixels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.metrics.localization import SoftLocalization, map_similarity, soft_scores, soft_sums

NAN = math.nan


def ratio(part, whole):
    return part / whole if whole else NAN


def slow_scores(map_, truth, known):
    """Overlap, precision and recall of one map, pixel by pixel."""
    pixels = [(m, g) for m, g, k in zip(*(x.flatten().tolist() for x in (map_, truth, known)), strict=True) if k]
    both, either = sum(min(pixel) for pixel in pixels), sum(max(pixel) for pixel in pixels)
    return ratio(both, either), ratio(both, sum(m for m, _ in pixels)), ratio(both, sum(g for _, g in pixels))


def drawn(seed, classes=3, height=4, width=7):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand((classes, height, width), generator=generator)
    maps[torch.rand(classes, generator=generator) < 0.4] = 0
    truth = torch.randint(0, classes + 1, (height, width), generator=generator)
    truth[torch.rand((height, width), generator=generator) < 0.2] = 255
    return maps, truth


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_scores_match_loops_over_pixels(seed):
    maps, labels = drawn(seed)
    truth, known = labels == torch.arange(1, 4)[:, None, None], labels != 255
    found = torch.stack(list(soft_scores(soft_sums(maps, truth, known))), dim=1).tolist()
    for one, map_, mask in zip(found, maps, truth, strict=True):
        assert one == pytest.approx(slow_scores(map_, mask.float(), known), nan_ok=True)


def test_scores_by_hand():
    maps = torch.tensor([[[1.0, 0.5], [0.0, 0.25]]])
    truth = torch.tensor([[[1, 1], [0, 0]]])
    overlap, precision, recall = soft_scores(soft_sums(maps, truth))
    assert (overlap.item(), precision.item(), recall.item()) == pytest.approx((1.5 / 2.25, 1.5 / 1.75, 1.5 / 2))
    known = torch.tensor([[True, True], [True, False]])
    assert [score.item() for score in soft_scores(soft_sums(maps, truth, known))] == pytest.approx([0.75, 1, 0.75])


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_overlap_is_below_precision_and_recall_and_all_are_one_for_the_truth(seed):
    maps, labels = drawn(seed)
    truth = labels == torch.arange(1, 4)[:, None, None]
    overlap, precision, recall = soft_scores(soft_sums(maps, truth))
    for other in (precision, recall):
        defined = ~(overlap.isnan() | other.isnan())
        assert (overlap[defined] <= other[defined] + 1e-12).all()
    for score in soft_scores(soft_sums(truth.float(), truth)):
        assert (score[truth.any(2).any(1)] == 1).all()


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_the_union_of_two_maps_finds_what_each_of_them_finds(seed):
    (first, labels), (second, _) = drawn(seed), drawn(seed + 1)
    truth = labels == torch.arange(1, 4)[:, None, None]
    union = soft_scores(soft_sums(torch.maximum(first, second), truth)).recall.nan_to_num()
    for part in (first, second):
        assert (union >= soft_scores(soft_sums(part, truth)).recall.nan_to_num() - 1e-12).all()


def test_similarity_of_maps():
    first = torch.tensor([[[0.8, 0.2]], [[0.0, 0.0]], [[0.5, 0.5]]])
    second = torch.tensor([[[0.4, 0.4]], [[0.0, 0.0]], [[0.5, 0.5]]])
    assert map_similarity(first, second).tolist() == pytest.approx([0.6 / 1.2, NAN, 1], nan_ok=True)
    assert torch.equal(map_similarity(second, first).nan_to_num(), map_similarity(first, second).nan_to_num())
    assert map_similarity(first, second, torch.tensor([[True, False]])).tolist()[0] == pytest.approx(0.5)


def test_half_precision_is_summed_in_full():
    maps = torch.full((1, 300, 400), 0.3, dtype=torch.bfloat16)
    truth = torch.zeros(300, 400, dtype=torch.uint8)
    truth[:, :200] = 1
    metric = SoftLocalization(2)
    metric.update(maps, torch.tensor([0]), truth)
    held = maps[0, 0, 0].item()
    expected = {"soft_overlap": held * 0.5 / (0.5 + held * 0.5), "soft_precision": 0.5, "soft_recall": held}
    assert metric.values() == pytest.approx(expected, rel=1e-9)


def slow_set(images, num_classes, pooling):
    """``images`` are (maps by class index, truth); a class without a map has an empty one."""
    rows = []
    for c in range(num_classes - 1):
        scores, sums = [], [0.0] * 4
        for maps, truth in images:
            map_, mask = maps.get(c, torch.zeros(truth.shape)), (truth == c + 1).float()
            known = truth != 255
            if mask[known].any():
                scores.append(slow_scores(map_, mask, known))
            both, either = torch.minimum(map_, mask)[known].sum(), torch.maximum(map_, mask)[known].sum()
            parts = (both, either, map_[known].sum(), mask[known].sum())
            sums = [total + float(part) for total, part in zip(sums, parts, strict=True)]
        if pooling == "set":
            rows.append([ratio(sums[0], whole) for whole in sums[1:]])
        else:
            columns = [[score[i] for score in scores if not math.isnan(score[i])] for i in range(3)]
            rows.append([ratio(sum(column), len(column)) for column in columns])
    columns = [[row[i] for row in rows if not math.isnan(row[i])] for i in range(3)]
    means = [ratio(sum(column), len(column)) for column in columns]
    return rows, dict(zip(("soft_overlap", "soft_precision", "soft_recall"), means, strict=True))


@pytest.mark.parametrize("pooling", ["images", "set"])
@settings(deadline=None, max_examples=40)
@given(seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
def test_a_set_matches_its_definition(pooling, seeds):
    total, parts = SoftLocalization(4, pooling), [SoftLocalization(4, pooling), SoftLocalization(4, pooling)]
    images = []
    for index, seed in enumerate(seeds):
        maps, truth = drawn(seed, height=3, width=5)
        present = torch.nonzero(maps.flatten(1).any(1))[:, 0]  # the others have no map
        truth[truth == 1 + seed % 3] = 0
        images.append(({int(c): maps[c] for c in present}, truth))
        for metric in (total, parts[index % 2]):
            metric.update(maps[present], present, truth.to(torch.uint8))
    rows, means = slow_set(images, 4, pooling)
    for found, row in zip(total.per_class().tolist(), rows, strict=True):
        assert found == pytest.approx(row, nan_ok=True)
    assert total.values() == pytest.approx(means, nan_ok=True)
    assert total.value() == pytest.approx(means["soft_overlap"], nan_ok=True)
    parts[0].merge(parts[1:])
    assert parts[0].values() == pytest.approx(total.values(), nan_ok=True)


def test_the_two_ways_to_put_images_together_differ():
    truth, full = torch.ones(1, 4, dtype=torch.uint8), torch.ones(1, 1, 4)
    by_image, by_set = SoftLocalization(2), SoftLocalization(2, "set")
    for metric in (by_image, by_set):
        metric.update(full, torch.tensor([0]), truth)
        metric.update(full, torch.tensor([0]), truth * 0)  # a map of what is not there
        metric.update(full[:0], torch.tensor([], dtype=torch.int64), truth)  # no map of what is there
    assert by_image.values() == {"soft_overlap": 0.5, "soft_precision": 1.0, "soft_recall": 0.5}
    assert by_set.values() == pytest.approx({"soft_overlap": 4 / 12, "soft_precision": 0.5, "soft_recall": 0.5})


def test_nothing_known_has_no_value():
    metric = SoftLocalization(3)
    assert all(math.isnan(value) for value in metric.values().values())
    metric.update(torch.ones(1, 2, 3), torch.tensor([1]), torch.full((2, 3), 255, dtype=torch.uint8))
    assert all(math.isnan(value) for value in metric.values().values())


def test_errors():
    with pytest.raises(ValueError, match="do not belong together"):
        soft_sums(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="do not belong together"):
        soft_sums(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="unknown pooling 'class'"):
        SoftLocalization(3, "class")
    with pytest.raises(ValueError, match="2 classes"):
        SoftLocalization(3).update(torch.zeros(1, 2, 2), torch.tensor([0, 1]), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="poolings cannot be added"):
        SoftLocalization(3).merge([SoftLocalization(3, "set")])
