"""The permutohedral lattice: the filter point by point, and how near its sums are to the exact ones."""

import math

import numpy as np
import pytest
import torch

from tests.ops.scenes import scene
from weakseg.ops.crf import CRF_PARAMETERS, dense_crf, lattice
from weakseg.ops.crf.exact import DenseKernel
from weakseg.ops.crf.lattice import PermutohedralLattice
from weakseg.ops.crf.mean_field import EXACT_PIXELS
from weakseg.ops.crf.potentials import Potential, pixel_features


def slow_lattice_sums(features, values):
    """The lattice filter point by point, with corners in a dictionary."""
    dims = features.shape[1]
    simplices = [slow_simplex(point) for point in features]
    table = {corner: np.zeros(values.shape[1]) for simplex in simplices for corner in simplex}
    for simplex, value in zip(simplices, values, strict=True):
        for corner, weight in simplex.items():
            table[corner] += weight * value
    for axis in range(dims + 1):
        step = np.full(dims + 1, -1)
        step[axis] = dims
        nothing = np.zeros(values.shape[1])
        table = {
            corner: value
            + 0.5 * table.get(tuple(np.array(corner) + step), nothing)
            + 0.5 * table.get(tuple(np.array(corner) - step), nothing)
            for corner, value in table.items()
        }
    return np.array([sum(weight * table[corner] for corner, weight in simplex.items()) for simplex in simplices])


def slow_simplex(point):
    """Corners and weights of the simplex around a point: the nearest corner 0, then one swap after the other."""
    dims = len(point)
    scaled = [value * math.sqrt(2 / 3) * (dims + 1) / math.sqrt((i + 1) * (i + 2)) for i, value in enumerate(point)]
    elevated = np.array([sum(scaled[j:]) - (j * scaled[j - 1] if j else 0) for j in range(dims + 1)])
    base = np.round(elevated / (dims + 1)) * (dims + 1)
    while base.sum() > 0:
        base[np.argmin(elevated - base)] -= dims + 1
    while base.sum() < 0:
        base[np.argmax(elevated - base)] += dims + 1
    offset = elevated - base
    order = np.argsort(-offset, kind="stable")
    falling = offset[order] / (dims + 1)
    simplex = {}
    for k in range(dims + 1):
        corner = base + k
        corner[order[dims + 1 - k :]] -= dims + 1
        weight = 1 - falling[0] + falling[-1] if k == 0 else falling[dims - k] - falling[dims + 1 - k]
        simplex[tuple(corner.astype(int))] = weight
    return simplex


def normalised(kernel, count):
    return Potential.of(kernel, 1.0, count, torch.device("cpu"))


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_agrees_with_the_slow_filter(dims, spread):
    generator = torch.Generator().manual_seed(dims)
    features = torch.randn(80, dims, generator=generator) * spread
    values = torch.rand(80, 3, generator=generator)
    expected = slow_lattice_sums(features.double().numpy(), values.double().numpy())
    np.testing.assert_allclose(PermutohedralLattice(features)(values), expected, rtol=1e-4)


def test_corners_that_cannot_be_numbered_are_told_apart(monkeypatch):
    image, probabilities = scene(8, 9, labels=2)
    features, values = pixel_features(image, 5, 3), probabilities.flatten(1).T.contiguous()
    expected = PermutohedralLattice(features)(values)
    monkeypatch.setattr(lattice, "CODES", 1)
    torch.testing.assert_close(PermutohedralLattice(features)(values), expected, rtol=0, atol=0)


def test_numbers_may_exceed_32_bits():
    features = torch.tensor([[0.0, 0, 0, 0, 0], [900, 900, 900, 900, 900], [900.1, 900, 900, 900, 900]])
    sums = normalised(PermutohedralLattice(features), 3).message(torch.eye(3))
    assert sums[0].tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert sums[1, 2].item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("sxy", "srgb", "mean_error"), [(3, None, 0.02), (80, 13, 0.04), (67, 3, 0.04)])
def test_sums_are_near_the_exact_ones(sxy, srgb, mean_error):
    image, probabilities = scene(24, 32, labels=3)
    features, values = pixel_features(image, sxy, srgb), probabilities.flatten(1).T.contiguous()
    exact = normalised(DenseKernel(features), len(features)).message(values)
    near = normalised(PermutohedralLattice(features), len(features)).message(values)
    assert (near - exact).abs().mean() < mean_error * exact.mean()


@pytest.mark.parametrize("name", list(CRF_PARAMETERS))
def test_beliefs_are_near_the_exact_ones(name):
    image, probabilities = scene(24, 32, labels=3, seed=1)
    exact = dense_crf(image, probabilities, name, engine="exact")
    near = dense_crf(image, probabilities, name, engine="lattice")
    assert (near - exact).abs().mean() < 0.005
    assert (near.argmax(0) == exact.argmax(0)).float().mean() > 0.99


def test_auto_takes_the_lattice_for_large_images_only():
    for width in (EXACT_PIXELS // 16, EXACT_PIXELS // 16 + 1):
        image, probabilities = scene(16, width, labels=2)
        engine = "exact" if width * 16 <= EXACT_PIXELS else "lattice"
        expected = dense_crf(image, probabilities, engine=engine)
        assert torch.equal(dense_crf(image, probabilities), expected)
