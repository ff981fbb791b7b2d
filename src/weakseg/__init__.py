"""weakseg: cheap labels in, a trained segmentation network out, and an honest account of how good it is.

Everything is imported on first use, so that ``import weakseg`` and ``weakseg --help`` take no time.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weakseg import metrics, ops
    from weakseg.methods.registry import create_method
    from weakseg.pipeline.run import RunResult, run

__version__ = version("weakseg")
__all__ = ["RunResult", "__version__", "create_method", "metrics", "ops", "run"]

_MODULES = ("ops", "metrics")
_NAMES = {
    "create_method": "weakseg.methods.registry",
    "run": "weakseg.pipeline.run",
    "RunResult": "weakseg.pipeline.run",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _MODULES:
        return import_module(f"weakseg.{name}")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'weakseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
