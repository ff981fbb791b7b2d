"""Which device computes, how many of them, and in which precision."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from weakseg.errors import UserError

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class Device:
    """Where to compute.

    Attributes:
        kind: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        count: Number of devices for training.
        cores: Processor cores that this process may use.
    """

    kind: str
    count: int
    cores: int

    @property
    def target(self) -> torch.device:
        """For tensors outside of training."""
        return torch.device(self.kind)

    @property
    def targets(self) -> list[torch.device]:
        """All of them."""
        return [torch.device(self.kind, index) for index in range(self.count)] if self.kind == "cuda" else [self.target]

    @property
    def workers(self) -> int:
        """Loading processes: enough to feed a GPU, few beside a training that needs the cores itself."""
        return min(8, self.cores) if self.kind != "cpu" else self.cores // 8

    def precision(self, wanted: str) -> Precision:
        """bfloat16 where it was asked for, or where the device computes it natively."""
        return "bf16-mixed" if wanted == "bf16" or (wanted == "auto" and self._has_bf16()) else "32-true"

    def autocast(self, wanted: str = "auto") -> torch.autocast:
        """Context of the same precision for inference."""
        return torch.autocast(self.kind, torch.bfloat16, enabled=self.precision(wanted) == "bf16-mixed")

    def _has_bf16(self) -> bool:
        if self.kind == "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return self.kind == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_device(wanted: str, count: int) -> Device:
    """The device that a recipe asks for; ``"auto"`` takes a GPU where there is one.

    Raises:
        UserError: If there is no such device, or fewer of them than asked for.
    """
    available = {"cpu": 10**6, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    kind = next(name for name in ("cuda", "mps", "cpu") if available[name]) if wanted == "auto" else wanted
    if kind not in available:
        raise UserError(f"unknown device '{wanted}'", where="run.device", remedy="Use auto, cpu, cuda or mps")
    if available[kind] < count:
        raise UserError(
            f"{count} {kind} device(s) wanted, {available[kind]} found",
            where="run.devices",
            remedy="Lower run.devices, or set run.device to cpu",
        )
    return Device(
        kind, count, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
