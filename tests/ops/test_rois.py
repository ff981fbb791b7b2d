"""Maps read in boxes and pooled over them, against PyTorch's ``grid_sample`` and loops over boxes."""

import math

import pytest
import torch
from torch.nn.functional import grid_sample, interpolate
from torchvision.ops import roi_align

from weakseg.ops.box_masks import box_pixels
from weakseg.ops.rois import (
    Rois,
    bin_members,
    box_rois,
    pool_rois,
    sample_rois,
    sample_squares,
    whole_rois,
)

IMAGE, GRID = (40, 61), (6, 9)
BOXES = (
    torch.tensor([[3.0, 5.0, 30.0, 21.0], [0.0, 0.0, 61.0, 40.0], [60.0, 39.0, 61.0, 40.0]]),
    torch.zeros(0, 4),
    torch.tensor([[10.2, 3.4, 10.7, 3.9], [31.0, 2.0, 33.0, 38.5]]),
)


def maps_of(channels=4, batch=3, grid=GRID, dtype=torch.float64, seed=0):
    return torch.randn(batch, channels, *grid, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slow_roi(features, box, image_size, align_corners):
    """(D, h, w) features and a box to (D, H, W): the box in [-1, 1], points from edge to edge, ``grid_sample``."""
    (height, width), (h, w) = image_size, features.shape[-2:]
    x1, y1, x2, y2 = box.double().tolist()
    edges_x = [x / ((width - 1) / 2) - 1 for x in (x1, x2)]
    edges_y = [y / ((height - 1) / 2) - 1 for y in (y1, y2)]

    def count(edges, cells):
        low, high = (round((edge + 1) / 2 * (cells - 1), 9) for edge in edges)
        return max(1, math.ceil(high) - math.floor(low))

    columns = torch.linspace(*edges_x, count(edges_x, w), dtype=torch.float64)
    rows = torch.linspace(*edges_y, count(edges_y, h), dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    return grid_sample(features[None], grid[None], padding_mode="zeros", align_corners=align_corners)[0]


def slow_bins(roi, weight, bins):
    """(D, H, W) and (H, W) to (bins * bins, D); sides shorter than ``bins`` are repeated first."""
    repeat = [max(1, bins // side) if side < bins else 1 for side in roi.shape[-2:]]
    roi = roi.repeat_interleave(repeat[0], -2).repeat_interleave(repeat[1], -1)
    weight = weight.repeat_interleave(repeat[0], -2).repeat_interleave(repeat[1], -1)
    strides = [side // bins for side in roi.shape[-2:]]
    sizes = [side - (bins - 1) * stride for side, stride in zip(roi.shape[-2:], strides, strict=True)]
    found = []
    for i in range(bins):
        for j in range(bins):
            here = (
                slice(i * strides[0], i * strides[0] + sizes[0]),
                slice(j * strides[1], j * strides[1] + sizes[1]),
            )
            found.append((roi[:, *here] * weight[here]).sum((1, 2)) / (weight[here].sum() + 1e-12))
    return torch.stack(found)


def regions(maps, align_corners):
    for features, boxes in zip(maps, BOXES, strict=True):
        for box in boxes:
            yield slow_roi(features, box, IMAGE, align_corners)


@pytest.mark.parametrize("stride", [1, 4])
def test_points_may_be_those_of_roi_align(stride):
    image = (6 * stride, 9 * stride)
    maps = maps_of()
    boxes = [torch.tensor([[1.0, 0.5, 7.2, 5.9], [0.0, 0.0, 9.0, 6.0], [8.5, 5.0, 9.0, 5.2]]).double() * stride]
    rois = box_rois(boxes, image, GRID, reading="align")
    found = sample_rois(maps, rois)
    for number, box in enumerate(boxes[0]):
        size = int(rois.heights[number]), int(rois.widths[number])
        expected = roi_align(maps[:1], [box[None]], size, 1 / stride, sampling_ratio=1, aligned=True)[0]
        torch.testing.assert_close(found[number][:, : size[0], : size[1]], expected)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("grid", [GRID, (1, 9), (6, 1), (1, 1)])
def test_points_are_those_of_grid_sample(align_corners, grid):
    maps = maps_of(grid=grid)
    rois = box_rois([boxes.double() for boxes in BOXES], IMAGE, grid, align_corners=align_corners)
    found, squares = sample_rois(maps, rois), sample_squares(maps, rois)
    assert rois.image.tolist() == [0, 0, 0, 2, 2]
    for number, expected in enumerate(regions(maps, align_corners)):
        height, width = expected.shape[-2:]
        assert (rois.heights[number].item(), rois.widths[number].item()) == (height, width)
        torch.testing.assert_close(found[number, :, :height, :width], expected)
        torch.testing.assert_close(squares[number, :height, :width], expected.square().sum(0))
        assert not found[number, :, height:].any()
        assert not found[number, :, :, width:].any()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("bins", [1, 2, 3])
def test_pooling_is_the_weighted_mean_of_each_bin(align_corners, bins):
    maps = maps_of()
    boxes = [one[(one[:, 2:] - one[:, :2]).amin(1) > 15].double() if bins == 3 else one.double() for one in BOXES]
    rois = box_rois(boxes, IMAGE, GRID, align_corners=align_corners)
    weights = torch.rand(len(rois), rois.rows.shape[1], rois.columns.shape[1], dtype=torch.float64)
    pooled = pool_rois(maps, rois, weights, bins)
    assert pooled.shape == (len(rois), bins * bins, maps.shape[1])
    number = 0
    for features, own in zip(maps, boxes, strict=True):
        for box in own:
            roi = slow_roi(features, box, IMAGE, align_corners)
            weight = weights[number, : roi.shape[-2], : roi.shape[-1]]
            torch.testing.assert_close(pooled[number], slow_bins(roi, weight, bins))
            number += 1
    assert number == len(rois)


@pytest.mark.parametrize("cells", [41, 42, 47, 50, 63])
def test_float32_points_on_whole_cells_are_not_one_too_many(cells):
    pixels = 8 * (cells - 1) + 1
    starts = torch.arange(0.0, pixels - 1, 8).repeat(4, 1).T  # from one cell of the map to the next
    rois = box_rois([starts + torch.tensor([0.0, 0, 8, 8])], (pixels, pixels), (cells, cells))
    assert rois.heights.eq(1).all()
    assert rois.widths.eq(1).all()


@pytest.mark.parametrize("length", range(1, 12))
def test_two_bins_cover_every_row(length):
    members = bin_members(torch.tensor([length]), 2, 13)[0]
    assert members.any(0).tolist() == [True] * length + [False] * (13 - length)
    assert members.sum(1).unique().numel() == 1  # equally large


def test_bins_of_an_odd_length_share_a_row():
    assert bin_members(torch.tensor([3]), 2, 3)[0].int().tolist() == [[1, 1, 0], [0, 1, 1]]


def test_a_pooled_vector_is_a_convex_combination():
    maps, ones = maps_of(2), torch.ones(5, 6, 9, dtype=torch.float64)
    maps[:, 0] = 1  # what comes of it is the sum of weights of cells
    rois = box_rois([boxes.double().clamp(max=38) for boxes in BOXES], IMAGE, GRID)
    weights = torch.rand_like(ones)[:, : rois.rows.shape[1], : rois.columns.shape[1]]
    pooled = pool_rois(maps, rois, weights, 2)
    torch.testing.assert_close(pooled[..., 0], torch.ones(5, 4, dtype=torch.float64))
    assert (pooled[..., 1] <= maps[:, 1].amax() + 1e-9).all()
    assert (pooled[..., 1] >= maps[:, 1].amin() - 1e-9).all()


def test_a_factor_on_all_weights_changes_nothing():
    maps = maps_of()
    rois = box_rois([boxes.double() for boxes in BOXES], IMAGE, GRID)
    weights = torch.rand(len(rois), rois.rows.shape[1], rois.columns.shape[1], dtype=torch.float64)
    torch.testing.assert_close(pool_rois(maps, rois, weights, 2), pool_rois(maps, rois, 0.01 * weights, 2))


def test_without_weight_the_mean_is_zero_and_has_no_gradient():
    maps = maps_of(dtype=torch.float32).requires_grad_()
    rois = box_rois(BOXES, IMAGE, GRID)
    weights = torch.zeros(len(rois), rois.rows.shape[1], rois.columns.shape[1], requires_grad=True)
    pooled = pool_rois(maps, rois, weights, 2)
    pooled.sum().backward()
    assert not pooled.any()
    assert not maps.grad.any()
    assert not weights.grad.any()


def test_gradients_are_those_of_finite_differences():
    rois = box_rois([boxes.double() for boxes in BOXES], IMAGE, (3, 4))
    maps = maps_of(2, grid=(3, 4)).requires_grad_()
    weights = torch.rand(len(rois), rois.rows.shape[1], rois.columns.shape[1], dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(lambda m, w: pool_rois(m, rois, w, 2), (maps, weights.requires_grad_()))
    assert torch.autograd.gradcheck(lambda m: sample_squares(m, rois), maps)
    assert torch.autograd.gradcheck(lambda m: sample_rois(m, rois), maps)


def test_no_boxes_at_all():
    maps, nothing = maps_of(dtype=torch.float32), [torch.zeros(0, 4)] * 3
    rois = box_rois(nothing, IMAGE, GRID)
    assert len(rois) == 0
    assert sample_rois(maps, rois).shape[:2] == (0, 4)
    assert sample_squares(maps, rois).shape[0] == 0
    assert pool_rois(maps, rois, torch.zeros(0, 0, 0), 2).shape == (0, 4, 4)


def test_the_order_of_images_does_not_matter():
    maps, ones = maps_of(), torch.ones(5, 6, 9, dtype=torch.float64)
    rois = box_rois([boxes.double() for boxes in BOXES], IMAGE, GRID)
    turned = torch.tensor([4, 1, 3, 0, 2])
    shuffled = Rois(*(value[turned] for value in vars(rois).values()))
    weights = ones[:, : rois.rows.shape[1], : rois.columns.shape[1]]
    torch.testing.assert_close(pool_rois(maps, shuffled, weights, 2), pool_rois(maps, rois, weights, 2)[turned])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept(dtype):
    maps = maps_of(dtype=dtype)
    rois = box_rois(BOXES, IMAGE, GRID)
    weights = torch.ones(len(rois), rois.rows.shape[1], rois.columns.shape[1], dtype=dtype)
    for found in (sample_rois(maps, rois), sample_squares(maps, rois), pool_rois(maps, rois, weights, 2)):
        assert found.dtype == dtype
        assert found.isfinite().all()


@pytest.mark.parametrize("size", [(23, 50), (6, 9), (1, 1), (3, 4)])
def test_the_whole_map_is_enlarged_with_its_corners_in_place(size):
    maps = maps_of()
    expected = interpolate(maps, size=size, mode="bilinear", align_corners=True)
    rois = whole_rois(size, maps)
    torch.testing.assert_close(sample_rois(maps, rois), expected)
    torch.testing.assert_close(sample_squares(maps, rois), expected.square().sum(1))


def test_pixels_of_boxes():
    boxes = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.4, 1.6, 1.4, 2.4], [2.0, 1.0, 9.0, 9.0], [0.6, 0.6, 0.9, 0.9]])
    found = box_pixels(boxes, (3, 4)).int()
    assert found[0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert found[1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]  # no centre of a row lies in it
    assert found[2].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert not found[3].any()
    assert box_pixels(torch.zeros(0, 4), (3, 4)).shape == (0, 3, 4)


def test_a_corner_just_below_a_whole_number_is_that_number():
    exact = torch.tensor([[3.0, 2.0, 7.0, 5.0]])
    assert torch.equal(box_pixels(exact - 1e-5, (8, 9)), box_pixels(exact, (8, 9)))
