"""What there is to choose from, described from the code itself."""

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import timm

from weakseg.data.saliency.registry import SALIENCY
from weakseg.errors import UserError
from weakseg.methods.registry import METHODS
from weakseg.networks.mask_rcnn import DETECTORS
from weakseg.networks.segmentation import DECODERS, OURS
from weakseg.refine.registry import REFINERS
from weakseg.registry import extended

Rows = list[tuple[str, str]]


def describe_methods() -> Rows:
    """Every localisation method with its first line, what it needs, and its options."""
    found = extended(METHODS, "methods")
    needs = {name: "+".join(sorted(method.needs)) for name, method in found.items()}
    return [(name, f"{text}\nneeds {needs[name]}") for name, text in _described(found)]


def describe_refiners() -> Rows:
    """Every refiner with its first line and its options."""
    return _described(extended(REFINERS, "refiners"))


def describe_saliency() -> Rows:
    """Every saliency provider with its first line and its options."""
    return _described(extended(SALIENCY, "saliency"))


def describe_networks() -> Rows:
    """The decoders of the segmenter, and the networks of papers with their options, detectors too."""
    named = ((name, network.__name__) for name, network in DECODERS.items())
    return sorted([*named, *_described({**OURS, **DETECTORS})])


def describe_backbones(pattern: str) -> Rows:
    """Backbones of timm whose name matches a shell pattern.

    Raises:
        UserError: If none does.
    """
    names = fnmatch.filter(timm.list_models(), pattern)
    if not names:
        raise UserError(f"no backbone matches '{pattern}'", remedy="Try a wider pattern, such as 'resnet*'")
    return [(name, "") for name in names]


def _described(mapping: Mapping[str, Callable[..., Any]]) -> Rows:
    return [(name, f"{_first_line(target)}{_options(target)}") for name, target in sorted(mapping.items())]


def _first_line(target: Callable[..., Any]) -> str:
    return (inspect.getdoc(target) or "").split("\n")[0]


def _options(target: Callable[..., Any]) -> str:
    options = [
        f"{name}={argument.default!r}"
        for name, argument in inspect.signature(target).parameters.items()
        if argument.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    return "\n" + ", ".join(options) if options else ""
