"""A backbone cut in two: stages that are computed once, and the rest, of which there may be copies.

Several papers give two tasks one early part and a late part each. Most convolutional networks are a chain: each layer
takes what the one before has made. Such a chain is found by looking at an image going through, and cut after one of the
stages.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weakseg.errors import UserError
from weakseg.networks.backbone import UNUSUAL, Backbone
from weakseg.networks.dilate import power_of_two
from weakseg.networks.norm import NormMode, hold_statistics

HEIGHT, WIDTH = UNUSUAL  # of the image that is looked at: a size that every backbone has been seen to take
ADVICE = "Choose a convolutional backbone, such as a ResNet, MobileNet, EfficientNet, ConvNeXt or VGG"

Layers = list[tuple[str, nn.Module]]


class Part(nn.Module):
    """Consecutive layers of a backbone.

    Args:
        layers: Names within the backbone, and the layers themselves; they are not copied.
        batchnorm: How their batch normalisation behaves; see ``Backbone``.
    """

    def __init__(self, layers: Layers, batchnorm: NormMode) -> None:
        super().__init__()
        self.batchnorm = batchnorm
        for name, layer in layers:
            self.add_module(name.replace(".", "_"), layer)

    def forward(self, features: Tensor) -> Tensor:
        """One layer after the other."""
        for layer in self.children():
            features = layer(features)
        return features

    def train(self, mode: bool = True) -> "Part":
        """As usual, except for batch normalisation; see ``Backbone.train``."""
        super().train(mode)
        hold_statistics(self, self.batchnorm)
        return self


class Split(NamedTuple):
    """The two parts of a backbone: ``rest(trunk(images))`` is ``backbone(images)``, to the bit.

    Both hold the backbone's own layers. Whoever keeps them beside the backbone keeps them in a tuple, or their weights
    would be listed twice; a second stream is a ``copy.deepcopy`` of ``rest``, with weights that start as the first
    one's, and what is frozen in the one is frozen in the other.
    """

    trunk: Part
    rest: Part


def split(backbone: Backbone, shared_stages: int) -> Split:
    """Cut a backbone after some of its stages.

    Pooling layers that follow the last shared stage are shared with it.

    Args:
        backbone: Any whose layers form a chain.
        shared_stages: How many of the stages, as ``Backbone.stages`` counts them, the trunk has.

    Raises:
        UserError: If it cannot be cut there; says where it can.
    """
    layers, ends = _found(backbone)
    if shared_stages not in ends:
        places = ", ".join(str(number) for number in sorted(ends))
        raise UserError(
            f"backbone '{backbone.name}' cannot be cut after {shared_stages} stages",
            remedy=f"It can be cut after {places}" if ends else ADVICE,
        )
    end = ends[shared_stages]
    parts = Split(Part(layers[:end], backbone.batchnorm), Part(layers[end:], backbone.batchnorm))
    if not _same(backbone, parts):
        raise UserError(f"backbone '{backbone.name}' cannot be cut after {shared_stages} stages", remedy=ADVICE)
    return parts


def cuts(backbone: Backbone) -> dict[int, int]:
    """After how many stages a backbone can be cut, and image pixels per cell of what is shared then; may be empty."""
    layers, ends = _found(backbone)
    with torch.no_grad():
        strides = {}
        for number, end in ends.items():
            shared = Part(layers[:end], "statistics").eval()(_image(backbone))
            strides[number] = power_of_two(WIDTH / shared.shape[-1])
    backbone.train(backbone.training)
    return strides


def _found(backbone: Backbone) -> tuple[Layers, dict[int, int]]:
    """All layers in order, and how many of them belong to the first stages together."""
    model: Any = backbone.model
    if hasattr(model, "sections"):
        sections: list[Layers] = model.sections()
        ends = accumulate(len(section) for section in sections[:-1])
        return list(chain.from_iterable(sections)), dict(enumerate(ends, start=1))
    if hasattr(model, "patch_embed") or not hasattr(model, "forward_intermediates"):
        return [], {}
    was_training = backbone.training
    try:
        return _chain(backbone.eval())
    finally:
        backbone.train(was_training)


class _Link(NamedTuple):
    name: str
    layer: nn.Module
    inputs: Tensor
    output: Tensor


def _chain(backbone: Backbone) -> tuple[Layers, dict[int, int]]:
    image, links = _image(backbone), list[_Link]()

    def watch(name: str, layer: nn.Module) -> Any:  # noqa: ANN401
        def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                links.append(_Link(name, layer, inputs[0], output))

        return layer.register_forward_hook(note)

    hooks = [watch(name, layer) for name, layer in _steps(backbone.model, "")]
    try:
        with torch.no_grad():
            features = backbone.model.forward_features(image)
            passed = list(links)
            links.clear()
            stages = list(backbone.model.forward_intermediates(image, output_fmt="NCHW", intermediates_only=True))
    finally:
        for hook in hooks:
            hook.remove()
    simple = features.ndim == 4 and features.shape[1] == backbone.channels and _unbroken(passed, image, features)
    ends = _ends(passed, links, stages) if simple else {}
    return [(link.name, link.layer) for link in passed], ends


def _steps(module: nn.Module, name: str) -> Layers:
    """Layers by their names; of those that are themselves simple sequences, their layers."""
    found: Layers = []
    for own, child in module.named_children():
        inner = f"{name}.{own}" if name else own
        plain = type(child).forward is nn.Sequential.forward and len(child._modules)
        found += _steps(child, inner) if plain else [(inner, child)]
    return found


def _unbroken(links: Sequence[_Link], image: Tensor, features: Tensor) -> bool:
    """Whether each layer was called once, with what the one before had made, and nothing happened in between."""
    given = [image, *(link.output for link in links)]
    taken = [*(link.inputs for link in links), features]
    once = len({id(link.layer) for link in links}) == len(links)
    return once and bool(links) and all(made is used for made, used in zip(given, taken, strict=True))


def _ends(passed: Sequence[_Link], seen: Sequence[_Link], stages: Sequence[Tensor]) -> dict[int, int]:
    """How many layers lead to the end of each stage and the pooling after it; the last of all is no place to cut."""
    position = {link.name: place for place, link in enumerate(passed)}
    found = {}
    for number, stage in enumerate(stages, start=1):
        makers = [position[link.name] for link in seen if link.output is stage and link.name in position]
        if not makers:
            continue
        end = max(makers) + 1
        while end < len(passed) and not list(passed[end].layer.parameters()):
            end += 1
        if end < len(passed):
            found[number] = end
    return found


@torch.no_grad()
def _same(backbone: Backbone, parts: Split) -> bool:
    """Whether the parts give what the whole does, and the second leaves alone what it shares with others."""
    was_training, image = backbone.training, _image(backbone)
    whole = backbone.eval()(image)
    shared = parts.trunk.eval()(image)
    kept = shared.clone()
    together = parts.rest.eval()(shared)
    backbone.train(was_training)
    parts.trunk.train(was_training)
    parts.rest.train(was_training)
    return torch.equal(together, whole) and torch.equal(shared, kept)


def _image(backbone: Backbone) -> Tensor:
    """A pattern on which any two layers differ."""
    like = next(backbone.parameters())
    return torch.linspace(-1, 1, 3 * HEIGHT * WIDTH).sin().view(1, 3, HEIGHT, WIDTH).to(like)
