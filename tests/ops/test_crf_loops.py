"""The compiled loops one by one: vectors, hash tables, chains."""

import numpy as np
import pytest
from numba import njit

from weakseg.ops.crf import cpu, kernels
from weakseg.ops.crf.corners import walk
from weakseg.ops.crf.vectors import add_weighted, load, store, transpose, zeros


@njit
def transposed(source, target, lanes):
    transpose(source, 1, 20, target, 2, 10, lanes)


@njit
def weighted_sum(values, weight, result, lanes):
    total = zeros(lanes)
    for start in range(0, len(values), len(lanes)):
        total = add_weighted(total, weight, load(values, start, lanes))
    store(total, result, 1)


@pytest.mark.parametrize("lanes", [4, 8])
class TestVectors:
    def test_transpose(self, lanes):
        source, target = np.arange(160, dtype=np.float32), np.zeros(82, np.float32)
        transposed(source, target, (0,) * lanes)
        block = source.reshape(8, 20)[:lanes, 1 : lanes + 1]
        np.testing.assert_array_equal(target[2:].reshape(8, 10)[:lanes, :lanes], block.T)
        assert (target != 0).sum() == lanes**2

    def test_sum(self, lanes):
        values, result = np.arange(lanes * 3, dtype=np.float32), np.zeros(lanes + 2, np.float32)
        weighted_sum(values, np.float32(0.5), result, (0,) * lanes)
        np.testing.assert_array_equal(result[1:-1], 0.5 * values.reshape(3, lanes).sum(0))
        assert result[0] == result[-1] == 0


def test_corners_are_numbered_in_the_order_in_which_they_are_met():
    keys = np.random.default_rng(0).integers(0, 2**62, 5000)[np.random.default_rng(1).integers(0, 5000, 20000)]
    first = np.sort(np.unique(keys, return_index=True)[1])
    numbers = keys.copy()
    table = cpu.Table.of(numbers)
    assert table.count == len(first) > 2**11  # more than the first table had room for
    np.testing.assert_array_equal(keys[first][numbers], keys)
    kept, its_numbers = table.corners()
    np.testing.assert_array_equal(keys[first][its_numbers], kept)


def test_chains_go_from_their_heads_to_their_ends():
    ahead = np.array([3, -1, 0, -1, 6, 1, 5, -1], np.int32)  # 2 0 3, 4 6 5 1, and 7 alone
    assert walk(ahead).tolist() == [2, 0, ~3, 4, 6, 5, ~1]
    assert walk(np.array([-1, -1], np.int32)).tolist() == []


@pytest.mark.parametrize("parts", [1, 2, 5, 20])
def test_blur_of_parts_is_that_of_the_whole(parts):
    chains = np.array([2, 0, ~3, 4, ~6, 7, 5, 8, ~1], np.int32)
    values = np.random.default_rng(0).random((9, 4), dtype=np.float32)
    expected = values.copy()
    for chain in ([2, 0, 3], [4, 6], [7, 5, 8, 1]):
        rows = np.pad(values[chain], ((1, 1), (0, 0)))
        expected[chain] = rows[1:-1] + (rows[:-2] + rows[2:]) / 2
    for part in range(parts):
        kernels.blur(values.reshape(-1), chains, part, parts, (0,) * 4)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_exponentials_are_as_exact_as_float32():
    values = -np.linspace(0, 49, 256, dtype=np.float32)
    found, powers = values.copy(), np.empty(256, np.int32)
    kernels._exponentials(found, np.zeros(256, np.float32), powers)
    np.testing.assert_allclose(found * powers.view(np.float32), np.exp(values.astype(np.float64)), rtol=2e-7)


def test_tables_start_with_cache_lines():
    for size in (8, 56, 800):
        table = cpu.aligned(size)
        assert table.shape == (size,)
        assert table.ctypes.data % 64 == 0


def test_spans_cut_at_units_and_cover_all():
    with cpu.Threads(3) as threads:
        assert threads.spans(10, 4) == [(0, 4), (4, 8), (8, 10)]
        assert threads.spans(2) == [(0, 1), (1, 2)]
        assert threads.each(lambda first, last: last - first, threads.spans(7)) == [2, 2, 3]
