"""Results as they stand in metrics.json."""

import json

import pytest
import torch

from weakseg.errors import UserError
from weakseg.metrics import (
    BoundaryRule,
    ConfusionMatrix,
    Flags,
    ProtocolResult,
    protocol_line,
    protocol_name,
    supervision_name,
)

NAMES = ("background", "cat", "dog")


def result(**changes):
    facts = {
        "flags": Flags(gt_tags=True, multi_scale=True, threshold_swept=0.45),
        "supervision": "tags",
        "images": 219,
        "backbone": "mobilenetv2_100",
        "weights": "imagenet",
    }
    confusion = ConfusionMatrix(3, counts=torch.tensor([[3, 1, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0]]))
    return ProtocolResult.from_confusion(confusion, NAMES, **(facts | changes))


def test_json_is_that_of_the_design():
    assert result(others={"contour_f": 0.5}).to_json() == {
        "miou": pytest.approx((3 / 4 + 4 / 5) / 2),
        "contour_f": 0.5,
        "per_class": {"background": 0.75, "cat": 0.8, "dog": None},
        "flags": {"gt_tags": True, "crf": False, "multi_scale": True, "threshold_swept": 0.45},
        "supervision": "tags",
        "images": 219,
        "backbone": "mobilenetv2_100",
        "weights": "imagenet",
        "absent": ["dog"],
        "saliency": None,
        "boundary": None,
    }


def test_json_comes_back():
    before = result(others={"contour_f": 0.5, "boundary_f1": float("nan")})
    after = ProtocolResult.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert after == before
    assert after.others["boundary_f1"] is None


def test_saliency_is_told_with_its_source():
    with_maps = result(supervision="tags+saliency", saliency="folder:SaliencyMaps")
    assert ProtocolResult.from_json(with_maps.to_json()) == with_maps
    assert "(tags+saliency, saliency from folder:SaliencyMaps, 219 images" in protocol_line("seed@train", with_maps)
    older = {name: value for name, value in result().to_json().items() if name != "saliency"}
    assert ProtocolResult.from_json(older).saliency is None
    assert "saliency" not in protocol_line("seed@train", result())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (BoundaryRule(), "boundaries at 0.02 of the diagonal, thinned"),
        (BoundaryRule(3, thin=False), "boundaries at 3 pixels, not thinned"),
    ],
)
def test_boundaries_are_told_with_their_rule(rule, words):
    measured = result(others={"boundary_f1": 0.25}, boundary=rule)
    stored = json.loads(json.dumps(measured.to_json()))
    assert stored["boundary"] == {"tolerance": rule.tolerance, "thin": rule.thin}
    assert ProtocolResult.from_json(stored) == measured
    assert f"% boundary_f1 (tags, 219 images, gt tags, multi-scale, threshold swept 0.45, {words}, absent" in (
        protocol_line("seed@train", measured)
    )
    older = {name: value for name, value in result().to_json().items() if name != "boundary"}
    assert ProtocolResult.from_json(older).boundary is None
    assert "boundaries" not in protocol_line("seed@train", result())


def test_nothing_measured_is_null_not_nan():
    nothing = ProtocolResult.from_confusion(
        ConfusionMatrix(3), NAMES, flags=Flags(), supervision="boxes", images=0, backbone="vgg16", weights="none"
    )
    assert nothing.to_json()["miou"] is None
    assert nothing.absent == NAMES
    assert "undefined mIoU" in protocol_line("seg@val", nothing)


def test_line_names_everything_needed_to_compare():
    assert protocol_line("seed@train", result()) == (
        "seed@train 77.5 % mIoU (tags, 219 images, gt tags, multi-scale, threshold swept 0.45, "
        "absent classes left out: 1; mobilenetv2_100, weights imagenet)"
    )
    plain = protocol_line(
        "seg@val", result(flags=Flags(crf=True), supervision="boxes+masks", others={"contour_f": 0.4})
    )
    assert plain.startswith("seg@val 77.5 % mIoU, 40.0 % contour_f (boxes+masks, 219 images, crf, ")
    assert "no flags" in protocol_line("seg@val", result(flags=Flags()))


def test_protocol_names():
    assert [protocol_name(*pair) for pair in (("seed", "train"), ("mask", "train_aug"), ("seg", "val-2"))] == [
        "seed@train",
        "mask@train_aug",
        "seg@val-2",
    ]
    with pytest.raises(UserError, match=r"unknown stage 'seeds'. Did you mean 'seed'"):
        protocol_name("seeds", "train")
    for split in ("", "Train", "a/b", "train@val", "-x"):
        with pytest.raises(UserError, match="cannot name a split"):
            protocol_name("seed", split)


def test_supervision_has_one_spelling():
    assert supervision_name({"saliency", "tags"}) == "tags+saliency"
    assert supervision_name(["masks", "boxes"]) == "boxes+masks"
    with pytest.raises(UserError, match=r"unknown supervision 'box'. Did you mean 'boxes'"):
        supervision_name(["box"])
    with pytest.raises(UserError, match="without supervision"):
        supervision_name([])
    with pytest.raises(UserError, match=r"Write it as 'tags\+saliency'"):
        result(supervision="saliency+tags")


def test_other_metrics_cannot_take_a_reserved_name():
    with pytest.raises(ValueError, match="cannot be called 'flags'"):
        result(others={"flags": 1.0})


def test_names_have_to_fit_the_matrix():
    with pytest.raises(ValueError, match="zip"):
        ProtocolResult.from_confusion(
            ConfusionMatrix(2), NAMES, flags=Flags(), supervision="tags", images=0, backbone="vgg16", weights="none"
        )


def test_a_ratio_is_no_share():
    line = protocol_line("seed@train", result(others={"confusion_boat_water": 1.134, "boundary_f1": 0.25}))
    assert "% mIoU, 1.13 confusion_boat_water, 25.0 % boundary_f1 (" in line
    infinite = result(others={"confusion_boat_water": float("inf")})
    assert infinite.to_json()["confusion_boat_water"] is None
    assert "undefined confusion_boat_water" in protocol_line("seed@train", infinite)
