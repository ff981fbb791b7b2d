"""Learning rates by kind of parameter."""

from typing import Any

from torch import nn

HEAD_FACTOR, BIAS_FACTOR = 10.0, 2.0
LINEAR = (nn.modules.conv._ConvNd, nn.Linear)


def parameter_groups(
    model: nn.Module, pretrained: nn.Module, lr: float, weight_decay: float, head_factor: float = HEAD_FACTOR
) -> list[dict[str, Any]]:
    """Groups of Caffe's and PSA's recipes: new layers learn faster, biases twice as fast and without decay.

    Args:
        model: All parameters that may be trained.
        pretrained: The part of ``model`` that starts from pretrained weights.
        lr: Learning rate of the pretrained weights.
        weight_decay: Decay of convolution and linear weights; biases, normalisation layers and tokens have none.
        head_factor: How much faster the other layers learn.

    Returns:
        Up to six groups for a torch optimiser, frozen parameters left out.
    """
    old = {id(parameter) for parameter in pretrained.parameters()}
    groups: dict[tuple[bool, str], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups.setdefault((id(parameter) in old, _kind(layer, name)), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (1.0 if is_old else head_factor) * (BIAS_FACTOR if kind == "bias" else 1.0),
            "weight_decay": weight_decay if kind == "weight" else 0.0,
        }
        for (is_old, kind), parameters in groups.items()
    ]


def _kind(layer: nn.Module, name: str) -> str:
    """Weight and bias of linear maps, and "other": scale and shift of normalisation, tokens, temperatures."""
    if not isinstance(layer, LINEAR):
        return "other"
    return "bias" if name == "bias" else "weight"
