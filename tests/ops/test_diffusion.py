"""The weighted sums behind random walk and PAMR, against loops; both engines."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from weakseg.ops import diffusion_cpu
from weakseg.ops.diffusion import diffuse

ENGINES = ["numba", "torch"]
OFFSETS = torch.tensor([[0, 1], [-2, 0], [3, -1], [1, 5]])


def shares(batch, height, width, seed=0):
    """Weights of the neighbours and of the pixel itself, which sum to 1; some are 0."""
    raw = torch.rand(batch, len(OFFSETS) + 1, height, width, generator=torch.Generator().manual_seed(seed))
    raw = raw * (raw > 0.2) + 1e-3
    return (raw / raw.sum(1, keepdim=True))[:, :-1]


def random_maps(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slow(maps, weights, offsets, steps):
    maps, weights = maps.double(), weights.double()
    batch, _, height, width = maps.shape
    for _ in range(steps):
        old, maps = maps, torch.zeros_like(maps)
        for b in range(batch):
            for y in range(height):
                for x in range(width):
                    own = 1 - weights[b, :, y, x].sum()
                    maps[b, :, y, x] = own * old[b, :, y, x]
                    for k, (dy, dx) in enumerate(offsets.tolist()):
                        row, column = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                        maps[b, :, y, x] += weights[b, k, y, x] * old[b, :, row, column]
    return maps


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (2, 3, 6, 4), (1, 2, 1, 9), (1, 2, 8, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_steps_are_weighted_means_of_neighbours(engine, shape, steps):
    maps, weights = random_maps(*shape), shares(shape[0], *shape[2:])
    found = diffuse(maps, weights, OFFSETS, steps, engine=engine)
    torch.testing.assert_close(found.double(), slow(maps, weights, OFFSETS, steps), rtol=0, atol=1e-6)


def test_engines_agree_where_an_image_is_many_chunks():
    maps, weights = random_maps(2, 3, 53, 61), shares(2, 53, 61)
    numba, torch_ = (diffuse(maps, weights, OFFSETS, 7, engine=engine) for engine in ENGINES)
    torch.testing.assert_close(numba, torch_, rtol=0, atol=1e-6)


def test_the_engine_of_a_cpu_is_compiled(monkeypatch):
    monkeypatch.setattr(diffusion_cpu, "repeat_steps", None)
    maps, weights = random_maps(1, 1, 4, 4), shares(1, 4, 4)
    diffuse(maps, weights, OFFSETS, 1, engine="torch")
    with pytest.raises(TypeError):
        diffuse(maps, weights, OFFSETS, 1)


def test_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(diffusion_cpu, "SHARE", 1)
    maps, weights = random_maps(1, 5, 67, 71), shares(1, 67, 71)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(diffuse(maps, weights, OFFSETS, 9))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("count", [1, 2])
def test_the_number_of_threads_of_pytorch_stays_as_it_was(count, monkeypatch):
    monkeypatch.setattr(diffusion_cpu, "SHARE", 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        diffuse(random_maps(1, 2, 40, 40), shares(1, 40, 40), OFFSETS, 1)
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)


def test_two_threads_of_python_may_call():
    maps, weights = random_maps(1, 3, 40, 40), shares(1, 40, 40)
    expected = diffuse(maps, weights, OFFSETS, 5)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(diffuse, maps, weights, OFFSETS, 5) for _ in range(12)]
    assert all(torch.equal(expected, future.result()) for future in found)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5)])
def test_without_maps(engine, shape):
    assert diffuse(torch.zeros(shape), shares(shape[0], 4, 5), OFFSETS, 3, engine=engine).shape == shape


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_precisions(engine, dtype):
    maps, weights = random_maps(1, 2, 5, 6).to(dtype), shares(1, 5, 6)
    found = diffuse(maps, weights, OFFSETS, 3, engine=engine)
    assert found.dtype == dtype
    if dtype == torch.float64:
        torch.testing.assert_close(found, slow(maps, weights, OFFSETS, 3), rtol=0, atol=1e-14)
    else:
        assert torch.equal(found, diffuse(maps.float(), weights, OFFSETS, 3, engine=engine).to(dtype))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_masks_of_integers_are_not_truncated(engine, dtype):
    masks, weights = (random_maps(2, 3, 5, 6) > 0.5).to(dtype), shares(2, 5, 6)
    found = diffuse(masks, weights, OFFSETS, 3, engine=engine)
    assert found.dtype == torch.float32
    assert torch.equal(found, diffuse(masks.float(), weights, OFFSETS, 3, engine=engine))
    assert diffuse(masks[:, :0], weights, OFFSETS, 3, engine=engine).dtype == torch.float32


@pytest.mark.parametrize("engine", ENGINES)
def test_inputs_are_left_alone_and_need_not_be_contiguous(engine):
    maps, weights = random_maps(1, 2, 5, 6), shares(1, 5, 6)
    before = maps.clone(), weights.clone()
    expected = diffuse(maps, weights, OFFSETS, 3, engine=engine)
    assert torch.equal(maps, before[0])
    assert torch.equal(weights, before[1])
    turned = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in (maps, weights)]
    assert torch.equal(diffuse(*turned, OFFSETS, 3, engine=engine), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_many_steps_leave_a_constant_alone_and_every_map_in_its_range(engine):
    maps, weights = random_maps(1, 3, 9, 8), shares(1, 9, 8)
    maps[0, 0] = 0.3
    found = diffuse(maps, weights, OFFSETS, 300, engine=engine)
    assert torch.equal(found[0, 0], maps[0, 0])
    assert (found.amin((2, 3)) >= maps.amin((2, 3))).all()
    assert (found.amax((2, 3)) <= maps.amax((2, 3))).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_values_that_are_not_numbers_are_not_hidden(engine):
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 1, 1] = torch.nan
    assert diffuse(maps, shares(1, 4, 4), OFFSETS, 1, engine=engine).isnan().any()


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-18), (torch.float64, 1e-153)])
def test_negligible_values_vanish(dtype, least):
    """Beyond them, subnormal numbers would make every step many times slower."""
    maps = torch.zeros(1, 1, 1, 400, dtype=dtype)
    maps[..., 0] = 1
    found = diffuse(maps, torch.full((1, 1, 1, 400), 1e-3), torch.tensor([[0, -1]]), 100)
    assert found[0, 0, 0, 1] > 0
    assert least * 0.999 <= found[found > 0].min() <= least * 1e4


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("maps", "weights"),
    [
        ((1, 2, 8, 9), (1, 4, 4, 5)),
        ((1, 2, 4, 5), (1, 4, 5, 4)),
        ((2, 2, 4, 5), (1, 4, 4, 5)),
        ((1, 2, 4, 5), (1, 3, 4, 5)),
        ((2, 4, 5), (4, 4, 5)),
        ((0, 2, 4, 5), (1, 4, 4, 5)),
    ],
)
def test_shapes_that_do_not_fit(engine, maps, weights):
    with pytest.raises(ValueError, match=re.escape(f"maps of {maps} and weights of {weights} do not fit")):
        diffuse(torch.zeros(maps), torch.zeros(weights), OFFSETS, 2, engine=engine)


def test_offsets_of_another_shape():
    with pytest.raises(ValueError, match=r"offsets must be \(K, 2\), not \(8,\)"):
        diffuse(random_maps(1, 1, 4, 4), shares(1, 4, 4), OFFSETS.flatten(), 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_fewer_steps_than_none(engine):
    with pytest.raises(ValueError, match="steps must be 0 or more, not -1"):
        diffuse(random_maps(1, 1, 4, 4), shares(1, 4, 4), OFFSETS, -1, engine=engine)


def test_compiled_loops_are_for_cpus():
    maps, weights = random_maps(1, 1, 4, 4).to("meta"), shares(1, 4, 4).to("meta")
    with pytest.raises(ValueError, match="engine 'numba' works on the CPU, but maps are on 'meta'"):
        diffuse(maps, weights, OFFSETS, 1, engine="numba")
    assert diffuse(maps, weights, OFFSETS, 1).shape == (1, 1, 4, 4)


def test_an_unknown_engine():
    with pytest.raises(ValueError, match="unknown engine 'cuda', known: auto, numba, torch"):
        diffuse(random_maps(1, 1, 4, 4), shares(1, 4, 4), OFFSETS, 1, engine="cuda")
