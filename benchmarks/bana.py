"""Tables 1, 3 and 4 of BANA in miniature: pseudo-masks from boxes in several ways, and what is learnt from them.

    python -m benchmarks.bana --data PATH_OF_MSRC_MINI --seeds 0 1 2
    python -m benchmarks.bana --data PATH_OF_MSRC_MINI --segment --seeds 0 1 2
    PYTHONPATH=DIR python -m benchmarks.bana --data PATH_OF_MSRC_MINI --seconds      # pydensecrf2 in DIR, if at all

Makes the masks of the training images from plain boxes, by GrabCut, by a CRF started from boxes, and by BANA: with
plain averages instead of background-aware pooling and nothing of its attention (GAP), with these averages and u_0 all
the same, with its pooling but without u_0, and as it is, with both label maps and the pixels on which they agree, once
for each seed. Writes results/bana.csv.

``--segment`` trains segmenters on BANA's masks instead: cross-entropy on either label map and on the pixels on which
both agree, and the noise-aware loss, once for each seed. Writes results/bana-segmenters.csv.

``--seconds`` tells how long labelling an image takes in one thread, step by step, medians over ``--count`` images: in
the paper everything but the CRF takes a fifth of the time. Writes results/bana-seconds.csv.

Run folders lie below ``--runs``; a second call goes on with them. Prints whether the paper's order holds, and ends with
status 1 if it does not.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median, stdev
from time import perf_counter
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import weakseg
from benchmarks.crf import Case, Photograph, reference
from benchmarks.timing import Row, write_table
from weakseg.data.maps import LocalizationMaps
from weakseg.methods.method import Views
from weakseg.networks.weights import load_weights
from weakseg.ops.box_masks import inside_boxes
from weakseg.pipeline.experiment import Experiment
from weakseg.pipeline.inference import as_batch, ready
from weakseg.pipeline.progress import Silent
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.shipped import recipe_path
from weakseg.refine.box_crf import BoxCRF, box_probabilities
from weakseg.refine.boxes import BoxesRefiner
from weakseg.refine.grabcut import GrabCut
from weakseg.refine.masks import at_image_size, background_of
from weakseg.refine.retrieval import Retrieval

T = TypeVar("T")
BOXES, BANA = "mini/boxes", "mini/bana"
LABELLING = ("mask@train", "second@train", "agreed@train")
OWN_VIEWS = "features, attention and maps, from the recipe's views"
IN_ALL = {
    "boxes and CRF, in all": ("boxes", "CRF from boxes"),
    "Y_crf, in all": (OWN_VIEWS, "CRF"),
    "Y_crf and Y_ret, in all": (OWN_VIEWS, "CRF", "retrieval"),
}
NAMES = {"mask@train": "", "second@train": ", Y_ret", "agreed@train": ", Y_crf & Y_ret"}


@dataclass(frozen=True)
class Way:
    """A way to label, or to learn from labels.

    Attributes:
        name: In the table.
        recipe: Its recipe.
        settings: What differs from it.
        after: The way that it starts from: its network, or also its maps and masks.
    """

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    after: str | None = None


LABELLERS = (
    Way("boxes", BOXES, ("refine=[boxes]",)),
    Way("grabcut", BOXES, ("refine=[grabcut]",)),
    Way("boxes + CRF", BOXES),
    Way("gap with u_0", BANA, ("localize.method={name: bana, pooling: gap}", "second=[]")),
    Way("gap", BANA, ("localize.method={name: bana, pooling: gap, background: cam}", "second=[]"), "gap with u_0"),
    Way("bap", BANA),
    Way("bap without u_0", BANA, ("localize.method={name: bana, background: cam}", "second=[]"), "bap"),
)
OURS = next(way for way in LABELLERS if way.name == "bap")
LEARNERS = (
    Way("Y_crf", BANA, ("segment.loss=cross_entropy",), "bap"),
    Way("Y_ret", BANA, ("segment.loss=cross_entropy", "segment.masks=second"), "bap"),
    Way("agreement", BANA, ("segment.loss=cross_entropy", "segment.masks=agreed"), "bap"),
    Way("noise-aware", BANA, (), "bap"),
)


def folder_of(way: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The run folder of a way."""
    return Path(arguments.runs) / f"{way.replace(' ', '-')}-{seed}"


def ran(way: Way, seed: int, arguments: argparse.Namespace) -> Path:
    """The run folder of a way, after its run; masks do not depend on a learner's seed."""
    folder, learns = folder_of(way.name, seed, arguments), way in LEARNERS
    if way.after is not None and not folder.exists():
        shutil.copytree(folder_of(way.after, 0 if learns else seed, arguments), folder)
    settings = [f"data.root={arguments.data}", f"run.folder={folder}", *way.settings]
    settings += arguments.settings if way.recipe == BANA else []
    settings += [f"segment.seed={seed}"] if learns else ["segment=none", f"seed={seed}"]
    weakseg.run(recipe_path(way.recipe), overrides=settings, until="evaluate")
    return folder


