"""DeepLab V1 and V2."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.data.trees import refusal
from weakseg.networks.classifier import CosineClassifier
from weakseg.networks.deeplab import shrunk
from weakseg.networks.segmentation import NETWORKS, create_network
from weakseg.networks.weights import save_weights
from weakseg.ops.views import max_of_logits
from weakseg.segment.losses import pixel_cross_entropy
from weakseg.segment.segmenter import Segmenter

VALUES = 4
VGG = {"encoder": "vgg16_largefov", "options": {"width": 0.125}}
RESNET = {"encoder": "resnet10t"}
CAFFE = {"encoder": "resnet101_caffe", "options": {"layers": (1, 1, 1, 1), "channels": (4, 8, 8, 8)}}
FEATURES = {"head": "features", "width": 16}


def network(name="deeplab_v1", body=RESNET, seed=0, **decoder):
    torch.manual_seed(seed)
    small = {"width": 32} if name == "deeplab_v1" else {}
    return create_network(name, VALUES, weights="none", output_stride=8, decoder={**small, **decoder}, **body)


def images(height=48, width=64, batch=2, seed=0):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def masks(height=48, width=64, batch=2, seed=0):
    return torch.randint(0, VALUES, (batch, height, width), generator=torch.Generator().manual_seed(seed))


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def whole(name, encoder, **decoder):
    """At its true size."""
    return create_network(name, 21, encoder=encoder, weights="none", output_stride=8, decoder=decoder)


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_size_of_large_fov_on_vgg(kind):
    assert count(whole("deeplab_v1", "vgg16_largefov", classifier=kind)) == 20_505_408


def test_size_of_banas_v2():
    assert count(whole("deeplab_v2", "resnet101_caffe", head="features", classifier="cosine")) == 61_379_904


@pytest.mark.parametrize("name", ["deeplab_v1", "deeplab_v2"])
@pytest.mark.parametrize("body", [VGG, RESNET, CAFFE, {"encoder": "convnext_atto"}], ids=lambda body: body["encoder"])
def test_they_answer_at_image_size(name, body):
    net = network(name, body).eval()
    with torch.no_grad():
        for size in ((48, 64), (45, 71), (33, 40)):
            assert net(images(*size)).shape == (2, VALUES, *size)


def test_layers_of_v1():
    head = network().head
    layers = [type(layer) for layer in head[0]]
    assert layers == [nn.Conv2d, nn.ReLU, nn.Dropout2d] * 2
    fc6, fc7, last = head[0][0], head[0][3], head[1]
    assert (fc6.kernel_size, fc6.dilation, fc6.out_channels) == ((3, 3), (12, 12), 32)
    assert (fc7.kernel_size, fc7.out_channels) == ((1, 1), 32)
    assert last.bias is None
    assert network(rate=6).head[0][0].dilation == (6, 6)


@pytest.mark.parametrize("rate", [1, 12])
def test_v1_adds_only_a_classifier_to_vggs_fc6_and_fc7(rate):
    """The localiser's backbone has dilation 1; here the network's own option counts."""
    net = network(body={**VGG, "options": {**VGG["options"], "fc_dilation": 1}}, rate=rate)
    assert [type(layer) for layer in net.head] == [nn.Conv2d]
    fc6 = net.encoder.features.fc[0]
    assert fc6.dilation == fc6.padding == (rate, rate)


def test_v1_on_vgg_is_what_it_says():
    net, image = network(body=VGG).eval(), images()
    fc = net.encoder.features.fc
    with torch.no_grad():
        features = net.encoder.features[:-1](image)
        features = nn.functional.conv2d(features, fc[0].weight, fc[0].bias, padding=12, dilation=12).relu()
        features = nn.functional.conv2d(features, fc[3].weight, fc[3].bias).relu()
        logits = nn.functional.conv2d(features, net.head[0].weight)
        expected = nn.functional.interpolate(logits, (48, 64), mode="bilinear", align_corners=True)
        torch.testing.assert_close(net(image), expected)


def test_layers_of_v2():
    added, features = network("deeplab_v2").head, network("deeplab_v2", **FEATURES).head
    for pyramid, outputs, bias in ((added, VALUES, True), (features[0], 16, False)):
        assert [(layer.dilation[0], layer.padding[0]) for layer in pyramid] == [(r, r) for r in (6, 12, 18, 24)]
        assert {layer.out_channels for layer in pyramid} == {outputs}
        assert {layer.bias is not None for layer in pyramid} == {bias}
    assert [type(layer) for layer in features[1:]] == [nn.ReLU, nn.Conv2d]
    assert features[2].bias is None
    assert features[0][0].weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_the_branches_of_v2_are_summed():
    net, image = network("deeplab_v2", **FEATURES).eval(), images()
    with torch.no_grad():
        found = net.backbone(image)
        summed = sum(layer(found) for layer in net.head[0]).relu()
        torch.testing.assert_close(net.scores(image), net.head[2](summed))


@pytest.mark.parametrize(("name", "options"), [("deeplab_v1", {}), ("deeplab_v2", FEATURES)])
def test_cosines(name, options):
    net = network(name, **options, classifier="cosine", scale=5.0).eval()
    assert isinstance(net.head[-1], CosineClassifier)
    assert net.cosine_scale == 5
    assert network(name, **options).cosine_scale is None
    with torch.no_grad():
        assert net(images()).abs().max() <= 5 + 1e-5


def test_cosines_need_features():
    refusal(lambda: network("deeplab_v2", classifier="cosine"), "deeplab_v2", "head: features")


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("name", ["deeplab_v1", "deeplab_v2"])
def test_how_logits_are_enlarged(name, corners):
    net, image = network(name, align_corners=corners).eval(), images()
    with torch.no_grad():
        scores = net.scores(image)
        expected = nn.functional.interpolate(scores, (48, 64), mode="bilinear", align_corners=corners)
        torch.testing.assert_close(net(image), expected)


def test_the_largest_logit_of_three_sizes_counts():
    net, image = network("deeplab_v2", multi_scale=True).eval(), images(65, 97)
    interpolate = nn.functional.interpolate
    with torch.no_grad():
        full = net.scores(image)
        views = [full]
        for factor in (0.5, 0.75):
            seen = net.scores(interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False))
            views.append(interpolate(seen, full.shape[-2:], mode="bilinear", align_corners=False))
        expected = interpolate(torch.stack(views).amax(0), (65, 97), mode="bilinear", align_corners=True)
        torch.testing.assert_close(net(image), expected)
        assert not torch.allclose(net(image), network("deeplab_v2").eval()(image))


def test_each_size_has_its_loss():
    net, image, given = network("deeplab_v2", multi_scale=True).eval(), images(65, 97), masks(65, 97)
    found = net.losses(image, given, pixel_cross_entropy)
    views = net.views(image)
    assert list(found) == ["scale_1", "scale_0.5", "scale_0.75", "maximum"]
    for name, view in zip(found, views, strict=False):
        small = pil_nearest(given, view.shape[-2:])
        torch.testing.assert_close(found[name], pixel_cross_entropy(view, small))
    largest = pixel_cross_entropy(max_of_logits(views), pil_nearest(given, views[0].shape[-2:]))
    torch.testing.assert_close(found["maximum"], largest)
    torch.stack(list(found.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def pil_nearest(given, size):
    rows = [
        np.asarray(Image.fromarray(mask.numpy().astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.NEAREST))
        for mask in given
    ]
    return torch.from_numpy(np.stack(rows)).long()


@pytest.mark.parametrize(("size", "cells"), [((321, 321), (41, 41)), ((65, 97), (9, 13)), ((48, 50), (7, 3))])
def test_masks_shrink_as_in_pil(size, cells):
    given, others = masks(*size), masks(*size, seed=1)
    found = shrunk([given, others], torch.zeros(2, VALUES, *cells))
    assert torch.equal(found[0], pil_nearest(given, cells))
    assert torch.equal(found[1], pil_nearest(others, cells))


@pytest.mark.parametrize("multi_scale", [True, False])
def test_further_label_maps_shrink_with_the_masks(multi_scale):
    net, image, seen = network("deeplab_v2", multi_scale=multi_scale).eval(), images(), []

    def loss(logits, first, second):
        seen.append((logits.shape[-2:], first.shape[-2:], second.shape[-2:]))
        assert torch.equal(first, second)
        return logits.sum()

    net.losses(image, masks(), loss, masks())
    assert len(seen) == (4 if multi_scale else 1)
    assert all(sizes[0] == sizes[1] == sizes[2] for sizes in seen)


@pytest.mark.parametrize("name", ["deeplab_v1", "deeplab_v2"])
@pytest.mark.parametrize("body", [VGG, RESNET], ids=["vgg", "resnet"])
def test_learning_rates_of_the_papers(name, body):
    segmenter = Segmenter(network(name, body))
    rates = {
        id(p): (group["lr"], group["weight_decay"])
        for group in segmenter.parameter_groups(1.0, 0.5)
        for p in group["params"]
    }
    assert len(rates) == len(list(segmenter.parameters()))
    convolutions = [(n, m) for n, m in segmenter.network.named_modules() if isinstance(m, nn.Conv2d)]
    for path, layer in convolutions:
        factor = 10 if path.startswith("head.") else 1
        assert rates[id(layer.weight)] == (factor, 0.5), path
        assert layer.bias is None or rates[id(layer.bias)] == (2 * factor, 0.0), path


def test_the_localisers_weights_fit_the_backbone(tmp_path):
    """``start: localizer`` hands over the timm model's tensors."""
    from weakseg.networks.backbone import Backbone

    torch.manual_seed(5)
    labeler = Backbone("vgg16_largefov", weights="none", output_stride=8, options=VGG["options"])
    save_weights(labeler.model, tmp_path / "w.safetensors", {})
    net = network(body=VGG)
    net.encoder.load_state_dict(labeler.model.state_dict())
    assert net.encoder.features.fc[0].dilation == (12, 12)
    again = create_network("deeplab_v1", VALUES, weights=str(tmp_path / "w.safetensors"), output_stride=8, **VGG)
    assert all(torch.equal(v, again.encoder.state_dict()[n]) for n, v in net.encoder.state_dict().items())


@pytest.mark.parametrize(("name", "options"), [("deeplab_v1", {}), ("deeplab_v2", {"multi_scale": True})])
def test_bfloat16_agrees_with_float32(name, options):
    net, image, given = network(name, **options).eval(), images(), masks()
    exact = net.losses(image, given, pixel_cross_entropy)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net.losses(image, given, pixel_cross_entropy)
    for key, value in rounded.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[key].item(), rel=0.05)


def test_weights_carry_everything():
    for name in ("deeplab_v1", "deeplab_v2"):
        one, other, image = network(name).eval(), network(name, seed=1).eval(), images()
        other.load_state_dict(one.state_dict())
        with torch.no_grad():
            assert torch.equal(one(image), other(image))


def test_they_stand_among_the_networks():
    assert {"deeplab_v1", "deeplab_v2"} <= set(NETWORKS)
    refusal(lambda: create_network("deeplab_v", 2, encoder="resnet10t"), "'deeplab_v'", "'deeplab_v1'")
