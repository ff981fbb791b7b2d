"""metrics.json: region and contour accuracy; boundaries, confusion and soft scores of eps.json and split_merge.json."""

import re

import numpy as np

from tests.vectors.adapters.convert import first, floats, ints


def mean_iou(inputs, parameters):
    from weakseg.metrics import ConfusionMatrix, class_counts

    matrix = ConfusionMatrix(parameters["num_classes"], parameters.get("ignore", 255))
    truths, predictions = first(inputs, "gt", "truth"), first(inputs, "pred", "prediction")
    for prediction, truth in zip(_images(predictions), _images(truths), strict=True):
        matrix.update(ints(prediction), ints(truth))
    hits, in_truth, predicted = class_counts(matrix.counts)
    square = matrix.counts[:, :-1]
    return {
        "confusion_gt_rows": square,
        "confusion": square,
        "tp": hits,
        "gt_count": in_truth,
        "pred_count": predicted,
        "iou": matrix.iou(),
        "miou": matrix.miou(),
        "iou_eps": matrix.iou("eps"),
        "miou_eps_all_classes": matrix.miou("eps"),
        "iou_nanmean": matrix.iou(),
        "miou_nanmean_over_nonempty_union": matrix.miou(),
        "iou_only_classes_in_gt": matrix.iou("gt-only"),
        "miou_only_classes_in_gt": matrix.miou("gt-only"),
    }


def _images(masks):
    """A list of masks, also from a single one; masks may differ in size."""
    single = not isinstance(masks[0], list) or not isinstance(masks[0][0], list)
    return [masks] if single else masks


def boundary_map(inputs, parameters):
    from weakseg.metrics import boundary_map

    return {"boundary": boundary_map(np.array(inputs["mask"])).astype(int)}


def disk(inputs, parameters):
    from weakseg.metrics import disk

    return {"footprint": disk(first({**inputs, **parameters}, "radius"))}


def tolerance_radius(inputs, parameters):
    from weakseg.metrics import tolerance_radius

    return {"radius": [tolerance_radius(*shape, _bound(parameters)) for shape in inputs["shapes"]]}


def _bound(parameters):
    from weakseg.metrics.contour import BOUND

    return parameters.get("bound_th", BOUND)


def contour_f(inputs, parameters):
    from weakseg.metrics import contour_counts, contour_scores, tolerance_radius

    prediction, truth = np.array(first(inputs, "pred", "prediction")), np.array(first(inputs, "gt", "truth"))
    void = np.array(inputs["void"]) if inputs.get("void") is not None else None
    counts = contour_counts(prediction, truth, _bound(parameters), void)
    scores = contour_scores(counts)
    return {
        "radius": tolerance_radius(*truth.shape, _bound(parameters)),
        "pred_matched": counts.prediction_matched,
        "gt_matched": counts.truth_matched,
        "pred_boundary": counts.prediction,
        "gt_boundary": counts.truth,
        "precision": scores.precision,
        "recall": scores.recall,
        "F": scores.f,
    }


def contour_f_empty(inputs, parameters):
    """The size of the masks stands in a note; any object not on the border will do."""
    from weakseg.metrics import contour_f

    size = re.search(r"(\d+)\s*x\s*(\d+)", str(inputs.get("note", "8x10")))
    height, width = (int(number) for number in size.groups()) if size else (8, 10)
    empty = np.zeros((height, width), dtype=int)
    full = empty.copy()
    full[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = 1
    return {
        "pred_empty_gt_not": contour_f(empty, full, _bound(parameters)),
        "gt_empty_pred_not": contour_f(full, empty, _bound(parameters)),
        "both_empty": contour_f(empty, empty, _bound(parameters)),
    }


def contour_f_dataset(inputs, parameters):
    from weakseg.metrics import SetContour

    rule = str(parameters.get("void_rule", "background"))
    metric = SetContour(
        parameters["num_fg_classes"] + 1, _bound(parameters), "background" if "background" in rule else "mask"
    )
    truths, predictions = first(inputs, "gt", "truth"), first(inputs, "pred", "prediction")
    for prediction, truth in zip(_images(predictions), _images(truths), strict=True):
        metric.update(np.array(prediction), np.array(truth))
    return {"sums_pm_gm_np_ng": metric.counts, "F_per_class": metric.f_per_class(), "mean_F": metric.value()}


def j_and_f(inputs, parameters):
    from weakseg.metrics import j_and_f

    return {"JF": j_and_f(inputs["J"], inputs["F"])}


def label_map_edges(inputs, parameters):
    from weakseg.metrics import label_map_edges

    return {"edges": label_map_edges(ints(inputs["labels"])).astype(int)}


def boundary_precision_recall_f1(inputs, parameters):
    from weakseg.metrics import BoundaryCounts, boundary_scores, matched_pairs

    prediction, truth = (np.array(inputs[name], dtype=bool) for name in ("pred_edges", "gt_edges"))
    pairs = matched_pairs(prediction, truth, parameters["max_dist_px"])
    scores = boundary_scores(BoundaryCounts(pairs, int(prediction.sum()), int(truth.sum())))
    return {"precision": scores.precision, "recall": scores.recall, "f1": scores.f}


def confusion_ratio(inputs, parameters):
    """The context labels of the sheet hold the object classes too, so they are the mask as well."""
    from weakseg.metrics import ConfusionRatio

    metric = ConfusionRatio([(parameters["target_class"], parameters["coincident_class"])])
    contexts, predictions = first(inputs, "context_gt", "context"), first(inputs, "prediction", "pred")
    for prediction, context in zip(_images(predictions), _images(contexts), strict=True):
        metric.update(ints(prediction), ints(context), ints(context))
    (confused, hits, *_), (ratio,) = metric.counts[0].tolist(), metric.ratios()
    return {"tp": hits, "fp": confused, "ratio": ratio if hits else None}


def soft_localisation_metrics(inputs, parameters):
    """G has 255 where the truth is unknown."""
    from weakseg.metrics import soft_scores, soft_sums

    maps, truth = _where_known(floats(inputs["M"]), floats(inputs["G"]))
    return soft_scores(soft_sums(maps, truth))._asdict()


def map_similarity(inputs, parameters):
    """Where masks G are given, pixels at which they are 255 are left out."""
    from weakseg.metrics import map_similarity

    one, other = floats(inputs["M_A"]), floats(inputs["M_B"])
    if "G" in inputs:
        truth = floats(inputs["G"])
        one, other = (_where_known(maps, truth)[0] for maps in (one, other))
    return {"per_class": map_similarity(one, other)}


def _where_known(maps, truth):
    """Maps and truth (C, H, W), both 0, so that they add nothing, at the pixels where the truth of a class is 255."""
    unknown = truth == 255
    return maps.masked_fill(unknown, 0), truth.masked_fill(unknown, 0)


TABLE = {
    "boundary_map": boundary_map,
    "boundary_precision_recall_f1": boundary_precision_recall_f1,
    "confusion_ratio": confusion_ratio,
    "contour_f": contour_f,
    "contour_f_dataset": contour_f_dataset,
    "contour_f_empty": contour_f_empty,
    "disk": disk,
    "j_and_f": j_and_f,
    "label_map_edges": label_map_edges,
    "map_similarity": map_similarity,
    "mean_iou": mean_iou,
    "soft_localisation_metrics": soft_localisation_metrics,
    "tolerance_radius": tolerance_radius,
}
