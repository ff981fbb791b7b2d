"""Training steps of small networks on a CPU, with depthwise convolutions as they are and as they are trained here.

    python -m benchmarks.depthwise
    python -m benchmarks.depthwise --precision bf16      # on a processor that has it

Those with a stride or a dilation are trained in float32, and without a dilation. Both ways take turns on the same
images, in as many threads as there are cores; writes results/depthwise.csv, in which rows of the other precision stay
as they are. It needs no data.
"""

import argparse
import copy
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.timing import Row, compare, read_table, write_table
from weakseg.networks.backbone import Backbone
from weakseg.networks.depthwise import trained_fast

NETWORKS = ("mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "resnet18")
STRIDES = (16, 8)


def measured(name: str, stride: int, precision: str, side: int, batch: int, count: int) -> Row:
    """Seconds of forward and backward pass, medians, and how many times faster ours are."""
    torch.manual_seed(0)
    plain = Backbone(name, weights="none", output_stride=stride).to(memory_format=torch.channels_last).train()
    ours = trained_fast(copy.deepcopy(plain))
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)

    def step(network: Backbone, given: Tensor) -> Tensor:
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            features: Tensor = network(given)
        features.float().square().mean().backward()
        return features.detach()[:1].float()

    step(plain, images)
    row = compare([images] * count, lambda given: step(ours, given), lambda given: step(plain, given))
    kept = {name: row[name] for name in ("seconds", "reference_seconds", "ratio")}
    return {"network": name, "output_stride": stride, "precision": precision, "side": side, "batch": batch, **kept}


def earlier(table: Path, precision: str) -> list[Row]:
    """The rows of a table that are of another precision."""
    return [row for row in read_table(table) if row["precision"] != precision]


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description="Depthwise convolutions in training, against PyTorch's.")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="timm backbones")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--count", type=int, default=5, help="steps of each")
    parser.add_argument("--output", type=Path, default=Path("results/depthwise.csv"))
    arguments = parser.parse_args()
    console, rows = Console(), earlier(arguments.output, arguments.precision)
    for name in arguments.networks:
        for stride in STRIDES:
            rows.append(measured(name, stride, arguments.precision, arguments.side, arguments.batch, arguments.count))
            write_table(rows, arguments.output)
            console.print(rows[-1], highlight=False)


if __name__ == "__main__":
    main()
