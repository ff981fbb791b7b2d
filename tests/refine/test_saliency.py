"""Background that saliency takes away from."""

import pytest
import torch

from tests.refine.test_refiners import HEIGHT, WIDTH, maps
from weakseg.refine.background import PowerBackground
from weakseg.refine.masks import at_image_size, pseudo_mask
from weakseg.refine.saliency import SaliencyPowerBackground, saliency_background

IMAGE = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)


def salient(seed=2, **more):
    saliency = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    found = maps(**more)
    return type(found)(found.classes, found.scores, found.size, saliency=saliency)


def test_by_hand():
    scores, saliency = torch.tensor([[[0.2, 0.3], [0.0, 1.0]]]), torch.tensor([[0.1, 0.9], [0.0, 0.2]])
    expected = torch.tensor([[0.64, 0.01], [1.0, 0.0]])
    torch.testing.assert_close(saliency_background(scores, saliency, 2), expected)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
def test_every_pixel(alpha):
    given = salient()
    refined = SaliencyPowerBackground(alpha=alpha).refine(IMAGE, given)
    full = at_image_size(given).scores
    assert refined.scores.shape == (2, HEIGHT, WIDTH)
    for y in range(0, HEIGHT, 3):
        for x in range(0, WIDTH, 5):
            foreground = max(full[0, y, x].item(), full[1, y, x].item(), given.saliency[y, x].item())
            assert refined.background[y, x].item() == pytest.approx((1 - foreground) ** alpha, abs=1e-5)


def test_classes_are_left_as_they_are():
    given = salient()
    assert torch.equal(SaliencyPowerBackground().refine(IMAGE, given).scores, at_image_size(given).scores)


def test_background_falls_with_alpha_and_with_saliency():
    given = salient()
    weak, strong = (SaliencyPowerBackground(alpha=alpha).refine(IMAGE, given).background for alpha in (1, 3))
    assert (strong <= weak).all()
    plain = at_image_size(PowerBackground(alpha=1).refine(IMAGE, at_image_size(maps())))
    assert (weak <= plain.background + 1e-6).all()
    assert (weak < plain.background - 1e-3).any()


def test_an_image_without_saliency_has_plain_power_background():
    given = maps()
    refined = SaliencyPowerBackground(alpha=3).refine(IMAGE, given)
    expected = PowerBackground(alpha=3).refine(IMAGE, at_image_size(given))
    assert torch.equal(refined.background, expected.background)


def test_an_image_without_classes_is_background():
    refined = SaliencyPowerBackground().refine(IMAGE, salient(classes=()))
    assert refined.background.shape == (HEIGHT, WIDTH)
    assert not pseudo_mask(refined).any()


def test_half_precision_saliency_is_taken_as_the_maps_are():
    scores, saliency = torch.rand(2, 4, 5), torch.rand(4, 5).to(torch.bfloat16)
    assert saliency_background(scores, saliency).dtype == torch.float32


def test_maps_carry_saliency_along_but_not_into_their_file(tmp_path):
    given = salient()
    assert given.with_scores(given.scores, None).saliency is given.saliency
    assert torch.equal(given.to(torch.device("cpu")).saliency, given.saliency)
    given.save(tmp_path / "maps.npz")
    assert type(given).load(tmp_path / "maps.npz").saliency is None
