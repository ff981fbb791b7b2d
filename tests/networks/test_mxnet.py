"""MXNet's file of arrays: one that MXNet wrote, its older versions, and damage."""

import struct

import numpy as np
import pytest
import torch

from tests.data.trees import refusal
from weakseg.networks.mxnet import parse_params
from weakseg.networks.weights import read_weights

# mxnet.nd.save(file, {"arg:a": mxnet.nd.array([[1, 2, 3]])}) of MXNet 1.9.1
WRITTEN_BY_MXNET = bytes.fromhex(
    "120100000000000000000000000000000100000000000000c9fa93f90000000002000000010000000000000003000000000000000100000000"
    "000000000000000000803f0000004000004040010000000000000005000000000000006172673a61"
)
CODES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
ARRAYS = {name: np.arange(24).reshape(2, 3, 4).astype(name) for name in CODES} | {"scalar": np.ones(1, np.float32)}


def encoded(array, version, code=None):
    heads = {0: b"", 1: struct.pack("<I", 0xF993FAC8), 2: struct.pack("<Ii", 0xF993FAC9, 0)}
    sizes = struct.pack(f"<I{array.ndim}{'q' if version else 'I'}", array.ndim, *array.shape)
    kind = CODES[array.dtype.name] if code is None else code
    return heads[version] + sizes + struct.pack("<iii", 1, 0, kind) + array.tobytes()


def listed(blocks, names, magic=0x112):
    head = struct.pack("<QQQ", magic, 0, len(blocks))
    tail = struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(name)) + name.encode() for name in names)
    return head + b"".join(blocks) + tail


def test_a_file_that_mxnet_wrote(tmp_path):
    (tmp_path / "w.params").write_bytes(WRITTEN_BY_MXNET)
    assert read_weights(tmp_path / "w.params")["arg:a"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("version", [0, 1, 2])
def test_versions_and_types(version):
    found = parse_params(listed([encoded(array, version) for array in ARRAYS.values()], list(ARRAYS)))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == torch.from_numpy(array).dtype
        np.testing.assert_array_equal(found[name].numpy(), array)


def test_every_truncation_is_refused(tmp_path):
    for length in range(len(WRITTEN_BY_MXNET)):
        with pytest.raises(ValueError, match="ends too early"):
            parse_params(WRITTEN_BY_MXNET[:length])
    (tmp_path / "w.params").write_bytes(WRITTEN_BY_MXNET[:50])
    refusal(lambda: read_weights(tmp_path / "w.params"), tmp_path / "w.params", "cannot be read as weights")


ONE = np.ones((1, 2), np.float32)
SPARSE = struct.pack("<IiI2q", 0xF993FAC9, 2, 2, 1, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (listed([encoded(ONE, 2)], ["a"], magic=0x113), "not an MXNet file"),
        (listed([encoded(ONE, 2, code=7)], ["a"]), "type of array 7"),
        (listed([SPARSE], ["a"]), "sparse"),
        (listed([struct.pack("<I", 0)], ["a"]), "0 dimensions"),
        (listed([struct.pack("<I", 0xF993FACA)], ["a"]), "dimensions"),
        (listed([struct.pack("<II2q", 0xF993FAC8, 2, -1, -2)], ["a"]), "shape"),
        (listed([struct.pack("<II2qiii", 0xF993FAC8, 2, 2**40, 2**40, 1, 0, 0)], ["a"]), "too early"),
        (struct.pack("<QQQ", 0x112, 0, 2**60), "too early"),
        (listed([encoded(ONE, 2)], []), "argument 2 is longer"),
        (listed([encoded(ONE, 2)], ["a", "b"]), "argument 2 is shorter"),
    ],
    ids=range(10),
)
def test_what_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_params(content)
