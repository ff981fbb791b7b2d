"""Segmentation losses against a loop."""

import math
from itertools import pairwise

import pytest
import torch

from tests.data.trees import refusal
from weakseg.data.sample import IGNORE
from weakseg.segment.losses import (
    LOSSES,
    bootstrapping,
    compared,
    confidence,
    entropy,
    loss_function,
    loss_options,
    needs_second,
    noise_aware,
    pixel_cross_entropy,
    wanted,
)


@pytest.fixture
def logits():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def masks():
    drawn = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    drawn[0, :, 2:] = IGNORE
    return drawn


def slow_cross_entropy(logits, masks, smoothing=0.0):
    total, count = 0.0, 0
    for image in range(masks.shape[0]):
        for y in range(masks.shape[1]):
            for x in range(masks.shape[2]):
                label = masks[image, y, x].item()
                if label == IGNORE:
                    continue
                energies = [math.exp(value) for value in logits[image, :, y, x].tolist()]
                surprise = [-math.log(energy / sum(energies)) for energy in energies]
                total += (1 - smoothing) * surprise[label] + smoothing * sum(surprise) / len(surprise)
                count += 1
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_mean_over_known_pixels(logits, masks, smoothing):
    loss = pixel_cross_entropy(logits, masks, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(slow_cross_entropy(logits, masks, smoothing), rel=1e-5)


def test_ignored_pixels_get_no_gradient(logits, masks):
    pixel_cross_entropy(logits, masks).backward()
    assert not logits.grad[0, :, :, 2:].any()
    assert logits.grad[0, :, :, :2].any()


def test_nothing_known_costs_nothing(logits, masks):
    loss = pixel_cross_entropy(logits, torch.full_like(masks, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_bfloat16_is_computed_in_float32(logits, masks):
    rounded = logits.detach().bfloat16().requires_grad_()
    loss = pixel_cross_entropy(rounded, masks)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_cross_entropy(rounded.detach().float(), masks), rel=1e-5)
    assert rounded.grad.dtype == torch.bfloat16


def test_logits_far_apart_stay_finite(masks):
    far = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5).clone().requires_grad_()
    loss = pixel_cross_entropy(far, masks)
    loss.backward()
    assert loss.isfinite()
    assert far.grad.isfinite().all()


def test_options_are_filled_in(logits, masks):
    loss = loss_options("cross_entropy", {"label_smoothing": 0.2})
    assert torch.equal(loss(logits, masks), pixel_cross_entropy(logits, masks, label_smoothing=0.2))


TAU = 20.0


@pytest.fixture
def second(masks):
    """Agrees in about half of the pixels; some are unknown to it alone."""
    drawn = torch.randint(0, 3, masks.shape, generator=torch.Generator().manual_seed(2))
    drawn[1, 0] = IGNORE
    return drawn


@pytest.fixture
def cosine_logits(logits):
    return (TAU * torch.tanh(logits.detach())).requires_grad_()


def context(name, second):
    """What the segmenter would give a loss."""
    given = {"second": second, "scale": TAU, "progress": 0.4}
    return {key: given[key] for key in wanted(LOSSES[name])}


def pixels(masks, second):
    """Positions where both know a label: agreeing, and differing."""
    same, different = [], []
    for place in [tuple(position) for position in torch.ones_like(masks).nonzero().tolist()]:
        one, other = masks[place].item(), second[place].item()
        if IGNORE not in (one, other):
            (same if one == other else different).append(place)
    return same, different


def surprises(logits, place):
    image, y, x = place
    energies = [math.exp(value) for value in logits[image, :, y, x].tolist()]
    return [-math.log(energy / sum(energies)) for energy in energies]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def slow_agreement(logits, masks, second):
    return mean([surprises(logits, place)[masks[place]] for place in pixels(masks, second)[0]])


def slow_noise_aware(logits, masks, second, weight, gamma):
    total, shares = 0.0, 0.0
    for image, y, x in pixels(masks, second)[1]:
        distances = [1 + value / TAU for value in logits[image, :, y, x].tolist()]
        sigma = (distances[masks[image, y, x]] / max(distances)) ** gamma
        total += sigma * surprises(logits, (image, y, x))[masks[image, y, x]]
        shares += sigma
    return slow_agreement(logits, masks, second) + (weight * total / shares if shares else 0)


def slow_blend(logits, masks, second, weight, beta):
    found = []
    for place in pixels(masks, second)[1]:
        each = surprises(logits, place)
        target = [beta * (c == masks[place].item()) + (1 - beta) * math.exp(-s) for c, s in enumerate(each)]
        found.append(sum(t * s for t, s in zip(target, each, strict=True)))
    return slow_agreement(logits, masks, second) + weight * mean(found)


@pytest.mark.parametrize(("weight", "gamma"), [(0.1, 7.0), (1.0, 1.0), (0.5, 0.0), (0.3, 50.0)])
def test_noise_aware_is_its_definition(cosine_logits, masks, second, weight, gamma):
    loss = noise_aware(cosine_logits, masks, second, TAU, weight=weight, gamma=gamma)
    expected = slow_noise_aware(cosine_logits.detach(), masks, second, weight, gamma)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_entropy_is_its_definition(logits, masks, second):
    expected = slow_blend(logits, masks, second, 0.3, 0.0)
    assert entropy(logits, masks, second, weight=0.3).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 1.0), (0.4, 0.6**0.9), (1.0, 0.0)])
