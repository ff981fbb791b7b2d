"""What a training step of single-stage segmentation costs beside cross-entropy, and what refinement has of it.

    python -m benchmarks.single_stage_speed --data PATH_OF_MSRC_MINI
    python -m benchmarks.single_stage_speed --data VOC2012 --recipe single-stage --set localize.backbone.weights=none \
        --device cuda --batch 16 --crop 321

Steps of three kinds take turns on the same images in one process: the recipe's network with cross-entropy against a
fixed map of random labels, single-stage segmentation that learns its masks without refining them, and the whole of it.
The memory of each is that of a process of its own: on a CPU the highest that is resident beyond what was so before the
network was built, on a GPU the highest that is allocated. Network, normalisation and images are the recipe's; writes
results/single_stage-speed.csv, and ends with status 1 if PAMR makes a step longer by 15 % on a CPU or 5 % on a GPU.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.timing import Row, peak_memory, write_table
from weakseg.data.pseudo import WeaklyLabelled
from weakseg.data.sample import Batch
from weakseg.data.transforms import AugmentedDataset
from weakseg.methods.method import Method
from weakseg.methods.single_stage import with_background
from weakseg.networks.depthwise import trained_fast
from weakseg.ops.maps import resize_like
from weakseg.ops.pamr import pamr
from weakseg.pipeline import build
from weakseg.pipeline.device import choose_device
from weakseg.pipeline.recipe import Recipe, load_recipe
from weakseg.pipeline.shipped import recipe_path

PLAIN, UNREFINED, WHOLE = "cross-entropy", "without PAMR", "whole"
WAYS = (PLAIN, UNREFINED, WHOLE)
MOST = {"cpu": 0.15, "cuda": 0.05}  # share of a step that PAMR may add
Step = Callable[[], None]


def chosen_recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe with the settings of the command line."""
    settings = [f"data.root={arguments.data}", *arguments.settings]
    if arguments.crop is not None:
        settings.append(f"localize.train.augment.crop={arguments.crop}")
    if arguments.backbone is not None:
        settings += [f"localize.backbone.name={arguments.backbone}", "localize.backbone.weights=none"]
    return load_recipe(recipe_path(arguments.recipe), settings)


def first_batch(recipe: Recipe, arguments: argparse.Namespace) -> tuple[Batch, int]:
    """The first training images as the recipe augments them, and the number of classes."""
    localize, dataset = recipe.localize, build.dataset(recipe.data, recipe.data.train)
    assert localize is not None
    weak = WeaklyLabelled(dataset, build.needs(localize.method))
    transform = build.transform(localize.train.augment, new_method(recipe, 1).backbone)
    varied = AugmentedDataset(weak, transform, recipe.seed)
    return varied.collate([varied[number] for number in range(arguments.batch)]), len(dataset.classes)


def new_method(recipe: Recipe, num_classes: int, **options: object) -> Method:
    """The recipe's method, the same weights every time."""
    assert recipe.localize is not None
    torch.manual_seed(recipe.seed)
    known = build.method_options(recipe.localize.method)
    return build.method(recipe.localize, {**known, **options}, num_classes)


def training_step(way: str, recipe: Recipe, batch: Batch, num_classes: int, arguments: argparse.Namespace) -> Step:
    """A step of one of ``WAYS``, with a network and an optimiser of its own."""
    options = {"pretrain_epochs": 0, **({"iterations": 0} if way == UNREFINED else {})}
    device, chosen = choose_device(arguments.device, 1), recipe.localize
    assert chosen is not None
    method = new_method(recipe, num_classes, **options).to(device.target, memory_format=torch.channels_last)
    method = trained_fast(method).train()  # as in a run
    groups = method.parameter_groups(chosen.train.lr, chosen.train.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=chosen.train.lr, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes + 1, (len(batch), *batch.images.shape[-2:]), generator=generator)
    labels = labels.to(device.target)

    def plain() -> Tensor:
        logits = with_background(method(batch.images).scores.float())
        return cross_entropy(resize_like(logits, batch.images, align_corners=True), labels)

    def own() -> Tensor:
        return torch.stack(list(method.losses(batch).values())).sum()

    def step() -> None:
        optimizer.zero_grad()
        with device.autocast(arguments.precision):
            loss = (plain if way == PLAIN else own)()
        loss.backward()
        optimizer.step()
        if device.kind == "cuda":
            torch.cuda.synchronize()

    return step


