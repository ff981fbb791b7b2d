"""Classifier and loss of the segmenter, as recipes name them."""

import pytest

from tests.data.trees import refusal
from weakseg.networks.classifier import CosineClassifier
from weakseg.pipeline import build
from weakseg.pipeline.recipe import load_recipe

BODY = {"name": "resnet10t", "weights": "none", "output_stride": 8}


def recipe(network, loss="cross_entropy", **more):
    segment = {"network": network, "loss": loss, "backbone": BODY}
    return load_recipe({"name": "tiny", "data": {"root": "photos"}, "segment": segment, **more})


def segmenter(network, loss="cross_entropy"):
    settings = recipe(network, loss).segment
    return build.segmenter(settings, settings.backbone, 3)


@pytest.mark.parametrize(
    "network",
    [
        {"name": "deeplabv3plus", "classifier": "cosine", "scale": 10},
        {"name": "unet", "classifier": "cosine", "decoder_attention_type": "scse"},
        {"name": "deeplab_v1", "classifier": "cosine", "width": 8},
        {"name": "deeplab_v2", "classifier": "cosine", "head": "features"},
    ],
)
def test_networks_that_end_with_cosines(network):
    second = {"second": ["retrieval"]}
    build.check_settings(recipe(network, {"name": "noise_aware", "gamma": 5}, **second))
    net = segmenter(network, {"name": "noise_aware", "gamma": 5}).network
    assert net.cosine_scale == network.get("scale", 20)
    assert any(isinstance(layer, CosineClassifier) for layer in net.modules())


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"name": "deeplabv3plus", "classifier": "cosin"}, ("'segment.network.classifier'", "'cosin'")),
        ({"name": "deeplabv3plus", "classifier": "cosine", "scale": 0}, ("'segment.network.scale'", "greater than 0")),
        ({"name": "unet", "classifier": None}, ("'segment.network.classifier'",)),
        ({"name": "deeplab_v1", "clasifier": "cosine"}, ("'segment.network.clasifier'", "'classifier'")),
        ({"name": "deeplab_v2", "head": "som"}, ("'segment.network.head'", "'som'")),
        ({"name": "global_stream", "classifier": "cosine"}, ("'segment.network.classifier'",)),
    ],
)
def test_options_that_are_refused_before_anything_is_built(network, words):
    refusal(lambda: build.check_settings(recipe(network)), *words)


@pytest.mark.parametrize(
    ("network", "loss", "words"),
    [
        ("deeplabv3plus", "noise_aware", ("classifier: cosine",)),
        ({"name": "deeplab_v1", "width": 8}, "noise_aware", ("classifier: cosine",)),
        ({"name": "deeplab_v2", "classifier": "cosine"}, "cross_entropy", ("head: features",)),
        ({"name": "unet", "clasifier": "cosine"}, "cross_entropy", ("'unet'", "clasifier")),
    ],
)
def test_networks_that_are_refused_when_they_are_built(network, loss, words):
    refusal(lambda: segmenter(network, loss), *words)
