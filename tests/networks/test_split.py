"""Backbones cut in two."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from tests.data.trees import refusal
from weakseg.networks.backbone import Backbone
from weakseg.networks.groups import parameter_groups
from weakseg.networks.split import cuts, split

BODIES = {
    "vgg16_conv5": {"options": {"width": 0.125}},
    "vgg16_deeplab": {"options": {"width": 0.125}},
    "resnet38": {"options": {"width": 0.0625}},
    "resnet10t": {},
    "mobilenetv2_100": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "convnext_atto": {},
}


def body(name, output_stride=16, **settings):
    torch.manual_seed(0)
    net = Backbone(name, weights="none", output_stride=output_stride, **{**BODIES.get(name, {}), **settings})
    for layer in net.modules():  # statistics that leave nothing as it is
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", BODIES)
def test_trunk_and_rest_are_the_backbone_to_the_bit(name, stride):
    net = body(name, stride).eval()
    images = torch.randn(2, 3, 50, 71)
    places = cuts(net)
    assert len(places) >= 3
    with torch.no_grad():
        whole = net(images)
        for number in places:
            trunk, rest = split(net, number)
            shared = trunk(images)
            kept = shared.clone()
            assert torch.equal(rest(shared), whole)
            assert torch.equal(deepcopy(rest)(shared), whole)
            assert torch.equal(shared, kept)


def test_vgg16_shares_two_blocks_and_their_pools():
    net = body("vgg16_conv5")
    trunk, rest = split(net, 2)
    assert [type(layer).__name__ for layer in trunk.children()] == [*["Conv2d", "ReLU"] * 2, "MaxPool2d"] * 2
    assert trunk(torch.zeros(1, 3, 64, 96)).shape == (1, 16, 16, 24)
    assert sum(isinstance(layer, nn.Conv2d) for layer in rest.modules()) == 9


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("vgg16_conv5", {1: 2, 2: 4, 3: 8, 4: 16}),
        ("resnet10t", {1: 4, 2: 4, 3: 8, 4: 16}),
        ("resnet38", {1: 1, 2: 2, 3: 4, 4: 8, 5: 16}),
        ("convnext_atto", {1: 4, 2: 8, 3: 16}),
    ],
)
def test_where_it_can_be_cut(name, strides):
    assert cuts(body(name)) == strides


def test_a_backbone_that_takes_no_small_images():
    net = body("inception_v3", None).eval()
    assert cuts(net) == {1: 4, 2: 8, 3: 8, 4: 16}
    images = torch.randn(1, 3, 99, 120)
    trunk, rest = split(net, 2)
    with torch.no_grad():
        assert torch.equal(rest(trunk(images)), net(images))


def test_the_parts_are_the_backbones_own_layers():
    net = body("resnet10t")
    trunk, rest = split(net, 2)
    own = {id(parameter) for parameter in net.parameters()}
    parts = [id(parameter) for part in (trunk, rest) for parameter in part.parameters()]
    assert sorted(parts) == sorted(own)


def test_a_copy_has_weights_of_its_own_that_start_alike():
    rest = split(body("resnet10t"), 2).rest
    copy = deepcopy(rest)
    pairs = list(zip(rest.parameters(), copy.parameters(), strict=True))
    assert all(one is not other and torch.equal(one, other) for one, other in pairs)
    assert list(copy.state_dict()) == list(rest.state_dict())


def test_what_is_frozen_stays_frozen_in_the_copy():
    net = body("resnet10t", freeze=["layer3"])
    copy = deepcopy(split(net, 2).rest)
    frozen = {name for name, value in copy.named_parameters() if not value.requires_grad}
    assert frozen
    assert frozen == {name for name, _ in copy.named_parameters() if name.startswith("layer3")}


@pytest.mark.parametrize(("mode", "moves"), [("train", True), ("statistics", False), ("frozen", False)])
def test_batch_normalisation_of_a_copy(mode, moves):
    copy = deepcopy(split(body("resnet10t", batchnorm=mode), 2).rest).train()
    layers = [layer for layer in copy.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {layer.training for layer in layers} == {moves}
    assert {layer.weight.requires_grad for layer in layers} == {mode != "frozen"}


@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_nothing(training):
    net = body("resnet10t", batchnorm="train").train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cuts(net)
    split(net, 2)
    assert all(layer.training is training for layer in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(layer._forward_hooks for layer in net.modules())


def test_gradients_of_the_parts_are_those_of_the_whole():
    net, images = body("mobilenetv3_small_050").eval(), torch.randn(2, 3, 48, 64)
    net(images).square().sum().backward()
    expected = {name: value.grad for name, value in net.named_parameters() if value.grad is not None}
    net.zero_grad(set_to_none=True)
    trunk, rest = split(net, 2)
    rest(trunk(images)).square().sum().backward()
    found = {name: value.grad for name, value in net.named_parameters() if value.grad is not None}
    torch.testing.assert_close(found, expected)


def test_learning_rates_of_a_copy():
    net = body("resnet10t")
    model = nn.ModuleDict({"backbone": net, "copy": deepcopy(split(net, 2).rest), "head": nn.Conv2d(512, 3, 1)})
    groups = parameter_groups(model, nn.ModuleList([model["backbone"], model["copy"]]), 0.1, 1e-4)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model["head"].weight)] == pytest.approx(1.0)
    assert all(rates[id(parameter)] <= 0.2 for parameter in model["copy"].parameters())


@pytest.mark.parametrize("number", [0, 5, 99])
def test_a_place_where_it_cannot_be_cut(number):
    refusal(lambda: split(body("resnet10t"), number), "'resnet10t'", f"after {number} stages", "1, 2, 3, 4")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_mambaout"])
def test_what_is_no_chain_is_refused(name):
    net = body(name, None)
    assert cuts(net) == {}
    refusal(lambda: split(net, 2), f"'{name}'", "cannot be cut", "ResNet")
