"""Training steps of small networks in bfloat16 on a CPU, with depthwise convolutions in float32 and without.

    python -m benchmarks.depthwise

Both take turns on the same images, in as many threads as there are cores; writes results/depthwise.csv. It needs no
data; on a processor without bfloat16 the figures mean nothing.
"""

import argparse
import copy
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.timing import Row, compare, write_table
from weakseg.networks.backbone import Backbone
from weakseg.networks.depthwise import in_float32

NETWORKS = ("mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "resnet18")
STRIDES = (16, 8)


def measured(name: str, stride: int, side: int, batch: int, count: int) -> Row:
    """Seconds of forward and backward pass, medians, and how many times faster float32 makes them."""
    torch.manual_seed(0)
    plain = Backbone(name, weights="none", output_stride=stride).to(memory_format=torch.channels_last).train()
    mixed = in_float32(copy.deepcopy(plain))
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)

    def step(network: Backbone, given: Tensor) -> Tensor:
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features: Tensor = network(given)
        features.float().square().mean().backward()
        return features.detach()[:1].float()

    step(plain, images)
    row = compare([images] * count, lambda given: step(mixed, given), lambda given: step(plain, given))
    kept = {name: row[name] for name in ("seconds", "reference_seconds", "ratio")}
    return {"network": name, "output_stride": stride, "side": side, "batch": batch, **kept}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description="Depthwise convolutions in float32 against bfloat16.")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="timm backbones")
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--count", type=int, default=5, help="steps of each")
    parser.add_argument("--output", type=Path, default=Path("results/depthwise.csv"))
    arguments = parser.parse_args()
    console, rows = Console(), list[Row]()
    for name in arguments.networks:
        for stride in STRIDES:
            rows.append(measured(name, stride, arguments.side, arguments.batch, arguments.count))
            write_table(rows, arguments.output)
            console.print(rows[-1], highlight=False)


if __name__ == "__main__":
    main()
