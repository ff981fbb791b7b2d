"""Weight files that circulate under other names of their layers."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

UNIT = re.compile(r"(?:res|bn)(\d)(?:a|b(\d+))_(branch\w+?)_(weight|gamma|beta|moving_mean|moving_var)")
OUTER = re.compile(r"(conv1a|bn7)_(weight|gamma|beta|moving_mean|moving_var)")
KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


def convert_resnet38(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of ResNet38 under the names of ``weakseg.networks.resnet38``, which are those of PSA.

    Two namings are known. MXNet's, of the ImageNet classifier that all began with: unit ``4a`` is ``b4``, its followers
    ``4b1`` and ``4b2`` are ``b4_1`` and ``b4_2``; ``res`` is a convolution, ``bn`` a normalisation. And PSA's own, also
    as ``DataParallel`` saves it, with ``module.`` before each name. Classifiers keep their names.

    Args:
        state: Arrays or tensors by name.

    Returns:
        Tensors by name.
    """
    return {_name(name): torch.as_tensor(array) for name, array in state.items()}


def is_resnet38(names: Mapping[str, Any]) -> bool:
    """Whether these are the weights of a ResNet38, in either naming."""
    found = {_name(name) for name in names}
    return {"conv1a.weight", "b2.conv_branch2b1.weight", "bn7.weight"} <= found


def _name(given: str) -> str:
    name = given.removeprefix("module.").removeprefix("arg:").removeprefix("aux:")
    if outer := OUTER.fullmatch(name):
        layer, kind = outer.groups()
        return f"{layer}.{KINDS.get(kind, kind)}"
    if unit := UNIT.fullmatch(name):
        block, follower, branch, kind = unit.groups()
        layer = "conv" if kind == "weight" else "bn"
        return f"b{block}{f'_{follower}' if follower else ''}.{layer}_{branch}.{KINDS.get(kind, kind)}"
    return name
