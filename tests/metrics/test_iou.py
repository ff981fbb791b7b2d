"""IoU against counting pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.metrics import METRICS, ConfusionMatrix, confusion_matrix, iou_per_class, left_out, mean_iou

K = 4


def slow_confusion(prediction, truth):
    counts = [[0] * (K + 1) for _ in range(K)]
    for predicted, true in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if true != 255:
            counts[true][predicted if 0 <= predicted < K else K] += 1
    return counts


def slow_iou(prediction, truth, c):
    """Intersection and union as sets of pixels."""
    pixels = [(p, t) for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True) if t != 255]
    union = sum(c in pair for pair in pixels)
    return sum(pair == (c, c) for pair in pixels) / union if union else math.nan


@st.composite
def images(draw):
    height, width = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    values = st.sampled_from([0, 1, 2, 3, 255])
    pixels = st.lists(values, min_size=height * width, max_size=height * width)
    shape = (height, width)
    return [torch.tensor(draw(pixels), dtype=torch.uint8).reshape(shape) for _ in range(2)]


@settings(deadline=None)
@given(images())
def test_counts_and_iou_match_the_slow_definition(pair):
    prediction, truth = pair
    confusion = confusion_matrix(prediction, truth, K)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == slow_confusion(prediction, truth)
    expected = [slow_iou(prediction, truth, c) for c in range(K)]
    torch.testing.assert_close(iou_per_class(confusion), torch.tensor(expected).double(), equal_nan=True)


@given(images())
def test_iou_is_in_unit_range_and_one_for_identical_masks(pair):
    prediction, truth = pair
    iou = iou_per_class(confusion_matrix(prediction, truth, K), "eps")
    assert ((iou >= 0) & (iou <= 1)).all()
    if (truth != 255).any():
        assert mean_iou(confusion_matrix(truth, truth, K)) == 1


def test_only_the_truth_may_abstain():
    truth = torch.tensor([0, 1, 1, 255])
    prediction = torch.tensor([0, 1, 255, 1])
    confusion = confusion_matrix(prediction, truth, num_classes=2)
    assert confusion.tolist() == [[1, 0, 0], [0, 1, 1]]
    assert iou_per_class(confusion).tolist() == [1.0, 0.5]  # the predicted 255 is a miss, in the truth's total


@pytest.mark.parametrize("value", [2, 200, 255, -1])
def test_a_prediction_outside_the_classes_is_a_miss(value):
    confusion = confusion_matrix(torch.tensor([value, 1]), torch.tensor([1, 1]), num_classes=2)
    assert confusion.tolist() == [[0, 0, 0], [0, 1, 1]]


def test_conventions_for_a_class_that_the_truth_lacks():
    # class 1: in both; class 2: predicted only; class 3: nowhere
    confusion = confusion_matrix(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1]), num_classes=4)
    nan = math.nan
    for absent, expected in {"skip": [1, 0.5, 0, nan], "eps": [1, 0.5, 0, 0], "gt-only": [1, 0.5, nan, nan]}.items():
        iou = iou_per_class(confusion, absent)
        torch.testing.assert_close(iou, torch.tensor(expected).double(), equal_nan=True)
    assert mean_iou(confusion) == pytest.approx(1.5 / 3)
    assert mean_iou(confusion, "eps") == pytest.approx(1.5 / 4)
    assert mean_iou(confusion, "gt-only") == pytest.approx(1.5 / 2)
    assert [left_out(confusion, absent) for absent in ("skip", "eps", "gt-only")] == [[3], [], [2, 3]]


def test_set_is_summed_not_averaged():
    total = ConfusionMatrix(2)
    total.update(torch.tensor([0, 1]), torch.tensor([0, 1]))  # 1 and 1
    total.update(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))  # 3/4 and 0
    assert total.iou().tolist() == [4 / 5, 1 / 2]
    assert total.miou() == total.value() == pytest.approx(0.65)


@given(st.lists(images(), max_size=4))
def test_processes_add_up(pairs):
    alone, parts = ConfusionMatrix(K), [ConfusionMatrix(K) for _ in range(2)]
    for index, (prediction, truth) in enumerate(pairs):
        alone.update(prediction, truth)
        parts[index % 2].update(prediction, truth)
    added = parts[0] + parts[1]
    parts[0].merge(parts[1:])
    restored = ConfusionMatrix(K, counts=alone.counts)
    assert torch.equal(alone.counts, parts[0].counts)
    assert torch.equal(alone.counts, added.counts)
    assert torch.equal(alone.counts, restored.counts)


def test_numpy_and_torch_of_any_integer_type_give_the_same():
    truth, prediction = np.array([[0, 1], [2, 255]], dtype=np.uint8), np.array([[0, 1], [1, 1]], dtype=np.int32)
    expected = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(truth), 3)
    assert torch.equal(confusion_matrix(prediction, truth, 3), expected)
    assert torch.equal(confusion_matrix(prediction.astype(np.uint16), truth, 3), expected)
    assert torch.equal(confusion_matrix(prediction, torch.from_numpy(truth).long(), 3), expected)


def test_square_matrices_are_accepted():
    assert iou_per_class(torch.tensor([[3, 1], [0, 4]])).tolist() == [3 / 4, 4 / 5]


def test_nothing_counted_has_no_mean():
    assert math.isnan(ConfusionMatrix(3).miou())
    assert ConfusionMatrix(3).left_out() == [0, 1, 2]


def test_counts_do_not_overflow_32_bits():
    total = ConfusionMatrix(2, counts=torch.full((2, 3), 2**40))
    total.update(torch.tensor([0]), torch.tensor([0]))
    assert total.counts[0, 0].item() == 2**40 + 1


def test_errors():
    zeros = torch.zeros(2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_matrix(zeros, zeros[:1], 2)
    with pytest.raises(ValueError, match="the truth has value 7, known are 0 to 1 and 255"):
        confusion_matrix(zeros, zeros + 7, 2)
    with pytest.raises(ValueError, match="labels are integers"):
        confusion_matrix(zeros.float(), zeros, 2)
    with pytest.raises(ValueError, match="unknown convention 'nan'"):
        iou_per_class(torch.zeros(2, 2), "nan")
    with pytest.raises(ValueError, match="expected \\(2, 3\\)"):
        ConfusionMatrix(2, counts=zeros)
    with pytest.raises(ValueError, match="different classes"):
        ConfusionMatrix(2).merge([ConfusionMatrix(3)])


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_one_for_identical_masks_and_adds_up(name):
    mask = torch.zeros(9, 12, dtype=torch.uint8)
    mask[2:6, 3:9] = 1
    parts = [METRICS[name](3) for _ in range(2)]
    for part in parts:
        part.update(mask, mask)
    parts[0].merge(parts[1:])
    assert parts[0].value() == 1
