"""CAM: class activation maps of a multi-label classifier.

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, "Learning Deep Features for Discriminative Localization",
CVPR 2016.

A classifier whose last step is "pool the feature map, then one linear layer" can be read the other way round: apply the
linear layer at every position and see where a class collects its score. That map is good at the part by which the class
is recognised and weak elsewhere, which is what every later method sets out to mend. It is trained on tags alone.

Hyper-parameters: none in the paper beyond the classifier's. The paper pools by a sum over positions, all public code
by the mean (``pooling="mean"``, the default, gives the published figures). PSA puts Dropout2d(0.5) before the
classifier, IRN none; PSA's VGG16 takes the square root of its maps.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss

from weakseg.data.sample import Batch
from weakseg.methods.method import Activation, Method
from weakseg.networks.backbone import Backbone
from weakseg.ops.pooling import gap, gsp

POOLINGS = {"mean": gap, "sum": gsp}


class CAM(Method):
    """Multi-label classification from tags; maps are the rectified class scores at each position.

    Args:
        backbone: The network's body.
        num_classes: C, number of object classes.
        pooling: ``"mean"`` over positions, or ``"sum"`` as the paper writes it.
        dropout: Share of feature channels dropped in training (PSA 0.5, IRN 0).
        square_root: Take the square root of the maps (PSA's VGG16).
    """

    inference_options = frozenset({"square_root"})

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pooling: Literal["mean", "sum"] = "mean",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        square_root: bool = False,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(backbone.channels, num_classes, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.head.weight)
        self.pool, self.square_root = POOLINGS[pooling], square_root

    def forward(self, images: Tensor) -> Activation:
        """Score maps W F and their pooled values, which equal W pool(F) because both steps are linear."""
        features = self.dropout(self.backbone(images))
        scores = self.head(features)
        return Activation(scores, self.pool(scores), features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Multi-label soft margin: the mean over images and classes of the binary cross-entropy."""
        logits = self(batch.images).logits.float()
        return {"classification": multilabel_soft_margin_loss(logits, batch.tags.to(logits.dtype))}

    def view_maps(self, images: Tensor) -> Tensor:
        """Rectified score maps, (B, C, h, w)."""
        maps = super().view_maps(images)
        return torch.sqrt(maps) if self.square_root else maps
