"""The saliency providers by name."""

from weakseg.data.saliency.background_connectivity import BackgroundConnectivity
from weakseg.data.saliency.provider import FolderSaliency, SaliencyProvider
from weakseg.data.saliency.rembg_models import RembgSaliency
from weakseg.registry import find

SALIENCY: dict[str, type[SaliencyProvider] | type[FolderSaliency]] = {
    "background-connectivity": BackgroundConnectivity,
    "folder": FolderSaliency,
    "rembg": RembgSaliency,
}


def saliency_class(name: str) -> type[SaliencyProvider] | type[FolderSaliency]:
    """The class of a saliency provider.

    Raises:
        UserError: If there is no such provider; lists near matches.
    """
    return find(name, SALIENCY, "saliency provider", group="saliency")
