"""IRN against loops and dense matrices; what it learns, walks, and tells apart."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.data.trees import refusal
from tests.refine.learning import batch_of, maps_of, picture, small_backbone, train
from weakseg.networks.backbone import Backbone
from weakseg.ops.crf import CRFParameters, dense_crf_labels
from weakseg.ops.maps import resize
from weakseg.ops.pairs import pair_labels, path_offsets, search_paths
from weakseg.pipeline.options import checked_options
from weakseg.pipeline.recipe import Training
from weakseg.refine.irn import IRN, displacement_losses, merge_confident, shrink_labels, strongest
from weakseg.refine.masks import at_image_size, pseudo_mask

HEIGHT, WIDTH = 48, 64
LOSSES = {
    "boundary_background",
    "boundary_foreground",
    "boundary_negative",
    "displacement_foreground",
    "displacement_background",
}


def small(**options):
    return IRN(small_backbone(16), **{"pad_to": 0, **options})


@pytest.fixture(scope="module")
def refiner():
    return small().eval()


def thirds(height, width):
    """Background, and two classes beside it."""
    return torch.tensor([0, 2, 5], dtype=torch.uint8)[torch.arange(width) * 3 // width].expand(height, width).clone()


def sources(height, width, radius):
    return [(y, x) for y in range(height - radius + 1) for x in range(radius - 1, width - radius + 1)]


def test_labels_are_sure_of_an_object_or_of_background():
    foreground, background = torch.tensor([[0, 3, 3], [0, 0, 5]]), torch.tensor([[0, 3, 0], [3, 5, 5]])
    assert merge_confident(foreground, background).tolist() == [[0, 3, 3], [255, 255, 5]]


@pytest.mark.parametrize(("pixels", "cells"), [((16, 24), (4, 6)), ((13, 22), (4, 6)), ((512, 512), (128, 128))])
def test_a_cell_takes_the_label_at_its_middle(pixels, cells):
    labels = torch.arange(math.prod(pixels)).view(pixels)
    found = shrink_labels(labels[None], cells)[0]
    for row in range(cells[0]):
        for column in range(cells[1]):
            y, x = ((n + 0.5) * side / count for n, side, count in zip((row, column), pixels, cells, strict=True))
            assert found[row, column] == labels[int(y), int(x)]
    if pixels[0] == 4 * cells[0]:
        assert torch.equal(found, labels[2::4, 2::4])


def test_displacements_of_one_object_differ_by_the_way_between_its_pixels():
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(2, 2, 8, 9, generator=generator)
    labels = torch.tensor([0, 0, 1, 2, 255])[torch.randint(0, 5, (2, 8, 9), generator=generator)]
    offsets = path_offsets(3)
    found = displacement_losses(field, pair_labels(labels, 3, offsets=offsets), 3)
    terms = {"foreground": [], "background": []}
    for image in range(2):
        for y, x in sources(8, 9, 3):
            for dy, dx in offsets.tolist():
                a, b = labels[image, y, x].item(), labels[image, y + dy, x + dx].item()
                if a == b != 255:
                    way = torch.tensor([dy, dx]) if a else torch.zeros(2)
                    difference = field[image, :, y, x] - field[image, :, y + dy, x + dx]
                    terms["foreground" if a else "background"].append((difference - way).abs().sum().item())
    for name, values in terms.items():
        assert len(values) > 10
        assert found[name].item() == pytest.approx(sum(values) / (2 * len(values) + 1e-5), rel=1e-5)


def test_a_field_that_points_at_one_spot_has_no_loss():
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    field = torch.stack([4 - rows, 6 - columns])[None]
    labels = pair_labels(torch.ones(1, 9, 9, dtype=torch.int64), 3, offsets=path_offsets(3))
    assert displacement_losses(field, labels, 3)["foreground"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("classes", [(1,), (1, 4)])
def test_targets_are_two_crfs_that_agree(refiner, classes):
    image, maps = picture(32, 32), maps_of((32, 32), classes)
    scores, found = at_image_size(maps).scores, []
    for threshold in (0.30, 0.05):
        labels = torch.cat([torch.full((1, 32, 32), threshold), scores]).argmax(0)
        pixels = image.permute(1, 2, 0).contiguous()
        found.append(dense_crf_labels(pixels, labels, len(classes) + 1, "B", gt_prob=0.7).argmax(0))
    expected = torch.full((32, 32), 255, dtype=torch.uint8)
    for number, label in enumerate(classes):
        expected[found[0] == number + 1] = label + 1
    expected[(found[0] == 0) & (found[1] == 0)] = 0
    target = refiner.targets(image, maps)
    assert target.dtype == torch.uint8
    assert torch.equal(target, expected)


def test_an_image_without_a_class_is_background(refiner):
    assert not refiner.targets(picture(32, 40), maps_of((32, 40), ())).any()


def test_between_the_thresholds_nothing_is_sure():
    image = torch.full((3, 24, 24), 128, dtype=torch.uint8)
    maps = maps_of((24, 24), (2,))
    for score, label in ((0.5, 3), (0.1, 255), (0.01, 0)):
        given = maps.with_scores(torch.full_like(maps.scores, score), None)
        assert small().targets(image, given).unique().tolist() == [label]


def test_the_maps_own_background_can_be_the_threshold():
    image = torch.full((3, 24, 24), 128, dtype=torch.uint8)
    maps = maps_of((24, 24), (2,))
    refiner = small(label_background=True)
    for score, label in ((0.5, 3), (0.3, 255), (0.1, 0)):
        given = maps.with_scores(torch.full_like(maps.scores, score), torch.full((6, 6), 0.4))
        assert refiner.targets(image, given).unique().tolist() == [label]
    refusal(lambda: refiner.targets(image, maps), "no background", "before 'irn'")


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (50, 67), (16, 90)])
def test_answers_have_stride_four(refiner, size):
    with torch.no_grad():
        boundary, field = refiner(torch.rand(2, 3, *size))
    grid = tuple((side - 1) // 4 + 1 for side in size)
    assert boundary.shape == (2, *grid)
    assert field.shape == (2, 2, *grid)


def test_layers_on_a_network_like_resnet50():
    """Strides 4, 4, 8, 16, 16 after the first stage is pooled; the sheet's widths and groups."""
    refiner = small()
    assert [stage.stride for stage in refiner.stages] == [2, 4, 8, 16, 16]
    boundary, field = refiner.boundary, refiner.displacement
    assert [(unit[1].num_groups, unit[1].num_channels) for unit in boundary.reduce] == [(4, 32)] * 5
    assert [unit[2].scale_factor for unit in boundary.reduce[2:]] == [2, 4, 4]
    assert boundary.mix.weight.shape[:2] == (1, 160)
    assert boundary.mix.bias is not None
    assert [(unit[1].num_groups, unit[1].num_channels) for unit in field.reduce] == [
        (8, 64),
        (16, 128),
        (16, 256),
        (16, 256),
        (16, 256),
    ]
    assert [len(unit) for unit in field.reduce] == [3, 3, 3, 4, 4]
    assert [unit[2].scale_factor for unit in (*field.reduce[3:], field.join)] == [2, 2, 2]
    assert field.join[0].weight.shape[:2] == (256, 768)
    assert field.mix[0].weight.shape[:2] == (256, 448)
    assert field.head.weight.shape[:2] == (2, 256)
    assert field.head.bias is None


