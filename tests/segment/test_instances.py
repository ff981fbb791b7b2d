"""The instance segmenter learns from maps of numbers."""

import pytest
import torch

from weakseg.data.sample import Sample, collate
from weakseg.networks.mask_rcnn import create_detector
from weakseg.segment.instances import InstanceSegmenter, target

SIZE = (64, 96)


def segmenter(seed=0, head_factor=1.0, **settings):
    torch.manual_seed(seed)
    small = {"width": 32, "box_width": 64, "samples": 64}
    network = create_detector(
        "mask_rcnn", 2, encoder="test_resnet", detector=small, weights="none", batchnorm="train", **settings
    )
    return InstanceSegmenter(network, head_factor)


def numbers():
    """Object 1 left, 2 nowhere, 3 right."""
    found = torch.zeros(SIZE, dtype=torch.int32)
    found[10:50, 8:40], found[20:60, 56:88] = 1, 3
    return found


KINDS = torch.tensor([1, 0, 0])


def sample(name="a", empty=False):
    image = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0)) * 0.1
    image[0][numbers() == 1] += 2
    image[1][numbers() == 3] += 2
    if empty:
        return Sample(name, image.flip(0), objects=numbers() * 0, object_classes=KINDS)
    return Sample(name, image, objects=numbers(), object_classes=KINDS)


def overlap(one, other):
    return ((one & other).sum() / (one | other).sum()).item()


def test_a_target_has_the_objects_that_are_left():
    found = target(numbers(), KINDS)
    assert found.boxes.tolist() == [[8, 10, 40, 50], [56, 20, 88, 60]]
    assert found.labels.tolist() == [2, 1]
    assert torch.equal(found.masks[1], numbers() == 3)
    assert not found.unsure.any()
    disputed = numbers().masked_fill(numbers() == 1, -1)
    assert torch.equal(target(disputed, KINDS).unsure, numbers() == 1)
    assert target(disputed, KINDS).labels.tolist() == [1]
    cut = target(numbers()[:, 40:], KINDS)
    assert cut.labels.tolist() == [1]
    none = target(numbers() * 0, KINDS)
    assert none.boxes.shape == (0, 4)
    assert none.masks.shape == (0, *SIZE)


def test_it_learns():
    """The loss falls, and what was shown is found."""
    model = segmenter().train()
    batch = collate([sample(), sample("none", empty=True)], num_classes=2)
    optimizer = torch.optim.AdamW(model.parameter_groups(3e-3, 1e-4), lr=3e-3)
    history = []
    for step in range(60):
        torch.manual_seed(step)
        loss = torch.stack(list(model.losses(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-10:]) < 0.4 * sum(history[:10])
    found, _ = model.eval().predict(batch.images, score=0.3)
    for number, kind in ((1, 1), (3, 0)):
        surest = next(place for place, seen in enumerate(found.classes.tolist()) if seen == kind)
        assert overlap(found.masks[surest], numbers() == number) > 0.6


def test_predictions():
    model = segmenter().eval()
    found = model.predict(torch.randn(2, 3, 45, 70), score=0.0, most=6)
    assert len(found) == 2
    for each in found:
        assert each.masks.shape[1:] == (45, 70)
        assert each.masks.dtype == torch.bool
        assert each.masks.flatten(1).any(1).all()
        assert len(each) == len(each.scores) <= 6
        assert {0, 1}.issuperset(each.classes.tolist())
        assert not each.scores.requires_grad
    assert [len(each) for each in model.predict(torch.randn(2, 3, 45, 70), score=1.0)] == [0, 0]


def test_a_batch_without_any_object():
    model = segmenter().train()
    losses = model.losses(collate([sample(empty=True), Sample("unknown", sample().image)], num_classes=2))
    assert all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()


def test_losses_in_bfloat16_are_float32():
    model = segmenter().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(collate([sample()], num_classes=2))
    assert {value.dtype for value in losses.values()} == {torch.float32}


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_new_layers_may_learn_faster(factor):
    model = segmenter(head_factor=factor)
    rates = {id(p): group["lr"] for group in model.parameter_groups(0.1, 1e-4) for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    encoder = {id(parameter) for parameter in model.network.encoder.parameters()}
    weights = {(id(p) in encoder, round(rates[id(p)], 6)) for p in model.parameters() if p.ndim == 4}
    assert weights == {(True, 0.1), (False, 0.1 * factor)}


def test_epochs_begin_without_a_change():
    model = segmenter()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.begin_epoch(0, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
