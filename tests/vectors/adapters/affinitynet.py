"""affinitynet.json: pairs of pixels, their labels, affinities and the walk."""

import json
from pathlib import Path

import torch

from tests.vectors.adapters.convert import first, floats, ints


def pair_offsets(inputs, parameters):
    from weakseg.ops.pairs import pair_offsets

    offsets = pair_offsets(first({**inputs, **parameters}, "radius"))
    return {"count": len(offsets), "offsets_dy_dx": offsets}


def affinity_pair_labels(inputs, parameters):
    from weakseg.ops.pairs import pair_ends, pair_labels

    labels, radius = ints(first(inputs, "label_map", "labels")), parameters["radius"]
    height, width = labels.shape
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    pairs = pair_labels(labels, radius, parameters.get("ignore", 255))
    return {
        "sources_yx": pair_ends(places, radius)[0][:, 0].T,
        "counts": dict(zip(("bg", "fg", "neg"), (kind.sum() for kind in pairs), strict=True)),
        "bg_OS": pairs.background.int(),
        "fg_OS": pairs.foreground.int(),
        "neg_OS": pairs.negative.int(),
    }


def affinity_loss(inputs, parameters):
    from weakseg.ops.pairs import pair_labels
    from weakseg.refine.affinitynet import WEIGHTS, affinity_losses

    labels = first(inputs, "label_map", "labels")
    if isinstance(labels, str):  # "those of affinity_pair_labels above"
        cases = json.loads((Path(__file__).parents[1] / "affinitynet.json").read_text(encoding="utf-8"))["cases"]
        labels = next(case for case in cases if case["function"] in labels)["inputs"]["label_map_HW"]
    pairs = pair_labels(ints(labels), parameters.get("radius", 5), parameters.get("ignore", 255))
    losses = affinity_losses(floats(first(inputs, "affinity")), pairs, parameters.get("eps", 1e-5))
    names = {"background": "bg_loss", "foreground": "fg_loss", "negative": "neg_loss"}
    total = sum(WEIGHTS[name] * value for name, value in losses.items())
    return {"loss": total, **{names[name]: value for name, value in losses.items()}}


def merge_la_ha(inputs, parameters):
    from weakseg.refine.affinitynet import confident_labels

    strong, weak = floats(first(inputs, "la_scores", "la")), floats(first(inputs, "ha_scores", "ha"))
    return {"label": confident_labels(strong, weak, parameters.get("eps", 1e-5))}


def rows(matrix):
    """Every row of a matrix under its number, as the cases ask for some."""
    return {f"row{i}": row for i, row in enumerate(matrix)}


def _links(inputs, parameters):
    from weakseg.ops.random_walk import feature_links

    connect = "all" if parameters.get("pairs", "all").startswith("all") else "cropped"
    return feature_links(floats(first(inputs, "feature", "features")), parameters["radius"], connect)


def affinity_matrix_dense(inputs, parameters):
    return rows(_links(inputs, parameters).matrix())


def random_walk(inputs, parameters):
    """A step from each pixel on its own is a row of the matrix of transitions."""
    from weakseg.ops.random_walk import random_walk

    maps, links = floats(first(inputs, "cam", "maps")), _links(inputs, parameters)
    walked = random_walk(maps, links, beta=parameters["beta"], steps=2 ** parameters["logt"])
    pixels = torch.eye(maps[0].numel(), dtype=torch.float64).view(-1, *maps.shape[1:])
    transition = random_walk(pixels, links, beta=parameters["beta"], steps=1).flatten(1)
    columns = {f"transition_col{i}": column for i, column in enumerate(transition.T)}
    return {"walked_CHW": walked, "argmax": walked.argmax(0), "column_sums": transition.sum(0), **columns}


TABLE = {
    "affinity_loss": affinity_loss,
    "affinity_matrix_dense": affinity_matrix_dense,
    "affinity_pair_labels": affinity_pair_labels,
    "merge_la_ha": merge_la_ha,
    "pair_offsets": pair_offsets,
    "random_walk": random_walk,
}
