"""single_stage.json: refinement of masks."""

from tests.vectors.adapters.convert import first, floats


def pamr(inputs, parameters):
    from weakseg.ops.pamr import LEAST_SPREAD, SPREAD_SCALE, local_deviation, pamr, pamr_affinities

    known = {"scale": SPREAD_SCALE, "eps": LEAST_SPREAD}
    if any(parameters.get(name, value) != value for name, value in known.items()):
        raise NotImplementedError(f"the published code has {known}")
    image, masks = floats(first(inputs, "image", "images")), floats(first(inputs, "mask", "masks"))
    images, batch = image.view(-1, *image.shape[-3:]), masks.view(-1, *masks.shape[-3:])
    dilations = parameters["dilations"]
    options = {"dilations": dilations, "normalization": parameters.get("normalization", "code")}
    found = {
        "affinity": pamr_affinities(images, **options),
        "std": local_deviation(images, dilations),
        "out": pamr(images, batch, iterations=parameters["iterations"], **options),
    }
    return {name: value.view(*masks.shape[:-3], *value.shape[1:]) for name, value in found.items()}


TABLE = {
    "pamr": pamr,
}
