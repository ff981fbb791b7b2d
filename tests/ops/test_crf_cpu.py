"""The compiled loops for CPUs against the tensors of other devices, and against pydensecrf where that is installed."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.scenes import scene
from weakseg.ops.crf import CRF_PARAMETERS, CRFParameters, cpu, dense_crf, dense_crf_from_unary
from weakseg.ops.crf.potentials import infer
from weakseg.ops.crf.prior import Prior

NO_KERNELS = replace(CRF_PARAMETERS["A"], gaussian_compat=0, bilateral_compat=0)


def on_tensors(image, probabilities, params, stop=None):
    """What another device than a CPU would do."""
    return infer([image], [Prior.of_probabilities(probabilities)], params, exact=False, stop=stop)[0]


def noise(height, width, labels, seed=0):
    """A picture where nearly each pixel has corners of its own."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (height, width, 3), generator=generator).byte()
    return image, torch.rand(labels, height, width, generator=generator)


def by_threads(given, *counts, **options):
    image, probabilities = given
    prior = probabilities.flatten(1).numpy()
    copies = np.ones(len(prior), np.float32)
    return [cpu.infer(image.numpy(), prior, copies, threads=count, **options) for count in counts]


@pytest.mark.parametrize("name", list(CRF_PARAMETERS))
@pytest.mark.parametrize("labels", [2, 4, 5, 8, 11, 21])
def test_agrees_with_tensors(name, labels):
    image, probabilities = scene(43, 61, labels=labels, seed=labels)
    beliefs = dense_crf(image, probabilities, name, engine="lattice")
    expected = on_tensors(image, probabilities, CRF_PARAMETERS[name])
    torch.testing.assert_close(beliefs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 257), (70, 80)])
def test_agrees_with_tensors_on_noise(size):
    image, probabilities = noise(*size, labels=3)
    params = replace(CRF_PARAMETERS["D"], iterations=3)
    beliefs = dense_crf(image, probabilities, params, engine="lattice")
    torch.testing.assert_close(beliefs, on_tensors(image, probabilities, params), rtol=0, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    labels=st.integers(1, 10),
    widths=st.tuples(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0.1, 300)),
    compat=st.tuples(st.sampled_from([0, 0.5, 10]), st.sampled_from([0, 0.5, 10])),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_tensors_for_any_kernels(size, labels, widths, compat, seed):
    image, probabilities = noise(*size, labels=labels, seed=seed)
    params = CRFParameters(2, widths[0], compat[0], widths[1], widths[2], compat[1])
    beliefs = dense_crf(image, probabilities, params, engine="lattice")
    torch.testing.assert_close(beliefs, on_tensors(image, probabilities, params), rtol=0, atol=1e-4)


@pytest.mark.parametrize("stop", [None, 0.0, 0.01])
@pytest.mark.parametrize("labels", [3, 12])
def test_same_bits_for_any_number_of_threads(labels, stop, monkeypatch):
    monkeypatch.setattr(cpu, "PIXELS_A_THREAD", 50)
    given_scene = scene(80, 90, labels=labels)
    found = by_threads(given_scene, 1, 2, 3, 16, params=CRF_PARAMETERS["D"], stop=stop)
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("stop", [0.0, 0.02])
def test_stops_where_tensors_do(stop):
    image, probabilities = scene(40, 50, labels=3)
    params = replace(CRF_PARAMETERS["D"], iterations=30)
    beliefs = dense_crf(image, probabilities, params, engine="lattice", stop=stop)
    torch.testing.assert_close(beliefs, on_tensors(image, probabilities, params, stop), rtol=0, atol=2e-5)


def test_without_kernels_the_prior_stays():
    image, probabilities = noise(5, 40, labels=6)
    beliefs = dense_crf(image, probabilities, NO_KERNELS, engine="lattice")
    torch.testing.assert_close(beliefs, probabilities / probabilities.sum(0))


def test_corners_without_enough_keys_go_to_the_general_lattice(monkeypatch):
    image, probabilities = scene(20, 30, labels=2)
    expected = on_tensors(image, probabilities, CRF_PARAMETERS["A"])
    cpu.position_lattice.cache_clear()
    monkeypatch.setattr(cpu, "KEYS", 1)
    assert torch.equal(dense_crf(image, probabilities, "A", engine="lattice"), expected)
    with pytest.raises(OverflowError, match="too many corners"):
        cpu.key_places(20, 30, (3, 3))


def test_lattices_of_large_images_are_not_kept(monkeypatch):
    image, probabilities = scene(20, 30, labels=2)
    expected = dense_crf(image, probabilities, "A", engine="lattice")
    cpu.position_lattice.cache_clear()
    monkeypatch.setattr(cpu, "KEPT_PIXELS", 20 * 30 - 1)
    assert torch.equal(dense_crf(image, probabilities, "A", engine="lattice"), expected)
    assert cpu.position_lattice.cache_info().currsize == 0


def test_numba_is_imported_on_first_use():
    code = "import sys, weakseg.ops; assert 'numba' not in sys.modules; import weakseg.ops.crf.cpu"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestPydensecrf:
    @pytest.mark.parametrize("name", ["A", "B", "D"])
    @pytest.mark.parametrize("labels", [2, 3, 21])
    def test_agrees(self, name, labels):
        reference = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf is not installed")
        image, probabilities = scene(90, 120, labels=labels)
        params = CRF_PARAMETERS[name]
        unary = -probabilities.log()
        crf = reference.DenseCRF2D(120, 90, labels)
        crf.setUnaryEnergy(unary.flatten(1).numpy())
        crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
        crf.addPairwiseBilateral(
            sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=image.numpy(), compat=params.bilateral_compat
        )
        expected = torch.tensor(np.array(crf.inference(params.iterations))).view(labels, 90, 120)
        beliefs = dense_crf_from_unary(image, unary, name, engine="lattice")
        assert (beliefs - expected).abs().mean() < 1e-6
        assert (beliefs.argmax(0) == expected.argmax(0)).float().mean() > 0.9999