def labelled(way: Way, seed: int, arguments: argparse.Namespace) -> Iterator[Row]:
    """One row for each kind of pseudo-mask."""
    folder = ran(way, seed, arguments)
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    seconds = json.loads((folder / "timings.json").read_text(encoding="utf-8"))
    for protocol in LABELLING:
        if protocol in found:
            yield {
                **{"way": way.name + NAMES[protocol], "seed": seed, "protocol": protocol},
                "miou": rounded(found, protocol),
                "compared": found[protocol].get("compared"),
                "filling_rate": found[protocol].get("filling_rate"),
                "cam_precision": found.get("seed@train", {}).get("cam_precision"),
                "box_accuracy": found.get("boxes@val", {}).get("box_accuracy"),
                **{f"seconds_{name}": seconds.get(name, {}).get("seconds") for name in ("localizer", "maps", "masks")},
            }


def learnt(way: Way, seed: int, arguments: argparse.Namespace) -> Row:
    """The row of a segmenter."""
    folder = ran(way, seed, arguments)
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    seconds = json.loads((folder / "timings.json").read_text(encoding="utf-8"))["segmenter"]["seconds"]
    row: Row = {"way": way.name, "seed": seed, "protocol": "seg@val", "miou": rounded(found, "seg@val")}
    return row | {"seconds_segmenter": seconds}


def labelling_seconds(folder: Path, count: int) -> Iterator[Row]:
    """Median seconds of each step of labelling an image as a run does, in one thread, steps taking turns on each image.

    Maps also from one view at the image's size, as in the paper; the CRF also of pydensecrf, where it is installed.
    """
    experiment = Experiment(load_recipe(folder / "recipe.yaml"), Silent())
    dataset, settings = experiment.train_set, experiment.localize
    load_weights(experiment.method, folder / "localizer.safetensors")
    method = ready(experiment.method, experiment.device)
    paper = Views(scales=(1.0,), flip=False, stride=settings.stride)
    own = Views(settings.scales, settings.flip, settings.stride)
    spent: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        start = perf_counter()
        result = work()
        spent.setdefault(name, []).append(perf_counter() - start)
        return result

    for image_id in dataset.ids[: count + 1]:
        sample = dataset.sample(image_id)
        batch = as_batch([sample], len(dataset.classes), method.backbone.mean, method.backbone.std)
        with torch.no_grad(), experiment.device.autocast(settings.precision):
            timed("features", partial(method.backbone, batch.images))
            timed("features, attention and maps", partial(method.localize, batch, paper))
            maps = timed(OWN_VIEWS, partial(method.localize, batch, own))[0]
        maps = replace(maps, boxes=sample.boxes, box_classes=sample.box_classes)
        refined = timed("CRF", partial(BoxCRF().refine, sample.image, maps))
        if find_spec("pydensecrf"):
            given = photograph(sample.image, maps)
            timed("CRF of pydensecrf", partial(reference, given, Case("G", len(given.given), None)))
        timed("retrieval", partial(Retrieval().refine, sample.image, refined))
        filled = timed("boxes", partial(BoxesRefiner().refine, sample.image, maps))
        timed("CRF from boxes", partial(BoxCRF(params="D").refine, sample.image, filled))
        timed("GrabCut", partial(GrabCut().refine, sample.image, maps))
    medians = {name: median(seconds[1:]) for name, seconds in spent.items()}  # the first of each compiles
    totals = {name: sum(medians[step] for step in steps) for name, steps in IN_ALL.items()}
    for name, value in (medians | totals).items():
        yield {"step": name, "images": count, "seconds": round(value, 4)}


def photograph(image: Tensor, maps: LocalizationMaps) -> Photograph:
    """What ``BoxCRF`` starts from, for another CRF."""
    full, boxes = at_image_size(maps), maps.boxes
    assert boxes is not None
    start = box_probabilities(background_of(full), full.scores, inside_boxes(boxes, maps.size))
    return Photograph(image.permute(1, 2, 0).contiguous().numpy(), start.numpy())


def rounded(found: dict[str, dict[str, float]], protocol: str) -> float:
    """The mIoU of a protocol."""
    return round(found[protocol]["miou"], 4)


def mean_miou(rows: Sequence[Row], way: str) -> float:
    """The mean over a way's seeds."""
    return fmean(float(str(row["miou"])) for row in rows if row["way"] == way)


