"""ResNet101 as Caffe has it."""

import pytest
import timm
import torch
from torch import nn

from tests.data.trees import refusal
from weakseg.networks.backbone import Backbone
from weakseg.networks.channels import blue_first
from weakseg.networks.weights import save_weights

SMALL = {"layers": (1, 2, 2, 2), "channels": (8, 8, 16, 16)}


def body(output_stride=8, seed=0, **options):
    torch.manual_seed(seed)
    return Backbone("resnet101_caffe", weights="none", output_stride=output_stride, options={**SMALL, **options}).eval()


def blocks(net):
    return [block for number in range(1, 5) for block in net.model.get_submodule(f"layer{number}")]


def test_strides_stand_in_the_first_convolution():
    found = [(block.conv1.stride[0], block.conv2.stride[0]) for block in blocks(body(32))]
    assert found == [(1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (2, 1), (1, 1)]


def test_all_bottlenecks_of_a_stage_are_dilated_alike():
    assert [block.conv2.dilation[0] for block in blocks(body())] == [1, 1, 1, 2, 2, 4, 4]
    assert all(block.conv1.stride == (1, 1) for block in blocks(body())[3:])


@pytest.mark.parametrize(("side", "cells"), [(321, 41), (320, 41), (64, 9)])
def test_sides_are_rounded_up(side, cells):
    with torch.no_grad():
        assert body()(torch.zeros(1, 3, side, side)).shape[-2:] == (cells, cells)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_strides(stride):
    net = body(stride)
    assert net.stride == stride
    assert net.channels == 64


def test_a_bottleneck_is_what_it_says():
    """The second stage's first one, layer by layer."""
    block, features = blocks(body(32))[1], torch.randn(1, 32, 9, 11)
    conv = nn.functional.conv2d
    with torch.no_grad():
        inside = block.bn1(conv(features, block.conv1.weight, stride=2)).relu()
        inside = block.bn2(conv(inside, block.conv2.weight, padding=1)).relu()
        inside = block.bn3(conv(inside, block.conv3.weight))
        around = block.downsample[1](conv(features, block.downsample[0].weight, stride=2))
        torch.testing.assert_close(block(features), (inside + around).relu())


def test_shapes_and_names_are_those_of_timm():
    with torch.device("meta"):
        ours, theirs = (timm.create_model(name, num_classes=0) for name in ("resnet101_caffe", "resnet101"))
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


def test_weights_that_want_blue_first(tmp_path):
    plain, image = body(), torch.randn(1, 3, 33, 41)
    save_weights(plain.model, tmp_path / "w.safetensors", {})
    turned = Backbone(
        "resnet101_caffe",
        weights=str(tmp_path / "w.safetensors"),
        output_stride=8,
        options={**SMALL, "bgr": True},
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(turned(image), plain(image.flip(1)))
        assert not torch.allclose(turned(image), plain(image))


@pytest.mark.parametrize("bias", [False, True])
def test_a_turned_layer_has_the_same_weights(bias):
    layer, image = nn.Conv2d(3, 4, (3, 5), stride=2, padding=1, bias=bias), torch.randn(2, 3, 9, 12)
    turned = blue_first(layer)
    assert torch.equal(turned.weight, layer.weight)
    torch.testing.assert_close(turned(image.flip(1)), layer(image))


def test_no_hub_has_its_weights():
    refusal(lambda: Backbone("resnet101_caffe", output_stride=8), "'resnet101_caffe'", "a local file")