@pytest.mark.parametrize(
    ("name", "stride", "options"),
    [
        ("convnext_atto", 16, {}),
        ("mobilenetv2_035", 32, {}),
        ("resnet38", 16, {"width": 1 / 32}),
        ("test_vit", 16, {}),
    ],
)
def test_other_backbones(name, stride, options):
    """Four stages, stages of stride 32, a stage of stride 1, blocks that all have one stride."""
    refiner = IRN(Backbone(name, weights="none", output_stride=stride, options=options), pad_to=0)
    with torch.no_grad():
        boundary, field = refiner(torch.rand(1, 3, 70, 50))
    assert boundary.shape == (1, 18, 13)
    assert field.shape == (1, 2, 18, 13)


def test_a_backbone_with_few_stages_is_refused(monkeypatch):
    backbone = small_backbone(16)
    monkeypatch.setattr(backbone, "stages", lambda images: [backbone(images)] * 2)
    refusal(lambda: IRN(backbone), "'resnet10t' has fewer than 3 stages", "another backbone")


def test_only_the_branches_learn():
    refiner = small().train()
    batch = batch_of(refiner, [picture(HEIGHT, WIDTH, n) for n in range(2)], [thirds(HEIGHT, WIDTH)] * 2)
    before = {name: value.clone() for name, value in refiner.backbone.state_dict().items()}
    losses = refiner.losses(batch)
    assert set(losses) == LOSSES
    assert all(value > 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is None for parameter in refiner.backbone.parameters())
    for branch in (refiner.boundary, refiner.displacement):
        assert all(parameter.grad.abs().sum() > 0 for parameter in branch.parameters())
    assert not refiner.backbone.training
    assert refiner.displacement.training
    for name, value in refiner.backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_boundary_loss_is_a_mean_over_paths():
    """By loops: the affinity of a pair is what the strongest boundary on its path leaves."""
    refiner = small(radius=4).eval()
    batch = batch_of(refiner, [picture(HEIGHT, WIDTH)], [thirds(HEIGHT, WIDTH)])
    with torch.no_grad():
        boundary = refiner(batch.images)[0][0].sigmoid()
        losses = refiner.losses(batch)
    labels = thirds(HEIGHT, WIDTH)[2::4, 2::4]
    terms = {"background": [], "foreground": [], "negative": []}
    for y, x in sources(*labels.shape, 4):
        for path in (path for group in search_paths(4) for path in group.tolist()):
            affinity = 1 - max(boundary[y + dy, x + dx].item() for dy, dx in path)
            a, b = labels[y, x].item(), labels[y + path[0][0], x + path[0][1]].item()
            kind = "negative" if a != b else "foreground" if a else "background"
            terms[kind].append(-math.log((affinity if a == b else 1 - affinity) + 1e-5))
    for kind, weight in (("background", 1 / 4), ("foreground", 1 / 4), ("negative", 1 / 2)):
        mean = sum(terms[kind]) / len(terms[kind])
        assert losses[f"boundary_{kind}"].item() == pytest.approx(weight * mean, rel=1e-3)


