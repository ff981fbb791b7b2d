"""PAMR against loops over pixels."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakseg.ops import diffusion_cpu
from weakseg.ops.diffusion import diffuse
from weakseg.ops.pamr import DILATIONS, local_deviation, neighbour_offsets, pamr, pamr_affinities

ENGINES = ["numba", "torch"]
NORMALIZATIONS = ["code", "paper"]


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def picture(*shape, seed=0):
    """An image of 8 bits with a surface of one colour."""
    image = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255
    image[..., : shape[-2] // 2, : shape[-1] // 2] = 0.4
    return image


def at(plane, y, x):
    """A value, beyond the border the nearest one in the grid."""
    height, width = plane.shape
    return plane[min(max(y, 0), height - 1)][min(max(x, 0), width - 1)].item()


def square(dilation):
    return [(dy * dilation, dx * dilation) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def slow_deviation(plane, y, x, dilations):
    samples = [at(plane, y + dy, x + dx) for dilation in dilations for dy, dx in square(dilation)]
    return statistics.stdev(samples)


def slow_affinities(image, dilations, normalization, scale=0.1, eps=1e-8):
    """(8 n, H, W) of one (K, H, W) image."""
    colours, height, width = image.shape
    neighbours = [offset for dilation in dilations for offset in square(dilation) if offset != (0, 0)]
    out = torch.empty(len(neighbours), height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            kappa = [0.0] * len(neighbours)
            for k in range(colours):
                sigma = slow_deviation(image[k], y, x, dilations)
                spread = eps + (scale * sigma if normalization == "code" else sigma**2)
                for n, (dy, dx) in enumerate(neighbours):
                    kappa[n] -= abs(at(image[k], y + dy, x + dx) - at(image[k], y, x)) / spread / colours
            powers = [math.exp(value - max(kappa)) for value in kappa]
            out[:, y, x] = torch.tensor(powers, dtype=torch.float64) / sum(powers)
    return out


def slow_pamr(image, masks, dilations, iterations, normalization):
    """(K, H, W) masks of one image of their size."""
    affinities, masks = slow_affinities(image, dilations, normalization), masks.double()
    for _ in range(iterations):
        old, masks = masks, torch.zeros_like(masks)
        for c in range(len(old)):
            for y in range(old.shape[1]):
                for x in range(old.shape[2]):
                    for alpha, (dy, dx) in zip(affinities[:, y, x], neighbour_offsets(dilations).tolist(), strict=True):
                        masks[c, y, x] += alpha * at(old[c], y + dy, x + dx)
    return masks


def slow_resize(image, size):
    """Bilinear with the corner pixels in place, in float64."""
    height, width = image.shape[-2:]
    out = torch.empty(len(image), *size, dtype=torch.float64)
    for k, plane in enumerate(image.double()):
        for i in range(size[0]):
            for j in range(size[1]):
                y, x = (
                    index * (old - 1) / max(new - 1, 1)
                    for index, old, new in ((i, height, size[0]), (j, width, size[1]))
                )
                top, left, dy, dx = int(y), int(x), y % 1, x % 1
                upper = (1 - dx) * at(plane, top, left) + dx * at(plane, top, left + 1)
                lower = (1 - dx) * at(plane, top + 1, left) + dx * at(plane, top + 1, left + 1)
                out[k, i, j] = (1 - dy) * upper + dy * lower
    return out


def test_neighbours_are_the_squares_without_their_centre():
    assert neighbour_offsets([2]).tolist() == [[-2, -2], [-2, 0], [-2, 2], [0, -2], [0, 2], [2, -2], [2, 0], [2, 2]]
    assert torch.equal(neighbour_offsets([3, 1]), torch.cat([neighbour_offsets([3]), neighbour_offsets([1])]))
    assert neighbour_offsets().shape == (48, 2)


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 5)])
def test_deviation(dilations):
    images = picture(2, 3, 5, 7)
    found = local_deviation(images, dilations)
    for b in range(2):
        for k in range(3):
            for y in range(5):
                for x in range(7):
                    assert found[b, k, y, x].item() == pytest.approx(
                        slow_deviation(images[b, k], y, x, dilations), abs=1e-6
                    )


def test_deviation_of_one_pixel_that_differs():
    """The case in which sums of squares cancel most: all samples but the centre are equal."""
    image = torch.full((1, 1, 3, 3), 1.0)
    image[0, 0, 1, 1] = 254 / 255
    expected = slow_deviation(image[0, 0], 1, 1, (1, 2, 4))
    assert local_deviation(image, (1, 2, 4))[0, 0, 1, 1].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dilations", [(1,), (2, 1), DILATIONS])
def test_affinities(dilations, normalization):
    images = picture(2, 3, 6, 5)
    found = pamr_affinities(images, dilations=dilations, normalization=normalization)
    for image, affinities in zip(images, found, strict=True):
        slow = slow_affinities(image, dilations, normalization)
        torch.testing.assert_close(affinities.double(), slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("scale", "eps"), [(0.3, 1e-8), (0.1, 0.02), (1.0, 1e-3)])
def test_scale_and_eps(normalization, scale, eps):
    images, masks = picture(1, 3, 6, 5), uniform(1, 2, 6, 5)
    options = {"dilations": (1, 2), "normalization": normalization, "scale": scale, "eps": eps}
    affinities = pamr_affinities(images, **options)
    slow = slow_affinities(images[0], (1, 2), normalization, scale, eps)
    torch.testing.assert_close(affinities[0].double(), slow, rtol=1e-4, atol=1e-6)
    assert (affinities - pamr_affinities(images, dilations=(1, 2), normalization=normalization)).abs().max() > 1e-3 or (
        normalization == "paper" and eps == 1e-8
    )
    once = pamr(images, masks, iterations=1, **options)
    torch.testing.assert_close(once, diffuse(masks, affinities, neighbour_offsets((1, 2)), 1), rtol=0, atol=0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_doubles_stay_doubles(normalization):
    image, masks = picture(3, 5, 7).double(), uniform(2, 5, 7).double()
    found = pamr(image[None], masks[None], dilations=(1, 2), iterations=3, normalization=normalization)[0]
    slow = slow_pamr(image, masks, (1, 2), 3, normalization)
    torch.testing.assert_close(found, slow, rtol=0, atol=1e-9)
    assert pamr_affinities(image[None]).dtype == local_deviation(image[None]).dtype == torch.float64


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("shape", "dilations"), [((5, 7), (1, 2)), ((6, 4), (3,)), ((1, 6), DILATIONS)])
def test_masks(engine, normalization, shape, dilations):
    images, masks = picture(2, 3, *shape), uniform(2, 2, *shape)
    found = pamr(images, masks, dilations=dilations, iterations=3, normalization=normalization, engine=engine)
    for b in range(2):
        slow = slow_pamr(images[b], masks[b], dilations, 3, normalization)
        torch.testing.assert_close(found[b].double(), slow, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(5, 4), (4, 9), (11, 13), (1, 1)])
def test_images_are_resized_to_the_masks(size):
    image, masks = picture(3, 7, 9), uniform(2, *size)
    found = pamr(image[None], masks[None], dilations=(1, 2), iterations=2)[0]
    slow = slow_pamr(slow_resize(image, size), masks, (1, 2), 2, "code")
    torch.testing.assert_close(found.double(), slow, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 9), (5, 7), (20, 31)])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_flat_image_averages_neighbours(size, normalization):
    """Also after resizing, where rounding must not look like texture."""
    image = torch.tensor([0.3, 0.71, 0.11]).view(1, 3, 1, 1).expand(1, 3, 8, 9)
    masks = uniform(1, 1, *size)
    found = pamr(image, masks, dilations=(1, 2), iterations=1, normalization=normalization)
    offsets = neighbour_offsets((1, 2)).tolist()
    for y in range(size[0]):
        for x in range(size[1]):
            mean = sum(at(masks[0, 0], y + dy, x + dx) for dy, dx in offsets) / 16
            assert found[0, 0, y, x].item() == pytest.approx(mean, abs=1e-6)


def test_masks_stop_at_an_edge():
    image = torch.zeros(1, 3, 20, 20)
    image[..., 10:] = 0.8
    masks = torch.zeros(1, 2, 20, 20)
    masks[:, 0], masks[:, 1, :, 8:] = 1, 1
    masks[:, 0, :, 8:] = 0
    refined = pamr(image, masks)
    assert (refined[0, 0, :, :10] > refined[0, 1, :, :10]).all()
    assert (refined[0, 1, :, 10:] > 0.99).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_precisions(engine, dtype):
    images, masks = picture(1, 3, 6, 5).to(dtype), uniform(1, 2, 6, 5).to(dtype)
    found = pamr(images, masks, dilations=(1, 2), engine=engine)
    assert found.dtype == dtype
    single = pamr(images.float(), masks.float(), dilations=(1, 2), engine=engine)
    assert torch.equal(found, single.to(dtype)) == (dtype != torch.float64)


def test_masks_of_one_hot_labels():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.uint8)
    masks[:, 0, :4], masks[:, 1, 4:] = 1, 1
    images = uniform(1, 3, 8, 8)
    found = pamr(images, masks)
    assert found.dtype == torch.float32
    assert torch.equal(found, pamr(images, masks.float()))
    torch.testing.assert_close(found.sum(1), torch.ones(1, 8, 8), rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", [(0, 2, 5, 6), (2, 0, 5, 6)])
def test_without_masks(shape):
    assert pamr(picture(shape[0], 3, 9, 9), torch.zeros(shape)).shape == shape


def test_nothing_has_a_gradient_and_inputs_are_left_alone():
    images, masks = picture(1, 3, 6, 5), uniform(1, 2, 6, 5)
    before = images.clone(), masks.clone()
    assert not pamr(images.requires_grad_(), masks.requires_grad_()).requires_grad
    assert not pamr_affinities(images).requires_grad
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


def test_every_image_on_its_own():
    images, masks = picture(3, 3, 6, 5), uniform(3, 2, 6, 5)
    together = pamr(images, masks, dilations=(1, 2))
    for b in range(3):
        assert torch.equal(pamr(images[b : b + 1], masks[b : b + 1], dilations=(1, 2))[0], together[b])


CASES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from(NORMALIZATIONS), st.integers(0, 10**6))


@settings(max_examples=30, deadline=None)
@given(CASES)
def test_range_sum_and_constants_are_kept(case):
    height, width, normalization, seed = case
    images, masks = picture(1, 3, height, width, seed=seed), uniform(1, 4, height, width, seed=seed).softmax(1)
    refined = pamr(images, masks, normalization=normalization)
    torch.testing.assert_close(refined.sum(1), torch.ones(1, height, width), rtol=0, atol=3e-6)
    assert (refined.amin((2, 3)) >= masks.amin((2, 3))).all()
    assert (refined.amax((2, 3)) <= masks.amax((2, 3))).all()
    constant = masks[:, :, :1, :1].expand_as(masks)
    assert torch.equal(pamr(images, constant, normalization=normalization), constant)
    affinities = pamr_affinities(images, normalization=normalization)
    torch.testing.assert_close(affinities.sum(1), torch.ones(1, height, width), rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(CASES)
def test_a_mirrored_picture_gives_mirrored_masks(case):
    height, width, normalization, seed = case
    images, masks = picture(1, 3, height, width, seed=seed), uniform(1, 2, height, width, seed=seed)
    refined = pamr(images, masks, normalization=normalization)
    for axes in [(-1,), (-2,)]:
        flipped = pamr(images.flip(axes), masks.flip(axes), normalization=normalization)
        torch.testing.assert_close(flipped, refined.flip(axes), rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(CASES)
def test_order_of_masks_and_colours_does_not_matter(case):
    height, width, normalization, seed = case
    images, masks = picture(1, 3, height, width, seed=seed), uniform(1, 3, height, width, seed=seed)
    refined = pamr(images, masks, normalization=normalization)
    assert torch.equal(pamr(images, masks[:, [2, 0, 1]], normalization=normalization), refined[:, [2, 0, 1]])
    torch.testing.assert_close(
        pamr(images[:, [1, 2, 0]], masks, normalization=normalization), refined, rtol=0, atol=1e-5
    )


def test_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(diffusion_cpu, "SHARE", 1)
    images, masks = picture(2, 3, 97, 111), uniform(2, 5, 89, 101)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            found.append(pamr(images, masks, iterations=3))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dilations": ()}, r"dilations must be 1 or more, and at least one of them, not \[\]"),
        ({"dilations": (1, 0)}, r"dilations must be 1 or more, and at least one of them, not \[1, 0\]"),
        ({"iterations": -1}, "iterations must be 0 or more, not -1"),
        ({"scale": 0}, "scale must be positive and finite, not 0"),
        ({"eps": math.nan}, "eps must be positive and finite, not nan"),
        ({"images": torch.zeros(1, 3, 4, 4).byte()}, r"images must be floating point in \[0, 1\], not uint8"),
        ({"images": torch.zeros(1, 3, 9, 9).byte()}, r"images must be floating point in \[0, 1\], not uint8"),
        ({"images": torch.zeros(2, 3, 4, 4)}, r"images \(2, 3, 4, 4\) and masks \(1, 1, 4, 4\) must be"),
        ({"images": torch.zeros(3, 4, 4)}, r"images \(3, 4, 4\) and masks \(1, 1, 4, 4\) must be"),
        ({"engine": "fast"}, "unknown engine 'fast'"),
    ],
)
def test_arguments_that_make_no_sense(wrong, message):
    given = {"images": picture(1, 3, 4, 4), "masks": uniform(1, 1, 4, 4)} | wrong
    with pytest.raises(ValueError, match=message):
        pamr(**given)


def test_compiled_loops_are_for_cpus():
    with pytest.raises(ValueError, match="engine 'numba' works on the CPU"):
        pamr(picture(1, 3, 4, 4).to("meta"), uniform(1, 1, 4, 4).to("meta"), engine="numba")


def test_an_unknown_normalization():
    with pytest.raises(ValueError, match="unknown normalization 'variance', known: code, paper"):
        pamr(picture(1, 3, 4, 4), uniform(1, 1, 4, 4), normalization="variance")
