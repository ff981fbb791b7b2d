"""Features of an image with batch normalisation folded into convolutions, and without.

    python -m benchmarks.fold

Both take turns on the same images, one image at a time in one thread; writes results/fold.csv. It needs no data.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.timing import Row, compare, write_table
from weakseg.networks.backbone import Backbone
from weakseg.networks.fold import folded

NETWORKS = ("mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "resnet18", "resnet50")
STRIDE = 16


@torch.no_grad()
def measured(name: str, height: int, width: int, count: int) -> Row:
    """Seconds of a forward pass, medians, and how many times faster folding makes it."""
    torch.manual_seed(0)
    plain = Backbone(name, weights="none", output_stride=STRIDE).to(memory_format=torch.channels_last).eval()
    images = [torch.randn(1, 3, height, width).contiguous(memory_format=torch.channels_last) for _ in range(count)]
    plain(images[0])
    row = compare(images, folded(plain), plain)
    kept = {name: row[name] for name in ("seconds", "reference_seconds", "ratio")}
    return {"network": name, "output_stride": STRIDE, "height": height, "width": width, **kept}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description="Folded batch normalisation in inference.")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="timm backbones")
    parser.add_argument("--size", type=int, nargs=2, default=(213, 320), help="height and width of the images")
    parser.add_argument("--count", type=int, default=15, help="images")
    parser.add_argument("--output", type=Path, default=Path("results/fold.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, rows = Console(), list[Row]()
    for name in arguments.networks:
        rows.append(measured(name, *arguments.size, arguments.count))
        write_table(rows, arguments.output)
        console.print(rows[-1], highlight=False)


if __name__ == "__main__":
    main()
