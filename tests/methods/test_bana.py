"""BANA: its equations against loops over boxes, cells and pixels, its limits, and what it does without boxes."""

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, interpolate

from tests.data.trees import refusal
from tests.methods.conformance import Setup, labelled_batch, mirrored
from tests.ops.test_rois import slow_bins, slow_roi
from weakseg.data.sample import Sample, WeakLabel, collate
from weakseg.data.transforms import RandomCrop
from weakseg.methods import bana
from weakseg.methods.bana import (
    background_attention,
    background_queries,
    background_unary,
    definite_background,
    foreground_unary,
)
from weakseg.methods.method import Views
from weakseg.ops.box_masks import fill_regions, region_area
from weakseg.ops.cells import grid_padding
from weakseg.ops.maps import resize, unflip
from weakseg.ops.rois import box_rois, pool_rois, whole_rois
from weakseg.pipeline.options import checked_options

ONE_VIEW = Views(scales=(1.0,), flip=False, stride=1)


def slow_queries(features, definite, grid):
    """(D, h, w) and (h, w) to the queries of the valid cells (Eq. 1), cell by cell of the padded map."""
    pads = []
    for length in features.shape[-2:]:
        missing = -length % grid
        pads.append((missing // 2, missing // 2) if missing % 2 == 0 else (0, missing))
    (top, bottom), (left, right) = pads
    features = torch.nn.functional.pad(features, (left, right, top, bottom))
    definite = torch.nn.functional.pad(definite, (left, right, top, bottom))
    height, width = features.shape[-2] // grid, features.shape[-1] // grid
    found = []
    for i in range(grid):
        for j in range(grid):
            here = slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width)
            if definite[here].sum() > 0:
                found.append((features[:, *here] * definite[here]).sum((1, 2)) / (definite[here].sum() + 1e-12))
    return found


def slow_attention(features, queries):
    """(D, H, W) to (H, W), the mean over queries of the rectified cosines; 0 without queries."""
    if not queries:
        return torch.zeros_like(features[0])
    cosines = [cosine_similarity(features, query[:, None, None], dim=0, eps=1e-12).relu() for query in queries]
    return torch.stack(cosines).mean(0)


def slow_outside(batch, number):
    """(H, W): 1 where no box is and no padding; whole numbers for corners."""
    outside = batch.valid[number, 0].double()
    for x1, y1, x2, y2 in batch.boxes[number].long().tolist():
        outside[y1:y2, x1:x2] = 0
    return outside


def slow_loss(features, weight, batch, *, grid=4, bins=2, align_corners=True, min_background=0.125, gap=False):
    """Sections 3.1 to 3.4 of the sheet, image by image and box by box."""
    size, vectors, labels = batch.images.shape[-2:], [], []
    for number in range(len(batch)):
        outside = slow_outside(batch, number)
        queries = slow_queries(features[number], resize(outside, features.shape[-2:], "nearest"), grid)
        plain = gap or outside.mean() <= min_background
        for box, shown in zip(batch.boxes[number], batch.box_classes[number], strict=True):
            roi = slow_roi(features[number], box, size, align_corners)
            attention = slow_attention(roi, [] if plain else queries)
            vectors.extend(slow_bins(roi, 1 - attention, bins))
            labels.extend([int(shown) + 1] * bins**2)
        vectors.extend(queries)
        labels.extend([0] * len(queries))
    return cross_entropy(torch.stack(vectors) @ weight.flatten(1).T, torch.tensor(labels))


def with_boxes(batch, boxes, classes):
    return replace(
        batch,
        boxes=tuple(torch.tensor(own, dtype=torch.float64).view(-1, 4) for own in boxes),
        box_classes=tuple(torch.tensor(own, dtype=torch.int64) for own in classes),
    )


def crowded(height=48, width=72):
    """Overlaps, a box that leaves too little background, boxes at the margins, and an image without any."""
    batch = with_boxes(
        labelled_batch(((0,), (0, 2), (), (1,)), height=height, width=width),
        [
            [[4, 10, 28, 34], [20, 5, 50, 40], [66, 40, width, height]],
            [[0, 0, width - 9, height], [3, 3, 5, 4]],  # background is just one eighth of it
            [],
            [[10, 0, 30, 20]],
        ],
        [[0, 2, 1], [1, 0], [], [1]],
    )
    valid = batch.valid.clone()
    valid[3, :, :, 60:] = False
    return replace(batch, valid=valid)


class Still(torch.nn.Module):
    """A backbone that shows given features, whatever the images."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, images):
        return self.features


def method_seeing(features, classes=3, **options):
    method = Setup("bana", options=options).build(classes).train()
    method.backbone = Still(features)
    method.head = torch.nn.Conv2d(features.shape[1], classes + 1, 1, bias=False)
    torch.nn.init.normal_(method.head.weight, generator=torch.Generator().manual_seed(3))
    return method.double()


@pytest.fixture
def double(monkeypatch):
    """``float`` of the method keeps float64 here, so that rounding hides nothing."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)


def features_of(batch, channels=6, height=7, width=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(batch), channels, height, width, generator=generator).double().add(0.7).relu()


OPTIONS = [
    {},
    {"grid": 1},
    {"grid": 3, "bins": 1},
    {"align_corners": False},
    {"min_background": 0.0},
    {"min_background": 0.6},
    {"pooling": "gap"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.usefixtures("double")
def test_the_loss_is_the_definition(options):
    batch = crowded()
    features = features_of(batch)
    method = method_seeing(features, **options)
    slow = {name: value for name, value in options.items() if name != "pooling"} | {"gap": "pooling" in options}
    expected = slow_loss(features, method.head.weight, batch, **slow)
    assert method.losses(batch)["classification"].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
@pytest.mark.usefixtures("double")
def test_boxes_are_classified_as_in_training(options):
    """The same scores give the same loss, box by box and without queries."""
    batch = crowded()
    features = features_of(batch)
    method = method_seeing(features, **options)
    scores, classes = method.classify_boxes(batch)
    assert classes.tolist() == [1, 3, 2, 2, 1, 2]
    expected = []
    for number, boxes in enumerate(batch.boxes):
        outside = slow_outside(batch, number)
        queries = slow_queries(features[number], resize(outside, (7, 10), "nearest"), method.grid)
        for box in boxes:
            roi = slow_roi(features[number], box, batch.images.shape[-2:], True)
            attention = slow_attention(roi, [] if outside.mean() <= 0.125 else queries)
            bins = slow_bins(roi, 1 - attention, method.bins)
            expected.append((bins @ method.head.weight.flatten(1).T).mean(0))
    torch.testing.assert_close(scores, torch.stack(expected))


@pytest.mark.usefixtures("double")
def test_boxes_of_classes_that_are_not_learnt_are_not_classified():
    batch = crowded()
    scores, classes = method_seeing(features_of(batch), seen=(0, 2)).classify_boxes(batch)
    assert classes.tolist() == [1, 3, 1]
    assert scores[:, 2].isneginf().all()
    none = with_boxes(batch, [[]] * 4, [[]] * 4)
    scores, classes = method_seeing(features_of(batch)).classify_boxes(none)
    assert (scores.shape, classes.shape) == ((0, 4), (0,))


def many_boxes(count, height=48, width=72):
    """Boxes of whole pixels, many of them overlapping, and their classes."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([width - 10, height - 10])
    boxes = torch.cat([corners, corners + 2 + 8 * torch.rand(count, 2, generator=generator)], 1).round()
    return boxes.tolist(), torch.randint(3, (count,), generator=generator).tolist()


@pytest.mark.usefixtures("double")
def test_no_box_one_box_and_fifty_in_a_batch():
    boxes, classes = many_boxes(50)
    batch = with_boxes(crowded(), [[], [[10, 0, 30, 20]], boxes, []], [[], [1], classes, []])
    fast, slow = features_of(batch).requires_grad_(), features_of(batch).requires_grad_()
    method = method_seeing(fast)
    found, expected = method.losses(batch)["classification"], slow_loss(slow, method.head.weight, batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    found.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)


@pytest.mark.usefixtures("double")
def test_without_attention_it_is_plain_averages(monkeypatch):
    """A = 0 everywhere: loss and gradients of GAP."""

    def none(features, queries, valid, rois):
        return torch.zeros_like(background_attention(features, queries, valid, rois))

    monkeypatch.setattr(bana, "background_attention", none)
    batch, found = crowded(), []
    for pooling in ("gap", "bap"):
        features = features_of(batch).requires_grad_()
        method = method_seeing(features, pooling=pooling)
        loss = method.losses(batch)["classification"]
        loss.backward()
        found.append((loss, features.grad, method.head.weight.grad))
    for averaged, weighted in zip(*found, strict=True):
        assert torch.equal(averaged, weighted)


def test_a_crop_that_loses_all_boxes_teaches_background_alone():
    whole = labelled_batch(((0,),), height=64, width=200)
    sample = Sample("0", whole.images[0], boxes=whole.boxes[0], box_classes=whole.box_classes[0])
    method, left = Setup("bana").build().train(), []
    for seed in range(12):
        batch = collate([RandomCrop(64)(sample, torch.Generator().manual_seed(seed))], 3)
        left.append(len(batch.boxes[0]))
        loss = method.losses(batch)["classification"]
        if left[-1]:
            assert loss.isfinite()
            continue
        queries = torch.stack(slow_queries(method.backbone(batch.images)[0], torch.ones(4, 4), 4))
        expected = cross_entropy(queries @ method.head.weight.flatten(1).T, torch.zeros(16, dtype=torch.int64))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert left.count(0) >= 3
    assert left.count(1) >= 3


@pytest.mark.usefixtures("double")
def test_gradients_are_those_of_the_definition():
    """Through attention and queries, too; also where features are 0."""
    batch = crowded()
    fast, slow = features_of(batch).requires_grad_(), features_of(batch).requires_grad_()
    method = method_seeing(fast)
    method.losses(batch)["classification"].backward()
    slow_loss(slow, method.head.weight, batch).backward()
    torch.testing.assert_close(fast.grad, slow.grad)


@pytest.mark.usefixtures("double")
def test_options_matter():
    batch = crowded()
    tried = [*OPTIONS, {"roi": "align"}]
    losses = [method_seeing(features_of(batch), **options).losses(batch)["classification"].item() for options in tried]
    assert len(set(losses)) == len(tried)


@pytest.mark.parametrize(
    ("length", "cells", "padding"), [(41, 4, (0, 3)), (6, 2, (0, 0)), (7, 3, (1, 1)), (1, 4, (0, 3))]
)
def test_an_odd_padding_is_at_the_end(length, cells, padding):
    assert grid_padding(length, cells) == padding


@pytest.mark.parametrize("grid", [1, 2, 3, 4, 5])
def test_queries_are_the_definition(grid):
    features = features_of(range(3), height=7, width=10)
    definite = (torch.rand(3, 1, 7, 10, generator=torch.Generator().manual_seed(1)) > 0.8).double()
    definite[2] = 0
    queries, valid = background_queries(features, definite, grid)
    for number in range(3):
        expected = slow_queries(features[number], definite[number, 0], grid)
        assert valid[number].sum() == len(expected)
        if expected:
            torch.testing.assert_close(queries[number, valid[number]], torch.stack(expected))
    assert not queries[~valid].any()


def test_attention_does_not_know_lengths_nor_the_order_of_queries():
    features, queries = features_of(range(2)), torch.randn(2, 5, 6).double()
    valid = torch.tensor([[True, True, False, True, True], [False, True, True, True, False]])
    rois = whole_rois((7, 10), features)
    found = background_attention(features, queries, valid, rois)
    assert ((found >= 0) & (found <= 1)).all()
    brighter = features * (torch.rand(2, 1, 7, 10) + 0.5)
    longer = queries * (torch.rand(2, 5, 1) + 0.5)
    torch.testing.assert_close(background_attention(brighter, longer, valid, rois), found)
    turned = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(background_attention(features, queries[:, turned], valid[:, turned], rois), found)


def test_cells_without_certain_background_influence_nothing():
    features, queries = features_of(range(1)), torch.randn(1, 3, 6).double()
    valid, rois = torch.tensor([[True, False, True]]), whole_rois((7, 10), features)
    other = queries.clone()
    other[0, 1] = 100
    found = background_attention(features, queries, valid, rois)
    assert torch.equal(background_attention(features, other, valid, rois), found)
    torch.testing.assert_close(background_attention(features, queries[:, ::2], valid[:, ::2], rois), found)


def test_without_any_valid_query_nothing_resembles_background():
    features = features_of(range(2))
    queries, valid = background_queries(features, torch.zeros(2, 1, 7, 10).double(), 4)
    assert not background_attention(features, queries, valid, whole_rois((20, 30), features)).any()


def test_gradcheck_of_attention():
    features = torch.rand(1, 3, 2, 3, dtype=torch.float64) + 0.1
    definite = torch.tensor([[[[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]]).double()

    def attention(features):
        queries, valid = background_queries(features, definite, 2)
        return background_attention(features, queries, valid, whole_rois((3, 4), features))

    assert torch.autograd.gradcheck(attention, features.requires_grad_())


def test_a_box_that_looks_like_background_everywhere_is_no_number_problem():
    batch = labelled_batch(((0,), (0, 2)))
    features = torch.ones(2, 6, 7, 10, requires_grad=True)
    losses = method_seeing(features).float().losses(batch)
    losses["classification"].backward()
    assert losses["classification"].isfinite()
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() < 1e3


def test_features_that_are_zero_everywhere():
    features = torch.zeros(2, 6, 7, 10, requires_grad=True)
    losses = method_seeing(features).float().losses(labelled_batch(((0,), (0, 2))))
    losses["classification"].backward()
    assert losses["classification"].item() == pytest.approx(math.log(4))
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() < 1e3


def test_plain_averages_are_pooling_without_attention():
    features = features_of(range(1))
    boxes = [torch.tensor([[0.0, 0.0, 9.0, 6.0]]).double()]
    rois = box_rois(boxes, (7, 10), (7, 10))
    pooled = pool_rois(features, rois, torch.ones(1, 6, 9, dtype=torch.float64))
    edges = interpolate(features, size=(6, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(pooled[0, 0], edges[0].mean((1, 2)))


def test_padding_and_unknown_boxes_are_no_background():
    batch = labelled_batch(((0,), ()))
    valid = batch.valid.clone()
    valid[0, :, :, 60:] = False
    flags = {**batch.known, WeakLabel.BOXES: torch.tensor([True, False])}
    found = definite_background(replace(batch, valid=valid, known=flags))
    assert not found[0, 0, :, 60:].any()
    assert not found[0, 0, 10:34, 4:28].any()
    assert found[0].sum() == 48 * 60 - 24 * 24
    assert not found[1].any()


def test_a_crowd_is_no_background():
    batch = crowded()
    crowd = torch.tensor([[40.0, 0.0, 70.0, 30.0]])
    told = replace(batch, unsure=(crowd, crowd[:0], crowd[:0], crowd))
    before, after = definite_background(batch), definite_background(told)
    inside = torch.zeros_like(before)
    inside[[0, 3], :, :30, 40:70] = True
    assert torch.equal(after, before & ~inside)
    assert (before & inside).any()


def test_an_image_without_known_boxes_is_not_learned_from():
    method, batch = Setup("bana").build().train(), labelled_batch(((0,), ()))
    unknown = replace(batch, known={**batch.known, WeakLabel.BOXES: torch.tensor([True, False])})
    alone = method.losses(labelled_batch(((0,),)))
    assert method.losses(unknown)["classification"].item() == pytest.approx(alone["classification"].item(), rel=1e-4)
    assert method.losses(batch)["classification"].item() != pytest.approx(alone["classification"].item(), rel=1e-4)


def test_crops_without_boxes_are_background_alone():
    method, batch = Setup("bana").build().train(), labelled_batch(((), ()))
    loss = method.losses(batch)["classification"]
    features = method.backbone(batch.images)
    queries = [query for one in features for query in slow_queries(one, torch.ones(3, 5), 4)]
    assert len(queries) == 2 * 9  # of the cells, 1 high and 2 wide, those that are not all padding
    expected = cross_entropy(torch.stack(queries) @ method.head.weight.flatten(1).T, torch.zeros(18, dtype=torch.int64))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_nothing_at_all_has_no_loss_and_no_gradient():
    method, batch = Setup("bana").build().train(), labelled_batch(((), ()))
    loss = method.losses(replace(batch, valid=torch.zeros_like(batch.valid)))["classification"]
    loss.backward()
    assert loss.item() == 0
    assert not method.head.weight.grad.any()


@pytest.mark.parametrize("boxes", [[[0, 0, 72, 48]], [[10.2, 10.2, 10.6, 10.9]], [[71, 47, 72, 48]], [[5, 5, 5, 5]]])
def test_odd_boxes_are_learned_from_and_localized(boxes):
    method = Setup("bana").build().train()
    batch = with_boxes(labelled_batch(((0,),)), [boxes], [[0]])
    method.losses(batch)["classification"].backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    maps = method.eval().localize(batch, ONE_VIEW)[0]
    assert maps.scores.isfinite().all()
    assert maps.background.isfinite().all()


def test_where_a_box_covers_the_image_background_is_nowhere():
    batch = with_boxes(labelled_batch(((0,),)), [[[0, 0, 72, 48]]], [[0]])
    maps = Setup("bana").build().eval().localize(batch, ONE_VIEW)[0]
    assert not maps.background.any()
    assert maps.scores.amax() == pytest.approx(1)


# Maps


def slow_maps(features, weight, batch, number, *, grid=1, normalize="box", background="attention", relative=True):
    """Steps 1 to 3 of stage 2 on the enlarged features of one image."""
    size, outside = batch.images.shape[-2:], slow_outside(batch, number)
    large = interpolate(features[None], size=size, mode="bilinear", align_corners=True)[0]
    maps = torch.einsum("cd,dhw->chw", weight.flatten(1), large).relu()
    if background == "attention":
        attention = slow_attention(large, slow_queries(large, outside, grid))
        unary = torch.where(attention < 0.99 * (attention.max() if relative else 1), 0.0, attention)
    else:
        unary = maps[0] / maps[0].max()
    unary[outside > 0] = 1
    classes = sorted(set(batch.box_classes[number].tolist()))
    scores = torch.zeros(len(classes), *size, dtype=features.dtype)
    boxes = list(zip(batch.boxes[number].long().tolist(), batch.box_classes[number].tolist(), strict=True))
    for mute in (False, True):
        for box, shown in boxes:
            here = slice(box[1], box[3]), slice(box[0], box[2])
            cam, place = maps[shown + 1], classes.index(shown)
            highest = cam[here].max() if normalize == "box" else cam.max()
            if mute and cam[here].max() == 0:
                scores[place][here] = 1 - unary[here]
            elif not mute:
                scores[place][here] = cam[here] / (highest + 1e-12)
    return classes, scores, unary


@pytest.mark.parametrize(
    "options",
    [{}, {"localize_grid": 3}, {"normalize": "class"}, {"background": "cam"}, {"relative_threshold": False}],
    ids=str,
)
@pytest.mark.usefixtures("double")
def test_maps_are_the_definition(options):
    batch = crowded()
    batch = replace(batch, valid=torch.ones_like(batch.valid))
    features = features_of(batch)
    method = method_seeing(features, **options).eval()
    slow = {{"localize_grid": "grid", "relative_threshold": "relative"}.get(key, key): v for key, v in options.items()}
    for number, maps in enumerate(method.localize(batch, ONE_VIEW)):
        classes, scores, unary = slow_maps(features[number], method.head.weight, batch, number, **slow)
        assert maps.classes.tolist() == classes
        torch.testing.assert_close(maps.scores, scores)
        torch.testing.assert_close(maps.background, unary)
        assert torch.equal(maps.features, features[number])


@pytest.mark.parametrize("box", [[10, 0, 72, 48], [0, 0, 62, 48], [0, 10, 72, 48], [0, 0, 72, 38]], ids=str)
def test_certain_background_at_any_margin_is_seen(box):
    """A strip that is narrower than a cell, on whichever side."""
    batch = with_boxes(labelled_batch(((0,),)), [[box]], [[0]])
    maps = Setup("bana", settings={"output_stride": 16}).build().eval().localize(batch, ONE_VIEW)[0]
    x1, y1, x2, y2 = box
    assert maps.background[y1:y2, x1:x2].any()


def test_background_attention_below_the_threshold_is_dropped():
    attention, outside = torch.tensor([[0.2, 0.74, 0.75]]), torch.tensor([[True, False, False]])
    assert background_unary(attention, outside, 0.99).tolist() == [[1, 0, 0.75]]
    assert background_unary(attention, outside, 0.99, relative=False).tolist() == [[1, 0, 0]]


def test_the_maximum_for_the_threshold_is_that_of_the_whole_image():
    attention, outside = torch.tensor([[1.0, 0.9, 0.5]]), torch.tensor([[True, False, False]])
    assert background_unary(attention, outside, 0.95).tolist() == [[1, 0, 0]]


def test_the_last_of_overlapping_boxes_counts():
    maps = torch.tensor([[[1.0, 2.0, 4.0]]])
    boxes = [((slice(0, 1), slice(0, 3)), 0), ((slice(0, 1), slice(0, 2)), 0)]
    assert foreground_unary(maps, boxes).tolist() == [[[0.5, 1, 1]]]
    assert foreground_unary(maps, boxes[::-1]).tolist() == [[[0.25, 0.5, 1]]]
    assert foreground_unary(maps, boxes[1:], "class").tolist() == [[[0.25, 0.5, 0]]]


def test_a_box_between_the_cells_of_a_map_is_nowhere():
    nothing = (slice(1, 1), slice(0, 2)), 0
    assert not foreground_unary(torch.ones(1, 2, 3), [nothing]).any()


def test_a_class_map_without_a_positive_value_is_zero():
    assert not foreground_unary(torch.zeros(1, 2, 3), [((slice(0, 2), slice(0, 3)), 0)]).any()


def test_boxes_without_a_map_hold_what_is_not_background():
    scores = torch.full((2, 1, 3), 0.5)
    boxes = [((slice(0, 1), slice(start, end)), channel) for start, end, channel in ((0, 1, 1), (0, 2, 1), (2, 3, 0))]
    filled = fill_regions(scores, 1 - torch.tensor([[0.2, 1.0, 0.4]]), boxes)
    torch.testing.assert_close(filled, torch.tensor([[[0.5, 0.5, 0.6]], [[0.8, 0.0, 0.5]]]))
    assert fill_regions(scores, scores[0], []).eq(scores).all()


@pytest.mark.parametrize("seed", range(8))
def test_of_overlapping_boxes_without_a_map_the_smallest_counts(seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 6, (5, 2, 2), generator=generator).sort(1).values.tolist()
    boxes = [((slice(y1, y2 + 1), slice(x1, x2 + 1)), i % 3) for i, ((y1, x1), (y2, x2)) in enumerate(corners)]
    maps, values = torch.rand(4, 6, 6, generator=generator), torch.rand(6, 6, generator=generator)
    expected = maps.clone()
    for row, column in product(range(6), range(6)):
        here = [(region_area(r), -i, n) for i, (r, n) in enumerate(boxes) if inside(r, row, column)]
        for _, _, number in here:
            expected[number, row, column] = values[row, column] if number == min(here)[2] else 0
    assert torch.equal(fill_regions(maps, values, boxes), expected)


def inside(region, row, column):
    return all(part.start <= place < part.stop for part, place in zip(region, (row, column), strict=True))


@pytest.mark.usefixtures("double")
def test_a_box_in_which_nothing_speaks_for_its_class_is_filled():
    batch = with_boxes(labelled_batch(((0, 1),)), [[[4, 10, 28, 34], [20, 5, 50, 40]]], [[0, 1]])
    features = features_of(batch)
    found = {}
    for fill in (True, False):
        method = method_seeing(features, fill_mute=fill).eval()
        method.head.weight.data[1] = -1  # features are not negative
        found[fill] = method.localize(batch, ONE_VIEW)[0]
    box = torch.zeros(found[True].background.shape, dtype=torch.bool)
    box[10:34, 4:28] = True
    assert torch.equal(found[True].scores[0], (1 - found[True].background) * box)
    assert found[True].scores[0].any()
    assert not found[False].scores[0].any()
    assert torch.equal(found[True].scores[1], found[False].scores[1])
    assert found[True].scores[1].any()


def test_classes_appear_in_their_boxes_only_and_background_outside_all():
    batch = crowded()
    for number, maps in enumerate(Setup("bana").build().eval().localize(batch, ONE_VIEW)):
        outside = slow_outside(batch, number) > 0
        assert maps.background[outside].eq(1).all()
        assert not maps.scores[:, outside].any()
        assert ((maps.background >= 0) & (maps.background <= 1)).all()


def test_the_mirror_image_has_the_mirrored_background():
    batch, method = labelled_batch(), Setup("bana", options={"background_threshold": 0.0}).build().eval()
    views = Views(scales=(1.0, 0.5), flip=True, stride=1)
    pairs = zip(method.localize(batch, views), method.localize(mirrored(batch), views), strict=True)
    for straight, other in pairs:
        torch.testing.assert_close(unflip(other.background), straight.background, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(unflip(other.scores), straight.scores, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(unflip(other.features), straight.features, atol=1e-4, rtol=1e-4)


def test_equal_views_are_one_view():
    batch, method = labelled_batch(), Setup("bana").build().eval()
    once, twice = (method.localize(batch, Views(scales, False, 1)) for scales in ((1.0,), (1.0, 1.0)))
    for one, other in zip(once, twice, strict=True):
        torch.testing.assert_close(one.scores, other.scores)
        torch.testing.assert_close(one.background, other.background)
        torch.testing.assert_close(one.features, other.features)


def test_features_are_kept_if_wanted():
    batch = labelled_batch()
    kept, dropped = (Setup("bana", options={"keep_features": keep}).build().eval() for keep in (True, False))
    features = kept.backbone(batch.images)
    assert torch.equal(kept.localize(batch, ONE_VIEW)[1].features, features[1])
    assert dropped.localize(batch, ONE_VIEW)[1].features is None


def test_autocast_leaves_the_arithmetic_of_maps_alone():
    batch = crowded()
    method = method_seeing(features_of(batch).float()).float().eval()
    exact = method.localize(batch, ONE_VIEW)
    with torch.autocast("cpu", torch.bfloat16):
        found = method.localize(batch, ONE_VIEW)
    for one, other in zip(exact, found, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.background, other.background)


def test_the_head_has_background_first():
    method, batch = Setup("bana").build().eval(), labelled_batch()
    seen = method(batch.images)
    torch.testing.assert_close(seen.scores, method.head(seen.features)[:, 1:])
    torch.testing.assert_close(seen.logits, seen.scores.mean((2, 3)))
    assert method.head.bias is None
    assert 0.005 < method.head.weight.std() < 0.015


def test_options_come_from_the_signature():
    method = type(Setup("bana").build())
    options = checked_options(method, {}, "localize.method")
    assert SimpleNamespace(**options).grid == 4
    assert (options["bins"], options["localize_grid"], options["min_background"]) == (2, 1, 0.125)
    refusal(lambda: checked_options(method, {"bins": 0}, "localize.method"), "'localize.method.bins'")
    refusal(lambda: checked_options(method, {"pooling": "max"}, "localize.method"), "'localize.method.pooling'")


@pytest.mark.parametrize("option", ["pooling", "normalize", "background"])
def test_an_unknown_choice_is_refused(option):
    refusal(lambda: Setup("bana", options={option: "other"}).build(), "unknown choice 'other'", "Choose one of")
