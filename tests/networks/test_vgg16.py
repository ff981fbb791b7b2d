"""VGG16 without its classifier: strides, stages, weight files."""

import pytest
import timm
import torch
from torch import nn

from tests.data.trees import refusal
from weakseg.networks.backbone import Backbone
from weakseg.networks.segmentation import SegmentationNetwork
from weakseg.networks.vgg16 import convolutions_only, largefov_weights, narrowed_classifier
from weakseg.networks.weights import save_weights

NARROW = {"width": 0.125}
NAMES = ("vgg16_conv5", "vgg16_deeplab")


def body(name="vgg16_conv5", output_stride=16, seed=0, **settings):
    torch.manual_seed(seed)
    return Backbone(name, weights="none", output_stride=output_stride, **{"options": NARROW, **settings}).eval()


def pools(net):
    return [layer for layer in net.model.features if isinstance(layer, nn.MaxPool2d)]


def dilations(net):
    return [layer.dilation[0] for layer in net.model.features if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_features_at_every_stride(name, stride):
    net = body(name, stride)
    with torch.no_grad():
        features = net(torch.randn(2, 3, 64, 96))
    assert net.stride == stride
    assert features.shape == (2, 64, 64 // stride, 96 // stride)
    assert features.min() >= 0


def test_the_last_pooling_is_gone_and_there_are_thirteen_convolutions():
    net = body(options={})
    assert net.channels == 512
    assert len(dilations(net)) == 13
    assert isinstance(net.model.features[-1], nn.ReLU)
    assert len(pools(net)) == 4
    assert sum(parameter.numel() for parameter in net.parameters()) == 14_714_688


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_conv1_to_conv5(name):
    found = body(name).stages(torch.zeros(1, 3, 64, 96))
    assert [maps.shape[1] for maps in found] == [8, 16, 32, 64, 64]
    assert [96 // maps.shape[-1] for maps in found] == [1, 2, 4, 8, 16]
    assert len(body(name, 32).stages(torch.zeros(1, 3, 64, 96))) == 6


def test_the_last_stage_is_the_feature_map():
    net, image = body(), torch.randn(1, 3, 50, 70)
    assert torch.equal(net.stages(image)[-1], net(image))


def test_pools_of_the_two_variants():
    assert [(p.kernel_size, p.stride, p.padding) for p in pools(body(output_stride=16))] == [(2, 2, 0)] * 4
    assert [(p.kernel_size, p.stride, p.padding) for p in pools(body("vgg16_deeplab", 8))] == [
        *[(3, 2, 1)] * 3,
        (3, 1, 1),
    ]
    assert [p.stride for p in pools(body("vgg16_deeplab", 8, options={**NARROW, "last_pool": True}))] == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_conv5_is_dilated_at_stride_eight_only(name):
    assert dilations(body(name, 16)) == [1] * 13
    assert dilations(body(name, 8)) == [1] * 10 + [2] * 3


def test_pools_of_deeplab_keep_the_corners():
    with torch.no_grad():
        assert body("vgg16_deeplab", 8)(torch.zeros(1, 3, 65, 97)).shape[-2:] == (9, 13)
        assert body("vgg16_conv5", 8)(torch.zeros(1, 3, 65, 97)).shape[-2:] == (8, 12)


def test_a_stride_that_it_cannot_have():
    refusal(lambda: body(output_stride=4), "vgg16_conv5", "stride 4")


@pytest.fixture(scope="module")
def torchvision_like(tmp_path_factory):
    """A file with torchvision's names, its classifier narrowed to keep the file small, and the convolutions in it."""
    torch.manual_seed(3)
    source = body(options={}).model.features
    classifier = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2))
    holder = nn.ModuleDict({"features": source, "classifier": classifier})
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    save_weights(holder, path, {})
    return path, source


@pytest.mark.parametrize(("name", "stride"), [("vgg16_conv5", 16), ("vgg16_conv5", 8), ("vgg16_deeplab", 8)])
def test_weight_files_fit_every_variant(name, stride, torchvision_like):
    path, source = torchvision_like
    net = Backbone(name, weights=str(path), output_stride=stride)
    found = [layer for layer in net.model.features if isinstance(layer, nn.Conv2d)]
    given = [layer for layer in source if isinstance(layer, nn.Conv2d)]
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(found, given, strict=True))


