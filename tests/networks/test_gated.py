"""The network with a stochastic gate: its parts against loops, their limits, and what it reads of a backbone."""

import pytest
import torch
from torch import nn

from tests.data.trees import refusal
from weakseg.networks.backbone import Backbone
from weakseg.networks.gated import (
    FrozenASPP,
    GatedDecoder,
    GlobalCues,
    ImageNorm,
    cue_normalisation,
    fine_level,
    gci_modulation,
    stochastic_gate,
    two_levels,
)
from weakseg.networks.norm import batchnorm_layers

PSI = 0.3
GATES = ["code", "paper", "deterministic", "none"]
BODIES = {
    "resnet38": {"options": {"width": 1 / 16}},
    "vgg16_deeplab": {"options": {"width": 1 / 8}},
    "mobilenetv2_050": {},
    "test_resnet": {},
    "convnext_atto": {},
}


def features(seed=0, batch=2, channels=3, height=4, width=5):
    return torch.randn(2, batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def body(name, output_stride=8):
    torch.manual_seed(0)
    return Backbone(name, weights="none", output_stride=output_stride, **BODIES[name]).eval()


def decoder(seed=0, **options):
    torch.manual_seed(seed)
    return GatedDecoder(6, 10, 4, width=8, rates=(1, 2), **options)


def levels(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 6, 12, 16, generator=generator), torch.randn(batch, 10, 6, 8, generator=generator)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_the_gate_is_the_definition(variant):
    (deep, shallow), take = features(), torch.rand(2, 3, 4, 5) < PSI
    found = stochastic_gate(deep, shallow, rate=PSI, variant=variant, take_shallow=take)
    for place in range(deep.numel()):
        d, s, taken = (tensor.flatten()[place].item() for tensor in (deep, shallow, take))
        instead = (d - PSI * s) / (1 - PSI) if variant == "code" else d
        assert found.flatten()[place].item() == pytest.approx(s if taken else instead, abs=1e-5)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_the_expectation_of_the_gate(variant):
    """Exactly: psi times the shallow features and 1 - psi times what is there instead."""
    deep, shallow = features()
    draws = [torch.full_like(deep, share, dtype=torch.bool) for share in (0, 1)]
    instead, taken = (stochastic_gate(deep, shallow, rate=PSI, variant=variant, take_shallow=take) for take in draws)
    inference = stochastic_gate(deep, shallow, rate=PSI, variant=variant, training=False)
    expected = inference if variant == "paper" else deep
    torch.testing.assert_close((1 - PSI) * instead + PSI * taken, expected)


def mean_of_draws(variant, draws=20000):
    torch.manual_seed(0)
    deep, shallow = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1), torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    many = [tensor.expand(draws, -1, 1, 1) for tensor in (deep, shallow)]
    found = stochastic_gate(*many, rate=PSI, variant=variant).mean(0, keepdim=True)
    return found, deep, shallow


def test_the_papers_gate_means_what_inference_does():
    found, deep, shallow = mean_of_draws("paper")
    inference = stochastic_gate(deep, shallow, rate=PSI, training=False, variant="paper")
    torch.testing.assert_close(found, inference, atol=0.1, rtol=0)
    assert (found - deep).abs().min() > 0.3


def test_the_codes_gate_means_the_deep_features():
    found, deep, _ = mean_of_draws("code")
    torch.testing.assert_close(found, deep, atol=0.15, rtol=0)


def test_the_paper_draws_for_positions_and_the_code_for_elements():
    torch.manual_seed(0)
    deep, shallow = torch.zeros(3, 16, 8, 9), torch.ones(3, 16, 8, 9)
    drawn = stochastic_gate(deep, shallow, rate=PSI, variant="paper")
    assert torch.equal(drawn, drawn[:, :1].expand_as(drawn))
    assert len({row.numpy().tobytes() for row in drawn[:, 0]}) == 3
    drawn = stochastic_gate(deep, shallow, rate=PSI, variant="code")
    assert not torch.equal(drawn, drawn[:, :1].expand_as(drawn))
    assert drawn.eq(1).float().mean().item() == pytest.approx(PSI, abs=0.03)


