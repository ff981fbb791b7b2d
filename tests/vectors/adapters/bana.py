"""bana.json: background queries, attention, pooling, unaries; labels by retrieval; the noise-aware loss."""

import torch

from tests.vectors.adapters.convert import floats, ints


def grid_padding(inputs, parameters):
    from weakseg.ops.cells import grid_padding

    sides, cells = (inputs["h"], inputs["w"]), parameters["grid"]
    (top, bottom), (left, right) = (grid_padding(side, cells) for side in sides)
    cell = [(inputs["h"] + top + bottom) // cells, (inputs["w"] + left + right) // cells]
    return {"top": top, "bottom": bottom, "left": left, "right": right, "cell": cell}


def background_queries(inputs, parameters):
    from weakseg.methods.bana import background_queries

    queries, valid = background_queries(floats(inputs["f"])[None], floats(inputs["M"])[None, None], parameters["grid"])
    return {"valid_cells": valid[0].nonzero().flatten(), "q": queries[0, valid[0]]}


def background_attention(inputs, parameters):
    from weakseg.methods.bana import background_attention
    from weakseg.ops.rois import whole_rois

    features, queries = floats(inputs["f"])[None], floats(inputs["q"])[None]
    valid = torch.ones(queries.shape[:2], dtype=torch.bool)
    attention = background_attention(features, queries, valid, whole_rois(features.shape[-2:], features))[0]
    return {"A": torch.where(floats(inputs["M"]) > 0, 1.0, attention)}


def bap(inputs, parameters):
    left, top, right, bottom = parameters["box_xyxy_exclusive"]
    features, attention = floats(inputs["f"])[None], floats(inputs["A"])[None, top:bottom, left:right]
    pooled = _pooled(features, range(top, bottom), range(left, right), 1 - attention, 1)
    return {"r": pooled[0, 0]}


def weighted_bin_pool(inputs, parameters):
    features, weight = floats(inputs["roi"])[None], floats(inputs["weight"])[None]
    bins = parameters["out"][0]
    assert parameters["out"] == [bins, bins]
    pooled = _pooled(features, range(features.shape[-2]), range(features.shape[-1]), weight, bins)
    return {"r": pooled[0].T.reshape(-1, bins, bins)}


def _pooled(features, rows, columns, weights, bins):
    from weakseg.ops.rois import Rois, pool_rois

    rois = Rois(
        image=torch.zeros(1, dtype=torch.int64),
        rows=floats([list(rows)]),
        columns=floats([list(columns)]),
        heights=torch.tensor([len(rows)]),
        widths=torch.tensor([len(columns)]),
    )
    return pool_rois(features, rois, weights, bins)


def foreground_unary(inputs, parameters):
    from weakseg.methods.bana import foreground_unary
    from weakseg.ops.box_masks import pixel_regions

    maps = floats(inputs["cam"])[None].relu()
    boxes = [(region, 0) for region in pixel_regions(floats(inputs["boxes_xyxy_exclusive"]), maps.shape[-2:])]
    normalization = "class" if parameters["variant"] in ("class_max", "paper") else "box"
    return {"u": foreground_unary(maps, boxes, normalization)[0]}


def background_unary(inputs, parameters):
    from weakseg.methods.bana import background_unary

    outside = floats(inputs["M"]) > 0
    relative = parameters["relative_to_max"]
    return {"u0": background_unary(floats(inputs["A"]), outside, parameters["threshold"], relative=relative)}


def roi_sample(inputs, parameters):
    from weakseg.ops.rois import box_rois, sample_rois

    features = floats(inputs["f"])[None]
    size = features.shape[-2:]
    spans = floats([size[1] - 1, size[0] - 1] * 2)
    boxes = (floats(inputs["box_normalised_xyxy"]) + 1) / 2 * spans
    rois = box_rois([boxes[None]], size, size, align_corners=parameters["align_corners"])
    corners = box_rois([boxes[None]], size, size, align_corners=True)
    return {
        "width": rois.widths[0],
        "height": rois.heights[0],
        "grid_x": 2 * corners.columns[0] / spans[0] - 1,
        "grid_y": 2 * corners.rows[0] / spans[1] - 1,
        "roi": sample_rois(features, rois)[0],
    }


def crf_probabilities(inputs, parameters):
    from weakseg.refine.box_crf import box_probabilities

    unary = {"code": "softmax", "paper": "plain"}[parameters["variant"]]
    return {"prob": box_probabilities(floats(inputs["u0"]), floats(inputs["u_fg"]), floats(inputs["M"]) == 0, unary)}


def retrieval_labels(inputs, parameters):
    from weakseg.ops.enlarged import masked_means
    from weakseg.refine.retrieval import correlation

    features, labels, values = floats(inputs["f"]), ints(inputs["Y_crf"]), ints(inputs["classes"])
    prototypes = masked_means(features, labels == values[:, None, None])
    scores = correlation(features, prototypes, tuple(labels.shape))
    return {"prototypes": prototypes, "corr": scores, "Y_ret": values[scores.argmax(0)]}


def filling_rate(inputs, parameters):
    from weakseg.metrics.boxes import filling_rates

    boxes, classes = floats([inputs["box_xyxy_exclusive"]]), ints([parameters["cls"] - 1])
    return {"rate": filling_rates(ints(inputs["labels"]), boxes, classes)[0]}


def cam_precision(inputs, parameters):
    from weakseg.metrics.boxes import cam_precision

    return {"precision": cam_precision(floats(inputs["u"])[None], floats(inputs["gt"])[None])[0]}


def cosine_classifier(inputs, parameters):
    logits = _logits(floats(inputs["phi"]), floats(inputs["W"]), parameters["tau"])
    return {"cosine": logits / parameters["tau"], "prob": logits.softmax(1)}


def cosine_classifier_bounds(inputs, parameters):
    """A feature that points as its own class does and against all others, or the other way round."""
    from torch.nn.functional import cross_entropy

    best = -torch.ones(inputs["num_classes"], 1, dtype=torch.float64)
    best[0] = 1
    logits = torch.cat([_logits(floats([[sign]]), best, parameters["tau"]) for sign in (1.0, -1.0)])
    surprise = cross_entropy(logits, torch.zeros(2, dtype=torch.int64), reduction="none")
    probabilities = logits.softmax(1)[:, 0]
    return {
        "max_prob": probabilities[0],
        "min_prob": probabilities[1],
        "min_cross_entropy": surprise[0],
        "max_cross_entropy": surprise[1],
    }


def _logits(features, weight, scale):
    """(P, D) and (K, D) to (P, K)."""
    from weakseg.networks.classifier import CosineClassifier

    layer = CosineClassifier(weight.shape[1], len(weight), scale).double()
    layer.weight.data.copy_(weight[:, :, None, None])
    return layer(features.T[None, :, None])[0, :, 0].T.detach()


def noise_aware_loss(inputs, parameters):
    from weakseg.segment.losses import confidence, noise_aware

    cosines, (first, second) = _pixels(inputs["cosine"]), _label_maps(inputs)
    scale, gamma = parameters["tau"], parameters["gamma"]

    def loss(weight):
        return noise_aware(scale * cosines, first, second, scale, weight=weight, gamma=gamma)

    return {
        "sigma": confidence(cosines, first, gamma)[0, 0],
        "loss_ce": loss(0.0),
        "loss_wce": loss(1.0) - loss(0.0),
        "loss": loss(parameters["lam"]),
    }


def noise_aware_loss_grad(inputs, parameters):
    from weakseg.segment.losses import noise_aware

    cosines, (first, second) = _pixels(inputs["cosine"]).requires_grad_(), _label_maps(inputs)
    scale, options = parameters["tau"], {"weight": parameters["lam"], "gamma": parameters["gamma"]}
    loss = noise_aware(
        scale * cosines, first, second, scale, **options, detach_sigma=parameters.get("detach_sigma", False)
    )
    loss.backward()
    found = noise_aware_loss(inputs, parameters)
    return {"loss": loss.detach(), "sigma": found["sigma"], "dloss_dcosine": cosines.grad[0, :, 0].T}


def confidence(inputs, parameters):
    """A class with D = 1, and the label's beside it with D = ratio."""
    from weakseg.segment.losses import confidence

    ratio = floats(inputs["ratio"])
    cosines = torch.stack([ratio - 1, torch.zeros_like(ratio)], 1)
    labels = torch.zeros(1, 1, len(ratio), dtype=torch.int64)
    return {"sigma": confidence(cosines.T[None, :, None], labels, parameters["gamma"])[0, 0]}


def entropy_regularisation(inputs, parameters):
    from weakseg.segment.losses import entropy

    logits = _pixels(inputs["prob"]).log()
    labels = torch.zeros(logits[:, 0].shape, dtype=torch.int64)
    return {"loss": entropy(logits, labels, labels + 1, weight=1.0)}


def bootstrapping_loss(inputs, parameters):
    """Label maps that differ everywhere, and the moment when beta has the value that is asked for."""
    from weakseg.segment.losses import bootstrapping

    logits, labels = _pixels(inputs["prob"]).log(), ints(inputs["labels"])[None, None]
    progress = 1 - parameters["beta"]
    return {"loss": bootstrapping(logits, labels, labels + 1, progress, weight=1.0, power=1.0)}


def _pixels(values):
    """Pixels and classes (P, K) to (1, K, 1, P)."""
    return floats(values).T[None, :, None]


def _label_maps(inputs):
    return ints(inputs["Y_crf"])[None, None], ints(inputs["Y_ret"])[None, None]


TABLE = {
    "bootstrapping_loss": bootstrapping_loss,
    "confidence": confidence,
    "cosine_classifier": cosine_classifier,
    "cosine_classifier_bounds": cosine_classifier_bounds,
    "entropy_regularisation": entropy_regularisation,
    "noise_aware_loss": noise_aware_loss,
    "noise_aware_loss_grad": noise_aware_loss_grad,
    "background_attention": background_attention,
    "background_queries": background_queries,
    "background_unary": background_unary,
    "bap": bap,
    "cam_precision": cam_precision,
    "crf_probabilities": crf_probabilities,
    "filling_rate": filling_rate,
    "foreground_unary": foreground_unary,
    "grid_padding": grid_padding,
    "retrieval_labels": retrieval_labels,
    "roi_sample": roi_sample,
    "weighted_bin_pool": weighted_bin_pool,
}
