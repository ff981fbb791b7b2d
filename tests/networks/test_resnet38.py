"""ResNet38: layout, stages, decoders on it, and the names of its weight files. Narrow, except for counting."""

import re
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import conv2d

from tests.data.trees import refusal
from weakseg.networks.backbone import IMAGENET_MEAN, Backbone
from weakseg.networks.convert import convert_resnet38, is_resnet38
from weakseg.networks.dilate import dilate
from weakseg.networks.resnet38 import PSA_FROZEN, BottleneckUnit, PlainUnit
from weakseg.networks.segmentation import SegmentationNetwork
from weakseg.networks.weights import save_weights

NARROW = {"width": 1 / 16}
UNITS = ("b2", "b2_1", "b2_2", "b3", "b3_1", "b3_2", "b4", *(f"b4_{n}" for n in range(1, 6)), "b5", "b5_1", "b5_2")
DILATIONS_AT_8 = {
    **{f"b5{unit}.conv_branch2{conv}": 2 for unit in ("_1", "_2") for conv in ("a", "b1")},
    "b5.conv_branch2b1": 2,
    "b6.conv_branch2b1": 4,
    "b7.conv_branch2b1": 4,
}


def network(**settings):
    return timm.create_model("resnet38", **NARROW, **settings).eval()


def backbone(stride=8, **settings):
    return Backbone("resnet38", output_stride=stride, options=NARROW, **{"weights": "none", **settings}).eval()


def convolutions(net):
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}


def randomised(net, seed=0):
    """Normalisation as after training, so that a mix-up of its tensors shows."""
    torch.manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.uniform_(0.5, 1.5)
    return net


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return timm.create_model("resnet38", output_stride=8)


def test_number_of_parameters(full):
    """Sheet "eps": 105 152 928 and 105 156 832 with heads of 20 and 21 outputs, 104 288 256 of the latter trained."""
    total = sum(parameter.numel() for parameter in full.parameters())
    assert total + 20 * 4096 == 105_152_832
    assert total + 21 * 4096 == 105_156_928
    frozen = [full.get_submodule(name) for name in PSA_FROZEN]
    frozen += [layer for layer in full.modules() if isinstance(layer, nn.BatchNorm2d)]
    for module in frozen:
        module.requires_grad_(False)
    trained = sum(parameter.numel() for parameter in full.parameters() if parameter.requires_grad)
    assert trained + 21 * 4096 == 104_288_256


def test_layout(full):
    found = convolutions(full)
    assert sum(name.split(".")[0] not in PSA_FROZEN for name in found) == 35
    assert all(layer.bias is None for layer in found.values())
    assert [name for name in dict(full.named_children()) if name.startswith("b")] == [*UNITS, "b6", "b7", "bn7"]
    shapes = {name: (layer.in_channels, layer.out_channels) for name, layer in found.items()}
    assert shapes["conv1a"] == (3, 64)
    assert shapes["b5.conv_branch2a"] == (512, 512)
    assert shapes["b5.conv_branch2b1"] == shapes["b5_2.conv_branch2b1"] == (512, 1024)
    for block, sizes in (("b6", (1024, 512, 1024, 2048)), ("b7", (2048, 1024, 2048, 4096))):
        assert [shapes[f"{block}.conv_branch2{part}"] for part in ("a", "b1", "b2")] == [*pairwise(sizes)]
    assert {name.split(".")[0] for name in found if "branch1" in name} == {"b2", "b3", "b4", "b5", "b6", "b7"}
    assert (full.b6.dropout.p, full.b7.dropout.p) == (0.3, 0.5)
    assert full.num_features == 4096


