"""Labels from a network's own masks, and their loss, against loops."""

import math

import pytest
import torch

from weakseg.ops.self_labels import (
    balanced_mask_loss,
    label_map,
    label_weights,
    of_present_classes,
    pseudo_ground_truth,
    sure_scores,
)

CLASSES = 3


def masks(seed=0, batch=2, height=4, width=5, peaked=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (peaked * torch.randn(batch, CLASSES + 1, height, width, generator=generator)).softmax(1)


def labels(given, **cuts):
    return pseudo_ground_truth(given, sure_scores(given, **cuts))


def slow_labels(image, foreground_cut, background_cut, least):
    """One label of (C + 1, h, w) masks for each pixel, or None."""
    cuts = [background_cut] + [foreground_cut] * CLASSES
    needed = [max(cut * mask.max().item(), least or 0) for cut, mask in zip(cuts, image, strict=True)]
    found = []
    for pixel in image.flatten(1).T.tolist():
        sure = [c for c, value in enumerate(pixel) if value > needed[c]]
        found.append(sure[0] if len(sure) == 1 else None)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [None, 0.2, 0.6])
def test_labels_are_the_definition(seed, least):
    given = masks(seed)
    found = labels(given, least=least)
    for image, one_hot in zip(given, found, strict=True):
        chosen = [column.nonzero().flatten().tolist() for column in one_hot.flatten(1).T]
        assert [c[0] if c else None for c in chosen] == slow_labels(image, 0.6, 0.7, least)
    assert (found.sum(1) <= 1).all()


def test_a_pixel_just_at_the_threshold_is_not_sure():
    given = torch.tensor([[[[0.0, 0.0]], [[1.0, 0.5]]]])
    assert labels(given, foreground_cut=0.5, least=None)[0, 1].tolist() == [[True, False]]


def test_what_two_are_sure_of_is_left_alone():
    given = torch.tensor([[[[0.0, 0.0]], [[0.5, 0.5]], [[0.1, 0.5]]]])
    assert labels(given)[0].tolist() == [[[False, False]], [[True, False]], [[False, False]]]


def test_the_least_score_leaves_faint_masks_without_labels():
    faint = torch.zeros(1, 2, 2, 3)
    faint[:, 1, 0] = 0.19
    assert not labels(faint).any()
    assert labels(faint, least=None)[0, 1].sum() == 3


def test_absent_classes_have_no_labels_and_background_always_may():
    tags = torch.tensor([[True, False, True], [False, False, False]])
    given = masks()
    present = of_present_classes(given, tags)
    assert torch.equal(present[:, 0], given[:, 0])
    assert torch.equal(present[0, [1, 3]], given[0, [1, 3]])
    found = labels(present, least=None)
    assert not found[0, 2].any()
    assert not found[1, 1:].any()
    assert found[1, 0].any()


def slow_loss(logits, pseudo, tags):
    """The sheet's Section 3.8, pixel by pixel."""
    channels, height, width = logits.shape
    counts = [int(channel.sum()) for channel in pseudo]
    total = sum(counts)
    if sum(count > 0 for count in counts) != int(tags.sum()) + 1:
        return 0.0
    found = 0.0
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                if pseudo[c, y, x]:
                    values = logits[:, y, x].tolist()
                    surprise = math.log(sum(math.exp(value) for value in values)) - values[c]
                    found += surprise * (total - counts[c]) / (1 + total)
    return found / (height * width)


def slow_paper_loss(logits, pseudo, tags):
    """The paper's balance: every class counts by the mean over its own pixels."""
    means = []
    for c, channel in enumerate(pseudo):
        if channel.any():
            surprises = [
                math.log(sum(math.exp(value) for value in logits[:, y, x].tolist())) - logits[c, y, x].item()
                for y, x in channel.nonzero().tolist()
            ]
            means.append(sum(surprises) / len(surprises))
    return sum(means) / len(means) if len(means) == int(tags.sum()) + 1 else 0.0


def loss_case(seed, **size):
    generator = torch.Generator().manual_seed(seed)
    given = masks(seed, peaked=4.0, **size)
    tags = torch.rand(len(given), CLASSES, generator=generator) > 0.4
    logits = torch.randn(given.shape, generator=generator)
    return logits, labels(of_present_classes(given, tags)), tags


@pytest.mark.parametrize(("balance", "slow"), [("code", slow_loss), ("paper", slow_paper_loss)])
@pytest.mark.parametrize("seed", range(8))
def test_the_loss_is_the_definition(seed, balance, slow):
    logits, pseudo, tags = loss_case(seed)
    expected = [slow(*image) for image in zip(logits, pseudo, tags, strict=True)]
    torch.testing.assert_close(balanced_mask_loss(logits, pseudo, tags, balance), torch.tensor(expected))


