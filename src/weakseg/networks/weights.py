"""Initial weights from a local file: safetensors, a PyTorch file that holds tensors only, or MXNet's ``.params``."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from weakseg.data.files import write_bytes
from weakseg.errors import UserError
from weakseg.networks.convert import convert_resnet38, is_resnet38
from weakseg.networks.mxnet import parse_params

Weights = Mapping[str, Tensor]


def read_weights(path: Path, sha256: str | None = None, prefix: str = "") -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors``, tensors-only ``.pth`` or MXNet ``.params`` file; nothing is unpickled.

    Args:
        path: The file.
        sha256: Expected checksum (hexadecimal) of the file, or ``None``.
        prefix: Only tensors whose names start with it are given, without it.

    Raises:
        UserError: If the file is missing, damaged, of another kind, or its checksum differs.
    """
    if not path.is_file():
        remedy = "Set backbone.weights to 'timm', to the path of a .safetensors, .pth or .params file, or to 'none'"
        raise UserError("no such weights file", where=path, remedy=remedy)
    if sha256 is not None and checksum(path) != sha256.lower():
        raise UserError("the checksum differs from the one in the recipe", where=path, remedy="Fetch the file again")
    tensors = _tensors(path)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix == ".params":
            return parse_params(path.read_bytes())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise UserError(
            "cannot be read as weights", where=path, remedy="Use safetensors or a tensors-only PyTorch file"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError("holds no table of tensors", where=path, remedy="Save the model's state_dict()")
    return state


def hub_error(name: str, error: Exception) -> UserError:
    """What to say if timm's hub does not give the weights of a backbone."""
    return UserError(
        f"the pretrained weights of '{name}' cannot be had from timm's hub ({type(error).__name__})",
        remedy="Check the network, or set backbone.weights to a local file or 'none'",
    )


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_backbone_weights(module: nn.Module, weights: Weights, where: str | Path) -> None:
    """Put ImageNet-like weights into a backbone; a classifier in the file is left over.

    Names are compared with ``.`` and ``_`` alike, because feature extractors flatten module names. A ResNet38 may also
    have the names of the files that circulate, see ``convert_resnet38``; other modules say in a method ``adapted`` what
    they make of a file.

    Raises:
        UserError: If tensors that the backbone needs are missing or have another shape.
    """
    adapted: Callable[[Weights], Weights] = getattr(module, "adapted", dict)
    known = convert_resnet38(weights) if is_resnet38(weights) else adapted(weights)
    given = {_plain(name): tensor for name, tensor in known.items()}
    own = module.state_dict()
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if _plain(name) not in given]
    if missing:
        raise UserError(
            f"lacks {len(missing)} of the {len(needed)} tensors that the backbone needs, '{missing[0]}' first",
            where=where,
            remedy="Check that backbone.name and the weights belong together",
        )
    shaped = {name: given[_plain(name)] for name in needed}
    for name, tensor in shaped.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"tensor '{name}' has shape {tuple(tensor.shape)}, the backbone needs {tuple(own[name].shape)}",
                where=where,
                remedy="Check that backbone.name and the weights belong together",
            )
    module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in shaped.items()}, strict=False)


def save_weights(module: nn.Module, path: Path, about: Mapping[str, str]) -> None:
    """Write all parameters and buffers as safetensors, ``about`` in its header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_bytes(path, _in_order(save(tensors, metadata=dict(about))))


def read_about(path: Path) -> dict[str, str]:
    """What ``save_weights`` wrote into the header.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError("cannot be read as weights", where=path, remedy="Make it again, or fetch it again") from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Read back what ``save_weights`` wrote.

    Raises:
        UserError: If the file does not belong to this network.
    """
    load_state(module, read_weights(path), path, "Train it again with this recipe")


def load_state(module: nn.Module, weights: Weights, where: Path, remedy: str) -> None:
    """Give a network all of its parameters and buffers.

    Args:
        module: The network.
        weights: Name to tensor.
        where: The file that they are from, for the message.
        remedy: What to do if they belong to another network.

    Raises:
        UserError: If they do.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError("belongs to another network", where=where, remedy=remedy) from error


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library writes them in an order that changes from run to run."""
    start, end = 8, 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[start:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _plain(name: str) -> str:
    return name.replace(".", "_")
