"""Single-stage segmentation: its equations against loops, what is learnt when, and the method as a segmenter."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.data.trees import refusal
from tests.methods.conformance import CLASSES, Conformance, Setup, gradients, labelled_batch
from weakseg.methods import single_stage
from weakseg.methods.method import Method, Views
from weakseg.methods.registry import create_method
from weakseg.methods.single_stage import (
    SingleStage,
    class_loss,
    class_scores,
    focal_mask_penalty,
    keep_classes_from_scores,
    merge_masks,
    soft_masks,
    with_background,
)
from weakseg.networks.backbone import Backbone
from weakseg.networks.norm import batchnorm_layers
from weakseg.ops.maps import resize_like, unflip
from weakseg.ops.pooling import ngwp
from weakseg.ops.self_labels import balanced_mask_loss, of_present_classes, pseudo_ground_truth, sure_scores
from weakseg.pipeline.build import method as build_method
from weakseg.pipeline.build import method_options
from weakseg.pipeline.options import checked_options
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.shipped import recipe_path

SMALL = {"width": 8, "rates": (1, 2), "dilations": (1, 2), "iterations": 2}
GENEROUS = {"foreground_cut": 0.3, "background_cut": 0.3, "least_score": None}
"""Cuts with which an untrained network finds pixels of every class."""

TAGGED = ((0,), (0, 2), ())


def build(seed=0, **options):
    return Setup("single_stage", options={**SMALL, **options}).build(seed=seed)


def learning(**options):
    """With pixels that are sure of every class, whatever the network says: the mask loss is not 0."""
    return build(pretrain_epochs=0, **{**GENEROUS, **options})


def random_scores(seed=0, batch=2, height=4, width=5):
    return 2 * torch.randn(batch, CLASSES, height, width, generator=torch.Generator().manual_seed(seed))


class TestLearningMasks(Conformance):
    """The registry's entry is held to the interface with its defaults, with which no masks are learnt yet."""

    setup = Setup("single_stage", options={**SMALL, **GENEROUS, "pretrain_epochs": 0})


def test_masks_are_a_softmax_with_a_background_of_one():
    scores = random_scores()
    found = soft_masks(scores)
    for b, y, x in ((0, 0, 0), (1, 3, 4), (1, 2, 1)):
        powers = [math.e, *(math.exp(value) for value in scores[b, :, y, x].tolist())]
        assert found[b, :, y, x].tolist() == pytest.approx([power / sum(powers) for power in powers], rel=1e-4)


def test_a_constant_for_all_planes_changes_no_mask_but_the_scores():
    planes, masks = with_background(random_scores()), soft_masks(random_scores())
    torch.testing.assert_close((planes + 2.0).softmax(1), masks)
    moved = ngwp(planes[:, 1:] + 2.0, masks[:, 1:])
    assert (moved - ngwp(planes[:, 1:], masks[:, 1:])).abs().min() > 0.5


@pytest.mark.parametrize("power", [None, 0.0, 3.0, 5.0])
@pytest.mark.parametrize("eps", [1e-5, 1.0])
def test_class_scores_are_the_definition(power, eps):
    scores = random_scores()
    found = class_scores(scores, eps=eps, power=power, floor=0.05)
    for b in range(2):
        for c in range(CLASSES):
            inside = soft_masks(scores)[b, c + 1].flatten().tolist()
            values = scores[b, c].flatten().tolist()
            expected = sum(m * y for m, y in zip(inside, values, strict=True)) / (eps + sum(inside))
            mean = sum(inside) / len(inside)
            if power is not None:
                expected += (1 - mean) ** power * math.log(0.05 + mean)
            assert found[b, c].item() == pytest.approx(expected, abs=1e-5)


def test_the_penalty_rises_with_size_from_its_floor():
    sizes = torch.linspace(0, 0.99, 200)
    found = focal_mask_penalty(sizes)
    assert found[0].item() == pytest.approx(math.log(0.01))
    assert (found.diff() > -1e-4).all()
    assert (found[:100].diff() > 0).all()
    assert focal_mask_penalty(torch.ones(())).item() == pytest.approx(0, abs=1e-12)
    assert focal_mask_penalty(torch.ones(()), 0).item() == pytest.approx(math.log(1.01))


@pytest.mark.parametrize("power", [0.0, 0.5, 2.5, 3.0])
def test_the_penalty_of_a_full_mask_has_a_value_and_a_slope_for_every_power(power):
    sizes = torch.tensor([1.0, 1.0 + 1e-6], requires_grad=True)
    found = focal_mask_penalty(sizes, power)
    found.sum().backward()
    assert found.isfinite().all()
    assert sizes.grad.isfinite().all()