def test_hundreds_of_classes_are_told_apart():
    logits, pseudo = torch.randn(1, 301, 2, 3), torch.zeros(1, 301, 2, 3, dtype=torch.bool)
    pseudo[0, 0, 0], pseudo[0, 255, 1, 0], pseudo[0, 300, 1, 1:] = True, True, True
    tags = pseudo[:, 1:].any(-1).any(-1)
    expected = slow_loss(logits[0], pseudo[0], tags[0])
    torch.testing.assert_close(balanced_mask_loss(logits, pseudo, tags), torch.tensor([expected]))


def test_a_pixel_of_which_hundreds_of_classes_are_sure_is_none_of_theirs():
    given = torch.ones(257, 1, 2)
    given[1:, 0, 1] = 0
    assert pseudo_ground_truth(given, torch.full((257,), 0.5)).nonzero().tolist() == [[0, 0, 1]]


def test_an_unknown_balance_is_refused():
    with pytest.raises(ValueError, match="unknown balance 'cod': code, paper"):
        balanced_mask_loss(*loss_case(0), "cod")


def test_some_of_these_cases_have_a_loss_and_some_none():
    found = torch.cat([balanced_mask_loss(*loss_case(seed)) for seed in range(8)])
    assert found.any()
    assert not found.all()


def test_an_image_without_a_pixel_of_one_of_its_classes_is_left_out():
    logits, pseudo = torch.randn(1, 3, 2, 3), torch.zeros(1, 3, 2, 3, dtype=torch.bool)
    pseudo[0, 0, 0], pseudo[0, 1, 1] = True, True
    both, one = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    assert balanced_mask_loss(logits, pseudo, one).item() > 0
    assert balanced_mask_loss(logits, pseudo, both).item() == 0
    pseudo[0, 0] = False  # no background
    assert balanced_mask_loss(logits, pseudo, one).item() == 0


def test_a_class_that_is_alone_weighs_nothing():
    pseudo = torch.zeros(2, 3, 2, 3, dtype=torch.bool)
    pseudo[0, 0] = True
    assert label_weights(pseudo)[0, 0] == 0
    assert not balanced_mask_loss(torch.randn(2, 3, 2, 3), pseudo, torch.zeros(2, 2, dtype=torch.bool)).any()


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (5, 2, 3, 4)])
def test_labels_as_numbers_match_a_loop(shape):
    numbers = torch.randint(-1, CLASSES + 1, shape, generator=torch.Generator().manual_seed(0))
    pseudo = torch.stack([numbers == channel for channel in range(CLASSES + 1)], -3)
    assert torch.equal(label_map(pseudo, -1), numbers)
    assert (label_map(pseudo)[numbers < 0] == -100).all()


def test_small_classes_weigh_more():
    pseudo = torch.zeros(2, 2, 5, dtype=torch.bool)
    pseudo[0, 0, :4], pseudo[1, 1, 0] = True, True
    torch.testing.assert_close(label_weights(pseudo), torch.tensor([1 / 6, 4 / 6]))


@pytest.mark.parametrize("balance", ["code", "paper"])
def test_gradients(balance):
    logits, pseudo, tags = loss_case(0, height=3, width=3)
    tags = pseudo[:, 1:].any(-1).any(-1)
    assert torch.autograd.gradcheck(
        lambda y: balanced_mask_loss(y, pseudo, tags, balance), logits.double().requires_grad_(), atol=1e-6
    )


def test_in_the_papers_balance_the_number_of_pixels_of_a_class_does_not_count():
    logits = torch.randn(1, 2, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 2, 3, 4)
    pseudo, found = torch.zeros(1, 2, 3, 4, dtype=torch.bool), []
    pseudo[0, 0, 0] = True
    for count in (1, 4):
        pseudo[0, 1, 1, :count] = True
        found.append(balanced_mask_loss(logits, pseudo, torch.tensor([[True]]), "paper").item())
    assert found[0] == pytest.approx(found[1])
    assert found[0] > 0


def test_the_loss_in_bfloat16():
    logits, pseudo, tags = loss_case(1)
    tags = pseudo[:, 1:].any(-1).any(-1)
    exact, rounded = balanced_mask_loss(logits, pseudo, tags), balanced_mask_loss(logits.bfloat16(), pseudo, tags)
    torch.testing.assert_close(rounded.float(), exact, atol=0.01, rtol=0.05)
