"""Transforms of colour; see ``transforms``."""

from dataclasses import dataclass, replace

import cv2
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as tv

from weakseg.data.chance import integer, uniform
from weakseg.data.sample import Sample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Triple = tuple[float, ...]  # red, green, blue


@dataclass(frozen=True)
class ColourJitter:
    """Brightness, contrast, saturation and hue in random order, with torchvision's ranges; for uint8 images.

    Attributes:
        brightness: Factors are drawn from [max(0, 1 - b), 1 + b).
        contrast: Likewise.
        saturation: Likewise.
        hue: Turn of the colour circle, drawn from [-h, h); at most 1/2.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Change the colours of the image."""
        image = sample.image
        for kind in torch.randperm(4, generator=generator).tolist():
            image = self._adjusted(image, kind, generator)
        return replace(sample, image=image)

    def _adjusted(self, image: Tensor, kind: int, generator: Generator) -> Tensor:
        spread = (self.brightness, self.contrast, self.saturation, self.hue)[kind]
        if spread == 0:
            return image
        if kind == 3:
            return adjust_hue(image, uniform(generator, -spread, spread))
        adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)[kind]
        return adjust(image, uniform(generator, max(0.0, 1 - spread), 1 + spread))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class HSVJitter:
    """Integers added to hue, saturation and value, as OpenCV counts them (hue in steps of 2 degrees); for uint8 images.

    Attributes:
        hue: Drawn from [-h, h], modulo 180.
        saturation: Drawn from [-s, s], clipped.
        value: Drawn from [-v, v], clipped.
    """

    hue: int = 10
    saturation: int = 10
    value: int = 10

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Change the colours of the image."""
        spreads = (self.hue, self.saturation, self.value)
        shifts = torch.tensor([integer(generator, -spread, spread) for spread in spreads])
        pixels = sample.image.permute(1, 2, 0).contiguous().numpy()
        moved = torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)).short() + shifts.short()
        moved = torch.stack((moved[..., 0] % 180, *moved[..., 1:].clamp(0, 255).unbind(-1)), dim=-1).to(torch.uint8)
        back = torch.from_numpy(cv2.cvtColor(moved.numpy(), cv2.COLOR_HSV2RGB))
        return replace(sample, image=back.permute(2, 0, 1).contiguous())


def adjust_hue(image: Tensor, turn: float) -> Tensor:
    """Turn the hue of a (3, H, W) uint8 image by a share of the colour circle, in steps of 1/256 as PIL does."""
    hsv = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2HSV_FULL)
    hue = torch.from_numpy(hsv)[..., 0]
    hue += round(turn * 256) % 256
    return torch.from_numpy(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Normalise:
    """``normalised`` as a transform."""

    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Make the image what the network expects."""
        return replace(sample, image=normalised(sample.image, self.mean, self.std))


def normalised(images: Tensor, mean: Triple, std: Triple) -> Tensor:
    """(..., 3, H, W) uint8 to float32, (image / 255 - mean) / std for each channel."""
    centre, spread = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images.float() / 255).sub_(centre).div_(spread)
