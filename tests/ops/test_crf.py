"""The dense CRF: sheet vectors, slow definitions beside the fast ones, properties, and what it says to wrong input."""

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
from weakseg.ops.crf.mean_field import pixel_features

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
        np.testing.assert_allclose(beliefs, expected, rtol=0, atol=2e-5)

    @pytest.mark.parametrize("tile", [1, 100, 48 * 47, 48 * 48])
    def test_tiles_make_no_difference(self, tile):
        image, probabilities = scene(6, 8, labels=2)
        features, values = pixel_features(image, 20, 13), probabilities.flatten(1).T
        torch.testing.assert_close(DenseKernel(features, tile=tile)(values), DenseKernel(features)(values))

    def test_separable_kernel_is_the_dense_one(self):
        image, probabilities = scene(9, 17, labels=20)
        values = probabilities.flatten(1).T.contiguous()
        separable = SeparableKernel(9, 17, 3, torch.device("cpu"))
        torch.testing.assert_close(separable(values), DenseKernel(pixel_features(image, 3))(values))

    def test_large_distances_do_not_lose_precision(self):
        features = torch.tensor([[0.0, 850.0], [1.0, 850.0]])
        assert DenseKernel(features)(torch.eye(2))[0, 1].item() == pytest.approx(math.exp(-0.5), rel=1e-6)

    def test_flipping_the_input_flips_the_output(self):
        image, probabilities = scene(10, 14, labels=2)
        beliefs = dense_crf(image, probabilities, "D", engine="exact")
        for axis in (0, 1):
            flipped = dense_crf(image.flip(axis), probabilities.flip(axis + 1), "D", engine="exact")
            torch.testing.assert_close(flipped.flip(axis + 1), beliefs, rtol=0, atol=1e-5)


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


class TestInterface:
    @pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
    def test_arrays_give_float32_arrays(self, kind):
        image, probabilities = scene(6, 5, labels=2)
        beliefs = dense_crf(image.numpy(), probabilities.numpy().astype(kind))
        assert isinstance(beliefs, np.ndarray)
        assert beliefs.dtype == np.float32
        np.testing.assert_allclose(beliefs, dense_crf(image, probabilities), rtol=0, atol=2e-2)

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
    def test_tensors_of_any_precision(self, kind):
        image, probabilities = scene(6, 5, labels=2)
        low = probabilities.to(kind)
        beliefs = dense_crf(image, low, "C")
        assert beliefs.dtype == torch.float32
        assert torch.equal(beliefs, dense_crf(image, low.float(), "C"))

    def test_inputs_are_left_alone_and_need_not_be_contiguous(self):
        image, probabilities = scene(8, 6, labels=2)
        expected = dense_crf(image, probabilities)
        turned = image.transpose(0, 1).contiguous().transpose(0, 1)
        backwards = probabilities.flip(0).numpy()[::-1]
        backwards.flags.writeable = False
        before = turned.clone()
        np.testing.assert_array_equal(dense_crf(turned, backwards), expected)
        assert torch.equal(turned, before)

    def test_no_gradient_flows(self):
        image, probabilities = scene(5, 5, labels=2)
        assert not dense_crf(image, probabilities.requires_grad_()).requires_grad

    def test_probabilities_are_clipped_and_need_not_sum_to_one(self):
        image, _ = scene(1, 3, labels=1)
        probabilities = torch.tensor([[[-0.2, 0.0, 3.0]], [[0.5, 0.5, 0.5]]])
        beliefs = dense_crf(image, probabilities, UNTOUCHED)
        expected = torch.tensor([1e-5 / 0.50001, 1e-5 / 0.50001, 1 / 1.5])
        torch.testing.assert_close(beliefs[0, 0], expected)

    def test_from_unary_is_what_probabilities_go_through(self):
        image, probabilities = scene(6, 5, labels=2)
        beliefs = crf.dense_crf_from_unary(image, unary_from_probabilities(probabilities) + 7, "A")
        torch.testing.assert_close(beliefs, dense_crf(image, probabilities, "A"))

    def test_a_single_label_is_certain(self):
        image, _ = scene(4, 5, labels=1)
        labels = torch.zeros(4, 5, dtype=torch.uint8)
        assert torch.equal(dense_crf_labels(image, labels, 1), torch.ones(1, 4, 5))
        assert crf.unary_from_labels(labels, 1).isfinite().all()

    def test_batch_is_one_after_the_other(self):
        pairs = [scene(6, 5, labels=2), scene(40, 30, labels=3), scene(1, 7, labels=1)]
        images, probabilities = zip(*pairs, strict=True)
        found = crf.dense_crf_batch(images, probabilities, "C")
        for beliefs, image, given_probabilities in zip(found, images, probabilities, strict=True):
            assert torch.equal(beliefs, dense_crf(image, given_probabilities, "C"))

    def test_parameters_by_name_and_as_they_are(self):
        assert crf.parameters("B'") == CRFParameters(10, 3, 3, 40, 5, 10)
        assert crf.parameters(UNTOUCHED) is UNTOUCHED

    def test_named_sets_are_those_of_the_sheet(self):
        found = {name: tuple(vars(each).values()) for name, each in CRF_PARAMETERS.items()}
        assert found == {
            "A": (10, 3, 3, 80, 13, 10),
            "A'": (10, 3, 10, 80, 13, 10),
            "B": (10, 3, 3, 50, 5, 10),
            "B'": (10, 3, 3, 40, 5, 10),
            "C": (1, 3, 3, 32, 13, 10),
            "D": (10, 1, 3, 67, 3, 4),
            "E": (10, 4, 3, 83, 5, 3),
        }