def prepared(arguments: argparse.Namespace) -> tuple[Recipe, Batch, int]:
    """What all ways have in common, on the device; what PAMR compiles is compiled."""
    recipe, device = chosen_recipe(arguments), choose_device(arguments.device, 1)
    batch, num_classes = first_batch(recipe, arguments)
    pamr(torch.rand(1, 3, 8, 8), torch.rand(1, 2, 8, 8), iterations=1)
    batch = batch.to(device.target)
    object.__setattr__(batch, "images", batch.images.contiguous(memory_format=torch.channels_last))
    return recipe, batch, num_classes


def step_seconds(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each step of each way, after two that do not count; ways take turns."""
    common = prepared(arguments)
    steps = {way: training_step(way, *common, arguments) for way in WAYS}
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.count + 2):
        for way, step in steps.items():
            start = perf_counter()
            step()
            if number >= 2:
                spent[way].append(perf_counter() - start)
    return spent


def step_memory(way: str, arguments: argparse.Namespace) -> float | None:
    """MB that network, optimiser and three steps take at the most; ``None`` where the system does not tell."""
    common = prepared(arguments)

    def work(chosen: str) -> Tensor:
        step = training_step(chosen, *common, arguments)
        for _ in range(3):
            step()
        return torch.empty(0)

    if arguments.device != "cuda":
        return peak_memory(work, way)
    work(way)
    return torch.cuda.max_memory_allocated() / 1e6


def of_its_own(way: str) -> float | None:
    """``step_memory`` in a fresh process, which is called like this one."""
    command = [sys.executable, "-m", "benchmarks.single_stage_speed", *sys.argv[1:], "--memory-of", way]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: float | None = json.loads(told.splitlines()[-1])
    return found


def table(spent: dict[str, Sequence[float]], memory: dict[str, float | None], about: Row) -> list[Row]:
    """A row for each way; ratios are medians over rounds.

    Args:
        spent: Seconds of each way's steps, round by round.
        memory: MB of each way.
        about: Columns that all rows share; its batch tells images from steps.
    """
    rows: list[Row] = []
    for way, seconds in spent.items():
        beside = {name: ratio(seconds, spent[other]) for name, other in (("plain", PLAIN), ("unrefined", UNREFINED))}
        peak, least = memory[way], memory[PLAIN]
        rows.append(
            {
                **{"way": way, **about, "rounds": len(seconds), "seconds": round(median(seconds), 4)},
                "images_per_second": round(int(str(about["batch"])) / median(seconds), 2),
                **{f"seconds_to_{name}": round(value, 3) for name, value in beside.items()},
                "peak_mb": None if peak is None else round(peak, 1),
                "memory_to_plain": None if peak is None or not least else round(peak / least, 3),
            }
        )
    return rows


def ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median over rounds of how many times as long the one took."""
    return median(one / other for one, other in zip(seconds, others, strict=True))


def parsed() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description="Speed and memory of training steps of single-stage segmentation.")
    parser.add_argument("--data", type=Path, required=True, help="images with tags")
    parser.add_argument("--recipe", default="mini/single-stage")
    parser.add_argument("--backbone", help="another one than the recipe's, with random weights")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, help="the recipe's if not given")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32", choices=["auto", "32", "bf16"])
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--count", type=int, default=15, help="rounds")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--output", type=Path, default=Path("results/single_stage-speed.csv"))
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, write, print."""
    arguments = parsed()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.memory_of is not None:
        print(json.dumps(step_memory(arguments.memory_of, arguments)))
        return
    memory = {way: of_its_own(way) for way in WAYS}
    spent, localize = step_seconds(arguments), chosen_recipe(arguments).localize
    assert localize is not None
    about: Row = {"backbone": localize.backbone.name, "batch": arguments.batch, "crop": localize.train.augment.crop}
    about |= {"device": arguments.device, "precision": arguments.precision, "threads": torch.get_num_threads()}
    rows = table(dict(spent), memory, about)
    write_table(rows, arguments.output)
    console, own = Console(), [name for name in rows[0] if name not in about]
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    shown = Table(*own)
    for row in rows:
        shown.add_row(*("" if row[name] is None else str(row[name]) for name in own))
    console.print(shown)
    share, limit = ratio(spent[WHOLE], spent[UNREFINED]) - 1, MOST[arguments.device]
    console.print(f"PAMR makes a step {100 * share:.1f} % longer")
    console.print(f"{'holds  ' if share < limit else 'differs'}  that is less than {100 * limit:.0f} %")
    sys.exit(0 if share < limit else 1)


if __name__ == "__main__":
    main()
