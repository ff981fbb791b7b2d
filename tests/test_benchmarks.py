"""The harness of the benchmarks."""

import pytest
import torch

from benchmarks.timing import compare


def test_errors_are_those_of_all_inputs():
    inputs = [torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([2.0])]
    exact = 1 / 3

    def ours(given):
        return given * (exact + 0.01)

    def reference(given):
        return given * (exact if given.dtype == torch.float64 else exact - 0.02)

    row = compare(inputs, ours, reference, torch.Tensor.double)
    assert row["max_difference"] == pytest.approx(0.09, rel=1e-2)
    assert row["error"] == pytest.approx(0.03, rel=1e-2)
    assert row["reference_error"] == pytest.approx(0.06, rel=1e-2)


def test_without_a_reference_there_is_nothing_to_differ_from():
    row = compare([torch.ones(2)], torch.sin, None, torch.Tensor.double)
    assert row["seconds"] >= 0
    assert [row[name] for name in ("ratio", "max_difference", "error", "reference_error")] == [None] * 4
