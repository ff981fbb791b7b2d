"""What finds saliency maps."""

from abc import ABC, abstractmethod

from torch import Tensor


class SaliencyProvider(ABC):
    """Says where an image is salient, from the image alone; the same image always gives the same map.

    Options are keyword-only arguments of ``__init__`` with a type and a default; recipes get theirs from there. A
    provider may be slow to build: it is built once a process.

    Attributes:
        version: To be changed whenever the same image with the same options gives another map from now on; maps that
            were kept are then made again.
    """

    version: str = "1"

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """Saliency of every pixel.

        Args:
            image: (3, H, W) uint8 RGB, of any size.

        Returns:
            (H, W) float32 in [0, 1]; all 0 where nothing stands out.
        """


class FolderSaliency:
    """Maps that were made before: SaliencyMaps/ID.png or saliency/ID.png in the data, or path/ID.png.

    Args:
        path: Another folder; maps are looked for there alone.
    """

    def __init__(self, *, path: str | None = None) -> None:
        self.path = path
