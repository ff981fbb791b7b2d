import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torchvision.transforms.v2 import functional as tv

from tests.data.samples import noise, same, seeded
from weakseg.data.colour import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColourJitter,
    HSVJitter,
    Normalise,
    adjust_hue,
    normalised,
)
from weakseg.data.sample import Sample


def test_normalise():
    sample = Normalise(IMAGENET_MEAN, IMAGENET_STD)(noise(), seeded())
    expected = tv.normalize(tv.to_dtype(noise().image, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(sample.image, expected)


def test_a_batch_is_normalised_as_each_of_its_images():
    images = [noise().image, 255 - noise().image]
    together = normalised(torch.stack(images), IMAGENET_MEAN, IMAGENET_STD)
    alone = [Normalise()(Sample("a", image), seeded()).image for image in images]
    assert torch.equal(together, torch.stack(alone))


def test_normalising_leaves_its_input_alone():
    image = noise().image.float()
    before = image.clone()
    normalised(image, IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("jitter", "enhance"),
    [
        (ColourJitter(brightness=0.9), ImageEnhance.Brightness),
        (ColourJitter(contrast=0.9), ImageEnhance.Contrast),
        (ColourJitter(saturation=0.9), ImageEnhance.Color),
    ],
)
def test_jitter_is_that_of_pil(jitter, enhance):
    sample = noise()
    jittered = jitter(sample, seeded(2)).image.float()
    pil = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    candidates = [np.array(enhance(pil).enhance(factor)) for factor in np.linspace(0.1, 1.9, 361)]
    distances = [(jittered - torch.from_numpy(image).permute(2, 0, 1)).abs().mean() for image in candidates]
    assert min(distances) < 1.5


def test_jitter_of_nothing_changes_nothing():
    assert same(ColourJitter()(noise(), seeded()), noise())


@pytest.mark.parametrize("turn", [-0.1, 0.03, 0.5])
def test_hue_is_that_of_torchvision(turn):
    ramp = torch.linspace(20, 235, 40)
    image = torch.stack([ramp.expand(40, 40), ramp.flip(0).expand(40, 40).T, torch.full((40, 40), 90.0)]).to(
        torch.uint8
    )
    difference = adjust_hue(image, turn).float() - tv.adjust_hue(image, turn).float()
    assert difference.abs().mean() < 2.5
    assert difference.abs().max() < 16


def test_hue_leaves_grey_alone():
    grey = torch.randint(0, 256, (1, 9, 9), dtype=torch.uint8).repeat(3, 1, 1)
    assert torch.equal(adjust_hue(grey, 0.2), grey)
    assert torch.equal(HSVJitter(10, 0, 0)(Sample("grey", grey), seeded()).image, grey)


def test_hsv_jitter_shifts_the_value():
    grey = torch.full((3, 5, 5), 100, dtype=torch.uint8)
    values = {int(HSVJitter(0, 0, 10)(Sample("grey", grey), seeded(seed)).image[0, 0, 0]) for seed in range(60)}
    assert values <= set(range(90, 111))
    assert len(values) > 12
