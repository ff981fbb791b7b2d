"""The methods by name."""

from collections.abc import Callable
from typing import Any

from weakseg.methods.bana import BANA
from weakseg.methods.cam import CAM
from weakseg.methods.eps import EPS
from weakseg.methods.method import Method
from weakseg.methods.single_stage import SingleStage
from weakseg.methods.split_merge import SplitMerge
from weakseg.networks.backbone import Backbone
from weakseg.registry import extended, find

METHODS: dict[str, type[Method]] = {
    "bana": BANA,
    "cam": CAM,
    "eps": EPS,
    "single_stage": SingleStage,
    "split_merge": SplitMerge,
}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UserError: If there is no such method; lists near matches.
    """
    return find(name, METHODS, "method", group="methods")


def methods_that(suit: Callable[[type[Method]], bool]) -> list[str]:
    """Names of the methods whose class suits, those of installed plug-ins among them."""
    return [name for name, kind in extended(METHODS, "methods").items() if suit(kind)]


def create_method(name: str, backbone: Backbone | str, num_classes: int, **options: Any) -> Method:  # noqa: ANN401
    """Build a method.

    Args:
        name: A key of ``METHODS``, or a method of an installed plug-in.
        backbone: A backbone, or the timm name of one (with that model's pretrained weights).
        num_classes: C, number of object classes.
        options: Keyword arguments of the method's class.

    Raises:
        UserError: If the name is unknown or the backbone cannot be built.
    """
    body = Backbone(backbone) if isinstance(backbone, str) else backbone
    return method_class(name)(body, num_classes, **options)
