"""The harness of the benchmarks."""

import csv
import io
import json

import pytest
import torch

from benchmarks import bana, collect, depthwise, eps, fold, refiners, single_stage, single_stage_speed, split_merge
from benchmarks.timing import compare, write_table
from weakseg.pipeline.build import method_options
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.shipped import recipe_path


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
    found = {
        "grabcut": 0.65,
        "boxes + CRF": 0.68,
        "gap": 0.72,
        "bap without u_0": 0.73,
        "bap": 0.75,
        "bap, Y_ret": 0.70,
    }
    found |= {"bap, Y_crf & Y_ret": 0.8, "Y_crf": 0.60, "Y_ret": 0.58, "agreement": 0.59, "noise-aware": 0.61}
    return [{"way": way, "miou": value} for way, value in {**found, **changes}.items()]


def differing(judged):
    return [sentence for sentence, holds in judged.items() if not holds]


def test_the_order_of_the_tables_of_bana_is_judged():
    assert all(bana.label_trends(bana_rows()).values())
    assert differing(bana.label_trends(bana_rows(bap=0.725))) == [
        "Y_crf at least 5 points above boxes + CRF",
        "Table 1: Y_crf above background maps instead of u_0",
    ]
    assert differing(bana.label_trends(bana_rows(grabcut=0.69, gap=0.74))) == [
        "Table 1: boxes + CRF above GrabCut",
        "Table 1: BAP above GAP, without u_0, too",
    ]


def test_the_time_of_labelling_is_judged_against_either_crf():
    steps = {"features": 0.02, "features, attention and maps": 0.03, bana.OWN_VIEWS: 0.04}
    steps |= {"CRF": 0.05, "CRF of pydensecrf": 0.13}
    rows = [{"step": step, "seconds": seconds} for step, seconds in steps.items()]
    judged = bana.time_trends(rows)
    own = "maps from the recipe's views take at most 25 % of"
    assert differing(judged) == ["maps take at most 25 % of CRF", f"{own} CRF", f"{own} CRF of pydensecrf"]
    assert len(judged) == 6
    assert len(bana.time_trends(rows[:4])) == 3


def test_segmenters_of_bana_are_judged_by_their_means():
    rows = bana_rows() + bana_rows(agreement=0.62)
    assert all(bana.loss_trends(rows).values())
    assert differing(bana.loss_trends(rows + bana_rows(agreement=0.65))) == [
        "Table 3: the noise-aware loss above cross-entropy on agreed pixels"
    ]
    assert list(bana.spread(rows))[-4:] == [
        "Y_crf: 60.0 +- 0.0", "Y_ret: 58.0 +- 0.0", "agreement: 60.5 +- 2.1", "noise-aware: 61.0 +- 0.0"
    ]  # fmt: skip
    assert next(bana.spread(bana_rows())) == "grabcut: 65.0"


def test_wide_tables_are_shown_in_pieces_that_say_what_they_are_about():
    rows = [{"operation": "walk", "height": 4, "width": 5, **{f"number{i}": i or None for i in range(8)}}]
    pieces = refiners.shown(rows, "diffusion")
    headers = [[str(column.header) for column in piece.columns] for piece in pieces]
    assert [header[:3] for header in headers] == [["operation", "height", "width"]] * 2
    assert [name for header in headers for name in header[3:]] == [f"number{i}" for i in range(8)]
    assert [list(piece.columns[3].cells) for piece in pieces] == [[""], ["6"]]


def single_stage_rows(seed=0, **changes):
    found = {
        "full": 0.5,
        "no-pamr": 0.3,
        "four-dilations": 0.45,
        "six-dilations": 0.48,
        "no-gate": 0.44,
        "deterministic-gate": 0.46,
    }
    found |= {"no-cues": 0.47, "no-penalty": 0.46, "power-0": 0.52, "power-5": 0.53, "cam": 0.4}
    return [
        {"way": way, "seed": seed, "protocol": protocol, "miou": value + more, "seconds_training": 60}
        for way, value in {**found, **changes}.items()
        for protocol, more in (("seg@val", 0.0), ("seed@train", 0.1))
    ]


def test_the_order_of_the_table_of_single_stage_is_judged():
    judged = single_stage.trends(single_stage_rows())
    assert all(judged.values())
    assert len(judged) == len(single_stage.TRENDS) == len(set(judged))
    rows = single_stage_rows() + single_stage_rows(1, full=0.46, **{"no-gate": 0.47, "cam": 0.6})
    assert [sentence for sentence, holds in single_stage.trends(rows).items() if not holds] == [
        "One network without tags above CAM, its refiners and a segmenter"
    ]
    few = [row for row in rows if row["way"] in ("full", "no-gate")]
    assert list(single_stage.trends(few)) == ["Table 1c: stochastic gate above none"]
    assert list(single_stage.told(few)) == [
        "holds    Table 1c: stochastic gate above none (+2.5 points, 1 of 2 seeds; paper +4.1)"
    ]


