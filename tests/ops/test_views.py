"""Ways to merge the views of an image."""

import pytest
import torch

from weakseg.ops import views


def random_views(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def test_mean_of_logits_is_the_softmax_of_the_mean():
    two = random_views((3, 2, 4), (3, 2, 4))
    out = views.mean_of_logits(two)
    torch.testing.assert_close(out, torch.softmax((two[0] + two[1]) / 2, dim=0))
    torch.testing.assert_close(out.sum(0), torch.ones(2, 4))


def test_max_of_probabilities_is_not_normalised():
    two = [view.softmax(0) for view in random_views((3, 2, 4), (3, 2, 4))]
    out = views.max_of_probabilities(two)
    assert torch.equal(out, torch.maximum(*two))
    assert (out.sum(0) >= 1 - 1e-6).all()


def test_mean_of_probabilities_has_the_arg_max_of_their_sum():
    two = [view.softmax(0) for view in random_views((3, 2, 4), (3, 2, 4))]
    out = views.mean_of_probabilities(two)
    torch.testing.assert_close(out, (two[0] + two[1]) / 2)
    torch.testing.assert_close(out.sum(0), torch.ones(2, 4))
    assert torch.equal(out.argmax(0), (two[0] + two[1]).argmax(0))


def test_max_of_logits_goes_to_the_largest_size_in_any_order():
    small, large = random_views((2, 3, 2, 3), (2, 3, 4, 5))
    out = views.max_of_logits([small, large])
    resized = torch.nn.functional.interpolate(small, size=(4, 5), mode="bilinear", align_corners=False)
    assert torch.equal(out, torch.maximum(resized, large))
    assert torch.equal(out, views.max_of_logits([large, small]))


def test_mean_and_maximum_may_choose_different_classes():
    sure = torch.tensor([0.0, 3.0, -9.0])[:, None, None]
    unsure = torch.tensor([0.0, -4.0, -9.0])[:, None, None]
    assert views.mean_of_logits([sure, unsure]).argmax(0).item() == 0
    assert views.max_of_logits([sure, unsure]).argmax(0).item() == 1


@pytest.mark.parametrize("merge", [views.mean_of_logits, views.max_of_probabilities, views.max_of_logits])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 3])
def test_shape_and_dtype_stay(merge, dtype, count):
    out = merge([torch.zeros(2, 3, 4, 5, dtype=dtype)] * count)
    assert out.shape == (2, 3, 4, 5)
    assert out.dtype == dtype
