"""What every segmentation network is to those who train and use it."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

MaskLoss = Callable[..., Tensor]
"""Logits (B, K, h, w), masks (B, h, w), and further label maps where a loss compares several, to a scalar."""


class Network(nn.Module, ABC):
    """A network that answers at the size of the image.

    Attributes:
        mean: Of the normalised image's RGB channels, for images in [0, 1].
        std: Likewise.
        cosine_scale: tau, where the logits are tau times cosines; ``None`` where they are not.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    cosine_scale: float | None = None

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The timm model that starts from pretrained weights, or from the localiser's."""

    @property
    def pretrained(self) -> nn.Module:
        """All layers that learn slowly; more than the encoder where a network has a copy of a part of it."""
        return self.encoder

    def copy_encoder(self) -> None:
        """Bring copies of the encoder's layers up to date after it was given other weights; most have none."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, K, H, W) logits."""

    def losses(self, images: Tensor, masks: Tensor, loss: MaskLoss, *others: Tensor) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised; a network that learns in other ways, too, overrides this.

        Args:
            images: (B, 3, H, W) normalised.
            masks: (B, H, W) int64, 255 is ignored.
            loss: The recipe's; called with logits, masks and ``others``, all of one size.
            others: Further label maps like ``masks``, for a loss that compares several.
        """
        return {"segmentation": loss(self(images), masks, *others)}
