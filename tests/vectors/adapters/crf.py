"""dense_crf.json: mean field with exact kernels."""

import numpy as np
import torch

from tests.vectors.adapters.convert import first, floats, ints


def _parameters(parameters):
    from weakseg.ops.crf import CRFParameters

    gaussian, bilateral = parameters.get("gaussian") or {}, parameters.get("bilateral") or {}
    return CRFParameters(
        iterations=parameters["iterations"],
        gaussian_sxy=gaussian.get("sxy", 3),
        gaussian_compat=gaussian.get("compat", 0),
        bilateral_sxy=bilateral.get("sxy", 80),
        bilateral_srgb=bilateral.get("srgb", 13),
        bilateral_compat=bilateral.get("compat", 0),
    )


def _image(inputs):
    return torch.from_numpy(np.array(first(inputs, "image"), dtype=np.uint8))


def mean_field(inputs, parameters):
    from weakseg.ops.crf import dense_crf

    refined = dense_crf(_image(inputs), floats(first(inputs, "prob", "probabilities")), _parameters(parameters))
    return {"Q": refined, "argmax": refined.argmax(0)}


def mean_field_from_labels(inputs, parameters):
    from weakseg.ops.crf import dense_crf_labels

    labels, count = ints(inputs["labels"]), parameters["n_labels"]
    refined = dense_crf_labels(
        _image(inputs), labels, count, _parameters(parameters), gt_prob=parameters.get("gt_prob", 0.7)
    )
    return {"Q": refined, "argmax": refined.argmax(0)}


def unary_from_labels(inputs, parameters):
    from weakseg.ops.crf import unary_from_labels

    if parameters.get("zero_unsure", False):
        raise NotImplementedError("label 0 is an ordinary class here")
    labels, count = ints(inputs["labels"]), parameters["n_labels"]
    unary = unary_from_labels(labels, count, parameters.get("gt_prob", 0.7))
    given = torch.nn.functional.one_hot(labels, count).movedim(-1, 0).bool()
    energies = {"unary": unary, "energy_match": _only(unary[given])}
    return energies | ({"energy_other": _only(unary[~given])} if count > 1 else {})


def _only(values):
    """The value that all share."""
    if not torch.allclose(values, values[:1], rtol=0, atol=1e-6):
        raise ValueError("energies of one kind differ")
    return values[0]


TABLE = {
    "mean_field": mean_field,
    "mean_field_from_labels": mean_field_from_labels,
    "unary_from_labels": unary_from_labels,
}
