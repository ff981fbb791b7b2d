"""Arrays from the ``.params`` files of MXNet, read without MXNet.

The container is that of ``mxnet.nd.save`` (Apache MXNet; three versions of it, little-endian, nothing compressed): a
magic number, then the arrays, each with its shape, device, type and bytes, then their names. It holds numbers only, so
there is nothing in it that could be executed.
"""

import struct
from math import prod

import numpy as np
import torch
from torch import Tensor

LIST, VERSION_1, VERSION_2 = 0x112, 0xF993FAC8, 0xF993FAC9
DENSE = 0
DTYPES = dict(enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")))


def parse_params(content: bytes) -> dict[str, Tensor]:
    """Tensors by name, ``arg:`` and ``aux:`` included.

    Args:
        content: Of a whole file.

    Raises:
        ValueError: If it is no such file, ends too early, or holds sparse arrays.
    """
    reader = _Reader(content)
    if reader.number("Q") != LIST:
        raise ValueError("not an MXNet file of arrays")
    reader.number("Q")  # reserved
    arrays = [reader.array() for _ in range(reader.number("Q"))]
    names = [bytes(reader.take(reader.number("Q"))).decode() for _ in range(reader.number("Q"))]
    return dict(zip(names, arrays, strict=True))


class _Reader:
    """A position in the content that cannot run over its end."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = memoryview(content), 0

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        end = self.position + count
        if end > len(self.content):
            raise ValueError("the file ends too early")
        start, self.position = self.position, end
        return self.content[start:end]

    def number(self, kind: str) -> int:
        """The next number, ``kind`` as in ``struct``."""
        return int(struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0])

    def array(self) -> Tensor:
        """The next array."""
        shape = self.shape()
        self.take(8)  # kind and number of the device
        kind = self.number("i")
        if kind not in DTYPES:
            raise ValueError(f"unknown type of array {kind}")
        dtype = np.dtype(DTYPES[kind])
        values = np.frombuffer(self.take(prod(shape) * dtype.itemsize), dtype)
        return torch.from_numpy(values.reshape(shape).copy())

    def shape(self) -> tuple[int, ...]:
        """The next shape; before version 1 there was no magic number, and the first one is the number of dimensions."""
        first = self.number("I")
        if first == VERSION_2 and self.number("i") != DENSE:
            raise ValueError("sparse arrays are not supported")
        versioned = first in (VERSION_1, VERSION_2)
        dimensions = self.number("I") if versioned else first
        if not 0 < dimensions <= 8:
            raise ValueError(f"an array of {dimensions} dimensions")
        shape = tuple(self.number("q" if versioned else "I") for _ in range(dimensions))
        if min(shape) < 1:
            raise ValueError(f"an array of shape {shape}")
        return shape
