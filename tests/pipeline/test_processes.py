"""Work in several processes: results, errors and deaths."""

import os

import pytest
import torch

from tests.data.trees import refusal
from weakseg.errors import UserError
from weakseg.pipeline.processes import in_processes, one_thread

_summand = 0


def start(summand):
    global _summand
    _summand = summand


def added(number):
    if number == 13:
        raise UserError("an unlucky number", where="13", remedy="Take another")
    if number == 99:
        os._exit(9)
    return number + _summand


def shared_out(numbers):
    texts = {"what": "an adding process", "remedy": "Run again"}
    return in_processes(added, numbers, processes=2, start=start, given=(100,), **texts)


@pytest.mark.slow
def test_results_come_from_processes_that_were_started():
    assert sorted(shared_out(range(5))) == [100, 101, 102, 103, 104]


@pytest.mark.slow
def test_what_is_raised_there_is_raised_here():
    refusal(lambda: list(shared_out([1, 13])), "13: an unlucky number", "Take another")


@pytest.mark.slow
def test_a_death_is_told_with_what_was_to_be_done():
    words = ("an adding process died; what was finished is kept", "Run again (in a script")
    refusal(lambda: list(shared_out([99])), *words)


def test_threads_are_one_for_a_while():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