def label_trends(rows: Sequence[Row]) -> dict[str, bool]:
    """What is expected of BANA's masks, and whether it is so here."""
    of = partial(mean_miou, rows)
    return {
        "Y_crf at least 5 points above boxes + CRF": of("bap") >= of("boxes + CRF") + 0.05,
        "Table 1: boxes + CRF above GrabCut": of("boxes + CRF") > of("grabcut"),
        "Table 1: Y_crf above GAP": of("bap") > of("gap"),
        "Table 1: BAP above GAP, without u_0, too": of("bap without u_0") > of("gap"),
        "Table 1: Y_crf above background maps instead of u_0": of("bap") > of("bap without u_0"),
        "Table 1: Y_crf above Y_ret": of("bap") > of("bap, Y_ret"),
        "Table 1: agreed pixels above all": of("bap, Y_crf & Y_ret") > max(of("bap"), of("bap, Y_ret")),
    }


def loss_trends(rows: Sequence[Row]) -> dict[str, bool]:
    """What is expected of the noise-aware loss, and whether it is so here."""
    of = partial(mean_miou, rows)
    return {
        "Table 4: Y_crf above Y_ret": of("Y_crf") > of("Y_ret"),
        "Table 4: the noise-aware loss above cross-entropy on Y_crf": of("noise-aware") > of("Y_crf"),
        "Table 3: the noise-aware loss above cross-entropy on agreed pixels": of("noise-aware") > of("agreement"),
    }


def time_trends(rows: Sequence[Row]) -> dict[str, bool]:
    """Whether maps take a quarter of the CRF's time, as in the paper (supp. Table 4, with features from a GPU)."""
    taken = {str(row["step"]): float(str(row["seconds"])) for row in rows}
    maps, features, own = (taken[step] for step in ("features, attention and maps", "features", OWN_VIEWS))
    return {
        f"{what} take at most 25 % of {crf}": part <= 0.25 * taken[crf]
        for crf in ("CRF", "CRF of pydensecrf")
        if crf in taken
        for what, part in (
            ("maps", maps),
            ("maps without the network's features", maps - features),
            ("maps from the recipe's views", own),
        )
    }


def spread(rows: Sequence[Row]) -> Iterator[str]:
    """Mean and deviation of each way over its seeds."""
    for way in dict.fromkeys(str(row["way"]) for row in rows):
        values = [100 * float(str(row["miou"])) for row in rows if row["way"] == way]
        deviation = f" +- {stdev(values):.1f}" if len(values) > 1 else ""
        yield f"{way}: {fmean(values):.1f}{deviation}"


def show(rows: Sequence[Row], console: Console) -> None:
    """A table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


def parsed() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description="Tables 1, 3 and 4 of BANA in miniature.")
    parser.add_argument("--data", type=Path, required=True, help="boxes and true masks")
    parser.add_argument("--segment", action="store_true", help="train segmenters, instead of comparing masks")
    parser.add_argument("--seconds", action="store_true", help="time the labelling, instead of comparing masks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of what is trained")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of BANA's recipe")
    parser.add_argument("--count", type=int, default=30, help="images on which the steps are timed")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-bana"))
    parser.add_argument("--output", type=Path, default=Path("results/bana.csv"))
    return parser.parse_args()


def labels(arguments: argparse.Namespace, console: Console) -> dict[str, bool]:
    """Masks made in several ways."""
    rows: list[Row] = []
    for way in LABELLERS:
        for seed in arguments.seeds if way.recipe == BANA else [0]:
            rows += labelled(way, seed, arguments)
            write_table(rows, arguments.output)
    for line in spread(rows):
        console.print(line)
    return label_trends(rows)


def seconds(arguments: argparse.Namespace, console: Console) -> dict[str, bool]:
    """What the steps of labelling take."""
    folder = ran(OURS, 0, arguments)
    torch.set_num_threads(1)
    rows = list(labelling_seconds(folder, arguments.count))
    write_table(rows, arguments.output.with_name(f"{arguments.output.stem}-seconds.csv"))
    show(rows, console)
    return time_trends(rows)


def segmenters(arguments: argparse.Namespace, console: Console) -> dict[str, bool]:
    """What is learnt from BANA's masks."""
    ran(OURS, 0, arguments)
    rows: list[Row] = []
    for seed in arguments.seeds:
        for way in LEARNERS:
            rows.append(learnt(way, seed, arguments))
            write_table(rows, arguments.output.with_name(f"{arguments.output.stem}-segmenters.csv"))
    show(rows, console)
    for line in spread(rows):
        console.print(line)
    return loss_trends(rows)


def main() -> None:
    """Measure, write, print."""
    arguments, console = parsed(), Console()
    work = segmenters if arguments.segment else seconds if arguments.seconds else labels
    judged = work(arguments, console)
    for sentence, holds in judged.items():
        console.print(f"{'holds  ' if holds else 'differs'}  {sentence}")
    sys.exit(0 if all(judged.values()) else 1)


if __name__ == "__main__":
    main()