def test_strides_and_dilations_at_output_stride_8(full):
    for name, layer in convolutions(full).items():
        halves = name.split(".")[0] in ("b2", "b3", "b4") and name.endswith(("branch1", "branch2a"))
        assert layer.stride == ((2, 2) if halves else (1, 1)), name
        assert layer.dilation == (DILATIONS_AT_8.get(name, 1),) * 2, name
        assert layer.padding == (layer.dilation if layer.kernel_size == (3, 3) else (0, 0)), name


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_the_general_rule_for_dilation_gives_the_same_network(stride):
    by_rule, own = network(), network(output_stride=stride)
    dilate(by_rule, torch.zeros(1, 3, 64, 64), stride)
    for (name, one), other in zip(convolutions(by_rule).items(), convolutions(own).values(), strict=True):
        assert one.stride == other.stride, name
        if one.kernel_size == (3, 3):
            assert (one.dilation, one.padding) == (other.dilation, other.padding), name


@pytest.mark.parametrize(("size", "expected"), [((134, 448), (17, 56)), ((500, 375), (63, 47)), ((321, 513), (41, 65))])
def test_output_size(size, expected):
    with torch.no_grad():
        assert network(output_stride=8).forward_features(torch.zeros(1, 3, *size)).shape[-2:] == expected


@pytest.mark.parametrize("stride", [8, 16, 32, None])
def test_stages(stride):
    net, images = randomised(backbone(stride)), torch.randn(2, 3, 65, 97)
    reductions = [min(reduction, stride or 32) for reduction in (1, 2, 4, 8, 16, 32)]
    with torch.no_grad():
        stages = net.stages(images)
        torch.testing.assert_close(stages[-1], net(images))
    assert [stage.shape[1] for stage in stages] == [4, 8, 16, 32, 64, 256]
    assert [tuple(stage.shape[-2:]) for stage in stages] == [(-(-65 // r), -(-97 // r)) for r in reductions]
    assert [info["reduction"] for info in net.model.feature_info] == reductions
    assert net.channels == 256
    assert net.stride == reductions[-1]
    assert net.mean == IMAGENET_MEAN


def test_stages_are_the_activated_inputs():
    net, seen = randomised(backbone()), {}
    for name in ("b4", "b5", "b6"):
        net.model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: given[0]})
        )
    with torch.no_grad():
        *_, conv3, conv4, conv5, conv6 = net.stages(torch.randn(1, 3, 32, 40))
        for name, stage in (("b4", conv3), ("b5", conv4), ("b6", conv5)):
            torch.testing.assert_close(stage, net.model.get_submodule(name).bn_branch2a(seen[name]).relu())
            assert (seen[name] < 0).any()
    assert all((stage >= 0).all() for stage in (conv3, conv4, conv5, conv6))


