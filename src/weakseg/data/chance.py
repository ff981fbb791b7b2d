"""Chance that can be repeated: all of it comes from an explicit generator."""

import hashlib
import struct

import torch
from torch import Generator


def sample_seed(run_seed: int, epoch: int, index: int) -> int:
    """Seed for one sample in one epoch: a hash, the same on every machine.

    Returns:
        An integer in [0, 2^63).
    """
    digest = hashlib.blake2b(struct.pack("<qqq", run_seed, epoch, index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniform(generator: Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def integer(generator: Generator, low: int, high: int) -> int:
    """An integer in [low, high], both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
