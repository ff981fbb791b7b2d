"""The harness of the benchmarks."""

import pytest
import torch

from benchmarks import bana, eps, refiners, split_merge
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


def eps_rows(miou, confusion):
    order = ("cam", "eps, foreground", "eps, naive", "eps, adaptive", "eps, built-in saliency")
    return [
        {
            "way": way,
            "protocol": "seed@train",
            "miou": value,
            "boundary_f1": value,
            "confusion_boat_water": ratio,
        }
        for way, value, ratio in zip(order, miou, confusion, strict=True)
    ]


def test_the_order_of_the_tables_of_eps_is_judged():
    held = eps.trends(eps_rows([0.4, 0.5, 0.6, 0.7, 0.5], [1.2, 0.4, 0.3, 0.1, 0.5]), ["boat:water"])
    assert all(held.values())
    assert len(held) == 5
    broken = eps.trends(eps_rows([0.4, 0.5, 0.6, 0.55, 0.3], [1.2, 0.4, 0.3, None, 0.5]), ["boat:water"])
    assert [sentence for sentence, holds in broken.items() if not holds] == [
        "Table 3: eps, adaptive above eps, naive",
        "EPS with built-in saliency above CAM",
        "Table 2: boat:water confused less by EPS",
    ]


def test_segmenters_are_judged_where_there_are_any():
    rows = eps_rows([0.4, 0.5, 0.6, 0.7, 0.5], [1.2, 0.4, 0.3, 0.1, 0.5])
    rows += [
        {"way": "cam", "protocol": "seg@val", "miou": 0.40},
        {"way": "eps, adaptive", "protocol": "seg@val", "miou": 0.49},
    ]
    assert all(eps.trends(rows, ["boat:water"]).values())
    rows[-1]["miou"] = 0.47
    assert not all(eps.trends(rows, ["boat:water"]).values())


def split_merge_means(alike, overlap):
    measured = {("a and b", "similarity"): alike}
    for number, name in enumerate(("a", "b", "c", "ab", "abc")):
        measured[name, "soft_overlap"] = [value + number / 100 for value in overlap]
        measured[name, "soft_recall"] = overlap
    measured["abc", "mask_miou"] = [0.5, 0.6, 0.4]
    return {
        (intersection, beta, *key): value - (0 if intersection else 0.01)
        for intersection in (True, False)
        for key, values in measured.items()
        for beta, value in zip((0.0, 20.0, 50.0), values, strict=True)
    }


def test_the_trends_of_splitting_and_merging_are_judged():
    assert all(split_merge.trends(split_merge_means([0.9, 0.8, 0.6], [0.2, 0.3, 0.4]), (0.0, 20.0, 50.0)).values())
    broken = split_merge.trends(split_merge_means([0.9, 0.95, 0.6], [0.2, 0.3, 0.25]), (0.0, 20.0, 50.0))
    assert [sentence for sentence, holds in broken.items() if not holds] == [
        "Table 1: A and B are less alike with every larger beta",
        "Table 2: soft recall of A and B together rises with beta",
    ]


def bana_rows(**changes):
    labels = {"boxes + CRF": 0.68, "gap": 0.72, "bap without u_0": 0.73, "bap": 0.75, "bap, Y_ret": 0.70}
    labels |= {"bap, Y_crf & Y_ret": 0.8, "Y_crf": 0.60, "Y_ret": 0.58, "agreement": 0.59, "noise-aware": 0.61}
    segmenters = ("Y_crf", "Y_ret", "agreement", "noise-aware")
    return [
        {"way": way, "protocol": "seg@val" if way in segmenters else "mask@train", "miou": value}
        for way, value in {**labels, **changes}.items()
    ]


def test_the_order_of_the_tables_of_bana_is_judged():
    assert all(bana.trends(bana_rows()).values())
    without = [row for row in bana_rows() if row["protocol"] != "seg@val"]
    assert len(bana.trends(without)) == len(bana.trends(bana_rows())) - 1
    broken = bana.trends(bana_rows(bap=0.725, agreement=0.62))
    assert [sentence for sentence, holds in broken.items() if not holds] == [
        "Y_crf at least 5 points above boxes + CRF",
        "Table 1: Y_crf above background maps instead of u_0",
        "Table 4: the noise-aware loss above cross-entropy on any label map",
    ]


def test_wide_tables_are_shown_in_pieces_that_say_what_they_are_about():
    rows = [{"operation": "walk", "height": 4, "width": 5, **{f"number{i}": i or None for i in range(8)}}]
    pieces = refiners.shown(rows, "diffusion")
    headers = [[str(column.header) for column in piece.columns] for piece in pieces]
    assert [header[:3] for header in headers] == [["operation", "height", "width"]] * 2
    assert [name for header in headers for name in header[3:]] == [f"number{i}" for i in range(8)]
    assert [list(piece.columns[3].cells) for piece in pieces] == [[""], ["6"]]