def test_displacement_losses_count_half(refiner):
    batch = batch_of(refiner, [picture(HEIGHT, WIDTH)], [thirds(HEIGHT, WIDTH)])
    with torch.no_grad():
        losses, field = refiner.losses(batch), refiner(batch.images)[1]
    labels = shrink_labels(batch.masks, field.shape[-2:])
    terms = displacement_losses(field, pair_labels(labels, 5, offsets=path_offsets(5)), 5)  # 5 fits 12 rows
    for name, value in terms.items():
        assert losses[f"displacement_{name}"].item() == pytest.approx(value.item() / 2)


def test_what_is_ignored_is_not_learnt(refiner):
    nothing = torch.full((HEIGHT, WIDTH), 255, dtype=torch.uint8)
    batch = batch_of(refiner, [picture(HEIGHT, WIDTH)], [nothing])
    assert {value.item() for value in refiner.losses(batch).values()} == {0.0}


def test_half_precision_of_the_network_is_not_that_of_the_losses(refiner):
    batch = batch_of(refiner, [picture(HEIGHT, WIDTH)], [thirds(HEIGHT, WIDTH)])
    with torch.autocast("cpu", torch.bfloat16):
        losses = refiner.losses(batch)
    for name, exact in refiner.losses(batch).items():
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(exact.item(), rel=0.1, abs=0.01)


