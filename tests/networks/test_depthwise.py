"""Depthwise convolutions trained in float32 under autocast on the CPU, and undilated."""

import copy
from typing import Any

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.functional import conv2d

from weakseg.networks import depthwise
from weakseg.networks.depthwise import dilated_depthwise, trained_fast


def layer_of(kind: type[nn.Conv2d], stride: int = 1, dilation: int = 1, groups: int = 6) -> nn.Conv2d:
    torch.manual_seed(0)
    padding = 0 if kind is Conv2dSame else dilation
    return kind(6, 6, 3, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False)


def gradients(layer: nn.Module, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output and gradients, of features and of weights, under autocast."""
    inputs = features.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(inputs)
    (output.float() ** 2).sum().backward()
    assert inputs.grad is not None
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.grad is not None
    return output, inputs.grad, layer.weight.grad


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (1, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("size", [(9, 12), (1, 1)])
def test_output_and_gradients_are_those_of_float32(
    kind: type[nn.Conv2d], stride: int, dilation: int, size: tuple[int, int]
) -> None:
    layer, features = layer_of(kind, stride, dilation), torch.randn(2, 6, *size)
    expected = layer(features)
    output, to_features, to_weights = gradients(trained_fast(copy.deepcopy(layer)), features)
    assert output.dtype is torch.bfloat16
    assert torch.equal(output, expected.to(torch.bfloat16))
    inputs = features.clone().requires_grad_()
    # What comes back to the layer has passed the rounded output.
    layer(inputs).backward((2 * output.detach().float()).to(torch.bfloat16).float())
    assert inputs.grad is not None
    assert layer.weight.grad is not None
    assert torch.allclose(to_features, inputs.grad, rtol=1e-2, atol=1e-2)
    assert torch.allclose(to_weights, layer.weight.grad, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dilation", [(1, 1), (2, 2), (3, 2), (4, 1)])
@pytest.mark.parametrize(("size", "taps", "times"), [((8, 12), (3, 3), 1), ((7, 9), (3, 5), 1), ((1, 2), (1, 3), 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_dilated_convolution_is_several_without_dilation(
    dilation: tuple[int, int], size: tuple[int, int], taps: tuple[int, int], times: int, bias: bool
) -> None:
    torch.manual_seed(0)
    padding = tuple(step * times * (count // 2) for step, count in zip(dilation, taps, strict=True))
    features = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, *taps, dtype=torch.float64, requires_grad=True)
    given = (features, weight, *([torch.randn(4, dtype=torch.float64, requires_grad=True)] if bias else []))
    expected = conv2d(*given, padding=padding, dilation=dilation, groups=4)
    found = dilated_depthwise(features, weight, given[2] if bias else None, padding, dilation)
    torch.testing.assert_close(found, expected)
    back = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, given, back), torch.autograd.grad(expected, given, back), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("options", "interleaved"),
    [
        ({"dilation": 2, "padding": 2}, True),
        ({"dilation": 2, "padding": 0}, True),
        ({"dilation": 2, "padding": 1}, False),
        ({"dilation": 2, "padding": "same"}, False),
        ({"dilation": 2, "padding": 2, "padding_mode": "reflect"}, False),
        ({"dilation": 2, "padding": 2, "stride": 2}, False),
    ],
)
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_layers_give_what_they_gave(
    options: dict[str, Any], interleaved: bool, memory: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 12, 3, groups=6, **options).to(memory_format=memory)
    changed = trained_fast(copy.deepcopy(layer))
    features = torch.randn(2, 6, 9, 11).contiguous(memory_format=memory)
    used = list[bool]()
    monkeypatch.setattr(depthwise, "dilated_depthwise", lambda *given: used.append(True) or dilated_depthwise(*given))
    torch.testing.assert_close(changed(features), layer(features))
    assert used == [True] * interleaved
    with torch.no_grad():
        assert torch.equal(changed(features), layer(features))
    assert used == [True] * interleaved


@pytest.mark.parametrize(
    ("size", "interleaved"), [((9, 11), True), ((8, 11), False), ((11, 8), False), ((1, 1), False)]
)
def test_grids_of_few_cells_are_left_alone(
    size: tuple[int, int], interleaved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.Conv2d(6, 6, 3, groups=6, dilation=4, padding=4)
    changed, features, used = trained_fast(copy.deepcopy(layer)), torch.randn(2, 6, *size), list[bool]()
    monkeypatch.setattr(depthwise, "dilated_depthwise", lambda *given: used.append(True) or dilated_depthwise(*given))
    torch.testing.assert_close(changed(features), layer(features))
    assert used == [True] * interleaved


def test_without_autocast_or_gradient_nothing_changes() -> None:
    layer, features = layer_of(nn.Conv2d, 2), torch.randn(2, 6, 9, 9, dtype=torch.float64)
    changed = trained_fast(copy.deepcopy(layer))
    assert torch.equal(changed.double()(features), layer.double()(features))
    layer.float(), changed.float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(changed(features.float()), layer(features.float()))


def test_only_strided_and_dilated_depthwise_layers_are_changed() -> None:
    same = Conv2dSame(4, 4, 3, stride=2, groups=4)
    strided, grouped = layer_of(nn.Conv2d, stride=2, groups=1), layer_of(nn.Conv2d, dilation=2, groups=2)
    network = nn.Sequential(layer_of(nn.Conv2d), strided, grouped, same)
    names = list(network.state_dict())
    assert trained_fast(network) is network
    assert [type(layer) is nn.Conv2d for layer in network] == [True, True, True, False]
    assert isinstance(same, Conv2dSame)
    assert type(same) is not Conv2dSame
    assert list(network.state_dict()) == names
