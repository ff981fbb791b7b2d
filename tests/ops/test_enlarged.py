"""Means and norms of enlarged maps against maps that are enlarged."""

import pytest
import torch
from torch.nn.functional import interpolate

from weakseg.ops.enlarged import enlarged, enlarged_norms, interpolation, masked_means

SHAPES = [((5, 7), (19, 23)), ((1, 4), (6, 9)), ((4, 1), (8, 8)), ((1, 1), (3, 5)), ((6, 5), (6, 5)), ((9, 8), (4, 3))]
SHAPES += [((5, 7), (1, 1)), ((3, 3), (1, 12))]


def features_of(size, channels=6, dtype=torch.float64, seed=0):
    return torch.randn(channels, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slow(features, size):
    """Every channel at full size."""
    return interpolate(features[None], size=size, mode="bilinear", align_corners=True)[0]


@pytest.mark.parametrize(("size", "target"), SHAPES)
def test_as_if_enlarged(size, target):
    features = features_of(size)
    full = slow(features, target)
    torch.testing.assert_close(enlarged(features, target), full)
    torch.testing.assert_close(enlarged_norms(features, target), full.norm(dim=0))
    masks = torch.rand(3, *target, generator=torch.Generator().manual_seed(1)) < 0.4
    masks[0] = True
    masks[1] = False
    masks[2, 0, 0] = True
    expected = torch.stack([full[:, mask].mean(1) if mask.any() else torch.zeros(6).double() for mask in masks])
    torch.testing.assert_close(masked_means(features, masks), expected)


@pytest.mark.parametrize(("length", "target"), [(5, 12), (1, 4), (4, 1), (6, 6), (9, 4)])
def test_weights_of_a_row_are_two_neighbours_and_sum_to_one(length, target):
    weights = interpolation(length, target, torch.zeros((), dtype=torch.float64))
    assert weights.shape == (target, length)
    torch.testing.assert_close(weights.sum(1), torch.ones(target, dtype=torch.float64))
    for row in weights:
        places = row.nonzero().flatten().tolist()
        assert len(places) == 1 or (len(places) == 2 and places[1] == places[0] + 1)


def test_single_precision_is_close():
    features = features_of((12, 16), channels=200, dtype=torch.float32).relu()
    full = slow(features.double(), (93, 125))
    torch.testing.assert_close(enlarged_norms(features, (93, 125)).double(), full.norm(dim=0), rtol=1e-5, atol=1e-5)
    mask = torch.rand(1, 93, 125) < 0.5
    torch.testing.assert_close(masked_means(features, mask)[0].double(), full[:, mask[0]].mean(1), rtol=1e-4, atol=1e-5)


def test_opposite_neighbours_cancel_between_them():
    features = torch.tensor([[[1.0, -1.0]], [[2.0, -2.0]]])
    norms = enlarged_norms(features, (1, 3))
    assert norms.tolist()[0] == pytest.approx([5**0.5, 0, 5**0.5])


def test_no_channel_and_no_mask():
    assert torch.equal(enlarged_norms(torch.zeros(0, 3, 4), (6, 8)), torch.zeros(6, 8))
    assert masked_means(torch.zeros(0, 3, 4), torch.ones(2, 6, 8, dtype=torch.bool)).shape == (2, 0)
    assert masked_means(torch.zeros(5, 3, 4), torch.ones(0, 6, 8, dtype=torch.bool)).shape == (0, 5)


def test_gradients_follow():
    features = features_of((3, 4), channels=2).requires_grad_()
    masks = torch.rand(2, 7, 6, generator=torch.Generator().manual_seed(2)) < 0.5
    assert torch.autograd.gradcheck(lambda given: masked_means(given, masks), features)
    assert torch.autograd.gradcheck(lambda given: enlarged_norms(given, (7, 6)), features)