def test_it_learns_boundaries_and_displacements():
    refiner = small()
    images = [picture(64, 64, seed) for seed in range(2)]
    masks = torch.tensor([1, 2], dtype=torch.uint8)[(torch.arange(64) >= 32).long()].expand(64, 64)
    batch = batch_of(refiner, images, [masks, masks])
    totals = train(refiner, batch, steps=25, lr=0.1)
    assert totals[-1] < 0.8 * totals[0]


def test_the_displacement_branch_learns_ten_times_faster(refiner):
    groups = refiner.parameter_groups(0.1, 1e-4)
    assert [group["lr"] for group in groups] == [0.1, 1.0]
    assert {group["weight_decay"] for group in groups} == {1e-4}
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in refiner.parameters() if parameter.requires_grad}


def test_calibration_takes_the_mean_displacement_away():
    refiner = small(calibration=32).train()
    assert refiner.calibration_crop() == 32
    batches = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    refiner.calibrate(iter(batches))
    assert not refiner.training
    with torch.no_grad():
        means = [refiner(images)[1].mean((0, 2, 3)) for images in batches]
        torch.testing.assert_close(torch.stack(means).mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        shifted = refiner(batches[0])[1]
        assert refiner.displacement.mean.abs().max() > 1e-3
        raw = refiner.train()(batches[0])[1]
    torch.testing.assert_close(raw - refiner.displacement.mean.view(2, 1, 1), shifted)


def test_calibration_twice_is_calibration_once_and_batches_count_alike():
    refiner = small(calibration=32)
    batches = [torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count)) for count in (1, 3)]
    refiner.calibrate(batches)
    once = refiner.displacement.mean.clone()
    refiner.calibrate(batches)
    assert torch.equal(refiner.displacement.mean, once)
    refiner.calibrate([])
    assert not refiner.displacement.mean.any()
    with torch.no_grad():
        fields = [refiner.eval()(images)[1].mean((0, 2, 3)) for images in batches]
    torch.testing.assert_close((fields[0] + fields[1]) / 2, once)


def answering(refiner, boundary, field=None):
    """The refiner, as if its network had said this."""
    refiner._look = lambda image: (boundary, field)
    return refiner


def walked(scores, boundary, radius, beta, logt):
    """The dense matrix, by loops."""
    height, width = boundary.shape
    matrix = torch.eye(height * width, dtype=torch.float64)
    for path in (path for group in search_paths(radius) for path in group.tolist()):
        for y in range(height - path[0][0]):
            for x in range(max(0, -path[0][1]), width - max(0, path[0][1])):
                here, there = y * width + x, (y + path[0][0]) * width + x + path[0][1]
                leak = 1 - max(boundary[y + dy, x + dx].item() for dy, dx in path)
                matrix[here, there] = matrix[there, here] = leak**beta
    moved = torch.linalg.matrix_power(matrix / matrix.sum(0), 2**logt)
    return ((scores * (1 - boundary)).double().flatten(1) @ moved).view_as(scores)


def test_the_walk_is_that_of_the_dense_matrix():
    boundary = torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) ** 3
    maps = maps_of((30, 37))
    refined = answering(small(logt=5), boundary).refine(picture(30, 37), maps)
    expected = resize(walked(maps.scores, boundary, 5, 10, 5), (32, 40))[:, :30, :37]
    torch.testing.assert_close(refined.scores, (expected / expected.max()).float(), rtol=1e-3, atol=1e-5)
    assert refined.scores.max() == 1
    assert torch.equal(refined.background, torch.full((30, 37), 0.25))


def test_without_boundaries_all_links_are_equal_and_a_constant_map_stays():
    maps = maps_of((30, 37))
    refiner = answering(small(logt=3), torch.zeros(8, 10))
    constant = refiner.refine(picture(30, 37), maps.with_scores(torch.full_like(maps.scores, 0.4), None))
    torch.testing.assert_close(constant.scores, torch.ones(2, 30, 37))
    uniform = resize(walked(maps.scores, torch.zeros(8, 10), 5, 1, 3), (32, 40))[:, :30, :37]
    found = refiner.refine(picture(30, 37), maps).scores
    torch.testing.assert_close(found, (uniform / uniform.max()).float(), rtol=1e-4, atol=1e-5)