def test_rows_of_single_stage_stay_until_they_are_measured_again(tmp_path):
    table = tmp_path / "table.csv"
    assert single_stage.earlier(table, set()) == []
    write_table(single_stage_rows() + single_stage_rows(1), table)
    again = {(way.name, 0) for way in single_stage.WAYS}
    kept = single_stage.earlier(table, again)
    assert [(row["way"], row["seed"]) for row in kept[:2]] == [("cam", "0")] * 2
    assert {row["seed"] for row in kept[2:]} == {"1"}
    assert single_stage.trends(kept) == single_stage.trends(single_stage_rows(1))


def test_one_network_is_compared_with_a_pipeline_of_its_time():
    rows = [row for row in single_stage_rows() if row["way"] in ("full", "cam")]
    assert list(single_stage.told(rows))[-1] == "CAM, masks and segmenter took 60 s, one network 1.00 times as long"
    rows = [row | {"seconds_training": 90} if row["way"] == "full" else row for row in rows]
    told = list(single_stage.told(rows))[-1]
    assert told.endswith("one network 1.50 times as long: too long to be compared, see --set-cam")


def test_ways_of_single_stage_are_compared_on_the_seeds_that_both_have_seen():
    rows = single_stage_rows() + [row for row in single_stage_rows(1) if row["way"] == "full"]
    assert single_stage.gains(rows, single_stage.TRENDS[0]) == pytest.approx([20])
    full, *_, cam = single_stage.summary(rows)
    assert (full["seg"], full["seed"], full["mask"]) == ("50.0 +- 0.0", "60.0 +- 0.0", None)
    assert (cam["seg"], cam["seconds"], cam["paper"]) == ("40.0", 60, None)


@pytest.mark.parametrize("way", single_stage.WAYS, ids=lambda way: way.name)
def test_settings_of_the_ways_of_single_stage_are_known(way):
    recipe = load_recipe(recipe_path("mini/single-stage"), way.settings)
    chosen = method_options(recipe.localize.method)
    usual = method_options(load_recipe(recipe_path("mini/single-stage")).localize.method)
    assert (chosen == usual) is (way.name in ("full", "four-dilations"))


def test_steps_of_single_stage_are_compared_round_by_round():
    spent = {"cross-entropy": [1.0, 9.0, 1.0], "without PAMR": [2.0, 18.0, 4.0], "whole": [3.0, 18.0, 5.0]}
    plain, unrefined, whole = single_stage_speed.table(
        spent, {"cross-entropy": 100.0, "without PAMR": 150.0, "whole": None}, {"batch": 8}
    )
    assert (plain["seconds_to_plain"], unrefined["seconds_to_plain"], whole["seconds_to_unrefined"]) == (1, 2, 1.25)
    assert (plain["images_per_second"], unrefined["seconds"]) == (8, 4)
    assert (unrefined["memory_to_plain"], whole["memory_to_plain"]) == (1.5, None)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_steps_with_depthwise_convolutions_in_two_ways_are_compared(precision):
    row = depthwise.measured("mobilenetv3_small_050", 16, precision, side=32, batch=2, count=1)
    assert (row["network"], row["output_stride"], row["precision"]) == ("mobilenetv3_small_050", 16, precision)
    assert row["ratio"] == pytest.approx(row["reference_seconds"] / row["seconds"], rel=0.02)


def test_rows_of_the_other_precision_stay(tmp_path):
    table = tmp_path / "depthwise.csv"
    assert depthwise.earlier(table, "32") == []
    write_table([{"network": "a", "precision": "32"}, {"network": "b", "precision": "bf16"}], table)
    assert depthwise.earlier(table, "32") == [{"network": "b", "precision": "bf16"}]


def test_features_with_and_without_folding_are_compared():
    row = fold.measured("mobilenetv3_small_050", 32, 48, count=1)
    assert (row["network"], row["height"], row["width"]) == ("mobilenetv3_small_050", 32, 48)
    assert row["ratio"] == pytest.approx(row["reference_seconds"] / row["seconds"], rel=0.02)


def test_runs_of_all_kinds_are_collected(tmp_path):
    flags = {"gt_tags": False, "crf": True, "multi_scale": False, "threshold_swept": None}
    about = {"supervision": "boxes", "images": 3, "backbone": "net", "weights": "none", "flags": flags, "absent": []}
    (tmp_path / "recipe.yaml").write_text("name: objects\nseed: 2\n")
    (tmp_path / "timings.json").write_text(json.dumps({"masks": {"seconds": 2.5}, "detector": {"seconds": 4.0}}))
    metrics = {"mask@train": {"miou": 0.5, **about}, "detect@val": {"miou": None, "ap": 0.25, **about}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    table = io.StringIO()
    collect.write(collect.rows(tmp_path), table)
    masks, objects = csv.DictReader(io.StringIO(table.getvalue()))
    assert (masks["miou"], masks["ap"], masks["seconds_localizer"], masks["seconds_run"]) == ("0.5000", "", "", "6.5")
    assert (objects["miou"], objects["ap"], objects["crf"], objects["seed"]) == ("", "0.2500", "True", "2")
