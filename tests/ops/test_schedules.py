"""Learning rates by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakseg.ops.schedules import epochs_for_iterations, poly_lr


def test_poly_starts_at_the_base_and_ends_at_zero():
    assert poly_lr(0.1, 0, 100) == 0.1
    assert poly_lr(0.1, 100, 100) == poly_lr(0.1, 150, 100) == 0
    assert poly_lr(0.1, 50, 100, power=2.0) == pytest.approx(0.025)


def test_one_more_step_in_the_denominator_never_reaches_zero():
    assert poly_lr(0.001, 20_000, 20_001) > 0


@given(step=st.integers(0, 999), power=st.floats(0.1, 3))
def test_poly_never_rises(step, power):
    assert poly_lr(1.0, step + 1, 1000, power) <= poly_lr(1.0, step, 1000, power)


def test_rate_is_held_for_step_size_steps():
    rates = [poly_lr(1.0, step, 40, step_size=10) for step in range(40)]
    assert [rates.index(rate) for rate in sorted(set(rates), reverse=True)] == [0, 10, 20, 30]


def test_epochs_hold_the_iterations():
    assert epochs_for_iterations(10_582, 10, 20_000) == 19
    assert epochs_for_iterations(100, 10, 20) == 2
    assert epochs_for_iterations(109, 10, 21) == 3  # ten steps an epoch, nine samples dropped
    with pytest.raises(ValueError, match="3 samples do not fill one batch of 4"):
        epochs_for_iterations(3, 4, 10)
