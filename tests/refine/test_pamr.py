"""PAMR as a refiner."""

import pytest
import torch
from torch.nn.functional import interpolate

from tests.data.trees import refusal
from weakseg.data.maps import LocalizationMaps
from weakseg.ops.pamr import pamr
from weakseg.pipeline.options import checked_options
from weakseg.refine.background import PowerBackground
from weakseg.refine.masks import pseudo_mask
from weakseg.refine.pamr import PAMRRefiner

HEIGHT, WIDTH = 37, 50


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def maps(classes=(1, 4), height=5, width=7, size=(HEIGHT, WIDTH)):
    found = LocalizationMaps(torch.tensor(classes, dtype=torch.int64), uniform(len(classes), height, width), size)
    return PowerBackground(alpha=1).refine(torch.zeros(3, *size, dtype=torch.uint8), found)


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_at_stride_one_it_is_the_operator(image):
    given = maps(height=HEIGHT, width=WIDTH)
    refined = PAMRRefiner(stride=1, dilations=(1, 3), iterations=4, normalization="paper").refine(image, given)
    stacked = torch.cat([given.background[None], given.scores])[None]
    expected = pamr(image[None] / 255, stacked, dilations=(1, 3), iterations=4, normalization="paper")[0]
    assert torch.equal(torch.cat([refined.background[None], refined.scores]), expected)


def test_at_a_stride_it_sees_every_such_pixel_and_enlarges(image):
    given = maps(height=HEIGHT, width=49, size=(HEIGHT, 49))  # 4 n + 1 pixels: the grid meets pixels exactly
    refined = PAMRRefiner().refine(image[..., :49], given)
    stacked = torch.cat([given.background[None], given.scores])[None]
    seen = pamr(image[None, :, ::4, :49:4] / 255, stacked[..., ::4, ::4])
    expected = interpolate(seen, (HEIGHT, 49), mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(torch.cat([refined.background[None], refined.scores]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 4, 100])
@pytest.mark.parametrize("classes", [(), (3,), (1, 4)])
def test_maps_come_at_image_size_and_stay_in_their_range(image, stride, classes):
    given = maps(classes)
    before = given.scores.clone(), given.background.clone(), image.clone()
    refined = PAMRRefiner(stride=stride).refine(image, given)
    assert refined.classes.tolist() == list(classes)
    assert refined.scores.shape == (len(classes), HEIGHT, WIDTH)
    assert refined.background.shape == (HEIGHT, WIDTH)
    for found, start in [*zip(refined.scores, given.scores, strict=True), (refined.background, given.background)]:
        assert found.min() >= start.min() - 1e-6
        assert found.max() <= start.max() + 1e-6
    assert torch.equal(given.scores, before[0])
    assert torch.equal(given.background, before[1])
    assert torch.equal(image, before[2])


def test_without_a_class_everything_stays_background(image):
    refined = PAMRRefiner().refine(image, maps(()))
    torch.testing.assert_close(refined.background, torch.ones(HEIGHT, WIDTH))
    assert not pseudo_mask(refined).any()


def test_a_mask_grows_to_the_edge_of_its_object():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 16:48, 16:48] = 200
    scores = torch.zeros(1, 64, 64)
    scores[0, 13:44, 19:46] = 0.9
    given = LocalizationMaps(torch.tensor([0]), scores, (64, 64), background=1 - scores[0])
    truth = torch.zeros(64, 64, dtype=torch.bool)
    truth[16:48, 16:48] = True

    def iou(found):
        mask = pseudo_mask(found) == 1
        return ((mask & truth).sum() / (mask | truth).sum()).item()

    before, after = iou(given), iou(PAMRRefiner(stride=1).refine(image, given))
    assert before < 0.75
    assert after > 0.9


def test_it_needs_a_background(image):
    bare = LocalizationMaps(torch.tensor([0]), uniform(1, 5, 7), (HEIGHT, WIDTH))
    refusal(lambda: PAMRRefiner().refine(image, bare), "no background", "before")
    assert PAMRRefiner.needs_background


def test_options_of_a_recipe():
    options = checked_options(PAMRRefiner, {"dilations": [1, 2], "normalization": "paper"}, "refine.0")
    assert PAMRRefiner(**options).dilations == (1, 2)
    assert PAMRRefiner(**checked_options(PAMRRefiner, {}, "refine.0")).dilations == (1, 2, 4, 8, 12, 24)
    for wrong in ({"dilations": []}, {"dilations": [0]}, {"stride": 0}, {"iterations": -1}, {"normalization": "none"}):
        refusal(lambda wrong=wrong: checked_options(PAMRRefiner, wrong, "refine.0"), "refine.0")