def test_bootstrapping_is_its_definition(logits, masks, second, progress, beta):
    expected = slow_blend(logits, masks, second, 0.3, beta)
    found = bootstrapping(logits, masks, second, progress, weight=0.3)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_unknown_pixels_neither_agree_nor_differ():
    first, other = torch.tensor([[[0, 1, 255, 1, 255]]]), torch.tensor([[[0, 2, 1, 255, 255]]])
    same, different = compared(first, other)
    assert same.int().tolist() == [[[1, 0, 0, 0, 0]]]
    assert different.int().tolist() == [[[0, 1, 0, 0, 0]]]


COMPARING = [name for name in LOSSES if needs_second(name)]


def test_which_losses_compare():
    assert COMPARING == ["noise_aware", "entropy", "bootstrapping"]


@pytest.mark.parametrize("name", COMPARING)
def test_with_one_opinion_it_is_cross_entropy(name, cosine_logits, masks):
    found = LOSSES[name](cosine_logits, masks, **context(name, masks.clone()))
    torch.testing.assert_close(found, pixel_cross_entropy(cosine_logits, masks))


@pytest.mark.parametrize("name", COMPARING)
def test_nothing_agreed_upon_leaves_the_other_part(name, cosine_logits, masks):
    other = (masks + 1).where(masks != IGNORE, masks) % 3
    loss = LOSSES[name](cosine_logits, masks, **context(name, other))
    loss.backward()
    assert loss > 0
    assert cosine_logits.grad.isfinite().all()
    assert not LOSSES[name](cosine_logits, masks, **context(name, other), weight=0.0)


@pytest.mark.parametrize("name", COMPARING)
def test_pixels_unknown_to_either_get_no_gradient(name, cosine_logits, masks, second):
    LOSSES[name](cosine_logits, masks, **context(name, second)).backward()
    unknown = ((masks == IGNORE) | (second == IGNORE))[:, None].expand_as(cosine_logits)
    assert unknown.any()
    assert not cosine_logits.grad[unknown].any()
    assert cosine_logits.grad[~unknown].any()


def test_gradients_of_noise_aware_are_those_of_finite_differences(masks, second):
    drawn = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    logits = (5 * torch.tanh(drawn)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: noise_aware(x, masks, second, 5.0, weight=1.0, gamma=3.0), logits)


@pytest.mark.parametrize("name", ["entropy", "bootstrapping"])
def test_gradients_of_the_others_are_those_of_finite_differences(name, masks, second):
    drawn = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    given = context(name, second)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, masks, **given), drawn.requires_grad_())


