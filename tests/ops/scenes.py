"""Pictures with something to segment."""

import torch
from torch.nn.functional import avg_pool2d, interpolate


def scene(height, width, labels, seed=0):
    """A picture of as many shaded, noisy surfaces as labels, and their blurred outlines as probabilities."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, labels + 3, 4, 4, generator=generator)
    smooth = interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0]
    surface = smooth[:labels].argmax(0)
    colour = 30 + 170 * torch.rand(labels, 3, generator=generator)[surface]
    noise = torch.randn(height, width, 3, generator=generator)
    image = (colour + 40 * smooth[labels:].permute(1, 2, 0) + 2 * noise).round().clamp(0, 255).byte()
    outlines = (surface == torch.arange(labels)[:, None, None]).float()
    blurred = avg_pool2d(outlines, 7, 1, 3, count_include_pad=False)
    return image, 0.8 * blurred + 0.2 / labels
