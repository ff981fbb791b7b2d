"""Moving a sample: mask, objects, saliency map, scores, validity and boxes follow the image."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from weakseg.data.sample import IGNORE, Sample

S = TypeVar("S", bound=Sample)
SMALLEST_BOX = 1.0  # pixels; narrower or lower boxes give empty regions


@dataclass(frozen=True)
class View(Sample):
    """A sample as the network sees it.

    Attributes:
        valid: (1, H, W) bool, False where padding fills the crop; ``None`` if nothing has been padded.
    """

    valid: Tensor | None = None

    @classmethod
    def of(cls, sample: Sample) -> "View":
        """``sample`` itself if it is a view already."""
        return sample if isinstance(sample, View) else cls(**{f.name: getattr(sample, f.name) for f in fields(sample)})


@dataclass(frozen=True)
class Span:
    """Along one axis: ``length`` pixels from ``source`` in the image go to ``target`` in the crop."""

    source: int
    target: int
    length: int

    @property
    def here(self) -> slice:
        """Where the pixels are in the image."""
        return slice(self.source, self.source + self.length)

    @property
    def there(self) -> slice:
        """Where the pixels go in the crop."""
        return slice(self.target, self.target + self.length)


def resize(sample: Sample, height: int, width: int, interpolation: str = "bicubic", antialias: bool = True) -> Sample:
    """To another size; mask and objects by nearest neighbour, saliency map and scores like the image.

    Args:
        sample: Image uint8, or float.
        height: New height.
        width: New width.
        interpolation: ``"bicubic"``, ``"bilinear"`` or ``"nearest"``.
        antialias: Average over what falls into one pixel when shrinking, as PIL does and OpenCV does not.
    """
    old_height, old_width = sample.size
    if (old_height, old_width) == (height, width):
        return sample
    mode = InterpolationMode.NEAREST_EXACT if interpolation == "nearest" else InterpolationMode(interpolation)
    factors = torch.tensor([width / old_width, height / old_height] * 2)

    def smooth(tensor: Tensor) -> Tensor:
        return tv.resize(tensor, [height, width], interpolation=mode, antialias=antialias)  # type: ignore[no-any-return]

    def hard(tensor: Tensor) -> Tensor:
        given = tensor.to(torch.uint8) if tensor.dtype is torch.bool else tensor
        moved = tv.resize(given, [height, width], interpolation=InterpolationMode.NEAREST_EXACT)
        return moved.to(tensor.dtype)  # type: ignore[no-any-return]

    return _moved(sample, smooth, hard, lambda boxes: boxes * factors)


def flip(sample: Sample) -> Sample:
    """Left to right and right to left."""
    width = sample.size[1]

    def mirror(tensor: Tensor) -> Tensor:
        return tensor.flip(-1)

    def boxes(corners: Tensor) -> Tensor:
        x1, y1, x2, y2 = corners.unbind(1)
        return torch.stack((width - x2, y1, width - x1, y2), dim=1)

    return _moved(sample, mirror, mirror, boxes)


def window(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """A part that lies within the image; boxes are clipped to it."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[..., top : top + height, left : left + width]

    def boxes(corners: Tensor) -> Tensor:
        return clip(corners - torch.tensor([left, top] * 2), 0, 0, height, width)

    return _moved(sample, cut, cut, boxes)


def place(
    sample: Sample, size: tuple[int, int], rows: Span, columns: Span, fill: Tensor, mask_fill: int = IGNORE
) -> View:
    """Copy a part of the image into a canvas; what stays empty is not valid.

    Args:
        sample: Any.
        size: Height and width of the canvas.
        rows: Which rows go where.
        columns: Which columns go where.
        fill: (3,) colour of the padding, in the image's own units.
        mask_fill: Mask value of the padding; that of saliency map, scores and objects is 0.
    """
    view = View.of(sample)

    def pasted(tensor: Tensor, empty: float) -> Tensor:
        canvas = tensor.new_full((*tensor.shape[:-2], *size), empty)
        canvas[..., rows.there, columns.there] = tensor[..., rows.here, columns.here]
        return canvas

    image = fill.to(view.image.dtype).view(3, 1, 1).repeat(1, *size)
    image[:, rows.there, columns.there] = view.image[:, rows.here, columns.here]
    shift = torch.tensor([columns.target - columns.source, rows.target - rows.source] * 2)
    valid = torch.ones(1, *view.size, dtype=torch.bool) if view.valid is None else view.valid
    moved = replace(
        view,
        image=image,
        saliency=None if view.saliency is None else pasted(view.saliency, 0),
        mask=None if view.mask is None else pasted(view.mask, mask_fill),
        second=None if view.second is None else pasted(view.second, mask_fill),
        objects=None if view.objects is None else pasted(view.objects, 0),
        scores=None if view.scores is None else pasted(view.scores, 0),
        valid=pasted(valid, False),
    )
    ends = (rows.there.stop, columns.there.stop)
    return _with_boxes(moved, lambda boxes: clip(boxes + shift, rows.target, columns.target, *ends))


def clip(boxes: Tensor, top: float, left: float, bottom: float, right: float) -> Tensor:
    """(n, 4) boxes, what is outside cut off."""
    lowest, highest = torch.tensor([left, top] * 2), torch.tensor([right, bottom] * 2)
    return boxes.clamp(lowest.float(), highest.float())


def _moved(
    sample: Sample,
    smooth: Callable[[Tensor], Tensor],
    hard: Callable[[Tensor], Tensor],
    boxes: Callable[[Tensor], Tensor],
) -> Sample:
    """What is continuous through ``smooth``, mask and validity through ``hard``, box corners through ``boxes``."""
    moved = replace(
        sample,
        image=smooth(sample.image),
        saliency=None if sample.saliency is None else smooth(sample.saliency).clamp(0, 1),
        mask=None if sample.mask is None else hard(sample.mask[None])[0],
        second=None if sample.second is None else hard(sample.second[None])[0],
        objects=None if sample.objects is None else hard(sample.objects[None])[0],
        scores=None if sample.scores is None else smooth(sample.scores).clamp(0, 1),
    )
    if isinstance(moved, View) and moved.valid is not None:
        moved = replace(moved, valid=hard(moved.valid))
    return _with_boxes(moved, boxes)


def _with_boxes(sample: S, move: Callable[[Tensor], Tensor]) -> S:
    """Move the boxes and drop those that are under one pixel then."""
    if sample.unsure is not None:
        sample = replace(sample, unsure=move(sample.unsure))
    if sample.boxes is None or sample.box_classes is None:
        return sample
    boxes = move(sample.boxes)
    kept = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_BOX).all(1)
    return replace(sample, boxes=boxes[kept], box_classes=sample.box_classes[kept])