def test_a_boundary_stops_the_walk():
    boundary = torch.zeros(8, 16)
    boundary[:, 8] = 1
    maps = maps_of((32, 64), (2,))
    scores = torch.zeros(1, 8, 16)
    scores[0, 4, 3] = 1
    mask = pseudo_mask(answering(small(), boundary).refine(picture(32, 64), maps.with_scores(scores, None)))
    assert (mask[:, :28] == 3).all()
    assert not mask[:, 38:].any()


def test_the_maps_own_background_can_walk():
    boundary = torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) ** 3
    maps = maps_of((32, 40))
    background = torch.rand(8, 10, generator=torch.Generator().manual_seed(1))
    refiner = answering(small(logt=3, walk_background=True, power=1.5), boundary)
    refined = refiner.refine(picture(32, 40), maps.with_scores(maps.scores, background))
    stack = torch.cat([background[None], maps.scores]) ** 1.5
    expected = resize(walked(stack, boundary, 5, 10, 3), (32, 40))
    found = torch.cat([refined.background[None], refined.scores])
    torch.testing.assert_close(found, (expected / expected.max()).float(), rtol=1e-3, atol=1e-5)
    refusal(lambda: refiner.refine(picture(32, 40), maps), "no background", "before 'irn'")


@pytest.mark.parametrize("size", [(37, 50), (HEIGHT, WIDTH), (9, 70)])
@pytest.mark.parametrize("classes", [(), (3,), (1, 4)])
@pytest.mark.parametrize("stride", [1, 4])
def test_refined_maps_have_the_image_s_size(refiner, size, classes, stride):
    refined = refiner.refine(picture(*size), maps_of(size, classes, stride))
    assert refined.classes.tolist() == list(classes)
    assert refined.scores.shape == (len(classes), *size)
    assert refined.background.shape == size
    assert (refined.scores >= 0).all()
    assert (refined.scores <= 1).all()


def test_padding_is_zero_and_the_boundary_is_the_mean_of_both_mirror_images():
    refiner = small(pad_to=64).eval()
    image = picture(40, 50)
    boundary, field = refiner._look(image)
    padded = torch.zeros(2, 3, 64, 64)
    normalised = batch_of(refiner, [image], [thirds(40, 50)]).images[0]
    padded[0, :, :40, :50], padded[1, :, :40, :50] = normalised, normalised.flip(-1)
    with torch.no_grad():
        logits, fields = refiner(padded)
    logits = logits[:, :10, :13]
    torch.testing.assert_close(boundary, (logits[0] / 2 + logits[1].flip(-1) / 2).sigmoid())
    torch.testing.assert_close(field, fields[0, :, :10, :13])


def discs():
    """Two discs of one class that point at their middles, cut off from the ground by a boundary."""
    rows, columns = torch.meshgrid(torch.arange(17.0), torch.arange(33.0), indexing="ij")
    boundary, field = torch.ones(17, 33), torch.zeros(2, 17, 33)
    for y, x in ((8, 8), (8, 24)):
        inside = torch.hypot(rows - y, columns - x) <= 6
        boundary = boundary.masked_fill(inside, 0)
        field = torch.where(inside, torch.stack([y - rows, x - columns]), field)
    return boundary, field


