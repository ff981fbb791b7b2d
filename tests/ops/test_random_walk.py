"""Random walk against the dense matrix of transitions, built entry by entry."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.ops import diffusion_cpu
from weakseg.ops.pairs import pair_offsets, path_offsets, search_paths
from weakseg.ops.random_walk import Links, boundary_links, feature_links, random_walk, transitions

ENGINES = ["numba", "torch"]


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow_feature_affinity(features, radius, sources=None):
    """(HW, HW) affinities; ``sources`` restricts the pixel of each pair that comes first in the grid."""
    depth, height, width = features.shape
    grid = [(y, x) for y in range(height) for x in range(width)]
    matrix = torch.eye(len(grid), dtype=torch.float64)
    for i, (y, x) in enumerate(grid):
        for j, (v, u) in enumerate(grid[i + 1 :], i + 1):
            if math.hypot(v - y, u - x) < radius and (sources is None or (y, x) in sources):
                distance = sum(abs(features[k, y, x] - features[k, v, u]).item() for k in range(depth)) / depth
                matrix[i, j] = matrix[j, i] = math.exp(-distance)
    return matrix


def slow_boundary_affinity(boundary, radius):
    height, width = boundary.shape
    grid = [(y, x) for y in range(height) for x in range(width)]
    matrix = torch.eye(len(grid), dtype=torch.float64)
    paths = {tuple(path[0]): path for group in search_paths(radius) for path in group.tolist()}
    for i, (y, x) in enumerate(grid):
        for j, (v, u) in enumerate(grid[i + 1 :], i + 1):
            path = paths.get((v - y, u - x))
            if path is not None:
                highest = max(boundary[y + dy, x + dx].item() for dy, dx in path)
                matrix[i, j] = matrix[j, i] = 1 - highest
    return matrix


def slow_walk(maps, affinity, beta, steps):
    """M T^steps, where column j of T has the affinities with pixel j, divided by their sum."""
    transition = affinity.double() ** beta
    for j in range(len(transition)):
        transition[:, j] = transition[:, j] / transition[:, j].sum()
    return (maps.double().flatten(1) @ torch.linalg.matrix_power(transition, steps)).view_as(maps)


@pytest.mark.parametrize(("height", "width", "radius"), [(10, 12, 5), (4, 4, 2), (1, 9, 5), (7, 1, 3), (1, 1, 5)])
def test_links_of_features(height, width, radius):
    features = uniform(3, height, width)
    links = feature_links(features, radius)
    assert torch.equal(links.offsets, pair_offsets(radius))
    torch.testing.assert_close(links.matrix(), slow_feature_affinity(features, radius))


@pytest.mark.parametrize(("height", "width", "radius"), [(10, 12, 5), (7, 6, 3), (4, 20, 5), (1, 1, 5)])
def test_cropped_links_start_where_training_does(height, width, radius):
    features = uniform(2, height, width)
    inside = {(y, x) for y in range(height - radius + 1) for x in range(radius - 1, width - radius + 1)}
    found = feature_links(features, radius, "cropped").matrix()
    torch.testing.assert_close(found, slow_feature_affinity(features, radius, inside))


@pytest.mark.parametrize(("height", "width", "radius"), [(10, 12, 5), (4, 4, 3), (1, 9, 5), (7, 1, 3), (1, 1, 5)])
def test_links_of_boundaries(height, width, radius):
    boundary = uniform(height, width)
    links = boundary_links(boundary, radius)
    assert torch.equal(links.offsets, path_offsets(radius))
    torch.testing.assert_close(links.matrix(), slow_boundary_affinity(boundary, radius))


def test_links_do_not_lead_out_of_the_grid():
    for links in (feature_links(uniform(2, 3, 4), 5), boundary_links(uniform(3, 4), 5)):
        for weight, (dy, dx) in zip(links.weights, links.offsets.tolist(), strict=True):
            for y in range(3):
                for x in range(4):
                    inside = y + dy < 3 and 0 <= x + dx < 4
                    assert (weight[y, x] > 0).item() == inside


def test_links_of_special_cases():
    assert (feature_links(torch.ones(4, 6, 6), 3).matrix().unique() == torch.tensor([0.0, 1])).all()
    assert (boundary_links(torch.zeros(6, 6), 3).matrix().unique() == torch.tensor([0.0, 1])).all()
    wall = torch.zeros(6, 6)
    wall[2, 3] = 1
    matrix = boundary_links(wall, 5).matrix()
    assert matrix[2 * 6 + 3].tolist() == torch.eye(36)[2 * 6 + 3].tolist()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_precision_of_links(dtype, expected):
    features = uniform(3, 5, 6).to(dtype)
    assert feature_links(features, 3).weights.dtype == expected
    assert torch.equal(feature_links(features, 3).weights, feature_links(features.to(expected), 3).weights)
    assert boundary_links(features[0], 3).weights.dtype == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("steps", [0, 1, 5, 64])
@pytest.mark.parametrize("kind", ["features", "cropped", "boundary"])
def test_walk_is_the_power_of_the_dense_matrix(engine, steps, kind):
    maps, features = uniform(3, 10, 12, seed=1), 3 * uniform(4, 10, 12)
    if kind == "boundary":
        links, affinity = boundary_links(features[0] / 3, 5), slow_boundary_affinity(features[0] / 3, 5)
    else:
        links = feature_links(features, 5, "all" if kind == "features" else "cropped")
        affinity = links.matrix()
    walked = random_walk(maps, links, beta=8, steps=steps, engine=engine)
    torch.testing.assert_close(walked, slow_walk(maps, affinity, 8, steps), rtol=0, atol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("size", [(16, 20), (4, 4)])
def test_a_walk_of_the_papers_length(engine, dtype, error, size):
    maps, boundary = uniform(2, *size, seed=1).to(dtype), uniform(*size).to(dtype)
    links = boundary_links(boundary, 4)
    walked = random_walk(maps, links, beta=10, steps=256, engine=engine)
    assert walked.dtype == dtype
    torch.testing.assert_close(walked.double(), slow_walk(maps, links.matrix(), 10, 256), rtol=0, atol=error)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_walk_in_double_precision_is_exact_enough_for_the_sheets(engine):
    for seed in range(5):
        maps, features = uniform(3, 6, 7, seed=seed), uniform(3, 6, 7, seed=seed + 10)
        links = feature_links(features, 5)
        walked = random_walk(maps, links, beta=8, steps=2**8, engine=engine)
        torch.testing.assert_close(walked, slow_walk(maps, links.matrix(), 8, 2**8), rtol=0, atol=1e-6)
        assert (walked - slow_walk(maps, links.matrix(), 8, 2**8)).abs().max() < 1e-12


def test_columns_of_transitions_are_shares():
    links = feature_links(uniform(3, 6, 7), 4)
    offsets, probabilities = transitions(links, 8)
    own = random_walk(torch.eye(42).view(42, 6, 7), links, beta=8, steps=1).flatten(1).diagonal().view(6, 7)
    assert probabilities.dtype == torch.float64
    torch.testing.assert_close(probabilities.sum(0) + own, torch.ones(6, 7).double(), rtol=0, atol=1e-6)
    assert offsets.shape == (2 * len(links.offsets), 2)
    power = links.matrix() ** 8
    dense = power / power.sum(0)
    number = torch.arange(42).view(6, 7)
    for (dy, dx), plane in zip(offsets.tolist(), probabilities, strict=True):
        for y in range(6):
            for x in range(7):
                inside = 0 <= y + dy < 6 and 0 <= x + dx < 7
                expected = dense[number[y + dy, x + dx], number[y, x]].item() if inside else 0.0
                assert plane[y, x].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_small_grids(engine, height, width):
    maps, links = uniform(2, height, width), feature_links(uniform(3, height, width, seed=2), 5)
    walked = random_walk(maps, links, beta=8, steps=16, engine=engine)
    torch.testing.assert_close(walked, slow_walk(maps, links.matrix(), 8, 16), rtol=0, atol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_maps(engine):
    walked = random_walk(torch.zeros(0, 5, 6), boundary_links(uniform(5, 6), 3), beta=8, steps=4, engine=engine)
    assert walked.shape == (0, 5, 6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_precisions(engine, dtype):
    maps, links = uniform(2, 6, 5).to(dtype), boundary_links(uniform(6, 5).to(dtype), 3)
    walked = random_walk(maps, links, beta=10, steps=8, engine=engine)
    assert walked.dtype == dtype
    single = random_walk(maps.float(), links, beta=10, steps=8, engine=engine)
    assert torch.equal(walked, single.to(dtype)) == (dtype != torch.float64)


@pytest.mark.parametrize("engine", ENGINES)
def test_masks_of_integers_walk_as_floats(engine):
    masks, links = (uniform(2, 6, 5) > 0.5).byte(), boundary_links(uniform(6, 5).float(), 3)
    walked = random_walk(masks, links, beta=10, steps=8, engine=engine)
    assert walked.dtype == torch.float32
    assert torch.equal(walked, random_walk(masks.float(), links, beta=10, steps=8, engine=engine))


def test_a_walk_has_no_gradient_and_leaves_its_inputs_alone():
    maps, boundary = uniform(2, 6, 5), uniform(6, 5)
    links = boundary_links(boundary.clone().requires_grad_(), 3)
    before = maps.clone(), links.weights.clone()
    assert not random_walk(maps.requires_grad_(), links, beta=10, steps=8).requires_grad
    assert torch.equal(maps, before[0])
    assert torch.equal(links.weights, before[1])


def test_a_wall_stops_the_walk():
    wall = torch.zeros(12, 15)
    wall[:, 7] = 1
    maps = torch.zeros(1, 12, 15)
    maps[0, 5, 2] = 1
    walked = random_walk(maps, boundary_links(wall, 5), beta=10, steps=256)[0]
    assert (walked[:, :7] > 1e-3).all()
    assert not walked[:, 7:].any()


def test_long_walks_between_equal_pixels_flatten_maps():
    maps, links = uniform(1, 8, 9), feature_links(torch.zeros(1, 8, 9), 5)
    spreads = [random_walk(maps, links, beta=8, steps=steps).std().item() for steps in (1, 4, 16, 256)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 1e-4


GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(2, 5), st.integers(0, 10**6))


@settings(max_examples=30, deadline=None)
@given(GRIDS, st.integers(1, 40), st.sampled_from([1.0, 8.0, 10.0]))
def test_a_constant_stays_and_values_stay_in_range(grid, steps, beta):
    height, width, radius, seed = grid
    maps, links = uniform(2, height, width, seed=seed), boundary_links(uniform(height, width, seed=seed + 1), radius)
    maps[1] = maps[1, 0, 0].clone()
    for start in (maps, maps.float()):
        walked = random_walk(start, links, beta=beta, steps=steps)
        assert torch.equal(walked[1], start[1])
        assert walked[0].min() >= start[0].min()
        assert walked[0].max() <= start[0].max()


@settings(max_examples=30, deadline=None)
@given(GRIDS)
def test_a_mirrored_picture_gives_a_mirrored_walk(grid):
    height, width, radius, seed = grid
    maps, features = uniform(2, height, width, seed=seed), uniform(3, height, width, seed=seed + 1)
    for axes in [(-1,), (-2,), (-2, -1)]:
        flipped = random_walk(maps.flip(axes), feature_links(features.flip(axes), radius), beta=8, steps=8)
        expected = random_walk(maps, feature_links(features, radius), beta=8, steps=8).flip(axes)
        torch.testing.assert_close(flipped, expected, rtol=0, atol=1e-6)
        flipped = random_walk(maps.flip(axes), boundary_links(features[0].flip(axes), radius), beta=8, steps=8)
        expected = random_walk(maps, boundary_links(features[0], radius), beta=8, steps=8).flip(axes)
        torch.testing.assert_close(flipped, expected, rtol=0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(GRIDS)
def test_maps_walk_on_their_own(grid):
    height, width, radius, seed = grid
    maps, links = uniform(3, height, width, seed=seed), boundary_links(uniform(height, width, seed=seed + 1), radius)
    walked = random_walk(maps, links, beta=10, steps=8)
    order = [2, 0, 1]
    assert torch.equal(random_walk(maps[order], links, beta=10, steps=8), walked[order])
    assert torch.equal(random_walk(maps[:1], links, beta=10, steps=8), walked[:1])


def test_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(diffusion_cpu, "SHARE", 1)
    maps, features = uniform(3, 61, 73).float(), uniform(64, 61, 73, seed=1).float()
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            first = random_walk(maps, feature_links(features, 5), beta=8, steps=16)
            found.append(random_walk(first, boundary_links(features[0], 5), beta=10, steps=16))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_arguments_that_make_no_sense():
    links = Links(pair_offsets(2), torch.zeros(4, 3, 3))
    with pytest.raises(ValueError, match="beta must be positive, not 0"):
        random_walk(torch.zeros(1, 3, 3), links, beta=0, steps=1)
    with pytest.raises(ValueError, match="steps must be 0 or more, not -1"):
        random_walk(torch.zeros(1, 3, 3), links, beta=8, steps=-1)
    for engine in ENGINES:
        with pytest.raises(ValueError, match=r"maps of \(1, 1, 8, 9\) and weights of \(1, 8, 3, 3\) do not fit"):
            random_walk(torch.zeros(1, 8, 9), links, beta=8, steps=1, engine=engine)
    with pytest.raises(ValueError, match="unknown connection 'some': all or cropped"):
        feature_links(torch.zeros(1, 3, 3), 2, "some")
