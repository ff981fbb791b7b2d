"""BANA with classes that are not learnt: known not to be background, and told by that."""

import pytest
import torch

from tests.data.trees import refusal
from tests.methods.conformance import Setup
from tests.methods.test_bana import crowded, double, features_of, method_seeing, slow_loss  # noqa: F401
from weakseg.methods.method import Views
from weakseg.ops.box_masks import box_pixels

ONCE = Views((1.0,), flip=False, stride=1)


def slow_seen_loss(features, weight, batch, seen):
    """Unseen boxes taken away by hand, after their pixels were taken from the certain background."""
    valid, (height, width) = batch.valid.clone(), batch.images.shape[-2:]
    boxes, classes = [], []
    for number, (its_boxes, its_classes) in enumerate(zip(batch.boxes, batch.box_classes, strict=True)):
        known = torch.tensor([index in seen for index in its_classes.tolist()], dtype=torch.bool)
        for box in its_boxes[~known]:
            valid[number, 0] &= ~box_pixels(box[None], (height, width))[0]
        boxes.append(its_boxes[known])
        classes.append(torch.tensor([seen.index(index) for index in its_classes[known].tolist()], dtype=torch.int64))
    fewer = type(batch)(**{**vars(batch), "valid": valid, "boxes": tuple(boxes), "box_classes": tuple(classes)})
    return slow_loss(features, weight[[0, *(index + 1 for index in seen)]], fewer)


@pytest.mark.parametrize("seen", [(0,), (0, 2), (1, 2)])
def test_the_loss_is_that_of_a_network_that_knows_the_seen_classes_alone(double, seen):  # noqa: F811
    batch = crowded()
    features = features_of(batch)
    method = method_seeing(features, seen=seen)
    ours = method.losses(batch)["classification"]
    theirs = slow_seen_loss(features, method.head.weight.flatten(1), batch, list(seen))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    ours.backward()
    gradient = method.head.weight.grad.flatten(1)
    assert gradient.isfinite().all()
    unseen = [index + 1 for index in range(3) if index not in seen]
    assert not gradient[unseen].any()
    assert gradient[0].any()


@pytest.mark.parametrize("background", ["attention", "cam"])
def test_a_class_that_is_not_learnt_is_what_is_not_background(double, background):  # noqa: F811
    batch = crowded()
    features = features_of(batch)
    all_known = method_seeing(features, background=background).eval().localize(batch, ONCE)
    some = method_seeing(features, background=background, seen=(0, 2)).eval().localize(batch, ONCE)
    for number, (before, after) in enumerate(zip(all_known, some, strict=True)):
        assert torch.equal(before.classes, after.classes)
        assert torch.equal(before.background, after.background)
        for place, index in enumerate(after.classes.tolist()):
            own = batch.boxes[number][batch.box_classes[number] == index]
            inside = box_pixels(own, after.size).any(0)
            expected = torch.where(inside, 1 - after.background, 0) if index == 1 else before.scores[place]
            assert torch.equal(after.scores[place], expected.to(after.scores.dtype))


def test_all_classes_learnt_is_the_usual_method(double):  # noqa: F811
    batch = crowded()
    features = features_of(batch)
    usual, named = method_seeing(features), method_seeing(features, seen=(0, 1, 2))
    assert torch.equal(usual.losses(batch)["classification"], named.losses(batch)["classification"])
    assert set(usual.state_dict()) == set(named.state_dict()) == {"head.weight"}


@pytest.mark.parametrize("places", [(2, None, 0), (None, 1), (0, 1, 2), (1, 0, None, 2)])
def test_weights_for_other_classes_give_the_same_scores(double, places):  # noqa: F811
    features = features_of(crowded())
    method = method_seeing(features)
    weights = method.for_classes(method.state_dict(), places)
    # Not a matrix product, which on some processors rounds a class differently when there are more or fewer of them.
    heads = (state["head.weight"].flatten(1)[..., None, None] for state in (method.state_dict(), weights))
    before, after = ((head * features[:, None]).sum(2) for head in heads)
    assert torch.equal(after[:, 0], before[:, 0])
    for index, place in enumerate(places):
        expected = torch.zeros_like(before[:, 0]) if place is None else before[:, place + 1]
        torch.testing.assert_close(after[:, index + 1], expected)


@pytest.mark.parametrize("places", [(1, 0), (0, None), (None,)])
def test_methods_without_a_way_with_other_classes_refuse_them(places):
    method = Setup("cam").build()
    with pytest.raises(ValueError, match="in their order"):
        method.for_classes(method.state_dict(), places)
    assert method.for_classes(method.state_dict(), (0, 1, 2)).keys() == method.state_dict().keys()


@pytest.mark.parametrize("seen", [(3,), (-1,), (0, 7), ()])
def test_classes_that_there_are_not_are_refused(seen):
    features = features_of(crowded())
    refusal(lambda: method_seeing(features, seen=seen), "localize.method.seen", "3 classes from 0")
