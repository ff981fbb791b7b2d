"""Parts of a network that are not trained."""

from collections.abc import Sequence

from timm.models import FeatureListNet
from torch import nn

from weakseg.errors import UserError
from weakseg.registry import near_matches


def freeze_modules(network: nn.Module, prefixes: Sequence[str], called: str) -> None:
    """Leave the parameters of the named modules as they are.

    Args:
        network: A timm model or feature extractor.
        prefixes: Names of its modules, such as ``"layer1"`` or ``"layer2.0"``.
        called: The network, for messages.

    Raises:
        UserError: If there is no such module; lists near matches.
    """
    modules = dict(network.named_modules())
    for prefix in prefixes:
        found = [modules[prefix]] if prefix in modules else _flattened(network, prefix)
        if not found:
            known = [name for name in modules if name and name.count(".") <= prefix.count(".")]
            raise UserError(f"{called} has no module '{prefix}'", remedy=near_matches(prefix, known))
        for module in found:
            module.requires_grad_(False)


def _flattened(network: nn.Module, prefix: str) -> list[nn.Module]:
    """Feature extractors may call ``stages.0`` ``stages_0``; ``stages`` then stands for all of them."""
    if not isinstance(network, FeatureListNet):
        return []
    start = f"{_plain(prefix)}_"
    return [module for name, module in network.named_modules() if f"{_plain(name)}_".startswith(start)]


def _plain(name: str) -> str:
    return name.replace(".", "_")
