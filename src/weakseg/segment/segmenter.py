"""The segmenter: the network that is left in the end, trained on pseudo-masks, used without tags."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weakseg.data.sample import Batch
from weakseg.errors import UserError
from weakseg.networks.groups import parameter_groups
from weakseg.networks.network import MaskLoss, Network
from weakseg.ops.maps import unflip
from weakseg.ops.views import max_of_probabilities, mean_of_logits, mean_of_probabilities
from weakseg.segment.losses import pixel_cross_entropy, wanted

Merge = Literal["logits", "probabilities", "mean"]


class Segmenter(nn.Module):
    """A segmentation network with the loss that trains it.

    Args:
        network: Images to logits at image size.
        loss: Logits (B, K, H, W), masks (B, H, W) and what else it asks for, see ``segment.losses``, to a scalar.
        head_factor: How much faster the decoder learns than the pretrained encoder.

    Raises:
        UserError: If the loss is about cosines, and the network's logits are none.
    """

    def __init__(self, network: Network, loss: MaskLoss = pixel_cross_entropy, head_factor: float = 10.0) -> None:
        super().__init__()
        self.network, self.loss, self.head_factor = network, loss, head_factor
        self.wanted, self.progress = wanted(loss), 0.0
        if "scale" in self.wanted and network.cosine_scale is None:
            raise UserError(
                "'segment.loss' looks at cosines, and the segmenter's classifier takes dot products",
                where="recipe",
                remedy="Set segment.network: {name: ..., classifier: cosine}, or another segment.loss",
            )

    def forward(self, images: Tensor) -> Tensor:
        """(B, K, H, W) logits."""
        logits: Tensor = self.network(images)
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised."""
        context = {"scale": self.network.cosine_scale, "progress": self.progress}
        loss = partial(self.loss, **{name: value for name, value in context.items() if name in self.wanted})
        others = (batch.second,) if "second" in self.wanted else ()
        return self.network.losses(batch.images, batch.masks, loss, *others)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Losses that change with time change here: an epoch must not depend on the steps of those before it."""
        self.progress = epoch / epochs

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The pretrained parts at ``lr``, the others ``head_factor`` times faster."""
        return parameter_groups(self, self.network.pretrained, lr, weight_decay, self.head_factor)

    @torch.no_grad()
    def predict(
        self, images: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False, merge: Merge = "logits"
    ) -> Tensor:
        """Class probabilities at image size, merged over scales and flips.

        Args:
            images: (B, 3, H, W) normalised.
            scales: Factors by which the images are resized (bilinear).
            flip: Also look at the mirror images.
            merge: ``"logits"``: softmax of their mean (SEAM's codebase); ``"probabilities"``: their maximum, not
                normalised (MCTformer); ``"mean"``: their mean (Splitting vs. Merging).

        Returns:
            (B, K, H, W) in [0, 1].
        """
        views = [self._view(images, scale, mirrored) for scale in scales for mirrored in (False, True)[: 1 + flip]]
        if merge == "logits":
            return mean_of_logits(views)
        probabilities = [view.softmax(1) for view in views]
        return mean_of_probabilities(probabilities) if merge == "mean" else max_of_probabilities(probabilities)

    def _view(self, images: Tensor, scale: float, mirrored: bool) -> Tensor:
        size = images.shape[-2:]
        scaled = nn.functional.interpolate(
            images, [max(1, round(side * scale)) for side in size], mode="bilinear", align_corners=False
        )
        logits = self(scaled.flip(-1) if mirrored else scaled).float()
        logits = nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        return unflip(logits) if mirrored else logits
