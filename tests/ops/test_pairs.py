"""Pairs of pixels against loops over pixels, and paths against geometry."""

import math

import pytest
import torch

from weakseg.ops import pairs
from weakseg.ops.pairs import (
    pair_distance,
    pair_ends,
    pair_labels,
    pair_offsets,
    path_maximum,
    path_offsets,
    search_paths,
)


def sources(height, width, radius):
    """All pixels whose half disc lies in the grid, row by row."""
    inside = range(radius - 1, width - radius + 1)
    return [(y, x) for y in range(height - radius + 1) for x in inside]


def distinct(*shape, seed=0):
    """Float64 values without ties."""
    count = math.prod(shape)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).double().view(shape) / count


@pytest.mark.parametrize(("radius", "count"), [(2, 4), (5, 34), (10, 152)])
def test_offsets_fill_half_a_disc(radius, count):
    offsets = [tuple(offset) for offset in pair_offsets(radius).tolist()]
    assert len(offsets) == count
    assert offsets == sorted(offsets)
    both = set(offsets) | {(-dy, -dx) for dy, dx in offsets}
    reach = range(-radius, radius + 1)
    assert both == {(y, x) for y in reach for x in reach if 0 < math.hypot(y, x) < radius}
    assert len(both) == 2 * count


def test_a_radius_without_pairs():
    with pytest.raises(ValueError, match="radius must be at least 2, not 1"):
        pair_offsets(1)


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_paths_are_the_pixels_near_the_line(radius):
    paths = [path.tolist() for group in search_paths(radius) for path in group]
    assert sorted(path[0] for path in paths) == pair_offsets(radius).tolist()
    for path in paths:
        (dy, dx), length = path[0], math.hypot(*path[0])
        box = [(y, x) for y in range(dy + 1) for x in range(min(0, dx), max(0, dx) + 1)]
        near = {(y, x) for y, x in box if abs(y * dx - x * dy) / length < 1 - 1e-9}
        assert {tuple(pixel) for pixel in path} == near
        assert len(path) == len(near)
        assert path[-1] == [0, 0]


@pytest.mark.parametrize("radius", [5, 10])
def test_paths_are_grouped_by_length_in_the_order_of_channels(radius):
    groups = search_paths(radius)
    lengths = [group.shape[1] for group in groups]
    assert lengths == sorted(set(lengths))
    assert torch.equal(path_offsets(radius), torch.cat([group[:, 0] for group in groups]))
    for group in groups:
        ends = group[:, 0].tolist()
        assert ends == sorted(ends)


def test_a_path_with_its_order():
    path = next(path for group in search_paths(5) for path in group.tolist() if path[0] == [2, -1])
    assert path == [[2, -1], [1, -1], [2, 0], [0, -1], [1, 0], [0, 0]]


@pytest.mark.parametrize(("height", "width", "radius"), [(6, 10, 5), (7, 9, 3), (5, 9, 5), (12, 4, 2)])
@pytest.mark.parametrize("order", [pair_offsets, path_offsets])
def test_ends_are_the_values_at_both_pixels(height, width, radius, order):
    maps, offsets = distinct(2, 3, height, width), order(radius)
    here, there = pair_ends(maps, radius, offsets=offsets)
    assert here.shape == (2, 3, 1, len(sources(height, width, radius)))
    for s, (y, x) in enumerate(sources(height, width, radius)):
        assert torch.equal(here[..., 0, s], maps[..., y, x])
        for o, (dy, dx) in enumerate(offsets.tolist()):
            assert torch.equal(there[..., o, s], maps[..., y + dy, x + dx])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 20), (20, 8), (1, 30), (30, 1)])
def test_a_grid_that_is_too_small_has_no_sources(height, width):
    here, there = pair_ends(torch.zeros(2, height, width), 5)
    assert here.shape == (2, 1, 0)
    assert there.shape == (2, 34, 0)
    assert pair_labels(torch.zeros(height, width, dtype=torch.uint8), 5).negative.shape == (34, 0)
    boundary = torch.rand(height, width, requires_grad=True)
    found = path_maximum(boundary, 5)
    assert found.shape == (34, 0)
    found.sum().backward()
    assert not boundary.grad.any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize("ignore", [255, 2])
def test_labels_of_pairs(dtype, ignore):
    choices = torch.tensor([0, 0, 1, 2, 255])
    labels = choices[torch.randint(5, (2, 8, 11), generator=torch.Generator().manual_seed(0))].to(dtype)
    found, radius = pair_labels(labels, 4, ignore), 4
    for b in range(2):
        for s, (y, x) in enumerate(sources(8, 11, radius)):
            for o, (dy, dx) in enumerate(pair_offsets(radius).tolist()):
                here, there = labels[b, y, x].item(), labels[b, y + dy, x + dx].item()
                known = ignore not in (here, there)
                assert found.background[b, o, s].item() == (known and here == there == 0)
                assert found.foreground[b, o, s].item() == (known and here == there > 0)
                assert found.negative[b, o, s].item() == (known and here != there)


