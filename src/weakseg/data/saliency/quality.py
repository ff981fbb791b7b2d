"""Is a saliency map fit to learn from?"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate

from weakseg.data.images import read_saliency

SALIENT = 0.5
MIN_SHARE = 0.001
ONE_LEVEL = 1.5 / 255


@dataclass(frozen=True)
class Flaw:
    """Why a saliency map is left out.

    Attributes:
        check: Short name, for an audit.
        problem: What is wrong, without a final full stop.
        remedy: What to do about it.
    """

    check: str
    problem: str
    remedy: str


def read_usable(path: Path, size: tuple[int, int]) -> Tensor | None:
    """(1, H, W) saliency at its image's size H x W, ``None`` if the map has a flaw.

    Raises:
        UserError: See ``read_saliency``.
    """
    saliency = read_saliency(path)
    return None if flaw(saliency, size) else fitted(saliency, size)


def flaw(saliency: Tensor, size: tuple[int, ...]) -> Flaw | None:
    """What makes a map useless for its image: it is empty, everywhere the same, or stretched.

    A map of another size than the image is stretched if its sides are, by more than a pixel's rounding, not those of
    the image multiplied by one number. A map is empty if no more than ``MIN_SHARE`` of it exceeds one half: a method
    that learns from it would hold every object for background.

    Args:
        saliency: (1, h, w) in [0, 1].
        size: Height and width of the image.
    """
    height, width = saliency.shape[-2:]
    if not same_aspect((height, width), (size[0], size[1])):
        return Flaw(
            "saliency-stretched",
            f"is {width} x {height} pixels, stretched against its image of {size[1]} x {size[0]}; it is left out",
            "Make maps in the proportions of their images (an image may be turned by its EXIF data)",
        )
    if saliency.max() - saliency.min() < ONE_LEVEL:
        return Flaw(
            "saliency-constant",
            f"has the same value everywhere ({saliency.mean():.2f}); it is left out",
            "Make the map again, or remove it; its image is used without",
        )
    if (saliency > SALIENT).double().mean() <= MIN_SHARE:
        return Flaw(
            "saliency-empty",
            f"is empty: no more than {100 * MIN_SHARE:g} % of it is brighter than one half; it is left out",
            "Make the map again, with contrast from 0 to 255, or remove it; its image is used without",
        )
    return None


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are one picture's at two scales, up to a pixel's rounding of the smaller."""
    small, large = sorted([one, other])
    return abs(small[0] - large[0] * small[1] / large[1]) <= 1 or abs(small[1] - large[1] * small[0] / large[0]) <= 1


def fitted(saliency: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, h, w) map -> (1, H, W) at its image's size."""
    if saliency.shape[-2:] == size:
        return saliency
    return interpolate(saliency[None], size, mode="bilinear", align_corners=False, antialias=True)[0].clamp(0, 1)
