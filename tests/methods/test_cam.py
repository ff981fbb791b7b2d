"""CAM against its equations, written out."""

import math

import pytest
import torch
from torch.nn.functional import interpolate

from tests.methods.conformance import labelled_batch
from weakseg.methods.cam import CAM
from weakseg.methods.method import Views, rescale
from weakseg.networks.backbone import Backbone


def cam(**options):
    torch.manual_seed(0)
    return CAM(Backbone("test_resnet", weights="none", output_stride=16), 3, **options)


@pytest.fixture(scope="module")
def batch():
    return labelled_batch()


def seen(method, batch):
    with torch.no_grad():
        return method.eval()(batch.images)


def test_logits_are_the_mean_of_scores_that_may_be_negative(batch):
    activation = seen(cam(), batch)
    assert activation.scores.min() < 0
    torch.testing.assert_close(activation.logits, activation.scores.mean((2, 3)))


def test_logits_are_those_of_a_linear_classifier_on_pooled_features(batch):
    method = cam()
    activation = seen(method, batch)
    pooled = activation.features.mean((2, 3))
    torch.testing.assert_close(activation.logits, pooled @ method.head.weight.flatten(1).T, rtol=1e-4, atol=1e-5)


def test_features_are_the_backbones(batch):
    method = cam()
    with torch.no_grad():
        torch.testing.assert_close(seen(method, batch).features, method.backbone(batch.images))


def test_the_paper_pools_by_a_sum(batch):
    mean, total = seen(cam(), batch), seen(cam(pooling="sum"), batch)
    positions = mean.scores.shape[-2] * mean.scores.shape[-1]
    assert positions > 1
    torch.testing.assert_close(total.logits, mean.logits * positions, rtol=1e-4, atol=1e-5)


def test_loss_is_binary_cross_entropy_over_images_and_classes(batch):
    method = cam().eval()
    logits = method(batch.images).logits
    total = 0.0
    for image in range(len(batch)):
        for c in range(3):
            p = 1 / (1 + math.exp(-logits[image, c].item()))
            total -= math.log(p if batch.tags[image, c] else 1 - p)
    losses = method.losses(batch)
    assert list(losses) == ["classification"]
    assert losses["classification"].item() == pytest.approx(total / (len(batch) * 3), rel=1e-5)


def test_loss_looks_at_tags_alone(batch):
    method = cam().eval()
    blind = type(batch)(**{**vars(batch), "masks": batch.masks + 1, "saliency": batch.saliency * 0})
    assert torch.equal(method.losses(blind)["classification"], method.losses(batch)["classification"])


def slow_maps(method, image, tags, scales, grid):
    """PSA's aggregation: rectify each view, bring it to the grid, undo the flip, add; divide by the maximum."""
    total = torch.zeros(3, *grid)
    for scale in scales:
        size = [round(side * scale) for side in image.shape[-2:]]
        scaled = interpolate(image[None], size, mode="bicubic", align_corners=False, antialias=scale < 1)
        for mirrored in (False, True):
            view = torch.flip(scaled, (3,)) if mirrored else scaled
            maps = method(view).scores[0].clamp(min=0)
            maps = interpolate(maps[None], grid, mode="bilinear", align_corners=False)[0]
            total += torch.flip(maps, (2,)) if mirrored else maps
    shown = [c for c in range(3) if tags[c]]
    return torch.stack([total[c] / (total[c].max() + 1e-5) for c in shown]) if shown else torch.zeros(0, *grid)


@pytest.mark.parametrize(("stride", "grid"), [(1, (48, 72)), (4, (12, 18)), (16, (3, 5))])
def test_views_are_merged_as_in_psa(batch, stride, grid):
    method, scales = cam().eval(), (1.0, 0.5, 1.5)
    found = method.localize(batch, Views(scales, flip=True, stride=stride))
    for image, tags, maps in zip(batch.images, batch.tags, found, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(maps.scores, slow_maps(method, image, tags, scales, grid), rtol=1e-3, atol=1e-4)


def test_maps_of_a_class_reach_nearly_one(batch):
    for maps in cam().eval().localize(batch, Views((1.0,), flip=False, stride=1)):
        tops = maps.scores.amax((1, 2))
        assert (((tops > 0.9) & (tops < 1)) | (tops == 0)).all()


def test_square_root(batch):
    with torch.no_grad():
        plain, root = cam().eval().view_maps(batch.images), cam(square_root=True).eval().view_maps(batch.images)
    torch.testing.assert_close(root.square(), plain)
    assert plain.max() > 0
    assert plain.min() == 0


def test_dropout_drops_whole_channels_in_training_only(batch):
    method = cam(dropout=0.5)
    whole, thinned = seen(method, batch).features, method.train()(batch.images).features
    assert torch.equal(whole, seen(cam(), batch).features)
    alive = whole.sum((2, 3)) > 0
    kept = thinned.sum((2, 3)) > 0
    torch.testing.assert_close(thinned, 2 * whole * kept[..., None, None])
    assert 0.3 < kept[alive].float().mean() < 0.7


def test_rescale_rounds_sides_and_never_reaches_zero():
    images = torch.rand(1, 3, 5, 9)
    assert rescale(images, 1.0) is images
    assert rescale(images, 0.5).shape[-2:] == (2, 4)
    assert rescale(images, 0.01).shape[-2:] == (1, 1)


@pytest.mark.parametrize(("scales", "several"), [((1.0,), False), ((1.0, 0.5), True)])
def test_views_know_whether_they_are_several(scales, several):
    assert Views(scales).several is several
