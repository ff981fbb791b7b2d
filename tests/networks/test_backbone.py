"""Backbones of several families: stride, sizes, freezing, normalisation."""

import pytest
import timm
import torch
from torch import nn

from tests.data.trees import refusal
from weakseg.data.colour import IMAGENET_MEAN
from weakseg.networks.backbone import Backbone, _own_stride, _small_stride, _stride

DILATED_BY_TIMM = "resnet10t"
DILATED_BY_US = "mobilenetv3_small_050"
CHANNELS_LAST = "test_mambaout"
NEXT = "convnext_atto"
TRANSFORMER = "vit_tiny_patch16_224"


def backbone(name=DILATED_BY_US, **settings):
    return Backbone(name, weights="none", **settings)


def batchnorms(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", [DILATED_BY_TIMM, DILATED_BY_US, CHANNELS_LAST, NEXT])
def test_convolutional_networks_run_at_every_stride(name, stride):
    net = backbone(name, output_stride=stride).eval()
    with torch.no_grad():
        features = net(torch.randn(2, 3, 64, 96))
    assert net.stride == stride
    assert features.shape == (2, net.channels, 64 // stride, 96 // stride)
    assert features.isfinite().all()


@pytest.mark.parametrize("name", [DILATED_BY_TIMM, DILATED_BY_US, CHANNELS_LAST])
@pytest.mark.parametrize("size", [(65, 97), (50, 33), (17, 64)])
def test_odd_sizes_are_rounded_up(name, size):
    net = backbone(name, output_stride=16).eval()
    with torch.no_grad():
        features = net(torch.randn(1, 3, *size))
    assert features.shape[-2:] == tuple(-(-side // 16) for side in size)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (50, 33), (224, 224)])
def test_a_transformer_takes_any_size(size):
    net = backbone(TRANSFORMER, output_stride=None).eval()
    with torch.no_grad():
        features = net(torch.randn(2, 3, *size))
    assert net.stride == 16
    assert features.shape == (2, net.channels, *(-(-side // 16) for side in size))


def test_a_transformer_keeps_rows_and_columns_in_place():
    """One patch of the image changes: the cell that changes most is the one over it."""
    net = backbone(TRANSFORMER).eval()
    grey = torch.zeros(1, 3, 64, 112)
    spot = grey.clone()
    spot[..., 32:48, 80:96] = 1
    with torch.no_grad():
        change = (net(spot) - net(grey)).square().sum(1)[0]
    assert divmod(int(change.argmax()), 7) == (2, 5)


def test_the_models_own_stride_is_kept_for_none():
    assert [backbone(name, output_stride=None).stride for name in (DILATED_BY_TIMM, NEXT, TRANSFORMER)] == [32, 32, 16]


@pytest.mark.parametrize("stride", [8, 32])
def test_a_stride_out_of_reach_is_refused(stride):
    refusal(lambda: backbone(TRANSFORMER, output_stride=stride), TRANSFORMER, f"stride {stride}", "output_stride to 16")


@pytest.mark.parametrize(
    ("name", "small", "own"),
    [
        (DILATED_BY_TIMM, 32, 32),
        (CHANNELS_LAST, 32, 32),
        ("halonet26t", None, 32),  # its blocks do not fit into the small image
        ("convit_tiny", None, 16),  # patches
    ],
)
def test_the_stride_is_seen_at_a_small_image_or_else_at_the_models_own(name, small, own):
    model = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        assert (_small_stride(model), _own_stride(model), _stride(model)) == (small, own, own)


class Cropping(nn.Module):
    """Cells of 16 pixels, as many as fit when layers without padding have taken the border away."""

    num_features = 3

    def __init__(self, lost):
        super().__init__()
        self.lost = lost

    def forward_features(self, images):
        sides = [(side - self.lost) // 16 for side in images.shape[-2:]]
        return images.new_zeros(1, 3, *sides)


@pytest.mark.parametrize("lost", [0, 8, 48])
def test_lost_borders_are_not_taken_for_a_coarser_stride(lost):
    """With 48 pixels lost, half of the cells of a side of 96 are left."""
    assert _small_stride(Cropping(lost)) == (None if lost else 16)
    assert _stride(Cropping(lost)) == 16


def test_an_unknown_name_lists_near_ones():
    refusal(lambda: backbone("resnet10"), "'resnet10'", "'resnet10t'")


def test_stages_come_finest_first():
    net = backbone(DILATED_BY_TIMM, output_stride=16).eval()
    with torch.no_grad():
        stages, last = net.stages(torch.randn(1, 3, 64, 96)), net(torch.randn(1, 3, 64, 96))
    assert [tuple(stage.shape[-2:]) for stage in stages] == [(32, 48), (16, 24), (8, 12), (4, 6), (4, 6)]
    assert stages[-1].shape == last.shape


def test_stages_end_in_the_features():
    net, images = backbone(DILATED_BY_TIMM).eval(), torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        torch.testing.assert_close(net.stages(images)[-1], net(images))


def test_frozen_prefixes_get_no_gradient_and_others_do():
    net = backbone(DILATED_BY_TIMM, freeze=["conv1", "layer1", "layer2.0"])
    frozen = {name for name, parameter in net.model.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert frozen == {
        name for name, _ in net.model.named_parameters() if name.startswith(("conv1.", "layer1.", "layer2.0."))
    }
    net(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all((parameter.grad is None) == (name in frozen) for name, parameter in net.model.named_parameters())


def test_a_prefix_that_is_no_module_lists_near_ones():
    refusal(lambda: backbone(DILATED_BY_TIMM, freeze=["layer11"]), "'layer11'", "'layer1'")


def statistics_after_training(net):
    before = [layer.running_mean.clone() for layer in batchnorms(net)]
    net.train()(torch.randn(2, 3, 64, 64) + 1)
    return [not torch.equal(old, layer.running_mean) for old, layer in zip(before, batchnorms(net), strict=True)]


@pytest.mark.parametrize(
    ("mode", "moves", "learns"), [("train", True, True), ("statistics", False, True), ("frozen", False, False)]
)
def test_batch_normalisation(mode, moves, learns):
    net = backbone(DILATED_BY_TIMM, batchnorm=mode)
    assert batchnorms(net)
    assert statistics_after_training(net) == [moves] * len(batchnorms(net))
    assert [layer.weight.requires_grad for layer in batchnorms(net)] == [learns] * len(batchnorms(net))
    assert net.model.conv1[0].weight.requires_grad


@pytest.mark.parametrize("mode", ["statistics", "frozen"])
def test_stored_statistics_stay_when_training_goes_on_after_an_evaluation(mode):
    net = nn.Sequential(backbone(DILATED_BY_TIMM, batchnorm=mode))
    net.eval().train()
    assert net[0].training
    assert not any(layer.training for layer in batchnorms(net))


def test_mean_and_deviation_are_the_models_own_unless_given():
    assert backbone(DILATED_BY_TIMM).mean == IMAGENET_MEAN
    assert backbone(TRANSFORMER).std == (0.5, 0.5, 0.5)
    assert backbone(DILATED_BY_TIMM, mean=[0.1, 0.2, 0.3]).mean == (0.1, 0.2, 0.3)


def test_options_reach_the_model():
    same, symmetric = backbone(options={"pad_type": "same"}), backbone()
    assert (type(same.model.conv_stem), type(symmetric.model.conv_stem)) != (nn.Conv2d, nn.Conv2d)
    refusal(lambda: backbone(options={"depth_of_sea": 3}), DILATED_BY_US, "depth_of_sea", "options")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("convit_tiny", {}, ("does not take images of 161 x 129 pixels", "doesn't match model", "Choose another")),
        ("halonet26t", {"output_stride": None}, ("does not take images of 161 x 129 pixels", "Choose another")),
        ("levit_128s", {}, ("gives no feature map", "Choose another")),
        ("hrnet_w18_small", {}, ("cannot run at output stride 16", "Choose another")),
        (DILATED_BY_US, {"options": {"in_chans": 1}}, ("gives no feature map", "3 channels", "backbone.options")),
        (DILATED_BY_US, {"options": {"features_only": True}}, ("gives no feature map", "backbone.options")),
        (DILATED_BY_US, {"options": {"act_layer": "sea"}}, ("cannot be built", "sea", "backbone.options")),
    ],
)
def test_what_cannot_be_a_backbone_is_refused(name, settings, words):
    refusal(lambda: backbone(name, **settings), f"'{name}'", *words)


def test_the_same_seed_gives_the_same_weights():
    def weights():
        torch.manual_seed(3)
        return backbone(DILATED_BY_US, output_stride=8).state_dict()

    assert all(torch.equal(one, other) for one, other in zip(weights().values(), weights().values(), strict=True))
