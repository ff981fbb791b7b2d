"""Refiners against their formulae, and the order in which they may stand."""

import numpy as np
import pytest
import torch

from tests.data.trees import refusal
from weakseg.data.maps import LocalizationMaps
from weakseg.ops.crf import CRF_PARAMETERS, CRFParameters, dense_crf, dense_crf_labels
from weakseg.refine.background import PowerBackground, ThresholdBackground
from weakseg.refine.crf import CRFRefiner
from weakseg.refine.masks import at_image_size, pseudo_mask
from weakseg.refine.refiner import Chain, Refiner
from weakseg.refine.registry import refiner_class

HEIGHT, WIDTH = 20, 28


def maps(classes=(1, 4), height=5, width=7, size=(HEIGHT, WIDTH), seed=0):
    scores = torch.rand(len(classes), height, width, generator=torch.Generator().manual_seed(seed))
    return LocalizationMaps(torch.tensor(classes, dtype=torch.int64), scores, size)


def with_background(found, background):
    return found.with_scores(found.scores, background)


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_threshold_is_a_constant(image):
    given = maps()
    refined = ThresholdBackground(value=0.3).refine(image, given)
    assert torch.equal(refined.background, torch.full((5, 7), 0.3))
    assert torch.equal(refined.scores, given.scores)
    assert refined.size == given.size


def test_power_is_strong_where_all_maps_are_weak(image):
    given = maps()
    refined = PowerBackground(alpha=4).refine(image, given)
    for y in range(5):
        for x in range(7):
            strongest = max(given.scores[0, y, x].item(), given.scores[1, y, x].item())
            assert refined.background[y, x].item() == pytest.approx((1 - strongest) ** 4, abs=1e-6)
    assert torch.equal(refined.scores, given.scores)


@pytest.mark.parametrize("refiner", [ThresholdBackground(), PowerBackground(), PowerBackground(alpha=32)])
def test_without_a_class_everything_is_background(image, refiner):
    refined = refiner.refine(image, maps(classes=()))
    assert refined.background.shape == (5, 7)
    assert not pseudo_mask(refined).any()


def test_pseudo_mask_takes_the_strongest_and_writes_class_plus_one():
    scores = torch.tensor([[[0.9, 0.1, 0.2]], [[0.1, 0.8, 0.2]]])
    found = LocalizationMaps(torch.tensor([2, 6]), scores, (1, 3), background=torch.full((1, 3), 0.5))
    mask = pseudo_mask(found)
    assert mask.dtype == torch.uint8
    assert mask.tolist() == [[3, 7, 0]]


def test_ties_go_to_background_and_then_to_the_lower_class():
    scores = torch.tensor([[[0.5, 0.7]], [[0.5, 0.7]]])
    found = LocalizationMaps(torch.tensor([0, 1]), scores, (1, 2), background=torch.full((1, 2), 0.5))
    assert pseudo_mask(found).tolist() == [[0, 1]]


