"""Normalised global weighted pooling."""

import pytest
import torch

from weakseg.ops.pooling import gap, ngwp


def case(seed=0, batch=2, classes=3, height=4, width=5):
    generator = torch.Generator().manual_seed(seed)
    size = (batch, classes, height, width)
    return torch.randn(size, generator=generator), torch.rand(size, generator=generator)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1.0])
def test_ngwp_is_the_definition(eps):
    scores, masks = case()
    found = ngwp(scores, masks, eps)
    for b in range(2):
        for c in range(3):
            pairs = list(zip(masks[b, c].flatten().tolist(), scores[b, c].flatten().tolist(), strict=True))
            expected = sum(m * y for m, y in pairs) / (eps + sum(m for m, _ in pairs))
            assert found[b, c].item() == pytest.approx(expected, abs=1e-5)


def test_a_constant_map_gives_its_constant_for_every_mask():
    _, masks = case()
    torch.testing.assert_close(ngwp(torch.full_like(masks, 2.5), masks, 0.0), torch.full((2, 3), 2.5))


def test_without_eps_the_scale_of_a_mask_does_not_matter():
    scores, masks = case()
    torch.testing.assert_close(ngwp(scores, 0.01 * masks, 0.0), ngwp(scores, masks, 0.0))


def test_with_eps_a_small_mask_draws_the_score_to_zero():
    scores, masks = case()
    large, small = ngwp(scores, masks, 1.0), ngwp(scores, 1e-4 * masks, 1.0)
    assert (small.abs() < 0.01 * large.abs()).all()


def test_a_mask_of_the_whole_image_is_the_mean():
    scores, _ = case()
    torch.testing.assert_close(ngwp(scores, torch.ones_like(scores), 0.0), gap(scores))


@pytest.mark.parametrize("eps", [0.0, 1.0])
def test_an_empty_mask_scores_zero(eps):
    scores, masks = case()
    scores.requires_grad_()
    found = ngwp(scores, torch.zeros_like(masks), eps)
    found.sum().backward()
    assert not found.any()
    assert scores.grad.isfinite().all()


def test_gradients_go_through_scores_and_masks():
    scores, masks = (tensor.double().requires_grad_() for tensor in case(height=2, width=3))
    assert torch.autograd.gradcheck(lambda y, m: ngwp(y, m, 1.0), (scores, masks))


def test_in_bfloat16():
    scores, masks = case()
    rounded = ngwp(scores.bfloat16(), masks.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), ngwp(scores, masks), atol=0.03, rtol=0.03)
