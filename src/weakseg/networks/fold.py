"""Batch normalisation folded into convolutions, for networks that are no longer trained.

With stored statistics, normalisation multiplies every channel by a number and adds another. A convolution before it can
do both by itself, which makes small networks a quarter to a half faster on a CPU.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from weakseg.networks.channels import BlueFirst
from weakseg.networks.depthwise import TRAINED_FAST

Network = TypeVar("Network", bound=nn.Module)
Look = Callable[[Network, Tensor], object]

EXAMPLE = (1, 3, 128, 160)  # no network here wants a side of more than 128 pixels
TOLERANCE = 1e-3  # of the largest value; rounding stays far below, a wrong pair does not
LINEAR = {nn.Conv2d, Conv2dSame, BlueFirst, *TRAINED_FAST}
"""Convolutions that use their weights as they are; other subclasses may not."""


class _Done(nn.BatchNorm2d):
    """A normalisation whose work is done."""

    def forward(self, features: Tensor) -> Tensor:
        return features


class _DoneAct(BatchNormAct2d):
    """Likewise, with the activation that remains."""

    def forward(self, features: Tensor) -> Tensor:
        remaining: Tensor = self.act(self.drop(features))
        return remaining


DONE: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm2d: _Done, BatchNormAct2d: _DoneAct}


@torch.no_grad()
def folded(network: Network, look: Look[Network] = lambda network, images: network(images)) -> Network:
    """A copy in which convolutions do the work of the batch normalisations that follow them.

    A pair is folded if nothing else reads what the convolution gives, which is seen by looking at an image. Layers that
    this look does not reach stay as they are.

    Args:
        network: In evaluation mode.
        look: The network and images (B, 3, H, W) to all that will be asked of it, in any nest of tensors.

    Returns:
        A copy that gives ``look`` the same but for rounding, and cannot be trained; the network itself if there is
        nothing to fold, or if what the copy gives differs after all.
    """
    if not any(type(layer) in DONE for layer in network.modules()):
        return network
    copied = copy.deepcopy(network)
    pairs = _pairs(copied, look)
    for convolution, norm in pairs:
        _fold(convolution, norm)
    return copied if pairs and _agree(network, copied, look) else network


class _Readers(TorchFunctionMode):
    """Counts the functions that make tensors of each tensor; all are kept, so that no two share an ``id``."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.kept = Counter[int](), list[object]()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if _tensors(result):
            self.note([args, kwargs])
            self.kept.append(result)
        return result

    def note(self, values: object) -> None:
        """These tensors have one more reader."""
        self.count.update({id(tensor) for tensor in _tensors(values)})
        self.kept.append(values)


def _tensors(values: object) -> list[Tensor]:
    """All tensors in there, also in lists, tuples, dictionaries and dataclasses."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        inner: Sequence[object] = list(values.values())
    else:
        inner = values if isinstance(values, list | tuple) else list(getattr(values, "__dict__", {}).values())
    return [tensor for value in inner for tensor in _tensors(value)]


def _pairs(network: Network, look: Look[Network]) -> list[tuple[Any, Any]]:
    """Convolutions and the normalisations of what they give, if that is all that becomes of it."""
    outputs: dict[nn.Module, list[Tensor]] = defaultdict(list)
    inputs: dict[nn.Module, list[Tensor]] = defaultdict(list)
    with ExitStack() as stack, _Readers() as readers:
        for layer in network.modules():
            if type(layer) in LINEAR:
                hook = layer.register_forward_hook(lambda layer, _, result: outputs[layer].append(result))
                stack.callback(hook.remove)
            elif type(layer) in DONE and layer.running_mean is not None:
                hook = layer.register_forward_pre_hook(lambda layer, given: inputs[layer].append(given[0]))
                stack.callback(hook.remove)
        readers.note(look(network, next(network.parameters()).new_zeros(EXAMPLE)))
    source = {id(results[0]): layer for layer, results in outputs.items() if len(results) == 1}
    read = {layer: id(given[0]) for layer, given in inputs.items() if len(given) == 1}
    return [(source[key], norm) for norm, key in read.items() if key in source and readers.count[key] == 1]


def _fold(convolution: Any, norm: Any) -> None:  # noqa: ANN401
    """Change both in place: others may hold the same layers."""
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    norm.__class__ = DONE[type(norm)]


def _agree(network: Network, other: Network, look: Look[Network]) -> bool:
    """Whether both give nearly the same for some image."""
    noise = torch.randn(EXAMPLE, generator=torch.Generator().manual_seed(0))
    images = noise.to(next(network.parameters()))
    expected, found = (_tensors(look(given, images)) for given in (network, other))
    return all(
        (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()
        for ours, theirs in zip(found, expected, strict=True)
    )
