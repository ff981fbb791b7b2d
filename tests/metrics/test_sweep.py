"""The sweep against one arg-max per threshold."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.metrics import ConfusionMatrix, SeedSweep, confusion_matrix
from weakseg.ops.maps import constant_background, label_map

K = 5
GRID = (0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9)


def random_image(seed, dtype=torch.float32):
    """Scores that often lie exactly on a threshold, or tie with each other."""
    generator = torch.Generator().manual_seed(seed)
    height, width, present = (int(torch.randint(low, 6, (1,), generator=generator)) for low in (1, 1, 0))
    present = min(present, K - 1)
    steps = torch.tensor([*GRID, 0.05, 0.28, 1.0], dtype=dtype)
    scores = steps[torch.randint(0, len(steps), (present, height, width), generator=generator)]
    classes = torch.randperm(K - 1, generator=generator)[:present].sort().values
    values = torch.tensor([0, 1, 2, 3, 4, 255], dtype=torch.uint8)
    truth = values[torch.randint(0, 6, (height, width), generator=generator)]
    return scores, classes, truth


def naive(images, threshold):
    total = torch.zeros(K, K + 1, dtype=torch.int64)
    for scores, classes, truth in images:
        total += confusion_matrix(label_map(scores, constant_background(scores, threshold), classes), truth, K)
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@settings(deadline=None, max_examples=25)
@given(seeds=st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_every_threshold_matches_its_own_argmax(dtype, seeds):
    images = [random_image(seed, dtype) for seed in seeds]
    sweep, parts = SeedSweep(K, GRID), [SeedSweep(K, GRID), SeedSweep(K, GRID)]
    for index, image in enumerate(images):
        sweep.update(*image)
        parts[index % 2].update(*image)
    for threshold, confusion in zip(GRID, sweep.confusions(), strict=True):
        assert torch.equal(confusion, naive(images, threshold)), threshold
    parts[0].merge(parts[1:])
    assert torch.equal(parts[0].counts, sweep.counts)


def test_a_score_equal_to_the_threshold_is_background():
    sweep = SeedSweep(2, (0.3, 0.5))
    sweep.update(torch.tensor([[[0.3, 0.5, 0.6]]]), torch.tensor([0]), torch.ones(1, 3, dtype=torch.uint8))
    assert sweep.confusions()[:, 1, 0].tolist() == [1, 2]


def test_image_without_classes_is_background_at_every_threshold():
    sweep = SeedSweep(3)
    truth = torch.tensor([[0, 1, 255]], dtype=torch.uint8)
    sweep.update(torch.zeros(0, 1, 3), torch.zeros(0, dtype=torch.int64), truth)
    assert (sweep.confusions() == torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])).all()


def test_best_is_the_highest_of_the_curve_and_the_lowest_threshold_of_a_tie():
    sweep = SeedSweep(2)
    sweep.update(torch.tensor([[[0.2, 0.305, 0.8]]]), torch.tensor([0]), torch.tensor([[0, 0, 1]]))
    curve = dict(sweep.curve())
    assert len(curve) == 100
    threshold, confusion = sweep.best()
    assert threshold == 0.31
    assert isinstance(confusion, ConfusionMatrix)
    assert confusion.miou() == curve[0.31] == curve[0.79] == 1
    assert curve[0.3] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert curve[0.8] == pytest.approx((2 / 3 + 0) / 2)


def test_conventions_reach_the_mean():
    sweep = SeedSweep(4, (0.5,))
    sweep.update(torch.tensor([[[0.6, 0.1]]]), torch.tensor([0]), torch.tensor([[1, 0]]))
    assert sweep.curve() == [(0.5, 1)]
    assert sweep.curve("eps")[0][1] == pytest.approx(0.5)
    assert sweep.best("eps")[1].counts.sum() == 2


def test_empty_sweep_has_no_numbers():
    assert all(math.isnan(miou) for _, miou in SeedSweep(3).curve())
    assert SeedSweep(3).best()[0] == 0


def test_errors():
    for thresholds in ((), (0.2, 0.2), (0.3, 0.1)):
        with pytest.raises(ValueError, match="have to ascend"):
            SeedSweep(2, thresholds)
    sweep = SeedSweep(3)
    scores, truth = torch.zeros(1, 2, 2), torch.zeros(2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="scores"):
        sweep.update(scores, torch.tensor([0]), truth[:1])
    with pytest.raises(ValueError, match="classes has a value outside 0 to 1"):
        sweep.update(scores, torch.tensor([2]), truth)
    with pytest.raises(ValueError, match="truth has a value outside 0 to 2"):
        sweep.update(scores, torch.tensor([0]), truth + 3)
    with pytest.raises(ValueError, match="different classes or thresholds"):
        sweep.merge([SeedSweep(3, (0.5,))])
    assert sweep.counts.sum() == 0
