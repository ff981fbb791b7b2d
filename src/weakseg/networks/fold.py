"""Batch normalisation folded into convolutions, for networks that are no longer trained.

With stored statistics, normalisation multiplies every channel by a number and adds another. A convolution before it can
do both by itself, and a MobileNet on a CPU is half as fast again.
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

Module = TypeVar("Module", bound=nn.Module)
EXAMPLE = (1, 3, 128, 160)
CONVOLUTIONS = {nn.Conv2d, Conv2dSame, BlueFirst, *TRAINED_FAST}
"""Those that use their weights as they are, without subclasses that may not."""
NORMS = {nn.BatchNorm2d, BatchNormAct2d}


@torch.no_grad()
def folded(network: Module) -> Module:
    """A copy in which convolutions do the work of the batch normalisations that follow them.

    A pair is folded if nothing else reads what the convolution gives, which is seen by looking at an image; what is not
    used for that stays as it is.

    Args:
        network: Called with images (B, 3, H, W); in evaluation mode.

    Returns:
        The copy, which gives the same but for rounding, and cannot be trained on; the network itself if there is
        nothing to fold.
    """
    if not any(type(layer) in NORMS for layer in network.modules()):
        return network
    copied = copy.deepcopy(network)
    replaced = {id(norm): _fold(convolution, norm) for convolution, norm in _pairs(copied)}
    for parent in list(copied.modules()):
        for name, layer in list(parent.named_children()):
            if id(layer) in replaced:
                setattr(parent, name, replaced[id(layer)])
    return copied


class _Seen(TorchFunctionMode):
    """What is made of the tensors that convolutions give; all are kept, so that no two share an ``id``."""

    def __init__(self) -> None:
        super().__init__()
        self.readers = Counter[int]()
        self.given: dict[nn.Module, list[Tensor]] = defaultdict(list)
        self.kept = list[object]()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if _tensors([result]):
            self.note([*args, *(kwargs or {}).values()])
            self.kept.append(result)
        return result

    def note(self, values: Sequence[object]) -> None:
        """These tensors have a reader more."""
        self.readers.update({id(tensor) for tensor in _tensors(values)})
        self.kept.append(values)


def _tensors(values: Sequence[object]) -> list[Tensor]:
    """All tensors in there, also in lists and tuples."""
    inner = [tensor for value in values if isinstance(value, list | tuple) for tensor in _tensors(value)]
    return [value for value in values if isinstance(value, Tensor)] + inner


def _pairs(network: nn.Module) -> list[tuple[Any, Any]]:
    """Convolutions and the normalisations of what they give, if that is all that becomes of it."""
    convolutions = [layer for layer in network.modules() if type(layer) in CONVOLUTIONS]
    norms = [layer for layer in network.modules() if type(layer) in NORMS and layer.running_mean is not None]
    with ExitStack() as stack, _Seen() as seen:
        for layer in convolutions:
            hook = layer.register_forward_hook(lambda layer, _, result: seen.given[layer].append(result))
            stack.callback(hook.remove)
        for layer in norms:
            hook = layer.register_forward_pre_hook(lambda layer, given: seen.given[layer].append(given[0]))
            stack.callback(hook.remove)
        result = network(next(network.parameters()).new_zeros(EXAMPLE))
        seen.note([result, *getattr(result, "__dict__", {}).values()])
    once = {layer: tensors[0] for layer, tensors in seen.given.items() if len(tensors) == 1}
    source = {id(once[layer]): layer for layer in convolutions if layer in once}
    wanted = [norm for norm in norms if norm in once and seen.readers[id(once[norm])] == 1]
    return [(source[id(once[norm])], norm) for norm in wanted if id(once[norm]) in source]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    """Change the convolution; returns what is left of the normalisation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