def test_gradients_of_the_class_loss():
    scores = random_scores(batch=1, height=2, width=3).double().requires_grad_()
    tags = torch.tensor([[True, False, True]])
    assert torch.autograd.gradcheck(lambda y: class_loss(class_scores(y), tags), scores)


def test_class_loss_is_the_definition():
    scores, tags = torch.tensor([[1.0, -2.0]]), torch.tensor([[True, False]])
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    assert class_loss(scores, tags).item() == pytest.approx(expected)


def test_one_sure_view_keeps_a_class():
    half = torch.tensor([[0.0, 0.0], [-9.0, 1e-3]])
    assert keep_classes_from_scores(half, 0.5).tolist() == [False, True]
    assert keep_classes_from_scores(torch.full((3, 2), -9.0)).tolist() == [False, False]


def test_merging_weakens_the_background_and_leaves_rejected_classes_out():
    masks, keep = soft_masks(random_scores()), torch.tensor([[True, False, True], [False, False, False]])
    found = merge_masks(masks, keep, 3)
    torch.testing.assert_close(found[:, 0], masks[:, 0] ** 3)
    assert torch.equal(found[0, [1, 3]], masks[0, [1, 3]])
    assert not found[0, 2].any()
    assert not found[1, 1:].any()


def test_masks_are_learnt_after_the_epochs_of_classification():
    method, batch = build(pretrain_epochs=2, **GENEROUS).train(), labelled_batch()
    found = []
    for epoch in range(4):
        method.begin_epoch(epoch, 4)
        losses = method.losses(batch)
        assert list(losses) == ["classification", "mask"]
        found.append(losses["mask"].item() > 0)
    assert found == [False, False, True, True]
    assert build().learns_masks is False


def quiet(method):
    """In training, but without chance: neither dropout nor draws of the gate."""
    method.train()
    for layer in method.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    method.head.gate = "deterministic"
    return method


def test_nothing_flows_through_refinement(monkeypatch):
    """The same gradients as from masks that were refined beforehand."""
    method, batch = quiet(learning()), labelled_batch()
    scores = method(batch.images).scores.float()
    assert scores.requires_grad
    assert method.losses(batch)["mask"] > 0
    own = gradients(method, method.losses(batch))
    refined = method._refined(batch, scores)
    assert not refined.requires_grad
    monkeypatch.setattr(method, "_refined", lambda *_: refined)
    fixed = gradients(method, method.losses(batch))
    assert all(torch.allclose(own[name], fixed[name], atol=1e-6) for name in fixed)


def test_masks_that_are_faint_everywhere_teach_nothing():
    """With nothing patched: no pixel of a class above the least score, so the whole image is left out."""
    batch = labelled_batch(((0,),))
    found = {}
    for least in (None, 0.999):
        method = quiet(learning(least_score=least))
        found[least] = method.losses(batch)["mask"].item()
    assert found[None] > 0
    assert found[0.999] == 0


def test_unknown_variants_are_refused_before_training():
    for option in ("gate", "cues", "balance", "normalization"):
        refusal(lambda option=option: build(**{option: "cod"}), "unknown variant 'cod'", "paper")


def test_an_image_with_a_class_that_has_no_pixel_is_discarded(monkeypatch):
    method, batch = quiet(learning()), labelled_batch(((0,), (0, 2)))
    pseudo = torch.zeros(2, CLASSES + 1, 48, 72, dtype=torch.bool)
    pseudo[:, 0, :10], pseudo[:, 1, 10:15], pseudo[1, 3, 15:] = True, True, True
    monkeypatch.setattr(method, "_pseudo_labels", lambda *_: pseudo)
    logits = nn.functional.interpolate(
        with_background(method(batch.images).scores), (48, 72), mode="bilinear", align_corners=True
    )
    first, second = balanced_mask_loss(logits, pseudo, batch.tags).tolist()
    assert method.losses(batch)["mask"].item() == pytest.approx((first + second) / 2)
    pseudo[1, 3] = False
    assert method.losses(batch)["mask"].item() == pytest.approx(first / 2)


def test_the_loss_is_the_mean_over_images_the_discarded_ones_too(monkeypatch):
    method, batch = quiet(learning()), labelled_batch()
    per_image = torch.tensor([0.5, 0.0, 0.1])
    monkeypatch.setattr(single_stage, "balanced_mask_loss", lambda *_: per_image)
    assert method.losses(batch)["mask"].item() == pytest.approx(0.2)