def test_two_objects_of_one_class_are_told_apart():
    boundary, field = discs()
    maps = maps_of((68, 132), (3,))
    maps = maps.with_scores((1 - boundary)[None], None)
    found = answering(small(instances=True), boundary, field).instances(picture(68, 132), maps)
    sure = found.scores > 0
    assert found.classes[sure].tolist() == [3, 3]
    assert found.masks.shape[1:] == (68, 132)
    assert (found.masks.sum(0) <= 1).all()
    left, right = sorted(found.masks[sure], key=lambda mask: mask.nonzero()[:, 1].float().mean().item())
    assert left[34, 34]
    assert right[34, 98]
    assert not left[:, 66:].any()
    assert not right[:, :66].any()
    area = (boundary == 0).sum().item() * 16 / 2
    assert left.sum().item() == pytest.approx(area, rel=0.3)
    assert found.scores[sure].max() == 1


def test_objects_of_two_classes_are_two_even_at_one_spot():
    boundary, field = discs()
    maps = maps_of((68, 132), (1, 3))
    inside = 1 - boundary
    scores = torch.stack([inside, 0.5 * inside])
    scores[0, :, 16:], scores[1, :, 16:] = 0.2 * inside[:, 16:], 0.9 * inside[:, 16:]
    found = answering(small(instances=True), boundary, field).instances(
        picture(68, 132), maps.with_scores(scores, None)
    )
    sure = found.scores > 0
    assert sorted(zip(found.classes[sure].tolist(), found.scores[sure].tolist(), strict=True)) == [
        (1, pytest.approx(1)),
        (3, pytest.approx(0.9, abs=0.01)),
    ]


def test_fragments_score_nothing():
    """A separate speck of the same instance, below one per cent of the image."""
    boundary = torch.ones(20, 40)
    boundary[2:18, 2:18] = boundary[10, 36] = 0
    field = torch.full((2, 20, 40), 9.0)
    maps = maps_of((80, 160), (0,))
    found = answering(small(instances=True), boundary, field).instances(
        picture(80, 160), maps.with_scores((1 - boundary)[None], None)
    )
    assert len(found.masks) == 2
    areas = found.masks.sum((1, 2))
    assert found.scores[areas.argmax()] == 1
    assert found.scores[areas.argmin()] == 0
    assert areas.min() < 128


@pytest.mark.parametrize("classes", [(), (2,)])
def test_nothing_found_is_no_instance(classes):
    maps = maps_of((40, 50), classes)
    empty = maps.with_scores(torch.zeros_like(maps.scores), None)
    found = small(instances=True).eval().instances(picture(40, 50), empty)
    assert found.masks.shape == (0, 40, 50)
    assert found.scores.shape == found.classes.shape == (0,)
    assert found.classes.dtype == torch.int64


def test_instances_come_only_when_wanted(refiner):
    assert refiner.instances(picture(40, 50), maps_of((40, 50))) is None


def test_many_maps_are_enlarged_a_few_at_a_time():
    maps = torch.rand(150, 4, 5, generator=torch.Generator().manual_seed(0))
    best, owner = strongest(maps, (15, 18))
    together = resize(maps, (16, 20))[:, :15, :18]
    assert torch.equal(best, together.amax(0))
    assert torch.equal(owner, together.argmax(0) + 1)


def test_a_network_is_saved_and_read(tmp_path):
    refiner, other = small(), small()
    for parameter in other.boundary.parameters():
        torch.nn.init.zeros_(parameter)
    refiner.calibrate([torch.randn(1, 3, 32, 32)])
    save_file(refiner.state_dict(), tmp_path / "network.safetensors")
    other.load_state_dict(load_file(tmp_path / "network.safetensors"))
    for mine, its in zip(refiner._look(picture(40, 50)), other.eval()._look(picture(40, 50)), strict=True):
        assert torch.equal(mine, its)


def test_options_and_settings_are_those_of_a_recipe():
    options = checked_options(IRN, {}, "refine.0")
    assert IRN.inference_options <= set(options)
    settings = Training.model_validate(IRN.settings)
    assert (settings.lr, settings.batch, settings.epochs, settings.momentum) == (0.1, 32, 3, None)
    refusal(lambda: small(crf="b"), "CRF parameter set 'b'", "'B'")
    assert small(crf="D", scale_factor=2).params == CRFParameters(10, 0.5, 3, 33.5, 3, 4)
