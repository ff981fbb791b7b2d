"""The network with a global stream."""

import math

import pytest
import timm
import torch
from torch import nn

from tests.data.trees import refusal
from weakseg.networks import global_stream
from weakseg.networks.backbone import Backbone
from weakseg.networks.global_stream import GlobalStream, global_loss, shown_values
from weakseg.networks.segmentation import NETWORKS, SegmentationNetwork, create_network
from weakseg.networks.weights import save_weights
from weakseg.segment.losses import pixel_cross_entropy
from weakseg.segment.segmenter import Segmenter

VALUES = 4
VGG = {"encoder": "vgg16_deeplab", "options": {"width": 0.125}}
RESNET = {"encoder": "resnet10t"}


def network(body=RESNET, output_stride=8, seed=0, decoder=None, **more):
    torch.manual_seed(seed)
    settings = {"weights": "none", "output_stride": output_stride, **body, **more}
    return create_network("global_stream", VALUES, decoder={"width": 32, **(decoder or {})}, **settings)


def masks(height=48, width=64, batch=2, seed=0):
    found = torch.randint(0, VALUES, (batch, height, width), generator=torch.Generator().manual_seed(seed))
    found[0, :, :20] = 255
    return found


def test_shown_values():
    given = torch.tensor([[[0, 0], [2, 255]], [[255, 255], [255, 255]], [[3, 1], [1, 1]]])
    assert shown_values(given, 4).int().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]


def test_global_loss_is_a_sum_over_values_and_a_mean_over_images():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    given = torch.tensor([[[0, 0], [2, 255]], [[255, 255], [255, 255]], [[3, 1], [1, 1]]])
    total = 0.0
    for image, shown in ((0, {0, 2}), (2, {1, 3})):
        for value in range(4):
            p = 1 / (1 + math.exp(-logits[image, value].item()))
            total -= math.log(p if value in shown else 1 - p)
    assert global_loss(logits, given).item() == pytest.approx(total / 3, rel=1e-5)


def test_nothing_is_learnt_where_all_is_ignored():
    logits = torch.randn(2, 4, requires_grad=True)
    global_loss(logits, torch.full((2, 3, 3), 255)).backward()
    assert not logits.grad.any()


BODIES = [VGG, RESNET, {"encoder": "mobilenetv3_small_050"}, {"encoder": "convnext_atto"}]


@pytest.mark.parametrize("body", BODIES, ids=[body["encoder"] for body in BODIES])
def test_it_answers_at_image_size(body):
    net = network(body).eval()
    with torch.no_grad():
        for size in ((48, 64), (45, 71), (33, 40)):
            assert net(torch.randn(2, 3, *size)).shape == (2, VALUES, *size)


@pytest.mark.parametrize("body", [VGG, RESNET], ids=["vgg", "resnet"])
def test_logits_are_the_sum_of_both_streams(body):
    """Each computed for itself from whole backbones: a dilated one, and one with the strides it was trained with."""
    net, images = network(body).eval(), torch.randn(2, 3, 64, 96)
    plain = Backbone(net.backbone.name, weights="none", output_stride=None, options=body.get("options")).eval()
    plain.load_state_dict(net.backbone.state_dict())
    with torch.no_grad():
        local = net.head(net.backbone(images))
        overall = net.after_pool(net.before_pool(plain(images)).mean((2, 3)))
        expected = nn.functional.interpolate(local + overall[..., None, None], (64, 96), mode="bilinear")
        assert plain.stride == 32
        assert local.shape[-2:] == (8, 12)
        torch.testing.assert_close(net(images), expected)


def test_pooling_by_the_maximum():
    images = torch.randn(1, 3, 64, 96)
    mean, largest = network().eval(), network(decoder={"pooling": "max"}).eval()
    with torch.no_grad():
        pooled = largest.global_branch(largest.parts.trunk(images))
        torch.testing.assert_close(largest.streams(images)[1], largest.after_pool(pooled.amax((2, 3))))
        torch.testing.assert_close(mean.streams(images)[1], mean.after_pool(pooled.mean((2, 3))))


def test_heads_of_the_papers():
    vgg, resnet = network(VGG), network(RESNET)
    rates = [branch[0].dilation[0] for branch in vgg.head[0]]
    assert rates == [6, 12, 18, 24]
    assert [layer.dilation[0] for layer in resnet.head if isinstance(layer, nn.Conv2d)] == [12, 1, 1]
    assert vgg.before_pool[0].dilation == (3, 3)
    assert isinstance(resnet.before_pool, nn.Identity)
    assert type(network(RESNET, decoder={"head": "parallel"}).head) is type(vgg.head)
    assert type(network(VGG, decoder={"head": "single"}).head) is type(resnet.head)


def test_losses_are_those_of_the_shrunk_mask_and_of_the_image():
    net, images, given = network().eval(), torch.randn(2, 3, 48, 64), masks()
    found = net.losses(images, given, pixel_cross_entropy)
    local, overall = net.streams(images)
    small = given[:, ::8, ::8]
    assert list(found) == ["segmentation", "global"]
    torch.testing.assert_close(found["segmentation"], pixel_cross_entropy(local + overall[..., None, None], small))
    torch.testing.assert_close(found["global"], global_loss(overall, given))
    half = network(decoder={"global_weight": 0.5}).eval().losses(images, given, pixel_cross_entropy)
    torch.testing.assert_close(half["global"], found["global"] / 2)


