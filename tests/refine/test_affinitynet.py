"""AffinityNet against loops and dense matrices; what it learns; the walk."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.data.trees import refusal
from tests.refine.learning import batch_of, maps_of, picture, small_backbone, train
from weakseg.networks.backbone import Backbone
from weakseg.ops.crf import CRFParameters, dense_crf
from weakseg.ops.maps import resize
from weakseg.ops.pairs import pair_labels, pair_offsets
from weakseg.ops.random_walk import feature_links
from weakseg.pipeline.options import checked_options
from weakseg.pipeline.recipe import Training
from weakseg.refine.affinitynet import (
    WEIGHTS,
    AffinityNet,
    affinity_losses,
    confident_labels,
    fitting_radius,
    pair_affinity,
)
from weakseg.refine.masks import at_image_size

HEIGHT, WIDTH = 48, 64


def small(**options):
    return AffinityNet(small_backbone(8), **options)


@pytest.fixture(scope="module")
def refiner():
    return small(walk_alpha=2.0).eval()


def thirds(height, width):
    """What both CRFs could have said: background, and two classes beside it."""
    scores = torch.zeros(3, height, width)
    for number, part in enumerate(scores.tensor_split(3, dim=-1)):
        part[number] = 1
    return scores.repeat_interleave(2, 0)


def pairs(height, width, radius):
    """All pairs of training: ((y, x), (y', x'))."""
    for y in range(height - radius + 1):
        for x in range(radius - 1, width - radius + 1):
            for dy, dx in pair_offsets(radius).tolist():
                yield (y, x), (y + dy, x + dx)


def test_labels_where_both_backgrounds_agree():
    strong, weak = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind()
    strong[:, 0, 0] = weak[:, 0, 0] = 0
    strong[:, 0, 1], weak[:, 0, 1] = 0, torch.tensor([0.9, 0.1, 0.0])
    found = confident_labels(strong, weak)
    for y in range(4):
        for x in range(5):
            low, high = strong[:, y, x].tolist(), weak[:, y, x].tolist()
            expected = low.index(max(low)) or 255
            if high.index(max(high)) == 0:
                expected = 0
            if max(low + high) < 1e-5:
                expected = 255
            assert found[y, x] == expected
    assert found[0, :2].tolist() == [255, 0]
    assert {0, 1, 2, 255} == set(found.unique().tolist())


def test_affinity_is_the_mean_difference_of_channels():
    features = torch.randn(1, 6, 7, 9, generator=torch.Generator().manual_seed(0))
    found = pair_affinity(features, 3)
    expected = [
        math.exp(-(features[0, :, y, x] - features[0, :, v, u]).abs().mean().item())
        for (y, x), (v, u) in pairs(7, 9, 3)
    ]
    torch.testing.assert_close(found[0].T.flatten(), torch.tensor(expected))


def test_the_loss_is_a_mean_over_each_kind_of_pair():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 8, 9, generator=generator)
    labels = torch.tensor([0, 0, 1, 2, 255])[torch.randint(0, 5, (2, 8, 9), generator=generator)]
    found = affinity_losses(pair_affinity(features, 3), pair_labels(labels, 3))
    values = {"background": [], "foreground": [], "negative": []}
    for image in range(2):
        for here, there in pairs(8, 9, 3):
            a, b = labels[image][here].item(), labels[image][there].item()
            if 255 in (a, b):
                continue
            difference = (features[image][:, here[0], here[1]] - features[image][:, there[0], there[1]]).abs().mean()
            affinity = math.exp(-difference.item())
            kind = "negative" if a != b else "foreground" if a else "background"
            values[kind].append(-math.log((affinity if a == b else 1 - affinity) + 1e-5))
    for kind, terms in values.items():
        assert len(terms) > 10
        assert found[kind].item() == pytest.approx(sum(terms) / (len(terms) + 1e-5), rel=1e-4)


def test_without_pairs_there_is_no_loss():
    found = affinity_losses(torch.rand(1, 4, 6), pair_labels(torch.full((1, 3, 5), 255), 2))
    assert [value.item() for value in found.values()] == [0, 0, 0]


def test_the_radius_shrinks_only_where_no_pair_would_be_left():
    for radius in (2, 3, 5, 10):
        for height in range(1, 14):
            for width in range(1, 24):
                usual = any(True for _ in pairs(height, width, radius))
                found = fitting_radius(radius, height, width)
                assert found == (radius if usual else max(2, (min(height, width) - 1) // 2))
                assert min(height, width) < 3 or any(True for _ in pairs(height, width, found))


@pytest.mark.parametrize("classes", [(1,), (1, 4)])
def test_targets_are_two_crfs_in_turn(refiner, classes):
    image, maps = picture(32, 32), maps_of((32, 32), classes)
    found = refiner.targets(image, maps)
    assert found.shape == (2 * (len(classes) + 1), 32, 32)
    scores = at_image_size(maps).scores
    for place, alpha in enumerate((4, 32)):
        stack = torch.cat([(1 - scores.amax(0, keepdim=True)) ** alpha, scores])
        expected = dense_crf(image.permute(1, 2, 0).contiguous(), stack, "A")
        torch.testing.assert_close(found[place::2], expected)
    assert (found[0] >= found[1] - 1e-6).all()


def test_an_image_without_a_class_is_all_background(refiner):
    found = refiner.targets(picture(32, 32), maps_of((32, 32), ()))
    assert torch.equal(found, torch.ones(2, 32, 32))
    labels = confident_labels(found[0::2], found[1::2])
    assert not labels.any()


def test_images_with_fewer_classes_are_filled_with_zeros_and_stay_what_they_are(refiner):
    """The same image alone, and beside one with more classes."""
    images = [picture(HEIGHT, WIDTH, seed) for seed in range(2)]
    targets = [
        refiner.targets(image, maps_of((HEIGHT, WIDTH), classes))
        for image, classes in zip(images, ((), (1, 4)), strict=True)
    ]
    together = batch_of(refiner, images, targets)
    assert together.scores.shape == (2, 6, HEIGHT, WIDTH)
    for number in range(2):
        alone = batch_of(refiner, images[number : number + 1], targets[number : number + 1]).scores[0]
        padded = together.scores[number]
        torch.testing.assert_close(
            confident_labels(padded[0::2], padded[1::2]), confident_labels(alone[0::2], alone[1::2])
        )


def test_what_pads_the_crop_is_not_learnt(refiner):
    """Without any score there is no pair, whatever the network says."""
    batch = batch_of(refiner, [picture(HEIGHT, WIDTH)], [torch.zeros(6, HEIGHT, WIDTH)])
    assert [value.item() for value in refiner.losses(batch).values()] == [0, 0, 0]


@pytest.mark.parametrize("size", [(48, 64), (50, 60), (40, 48)])
def test_the_loss_reaches_every_layer(size):
    refiner = small().train()
    images = [picture(*size, seed) for seed in range(2)]
    losses = refiner.losses(batch_of(refiner, images, [thirds(*size), thirds(*size)]))
    assert set(losses) == {"background", "foreground", "negative"}
    assert all(value > 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in refiner.head.parameters())
    assert refiner.backbone.model.conv1[0].weight.grad.abs().sum() > 0


def test_losses_are_weighted_so_that_their_sum_counts():
    refiner = small().eval()
    image = picture(HEIGHT, WIDTH)
    target = thirds(HEIGHT, WIDTH)
    batch = batch_of(refiner, [image], [target])
    pooled = torch.nn.functional.avg_pool2d(target[None], 8)
    labels = confident_labels(pooled[:, 0::2], pooled[:, 1::2])
    radius = fitting_radius(5, HEIGHT // 8, WIDTH // 8)
    terms = affinity_losses(pair_affinity(refiner(batch.images), radius), pair_labels(labels, radius))
    losses = refiner.losses(batch)
    for name, share in zip(("background", "foreground", "negative"), (1 / 4, 1 / 4, 1 / 2), strict=True):
        assert WEIGHTS[name] == share
        assert losses[name].item() == pytest.approx(share * terms[name].item())


def test_half_precision_of_the_network_is_not_that_of_the_losses(refiner):
    images = [picture(HEIGHT, WIDTH)]
    batch = batch_of(refiner, images, [thirds(HEIGHT, WIDTH)])
    with torch.autocast("cpu", torch.bfloat16):
        losses = refiner.losses(batch)
    for name, exact in refiner.losses(batch).items():
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(exact.item(), rel=0.1)


def test_it_learns():
    refiner = small()
    images = [picture(64, 64, seed) for seed in range(2)]
    batch = batch_of(refiner, images, [thirds(64, 64), thirds(64, 64)])
    totals = train(refiner, batch, steps=8, lr=0.01)
    assert totals[-1] < 0.8 * totals[0]


def test_new_layers_learn_ten_times_faster(refiner):
    groups = refiner.parameter_groups(0.01, 5e-4)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in refiner.head.parameters()} == {0.1}
    assert rates[id(refiner.backbone.model.conv1[0].weight)] == 0.01


@pytest.mark.parametrize(("connect", "radius"), [("cropped", 2), ("all", 5)])
def test_the_walk_is_that_of_the_dense_matrix(refiner, connect, radius, monkeypatch):
    """M T^256 on [background, classes], averaged over 8 x 8 pixels; T's columns sum to 1.

    On 6 x 8 cells there are no pairs of training with radius 5, but many others.
    """
    monkeypatch.setattr(refiner, "connect", connect)
    image, maps = picture(HEIGHT, WIDTH), maps_of((HEIGHT, WIDTH))
    scores = at_image_size(maps).scores
    stack = torch.cat([(1 - scores.amax(0, keepdim=True)) ** 2, scores])
    start = torch.nn.functional.avg_pool2d(stack, 8)
    batch = batch_of(refiner, [image], [torch.ones(2, HEIGHT, WIDTH)])
    with torch.no_grad():
        features = refiner(batch.images)[0]
    matrix = feature_links(features.double(), radius, connect).matrix() ** 8
    moved = torch.linalg.matrix_power(matrix / matrix.sum(0), 256)
    walked = (start.double().flatten(1) @ moved).view_as(start)
    refined = refiner.refine(image, maps)
    found = torch.cat([refined.background[None], refined.scores])
    torch.testing.assert_close(found, resize(walked, (HEIGHT, WIDTH)).float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("connect", ["all", "cropped"])
def test_a_constant_map_stays(connect):
    refiner = small(connect=connect, walk_threshold=0.4, logt=4).eval()
    maps = maps_of((HEIGHT, WIDTH))
    refined = refiner.refine(picture(HEIGHT, WIDTH), maps.with_scores(torch.full_like(maps.scores, 0.7), None))
    torch.testing.assert_close(refined.scores, torch.full((2, HEIGHT, WIDTH), 0.7))
    torch.testing.assert_close(refined.background, torch.full((HEIGHT, WIDTH), 0.4))


@pytest.mark.parametrize("connect", ["cropped", "all"])
@pytest.mark.parametrize("size", [(37, 50), (HEIGHT, WIDTH), (9, 70)])
@pytest.mark.parametrize("classes", [(), (3,), (1, 4)])
def test_refined_maps_have_the_image_s_size_and_their_own_range(refiner, size, classes, connect, monkeypatch):
    monkeypatch.setattr(refiner, "connect", connect)
    maps = maps_of(size, classes)
    refined = refiner.refine(picture(*size), maps)
    assert refined.classes.tolist() == list(classes)
    assert refined.scores.shape == (len(classes), *size)
    assert refined.background.shape == size
    assert not refined.scores.requires_grad
    assert (refined.scores >= 0).all()
    assert (refined.scores <= 1).all()


def test_the_walk_stays_within_what_looks_alike():
    """With features of two flat halves, a score in the left half fills it and does not cross."""
    refiner = small(connect="all", logt=8).eval()

    class Halves(torch.nn.Module):
        def forward(self, stages):
            features = torch.zeros(1, 4, 8, 16)
            features[..., 8:] = 9
            return features

    refiner.head = Halves()
    maps = maps_of((64, 128), (2,))
    scores = torch.zeros_like(maps.scores)
    scores[:, 4:12, 4:8] = 1
    refined = refiner.refine(picture(64, 128), maps.with_scores(scores, None))
    assert refined.scores[0, :, :60].min() > 0.05
    assert refined.scores[0, :, 68:].max() < 1e-3


def test_vgg16_s_variant_normalises_groups():
    layers = [layer[1] for layer in small(group_norm=True).head.reduce]
    assert [(layer.num_groups, layer.num_channels) for layer in layers] == [(8, 64), (16, 128), (32, 256)]


def test_resnet38_is_read_at_conv4_conv5_and_conv6():
    backbone = Backbone("resnet38", weights="none", output_stride=8, options={"width": 1 / 32})
    refiner = AffinityNet(backbone)
    head = refiner.head
    assert [stage.stride for stage in refiner.stages] == [8, 8, 8]
    assert [layer[0].weight.shape[:2] for layer in head.reduce] == [(64, 16), (128, 32), (256, 128)]
    assert head.mix.weight.shape[:2] == (448, 448)


@pytest.mark.parametrize("name", ["vgg16_conv5", "vgg16_deeplab"])
def test_stages_finer_than_the_backbone_s_grid_are_pooled(name):
    """VGG16's conv3 has stride 4; the radius and the averaged targets mean cells of the backbone's stride."""
    refiner = AffinityNet(Backbone(name, weights="none", output_stride=8, options={"width": 1 / 16})).eval()
    assert [stage.stride for stage in refiner.stages] == [4, 8, 8]
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = refiner(images)
        conv3, conv4, conv5 = refiner.backbone.stages(images)[-3:]
        expected = refiner.head([torch.nn.functional.max_pool2d(conv3, 3, 2, 1), conv4, conv5])
    assert found.shape == (2, 448, 8, 12)
    torch.testing.assert_close(found, expected)
    assert refiner.refine(picture(60, 90), maps_of((60, 90))).scores.shape == (2, 60, 90)


def test_a_network_is_saved_and_read(tmp_path, refiner):
    save_file(refiner.state_dict(), tmp_path / "network.safetensors")
    other = small(walk_alpha=2.0).eval()
    torch.nn.init.zeros_(other.head.mix.weight)
    other.load_state_dict(load_file(tmp_path / "network.safetensors"))
    image, maps = picture(HEIGHT, WIDTH), maps_of((HEIGHT, WIDTH))
    assert torch.equal(other.refine(image, maps).scores, refiner.refine(image, maps).scores)


def test_options_and_settings_are_those_of_a_recipe():
    options = checked_options(AffinityNet, {}, "refine.0")
    assert AffinityNet.inference_options <= set(options)
    settings = Training.model_validate(AffinityNet.settings)
    assert (settings.lr, settings.batch, settings.epochs, settings.momentum) == (0.01, 8, 8, None)
    refusal(lambda: small(crf="a"), "CRF parameter set 'a'", "'A'")


def test_the_crf_behind_the_targets_can_be_scaled(refiner):
    image, maps = picture(32, 32), maps_of((32, 32))
    found = small(crf="D", scale_factor=2).targets(image, maps)
    scores = at_image_size(maps).scores
    stack = torch.cat([(1 - scores.amax(0, keepdim=True)) ** 4, scores])
    expected = dense_crf(image.permute(1, 2, 0).contiguous(), stack, CRFParameters(10, 0.5, 3, 33.5, 3, 4))
    torch.testing.assert_close(found[0::2], expected)
