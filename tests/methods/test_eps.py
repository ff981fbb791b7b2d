"""EPS: its equations against loops, its limits, and what it does with images that lack saliency."""

from dataclasses import replace

import pytest
import torch

from tests.data.trees import refusal
from tests.methods.conformance import Setup, labelled_batch
from weakseg.data.sample import WeakLabel
from weakseg.methods.eps import (
    EPS,
    class_scores,
    estimated_saliency,
    foreground_and_background,
    foreground_classes,
    overlap_ratio,
    saliency_loss,
)
from weakseg.methods.method import Views
from weakseg.pipeline.options import checked_options


def loss_of(scores, tags, saliency, blend=0.5, **selection):
    maps = scores.float().softmax(1)
    foreground = foreground_classes(maps[:, :-1].detach(), tags, saliency, **selection)
    estimate = estimated_saliency(*foreground_and_background(maps, tags, foreground), blend)
    return saliency_loss(estimate, saliency, torch.ones(len(tags), dtype=torch.bool))


def slow_loss(scores, tags, saliency, blend, tau, eps):
    """The sheet's Section 3, pixel by pixel."""
    batch, channels, height, width = scores.shape
    total = 0.0
    for b in range(batch):
        maps = scores[b].double().softmax(0)
        chosen = []
        for c in range(channels - 1):
            both = area = denominator = 0.0
            for y in range(height):
                for x in range(width):
                    on = float(maps[c, y, x] > 0.5)
                    area += on
                    denominator += on + eps
                    both += on * float(saliency[b, 0, y, x] > 0.5)
            chosen.append(bool(tags[b, c]) and area > 0 and both / denominator > tau)
        for y in range(height):
            for x in range(width):
                fore = sum(maps[c, y, x] for c in range(channels - 1) if chosen[c])
                back = maps[-1, y, x] + sum(maps[c, y, x] for c in range(channels - 1) if tags[b, c] and not chosen[c])
                estimate = blend * fore + (1 - blend) * (1 - back)
                total += float(saliency[b, 0, y, x] - estimate) ** 2
    return total / (batch * height * width)


def random_case(seed, batch=3, classes=4, height=5, width=7, peaked=4.0):
    generator = torch.Generator().manual_seed(seed)
    scores = peaked * torch.randn(batch, classes + 1, height, width, generator=generator)
    tags = torch.rand(batch, classes, generator=generator) > 0.5
    return scores, tags, torch.rand(batch, 1, height, width, generator=generator)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize("blend", [0.5, 0.9])
def test_the_loss_is_the_definition(seed, eps, blend):
    scores, tags, saliency = random_case(seed)
    found = loss_of(scores, tags, saliency, blend, min_overlap=0.4, overlap_eps=eps)
    assert found.item() == pytest.approx(slow_loss(scores, tags, saliency, blend, 0.4, eps), abs=1e-6)


def test_gradients_are_those_of_finite_differences():
    scores, tags, saliency = random_case(3, batch=1, classes=2, height=3, width=4, peaked=1.0)
    maps = scores.double().softmax(1)
    chosen = foreground_classes(maps[:, :-1], tags, saliency.double())

    def loss(scores):
        fields = foreground_and_background(scores.softmax(1), tags, chosen)
        return saliency_loss(estimated_saliency(*fields), saliency.double(), torch.ones(1, dtype=torch.bool))

    assert torch.autograd.gradcheck(loss, scores.double().requires_grad_())


def test_overlap_counts_confident_pixels_only():
    maps = torch.tensor([[[[0.9, 0.9], [0.2, 0.6]]]])
    saliency = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    assert overlap_ratio(maps, saliency, 0).item() == pytest.approx(2 / 3)
    assert overlap_ratio(maps, saliency, 1e-4).item() == pytest.approx(2 / 3.0004)


def test_one_half_is_neither_map_nor_salient():
    maps = torch.full((1, 1, 2, 2), 0.5)
    assert overlap_ratio(maps, torch.ones(1, 1, 2, 2), 0).item() == 0
    assert overlap_ratio(maps + 0.1, torch.full((1, 1, 2, 2), 0.5), 0).item() == 0


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_an_empty_map_overlaps_with_nothing(eps):
    assert overlap_ratio(torch.zeros(2, 3, 4, 5), torch.ones(2, 1, 4, 5), eps).eq(0).all()


def test_an_overlap_of_just_tau_is_not_enough():
    maps, saliency = torch.tensor([[[[0.9, 0.9]]]]), torch.tensor([[[[1.0, 0.0]]]])
    tags = torch.ones(1, 1, dtype=torch.bool)
    assert not foreground_classes(maps, tags, saliency, min_overlap=0.5, overlap_eps=0).any()
    assert foreground_classes(maps, tags, saliency, min_overlap=0.49, overlap_eps=0).all()


def test_selections():
    scores, tags, saliency = random_case(1)
    maps = scores.softmax(1)[:, :-1]
    for selection in ("naive", "foreground"):
        assert torch.equal(foreground_classes(maps, tags, saliency, selection=selection), tags)
    found = foreground_classes(maps, tags, saliency, selection="predefined", background_classes=(0, 2))
    assert torch.equal(found[:, [1, 3]], tags[:, [1, 3]])
    assert not found[:, [0, 2]].any()


