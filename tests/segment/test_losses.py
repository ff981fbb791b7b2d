"""Segmentation losses against a loop."""

import math

import pytest
import torch

from tests.data.trees import refusal
from weakseg.data.sample import IGNORE
from weakseg.segment.losses import LOSSES, loss_function, loss_options, pixel_cross_entropy


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


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_bears_a_batch_that_is_all_unknown(name, logits, masks):
    loss = LOSSES[name](logits, torch.full_like(masks, IGNORE))
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_an_unknown_loss_lists_near_ones():
    refusal(lambda: loss_function("cross_entrop"), "unknown loss 'cross_entrop'", "'cross_entropy'")
