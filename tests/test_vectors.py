"""Every case of the vector files beside this one, and the runner itself."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.vectors import adapters
from tests.vectors.__main__ import main
from tests.vectors.runner import compare, read_cases, run_case

FOLDER = Path(__file__).parent / "vectors"
CASES = [case for path in sorted(FOLDER.glob("*.json")) for case in read_cases(path)]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.stem} {case.name}" for case in CASES])
def test_case(case):
    outcome = run_case(case)
    assert outcome.status == "passed", "\n".join(outcome.details)


def write(folder, *cases):
    path = folder / "hidden.json"
    path.write_text(json.dumps({"schema": "wsss-vectors/1", "cases": cases}))
    return str(path)


def j_case(expected, **more):
    return {"function": "j_and_f", "inputs": {"J": 0.2, "F": 0.6}, "parameters": {}, "expected": expected, **more}


def test_a_file_that_passes(tmp_path, capsys):
    path = write(tmp_path, j_case({"JF": 0.4}, tolerance=1e-9), j_case(0.4, tolerance=1e-9))
    assert main([path]) == 0
    assert capsys.readouterr().out == f"{path}: 2 passed, 0 failed, 0 without adapter\n"


def test_a_failing_case_is_named_with_its_deviation(tmp_path, capsys):
    assert main([write(tmp_path, j_case({"JF": 0.5}, tolerance=1e-9, id="wrong"))]) == 1
    out = capsys.readouterr().out
    assert "0 passed, 1 failed, 0 without adapter" in out
    assert "FAILED 0 j_and_f wrong: max deviation 0.1" in out
    assert "JF: off by 0.1: 0.4, expected 0.5" in out


def test_an_adapter_that_raises_is_a_failure(tmp_path, capsys):
    assert main([write(tmp_path, {"function": "j_and_f", "inputs": {}, "expected": {"JF": 1}})]) == 1
    assert "KeyError: 'J'" in capsys.readouterr().out


def test_a_case_without_adapter_fails_unless_allowed(tmp_path, capsys):
    path = write(tmp_path, {"function": "unheard_of", "inputs": {}, "expected": 1})
    assert main([path]) == 1
    assert main([path, "--allow-missing"]) == 0
    assert "NO ADAPTER 0 unheard_of" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "", "{", '{"cases": 3}', '{"cases": [{}]}', "[1]"])
def test_an_unreadable_file_is_status_two_and_the_others_still_run(content, tmp_path, capsys):
    broken = tmp_path / "broken.json"
    if content is not None:
        broken.write_text(content)
    assert main([str(broken), write(tmp_path, j_case(0.4, tolerance=1e-9))]) == 2
    out, err = capsys.readouterr()
    assert "1 passed" in out
    assert "broken.json: not a file of test cases" in err


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (1.0, 1),
        (torch.tensor([1.0, 2.0]), [1, 2]),
        ({"a": torch.tensor(3), "more": 0}, {"a": 3}),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}),
        (torch.tensor([True, False]), [1, 0]),
        (torch.tensor(True), True),
        (["network", "threshold"], ["network", "threshold"]),
        ([math.nan, 1.0], [None, 1.0]),
        (math.nan, math.nan),
        (math.inf, math.inf),
        ([], []),
        (torch.zeros(2, 0), [[], []]),
        (None, None),
        (1.1, {"only": 1.1}),
        ([1.0 + 1e-4], [1.0]),
    ],
)
def test_equal(found, expected):
    assert compare(found, expected, tolerance=0, rtol=1e-3)[1] == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (1.0, 2),
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, 1.0),
        (1.0, math.inf),
        (torch.ones(2), [1.0]),
        (torch.ones(1, 2), [1.0, 1.0]),
        (1.0, [1.0]),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": {"b": 1}}),
        (False, True),
        ("paper", "code"),
        (["a"], ["a", "b"]),
        ("text", 1.0),
        (1.0, "text"),
        ({"a": 1, "b": 2}, 1),
        (0.0, 0.1),
        ([[1.0], [2.0]], [[1.0], [2.1]]),
    ],
)
def test_different(found, expected):
    deviation, details = compare(found, expected, tolerance=1e-3)
    assert details
    assert deviation > 0


def test_the_more_specific_adapter_wins(monkeypatch):
    monkeypatch.setitem(adapters.ADAPTERS, "cam:poly_lr", "special")
    assert adapters.find_adapter("cam", "poly_lr") == "special"
    assert adapters.find_adapter("eps", "poly_lr") is adapters.ADAPTERS["poly_lr"]
    assert adapters.find_adapter("eps", "unheard_of") is None


def case_of(stem, function, inputs, parameters=None):
    return adapters.find_adapter(stem, function)(inputs, parameters or {})


def test_confusion_ratios_are_of_sums_over_images_of_any_size():
    pair = {"target_class": 1, "coincident_class": 2}
    predictions, contexts = [[[1, 1, 1]], [[1, 0], [1, 1]]], [[[1, 2, 3]], [[2, 2], [1, 1]]]
    found = case_of("eps", "confusion_ratio", {"prediction": predictions, "context_gt": contexts}, pair)
    assert found == {"tp": 3, "fp": 2, "ratio": pytest.approx(2 / 3)}
    nothing = case_of("eps", "confusion_ratio", {"prediction": [[1]], "context_gt": [[2]]}, pair)
    assert nothing == {"tp": 0, "fp": 1, "ratio": None}


def test_soft_scores_leave_out_what_is_unknown():
    inputs = {"M": [[[1.0, 0.5, 0.9]], [[0.25, 0.0, 0.3]]], "G": [[[1, 0, 255]], [[0, 1, 255]]]}
    found = case_of("split_merge", "soft_localisation_metrics", inputs)
    short = {name: [[row[:2] for row in rows] for rows in value] for name, value in inputs.items()}
    expected = case_of("split_merge", "soft_localisation_metrics", short)
    assert compare(found, {name: value.tolist() for name, value in expected.items()}, 1e-9) == (0, [])


def test_similar_maps_are_compared_where_the_truth_is_known():
    inputs = {"M_A": [[[1.0, 0.5, 0.9]]], "M_B": [[[0.5, 0.5, 0.0]]]}
    assert compare(case_of("split_merge", "map_similarity", inputs), {"per_class": [1 / 2.4]}, 1e-9)[1] == []
    masked = inputs | {"G": [[1, 0, 255]]}
    assert compare(case_of("split_merge", "map_similarity", masked), {"per_class": [1 / 1.5]}, 1e-9)[1] == []
