"""Functions that several sheets share."""

from tests.vectors.adapters.convert import each, first, floats


def multilabel_soft_margin(inputs, parameters):
    from torch.nn.functional import multilabel_soft_margin_loss

    scores, labels = floats(first(inputs, "logits", "scores")), floats(inputs["labels"])
    return {"loss": multilabel_soft_margin_loss(scores, labels)}


def poly(inputs, parameters):
    from weakseg.ops.schedules import poly_lr

    last = first(parameters, "max_step", "max_steps", "max_iter")
    power, size = parameters.get("power", 0.9), parameters.get("step_size", 1)
    steps = first(inputs, "step", "steps", "iteration")
    return {"lr": each(lambda step: poly_lr(parameters["base_lr"], step, last, power, size), steps)}


def background_score(inputs, parameters):
    from weakseg.ops.maps import power_background

    strongest = floats(inputs["max_foreground"])
    scores = strongest.reshape(1, 1, -1)

    def background(alpha):
        return power_background(scores, alpha).reshape(strongest.shape).tolist()

    return {"bg": each(background, first(parameters, "alphas", "alpha"))}


def background_crossover(inputs, parameters):
    """Bisection for every alpha that a case may ask for."""
    from weakseg.ops.maps import power_background

    found = {}
    for alpha in range(1, 129):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            above = power_background(floats([[[middle]]]), alpha).item() > middle
            low, high = (middle, high) if above else (low, middle)
        found[f"alpha_{alpha}"] = low
    return found


def cam_to_pseudo_mask(inputs, parameters):
    from weakseg.ops.maps import constant_background, label_map, normalize_max

    labels = floats(inputs["labels"])
    summed = floats(inputs["maps"]).sum(0) * labels[:, None, None]
    normalised = normalize_max(summed, parameters.get("eps", 1e-5))
    present = labels.nonzero()[:, 0]
    scores = normalised[present]
    mask = label_map(scores, constant_background(scores, parameters["threshold"]), present)
    return {"normalised": normalised, "pseudo_mask": mask}


def saliency_downsample_nearest(inputs, parameters):
    from weakseg.ops.maps import resize

    return {"out": resize(floats(inputs["saliency"]), tuple(parameters["size"]), "nearest")}


def minmax(inputs, parameters):
    from weakseg.ops.maps import normalize_minmax

    return {"out": normalize_minmax(floats(inputs["map"]), parameters.get("eps", 1e-8))}


TABLE = {
    "background_crossover": background_crossover,
    "background_score": background_score,
    "cam_to_pseudo_mask": cam_to_pseudo_mask,
    "class_loss": multilabel_soft_margin,
    "lr_deeplab_v2": poly,
    "minmax": minmax,
    "multilabel_soft_margin": multilabel_soft_margin,
    "poly_learning_rate": poly,
    "poly_lr": poly,
    "saliency_downsample_nearest": saliency_downsample_nearest,
}
