"""The dense CRF: sheet vectors, slow definitions beside the fast ones, and properties."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.scenes import scene
from weakseg.ops import crf
from weakseg.ops.crf import CRF_PARAMETERS, CRFParameters, dense_crf, dense_crf_labels, unary_from_probabilities
from weakseg.ops.crf.exact import DenseKernel, SeparableKernel
from weakseg.ops.crf.potentials import pixel_features

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "dense_crf.json").read_text())["cases"]
ENGINES = ["exact", "lattice"]
UNTOUCHED = CRFParameters(0, 3, 3, 80, 13, 10)


def cases(function):
    return [case for case in CASES if case["function"] == function]


def settings_of(case):
    chosen = case["parameters"]
    gaussian, bilateral = chosen["gaussian"], chosen["bilateral"]
    widths = {"gaussian_sxy": gaussian["sxy"], "bilateral_sxy": bilateral["sxy"], "bilateral_srgb": bilateral["srgb"]}
    weights = {"gaussian_compat": gaussian["compat"], "bilateral_compat": bilateral["compat"]}
    return CRFParameters(chosen["iterations"], **widths, **weights)


def gaussian_matrix(features):
    """All kernel values, by the definition: (N, D) to (N, N)."""
    difference = features[:, None] - features[None]
    return np.exp(-0.5 * (difference**2).sum(-1))


def features_of(image, sxy, srgb=None):
    """One pixel after the other: (H, W, 3) to (H * W, 2 or 5)."""
    rows = []
    for y, x in np.ndindex(*image.shape[:2]):
        colour = [] if srgb is None else [float(c) / srgb for c in image[y, x]]
        rows.append([x / sxy, y / sxy, *colour])
    return np.array(rows)


def slow_crf(image, unary, chosen):
    """The sheet, section 2, in double precision with dense matrices."""
    image, unary = np.asarray(image), np.asarray(unary, dtype=np.float64)
    energies = unary.reshape(len(unary), -1).T
    matrix = np.zeros((len(energies), len(energies)))
    for features, compat in (
        (features_of(image, chosen.gaussian_sxy), chosen.gaussian_compat),
        (features_of(image, chosen.bilateral_sxy, chosen.bilateral_srgb), chosen.bilateral_compat),
    ):
        kernel = gaussian_matrix(features)
        mass = kernel.sum(1) + 1e-20
        matrix += compat * kernel / np.sqrt(mass[:, None] * mass[None])
    beliefs = slow_softmax(-energies)
    for _ in range(chosen.iterations):
        beliefs = slow_softmax(-energies + matrix @ beliefs)
    return beliefs.T.reshape(unary.shape)


def slow_softmax(scores):
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


class TestVectors:
    @pytest.mark.parametrize("case", cases("mean_field"))
    def test_probabilities(self, case):
        image = np.array(case["inputs"]["image_HWC_uint8"], dtype=np.uint8)
        beliefs = dense_crf(image, np.array(case["inputs"]["prob_LHW"]), settings_of(case))
        np.testing.assert_allclose(beliefs, case["expected"]["Q"], rtol=0, atol=case["tolerance"])

    @pytest.mark.parametrize("case", cases("mean_field_from_labels"))
    def test_labels(self, case):
        image = np.array(case["inputs"]["image_HWC_uint8"], dtype=np.uint8)
        labels, chosen = np.array(case["inputs"]["labels"]), case["parameters"]
        beliefs = dense_crf_labels(image, labels, chosen["n_labels"], settings_of(case), chosen["gt_prob"])
        np.testing.assert_allclose(beliefs, case["expected"]["Q"], rtol=0, atol=case["tolerance"])
        np.testing.assert_array_equal(beliefs.argmax(0), case["expected"]["argmax"])

    @pytest.mark.parametrize("case", cases("unary_from_labels"))
    def test_unary(self, case):
        labels, expected = torch.tensor(case["inputs"]["labels"]), case["expected"]
        energies = crf.unary_from_labels(labels, case["parameters"]["n_labels"], case["parameters"]["gt_prob"])
        given_label = labels == torch.arange(case["parameters"]["n_labels"])[:, None, None]
        assert energies[given_label].numpy() == pytest.approx(expected["energy_match"], abs=case["tolerance"])
        assert energies[~given_label].numpy() == pytest.approx(expected["energy_other"], abs=case["tolerance"])

    @pytest.mark.parametrize("case", cases("mean_field"))
    def test_lattice_is_as_near_as_the_sheet_says(self, case):
        image = np.array(case["inputs"]["image_HWC_uint8"], dtype=np.uint8)
        beliefs = dense_crf(image, np.array(case["inputs"]["prob_LHW"]), settings_of(case), engine="lattice")
        expected = np.array(case["expected"]["Q"])
        np.testing.assert_allclose(beliefs, expected, rtol=0, atol=5e-3)
        np.testing.assert_array_equal(beliefs.argmax(0), expected.argmax(0))


class TestExact:
    @pytest.mark.parametrize("name", list(CRF_PARAMETERS))
    def test_agrees_with_the_slow_definition(self, name):
        image, probabilities = scene(12, 16, labels=3)
        expected = slow_crf(image, unary_from_probabilities(probabilities), CRF_PARAMETERS[name])
        beliefs = dense_crf(image, probabilities, name, engine="exact")
        np.testing.assert_allclose(beliefs, expected, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("labels", [2, 3])
    @pytest.mark.parametrize("name", ["A", "B", "D"])
    def test_low_contrast_loses_no_precision(self, name, labels):
        """Where nothing is sure and colours hardly differ, every update enlarges what rounding does to the last."""
        generator = np.random.default_rng(labels)
        chosen = CRF_PARAMETERS[name]
        for _ in range(8):
            image = np.clip(generator.integers(0, 256, 3) + generator.integers(-12, 13, (6, 8, 3)), 0, 255)
            image, probabilities = image.astype(np.uint8), 0.5 + 0.1 * (generator.random((labels, 6, 8)) - 0.5)
            unary = -np.log(np.clip(probabilities, 1e-5, 1))
            expected = slow_crf(image, unary, chosen)
            beliefs = dense_crf(image, probabilities, chosen, engine="exact")
            np.testing.assert_allclose(beliefs, expected, rtol=0, atol=1e-5)
            from_unary = crf.dense_crf_from_unary(image, unary, chosen, engine="exact")
            np.testing.assert_allclose(from_unary, expected, rtol=0, atol=1e-5)
            given = generator.integers(0, labels, (6, 8))
            chances = np.where(given == np.arange(labels)[:, None, None], 0.7, 0.3 / (labels - 1))
            beliefs = dense_crf_labels(image, given, labels, chosen, engine="exact")
            np.testing.assert_allclose(beliefs, slow_crf(image, -np.log(chances), chosen), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("tile", [1, 100, 48 * 47, 48 * 48])
    def test_tiles_make_no_difference(self, tile):
        image, probabilities = scene(6, 8, labels=2)
        features, values = pixel_features(image, 20, 13), probabilities.flatten(1).T
        torch.testing.assert_close(DenseKernel(features, tile=tile)(values), DenseKernel(features)(values))

    def test_separable_kernel_is_the_dense_one(self):
        image, probabilities = scene(9, 17, labels=20)
        values = probabilities.flatten(1).T.contiguous()
        separable = SeparableKernel(9, 17, 3, torch.device("cpu"), torch.float32)
        torch.testing.assert_close(separable(values), DenseKernel(pixel_features(image, 3))(values))

    def test_large_distances_do_not_lose_precision(self):
        features = torch.tensor([[0.0, 850.0], [1.0, 850.0]])
        assert DenseKernel(features)(torch.eye(2))[0, 1].item() == pytest.approx(math.exp(-0.5), rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
class TestProperties:
    @settings(max_examples=15, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        labels=st.integers(1, 4),
        name=st.sampled_from(list(CRF_PARAMETERS)),
        seed=st.integers(0, 2**31),
    )
    def test_beliefs_are_distributions(self, engine, size, labels, name, seed):
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 256, (*size, 3), generator=generator).byte()
        beliefs = dense_crf(image, torch.rand(labels, *size, generator=generator), name, engine=engine)
        assert beliefs.shape == (labels, *size)
        assert beliefs.min() >= 0
        torch.testing.assert_close(beliefs.sum(0), torch.ones(size))

    @settings(max_examples=10, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 12), st.integers(1, 12)), axis=st.sampled_from([0, 1]), seed=st.integers(0, 99)
    )
    def test_flipping_the_input_flips_the_output(self, engine, size, axis, seed):
        image, probabilities = scene(*size, labels=2, seed=seed)
        beliefs = dense_crf(image, probabilities, "C", engine=engine)
        flipped = dense_crf(image.flip(axis), probabilities.flip(axis + 1), "C", engine=engine)
        error = 1e-5 if engine == "exact" else 0.1  # a lattice has a place
        torch.testing.assert_close(flipped.flip(axis + 1), beliefs, rtol=0, atol=error)

    @settings(max_examples=10, deadline=None)
    @given(order=st.permutations(range(4)), seed=st.integers(0, 1000))
    def test_permuting_labels_permutes_beliefs(self, engine, order, seed):
        image, probabilities = scene(6, 7, labels=4, seed=seed)
        beliefs = dense_crf(image, probabilities, "C", engine=engine)
        permuted = dense_crf(image, probabilities[order], "C", engine=engine)
        torch.testing.assert_close(permuted, beliefs[order], rtol=0, atol=1e-5)

    def test_without_weights_or_iterations_nothing_moves(self, engine):
        image, probabilities = scene(6, 7, labels=3)
        for chosen in (UNTOUCHED, CRFParameters(5, 3, 0, 80, 13, 0)):
            beliefs = dense_crf(image, 0.5 * probabilities, chosen, engine=engine)
            torch.testing.assert_close(beliefs, probabilities)

    @pytest.mark.parametrize("left_out", ["gaussian_compat", "bilateral_compat"])
    def test_one_kernel_may_be_left_out(self, engine, left_out):
        image, probabilities = scene(6, 8, labels=2)
        chosen = replace(CRF_PARAMETERS["C"], **{left_out: 0})
        expected = slow_crf(image, unary_from_probabilities(probabilities), chosen)
        beliefs = dense_crf(image, probabilities, chosen, engine=engine)
        np.testing.assert_allclose(beliefs, expected, rtol=0, atol=1e-5 if engine == "exact" else 0.05)

    def test_labels_equally_probable_stay_so(self, engine):
        image, _ = scene(7, 5, labels=1)
        beliefs = crf.dense_crf_from_unary(image, torch.full((4, 7, 5), 2.5), "A", engine=engine)
        torch.testing.assert_close(beliefs, torch.full((4, 7, 5), 0.25), rtol=0, atol=1e-6)

    def test_weight_never_helps_a_lone_label(self, engine):
        labels = torch.zeros(9, 9, dtype=torch.long)
        labels[4, 4] = 1
        image = torch.full((9, 9, 3), 120, dtype=torch.uint8)
        chosen = [CRFParameters(5, 3, weight, 80, 13, weight) for weight in (0, 0.3, 1, 3, 10)]
        lone = [dense_crf_labels(image, labels, 2, each, engine=engine)[1, 4, 4].item() for each in chosen]
        assert all(later < earlier for earlier, later in itertools.pairwise(lone))

    def test_a_colour_edge_stops_the_label(self, engine):
        image = torch.full((12, 12, 3), 200, dtype=torch.uint8)
        image[:, 6:] = torch.tensor([20, 40, 90], dtype=torch.uint8)
        probabilities = torch.full((2, 12, 12), 0.5)
        probabilities[:, :, 0] = torch.tensor([[0.9], [0.1]])
        probabilities[:, :, 11] = torch.tensor([[0.1], [0.9]])
        beliefs = dense_crf(image, probabilities, "A", engine=engine)
        assert (beliefs.argmax(0) == (torch.arange(12) >= 6)).all()

    @pytest.mark.parametrize("size", [(1, 1), (1, 13), (13, 1), (2, 3)])
    @pytest.mark.parametrize("labels", [1, 2])
    def test_smallest_images(self, engine, size, labels):
        image, probabilities = scene(*size, labels=labels)
        beliefs = dense_crf(image, probabilities, "A", engine=engine)
        expected = slow_crf(image, unary_from_probabilities(probabilities), CRF_PARAMETERS["A"])
        np.testing.assert_allclose(beliefs, expected, rtol=0, atol=1e-5 if engine == "exact" else 0.05)

    def test_same_bits_for_any_number_of_threads(self, engine):
        size = (31, 29) if engine == "exact" else (190, 211)
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(100, 140, (*size, 3), generator=generator).byte()
        probabilities = torch.rand(21, *size, generator=generator)
        threads = torch.get_num_threads()
        try:
            found = []
            for count in (1, 2, 3, 8):
                torch.set_num_threads(count)
                found.append(dense_crf(image, probabilities, "C", engine=engine))
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(found[0], other) for other in found[1:])