@pytest.mark.parametrize("variant", GATES)
def test_inference_is_a_mixture_and_draws_nothing(variant):
    deep, shallow = features()
    before = torch.get_rng_state()
    found = stochastic_gate(deep, shallow, rate=PSI, training=False, variant=variant)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found, deep if variant == "none" else 0.7 * deep + 0.3 * shallow)


def test_the_deterministic_gate_mixes_in_training_too():
    deep, shallow = features()
    torch.testing.assert_close(
        stochastic_gate(deep, shallow, rate=PSI, variant="deterministic"), 0.7 * deep + 0.3 * shallow
    )


@pytest.mark.parametrize("variant", ["code", "paper", "deterministic"])
def test_the_limits_of_the_gates_rate(variant):
    deep, shallow = features()
    for rate, expected in ((0.0, deep), (1.0, shallow)):
        assert torch.equal(stochastic_gate(deep, shallow, rate=rate, variant=variant), expected)


def test_the_gates_draws_are_fresh_and_of_any_shape():
    for shape in ((1, 2, 3, 4), (2, 2, 5, 3), (1, 2, 3, 4)):
        assert stochastic_gate(torch.zeros(shape), torch.ones(shape), rate=PSI).shape == shape


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_gradients_of_the_gate(variant):
    deep, shallow = (tensor.double().requires_grad_() for tensor in features(height=2, width=2, channels=2))
    take = torch.rand(2, 2, 2, 2) < 0.5
    assert torch.autograd.gradcheck(
        lambda d, s: stochastic_gate(d, s, rate=PSI, variant=variant, take_shallow=take), (deep, shallow)
    )


@pytest.mark.parametrize("variant", ["code", "paper", "none"])
def test_cues_are_the_definition(variant):
    given = features(batch=2, channels=3)[0].double()
    scale, shift = torch.randn(2, 2, 3, dtype=torch.float64).unbind()
    norm = cue_normalisation(3, variant, eps=1e-5).double().train()
    found = gci_modulation(norm(given), scale, shift, variant=variant)
    for b in range(2):
        for c in range(3):
            alike = given[b, c] if variant == "paper" else given[:, c]
            spread = (alike - alike.mean()).square().mean()
            normal = (given[b, c] - alike.mean()) / (spread + 1e-5).sqrt()
            z, add = scale[b, c], shift[b, c]
            expected = {"paper": z * normal + add, "code": (1 + z) * normal + add, "none": normal}[variant]
            torch.testing.assert_close(found[b, c], expected.clamp(min=0))


def test_the_papers_normalisation_is_that_of_each_image():
    together = torch.cat([features()[0], 100 * features(seed=1)[0]])
    torch.testing.assert_close(ImageNorm()(together)[:2], ImageNorm()(together[:2]))
    assert not ImageNorm()(torch.randn(2, 3, 1, 1)).any()


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_cues_reach_every_position(variant):
    """A change of the deep features at one corner changes what comes out at the other."""
    cues = GlobalCues(6, 8, variant).eval()
    shallow, deep = torch.randn(1, 6, 5, 7), torch.randn(1, 8, 5, 7)
    moved = deep.clone()
    moved[..., 0, 0] += 20
    assert not torch.equal(cues(shallow, deep)[..., 4, 6], cues(shallow, moved)[..., 4, 6])
    without = GlobalCues(6, 8, "none").eval()
    assert torch.equal(without(shallow, deep), without(shallow, moved))