def test_intermediates_as_timm_asks_for_them():
    net, images = network(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last, every = net.forward_intermediates(images)
        assert torch.equal(last, every[-1])
        for indices, expected in ((2, (4, 5)), ((0, -2), (0, 4)), ((1,), (1,))):
            some = net.forward_intermediates(images, indices, intermediates_only=True)
            assert len(some) == len(expected)
            assert all(torch.equal(one, every[index]) for one, index in zip(some, expected, strict=True))


def rectified(norm, inputs):
    scaled = (inputs - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    return (scaled * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)


@pytest.mark.parametrize(("outputs", "stride"), [(6, 1), (6, 2), (8, 1)])
def test_plain_unit(outputs, stride):
    unit = randomised(PlainUnit(6, 4, outputs, stride, (1, 2)).eval())
    inputs = torch.randn(2, 6, 9, 11)
    first = rectified(unit.bn_branch2a, inputs)
    second = rectified(unit.bn_branch2b1, conv2d(first, unit.conv_branch2a.weight, stride=stride, padding=1))
    branch = conv2d(second, unit.conv_branch2b1.weight, padding=2, dilation=2)
    same = outputs == 6 and stride == 1
    shortcut = inputs if same else conv2d(first, unit.conv_branch1.weight, stride=stride)
    with torch.no_grad():
        torch.testing.assert_close(unit(inputs.clone())[0], shortcut + branch, rtol=1e-4, atol=1e-5)


def test_bottleneck_unit():
    unit = randomised(BottleneckUnit(6, 16, 1, 4, 0.5).eval())
    inputs = torch.randn(2, 6, 9, 11)
    first = rectified(unit.bn_branch2a, inputs)
    second = rectified(unit.bn_branch2b1, conv2d(first, unit.conv_branch2a.weight))
    third = rectified(unit.bn_branch2b2, conv2d(second, unit.conv_branch2b1.weight, padding=4, dilation=4))
    expected = conv2d(first, unit.conv_branch1.weight) + conv2d(third, unit.conv_branch2b2.weight)
    with torch.no_grad():
        torch.testing.assert_close(unit(inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_whole_channels_are_dropped_in_training():
    unit = randomised(BottleneckUnit(6, 64, 1, 1, 0.5))
    hold = [layer.eval() for layer in unit.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(hold) == 3
    dropped = []
    for name in ("conv_branch2b1", "conv_branch2b2"):
        unit.get_submodule(name).register_forward_pre_hook(lambda _, given: dropped.append((given[0] == 0).all((2, 3))))
    unit(torch.randn(4, 6, 9, 11))
    assert all(0.2 < found.float().mean() < 0.8 for found in dropped)


def test_a_classifier_can_be_had():
    assert network(num_classes=7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert network()(torch.randn(2, 3, 32, 32)).shape == (2, 256)


def test_psa_freezing():
    net = backbone(freeze=PSA_FROZEN, batchnorm="frozen").train()
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    for name, parameter in net.model.named_parameters():
        still = name.split(".")[0] in PSA_FROZEN or ".bn_" in name or name.startswith("bn7")
        assert (parameter.grad is None) == still, name


@pytest.mark.parametrize("decoder", ["unet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "segformer"])
@pytest.mark.parametrize("stride", [8, 16])
def test_decoders(decoder, stride):
    net = SegmentationNetwork(
        decoder, 4, encoder="resnet38", weights="none", output_stride=stride, options=NARROW, freeze=PSA_FROZEN
    )
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 3, 45, 70)).shape == (1, 4, 45, 70)
        if decoder.startswith("deeplab"):
            assert net.model.encoder(torch.zeros(1, 3, 64, 64))[-1].shape[-1] == 64 // stride
    assert net.mean == IMAGENET_MEAN
    assert not net.encoder.b2_1.conv_branch2a.weight.requires_grad


def test_a_decoder_of_early_stages_has_no_late_ones():
    net = SegmentationNetwork("pspnet", 2, encoder="resnet38", weights="none", options=NARROW)
    assert [name for name in dict(net.encoder.named_children()) if name.startswith("b")] == list(UNITS[:-2])
    assert net.encoder.num_features == 256


def test_no_hub_has_its_weights():
    for build in (Backbone, lambda name: SegmentationNetwork("unet", 2, encoder=name)):
        refusal(lambda build=build: build("resnet38"), "no weights for 'resnet38'", "local file")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("conv1a_weight", "conv1a.weight"),
        ("arg:res2a_branch1_weight", "b2.conv_branch1.weight"),
        ("arg:res4a_branch2a_weight", "b4.conv_branch2a.weight"),
        ("arg:res4b3_branch2b1_weight", "b4_3.conv_branch2b1.weight"),
        ("bn5b2_branch2a_gamma", "b5_2.bn_branch2a.weight"),
        ("arg:bn5a_branch2b1_beta", "b5.bn_branch2b1.bias"),
        ("aux:bn6a_branch2b2_moving_mean", "b6.bn_branch2b2.running_mean"),
        ("aux:bn7_moving_var", "bn7.running_var"),
        ("arg:bn7_gamma", "bn7.weight"),
        ("arg:linear1000_weight", "linear1000_weight"),
        ("module.b4_3.bn_branch2a.running_var", "b4_3.bn_branch2a.running_var"),
        ("b7.conv_branch2b2.weight", "b7.conv_branch2b2.weight"),
        ("fc8.weight", "fc8.weight"),
    ],
)
def test_names(given, expected):
    assert list(convert_resnet38({given: torch.zeros(1)})) == [expected]


MXNET_KINDS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def mxnet_name(name):
    """The other way round: ``b4_3.bn_branch2a.running_mean`` is ``aux:bn4b3_branch2a_moving_mean``."""
    module, kind = name.rsplit(".", 1)
    norm = "bn" in module
    if found := re.fullmatch(r"b(\d)(?:_(\d))?\.(?:bn|conv)_(.*)", module):
        block, follower, branch = found.groups()
        module = f"{'bn' if norm else 'res'}{block}{f'b{follower}' if follower else 'a'}_{branch}"
    return f"{'aux' if 'running' in kind else 'arg'}:{module}_{MXNET_KINDS[kind] if norm else kind}"


def tensors(net):
    return {name: value for name, value in net.state_dict().items() if "num_batches" not in name}


@pytest.fixture(scope="module")
def source():
    return randomised(network(), seed=1)


@pytest.fixture(scope="module")
def mxnet_state(source):
    named = {mxnet_name(name): value for name, value in tensors(source).items()}
    return {**named, "arg:linear1000_weight": torch.zeros(1000, 256), "arg:linear1000_bias": torch.zeros(1000)}


def same_weights(net, source):
    return all(torch.equal(value, tensors(source)[name]) for name, value in tensors(net).items())


def test_mxnet_names_round_trip(source, mxnet_state):
    assert "arg:res4b5_branch2b1_weight" in mxnet_state
    arrays = {name: value.numpy() for name, value in mxnet_state.items()}
    assert is_resnet38(arrays)
    converted = convert_resnet38(arrays)
    assert converted.keys() - tensors(source).keys() == {"linear1000_weight", "linear1000_bias"}
    assert all(torch.equal(converted[name], value) for name, value in tensors(source).items())


def test_other_networks_are_left_alone():
    assert not is_resnet38(timm.create_model("resnet10t").state_dict())
    assert not is_resnet38({"arg:res2a_branch2a_weight": 0, "arg:conv1_weight": 0, "arg:bn7_gamma": 0})


@pytest.mark.parametrize("naming", ["psa", "parallel", "mxnet"])
def test_files_that_circulate_can_be_loaded(naming, tmp_path, source, mxnet_state):
    state = {**source.state_dict(), "fc8.weight": torch.zeros(20, 256, 1, 1)}
    if naming != "psa":
        state = mxnet_state if naming == "mxnet" else {f"module.{name}": value for name, value in state.items()}
    torch.save(state, tmp_path / "w.pth")
    given = {"weights": str(tmp_path / "w.pth"), "options": NARROW}
    assert same_weights(Backbone("resnet38", output_stride=8, **given).model, source)
    for decoder in ("deeplabv3plus", "pspnet"):
        assert same_weights(SegmentationNetwork(decoder, 2, encoder="resnet38", **given).encoder, source)


def test_our_own_file_and_one_that_lacks_a_tensor(tmp_path, source, mxnet_state):
    save_weights(source, tmp_path / "w.safetensors", {})
    assert same_weights(backbone(weights=str(tmp_path / "w.safetensors")).model, source)
    state = {name: value for name, value in mxnet_state.items() if name != "arg:bn7_beta"}
    torch.save(state, tmp_path / "less.pth")
    refusal(lambda: backbone(weights=str(tmp_path / "less.pth")), "less.pth", "'bn7.bias'")


def test_weights_of_another_width(tmp_path, source):
    save_weights(source, tmp_path / "w.safetensors", {})
    weights = str(tmp_path / "w.safetensors")
    refusal(lambda: Backbone("resnet38", weights=weights, options={"width": 1 / 8}), "w.safetensors", "shape")