def test_classes_without_tag_are_in_neither_map():
    scores, tags, saliency = random_case(2)
    chosen = foreground_classes(scores.softmax(1)[:, :-1], tags, saliency)
    foreground, background = foreground_and_background(scores.softmax(1), tags, chosen)
    absent = (scores.softmax(1)[:, :-1] * ~tags[..., None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(foreground + background + absent, torch.ones_like(foreground))


def test_without_tags_only_the_background_map_counts():
    scores, _, saliency = random_case(4)
    tags = torch.zeros(3, 4, dtype=torch.bool)
    foreground, background = foreground_and_background(scores.softmax(1), tags, tags)
    assert not foreground.any()
    assert torch.equal(background, scores.softmax(1)[:, -1:])
    assert loss_of(scores, tags, saliency).isfinite()


def test_blend_is_without_effect_for_one_class_that_is_selected():
    scores = torch.tensor([[[[3.0, 3.0, -2.0]], [[0.0, 0.0, 0.0]]]])
    tags, saliency = torch.ones(1, 1, dtype=torch.bool), torch.tensor([[[[1.0, 1.0, 0.0]]]])
    assert loss_of(scores, tags, saliency, 0.1).item() == pytest.approx(loss_of(scores, tags, saliency, 0.9).item())


def test_the_limits_of_blend():
    foreground, background = torch.rand(2, 1, 3, 4), torch.rand(2, 1, 3, 4)
    assert torch.equal(estimated_saliency(foreground, background, 1.0), foreground)
    assert torch.equal(estimated_saliency(foreground, background, 0.0), 1 - background)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything_salient(value):
    scores, tags, saliency = random_case(5)
    found = loss_of(scores.requires_grad_(), tags, torch.full_like(saliency, value))
    found.backward()
    assert 0 <= found.item() <= 1
    assert scores.grad.isfinite().all()


def test_a_constant_for_all_channels_changes_the_class_scores_alone():
    scores, tags, saliency = random_case(6)
    assert loss_of(scores + 2.5, tags, saliency).item() == pytest.approx(loss_of(scores, tags, saliency).item())
    torch.testing.assert_close(class_scores(scores + 2.5), class_scores(scores) + 2.5)


def test_the_mirror_image_has_the_same_loss():
    scores, tags, saliency = random_case(7)
    mirrored = loss_of(scores.flip(-1), tags, saliency.flip(-1))
    assert mirrored.item() == pytest.approx(loss_of(scores, tags, saliency).item())


def test_class_scores_leave_the_background_out():
    scores = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[9.0, 9.0], [9.0, 9.0]]]])
    assert class_scores(scores).tolist() == [[2.5]]


def test_only_images_with_saliency_count():
    estimate, saliency = torch.rand(3, 1, 4, 5), torch.rand(3, 1, 4, 5)
    known = torch.tensor([True, False, True])
    alone = saliency_loss(estimate[known], saliency[known], torch.ones(2, dtype=torch.bool))
    assert saliency_loss(estimate, saliency, known).item() == pytest.approx(alone.item())
    assert saliency_loss(estimate, saliency, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_training_without_any_saliency_is_classification():
    method, batch = Setup("eps").build().train(), labelled_batch()
    unknown = replace(batch, known={**batch.known, WeakLabel.SALIENCY: torch.zeros(len(batch), dtype=torch.bool)})
    losses = method.losses(unknown)
    assert losses["saliency"].item() == 0
    assert losses["classification"].item() == pytest.approx(method.losses(batch)["classification"].item())


@pytest.mark.parametrize("selection", ["naive", "foreground", "predefined"])
def test_selections_train(selection):
    listed = {"background_classes": (1,)} if selection == "predefined" else {}
    method, batch = Setup("eps", options={"selection": selection, **listed}).build().train(), labelled_batch()
    sum(method.losses(batch).values()).backward()
    assert method.head.weight.grad.abs().sum() > 0


def test_the_foreground_selection_ignores_the_background_map():
    assert Setup("eps", options={"selection": "foreground"}).build().blend == 1


def test_the_weight_of_the_foreground_is_a_half_unless_given():
    assert Setup("eps").build().blend == 0.5
    assert Setup("eps", options={"blend": 0.0}).build().blend == 0
    assert Setup("eps", options={"blend": 0.9, "selection": "naive"}).build().blend == 0.9


def test_recipes_may_leave_the_weight_out_and_hold_it_to_its_range():
    assert checked_options(EPS, {"selection": "foreground"}, "localize.method")["blend"] is None
    assert checked_options(EPS, {"blend": 0.5}, "localize.method")["blend"] == 0.5
    refusal(lambda: checked_options(EPS, {"blend": 1.5}, "localize.method"), "localize.method.blend")


def test_maps_are_the_softmax_without_background():
    method, batch = Setup("eps").build().eval(), labelled_batch()
    with torch.no_grad():
        scores, maps = method(batch.images).scores, method.view_maps(batch.images)
    assert scores.shape[1] == 4
    assert maps.shape[1] == 3
    torch.testing.assert_close(maps, scores.softmax(1)[:, :3])
    found = method.localize(batch, Views((1.0,), flip=False, stride=16))[0]
    torch.testing.assert_close(found.scores[0], maps[0, 0] / (maps[0, 0].max() + 1e-5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"selection": "predefined"}, "background_classes"),
        ({"background_classes": (1,)}, "belong together"),
        ({"selection": "predefined", "background_classes": (3,)}, "there are 3"),
        ({"selection": "adaptiv"}, "unknown selection"),
        ({"selection": "foreground", "blend": 0.5}, "'blend' is of no use"),
    ],
)
def test_senseless_options_are_refused(options, words):
    refusal(Setup("eps", options=options).build, words)
