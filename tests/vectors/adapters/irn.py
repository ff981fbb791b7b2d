"""irn.json: paths, affinities from boundaries, displacements, the walk, sure labels."""

import torch

from tests.vectors.adapters.affinitynet import rows
from tests.vectors.adapters.convert import first, floats, ints


def search_paths(inputs, parameters):
    from weakseg.ops.pairs import path_offsets, search_paths

    radius = first({**inputs, **parameters}, "radius")
    groups = search_paths(radius)
    return {
        "groups_path_length": [paths.shape[1] for paths in groups],
        "groups_count": [len(paths) for paths in groups],
        "destinations_in_order": path_offsets(radius),
        "paths": list(groups),
    }


def boundary_affinity_matrix(inputs, parameters):
    from weakseg.ops.random_walk import boundary_links

    return rows(boundary_links(floats(first(inputs, "edge", "boundary")), parameters["radius"]).matrix())


def propagate(inputs, parameters):
    from weakseg.ops.maps import constant_background, label_map
    from weakseg.ops.random_walk import boundary_links, random_walk

    maps, boundary = floats(first(inputs, "cam", "maps")), floats(first(inputs, "edge", "boundary"))
    links = boundary_links(boundary, parameters["radius"])
    walked = random_walk(maps * (1 - boundary), links, beta=parameters["beta"], steps=2 ** parameters["exp_times"])
    normalised = walked / walked.max()
    mask = label_map(normalised, constant_background(normalised, 0.25), normalised.new_tensor(range(len(maps))).long())
    return {"walked_CHW": walked, "normalised_by_global_max": normalised, "argmax_with_bg_0.25": mask}


def displacement_losses(inputs, parameters):
    """The pairs of the case are those of foreground and background; negative ones have no loss."""
    from weakseg.ops.pairs import PairLabels, pair_ends, path_offsets
    from weakseg.refine.irn import displacement_losses

    field, radius = floats(first(inputs, "disp", "displacement")), parameters["radius"]
    foreground, background = (ints(first(inputs, name)).bool() for name in ("fg_pairs", "bg_pairs"))
    losses = displacement_losses(field[None], PairLabels(background[None], foreground[None], foreground[None]), radius)
    here, there = pair_ends(field, radius, offsets=path_offsets(radius))
    places = torch.stack(torch.meshgrid(*(torch.arange(side) for side in field.shape[1:]), indexing="ij"))
    return {
        "destinations": path_offsets(radius),
        "sources": pair_ends(places, radius)[0][:, 0].T,
        "pair_disp": here - there,
        "fg_loss": losses["foreground"],
        "bg_loss": losses["background"],
    }


def refine_centroids(inputs, parameters):
    from weakseg.ops.displacement import refine_centroids

    found = refine_centroids(floats(first(inputs, "disp", "displacement")), parameters.get("iterations", 300))
    return {"centroid_y": found[0], "centroid_x": found[1]}


def merge_confident(inputs, parameters):
    from weakseg.refine.irn import merge_confident

    return {"label": merge_confident(ints(first(inputs, "fg_conf", "fg")), ints(first(inputs, "bg_conf", "bg")))}


TABLE = {
    "boundary_affinity_matrix": boundary_affinity_matrix,
    "displacement_losses": displacement_losses,
    "merge_confident": merge_confident,
    "propagate": propagate,
    "refine_centroids": refine_centroids,
    "search_paths": search_paths,
}
