"""single_stage.json: refinement of masks."""

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


TABLE = {
    "pamr": pamr,
}