def test_labels_in_the_order_of_paths():
    labels = torch.randint(3, (20, 25), generator=torch.Generator().manual_seed(0))
    by_path = pair_labels(labels, 10, offsets=path_offsets(10))
    places = {tuple(offset): i for i, offset in enumerate(pair_offsets(10).tolist())}
    order = torch.tensor([places[tuple(offset)] for offset in path_offsets(10).tolist()])
    for ours, theirs in zip(by_path, pair_labels(labels, 10), strict=True):
        assert torch.equal(ours, theirs[order])


@pytest.mark.parametrize(("height", "width", "radius"), [(6, 10, 5), (11, 21, 10), (4, 7, 2)])
def test_path_maximum_is_the_highest_value_of_the_path(height, width, radius):
    boundary = distinct(2, height, width)
    found = path_maximum(boundary, radius)
    paths = [path for group in search_paths(radius) for path in group.tolist()]
    assert found.shape == (2, len(paths), len(sources(height, width, radius)))
    for o, path in enumerate(paths):
        for s, (y, x) in enumerate(sources(height, width, radius)):
            slow = torch.stack([boundary[:, y + dy, x + dx] for dy, dx in path]).amax(0)
            assert torch.equal(found[:, o, s], slow)


@pytest.mark.parametrize("shape", [(6, 10), (2, 5, 9), (2, 1, 6, 9)])
def test_gradients(shape):
    maps = distinct(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: path_maximum(m, 4), maps)
    assert torch.autograd.gradcheck(lambda m: pair_ends(m, 4), maps)


def test_the_gradient_of_equal_values_goes_to_one_pixel():
    boundary = torch.ones(4, 7, dtype=torch.float64, requires_grad=True)
    found = path_maximum(boundary, 4)
    found.sum().backward()
    assert boundary.grad.sum() == found.numel()
    expected = torch.zeros(4, 7, dtype=torch.float64)
    for dy, dx in pair_offsets(4).tolist():  # one source, whose destinations come first in their paths
        expected[dy, 3 + dx] += 1
    assert torch.equal(boundary.grad, expected)


def test_the_gradient_leaves_what_it_is_given_alone():
    boundary = distinct(6, 10).requires_grad_()
    found = path_maximum(boundary, 4)
    gradient = torch.ones_like(found)
    first = torch.autograd.grad(found, boundary, gradient, retain_graph=True)[0]
    assert torch.equal(gradient, torch.ones_like(found))
    assert torch.equal(first, torch.autograd.grad(found, boundary, gradient)[0])


def test_path_maximum_keeps_no_steps_for_the_gradient():
    """Saving what each of the 2,134 steps of radius 10 takes would be 14 times what comes out."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        boundary = torch.rand(2, 30, 40, requires_grad=True)
        found = path_maximum(boundary, 10)
    assert sum(kept) == boundary.numel() + found.numel()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_precisions(dtype):
    maps = distinct(2, 1, 9, 12).to(dtype).requires_grad_()
    found = path_maximum(maps, 4)
    assert found.dtype == dtype
    assert torch.equal(found, path_maximum(maps.double(), 4).to(dtype))
    found.sum().backward()
    assert maps.grad.dtype == dtype
    assert pair_ends(maps, 4)[1].dtype == dtype


def test_windows_of_pairs_hold_all_pixels_whose_partner_is_in_the_grid():
    for dy, dx in [(0, 1), (2, -3), (4, 0), (3, 9), (3, -9), (9, 1)]:
        grid = torch.arange(5 * 6).view(5, 6)
        window = pairs.pair_window(5, 6, dy, dx)
        expected = [(y, x) for y in range(5) for x in range(6) if y + dy < 5 and 0 <= x + dx < 6]
        assert window.of(grid).flatten().tolist() == [grid[y, x].item() for y, x in expected]
        assert window.of(grid, dy, dx).flatten().tolist() == [grid[y + dy, x + dx].item() for y, x in expected]


@pytest.mark.parametrize("shape", [(2, 3, 9, 11), (4, 8, 7), (1, 2, 5, 3)])
def test_distances_are_means_over_channels(shape):
    features = distinct(*shape).requires_grad_()
    here, there = pair_ends(features, 4)
    expected = (here - there).abs().mean(-3)
    found = pair_distance(features, 4)
    torch.testing.assert_close(found, expected)
    weights = torch.rand(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((value * weights).sum(), features)[0] for value in (expected, found)]
    torch.testing.assert_close(*gradients)


def test_gradient_of_distances():
    assert torch.autograd.gradcheck(lambda f: pair_distance(f, 3), distinct(2, 2, 5, 6).requires_grad_())


def test_distances_in_half_precision():
    features = distinct(2, 3, 9, 11).bfloat16().requires_grad_()
    found = pair_distance(features, 3)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert features.grad.isfinite().all()
