"""Every method of the registry, held to the interface."""

import pytest

from tests.data.trees import refusal
from tests.methods.conformance import Conformance, Setup
from weakseg.methods.registry import METHODS, create_method, method_class

SETUPS: dict[str, Setup] = {}  # for methods that need another backbone or options than the usual


@pytest.mark.parametrize("setup", [SETUPS.get(name, Setup(name)) for name in METHODS], ids=list(METHODS))
class TestMethods(Conformance):
    @pytest.fixture
    def method(self, setup):
        self.setup = setup
        return setup.build()

    @pytest.fixture(autouse=True)
    def _setup(self, setup):
        self.setup = setup


class TestOnATransformer(Conformance):
    """CAM does not care what the backbone is made of."""

    setup = Setup("cam", backbone="test_vit", settings={"output_stride": None})


def test_an_unknown_method_lists_near_ones():
    refusal(lambda: method_class("cma"), "unknown method 'cma'", "'cam'")


def test_a_method_with_a_backbone_by_name_needs_that_name():
    refusal(lambda: create_method("cam", "resnet10", 3), "'resnet10'", "'resnet10t'")
