"""Batch normalisation folded into convolutions: the same answers, fewer layers."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, ScaledStdConv2d
from torch import Tensor, nn

from tests.methods.conformance import VIEWS, Setup, labelled_batch
from weakseg.methods.method import Method
from weakseg.methods.registry import METHODS
from weakseg.methods.split_merge import SplitMerge
from weakseg.networks.backbone import Backbone
from weakseg.networks.channels import BlueFirst
from weakseg.networks.depthwise import trained_fast
from weakseg.networks.fold import folded
from weakseg.networks.segmentation import create_network
from weakseg.pipeline.device import Device
from weakseg.pipeline.inference import ready
from weakseg.segment.segmenter import Segmenter

NORMS, CPU = (nn.BatchNorm2d, BatchNormAct2d), Device("cpu", 1, 1)


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
    return sum(type(layer) in NORMS for layer in network.modules())


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.detach().abs().max()))


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
        assert_close(fast(images), expected)
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
    fast = folded(trained_fast(network) if trained else network)
    torch.testing.assert_close(fast(images), network(images))
    assert norms_of(fast) == 0
    assert norms_of(network) == 2


@torch.jit.script
def halved(features: Tensor) -> Tensor:
    """Seen by nobody who counts readers."""
    return features / 2


class Both(nn.Module):
    """What the convolution gives goes its own way, too."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.convolution, self.norm, self.way = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), way

    def forward(self, images: Tensor) -> Any:
        found = self.convolution(images)
        if self.way == "twice":
            return self.norm(self.convolution(self.norm(found)))
        if self.way == "activated":
            return self.norm(found.relu_())
        normal = self.norm(found)
        if self.way == "scripted":
            return normal + halved(found)
        if self.way == "named":
            return {"normal": normal, "found": found}
        if self.way == "kept":
            return SimpleNamespace(normal=normal, inner=[found])
        if self.way == "returned":
            return normal, found
        return torch.cat([normal, found]) if self.way == "listed" else normal + found


@pytest.mark.parametrize("way", ["added", "listed", "returned", "twice", "activated", "scripted", "named", "kept"])
def test_a_convolution_that_others_read_stays_as_it_is(way: str) -> None:
    network = lively(Both(way))
    assert folded(network) is network


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
    network = lively(nn.Sequential(*layers))
    assert folded(network) is network


def test_a_network_without_normalisation_is_not_copied() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    assert folded(network) is network


class Hooked(nn.Module):
    """Layers that are also reached by another name, and a hook that must go on being called."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.unlisted = (self.convolution, self.norm)
        self.norm.register_forward_hook(lambda _, __, result: result + 1)

    def forward(self, images: Tensor) -> Tensor:
        convolution, norm = self.unlisted
        found: Tensor = norm(convolution(images))
        return found


def test_layers_keep_their_hooks_and_other_names() -> None:
    network, images = lively(Hooked()), torch.randn(2, 3, 5, 6)
    fast = folded(network)
    assert norms_of(fast) == 0
    torch.testing.assert_close(fast(images), network(images))


def test_what_the_look_does_not_reach_stays_as_it_is() -> None:
    network, images = lively(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))), torch.randn(2, 3, 5, 6)
    assert folded(network, lambda network, images: network[1](images)) is network
    two = lively(nn.ModuleList([copy.deepcopy(network), copy.deepcopy(network)]))
    fast = folded(two, lambda network, images: network[1](images))
    assert [norms_of(part) for part in fast] == [1, 0]
    for ours, theirs in zip(fast, two, strict=True):
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "resnet18"])
@pytest.mark.parametrize("name", METHODS)
def test_methods_make_the_same_maps(name: str, backbone: str) -> None:
    network = lively(Setup(name, backbone=backbone).build())
    assert isinstance(network, Method)
    state = copy.deepcopy(network.state_dict())
    fast, batch = ready(network, CPU), labelled_batch()
    assert norms_of(fast) < norms_of(network)
    for ours, theirs in zip(fast.localize(batch, VIEWS), network.localize(batch, VIEWS), strict=True):
        assert torch.equal(ours.classes, theirs.classes)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-2, atol=1e-2)
    if network.segments:
        assert_close(fast.predict(batch.images), network.predict(batch.images))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_streams_that_part_early_keep_what_they_share() -> None:
    backbone = Backbone("resnet38", weights="none", output_stride=8)
    network = lively(SplitMerge(backbone, 3, shared_stages=1, hidden=8))
    assert isinstance(network, SplitMerge)
    fast, images = ready(network, CPU), torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(fast.scores(images), network.scores(images), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["deeplabv3plus", "unet", "deeplab_v1", "deeplab_v2", "global_stream"])
def test_segmenters_give_the_same(name: str) -> None:
    network = lively(Segmenter(create_network(name, 4, encoder="resnet18", weights="none", output_stride=16)))
    images = torch.randn(2, 3, 70, 90)
    fast = ready(network, CPU)
    assert norms_of(fast) < norms_of(network)
    assert_close(fast(images), network(images))
