"""Learning rates by kind of parameter."""

import pytest
import torch
from torch import nn

from weakseg.networks.backbone import Backbone
from weakseg.networks.groups import parameter_groups


class Tiny(nn.Module):
    """One parameter of each kind."""

    def __init__(self):
        super().__init__()
        self.old = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.new = nn.Linear(4, 2)
        self.token = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def settings(model, groups):
    """Name -> (learning rate, decay), each parameter once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [(names[id(p)], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(listed) == len(dict(listed))
    return dict(listed)


def test_rates_and_decay_by_kind():
    net = Tiny()
    found = settings(net, parameter_groups(net, net.old, lr=0.1, weight_decay=0.5))
    assert found == {
        "old.0.weight": (0.1, 0.5),
        "old.0.bias": (0.2, 0.0),
        "old.1.weight": (0.1, 0.0),
        "old.1.bias": (0.1, 0.0),
        "new.weight": (1.0, 0.5),
        "new.bias": (2.0, 0.0),
        "token": (1.0, 0.0),
    }


def test_the_factor_of_new_layers():
    net = Tiny()
    found = settings(net, parameter_groups(net, net.old, lr=0.1, weight_decay=0.5, head_factor=3))
    assert found["new.weight"][0] == pytest.approx(0.3)
    assert found["old.0.weight"][0] == 0.1


def test_a_parameter_in_two_places_is_listed_once():
    net = Tiny()
    net.tied = nn.Linear(4, 2)
    net.tied.weight = net.new.weight
    found = settings(net, parameter_groups(net, net.old, lr=0.1, weight_decay=0.5))
    assert {"new.weight", "tied.bias"} <= set(found)


def test_a_real_backbone_is_covered_and_what_is_frozen_left_out():
    net = nn.ModuleDict(
        {"body": Backbone("resnet10t", weights="none", batchnorm="frozen", freeze=["conv1"]), "head": nn.Linear(2, 2)}
    )
    found = settings(net, parameter_groups(net, net["body"], lr=0.1, weight_decay=0.5))
    assert set(found) == {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert not any("bn" in name or "conv1.0" in name.removeprefix("body.model.layer") for name in found)
    torch.optim.SGD(parameter_groups(net, net["body"], lr=0.1, weight_decay=0.5))
