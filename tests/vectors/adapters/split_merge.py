"""split_merge.json: discrepancy, intersection, union, background with saliency."""

from tests.vectors.adapters.convert import floats


def spatial_softmax(inputs, parameters):
    from weakseg.methods.split_merge import spatial_softmax

    return {"out": spatial_softmax(floats(inputs["S"]))}


def discrepancy_loss(inputs, parameters):
    from weakseg.methods.split_merge import discrepancy_loss

    return {"loss": discrepancy_loss(floats(inputs["S_A"]), floats(inputs["S_B"]))}


def discrepancy_loss_grad(inputs, parameters):
    from weakseg.methods.split_merge import discrepancy_loss

    a, b = floats(inputs["S_A"]).requires_grad_(), floats(inputs["S_B"]).requires_grad_()
    discrepancy_loss(a, b).backward()
    return {"dloss_dS_A": a.grad, "dloss_dS_B": b.grad}


def intersection_scores(inputs, parameters):
    from weakseg.methods.split_merge import intersection
    from weakseg.ops.pooling import gap

    smaller = intersection(floats(inputs["S_A"]), floats(inputs["S_B"]))
    return {"map": smaller, "scores": gap(smaller)}


def split_merge_loss(inputs, parameters):
    from weakseg.methods.split_merge import classification_loss, discrepancy_loss, intersection

    a, b, c = (floats(inputs[f"S_{name}"]) for name in "ABC")
    tags = floats(inputs["labels"])
    judged = {"A": a, "B": b, "C": c, "inter": intersection(a, b)}
    losses = {f"cls_{name}": classification_loss(scores, tags) for name, scores in judged.items()}
    apart = discrepancy_loss(a, b)
    return {**losses, "disc": apart, "total": sum(losses.values()) + parameters.get("beta", 20.0) * apart}


def relu_minmax(inputs, parameters):
    from weakseg.methods.split_merge import normalised_maps

    return {"M": normalised_maps(floats(inputs["S"]))}


def union_maps(inputs, parameters):
    from weakseg.methods.split_merge import union

    return {"U": union([floats(maps) for maps in inputs["M"]])}


def background_probability(inputs, parameters):
    import torch

    from weakseg.refine.saliency import saliency_background

    maps, saliency = floats(inputs["M"]), floats(inputs["saliency"])
    background = saliency_background(maps, saliency, parameters["alpha"])
    foreground = 1 - saliency_background(maps, saliency, 1)
    return {"M_fore": foreground, "M_bg": background, "unary": torch.cat([background[None], maps])}


TABLE = {
    "background_probability": background_probability,
    "discrepancy_loss": discrepancy_loss,
    "discrepancy_loss_grad": discrepancy_loss_grad,
    "intersection_scores": intersection_scores,
    "relu_minmax": relu_minmax,
    "spatial_softmax": spatial_softmax,
    "split_merge_loss": split_merge_loss,
    "union_maps": union_maps,
}
