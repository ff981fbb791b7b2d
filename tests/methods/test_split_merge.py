"""Splitting vs. Merging against its equations, written out."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import interpolate

from tests.data.trees import refusal
from tests.methods.conformance import gradients, labelled_batch
from weakseg.methods.method import Views
from weakseg.methods.split_merge import (
    SplitMerge,
    classification_loss,
    discrepancy_loss,
    intersection,
    normalised_maps,
    spatial_softmax,
    union,
)
from weakseg.metrics.localization import soft_scores, soft_sums
from weakseg.networks.backbone import Backbone

CLASSES = 3
ONE_VIEW = Views(scales=(1.0,), flip=False, stride=1)
VGG = {"name": "vgg16_conv5", "options": {"width": 0.125}}


def split_merge(seed=0, body=None, **options):
    torch.manual_seed(seed)
    body = body or {"name": "test_resnet"}
    return SplitMerge(Backbone(weights="none", output_stride=16, **body), CLASSES, **{"hidden": 32, **options})


def random_scores(seed, *shape, spread=2.0):
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def batch():
    return labelled_batch()


def slow_discrepancy(a, b):
    images, classes, height, width = a.shape
    total = 0.0
    for n in range(images):
        for c in range(classes):
            over = [[math.exp(value) for value in maps[n, c].flatten().tolist()] for maps in (a, b)]
            shares = [[value / sum(values) for value in values] for values in over]
            total += sum(abs(one - other) for one, other in zip(*shares, strict=True))
    return -total / (images * classes * height * width)


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 3, 4, 5), (3, 1, 1, 7)])
def test_discrepancy_is_its_definition(shape):
    a, b = random_scores(0, *shape), random_scores(1, *shape)
    found = discrepancy_loss(a, b)
    assert found.item() == pytest.approx(slow_discrepancy(a, b), rel=1e-5)
    assert -2 / (shape[2] * shape[3]) <= found.item() < 0


def test_discrepancy_of_disjoint_peaks_is_its_lower_bound():
    a, b = torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)
    a[..., 0, 0], b[..., 2, 3] = 60, 60
    assert discrepancy_loss(a, b).item() == pytest.approx(-2 / 12, rel=1e-6)


def test_what_discrepancy_does_not_see():
    a, b = random_scores(0, 2, 3, 4, 5), random_scores(1, 2, 3, 4, 5)
    value = discrepancy_loss(a, b)
    offset = random_scores(2, 2, 3, 1, 1)
    places = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    moved = [maps.flatten(2)[..., places].view_as(maps) for maps in (a, b)]
    for one, other in ((b, a), (a + offset, b), (a, b - offset), moved, (a[:, [2, 0, 1]], b[:, [2, 0, 1]])):
        torch.testing.assert_close(discrepancy_loss(one, other), value)
    assert discrepancy_loss(a, a + offset).item() == pytest.approx(0, abs=1e-7)
    assert abs(discrepancy_loss(3 * a, 3 * b) - value) > 1e-3


def test_large_scores_do_not_overflow():
    a, b = torch.full((1, 1, 2, 2), 500.0), torch.full((1, 1, 2, 2), -500.0)
    a[..., 0, 0] = 1000
    assert discrepancy_loss(a, b).isfinite()
    torch.testing.assert_close(spatial_softmax(a).sum((2, 3)), torch.ones(1, 1))


def test_gradient_of_the_discrepancy_is_that_of_finite_differences():
    a, b = random_scores(0, 1, 2, 2, 3).double().requires_grad_(), random_scores(1, 1, 2, 2, 3).double()
    assert torch.autograd.gradcheck(lambda scores: discrepancy_loss(scores, b), a)


def test_intersection_scores_no_more_than_either():
    a, b = random_scores(0, 2, 3, 4, 5), random_scores(1, 2, 3, 4, 5)
    least = torch.minimum(a.mean((2, 3)), b.mean((2, 3)))
    assert (intersection(a, b).mean((2, 3)) < least).all()
    torch.testing.assert_close(intersection(a, a + 1).mean((2, 3)), a.mean((2, 3)))
    tags = torch.tensor([[True, False, True], [False, False, False]])
    assert torch.equal(classification_loss(intersection(a, a), tags), classification_loss(a, tags))


def test_the_smaller_score_alone_receives_the_gradient():
    a, b = random_scores(0, 1, 1, 2, 3).requires_grad_(), random_scores(1, 1, 1, 2, 3).requires_grad_()
    intersection(a, b).sum().backward()
    assert torch.equal(a.grad, (a < b).float())
    assert torch.equal(b.grad, (b < a).float())


def test_classification_is_binary_cross_entropy_of_the_mean():
    scores, tags = random_scores(0, 2, 3, 2, 2), torch.tensor([[True, False, False], [False, True, True]])
    total = 0.0
    for n in range(2):
        for c in range(3):
            p = 1 / (1 + math.exp(-scores[n, c].mean().item()))
            total -= math.log(p if tags[n, c] else 1 - p)
    assert classification_loss(scores, tags).item() == pytest.approx(total / 6, rel=1e-5)


def test_normalised_maps_reach_from_zero_to_one():
    maps = normalised_maps(random_scores(0, 2, 3, 4, 5))
    assert maps.amin((2, 3)).eq(0).all()
    torch.testing.assert_close(maps.amax((2, 3)), torch.ones(2, 3))
    assert not normalised_maps(torch.full((1, 2, 2), -3.0)).any()
    assert not normalised_maps(torch.full((1, 2, 2), 3.0)).any()
    assert normalised_maps(torch.zeros(0, 2, 2)).shape == (0, 2, 2)


def test_union_is_idempotent_commutative_and_recalls_no_less():
    a, b = (normalised_maps(random_scores(seed, 2, 6, 7)) for seed in (0, 1))
    assert torch.equal(union([a, a]), a)
    assert torch.equal(union([a, b]), union([b, a]))
    assert (union([a, b]) >= a).all()
    truth = random_scores(3, 2, 6, 7) > 0
    together, apart = (soft_scores(soft_sums(maps, truth)) for maps in (union([a, b]), a))
    assert (together.recall >= apart.recall).all()
    assert (together.overlap <= torch.minimum(together.precision, together.recall)).all()


def slow_losses(method, batch):
    """The objective as the paper writes it, with each stream computed for itself."""
    reference = method.backbone(batch.images)
    expanding = method.expanding(method.parts.trunk(batch.images))
    a, b, c = method.a(expanding), method.b(expanding), method.c(reference)
    losses = [classification_loss(scores, batch.tags) for scores in (a, b, c, torch.minimum(a, b))]
    return [*losses, method.beta * torch.tensor(slow_discrepancy(a, b))]


@pytest.mark.parametrize("body", [None, VGG], ids=["resnet", "vgg"])
def test_the_objective_is_its_definition(batch, body):
    method = split_merge(body=body).eval()
    found = method.losses(batch)
    assert list(found) == [
        *("classification_a", "classification_b", "classification_c", "classification_intersection"),
        "discrepancy",
    ]
    with torch.no_grad():
        expected = slow_losses(method, batch)
    torch.testing.assert_close(torch.stack(list(found.values())), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert found["discrepancy"] < 0


def test_the_discrepancy_moves_classifiers_a_and_b_and_nothing_else(batch):
    """One step on it alone: everything else is the same to the bit, and both layers of A and B have moved."""
    method = split_merge().train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer = torch.optim.SGD(method.parameter_groups(lr=1.0, weight_decay=0))
    method.losses(batch)["discrepancy"].backward()
    optimizer.step()
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    # a constant for each class changes no spatial softmax, so the last biases move by rounding alone
    expected = {f"{name}.{layer}" for name in "ab" for layer in ("0.weight", "0.bias", "2.weight")}
    assert moved - {"a.2.bias", "b.2.bias"} == expected
    for name in "ab":
        torch.testing.assert_close(method.state_dict()[f"{name}.2.bias"], torch.zeros(CLASSES), atol=1e-6, rtol=0)


def test_features_are_moved_by_classification_alone(batch):
    with_it, without = split_merge(beta=50).eval(), split_merge(beta=0).eval()
    one, other = (gradients(method, method.losses(batch)) for method in (with_it, without))
    for name, gradient in one.items():
        if name.startswith(("backbone.", "expanding.", "c.")):
            assert torch.equal(gradient, other[name]), name
    assert not torch.equal(one["a.0.weight"], other["a.0.weight"])


def test_options_leave_parts_of_the_objective_out(batch):
    assert "discrepancy" not in split_merge(beta=0).losses(batch)
    assert "classification_intersection" not in split_merge(intersection=False).losses(batch)
    plain = split_merge().eval().losses(batch)["discrepancy"]
    torch.testing.assert_close(split_merge(beta=50).eval().losses(batch)["discrepancy"], 2.5 * plain)


def test_a_and_b_do_not_start_alike(batch):
    method = split_merge().eval()
    scores = method.scores(batch.images)
    assert not torch.allclose(scores.a, scores.b, atol=1e-2)
    assert method.a[0].bias.eq(0).all()


def test_training_drives_a_and_b_apart(batch):
    def distance(beta):
        method = split_merge(beta=beta).train()
        optimizer = torch.optim.SGD(method.parameter_groups(lr=0.003, weight_decay=0), momentum=0.9)
        for _ in range(12):
            optimizer.zero_grad()
            torch.stack(list(method.losses(batch).values())).sum().backward()
            optimizer.step()
        with torch.no_grad():
            scores = method.eval().scores(batch.images)
        return discrepancy_loss(scores.a, scores.b).item()

    assert distance(20.0) < distance(0.0)


def test_streams_share_the_trunk_and_start_alike():
    method = split_merge(body=VGG)
    own = dict(method.named_parameters())
    assert sum(name.startswith("expanding.") and name.endswith("weight") for name in own) == 9
    expanding, reference = method.eval().extract(torch.randn(2, 3, 48, 64))
    assert torch.equal(expanding, reference)
    assert expanding.shape == (2, 64, 3, 4)


def test_hidden_width():
    assert split_merge(hidden=None).a[0].out_channels == split_merge().backbone.channels
    assert split_merge(hidden=20).c[2].in_channels == 20


def test_forward_is_the_reference_stream(batch):
    method = split_merge().eval()
    seen = method(batch.images)
    torch.testing.assert_close(seen.scores, method.scores(batch.images).c)
    torch.testing.assert_close(seen.logits, seen.scores.mean((2, 3)))


def slow_maps(method, image, tags, names, views, grid):
    """One image, one view and one classifier at a time."""
    united = []
    for name in names:
        total = torch.zeros(CLASSES, *grid)
        for scale in views.scales:
            size = [round(side * scale) for side in image.shape[-2:]]
            scaled = interpolate(image[None], size, mode="bicubic", align_corners=False, antialias=scale < 1)
            for mirrored in (False, True)[: 1 + views.flip]:
                seen = method.scores(scaled.flip(3) if mirrored else scaled)._asdict()[name]
                large = interpolate(seen, grid, mode="bilinear", align_corners=False)[0]
                total += large.flip(2) if mirrored else large
        rectified = total[tags].clamp(min=0)
        united.append([maps / maps.max() if maps.max() > 0 else maps for maps in (m - m.min() for m in rectified)])
    shown = int(tags.sum())
    return torch.stack([torch.stack([maps[k] for maps in united]).amax(0) for k in range(shown)]) if shown else None


@pytest.mark.parametrize("names", ["abc", "ab", "a", "b", "c"])
@pytest.mark.parametrize("views", [ONE_VIEW, Views((1.0, 0.5), flip=True, stride=4)], ids=["one", "several"])
def test_maps_are_normalised_before_they_are_united(batch, names, views):
    method = split_merge(maps=names).eval()
    grid = (48, 72) if views.stride == 1 else (12, 18)
    found = method.localize(batch, views)
    for image, tags, maps in zip(batch.images, batch.tags, found, strict=True):
        with torch.no_grad():
            expected = slow_maps(method, image, tags, names, views, grid)
        if expected is not None:
            torch.testing.assert_close(maps.scores, expected, rtol=1e-3, atol=1e-4)


def test_every_map_of_a_union_reaches_one_or_is_empty(batch):
    for maps in split_merge().eval().localize(batch, ONE_VIEW):
        peaks = maps.scores.flatten(1).amax(1) if len(maps.scores) else torch.ones(0)
        assert all(peak == pytest.approx(1, abs=1e-6) or peak == 0 for peak in peaks.tolist())


def test_loss_looks_at_tags_alone(batch):
    method = split_merge().eval()
    blind = replace(batch, masks=batch.masks + 1, saliency=batch.saliency * 0)
    found, expected = method.losses(blind), method.losses(batch)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_both_extractors_learn_slowly_and_the_classifiers_fast():
    method = split_merge()
    rates = {id(p): group["lr"] for group in method.parameter_groups(0.01, 1e-4) for p in group["params"]}
    assert len(rates) == len(list(method.parameters()))
    for name, parameter in method.named_parameters():
        expected = 0.1 if name.split(".")[0] in "abc" else 0.01
        assert rates[id(parameter)] in (pytest.approx(expected), pytest.approx(2 * expected)), name


def test_a_backbone_that_cannot_be_cut():
    body = {"name": "vit_tiny_patch16_224"}
    refusal(lambda: split_merge(body=body), "'vit_tiny_patch16_224'", "cannot be cut")
    refusal(lambda: split_merge(shared_stages=7), "after 7 stages", "1, 2, 3, 4")