def test_layers_are_where_timm_has_them():
    """timm's VGG16 on the meta device: its classifier alone has a hundred million weights."""
    with torch.device("meta"):
        theirs = timm.create_model("vgg16", num_classes=0)
    ours = body(options={}).model
    kept = convolutions_only(theirs.state_dict())
    assert {name: value.shape for name, value in kept.items()} == {n: v.shape for n, v in ours.state_dict().items()}
    assert len(kept) < len(theirs.state_dict())


def test_features_are_those_of_timm_before_its_last_pooling(torchvision_like):
    path, source = torchvision_like
    image = torch.randn(1, 3, 64, 96)
    theirs = nn.Sequential(*(layer for layer in _timm_features(source)))
    with torch.no_grad():
        torch.testing.assert_close(Backbone("vgg16_conv5", weights=str(path)).eval()(image), theirs(image))


def _timm_features(source):
    """timm's own layers, without the last, with the weights of another network's convolutions."""
    with torch.device("meta"):
        features = timm.create_model("vgg16", num_classes=0).features[:-1]
    features = features.to_empty(device="cpu")
    features.load_state_dict(source.state_dict())
    return features


def test_a_decoder_takes_it_as_its_encoder():
    net = SegmentationNetwork("unet", 3, encoder="vgg16_conv5", weights="none", options=NARROW).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 45, 70)).shape == (1, 3, 45, 70)


def test_gradients_reach_every_layer():
    net = body()
    net.train()(torch.randn(2, 3, 48, 64)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_parts_can_be_frozen():
    net = body(freeze=["features.0", "features.2"])
    frozen = {name for name, value in net.model.named_parameters() if not value.requires_grad}
    assert frozen == {"features.0.weight", "features.0.bias", "features.2.weight", "features.2.bias"}


def test_timms_own_weights_are_those_of_its_vgg16(tmp_path, torchvision_like):
    """What timm's hub would give, from a file: the classifier is left out, everything else has to fit."""
    assert timm.get_pretrained_cfg("vgg16_conv5").hf_hub_id == timm.get_pretrained_cfg("vgg16").hf_hub_id
    _, source = torchvision_like
    given = {f"features.{name}": value for name, value in source.state_dict().items()}
    torch.save({**given, "head.fc.bias": torch.zeros(9)}, tmp_path / "hub.pth")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "hub.pth")}}
    net = Backbone("vgg16_deeplab", output_stride=8, options=overlay)
    assert torch.equal(net.model.features[0].weight, source[0].weight)


WHOLE = "vgg16_largefov"


def test_the_whole_body():
    net = body(WHOLE, 8, options={})
    assert net.channels == 1024
    assert sum(parameter.numel() for parameter in net.parameters()) == 20_505_408 - 21 * 1024
    assert [(p.kernel_size, p.stride, p.padding) for p in pools(net)] == [(3, 2, 1)] * 3 + [(3, 1, 1)] * 2
    average, fc = net.model.features[-2], net.model.features[-1]
    assert (average.kernel_size, average.stride, average.padding) == (3, 1, 1)
    assert [type(layer) for layer in fc] == [nn.Conv2d, nn.ReLU, nn.Dropout2d] * 2
    assert (fc[0].kernel_size, fc[0].dilation, fc[3].kernel_size) == ((3, 3), (1, 1), (1, 1))
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 321, 321)).shape == (1, 1024, 41, 41)


def test_fc7_may_do_without_dropout():
    fc = body(WHOLE, 8, options={**NARROW, "fc7_dropout": False}).model.features.fc
    assert [type(layer) for layer in fc] == [nn.Conv2d, nn.ReLU, nn.Dropout2d, nn.Conv2d, nn.ReLU]


@pytest.mark.parametrize("rate", [1, 12])
def test_features_of_the_whole_body(rate):
    net, image = body(WHOLE, 8, options={**NARROW, "fc_dilation": rate}), torch.randn(2, 3, 64, 96)
    plain = body("vgg16_deeplab", 8, options={**NARROW, "last_pool": True})
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if ".fc." not in name})
    fc6, fc7 = net.model.features.fc[0], net.model.features.fc[3]
    with torch.no_grad():
        features = nn.functional.avg_pool2d(plain(image), 3, 1, 1)
        features = nn.functional.conv2d(features, fc6.weight, fc6.bias, padding=rate, dilation=rate).relu()
        torch.testing.assert_close(net(image), nn.functional.conv2d(features, fc7.weight, fc7.bias).relu())
        assert [maps.shape[1] for maps in net.stages(image)] == [8, 16, 32, 64, 64, 128]
        assert torch.equal(net.stages(image)[-1], net(image))