def test_the_aspp_keeps_its_statistics_and_learns_scale_and_shift():
    aspp = FrozenASPP(10, 8, (1, 2)).train()
    given = torch.randn(3, 10, 6, 8)
    aspp.join[-1].p = 0.0
    together = aspp(given)
    torch.testing.assert_close(aspp(given[1:2]), together[1:2])
    together.sum().backward()
    for layer in batchnorm_layers(aspp):
        assert not layer.training
        assert torch.equal(layer.running_mean, torch.zeros_like(layer.running_mean))
        assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("cues", ["code", "paper", "none"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_decoder_answers_on_the_fine_grid_and_learns_everywhere(gate, cues, batch):
    net = decoder(gate=gate, cues=cues).train()
    scores, read = net(*levels(batch))
    assert scores.shape == (batch, 4, 12, 16)
    assert read.shape == (batch, 8, 12, 16)
    scores.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_decoder_in_bfloat16():
    net, given = decoder().eval(), levels()
    exact = net(*given)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(*given)[0]
    torch.testing.assert_close(rounded.float(), exact, atol=0.15, rtol=0.05)


def test_unknown_variants_are_refused():
    refusal(lambda: decoder(gate="cod"), "unknown variant 'cod'", "deterministic")
    refusal(lambda: decoder(cues="deterministic"), "unknown variant 'deterministic'", "paper")
    deep, shallow = features()
    refusal(lambda: stochastic_gate(deep, shallow, variant="cod"), "unknown variant 'cod'")
    refusal(lambda: gci_modulation(deep, deep[..., 0, 0], deep[..., 0, 0], variant="cod"), "unknown variant 'cod'")


@pytest.mark.parametrize("name", BODIES)
def test_both_levels_are_the_backbones(name):
    backbone, images = body(name), torch.randn(2, 3, 64, 96)
    number, channels = fine_level(backbone)
    with torch.no_grad():
        shallow, deep = two_levels(backbone, images, number)
        torch.testing.assert_close(deep, backbone(images))
    assert shallow.shape == (2, channels, 16, 24)
    if name != "resnet38":
        torch.testing.assert_close(shallow, backbone.stages(images)[number])


@pytest.mark.parametrize("name", ["mambaout_femto", "fasternet_t0", "pvt_v2_b0", "swin_tiny_patch4_window7_224"])
def test_networks_of_other_kinds_go_if_a_stage_is_fine_enough(name):
    """Channels last, a stem of patches, attention; images whose sides are no multiples of anything."""
    backbone = Backbone(name, weights="none", output_stride=None).eval()
    number, channels = fine_level(backbone)
    network = GatedDecoder(channels, backbone.channels, 3, width=8, rates=(1, 2)).eval()
    images = torch.randn(2, 3, 70, 101)
    with torch.no_grad():
        shallow, deep = two_levels(backbone, images, number)
        torch.testing.assert_close(deep, backbone(images))
        logits, _ = network(shallow, deep)
    assert logits.shape[:2] == (2, 3)
    assert logits.shape[2] >= 70 // 4


def test_resnet38_gives_what_leaves_the_unit_before_it_is_normalised():
    backbone, images, seen = body("resnet38"), torch.randn(1, 3, 33, 47), []
    backbone.model.b4.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        shallow, _ = two_levels(backbone, images, fine_level(backbone).number)
    assert torch.equal(shallow, seen[-1])
    assert shallow.min() < 0


def test_vgg16_gives_conv3_3_after_its_relu():
    backbone, images = body("vgg16_deeplab"), torch.randn(1, 3, 33, 49)
    with torch.no_grad():
        shallow, _ = two_levels(backbone, images, fine_level(backbone).number)
        assert torch.equal(shallow, backbone.model.features[:16](images))
    assert isinstance(backbone.model.features[16], nn.MaxPool2d)
    assert [layer.out_channels for layer in backbone.model.features[:16] if isinstance(layer, nn.Conv2d)][-1] == 32


def test_backbones_without_a_fine_level_are_refused():
    refusal(lambda: fine_level(body("test_resnet"), stride=64), "no features at stride 64")
    refusal(lambda: fine_level(Backbone("test_vit", weights="none", output_stride=None)), "no features at stride 4")