def test_images_are_refined_as_they_look(monkeypatch):
    """PAMR sees colours in [0, 1] of the image at hand, and masks on their own grid, of what the batch shows."""
    method, batch, seen = learning(), labelled_batch(), []

    def pamr(images, masks, **options):
        seen.append((images, masks, options))
        return masks

    monkeypatch.setattr(single_stage, "pamr", pamr)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (method.backbone.mean, method.backbone.std))
    colours = torch.rand(3, 3, 48, 72)
    method.losses(replace(batch, images=(colours - mean) / std))
    images, masks, options = seen[0]
    torch.testing.assert_close(images, colours)
    assert masks.shape == (3, 1 + len({tag for tags in TAGGED for tag in tags}), 12, 18)
    assert options == {"dilations": (1, 2), "iterations": 2, "normalization": "code"}


def test_without_iterations_masks_are_labelled_as_they_are(monkeypatch):
    monkeypatch.delattr(single_stage, "pamr")
    method, batch = learning(iterations=0).eval(), labelled_batch()
    found = method.intermediate(batch)
    enlarged = nn.functional.interpolate(found["mask"], (48, 72), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found["refined"], enlarged)
    assert all(value.isfinite() for value in method.losses(batch).values())


def test_margins_of_a_crop_are_not_labelled_and_have_no_say_in_what_is_sure():
    method, batch = learning().eval(), labelled_batch()
    valid = torch.ones_like(batch.valid)
    valid[..., 40:] = False
    found, whole = (method.intermediate(given) for given in (replace(batch, valid=valid), batch))
    assert (found["labels"][..., 40:] == 255).all()
    assert (whole["labels"][..., 40:] != 255).any()
    inside = whole["refined"][..., :40]
    pseudo = pseudo_ground_truth(inside, sure_scores(inside, *method.cuts))
    assert torch.equal(found["labels"][..., :40] != 255, pseudo.any(1))
    assert torch.equal(found["refined"][..., :40], inside)


def test_what_pamr_makes_of_a_class_does_not_depend_on_which_others_a_batch_shows():
    method, batch = learning().eval(), labelled_batch()
    with torch.no_grad():
        scores = method(batch.images).scores.float()
    refined = method._refined(batch, scores)
    everything = resize_like(method._pamr(batch.images, soft_masks(scores)), batch.images, align_corners=True)
    torch.testing.assert_close(refined, of_present_classes(everything, batch.tags), rtol=0, atol=1e-6)
    shown = torch.zeros_like(batch.tags)
    shown[:, 0] = True
    fewer = method._refined(replace(batch, tags=shown), scores)
    torch.testing.assert_close(fewer[:, :2], everything[:, :2], rtol=0, atol=1e-6)
    assert not fewer[:, 2:].any()


@pytest.mark.parametrize("gate", ["code", "paper", "deterministic", "none"])
@pytest.mark.parametrize("cues", ["code", "paper", "none"])
def test_variants_train_and_predict(gate, cues):
    method, batch = learning(gate=gate, cues=cues), labelled_batch()
    assert sum(gradient.abs().sum() > 0 for gradient in gradients(method, method.train().losses(batch)).values()) > 20
    assert method.eval().predict(batch.images).shape == (3, CLASSES + 1, 48, 72)


def test_a_batch_of_one_and_channels_last():
    method, batch = learning().train(), labelled_batch(((0, 1),))
    one = method.losses(replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last)))
    assert all(value.isfinite() for value in one.values())