def test_further_label_maps_shrink_with_the_mask():
    seen = []

    def loss(logits, first, second):
        seen.append((first, second))
        return logits.sum()

    network().losses(torch.randn(2, 3, 48, 64), masks(), loss, masks(seed=1))
    assert torch.equal(seen[0][0], masks()[:, ::8, ::8])
    assert torch.equal(seen[0][1], masks(seed=1)[:, ::8, ::8])


def test_a_vgg_with_fc6_and_fc7_gets_no_others():
    net = network({"encoder": "vgg16_largefov", "options": {"width": 0.125}})
    assert isinstance(net.before_pool, nn.Identity)
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 3, 48, 64)).shape == (1, VALUES, 48, 64)


def test_the_segmenter_takes_the_networks_losses():
    from tests.methods.conformance import labelled_batch

    batch = labelled_batch(classes=VALUES - 1)
    segmenter = Segmenter(network().eval())
    found = segmenter.losses(batch)
    assert list(found) == ["segmentation", "global"]
    torch.stack(list(found.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in segmenter.parameters())
    assert segmenter.predict(batch.images, (1.0, 0.5), flip=True, merge="mean").shape == (3, VALUES, 48, 72)


def test_bfloat16_agrees_with_float32():
    net, images, given = network().eval(), torch.randn(2, 3, 48, 64), masks()
    exact = net.losses(images, given, pixel_cross_entropy)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net.losses(images, given, pixel_cross_entropy)
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.05)


def test_both_extractors_learn_slowly():
    segmenter = Segmenter(network())
    rates = {id(p): group["lr"] for group in segmenter.parameter_groups(0.01, 1e-4) for p in group["params"]}
    assert len(rates) == len(list(segmenter.parameters()))
    for name, parameter in segmenter.network.named_parameters():
        slow = name.startswith(("backbone.", "global_branch."))
        assert (rates[id(parameter)] <= 0.02) is slow, name


def test_frozen_parts_are_frozen_in_both_streams():
    net = network(freeze=["layer4"])
    frozen = {name.split(".")[0] for name, value in net.named_parameters() if not value.requires_grad}
    assert frozen == {"backbone", "global_branch"}


@pytest.mark.parametrize(("mode", "moves"), [("train", True), ("statistics", False)])
def test_batch_normalisation_of_both_streams(mode, moves):
    net = network(batchnorm=mode).train()
    assert {layer.training for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)} == {moves}


def test_other_weights_reach_both_streams(tmp_path):
    source = network(seed=1)
    save_weights(source.encoder, tmp_path / "w.safetensors", {})
    net = network(weights=str(tmp_path / "w.safetensors"))
    given = source.global_branch.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in net.global_branch.state_dict().items())
    other = network()
    other.encoder.load_state_dict(source.encoder.state_dict())
    other.copy_encoder()
    assert all(torch.equal(value, given[name]) for name, value in other.global_branch.state_dict().items())


def whole_vgg(fc6, fc7):
    weights = dict(Backbone("vgg16_conv5", weights="none").model.state_dict())
    weights[f"{fc6}.weight"] = torch.arange(49.0).repeat(4096, 512) + torch.arange(4096.0)[:, None]
    weights[f"{fc7}.weight"] = torch.arange(4096.0)[:, None] + torch.arange(4096.0) / 4096
    return weights | {f"{name}.bias": torch.arange(4096.0) for name in (fc6, fc7)}


@pytest.fixture(params=["file", "timm"])
def weights_with_classifier(request, tmp_path, monkeypatch):
    """What ``backbone.weights`` is to be: a file as torchvision's, or timm, whose hub gives a file as its own."""
    if request.param == "timm":
        given, asked = whole_vgg("pre_logits.fc1", "pre_logits.fc2"), []
        for module in (timm.models._builder, global_stream):
            monkeypatch.setattr(module, "load_state_dict_from_hf", lambda hub_id, **_: asked.append(hub_id) or given)
        yield "timm"
        assert set(asked) == {"timm/vgg16.tv_in1k"}
        return
    torch.save(whole_vgg("classifier.0", "classifier.3"), tmp_path / "w.pth")
    yield str(tmp_path / "w.pth")


def test_fc6_and_fc7_of_vgg_start_from_the_classifier(weights_with_classifier):
    """Every fourth of 4096, every third of 7 x 7; all branches alike."""
    net = create_network(
        "global_stream", VALUES, encoder="vgg16_deeplab", weights=weights_with_classifier, output_stride=8
    )
    places = torch.tensor([[0.0, 3, 6], [21, 24, 27], [42, 45, 48]])
    for branch in (*net.head[0], net.before_pool):
        fc6, fc7 = branch[0], branch[2]
        assert torch.equal(fc6.weight[5, 100], places + 20)
        assert torch.equal(fc6.bias, torch.arange(0.0, 4096, 4))
        assert fc7.weight[5, 2].item() == 20 + 8 / 4096
    again = network(VGG)
    assert not torch.equal(again.head[0][0][0].weight, again.head[0][1][0].weight)


def test_weights_carry_everything():
    one, other, images = network().eval(), network(seed=1).eval(), torch.randn(1, 3, 40, 56)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one(images), other(images))


def test_it_stands_among_the_networks():
    assert NETWORKS["global_stream"] is GlobalStream
    assert isinstance(create_network("unet", 2, encoder="resnet10t", weights="none"), SegmentationNetwork)
    refusal(lambda: create_network("global_steam", 2, encoder="resnet10t"), "'global_steam'", "'global_stream'")
    refusal(lambda: network({"encoder": "vit_tiny_patch16_224"}, None), "vit_tiny_patch16_224", "cannot be cut")
