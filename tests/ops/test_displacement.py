"""Following a displacement field, and the objects that it tells apart."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from weakseg.ops.displacement import cluster_centroids, connected_parts, refine_centroids, split_by_cluster


def bilinear(field, y, x):
    height, width = field.shape
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = (1 - dx) * field[top, left] + dx * field[top, right]
    below = (1 - dx) * field[bottom, left] + dx * field[bottom, right]
    return (1 - dy) * above + dy * below


def follow(field, y, x, iterations):
    """One pixel, one step after the other."""
    _, height, width = field.shape
    for _ in range(iterations):
        dy, dx = bilinear(field[0], y, x), bilinear(field[1], y, x)  # both at the old place
        y, x = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
    return y, x


@pytest.mark.parametrize("size", [(6, 9), (1, 5), (5, 1)])
def test_every_pixel_follows_the_field(size):
    field = torch.randn(2, *size, generator=torch.Generator().manual_seed(3))
    found = refine_centroids(field, iterations=7)
    assert found.dtype == torch.int64
    for y in range(size[0]):
        for x in range(size[1]):
            exact = follow(field.numpy().astype(np.float64), y, x, 7)
            assert abs(found[0, y, x].item() - exact[0]) <= 0.5 + 1e-3
            assert abs(found[1, y, x].item() - exact[1]) <= 0.5 + 1e-3


@pytest.mark.parametrize("unit", [1, 0.5])
@pytest.mark.parametrize("size", [(5, 7), (1, 6), (9, 4)])
def test_fields_that_lead_from_pixel_to_pixel_are_followed_exactly(unit, size):
    """Every sum is exact in binary, so the slightest error of a place would be an error of this code."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(10):
        field = (torch.randn(2, *size, generator=generator) * 1.5 / unit).round() * unit
        found = refine_centroids(field)
        for y in range(size[0]):
            for x in range(size[1]):
                exact = follow(field.numpy().astype(np.float64), y, x, 300)
                assert found[:, y, x].tolist() == [round(place) for place in exact]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_field_that_leads_nowhere(wrong):
    field = torch.zeros(2, 3, 4)
    field[1, 2, 0] = wrong
    with pytest.raises(ValueError, match="displacement must be finite"):
        refine_centroids(field)


def test_nobody_moves_without_a_field_or_without_a_step():
    here = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij"))
    assert torch.equal(refine_centroids(torch.zeros(2, 4, 6)), here)
    assert torch.equal(refine_centroids(torch.ones(2, 4, 6), iterations=0), here)


def test_the_walk_ends_at_the_border():
    found = refine_centroids(torch.tensor([3.0, -2.0]).view(2, 1, 1).expand(2, 5, 7))
    assert (found[0] == 4).all()
    assert (found[1] == 0).all()


def two_discs():
    """On a still ground, two discs of radius 6 around (8, 8) and (8, 24) that point at their middle."""
    rows, columns = torch.meshgrid(torch.arange(17.0), torch.arange(33.0), indexing="ij")
    field, discs = torch.zeros(2, 17, 33), []
    for y, x in ((8, 8), (8, 24)):
        disc = torch.hypot(rows - y, columns - x) <= 6
        field = torch.where(disc, torch.stack([y - rows, x - columns]), field)
        discs.append(disc)
    return field, discs


def test_pixels_that_point_at_one_middle_are_one_object():
    field, discs = two_discs()
    clusters = cluster_centroids(field, refine_centroids(field))
    assert clusters.unique().tolist() == [0, 1, 2]
    numbers = [clusters[disc].unique().tolist() for disc in discs]
    ground = clusters[~(discs[0] | discs[1])].unique().tolist()
    assert sorted([*numbers, ground]) == [[0], [1], [2]]


def test_where_the_field_is_not_short_there_is_no_middle():
    """All pixels arrive at the corner, where the field is as long as everywhere."""
    field = torch.full((2, 5, 5), 4.0)
    assert not cluster_centroids(field, refine_centroids(field)).any()
    assert field.norm(dim=0).unique().item() == pytest.approx(4 * math.sqrt(2))


def test_maps_are_cut_into_clusters_and_empty_pieces_left_out():
    scores = torch.tensor([[[0.5, 0.2, 0.0]], [[0.0, 0.0, 0.9]], [[0.0, 0.0, 0.0]]])
    pieces, classes = split_by_cluster(scores, torch.tensor([[0, 1, 1]]))
    assert classes.tolist() == [0, 0, 1]
    torch.testing.assert_close(pieces, torch.tensor([[[0.5, 0, 0]], [[0, 0.2, 0]], [[0, 0, 0.9]]]))


def test_no_class_gives_no_piece():
    pieces, classes = split_by_cluster(torch.zeros(0, 2, 3), torch.zeros(2, 3, dtype=torch.int64))
    assert pieces.shape == (0, 2, 3)
    assert classes.shape == (0,)


def test_connected_parts_touch_by_sides():
    labels = torch.tensor([[3, 0, 5, 5], [0, 3, 0, 5], [3, 3, 5, 0]])
    parts, owners = connected_parts(labels)
    assert owners.tolist() == [3, 3, 5, 5]
    assert parts.tolist() == [[1, 0, 3, 3], [0, 2, 0, 3], [2, 2, 4, 0]]


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (23, 31)])
@pytest.mark.parametrize("labels", [1, 2, 4])
def test_connected_parts_are_those_of_scipy(size, labels):
    given = torch.randint(0, labels + 1, size, generator=torch.Generator().manual_seed(labels)) * 7
    expected, owners = np.zeros(size, np.int64), []
    for label in range(7, 7 * labels + 1, 7):
        found, count = ndimage.label(given.numpy() == label)
        expected += np.where(found, found + len(owners), 0)
        owners += [label] * count
    parts, found_owners = connected_parts(given.T.contiguous().T)
    assert found_owners.tolist() == owners
    np.testing.assert_array_equal(parts, expected)


def test_parts_that_meet_late_are_one():
    """Row by row, a spiral and a comb look like many parts until the last row."""
    comb = torch.zeros(9, 21, dtype=torch.int64)
    comb[:, ::2] = 3
    comb[-1] = 3
    spiral = torch.tensor([[3, 3, 3, 3, 3], [0, 0, 0, 0, 3], [3, 3, 3, 0, 3], [3, 0, 0, 0, 3], [3, 3, 3, 3, 3]])
    for labels in (comb, spiral, comb.flip(0), spiral.flip(1)):
        parts, owners = connected_parts(labels)
        assert owners.tolist() == [3]
        assert torch.equal(parts, (labels == 3).long())


def test_no_label_has_no_part():
    parts, owners = connected_parts(torch.zeros(3, 4, dtype=torch.int64))
    assert not parts.any()
    assert owners.tolist() == []
