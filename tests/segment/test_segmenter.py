"""The segmenter: its loss, its groups, and how it merges views."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import interpolate

from tests.data.trees import refusal
from tests.methods.conformance import labelled_batch
from weakseg.networks.segmentation import SegmentationNetwork, create_network
from weakseg.segment.losses import loss_options, noise_aware, pixel_cross_entropy
from weakseg.segment.segmenter import Segmenter


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return Segmenter(SegmentationNetwork("unet", 4, encoder="mobilenetv3_small_050", weights="none"))


@pytest.fixture(scope="module")
def batch():
    return labelled_batch()


def slow_views(segmenter, images, scales, flip):
    """Logits of all views at image size, one image and one view at a time."""
    views = []
    for scale in scales:
        for mirrored in (False, True) if flip else (False,):
            logits = []
            for image in images:
                size = [round(side * scale) for side in image.shape[1:]]
                view = interpolate(image[None], size, mode="bilinear", align_corners=False)
                view = view.flip(3) if mirrored else view
                seen = interpolate(segmenter.network(view), image.shape[1:], mode="bilinear", align_corners=False)[0]
                logits.append(seen.flip(2) if mirrored else seen)
            views.append(torch.stack(logits))
    return torch.stack(views)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.25)])
def test_views_are_merged_by_the_mean_of_logits(segmenter, batch, scales, flip):
    found = segmenter.eval().predict(batch.images, scales, flip)
    with torch.no_grad():
        expected = slow_views(segmenter, batch.images, scales, flip).mean(0).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))


def test_views_are_merged_by_the_maximum_of_probabilities(segmenter, batch):
    found = segmenter.eval().predict(batch.images, (0.75, 1.0), flip=True, merge="probabilities")
    with torch.no_grad():
        expected = slow_views(segmenter, batch.images, (0.75, 1.0), flip=True).softmax(2).amax(0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (found.sum(1) >= 1 - 1e-4).all()


def test_views_are_merged_by_the_mean_of_probabilities(segmenter, batch):
    found = segmenter.eval().predict(batch.images, (0.75, 1.0), flip=True, merge="mean")
    with torch.no_grad():
        expected = slow_views(segmenter, batch.images, (0.75, 1.0), flip=True).softmax(2).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_one_view_is_the_network_itself(segmenter, batch):
    with torch.no_grad():
        expected = segmenter.eval()(batch.images).softmax(1)
    torch.testing.assert_close(segmenter.predict(batch.images), expected)


def test_predictions_need_no_gradient_and_take_odd_sizes(segmenter):
    found = segmenter.eval().predict(torch.randn(1, 3, 37, 53), (0.5, 1.0), flip=True)
    assert found.shape == (1, 4, 37, 53)
    assert not found.requires_grad


def test_the_mirror_image_has_the_mirrored_prediction(segmenter, batch):
    straight = segmenter.eval().predict(batch.images[..., :64], (1.0,), flip=True)
    mirrored = segmenter.predict(batch.images[..., :64].flip(-1), (1.0,), flip=True)
    torch.testing.assert_close(mirrored.flip(-1), straight, rtol=1e-3, atol=1e-4)


def test_the_loss_is_that_of_logits_and_masks(segmenter, batch):
    segmenter.eval()
    losses = segmenter.losses(batch)
    assert list(losses) == ["segmentation"]
    assert torch.equal(losses["segmentation"], pixel_cross_entropy(segmenter(batch.images), batch.masks))


def test_another_loss(batch, segmenter):
    other = Segmenter(segmenter.network, loss_options("cross_entropy", {"label_smoothing": 0.3}))
    assert other.eval().losses(batch)["segmentation"] != segmenter.eval().losses(batch)["segmentation"]


def test_gradients_reach_encoder_and_decoder(segmenter, batch):
    segmenter.train().losses(batch)["segmentation"].backward()
    encoder = {id(parameter) for parameter in segmenter.network.encoder.parameters()}
    moved = {id(p) in encoder for p in segmenter.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {True, False}


def test_bfloat16_agrees_with_float32(segmenter, batch):
    exact = segmenter.eval().losses(batch)["segmentation"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = segmenter.losses(batch)["segmentation"]
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_the_decoder_learns_faster(segmenter, factor):
    segmenter.head_factor = factor
    encoder = {id(parameter) for parameter in segmenter.network.encoder.parameters()}
    groups = segmenter.parameter_groups(0.1, 1e-4)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in segmenter.parameters())
    weights = {id(group["params"][0]) in encoder: group["lr"] for group in groups if group["weight_decay"]}
    assert weights == {True: 0.1, False: pytest.approx(0.1 * factor)}


def test_epochs_begin_without_a_change(segmenter):
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    segmenter.begin_epoch(0, 2)
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


def cosine_network(**options):
    torch.manual_seed(0)
    return create_network(
        "unet", 4, encoder="mobilenetv3_small_050", weights="none", decoder={"classifier": "cosine", **options}
    )


def test_a_loss_is_given_what_it_asks_for(batch):
    seen = {}

    def loss(logits, masks, second, scale, progress, *, weight=1.0):
        seen.update(masks=masks, second=second, scale=scale, progress=progress, weight=weight)
        return logits.sum()

    segmenter = Segmenter(cosine_network(scale=6.0), partial(loss, weight=2.0))
    second = batch.masks.flip(-1)
    segmenter.begin_epoch(1, 4)
    segmenter.losses(replace(batch, second=second))
    assert torch.equal(seen["masks"], batch.masks)
    assert torch.equal(seen["second"], second)
    assert (seen["scale"], seen["progress"], seen["weight"]) == (6.0, 0.25, 2.0)


def test_a_loss_that_wants_only_progress(batch, segmenter):
    other = Segmenter(segmenter.network, lambda logits, masks, progress: logits.sum() * 0 + progress)
    found = []
    for epoch in range(4):
        other.begin_epoch(epoch, 4)
        found.append(other.losses(batch)["segmentation"].item())
    assert found == [0.0, 0.25, 0.5, 0.75]


def test_noise_aware_training(batch):
    segmenter = Segmenter(cosine_network(), loss_options("noise_aware", {"gamma": 3.0})).eval()
    second = batch.masks.clone()
    second[:, 10:20] = (second[:, 10:20] + 1) % 4
    found = segmenter.losses(replace(batch, second=second))["segmentation"]
    assert torch.equal(found, noise_aware(segmenter(batch.images), batch.masks, second, 20.0, gamma=3.0))
    found.backward()
    assert all(parameter.grad.isfinite().all() for parameter in segmenter.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    ("name", "stride", "decoder"),
    [
        ("deeplab_v1", {"output_stride": 8}, {}),
        ("deeplab_v2", {"output_stride": 8}, {"head": "features"}),
        ("fpn", {}, {}),
    ],
)
def test_networks_of_the_paper_and_any_decoder_learn_with_the_noise_aware_loss(batch, name, stride, decoder):
    chosen = {"classifier": "cosine", **decoder}
    network = create_network(name, 4, encoder="resnet10t", weights="none", decoder=chosen, **stride)
    segmenter = Segmenter(network, loss_options("noise_aware", {})).train()
    second = batch.masks.clone()
    second[:, 10:20] = (second[:, 10:20] + 1) % 4
    segmenter.losses(replace(batch, second=second))["segmentation"].backward()
    gradients = [parameter.grad for parameter in segmenter.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > len(gradients) / 2


def test_noise_aware_needs_cosines(segmenter):
    refusal(lambda: Segmenter(segmenter.network, loss_options("noise_aware", {})), "cosine", "classifier: cosine")


def test_label_maps_on_the_grid_of_a_network(batch):
    """Each network brings all label maps to the size of its logits."""
    for name in ("global_stream", "deeplab_v2"):
        net = create_network(name, 4, encoder="resnet10t", weights="none", output_stride=8)
        found = Segmenter(net, loss_options("entropy", {})).losses(replace(batch, second=batch.masks.flip(-1)))
        assert all(value.isfinite() for value in found.values())


def test_the_mean_of_cosines_is_the_mean_of_logits(batch):
    """BANA averages cosines over views and scales the mean."""
    segmenter = Segmenter(cosine_network()).eval()
    with torch.no_grad():
        cosines = slow_views(segmenter, batch.images, (1.0, 0.5), flip=True) / 20
    found = segmenter.predict(batch.images, (1.0, 0.5), flip=True, merge="logits")
    torch.testing.assert_close(found, (20 * cosines.mean(0)).softmax(1), rtol=1e-3, atol=1e-4)
