"""eps.json: overlap, selection, and the loss between estimated and given saliency."""

import torch

from tests.vectors.adapters.convert import floats


def _loss(inputs, parameters, logits):
    from weakseg.methods.eps import (
        estimated_saliency,
        foreground_and_background,
        foreground_classes,
        overlap_ratio,
        saliency_loss,
    )
    from weakseg.ops.maps import resize_like

    maps, tags = logits.softmax(1), torch.tensor(inputs["labels"]).bool()
    saliency = resize_like(floats(inputs["saliency"]), maps, mode="nearest")
    eps = parameters.get("eps_per_pixel", 1e-4)
    chosen = foreground_classes(
        maps[:, :-1],
        tags,
        saliency,
        min_overlap=parameters.get("tau", 0.4),
        overlap_eps=eps,
        **_selection(parameters),
    )
    foreground, background = foreground_and_background(maps, tags, chosen)
    estimate = estimated_saliency(foreground, background, parameters.get("lam", 0.5))
    return {
        "overlap": overlap_ratio(maps[:, :-1], saliency, eps),
        "selected_foreground": chosen.int(),
        "fg_map": foreground[:, 0],
        "one_minus_bg_map": 1 - background[:, 0],
        "estimated_saliency": estimate[:, 0],
        "loss": saliency_loss(estimate, saliency, torch.ones(len(maps), dtype=torch.bool)),
    }


def _selection(parameters):
    if "selection" not in parameters:
        return {}
    return {
        "selection": parameters["selection"],
        "background_classes": tuple(parameters.get("predefined") or ()),
    }


def eps_saliency_loss(inputs, parameters):
    return _loss(inputs, parameters, floats(inputs["cam_logits"]))


def eps_saliency_loss_grad(inputs, parameters):
    logits = floats(inputs["cam_logits"]).requires_grad_()
    found = _loss(inputs, parameters, logits)
    found["loss"].backward()
    return {**found, "dloss_dcam": logits.grad}


def overlap_ratio(inputs, parameters):
    from weakseg.methods.eps import overlap_ratio

    maps, saliency = floats(inputs["prob"]), floats(inputs["saliency"])
    return {"ratio": overlap_ratio(maps[None], saliency[None, None], parameters["eps_per_pixel"])[0]}


def overlap_ratio_sparse(inputs, parameters):
    size = inputs["h"], inputs["w"]
    dense = {name: _dense(inputs[f"{name}_hot"], size) for name in ("prob", "saliency")}
    return overlap_ratio({"prob": [dense["prob"]], "saliency": dense["saliency"]}, parameters)


def _dense(hot, size):
    rows = [[0.0] * size[1] for _ in range(size[0])]
    for row, column, value in hot:
        rows[row][column] = value
    return rows


def eps_class_scores(inputs, parameters):
    from weakseg.methods.eps import class_scores

    return {"scores": class_scores(floats(inputs["cam_logits"]))}


TABLE = {
    "eps_class_scores": eps_class_scores,
    "eps_saliency_loss": eps_saliency_loss,
    "eps_saliency_loss_grad": eps_saliency_loss_grad,
    "overlap_ratio": overlap_ratio,
    "overlap_ratio_sparse": overlap_ratio_sparse,
}
