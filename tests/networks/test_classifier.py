"""Dot products and scaled cosines as the last layer."""

import math

import pytest
import torch
from torch import nn

from tests.data.trees import refusal
from weakseg.networks.classifier import CosineClassifier, build_classifier, cosines
from weakseg.networks.segmentation import DECODERS, create_network
from weakseg.ops.maps import resize

RESNET = {"encoder": "resnet10t", "weights": "none"}


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_cosine(one, other):
    lengths = math.sqrt(sum(x * x for x in one)) * math.sqrt(sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / lengths


def test_cosines_are_those_of_each_pixel_and_class():
    features, weight = drawn(2, 5, 3, 4), drawn(6, 5, seed=1)
    found = cosines(features, weight)
    assert found.shape == (2, 6, 3, 4)
    for image, c, y, x in ((0, 0, 0, 0), (1, 5, 2, 3), (0, 3, 2, 1)):
        expected = slow_cosine(features[image, :, y, x].tolist(), weight[c].tolist())
        assert found[image, c, y, x].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(cosines(features, weight[:, :, None, None]), found)


def test_lengths_do_not_count():
    features, weight = drawn(2, 5, 3, 4), drawn(6, 5, seed=1)
    longer, heavier = features * drawn(2, 1, 3, 4, seed=2).exp(), weight * drawn(6, 1, seed=3).exp()
    torch.testing.assert_close(cosines(longer, heavier), cosines(features, weight))


def test_gradients_are_orthogonal_to_features_and_weights():
    features, weight = drawn(2, 5, 3, 4).requires_grad_(), drawn(6, 5, seed=1).requires_grad_()
    (cosines(features, weight) * drawn(2, 6, 3, 4, seed=2)).sum().backward()
    assert features.grad.abs().amax() > 0.1
    torch.testing.assert_close((features * features.grad).sum(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close((weight * weight.grad).sum(1), torch.zeros(6), atol=1e-5, rtol=0)


def test_gradients_are_those_of_finite_differences():
    features, weight = (drawn(*shape, dtype=torch.float64).requires_grad_() for shape in ((2, 3, 2, 3), (4, 3)))
    assert torch.autograd.gradcheck(cosines, (features, weight))


def test_a_feature_without_length_resembles_nothing():
    features = torch.zeros(1, 5, 2, 2, requires_grad=True)
    found = cosines(features, drawn(3, 5))
    found.sum().backward()
    assert torch.equal(found, torch.zeros(1, 3, 2, 2))
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("length", [1e-20, 1e-6, 1e15])
def test_any_length_gives_cosines(length):
    found = cosines(length * drawn(1, 5, 2, 2), drawn(3, 5))
    assert found.isfinite().all()
    assert found.abs().max() <= 1 + 1e-6


def test_bfloat16_is_computed_in_float32():
    layer, features = CosineClassifier(5, 4), drawn(2, 5, 3, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer(features.float()))


def test_logits_are_scaled_cosines_within_their_bounds():
    layer, features = build_classifier(5, 4, classifier="cosine", scale=7.0), drawn(2, 5, 3, 4)
    torch.testing.assert_close(layer(features), 7 * cosines(features, layer.weight))
    best = layer(layer.weight.detach()[:1] * 3)[0, :, 0, 0]
    assert best.argmax() == 0
    assert best.max().item() == pytest.approx(7.0)


def test_scaling_before_or_after_enlarging_is_the_same():
    layer, features = build_classifier(5, 4, classifier="cosine"), drawn(2, 5, 3, 4)
    before = resize(layer(features), (17, 25), align_corners=True)
    torch.testing.assert_close(before, 20 * resize(cosines(features, layer.weight), (17, 25), align_corners=True))


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_both_kinds_have_small_weights_and_no_bias(kind):
    layer = build_classifier(500, 40, classifier=kind)
    assert isinstance(layer, CosineClassifier) is (kind == "cosine")
    assert layer.bias is None
    assert layer.weight.shape == (40, 500, 1, 1)
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_can_end_with_cosines(name):
    torch.manual_seed(0)
    net = create_network(
        name, 4, encoder="mobilenetv2_100", weights="none", decoder={"classifier": "cosine", "scale": 3.0}
    )
    layers = [layer for layer in net.modules() if isinstance(layer, CosineClassifier)]
    assert [layer.weight.shape[0] for layer in layers] == [4]
    assert net.cosine_scale == 3
    with torch.no_grad():
        logits = net.eval()(drawn(1, 3, 45, 70))
    assert logits.shape == (1, 4, 45, 70)
    assert logits.abs().max() <= 3 + 1e-5
    layers[0].weight.data *= 100
    with torch.no_grad():
        torch.testing.assert_close(net(drawn(1, 3, 45, 70)), logits)


def test_dot_products_leave_a_decoder_as_it_was():
    built = []
    for options in (None, {"classifier": "dot"}, {"classifier": "cosine"}):
        torch.manual_seed(0)
        built.append(create_network("deeplabv3plus", 4, decoder=options, **RESNET))
    assert [net.cosine_scale for net in built] == [None, None, 20.0]
    plain, dot, cosine = (net.state_dict() for net in built)
    assert plain.keys() == dot.keys()
    assert all(torch.equal(value, dot[name]) for name, value in plain.items())
    others = {name for name in plain if not name.startswith("model.segmentation_head")}
    assert all(torch.equal(plain[name], cosine[name]) for name in others)
    assert isinstance(built[1].model.segmentation_head[0], nn.Conv2d)


def test_a_classifiers_options_do_not_reach_the_decoder():
    refusal(lambda: create_network("unet", 4, decoder={"classifier": "cosine", "clasifier": 1}, **RESNET), "clasifier")
