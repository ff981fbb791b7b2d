"""cam.json: class activation maps, resizing, sizes."""

import re

from tests.vectors.adapters.convert import each, first, floats, ints

NUMBER_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def cam_from_classifier(inputs, parameters):
    from weakseg.ops.maps import class_activation
    from weakseg.ops.pooling import gap

    features, weight = floats(first(inputs, "feature", "features")), floats(first(inputs, "weight"))
    batched = features if features.ndim == 4 else features[None]
    cam = class_activation(batched, weight)
    logits = gap(cam)
    cam = cam.relu() if parameters.get("relu", True) else cam
    return {"cam": cam.view(*features.shape[:-3], *cam.shape[1:]), "gap_logits": logits.view(*features.shape[:-3], -1)}


def max_normalise(inputs, parameters):
    from weakseg.ops.maps import normalize_max

    return {"out": normalize_max(floats(inputs["cam"]), parameters.get("eps", 1e-5))}


def bilinear_resize(inputs, parameters):
    from weakseg.ops.maps import resize

    size = tuple(parameters["size"])
    return {"out": resize(floats(first(inputs, "x")), size, align_corners=parameters.get("align_corners", False))}


def output_size(inputs, parameters):
    """The number of layers stands in the text that describes the backbone."""
    from weakseg.ops.maps import output_size

    text = str(parameters.get("backbone", "three stride-2"))
    layers = re.search(r"(\w+) (?:stride-2|layers of stride 2)", text)
    word = layers.group(1) if layers else "three"
    halvings = int(word) if word.isdigit() else NUMBER_WORDS[word]
    return {"out": each(lambda length: output_size(length, halvings), inputs["in"])}


def strided_size(inputs, parameters):
    from weakseg.ops.maps import strided_size

    return {"out": each(lambda length: strided_size(length, parameters["stride"]), inputs["sizes"])}


def strided_up_size(inputs, parameters):
    from weakseg.ops.maps import padded_size

    return {"out": each(lambda length: padded_size(length, parameters["stride"]), inputs["sizes"])}


def threshold_argmax(inputs, parameters):
    from weakseg.ops.maps import constant_background, label_map

    cams = sorted((int(key), value) for key, value in inputs["cams"].items())
    scores = floats([value for _, value in cams])
    mask = label_map(scores, constant_background(scores, parameters["background"]), ints([key for key, _ in cams]))
    return {"label": mask}


TABLE = {
    "bilinear_resize": bilinear_resize,
    "cam_from_classifier": cam_from_classifier,
    "max_normalise": max_normalise,
    "output_size": output_size,
    "strided_size": strided_size,
    "strided_up_size": strided_up_size,
    "threshold_argmax": threshold_argmax,
}
