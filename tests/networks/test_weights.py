"""Initial weights from files: whole, damaged, of another kind, of another network."""

import hashlib
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.data.trees import refusal
from weakseg.networks.backbone import Backbone
from weakseg.networks.weights import (
    checksum,
    load_backbone_weights,
    load_weights,
    read_about,
    read_weights,
    save_weights,
)

TENSORS = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.ones(2, dtype=torch.float16)}


class Bomb:
    """What a hostile file would hold."""

    def __reduce__(self):
        return print, ("unpickled",)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def network(width=3):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    assert equal(read_weights(tmp_path / "w.safetensors"), TENSORS)


@pytest.mark.parametrize("content", [TENSORS, {"state_dict": TENSORS, "epoch": 3}])
def test_a_pytorch_file_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert equal(read_weights(tmp_path / "w.pth"), TENSORS)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickled_objects_are_refused_and_never_run(tmp_path, capsys, protocol):
    torch.save({"state_dict": {"a": Bomb()}}, tmp_path / "zip.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    for name in ("zip.pth", "raw.pth"):
        refusal(lambda name=name: read_weights(tmp_path / name), tmp_path / name, "cannot be read as weights")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, torch.zeros(2)])
def test_a_file_without_a_table_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    refusal(lambda: read_weights(tmp_path / "w.pth"), tmp_path / "w.pth", "no table of tensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 5, 200])
def test_a_truncated_file(tmp_path, suffix, kept):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(TENSORS, path)
    else:
        save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    refusal(lambda: read_weights(path), path, "cannot be read as weights")


def test_a_missing_file(tmp_path):
    words = ("no such weights file", "backbone.weights", "'timm'", "'none'")
    refusal(lambda: read_weights(tmp_path / "w.pth"), tmp_path / "w.pth", *words)


def test_checksums(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checksum(path) == expected
    assert equal(read_weights(path, expected.upper()), TENSORS)
    refusal(lambda: read_weights(path, "0" * 64), path, "checksum differs")


def test_what_was_saved_is_read_back(tmp_path):
    one, other = network(), network()
    save_weights(one, tmp_path / "a/w.safetensors", {"classes": "cat\ndög"})
    load_weights(other, tmp_path / "a/w.safetensors")
    assert equal(one.state_dict(), other.state_dict())
    assert read_about(tmp_path / "a/w.safetensors") == {"classes": "cat\ndög"}


def test_saving_twice_gives_the_same_bytes(tmp_path):
    net = network().to(memory_format=torch.channels_last)
    for number in range(8):
        save_weights(net, tmp_path / f"{number}.safetensors", {"x": "1", "y": "2", "z": "3"})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("other", [network(width=4), nn.Linear(2, 2)])
def test_weights_of_another_network(tmp_path, other):
    save_weights(network(), tmp_path / "w.safetensors", {})
    refusal(lambda: load_weights(other, tmp_path / "w.safetensors"), tmp_path / "w.safetensors", "another network")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_a_damaged_header(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    refusal(lambda: read_about(tmp_path / "w.safetensors"), tmp_path / "w.safetensors")


def test_backbone_weights_may_have_a_classifier_and_flattened_names():
    net = network()
    given = {name.replace(".", "_"): torch.full_like(value, 2) for name, value in net.state_dict().items()}
    load_backbone_weights(net, {**given, "fc.weight": torch.zeros(5, 5)}, "file")
    assert all((value == 2).all() for name, value in net.state_dict().items() if "num_batches" not in name)


def test_backbone_weights_take_the_networks_precision():
    net = network()
    load_backbone_weights(net, {name: value.half() for name, value in net.state_dict().items()}, "file")
    assert net[0].weight.dtype == torch.float32


def test_backbone_weights_that_lack_tensors():
    given = network().state_dict()
    del given["0.weight"], given["1.running_var"]
    refusal(lambda: load_backbone_weights(network(), given, "w.pth"), "w.pth", "lacks 2 of the 6", "'0.weight'")


def test_backbone_weights_of_another_shape_change_nothing():
    net = network()
    given = {name: torch.full_like(value, 7) for name, value in net.state_dict().items()} | {
        "1.bias": torch.full((4,), 7.0)
    }
    refusal(lambda: load_backbone_weights(net, given, "w.pth"), "w.pth", "'1.bias'", "(4,)", "(3,)")
    assert not (net[0].weight == 7).any()


def test_a_backbone_starts_from_its_file(tmp_path):
    torch.manual_seed(0)
    source = Backbone("mobilenetv3_small_050", weights="none", output_stride=32)
    save_weights(source.model, tmp_path / "w.safetensors", {})
    torch.manual_seed(1)
    fine = Backbone("mobilenetv3_small_050", weights=str(tmp_path / "w.safetensors"), output_stride=8)
    assert equal(source.state_dict(), fine.state_dict())
    given = {"weights": str(tmp_path / "w.safetensors")}
    refusal(lambda: Backbone("mobilenetv3_small_050", **given, sha256="0" * 64), "checksum")
    refusal(lambda: Backbone("mobilenetv3_small_075", **given), "w.safetensors", "shape")
    refusal(lambda: Backbone("resnet10t", **given), "w.safetensors", "lacks")
