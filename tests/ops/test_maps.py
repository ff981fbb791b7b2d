"""Maps against loops over pixels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.ops import maps
from weakseg.ops.pooling import gap, gmp

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def random_maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow_bilinear(grid, size, align_corners):
    """Bilinear interpolation of one map, pixel by pixel."""
    (h, w), (height, width) = grid.shape, size
    out = torch.empty(size, dtype=grid.dtype)

    def source(i, old, new):
        if align_corners:
            return 0.0 if new == 1 else i * (old - 1) / (new - 1)
        return max(0.0, (i + 0.5) * old / new - 0.5)

    for i in range(height):
        for j in range(width):
            y, x = source(i, h, height), source(j, w, width)
            top, left = min(int(y), h - 1), min(int(x), w - 1)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            dy, dx = y - top, x - left
            upper = (1 - dx) * grid[top, left] + dx * grid[top, right]
            lower = (1 - dx) * grid[bottom, left] + dx * grid[bottom, right]
            out[i, j] = (1 - dy) * upper + dy * lower
    return out


def slow_label_map(scores, background, classes):
    out = torch.zeros(background.shape, dtype=torch.uint8)
    for y in range(background.shape[0]):
        for x in range(background.shape[1]):
            best = background[y, x]
            for p, c in enumerate(classes.tolist()):
                if scores[p, y, x] > best:
                    best, out[y, x] = scores[p, y, x], c + 1
    return out


def test_class_activation_weighs_features_at_each_position():
    features, weight = random_maps(2, 3, 4, 5), random_maps(6, 3, seed=1)
    slow = torch.zeros(2, 6, 4, 5, dtype=torch.float64)
    for b in range(2):
        for c in range(6):
            for k in range(3):
                slow[b, c] += weight[c, k] * features[b, k]
    torch.testing.assert_close(maps.class_activation(features, weight), slow)
    torch.testing.assert_close(maps.class_activation(features, weight[:, :, None, None]), slow)


def test_mean_of_class_activation_is_the_logit():
    features, weight = random_maps(2, 3, 4, 5), random_maps(6, 3, seed=1)
    logits = torch.nn.functional.linear(gap(features), weight)
    torch.testing.assert_close(gap(maps.class_activation(features, weight)), logits)


def test_class_activation_has_the_right_gradient():
    features, weight = random_maps(1, 2, 2, 3).requires_grad_(), random_maps(2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(maps.class_activation, (features, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 3, 4), (2, 0, 3, 4)])
@pytest.mark.parametrize("normalize", [maps.normalize_max, maps.normalize_minmax])
def test_normalised_maps_keep_shape_and_dtype_and_lie_in_unit_range(normalize, shape, dtype):
    out = normalize(random_maps(*shape, dtype=dtype))
    assert out.shape == shape
    assert out.dtype == dtype
    assert ((out >= 0) & (out <= 1)).all()


def test_normalize_max_divides_each_map_by_its_own_maximum():
    grid = torch.tensor([[[1.0, -2.0], [4.0, 2.0]], [[0.5, 0.0], [0.25, 0.0]]], dtype=torch.float64)
    expected = torch.tensor([[[0.25, 0.0], [1.0, 0.5]], [[1.0, 0.0], [0.5, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(maps.normalize_max(grid, eps=0.0), expected)
    assert maps.normalize_max(grid, eps=1.0)[0, 1, 0].item() == pytest.approx(4 / 5)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_normalize_max_of_a_map_without_positive_value_is_zero(value, eps):
    assert (maps.normalize_max(torch.full((2, 3, 4), value), eps) == 0).all()


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_normalize_minmax_stretches_and_leaves_a_constant_map_at_zero(eps):
    grid = torch.stack([torch.tensor([[-1.0, 0.0], [1.0, 3.0]]), torch.full((2, 2), 0.7)])
    expected = torch.stack([torch.tensor([[0.0, 0.25], [0.5, 1.0]]), torch.zeros(2, 2)])
    torch.testing.assert_close(maps.normalize_minmax(grid, eps), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (7, 11), (3, 1)])
def test_resize_matches_pixel_by_pixel_interpolation(size, align_corners):
    grid = random_maps(4, 5)
    out = maps.resize(grid, size, align_corners=align_corners)
    torch.testing.assert_close(out, slow_bilinear(grid, size, align_corners))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_resize_keeps_leading_dimensions_and_dtype(mode, leading, dtype):
    out = maps.resize(random_maps(*leading, 3, 4, dtype=dtype), (5, 7), mode)
    assert out.shape == (*leading, 5, 7)
    assert out.dtype == dtype


def test_resize_like_reads_only_height_and_width():
    assert maps.resize_like(random_maps(2, 1, 8, 6), random_maps(2, 5, 3, 4), "nearest").shape == (2, 1, 3, 4)


@settings(max_examples=40, deadline=None)
@given(old=st.integers(1, 300), new=st.integers(1, 300))
def test_nearest_reads_the_floored_row(old, new):
    column = torch.arange(old)[:, None]
    out = maps.resize(column, (new, 1), "nearest")
    assert out[:, 0].tolist() == [math.floor(i * old / new) for i in range(new)]


def test_resize_refuses_an_unknown_mode():
    with pytest.raises(ValueError, match="unknown resize mode 'cubic'"):
        maps.resize(random_maps(2, 2), (3, 3), "cubic")


def test_flipping_twice_changes_nothing_and_resize_commutes_with_it():
    grid = random_maps(2, 4, 6)
    assert torch.equal(maps.unflip(maps.unflip(grid)), grid)
    torch.testing.assert_close(maps.resize(maps.unflip(grid), (5, 9)), maps.unflip(maps.resize(grid, (5, 9))))


@given(length=st.integers(1, 2000), stride=st.integers(1, 32))
def test_sizes(length, stride):
    assert maps.strided_size(length, stride) == len(range(0, length, stride))
    padded = maps.padded_size(length, stride)
    assert padded % stride == 0
    assert 0 <= padded - length < stride


@pytest.mark.parametrize("length", [1, 31, 32, 33])
def test_output_size_is_that_of_convolutions(length):
    convolution = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1)
    assert maps.output_size(length, 3) == torch.nn.Sequential(*[convolution] * 3)(torch.zeros(1, 1, length)).shape[-1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("leading", [(), (2,)])
def test_power_background(leading, dtype):
    scores = random_maps(*leading, 3, 4, 5, dtype=dtype).sigmoid()
    torch.testing.assert_close(maps.power_background(scores, 4), (1 - scores.amax(-3)) ** 4)
    nothing = maps.power_background(scores[..., :0, :, :], 4)
    assert torch.equal(nothing, torch.ones(*leading, 4, 5, dtype=dtype))


def test_power_background_of_a_score_a_little_above_one_is_zero():
    assert maps.power_background(torch.full((1, 1, 1), 1.0001), 0.5).item() == 0


def test_constant_background_keeps_dtype_also_without_classes():
    background = maps.constant_background(torch.zeros(0, 2, 3, dtype=torch.float64), 0.3)
    assert background.shape == (2, 3)
    assert background.dtype == torch.float64
    assert (background == 0.3).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), present=st.integers(0, 3), height=st.integers(1, 5), width=st.integers(1, 5))
def test_label_map_is_the_first_maximum(seed, present, height, width):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (present, height, width), generator=generator) / 4  # few values, many ties
    background = torch.randint(0, 4, (height, width), generator=generator) / 4
    classes = torch.randperm(20, generator=generator)[:present].sort().values
    mask = maps.label_map(scores, background, classes)
    assert mask.dtype == torch.uint8
    assert torch.equal(mask, slow_label_map(scores, background, classes))


def test_label_map_reaches_the_largest_class():
    assert maps.label_map(torch.ones(1, 1, 1), torch.zeros(1, 1), torch.tensor([253])).item() == 254


def test_pooling_against_loops():
    scores = random_maps(2, 3, 4, 5)
    for b in range(2):
        for c in range(3):
            values = scores[b, c].flatten().tolist()
            assert gap(scores)[b, c].item() == pytest.approx(sum(values) / len(values))
            assert gmp(scores)[b, c].item() == max(values)
    assert gap(random_maps(2, 0, 3, 3)).shape == gmp(random_maps(2, 0, 3, 3)).shape == (2, 0)
