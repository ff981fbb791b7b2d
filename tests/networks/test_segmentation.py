"""Decoders on small encoders."""

import pytest
import torch
from torch import nn

from tests.data.trees import refusal
from weakseg.networks.segmentation import DECODERS, SegmentationNetwork
from weakseg.networks.weights import save_weights

RESNET, MOBILENET = "resnet10t", "mobilenetv3_small_050"


def network(name="deeplabv3plus", encoder=MOBILENET, **settings):
    return SegmentationNetwork(name, 4, encoder=encoder, weights="none", **settings)


def logits(net, height, width, batch=1):
    with torch.no_grad():
        return net.eval()(torch.randn(batch, 3, height, width))


@pytest.mark.parametrize("encoder", [RESNET, MOBILENET])
@pytest.mark.parametrize("name", ["deeplabv3plus", "deeplabv3", "unet", "fpn", "pspnet", "linknet", "segformer"])
def test_decoders_answer_at_image_size(name, encoder):
    net = network(name, encoder)
    for height, width in ((45, 70), (64, 32), (33, 97)):
        assert logits(net, height, width, batch=2).shape == (2, 4, height, width)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_can_be_had_and_takes_small_images(name):
    net = network(name, "mobilenetv2_100")
    for height, width in ((45, 70), (20, 140)):
        assert logits(net, height, width).shape == (1, 4, height, width)


def test_padding_is_cut_off_at_the_bottom_and_the_right():
    net, image = network().eval(), torch.randn(1, 3, 45, 70)
    padded = nn.functional.pad(image, (0, 96 - 70, 0, 64 - 45))
    with torch.no_grad():
        assert torch.equal(net(image), net(padded)[..., :45, :70])


@pytest.mark.parametrize("stride", [8, 16])
def test_atrous_decoders_take_the_output_stride(stride):
    net = network("deeplabv3", RESNET, output_stride=stride)
    with torch.no_grad():
        assert net.eval().model.encoder(torch.zeros(1, 3, 64, 64))[-1].shape[-1] == 64 // stride


@pytest.mark.parametrize(
    ("mode", "moves", "learns"), [("train", True, True), ("statistics", False, True), ("frozen", False, False)]
)
def test_batch_normalisation_of_encoder_and_decoder(mode, moves, learns):
    net = network(encoder=RESNET, batchnorm=mode)
    inside = {id(layer) for layer in net.encoder.modules()}
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    encoder = [layer for layer in layers if id(layer) in inside]
    decoder = [layer for layer in layers if id(layer) not in inside]
    assert encoder
    assert decoder
    net.eval().train()
    assert {layer.training for layer in encoder} == {moves}
    assert {layer.weight.requires_grad for layer in encoder} == {learns}
    assert all(layer.training and layer.weight.requires_grad for layer in decoder)


def test_the_encoder_is_what_starts_from_pretrained_weights(tmp_path):
    torch.manual_seed(0)
    source = network("unet", MOBILENET)
    save_weights(source.encoder, tmp_path / "w.safetensors", {})
    torch.manual_seed(1)
    net = SegmentationNetwork("fpn", 2, encoder=MOBILENET, weights=str(tmp_path / "w.safetensors"))
    for (name, one), other in zip(net.encoder.state_dict().items(), source.encoder.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert sum(parameter.numel() for parameter in net.encoder.parameters()) < sum(
        parameter.numel() for parameter in net.parameters()
    )


def test_backbone_weights_fit_the_encoder_too(tmp_path):
    """A recipe names one file for both networks."""
    from weakseg.networks.backbone import Backbone

    body = Backbone(RESNET, weights="none", output_stride=16)
    save_weights(body.model, tmp_path / "w.safetensors", {})
    net = SegmentationNetwork("deeplabv3plus", 2, encoder=RESNET, weights=str(tmp_path / "w.safetensors"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval().model.encoder(images)[-1], body.eval()(images))


@pytest.mark.parametrize(
    ("encoder", "prefixes", "frozen"),
    [
        (RESNET, ["conv1", "layer1", "layer2.0"], ("conv1.", "layer1.", "layer2.0.")),
        ("convnext_atto", ["stem", "stages.0", "stages.1.blocks.0"], ("stem_", "stages_0.", "stages_1.blocks.0.")),
        ("convnext_atto", ["stages"], ("stages_",)),
    ],
)
def test_frozen_parts_of_the_encoder_and_nothing_else(encoder, prefixes, frozen):
    """Feature extractors flatten the names that the backbone has."""
    net = network("unet", encoder, freeze=prefixes)
    found = {name for name, parameter in net.encoder.named_parameters() if not parameter.requires_grad}
    assert found
    assert found == {name for name, _ in net.encoder.named_parameters() if name.startswith(frozen)}
    assert sum(not parameter.requires_grad for parameter in net.parameters()) == len(found)


def test_mean_and_deviation():
    assert network(encoder=RESNET).mean == (0.485, 0.456, 0.406)
    assert network(mean=[0.1, 0.2, 0.3], std=[1, 1, 1]).mean == (0.1, 0.2, 0.3)


def test_options_of_encoder_and_decoder():
    net = network("unet", RESNET, decoder={"decoder_channels": [64, 32, 16, 8, 8]})
    assert net.model.segmentation_head[0].in_channels == 8


@pytest.mark.parametrize(
    ("name", "encoder", "more", "words"),
    [
        ("unnet", RESNET, {}, ("'unnet'", "'unet'")),
        ("unet", "resnet10", {}, ("'resnet10'", "'resnet10t'")),
        ("unet", RESNET, {"decoder": {"depth_of_sea": 3}}, ("'unet'", RESNET, "depth_of_sea")),
        ("unet", RESNET, {"options": {"no_such_option": 3}}, ("'unet'", RESNET, "no_such_option")),
        ("deeplabv3plus", RESNET, {"output_stride": 4}, ("'deeplabv3plus'", RESNET)),
        ("unet", RESNET, {"options": {"act_layer": "sea"}}, ("'unet'", RESNET, "sea")),
        ("unet", "vit_tiny_patch16_224", {}, ("'unet'", "vit_tiny_patch16_224")),
        ("unet", RESNET, {"freeze": ["layer11"]}, (f"encoder '{RESNET}' has no module 'layer11'", "'layer1'")),
        ("unet", MOBILENET, {"freeze": ["conv_head"]}, ("no module 'conv_head'", "'conv_stem'")),
    ],
)
def test_what_does_not_go_together_is_refused(name, encoder, more, words):
    refusal(lambda: network(name, encoder, **more), *words)
