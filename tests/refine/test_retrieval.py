"""Labels by retrieval against features that are enlarged whole."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, interpolate

from tests.data.trees import refusal
from tests.refine.test_boxes import HEIGHT, TWO, WIDTH, boxed, many
from weakseg.refine.masks import pseudo_mask
from weakseg.refine.retrieval import Retrieval, correlation

IMAGE = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)


def features_of(channels=8, height=5, width=7, seed=4, positive=True):
    drawn = torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed))
    return drawn.relu() if positive else drawn


def enlarged(features):
    return interpolate(features[None].double(), size=(HEIGHT, WIDTH), mode="bilinear", align_corners=True)[0]


def of_class(given, c):
    """Union of a class's boxes."""
    area = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for (x1, y1, x2, y2), box_class in zip(given.boxes.int().tolist(), given.box_classes.tolist(), strict=True):
        if box_class == c:
            area[y1:y2, x1:x2] = True
    return area


def slow(given, constrained):
    """(P + 1, H, W) C_c with the rules for boxes, and the label map of values 0 to P."""
    full = enlarged(given.features)
    labels = torch.cat([given.background[None], given.scores]).argmax(0)
    areas = [of_class(given, c) for c in given.classes.tolist()]
    anywhere = torch.stack([of_class(given, c) for c in set(given.box_classes.tolist())]).any(0)
    found = []
    for index in range(len(given.classes) + 1):
        mask = labels == index
        if not mask.any() and index > 0:
            mask = areas[index - 1]
        if not mask.any():
            found.append(torch.full((HEIGHT, WIDTH), 0.0 if constrained else -1.0, dtype=torch.float64))
            continue
        prototype = full[:, mask].mean(1)
        found.append(cosine_similarity(full, prototype[:, None, None].expand_as(full), dim=0, eps=1e-12))
    stacked = torch.stack(found)
    if constrained:
        stacked = stacked.relu()
        stacked[0][~anywhere] = 1
        for index, area in enumerate(areas, start=1):
            stacked[index][~area] = 0
    return stacked, stacked.argmax(0)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_against_features_at_image_size(seed, constrained, positive):
    given = boxed(seed=seed, features=features_of(seed=seed, positive=positive))
    refined = Retrieval(constrained=constrained).refine(IMAGE, given)
    expected, labels = slow(given, constrained)
    stacked = torch.cat([refined.background[None], refined.scores]).double()
    torch.testing.assert_close(stacked, expected if constrained else (1 + expected) / 2, atol=2e-5, rtol=0)
    best = expected.topk(2, dim=0).values
    clear = best[0] - best[1] > 1e-4  # elsewhere rounding decides
    assert clear.float().mean() > 0.8
    values = torch.tensor([0, *(given.classes + 1).tolist()])
    assert torch.equal(pseudo_mask(refined).long()[clear], values[labels][clear])


def test_many_boxes():
    given = replace(many(), features=features_of())
    refined = Retrieval().refine(IMAGE, given)
    expected, _ = slow(given, True)
    torch.testing.assert_close(refined.scores.double(), expected[1:], atol=2e-5, rtol=0)
    for c, scores in zip(refined.classes.tolist(), refined.scores, strict=True):
        assert not scores[~of_class(given, c)].any()


def test_a_class_that_won_nowhere_has_the_mean_of_its_boxes():
    given = boxed(features=features_of())
    given.scores[1] = 0
    expected, _ = slow(given, True)
    refined = Retrieval().refine(IMAGE, given)
    torch.testing.assert_close(refined.scores.double(), expected[1:], atol=2e-5, rtol=0)
    assert refined.scores[1].any()


@pytest.mark.parametrize("constrained", [True, False])
def test_a_class_without_pixels_and_boxes_is_chosen_nowhere(constrained):
    given = boxed([[2, 3, 12, 17]], [1], classes=(1, 4), features=features_of(positive=False))
    given.scores[1] = 0
    refined = Retrieval(constrained=constrained).refine(IMAGE, given)
    assert not refined.scores[1].any()
    assert set(pseudo_mask(refined).unique().tolist()) <= {0, 2}


@pytest.mark.parametrize("constrained", [True, False])
def test_labels_without_background(constrained):
    """A box that covers the image, and a map that is the strongest everywhere."""
    given = boxed([[0, 0, WIDTH, HEIGHT]], [2], features=features_of())
    given.background[:] = 0
    given.scores[:] = 1
    refined = Retrieval(constrained=constrained).refine(IMAGE, given)
    assert not refined.background.any()
    assert refined.scores.isfinite().all()


def test_two_kinds_of_features_are_told_apart_whatever_labels_said():
    """Features change at a column; the labels have it three columns too far to the left."""
    features = torch.zeros(2, HEIGHT, WIDTH)
    features[0, :, :14], features[1, :, 14:] = 1, 1
    given = boxed([[0, 0, WIDTH, HEIGHT]], [2], features=features)
    given.background[:] = 0.5
    given.scores[:, :, :11], given.scores[:, :, 11:] = 0, 1
    mask = pseudo_mask(Retrieval().refine(IMAGE, given))
    assert not mask[:, :14].any()
    assert (mask[:, 14:] == 3).all()


def test_no_box_is_background_and_so_is_no_feature():
    given = boxed([], [], classes=(1, 4), features=features_of())
    assert not pseudo_mask(Retrieval().refine(IMAGE, given)).any()
    nothing = boxed(features=torch.zeros(0, 5, 7))
    refined = Retrieval().refine(IMAGE, nothing)
    assert not refined.scores.any()
    assert not pseudo_mask(refined).any()


def test_bfloat16_features_are_worked_on_in_full():
    features = features_of().bfloat16()
    found = Retrieval().refine(IMAGE, boxed(features=features))
    assert torch.equal(found.scores, Retrieval().refine(IMAGE, boxed(features=features.float())).scores)


def test_scaling_a_feature_changes_nothing():
    features, prototypes = features_of(), torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    expected = correlation(features, prototypes, (HEIGHT, WIDTH))
    torch.testing.assert_close(correlation(9 * features, 0.2 * prototypes, (HEIGHT, WIDTH)), expected)
    assert expected.abs().max() <= 1


def test_what_is_missing_is_the_users_to_mend():
    given = boxed(features=features_of())
    refusal(lambda: Retrieval().refine(IMAGE, replace(given, features=None)), "no features", "out of the chain")
    refusal(lambda: Retrieval().refine(IMAGE, replace(given, boxes=None)), "no boxes")
    refusal(lambda: Retrieval().refine(IMAGE, given.with_scores(given.scores, None)), "no background")


def test_boxes_of_classes_without_a_map_still_bound_the_background():
    given = boxed(TWO[0], TWO[1], classes=(1,), features=features_of())
    refined = Retrieval().refine(IMAGE, given)
    x1, y1, x2, y2 = TWO[0][0]
    assert (refined.background[y1:y2, x1:x2] < 1).any()
    assert (refined.background[:, :2] == 1).all()
