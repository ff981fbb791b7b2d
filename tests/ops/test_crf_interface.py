"""The functions of the dense CRF: what they take and give, names, and what they say to wrong input."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.ops.scenes import scene
from weakseg.ops import crf
from weakseg.ops.crf import CRF_PARAMETERS, CRFParameters, dense_crf, dense_crf_labels, unary_from_probabilities

ENGINES = ["exact", "lattice"]
UNTOUCHED = CRFParameters(0, 3, 3, 80, 13, 10)


@pytest.mark.parametrize("engine", ENGINES)
class TestInputs:
    @pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
    def test_arrays_give_float32_arrays(self, engine, kind):
        image, probabilities = scene(6, 5, labels=2)
        beliefs = dense_crf(image.numpy(), probabilities.numpy().astype(kind), engine=engine)
        assert isinstance(beliefs, np.ndarray)
        assert beliefs.dtype == np.float32
        np.testing.assert_allclose(beliefs, dense_crf(image, probabilities, engine=engine), rtol=0, atol=2e-2)

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
    def test_tensors_of_any_precision(self, engine, kind):
        image, probabilities = scene(6, 5, labels=2)
        low = probabilities.to(kind)
        beliefs = dense_crf(image, low, "C", engine=engine)
        assert beliefs.dtype == torch.float32
        assert torch.equal(beliefs, dense_crf(image, low.float(), "C", engine=engine))

    def test_inputs_are_left_alone_and_need_not_be_contiguous(self, engine):
        image, probabilities = scene(8, 6, labels=2)
        expected = dense_crf(image, probabilities, engine=engine)
        turned = image.transpose(0, 1).contiguous().transpose(0, 1)
        backwards = probabilities.flip(0).numpy()[::-1]
        backwards.flags.writeable = False
        unary = unary_from_probabilities(probabilities)
        before = turned.clone(), unary.clone(), probabilities.clone()
        np.testing.assert_array_equal(dense_crf(turned, backwards, engine=engine), expected)
        torch.testing.assert_close(crf.dense_crf_from_unary(turned, unary, engine=engine), expected)
        assert all(map(torch.equal, (turned, unary, probabilities), before))

    def test_no_gradient_flows(self, engine):
        image, probabilities = scene(5, 5, labels=2)
        assert not dense_crf(image, probabilities.requires_grad_(), engine=engine).requires_grad

    def test_probabilities_are_clipped_and_need_not_sum_to_one(self, engine):
        image, _ = scene(1, 3, labels=1)
        probabilities = torch.tensor([[[-0.2, 0.0, 3.0]], [[0.5, 0.5, 0.5]]])
        beliefs = dense_crf(image, probabilities, UNTOUCHED, engine=engine)
        expected = torch.tensor([1e-5 / 0.50001, 1e-5 / 0.50001, 1 / 1.5])
        torch.testing.assert_close(beliefs[0, 0], expected)

    def test_from_unary_is_what_probabilities_go_through(self, engine):
        image, probabilities = scene(6, 5, labels=2)
        unary = unary_from_probabilities(probabilities) + 7
        beliefs = crf.dense_crf_from_unary(image, unary, "A", engine=engine)
        torch.testing.assert_close(beliefs, dense_crf(image, probabilities, "A", engine=engine))

    def test_energies_beyond_any_probability(self, engine):
        image, _ = scene(2, 3, labels=1)
        unary = torch.tensor([0.0, 300.0, 1e4])[:, None, None].expand(3, 2, 3)
        beliefs = crf.dense_crf_from_unary(image, unary, engine=engine)
        torch.testing.assert_close(beliefs, (unary == 0).float(), rtol=0, atol=1e-20)

    def test_a_single_label_is_certain(self, engine):
        image, _ = scene(4, 5, labels=1)
        labels = torch.zeros(4, 5, dtype=torch.uint8)
        torch.testing.assert_close(dense_crf_labels(image, labels, 1, engine=engine), torch.ones(1, 4, 5))
        assert crf.unary_from_labels(labels, 1).isfinite().all()

    def test_labels_that_nothing_tells_apart_share_the_work(self, engine):
        image, probabilities = scene(7, 9, labels=3)
        absent = torch.full((4, 7, 9), 1e-6)
        absent[1] = -3
        mixed = torch.cat([absent[:2], probabilities, absent[2:]])
        apart = mixed.clamp(min=1.01e-5)  # all above the least probability, so each has a plane of its own
        beliefs = dense_crf(image, mixed, "A", engine=engine)
        torch.testing.assert_close(beliefs, dense_crf(image, apart, "A", engine=engine), rtol=0, atol=1e-6)
        torch.testing.assert_close(beliefs.sum(0), torch.ones(7, 9))

    def test_labels_that_a_map_lacks_share_the_work(self, engine):
        image, probabilities = scene(7, 9, labels=3)
        labels = 2 * probabilities.argmax(0)
        beliefs = dense_crf_labels(image, labels, 21, "B", engine=engine)
        expected = crf.dense_crf_from_unary(image, crf.unary_from_labels(labels, 21), "B", engine=engine)
        torch.testing.assert_close(beliefs, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("ignore", [255, -1, 1])
    @pytest.mark.parametrize("size", [(7, 9), (2, 3)])
    def test_of_ignored_pixels_nothing_is_known(self, engine, ignore, size):
        image, probabilities = scene(*size, labels=3)
        labels = 2 * probabilities.argmax(0)
        labels[: size[0] // 2, 1:] = ignore
        chances = torch.where(labels == torch.arange(5)[:, None, None], 0.7, 0.3 / 4)
        chances[:, labels == ignore] = 1 / 5
        beliefs = dense_crf_labels(image, labels, 5, "B", ignore=ignore, engine=engine)
        expected = dense_crf(image, chances, "B", engine=engine)
        torch.testing.assert_close(beliefs, expected, rtol=0, atol=1e-5)
        unary = crf.unary_from_labels(labels, 5, ignore=ignore)
        torch.testing.assert_close(unary, -chances.log())

    def test_where_all_is_ignored_all_stays_equal(self, engine):
        image, _ = scene(4, 5, labels=1)
        labels = torch.full((4, 5), 255, dtype=torch.uint8)
        beliefs = dense_crf_labels(image, labels, 3, ignore=255, engine=engine)
        torch.testing.assert_close(beliefs, torch.full((3, 4, 5), 1 / 3), rtol=0, atol=1e-6)

    def test_stop_ends_updates_that_change_no_label(self, engine):
        image, probabilities = scene(30, 40, labels=3)
        few, many = (replace(CRF_PARAMETERS["A"], iterations=count) for count in (1, 50))
        found = dense_crf(image, probabilities, many, engine=engine, stop=0.99)
        assert torch.equal(found, dense_crf(image, probabilities, few, engine=engine))
        found = dense_crf(image, probabilities, many, engine=engine, stop=0.001)
        expected = dense_crf(image, probabilities, many, engine=engine)
        assert not torch.equal(found, expected)
        assert (found.argmax(0) == expected.argmax(0)).float().mean() > 0.97

    def test_batch_is_one_after_the_other(self, engine):
        pairs = [scene(6, 5, labels=2), scene(40, 30, labels=3), scene(1, 7, labels=1), scene(40, 30, labels=9)]
        images, probabilities = zip(*pairs, strict=True)
        found = crf.dense_crf_batch(images, probabilities, "C", engine=engine)
        for beliefs, image, given_probabilities in zip(found, images, probabilities, strict=True):
            assert torch.equal(beliefs, dense_crf(image, given_probabilities, "C", engine=engine))
        assert crf.dense_crf_batch([], []) == []


class TestParameters:
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
            "F": (10, 2, 3, 55, 3, 4),
            "G": (10, 3, 3, 55, 3, 4),
            "H": (10, 3, 3, 121, 5, 4),
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
            (torch.full((4, 5), 255), 0.7, r"labels must be in \[0, 2\), not in \[255, 255\]; .*, say ignore=255"),
            (torch.full((4, 5), -1), 0.7, r"labels must be in \[0, 2\), not in \[-1, -1\]; .*, say ignore=-1"),
            (torch.zeros(4, 5), 0.7, r"labels must be \(H, W\) integers, not \(4, 5\) float32"),
            (PIXELS, 0.7, r"labels must be \(H, W\) integers"),
            (PIXELS[..., 0], 1.0, "gt_prob must be between 0 and 1, not 1.0"),
        ],
    )
    def test_labels(self, labels, gt_prob, message):
        with pytest.raises(ValueError, match=message):
            dense_crf_labels(PIXELS, labels, 2, "B", gt_prob)

    def test_labels_beside_the_ignored(self):
        labels = torch.tensor([[255, 3, 0, 0, 1]]).expand(4, 5)
        with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), not in \[0, 3\]"):
            dense_crf_labels(PIXELS, labels, 2, ignore=255)

    @pytest.mark.parametrize("stop", [-0.1, 1, math.nan])
    def test_stop(self, stop):
        with pytest.raises(ValueError, match="stop must be at least 0 and below 1"):
            dense_crf(PIXELS, SCORES, stop=stop)

    def test_names(self):
        with pytest.raises(ValueError, match="unknown CRF parameter set 'a', did you mean A"):
            dense_crf(PIXELS, SCORES, "a")
        with pytest.raises(ValueError, match="unknown CRF parameter set 'Z', known: A, A', B"):
            dense_crf(PIXELS, SCORES, "Z")
        with pytest.raises(ValueError, match="unknown engine 'fast', known: auto, exact, lattice"):
            dense_crf(PIXELS, SCORES, engine="fast")

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            *[("iterations", value, "an integer, 0 or more") for value in (-1, 1.5, 10.0, math.nan, math.inf, "10")],
            *[("gaussian_sxy", value, "finite and at least 0.1") for value in (0, math.inf)],
            *[("bilateral_sxy", value, "finite and at least 0.1") for value in (0.01, -math.inf)],
            *[("bilateral_srgb", value, "finite and at least 0.1") for value in (math.nan, math.inf)],
            *[("gaussian_compat", -1, "finite and not negative"), ("bilateral_compat", math.inf, "finite and not")],
        ],
    )
    def test_parameters(self, name, value, message):
        with pytest.raises(ValueError, match=f"{name} must be {message}"):
            replace(CRF_PARAMETERS["A"], **{name: value})

    def test_integers_of_numpy_are_integers(self):
        assert replace(CRF_PARAMETERS["A"], iterations=np.int64(10)) == CRF_PARAMETERS["A"]

    def test_batch_of_unequal_lengths(self):
        with pytest.raises(ValueError, match="2 images but probabilities for 1"):
            crf.dense_crf_batch([PIXELS, PIXELS], [SCORES])