def test_detached_confidences_weigh_but_do_not_learn(cosine_logits, masks, second):
    """By hand: sigma as constants."""
    found = noise_aware(cosine_logits, masks, second, TAU, weight=1.0, detach_sigma=True)
    gradient = torch.autograd.grad(found, cosine_logits)[0]
    same, different = compared(masks, second)
    sigma = confidence(cosine_logits.detach() / TAU, masks, 7.0) * different
    surprise = torch.nn.functional.cross_entropy(cosine_logits, masks, ignore_index=IGNORE, reduction="none")
    slow = (surprise * same).sum() / same.sum() + (sigma * surprise).sum() / sigma.sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(slow, cosine_logits)[0])
    through = torch.autograd.grad(noise_aware(cosine_logits, masks, second, TAU, weight=1.0), cosine_logits)[0]
    assert not torch.allclose(gradient, through)


def test_confidence_is_one_where_the_label_is_nearest_and_less_elsewhere(masks):
    cosines = torch.tanh(torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(3)))
    labels = masks.where(masks != IGNORE, 0)
    found = confidence(cosines, labels, 7.0)
    nearest = cosines.argmax(1) == labels
    assert torch.equal(found == 1, nearest)
    assert found.min() >= 0
    assert found.max() <= 1
    tied = cosines.clone()
    tied[:, 0] = tied[:, 1] = tied.amax(1)
    assert (confidence(tied, torch.ones_like(labels), 7.0) == 1).all()


def test_limits_of_gamma(masks):
    cosines = torch.tanh(torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(3)))
    labels = masks.where(masks != IGNORE, 0)
    found = [confidence(cosines, labels, gamma) for gamma in (0.0, 1.0, 7.0, 50.0, 1e6)]
    assert (found[0] == 1).all()
    assert all((more >= less).all() for more, less in pairwise(found))
    assert torch.equal(found[-1], (cosines.argmax(1) == labels).float())


def test_only_ratios_of_confidences_count(masks, second):
    """All of them are 1e-40 of what they were, too small for a float32, if the label is far away everywhere."""
    cosines = torch.full((2, 3, 4, 5), -0.9)
    cosines[:, 2] = 1.0
    labels, other = torch.zeros_like(masks), torch.ones_like(masks)
    logits = (TAU * cosines).requires_grad_()
    loss = noise_aware(logits, labels, other, TAU, weight=1.0, gamma=50.0)
    loss.backward()
    assert not confidence(cosines, labels, 50.0).any()
    assert loss.item() == pytest.approx(38.0, rel=1e-4)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 7.0])
@pytest.mark.parametrize("extreme", [-1.0, -1.0000002, 1.0])
def test_opposite_features_stay_finite(extreme, gamma, masks, second):
    logits = torch.full((2, 3, 4, 5), TAU * extreme)
    logits[:, 1, :2] = TAU
    logits.requires_grad_()
    loss = noise_aware(logits, masks, second, TAU, gamma=gamma)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_noise_aware_in_bfloat16(cosine_logits, masks, second):
    rounded = cosine_logits.detach().bfloat16().requires_grad_()
    loss = noise_aware(rounded, masks, second, TAU)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_noise_aware(rounded.detach().float(), masks, second, 0.1, 7.0), rel=1e-4)
    assert rounded.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_bears_a_batch_that_is_all_unknown(name, logits, masks):
    unknown = torch.full_like(masks, IGNORE)
    loss = LOSSES[name](logits, unknown, **context(name, unknown))
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_bears_a_single_class(name, masks):
    logits = torch.zeros(2, 1, 4, 5, requires_grad=True)
    labels = masks.where(masks == IGNORE, 0)
    loss = LOSSES[name](logits, labels, **context(name, labels))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.isfinite().all()


def test_what_a_loss_asks_for_is_read_off_its_arguments():
    def other(logits, masks, progress, second=None, *, scale=1.0):
        """Neither what has a default nor an option is asked for."""

    assert wanted(pixel_cross_entropy) == frozenset()
    assert wanted(noise_aware) == {"second", "scale"}
    assert wanted(bootstrapping) == {"second", "progress"}
    assert wanted(other) == {"progress"}
    assert wanted(loss_options("noise_aware", {"gamma": 3.0})) == {"second", "scale"}
    refusal(lambda: needs_second("noise_awar"), "unknown loss 'noise_awar'", "'noise_aware'")


def test_an_unknown_loss_lists_near_ones():
    refusal(lambda: loss_function("cross_entrop"), "unknown loss 'cross_entrop'", "'cross_entropy'")
