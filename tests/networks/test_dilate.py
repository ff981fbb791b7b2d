"""Dilation against what it stands for, and against timm's own."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from weakseg.networks.dilate import dilate, power_of_two, unstride

PLAIN = "regnetx_002"  # strides in odd convolutions only, nothing that looks at the whole image
TWIN = "mobilenetv2_100"


def model(name, **options):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **options).eval().double()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):  # nothing is trained here: let it do something all the same
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return net


def dilated(name, stride):
    net = model(name)
    dilate(net, torch.zeros(1, 3, 128, 128, dtype=torch.float64), stride)
    return net


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", [PLAIN, TWIN])
def test_the_coarse_map_is_a_subsample_of_the_fine_one(name, stride, images):
    """The definition: the dilated network computes the same filter responses, at more places."""
    step = 32 // stride
    with torch.no_grad():
        coarse, fine = model(name).forward_features(images), dilated(name, stride).forward_features(images)
    assert fine.shape[-2:] == (96 // stride, 128 // stride)
    torch.testing.assert_close(fine[..., ::step, ::step], coarse)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", [PLAIN, TWIN])
def test_timm_dilates_in_the_same_way(name, stride, images):
    theirs = model(name, output_stride=stride)
    ours = dilated(name, stride)
    ours.load_state_dict(theirs.state_dict())
    for one, other in zip(ours.modules(), theirs.modules(), strict=True):
        if isinstance(one, nn.Conv2d) and one.kernel_size != (1, 1):
            assert (one.stride, one.dilation, one.padding) == (other.stride, other.dilation, other.padding)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(images), theirs.forward_features(images))


@pytest.mark.parametrize("stride", [8, 16])
def test_without_dilation_only_strides_change(stride, images):
    """By hand: IRN's ResNet50 has the strides 2, 2, 2 and 1 and no dilation."""
    ours, by_hand = model("resnet10t"), model("resnet10t")
    unstride(ours, torch.zeros(1, 3, 128, 128, dtype=torch.float64), stride)
    for stage in (by_hand.layer3, by_hand.layer4)[-1 if stride == 16 else 0 :]:
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
            elif isinstance(layer, nn.AvgPool2d):
                layer.kernel_size, layer.stride, layer.padding = 3, 1, 1
    assert all(layer.dilation == (1, 1) for layer in ours.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        fine = ours.forward_features(images)
        assert fine.shape[-2:] == (96 // stride, 128 // stride)
        torch.testing.assert_close(fine, by_hand.forward_features(images))


def test_a_network_that_is_fine_enough_is_left_alone(images):
    net = dilated(PLAIN, 32)
    with torch.no_grad():
        assert torch.equal(net.forward_features(images), model(PLAIN).forward_features(images))


def test_pooling_loses_its_stride_and_keeps_the_size():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(4, 5, 3, padding=1))
    dilate(net, torch.zeros(1, 3, 32, 32), 4)
    assert net(torch.zeros(1, 3, 32, 48)).shape == (1, 5, 8, 12)
    inside = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(net[2](inside)[..., 1:-1, 1:-1], avg_pool2d(inside, 3, 1))


def test_an_even_convolution_with_stride_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2))
    with pytest.raises(ValueError, match="2x2 convolution with stride 2"):
        dilate(net, torch.zeros(1, 3, 32, 32), 4)


@pytest.mark.parametrize(("ratio", "nearest"), [(1, 1), (176 / 6, 32), (299 / 35, 8), (299 / 17, 16), (32, 32)])
def test_ratios_of_rounded_sides_are_powers_of_two(ratio, nearest):
    assert power_of_two(ratio) == nearest
