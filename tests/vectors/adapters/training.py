"""segmentation_training.json: schedules and the merging of views."""

from tests.vectors.adapters.convert import each, floats


def lr_seam_codebase(inputs, parameters):
    from torch import nn

    from weakseg.networks.groups import parameter_groups
    from weakseg.ops.schedules import poly_lr

    base, last, power = parameters["base_lr"], parameters["max_iter"] + 1, parameters.get("power", 0.9)
    rates = each(lambda step: poly_lr(base, step, last, power), inputs["iteration"])
    old, new = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    groups = parameter_groups(nn.Sequential(old, new), old, lr=1.0, weight_decay=0.0)
    return {"lr_backbone": rates, "multipliers": [group["lr"] for group in groups]}


def lr_spatial_bce(inputs, parameters):
    from weakseg.ops.schedules import poly_lr

    last = parameters["iterations_per_epoch"] * parameters["epochs"]
    base, power = parameters["base_lr"], parameters.get("power", 0.9)
    return {"lr": each(lambda step: poly_lr(base, step, last, power), inputs["iteration"])}


def msc_max_fusion(inputs, parameters):
    from weakseg.ops.views import max_of_logits

    views = [floats(value) for key, value in inputs.items() if key.startswith("logits")]
    return {"fused": max_of_logits(views, align_corners=parameters.get("align_corners", False))}


def logit_average_then_softmax(inputs, parameters):
    from weakseg.ops.maps import unflip
    from weakseg.ops.views import mean_of_logits

    views = [floats(value) for value in inputs["logits_list"]]
    if parameters.get("flip_second", False):
        views[1::2] = [unflip(view) for view in views[1::2]]
    return {"prob": mean_of_logits(views)}


def prob_max_over_scales(inputs, parameters):
    from weakseg.ops.views import max_of_probabilities

    return {"fused_unnormalised": max_of_probabilities([floats(value) for value in inputs["prob_list"]])}


def epochs_for_iterations(inputs, parameters):
    from weakseg.ops.schedules import epochs_for_iterations

    return {"max_epoch": epochs_for_iterations(inputs["dataset"], inputs["batch"], inputs["iterations"])}


TABLE = {
    "epochs_for_iterations": epochs_for_iterations,
    "logit_average_then_softmax": logit_average_then_softmax,
    "lr_seam_codebase": lr_seam_codebase,
    "lr_spatial_bce": lr_spatial_bce,
    "msc_max_fusion": msc_max_fusion,
    "prob_max_over_scales": prob_max_over_scales,
}
