"""Batch normalisation of pretrained networks: trained, on stored statistics, or frozen."""

from typing import Literal

from torch import nn

NormMode = Literal["train", "statistics", "frozen"]


def batchnorm_layers(network: nn.Module) -> list[nn.Module]:
    """All batch normalisation layers of a network."""
    return [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def hold_statistics(network: nn.Module, mode: NormMode) -> None:
    """Unless they are to be trained, let the layers use their stored mean and deviation; to be called after train()."""
    if mode != "train":
        for layer in batchnorm_layers(network):
            layer.eval()


def freeze_affine(network: nn.Module, mode: NormMode) -> None:
    """In mode "frozen", keep scale and shift as they are."""
    if mode == "frozen":
        for layer in batchnorm_layers(network):
            layer.requires_grad_(False)
