"""Samples for the tests of transforms."""

import torch
from torch import Generator

from weakseg.data.sample import Sample


def seeded(seed=0):
    return Generator().manual_seed(seed)


def square(height=90, width=120, top=20, left=40, side=40):
    """A white square on black; mask, saliency map and box say where it is."""
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[top : top + side, left : left + side] = True
    return Sample(
        id="square",
        image=(inside * 255).to(torch.uint8).repeat(3, 1, 1),
        tags=torch.tensor([False, True]),
        boxes=torch.tensor([[left, top, left + side, top + side]]).float(),
        box_classes=torch.tensor([1]),
        saliency=inside[None].float(),
        mask=inside.to(torch.uint8) * 2,
        scores=torch.stack([~inside, inside]).half(),
        objects=inside.int() * 300,
        object_classes=torch.ones(300, dtype=torch.int64),
    )


def noise(height=60, width=80, seed=0):
    """Everything random."""
    generator = seeded(seed)
    return Sample(
        id="noise",
        image=torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        boxes=torch.tensor([[3.0, 5.0, 50.0, 40.0], [0.0, 0.0, 10.0, 60.0]]),
        box_classes=torch.tensor([0, 1]),
        saliency=torch.rand(1, height, width, generator=generator),
        mask=torch.randint(0, 3, (height, width), generator=generator, dtype=torch.uint8),
        scores=torch.rand(4, height, width, generator=generator).half(),
        objects=torch.randint(0, 1000, (height, width), generator=generator, dtype=torch.int32),
        object_classes=torch.randint(0, 2, (999,), generator=generator),
    )


def same(one, other):
    """Whether two samples are equal bit for bit."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