def test_maps_and_background_are_the_merged_masks():
    method, batch = build(background_power=2.0).eval(), labelled_batch()
    with torch.no_grad():
        straight = soft_masks(method(batch.images).scores)
        mirrored = unflip(soft_masks(method(batch.images.flip(-1)).scores))
    expected = (straight + mirrored) / 2
    found = method.localize(batch, Views((1.0,), flip=True, stride=1))
    enlarged = nn.functional.interpolate(expected, (48, 72), mode="bilinear", align_corners=True)
    for number, (maps, tags) in enumerate(zip(found, TAGGED, strict=True)):
        torch.testing.assert_close(maps.scores, enlarged[number, [tag + 1 for tag in tags]], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(maps.background, enlarged[number, 0] ** 2, atol=1e-5, rtol=1e-4)
    assert found[0].background.shape == found[0].scores.shape[1:]


def test_predictions_with_tags_are_the_maps():
    method, batch = build().eval(), labelled_batch()
    found = method.predict(batch.images, (1.0, 0.5), flip=True, tags=batch.tags)
    maps = method.localize(batch, Views((1.0, 0.5), flip=True, stride=1))
    for number, (its_maps, tags) in enumerate(zip(maps, TAGGED, strict=True)):
        torch.testing.assert_close(found[number, 0], its_maps.background)
        torch.testing.assert_close(found[number, [tag + 1 for tag in tags]], its_maps.scores)
        assert not found[number, 1:][~batch.tags[number]].any()


def test_predictions_without_tags_keep_the_classes_that_one_view_sees(monkeypatch):
    method, batch = build(keep_threshold=0.5).eval(), labelled_batch()
    given = iter([torch.tensor([[9.0, -9, -9]] * 3), torch.tensor([[-9.0, 9, -9]] * 3)])
    monkeypatch.setattr(method, "pool", lambda _: next(given))
    found = method.predict(batch.images, (1.0,), flip=True)
    assert found[:, :3].amax((-2, -1)).gt(0).all()
    assert not found[:, 3].any()
    assert not found.requires_grad


def test_a_threshold_of_one_leaves_background_alone():
    method, batch = build(keep_threshold=1.0).eval(), labelled_batch()
    assert not method.predict(batch.images).argmax(1).any()


def test_the_canvas_gives_a_margin_that_is_cut_off_again():
    method, plain, batch = build(canvas=96).eval(), build().eval(), labelled_batch()
    given = batch.images
    framed = torch.zeros(3, 3, 96, 96)
    framed[..., 24:72, 12:84] = given
    with torch.no_grad():
        seen = plain(framed)
        whole = nn.functional.interpolate(soft_masks(seen.scores), (96, 96), mode="bilinear", align_corners=True)
    scores, masks = method._look(given, (1.0,), False, (48, 72))
    torch.testing.assert_close(masks, whole[..., 24:72, 12:84])
    torch.testing.assert_close(scores[0], seen.logits)
    larger = build(canvas=16).eval().predict(given)
    torch.testing.assert_close(larger, plain.predict(given))


def test_it_says_that_it_is_a_segmenter():
    assert SingleStage.segments
    assert not Method.segments


def test_intermediate_pictures_show_what_is_learnt_and_change_nothing():
    method, batch = learning().train(), labelled_batch()
    method.head.cues.eval()
    modes = [layer.training for layer in method.modules()]
    before = {name: value.clone() for name, value in method.state_dict().items()}
    chance = torch.get_rng_state()
    found = method.intermediate(batch)
    assert torch.equal(chance, torch.get_rng_state())
    assert [layer.training for layer in method.modules()] == modes
    assert len(set(modes)) == 2
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert found["mask"].shape == (3, CLASSES + 1, 12, 18)
    assert found["refined"].shape == (3, CLASSES + 1, 48, 72)
    assert (found["labels"].shape, found["labels"].dtype) == ((3, 48, 72), torch.uint8)
    for image, tags in zip(found["labels"], TAGGED, strict=True):
        assert set(image.unique().tolist()) <= {0, 255, *(tag + 1 for tag in tags)}
    pseudo = method._pseudo_labels(found["refined"])
    for value in range(CLASSES + 1):
        assert torch.equal(found["labels"] == value, pseudo[:, value])


def test_learning_rates_of_the_paper():
    method = build()
    method.backbone.requires_grad_(True)
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    for group in method.parameter_groups(0.001, 5e-4):
        for parameter in group["params"]:
            name = names[id(parameter)]
            expected = 0.001 * (1 if name.startswith("backbone.") else 10) * (2 if name.endswith("bias") else 1)
            assert group["lr"] == pytest.approx(expected), name
            assert group["weight_decay"] == (0 if name.endswith("bias") else 5e-4), name
    slow = build(bias_factor=1.0).parameter_groups(0.001, 5e-4)
    assert sorted({group["lr"] for group in slow}) == pytest.approx([0.001, 0.01])


@pytest.mark.parametrize(
    ("recipe", "parameters", "layers", "held", "rate", "biases"),
    [
        ("single-stage", 137_973_172, 50, 43, 0.001, 2),
        ("single-stage-vgg16", 30_579_636, 13, 6, 0.001, 2),
        ("single-stage-resnet50", 41_205_940, 66, 59, 0.0005, 1),
        ("single-stage-resnet101", 60_198_068, 117, 110, 0.001, 1),
    ],
)
def test_networks_of_the_code_as_its_recipes_build_them(recipe, parameters, layers, held, rate, biases):
    """Numbers of parameters and of normalisation layers, and learning rates."""
    localize = load_recipe(recipe_path(recipe), ["localize.backbone.weights=none"]).localize
    with torch.device("meta"):
        method = build_method(localize, method_options(localize.method), 20).train()
    groups = method.parameter_groups(localize.train.lr, localize.train.weight_decay)
    factors = {round(group["lr"] / rate, 6) for group in groups}
    assert {1, 10, 10 * biases} <= factors <= {1, biases, 10, 10 * biases}
    assert any(not parameter.requires_grad for parameter in method.backbone.parameters())
    assert sum(parameter.numel() for parameter in method.parameters()) == parameters
    found = batchnorm_layers(method)
    assert (len(found), sum(not layer.training for layer in found)) == (layers, held)


def test_shapes_of_the_paper():
    with torch.device("meta"):
        backbone = Backbone("resnet38", weights="none", output_stride=8)
        method, images = create_method("single_stage", backbone, 20), torch.zeros(2, 3, 321, 321)
        seen = method.train()(images)
        shallow, deep = single_stage.two_levels(backbone, images, method.level)
    assert (shallow.shape, deep.shape) == ((2, 256, 81, 81), (2, 4096, 41, 41))
    assert (seen.scores.shape, seen.logits.shape) == ((2, 20, 81, 81), (2, 20))


def test_recipes_may_leave_the_papers_choices():
    options = checked_options(SingleStage, {"penalty_power": None, "least_score": None}, "localize.method")
    assert options["penalty_power"] is None
    assert options["rates"] == (12, 24, 36)
    refusal(lambda: checked_options(SingleStage, {"gate": "cod"}, "localize.method"), "localize.method.gate")
    refusal(lambda: checked_options(SingleStage, {"gate_rate": 1.5}, "localize.method"), "localize.method.gate_rate")


def test_a_transformer_with_stages_learns_and_predicts():
    """Images whose sides are not whole patches."""
    torch.manual_seed(0)
    backbone = Backbone("pvt_v2_b0", weights="none", output_stride=None)
    method = create_method("single_stage", backbone, CLASSES, **SMALL, **GENEROUS, pretrain_epochs=0).train()
    batch = labelled_batch(height=50, width=75)
    losses = method.losses(batch)
    assert losses["mask"] > 0
    sum(losses.values()).backward()
    learnt = {name.partition(".")[0] for name, value in method.named_parameters() if value.grad.any()}
    assert learnt == {"backbone", "head"}
    scores = method.eval().predict(batch.images, scales=(1.0, 0.7), flip=True)
    assert scores.shape == (len(batch), CLASSES + 1, 50, 75)
    maps = method.localize(batch, Views(scales=(1.0,), flip=False, stride=4))
    assert [each.size for each in maps] == [(50, 75)] * len(batch)


def test_a_plain_transformer_is_refused():
    backbone = Backbone("test_vit", weights="none", output_stride=None)
    refusal(lambda: create_method("single_stage", backbone, 3), "no features at stride 4", "ResNet")


def pieces(scores, tags):
    """Every function that the method is made of, given the same scores (B, C, h, w) and tags (B, C)."""
    masks = soft_masks(scores)
    refined = of_present_classes(masks, tags)
    sure = sure_scores(refined)
    pseudo = pseudo_ground_truth(refined, sure)
    pooled = class_scores(scores)
    return {
        "with_background": with_background(scores),
        "soft_masks": masks,
        "focal_mask_penalty": focal_mask_penalty(masks.mean((-2, -1))),
        "class_scores": pooled,
        "class_loss": class_loss(pooled, tags),
        "of_present_classes": refined,
        "sure_scores": sure,
        "balanced_mask_loss": balanced_mask_loss(with_background(scores), pseudo, tags),
        "balanced_mask_loss, paper": balanced_mask_loss(with_background(scores), pseudo, tags, "paper"),
        "merge_masks": merge_masks(masks, tags),
        "keep_classes_from_scores": keep_classes_from_scores(torch.stack([pooled, pooled - 1])),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_all_pieces_hold_for_any_type_and_any_number_of_images_and_classes(dtype, classes, images):
    generator = torch.Generator().manual_seed(images)
    scores = (2 * torch.randn(images, classes, 5, 7, generator=generator)).to(dtype)
    tags = torch.rand(images, classes, generator=generator) > 0.4
    found, exact = pieces(scores, tags), pieces(scores.double(), tags)
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 0.05, "atol": 0.05}
    for name, value in exact.items():
        assert found[name].shape == value.shape, name
        if name.startswith("balanced") and dtype is torch.bfloat16:
            assert found[name].isfinite().all()  # a pixel at the edge of being sure may fall to either side
        elif value.dtype is torch.bool:
            assert torch.equal(found[name], value), name
        else:
            torch.testing.assert_close(found[name].double(), value, **near)
    assert exact["class_loss"].isfinite()