PIXELS = torch.zeros(4, 5, 3, dtype=torch.uint8)
SCORES = torch.full((2, 4, 5), 0.5)


class TestErrors:
    @pytest.mark.parametrize(
        ("image", "probabilities", "message"),
        [
            (PIXELS.float(), SCORES, r"image must be \(H, W, 3\) uint8, not \(4, 5, 3\) float32"),
            (PIXELS.permute(2, 0, 1), SCORES, r"image must be \(H, W, 3\) uint8, not \(3, 4, 5\) uint8"),
            (PIXELS[..., 0].numpy(), SCORES, r"image must be \(H, W, 3\) uint8, not \(4, 5\) uint8"),
            (PIXELS.transpose(0, 1).numpy(), SCORES, "image is 5 x 4 pixels but its labels are 4 x 5"),
            (PIXELS, SCORES[0], r"probabilities must be \(L, H, W\) floating point, not \(4, 5\) float32"),
            (PIXELS, SCORES.long(), "floating point, not .* int64"),
            (PIXELS, SCORES[:0], r"floating point, not \(0, 4, 5\)"),
            (PIXELS, SCORES * math.nan, "probabilities must be finite"),
        ],
    )
    def test_inputs(self, image, probabilities, message):
        with pytest.raises(ValueError, match=message):
            dense_crf(image, probabilities)

    @pytest.mark.parametrize(
        ("labels", "gt_prob", "message"),
        [
            (torch.full((4, 5), 255), 0.7, r"labels must be in \[0, 2\), not in \[255, 255\]"),
            (torch.full((4, 5), -1), 0.7, r"labels must be in \[0, 2\)"),
            (torch.zeros(4, 5), 0.7, r"labels must be \(H, W\) integers, not \(4, 5\) float32"),
            (PIXELS, 0.7, r"labels must be \(H, W\) integers"),
            (PIXELS[..., 0], 1.0, "gt_prob must be between 0 and 1, not 1.0"),
        ],
    )
    def test_labels(self, labels, gt_prob, message):
        with pytest.raises(ValueError, match=message):
            dense_crf_labels(PIXELS, labels, 2, "B", gt_prob)

    def test_names(self):
        with pytest.raises(ValueError, match="unknown CRF parameter set 'a', did you mean A"):
            dense_crf(PIXELS, SCORES, "a")
        with pytest.raises(ValueError, match="unknown CRF parameter set 'Z', known: A, A', B"):
            dense_crf(PIXELS, SCORES, "Z")
        with pytest.raises(ValueError, match="unknown engine 'fast', known: auto, exact, lattice"):
            dense_crf(PIXELS, SCORES, engine="fast")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("iterations", -1), ("iterations", 1.5), ("gaussian_sxy", 0), ("bilateral_sxy", 0.01)],
            *[("bilateral_srgb", math.nan), ("gaussian_compat", -1), ("bilateral_compat", math.inf)],
        ],
    )
    def test_parameters(self, name, value):
        with pytest.raises(ValueError, match=name):
            replace(CRF_PARAMETERS["A"], **{name: value})

    def test_batch_of_unequal_lengths(self):
        with pytest.raises(ValueError, match="2 images but probabilities for 1"):
            crf.dense_crf_batch([PIXELS, PIXELS], [SCORES])