def test_maps_are_enlarged_before_the_strongest_is_taken(image):
    """The label of an enlarged map, not an enlarged label: borders are finer than the grid."""
    found = PowerBackground(alpha=4).refine(image, maps())
    stacked = torch.cat([found.background[None], found.scores])
    enlarged = torch.nn.functional.interpolate(stacked[None], (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0]
    expected = torch.tensor([0, 2, 5], dtype=torch.uint8)[enlarged.argmax(0)]
    assert torch.equal(pseudo_mask(found), expected)
    assert len(expected.unique()) == 3


def test_maps_of_image_size_are_left_as_they_are():
    found = with_background(maps(height=HEIGHT, width=WIDTH), torch.rand(HEIGHT, WIDTH))
    assert at_image_size(found) is found


def test_a_mask_needs_a_background():
    refusal(lambda: pseudo_mask(maps()), "no background", "'power' or 'threshold'")


@pytest.mark.parametrize("unary", ["probabilities", "labels"])
@pytest.mark.parametrize("classes", [(), (3,), (1, 4)])
def test_crf_gives_probabilities_at_image_size(image, unary, classes):
    coarse = PowerBackground().refine(image, maps(classes))
    refined = CRFRefiner(unary=unary, iterations=2).refine(image, coarse)
    assert refined.scores.shape == (len(classes), HEIGHT, WIDTH)
    assert refined.classes.tolist() == list(classes)
    torch.testing.assert_close(refined.background + refined.scores.sum(0), torch.ones(HEIGHT, WIDTH))
    assert set(pseudo_mask(refined).unique().tolist()) <= {0, *(c + 1 for c in classes)}


def test_crf_of_an_image_without_a_class_is_background(image):
    refined = CRFRefiner().refine(image, PowerBackground().refine(image, maps(())))
    assert torch.equal(refined.background, torch.ones(HEIGHT, WIDTH))
    assert not pseudo_mask(refined).any()


def test_crf_from_probabilities_is_the_operator(image):
    full = at_image_size(PowerBackground().refine(image, maps()))
    refined = CRFRefiner(params="D").refine(image, full)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    expected = dense_crf(pixels, torch.cat([full.background[None], full.scores]).numpy(), "D")
    np.testing.assert_array_equal(torch.cat([refined.background[None], refined.scores]).numpy(), expected)


def test_crf_from_labels_is_the_operator_on_labels_local_to_the_image(image):
    full = at_image_size(PowerBackground(alpha=2).refine(image, maps()))
    labels = torch.cat([full.background[None], full.scores]).argmax(0)
    assert len(labels.unique()) == 3
    expected = dense_crf_labels(image.permute(1, 2, 0).contiguous(), labels, 3, "B", gt_prob=0.8)
    refined = CRFRefiner(params="B", unary="labels", gt_prob=0.8).refine(image, full)
    assert torch.equal(torch.cat([refined.background[None], refined.scores]), expected)


def test_crf_removes_a_speck():
    """A lone pixel of another label on a flat surface."""
    flat = torch.full((3, HEIGHT, WIDTH), 120, dtype=torch.uint8)
    scores = torch.full((1, HEIGHT, WIDTH), 0.2)
    scores[0, 10, 14] = 0.9
    found = LocalizationMaps(torch.tensor([0]), scores, (HEIGHT, WIDTH), background=1 - scores[0])
    assert pseudo_mask(found).sum() == 1
    assert pseudo_mask(CRFRefiner().refine(flat, found)).sum() == 0


def test_crf_parameters_and_their_iterations():
    assert CRFRefiner(params="D").params is CRF_PARAMETERS["D"]
    assert CRFRefiner(params="A", iterations=3).params.iterations == 3
    refusal(lambda: CRFRefiner(params="a"), "CRF parameter set 'a'", "'A'")


def test_crf_widths_in_position_are_divided_for_smaller_photographs(image):
    full = at_image_size(PowerBackground().refine(image, maps()))
    refined = CRFRefiner(params="D", scale_factor=2).refine(image, full)
    narrow = CRFParameters(10, 0.5, 3, 33.5, 3, 4)
    stack = torch.cat([full.background[None], full.scores])
    expected = dense_crf(image.permute(1, 2, 0).contiguous(), stack, narrow)
    assert torch.equal(torch.cat([refined.background[None], refined.scores]), expected)
    assert not torch.equal(refined.scores, CRFRefiner(params="D").refine(image, full).scores)
    refusal(lambda: CRFRefiner(params="D", scale_factor=20), "scale_factor 20", "'D'", "at least 0.1", "Lower")


def test_crf_alone_has_no_background(image):
    refusal(lambda: CRFRefiner().refine(image, maps()), "no background", "before")


def chain(*steps):
    return Chain([(name, refiner_class(name)(**options)) for name, options in steps])


def test_a_chain_works_in_order(image):
    given = maps()
    chained = chain(("power", {"alpha": 2}), ("crf", {"params": "D", "iterations": 1})).refine(image, given)
    by_hand = CRFRefiner(params="D", iterations=1).refine(image, PowerBackground(alpha=2).refine(image, given))
    assert torch.equal(chained.scores, by_hand.scores)


def test_the_last_background_counts(image):
    refined = chain(("power", {}), ("threshold", {"value": 0.9})).refine(image, maps())
    assert torch.equal(refined.background, torch.full((5, 7), 0.9))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["crf"], ("'crf' needs a background", "before")),
        (["crf", "power"], ("'crf' needs a background", "before")),
        ([], ("no refiner says what background is", "'power' or 'threshold'")),
        (["powr"], ("unknown refiner 'powr'", "'power'")),
    ],
)
def test_an_order_that_makes_no_sense(names, words):
    refusal(lambda: chain(*((name, {}) for name in names)), *words)


def test_a_refiner_that_leaves_the_background_open_needs_another():
    class Sharpen(Refiner):
        gives_background = False

        def refine(self, image, maps):
            return maps

    refusal(lambda: Chain([("sharpen", Sharpen())]), "background")
    Chain([("sharpen", Sharpen()), ("power", PowerBackground()), ("crf", CRFRefiner())])
