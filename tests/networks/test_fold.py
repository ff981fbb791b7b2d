"""Batch normalisation folded into convolutions: the same answers, fewer layers."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, ScaledStdConv2d
from torch import Tensor, nn

from weakseg.methods.cam import CAM
from weakseg.methods.single_stage import SingleStage
from weakseg.networks.backbone import Backbone
from weakseg.networks.channels import BlueFirst
from weakseg.networks.depthwise import in_float32
from weakseg.networks.fold import folded

NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def lively(network: nn.Module) -> nn.Module:
    """With statistics and weights that change something, in evaluation mode."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.2)
    return network.eval()


def norms_of(network: nn.Module) -> int:
    return sum(isinstance(layer, NORMS) for layer in network.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [("resnet18", 0), ("mobilenetv2_100", 0), ("efficientnet_b0", 0), ("resnet38", 17), ("densenet121", None)],
)
def test_backbones_give_the_same(name: str, left: int | None) -> None:
    backbone = lively(Backbone(name, weights="none", output_stride=None))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, state = backbone(images), copy.deepcopy(backbone.state_dict())
        fast = folded(backbone)
        torch.testing.assert_close(fast(images), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert norms_of(fast) < norms_of(backbone)
    assert left is None or norms_of(fast) == left
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame, BlueFirst])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_pairs_become_one_layer(kind: type[nn.Conv2d], trained: bool, bias: bool, affine: bool) -> None:
    layers = (kind(3, 6, 3, bias=bias), nn.Conv2d(6, 6, 3, dilation=2, groups=6), nn.BatchNorm2d(6, affine=affine))
    network = lively(nn.Sequential(layers[0], nn.BatchNorm2d(6), *layers[1:], nn.ReLU(inplace=True)).double())
    images = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    fast = folded(in_float32(network) if trained else network)
    torch.testing.assert_close(fast(images), network(images))
    assert norms_of(fast) == 0
    assert norms_of(network) == 2


class Both(nn.Module):
    """What the convolution gives goes its own way, too."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.convolution, self.norm, self.way = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), way

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        found = self.convolution(images)
        if self.way == "twice":
            return self.norm(self.convolution(self.norm(found)))
        if self.way == "activated":
            return self.norm(found.relu_())
        normal = self.norm(found)
        if self.way == "returned":
            return normal, found
        return torch.cat([normal, found]) if self.way == "listed" else normal + found


@pytest.mark.parametrize("way", ["added", "listed", "returned", "twice", "activated"])
def test_a_convolution_that_others_read_stays_as_it_is(way: str) -> None:
    network, images = lively(Both(way)), torch.randn(1, 3, 5, 4)
    fast = folded(network)
    assert norms_of(fast) == 1
    torch.testing.assert_close(fast(images), network(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    "layers",
    [
        (ScaledStdConv2d(3, 4, 3), nn.BatchNorm2d(4)),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        (nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)),
    ],
)
def test_other_layers_stay_as_they_are(layers: tuple[nn.Module, ...]) -> None:
    network, images = lively(nn.Sequential(*layers)), torch.randn(1, 3, 8, 8)
    fast = folded(network)
    assert [type(layer) for layer in fast] == [type(layer) for layer in layers]
    assert torch.equal(fast(images), network(images))


def test_a_network_without_normalisation_is_not_copied() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    assert folded(network) is network


@pytest.mark.parametrize("method", [CAM, SingleStage])
def test_methods_give_the_same(method: type[CAM] | type[SingleStage]) -> None:
    network = lively(method(Backbone("mobilenetv2_100", weights="none", output_stride=16), 3))
    images = torch.randn(2, 3, 70, 90)
    with torch.no_grad():
        expected, found = network(images), folded(network)(images)
    for name in ("scores", "logits", "features"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
