"""single_stage.json: class scores, refinement of masks, their labels and loss, the gate, global cues, merging."""

import torch

from tests.vectors.adapters.convert import first, floats


def pamr(inputs, parameters):
    from weakseg.ops.pamr import local_deviation, pamr, pamr_affinities

    image, masks = floats(first(inputs, "image", "images")), floats(first(inputs, "mask", "masks"))
    images, batch = image.view(-1, *image.shape[-3:]), masks.view(-1, *masks.shape[-3:])
    dilations = parameters["dilations"]
    options = {name: parameters[name] for name in ("normalization", "scale", "eps") if name in parameters}
    options["dilations"] = dilations
    found = {
        "affinity": pamr_affinities(images, **options),
        "std": local_deviation(images, dilations),
        "out": pamr(images, batch, iterations=parameters["iterations"], **options),
    }
    return {name: value.view(*masks.shape[:-3], *value.shape[1:]) for name, value in found.items()}


def class_scores(inputs, parameters):
    return _class_scores(floats(inputs["fg_logits"]), parameters)


def _class_scores(logits, parameters):
    from weakseg.methods.single_stage import class_scores, focal_mask_penalty, soft_masks
    from weakseg.ops.pooling import gap, ngwp

    eps, power, floor = (parameters[name] for name in ("eps", "focal_p", "focal_lambda"))
    masks = soft_masks(logits)
    return {
        "masks": masks,
        "ngwp": ngwp(logits, masks[:, 1:], eps),
        "size_focal": focal_mask_penalty(gap(masks[:, 1:]), power, floor),
        "scores": class_scores(logits, eps=eps, power=power, floor=floor),
    }


def class_loss(inputs, parameters):
    from weakseg.methods.single_stage import class_loss

    return {"loss": class_loss(floats(inputs["scores"]), floats(inputs["labels"]))}


def class_loss_grad(inputs, parameters):
    from weakseg.methods.single_stage import class_loss

    logits = floats(inputs["fg_logits"]).requires_grad_()
    loss = class_loss(_class_scores(logits, parameters)["scores"], floats(inputs["labels"]))
    loss.backward()
    return {"loss": loss, "dloss_dlogits": logits.grad}


def ngwp(inputs, parameters):
    from weakseg.ops.pooling import ngwp

    return {"out": ngwp(floats(first(inputs, "scores_map", "scores")), floats(inputs["masks"]), parameters["eps"])}


def focal_mask_penalty(inputs, parameters):
    from weakseg.methods.single_stage import focal_mask_penalty

    return {"out": focal_mask_penalty(floats(inputs["mean_mask"]), parameters["p"], parameters["lam"])}


def pseudo_ground_truth(inputs, parameters):
    from weakseg.ops.self_labels import of_present_classes, pseudo_ground_truth, sure_scores

    masks = floats(inputs["masks"])
    if "labels" in inputs:
        masks = of_present_classes(masks, torch.tensor(inputs["labels"]).bool())
    thresholds = sure_scores(masks, *(parameters[name] for name in ("fg_cut", "bg_cut", "low")))
    return {"thresholds": thresholds, "pseudo": pseudo_ground_truth(masks, thresholds).int()}


def balanced_mask_loss(inputs, parameters):
    from weakseg.ops.self_labels import balanced_mask_loss, label_weights

    pseudo, tags = torch.tensor(inputs["pseudo"]).bool(), torch.tensor(inputs["labels"]).bool()
    weights = label_weights(pseudo)
    return {
        "per_image_loss": balanced_mask_loss(floats(inputs["logits"]), pseudo, tags),
        **{f"class_weight_image{number}": row for number, row in enumerate(weights)},
    }


def stochastic_gate(inputs, parameters):
    from weakseg.networks.gated import stochastic_gate

    deep, shallow, rate = floats(inputs["deep"]), floats(inputs["shallow"]), parameters["psi"]
    variant = "code" if parameters["variant"] == "both" else parameters["variant"]

    def gated(chosen):
        return stochastic_gate(deep, shallow, rate=rate, variant=variant, take_shallow=chosen)

    if parameters["mode"] == "eval":
        return {"out": stochastic_gate(deep, shallow, rate=rate, training=False, variant=variant)}
    taken = (
        floats(inputs["take_shallow"]) if "take_shallow" in inputs else 1 - floats(first(inputs, "take_deep", "keep"))
    )
    mean = (1 - rate) * gated(torch.zeros_like(deep)) + rate * gated(torch.ones_like(deep))
    return {"out": gated(taken), "expected_mean": mean}


def gci_modulation(inputs, parameters):
    from weakseg.networks.gated import cue_normalisation, gci_modulation

    variant = parameters["variant"].partition("_")[0]
    features, scale, shift = (floats(inputs[name]) for name in ("x", "scale", "shift"))
    norm = cue_normalisation(features.shape[1], variant, parameters["eps"]).double().train()
    return {"out": gci_modulation(norm(features), scale, shift, variant=variant)}


def merge_masks(inputs, parameters):
    from weakseg.methods.single_stage import merge_masks
    from weakseg.ops.views import mean_of_probabilities

    views, keep = floats(inputs["masks"]).unbind(), torch.tensor(inputs["keep"]).bool()
    merged = merge_masks(mean_of_probabilities(views), keep, parameters["bg_power"])
    return {"merged": merged, "prediction": merged.argmax(0)}


def keep_classes_from_scores(inputs, parameters):
    from weakseg.methods.single_stage import keep_classes_from_scores

    return {"keep": keep_classes_from_scores(floats(inputs["scores"]), parameters["threshold"]).int()}


def cam_mask(inputs, parameters):
    from weakseg.ops.maps import constant_background, normalize_max

    maps = normalize_max(floats(inputs["logits"]), parameters["eps"])
    return {"out": torch.cat([constant_background(maps, parameters["bg_score"])[None], maps])}


TABLE = {
    "balanced_mask_loss": balanced_mask_loss,
    "cam_mask": cam_mask,
    "single_stage:class_loss": class_loss,
    "class_loss_grad": class_loss_grad,
    "class_scores": class_scores,
    "focal_mask_penalty": focal_mask_penalty,
    "gci_modulation": gci_modulation,
    "keep_classes_from_scores": keep_classes_from_scores,
    "merge_masks": merge_masks,
    "ngwp": ngwp,
    "pamr": pamr,
    "pseudo_ground_truth": pseudo_ground_truth,
    "stochastic_gate": stochastic_gate,
}