def test_whole_channels_are_dropped_in_training():
    net = body(WHOLE, 8).train()
    features = net(torch.randn(2, 3, 64, 96))
    silent = (features == 0).flatten(2).all(2).float().mean()
    assert 0.3 < silent < 0.8


@pytest.mark.parametrize("stride", [16, 32])
def test_the_whole_body_has_one_stride(stride):
    refusal(lambda: body(WHOLE, stride), WHOLE, f"stride {stride}")


def classified(names, seed=0):
    """Convolutions and a whole classifier under the names of a file."""
    generator = torch.Generator().manual_seed(seed)
    weights = dict(body("vgg16_conv5", options={}, seed=seed).model.state_dict())
    weights[f"{names[0]}.weight"] = torch.randn(4096, 1, generator=generator).expand(4096, 512 * 49)
    weights[f"{names[1]}.weight"] = torch.randn(1, 4096, generator=generator).expand(4096, 4096)
    return weights | {f"{name}.bias": torch.randn(4096, generator=generator) for name in names}


@pytest.mark.parametrize("names", [("classifier.0", "classifier.3"), ("pre_logits.fc1", "pre_logits.fc2")])
def test_fc6_and_fc7_start_from_the_classifier_of_a_file(names, tmp_path):
    given = classified(names)
    torch.save(given, tmp_path / "w.pth")
    net = Backbone(WHOLE, weights=str(tmp_path / "w.pth"), output_stride=8)
    expected = narrowed_classifier(given)
    assert all(
        torch.equal(found, value) for found, value in zip(net.model.features.fc.parameters(), expected, strict=True)
    )
    assert torch.equal(net.model.features[28].weight, given["features.28.weight"])


def test_timms_own_weights_have_the_classifier_too(tmp_path):
    given = classified(("pre_logits.fc1", "pre_logits.fc2"))
    torch.save({**given, "head.fc.bias": torch.zeros(9)}, tmp_path / "hub.pth")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "hub.pth")}}
    net = Backbone(WHOLE, output_stride=8, options=overlay)
    assert torch.equal(net.model.features.fc[3].bias, given["pre_logits.fc2.bias"][::4])


CAFFE_NAMES = [f"conv{stage}_{n}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for n in range(1, count + 1)]


def test_layers_with_caffes_names():
    own = body(WHOLE, 8).model.state_dict()
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in own))
    assert len(layers) == len(CAFFE_NAMES) + 2
    names = dict(zip(layers, [*CAFFE_NAMES, "fc6", "fc7"], strict=True))
    caffe = {".".join((names[n.rpartition(".")[0]], n.rpartition(".")[2])): value for n, value in own.items()}
    found = largefov_weights(caffe)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], value) for name, value in own.items())
    assert largefov_weights(own) == dict(own)


def test_a_file_with_caffes_names_that_wants_blue_first(tmp_path):
    source, image = body(WHOLE, 8, seed=4), torch.randn(1, 3, 48, 64)
    layers = [name for name, layer in source.model.named_modules() if isinstance(layer, nn.Conv2d)]
    names = dict(zip(layers, [*CAFFE_NAMES, "fc6", "fc7"], strict=True))
    torch.save(
        {f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": v for n, v in source.model.state_dict().items()},
        tmp_path / "w.pth",
    )
    net = Backbone(WHOLE, weights=str(tmp_path / "w.pth"), output_stride=8, options={**NARROW, "bgr": True}).eval()
    with torch.no_grad():
        torch.testing.assert_close(net(image), source(image.flip(1)))


def test_a_file_without_classifier_does_not_fit_the_whole_body(tmp_path):
    weights = body("vgg16_conv5", options=NARROW).model.state_dict()
    torch.save(dict(weights), tmp_path / "w.pth")
    refusal(
        lambda: Backbone(WHOLE, weights=str(tmp_path / "w.pth"), output_stride=8, options=NARROW),
        "lacks 4 of the 30 tensors",
        "features.fc.0.weight",
    )


def test_the_whole_body_learns_and_can_be_cut():
    from weakseg.networks.split import split

    net, image = body(WHOLE, 8), torch.randn(1, 3, 48, 64)
    parts = split(net, 4)
    with torch.no_grad():
        assert torch.equal(parts.rest(parts.trunk(image)), net(image))
    net.train()(torch.randn(2, 3, 48, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
