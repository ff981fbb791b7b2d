"""Which device is chosen, and in which precision it computes."""

import os

import pytest
import torch

from tests.data.trees import refusal
from weakseg.pipeline.device import Device, choose_device


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_without_a_gpu_the_cpu_computes(no_gpu):
    device = choose_device("auto", 1)
    assert device.kind == "cpu"
    assert device.target == torch.device("cpu")
    assert 1 <= device.cores <= os.cpu_count()


def test_a_gpu_is_taken_where_there_is_one(two_gpus):
    assert choose_device("auto", 2) == Device("cuda", 2, choose_device("cpu", 1).cores)
    assert choose_device("cpu", 1).kind == "cpu"


def test_apples_gpu_is_taken_where_there_is_no_other(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto", 1).kind == "mps"


@pytest.mark.parametrize(
    ("wanted", "count", "words"),
    [
        ("cuda", 1, ("1 cuda device(s) wanted, 0 found", "run.device")),
        ("mps", 1, ("1 mps device(s) wanted", "cpu")),
        ("gpu", 1, ("unknown device 'gpu'", "auto, cpu, cuda or mps")),
    ],
)
def test_a_device_that_is_not_there(no_gpu, wanted, count, words):
    refusal(lambda: choose_device(wanted, count), *words)


def test_more_devices_than_there_are(two_gpus):
    refusal(lambda: choose_device("auto", 3), "3 cuda device(s) wanted, 2 found", "run.devices")


@pytest.mark.parametrize(
    ("wanted", "native", "precision"),
    [
        ("32", True, "32-true"),
        ("32", False, "32-true"),
        ("bf16", False, "bf16-mixed"),
        ("auto", True, "bf16-mixed"),
        ("auto", False, "32-true"),
    ],
)
def test_precision(monkeypatch, wanted, native, precision):
    monkeypatch.setattr(Device, "_has_bf16", lambda _: native)
    device = Device("cpu", 1, 2)
    assert device.precision(wanted) == precision
    with device.autocast(wanted):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if precision == "bf16-mixed" else torch.float32)


@pytest.mark.parametrize(
    ("capabilities", "native"), [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx2": True}, True)]
)
def test_bfloat16_is_native_where_the_processor_says_so(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert (Device("cpu", 1, 2).precision("auto") == "bf16-mixed") is native
    assert Device("mps", 1, 2).precision("auto") == "32-true"


@pytest.mark.parametrize(("kind", "cores", "workers"), [("cpu", 2, 0), ("cpu", 32, 4), ("cuda", 4, 4), ("cuda", 64, 8)])
def test_loading_processes(kind, cores, workers):
    assert Device(kind, 1, cores).workers == workers
