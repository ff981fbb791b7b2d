"""Dense CRF against pydensecrf: agreement, images per second of one core, peak memory.

    uv pip install --target DIR pydensecrf2          # the reference; has C++ to compile, needed by nothing else
    PYTHONPATH=DIR python -m benchmarks.crf --data PATH_OF_MSRC_MINI

Images and masks are those of a VOC tree, as they are and enlarged to 500 x 375. Probabilities are made from the masks:
blurred, with smooth noise that is the same in every run, and normalised. Set B takes label maps with confidence 0.7:
the best labels after more of such noise, which then nearly all occur; and once the mask's own, as in a pseudo-mask.

Both ways take turns on each image, in one thread. Seconds are those of the processor, and a ratio is the median over
the images. A call includes the energies, made in pydensecrf's case as its README makes them. Ours is measured with all
updates, and with updates that stop once 0.1 % of the pixels change. Ours keeps the lattice of position for the last
four image sizes, so nearly every call that is measured finds it; pydensecrf builds it in every call. Memory is what a
call takes beyond its inputs at its peak, in a process of its own. An accelerator is measured with a wall clock. Writes
results/crf.csv.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks.timing import Row, peak_memory, write_table
from weakseg.ops.crf import CRF_PARAMETERS, dense_crf, dense_crf_batch, dense_crf_labels
from weakseg.ops.crf.prior import Prior

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Pixels = NDArray[np.uint8]

LARGE = (375, 500)
STOP = 0.001
GT_PROB = 0.7


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        params: Name of a parameter set; B takes label maps, the others probabilities.
        labels: L.
        size: H, W; ``None`` for the photographs as they are.
        noisy: Whether a label map has labels where the mask has none.
    """

    params: str
    labels: int
    size: tuple[int, int] | None
    noisy: bool = True


CASES = [
    *(Case(params, labels, size) for size in (None, LARGE) for params in "ABD" for labels in (2, 3, 21)),
    Case("B", 21, LARGE, noisy=False),
]


@dataclass(frozen=True)
class Photograph:
    """What a CRF is given; labels instead of probabilities for set B."""

    image: Pixels
    given: Floats | Integers


def photographs(data: Path, case: Case, count: int) -> Iterator[Photograph]:
    """Taken evenly from the list ``val`` of a VOC tree."""
    names = (data / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    for seed, name in enumerate(names[:: max(1, len(names) // count)][:count]):
        image = Image.open(data / "JPEGImages" / f"{name}.jpg").convert("RGB")
        mask = Image.open(data / "SegmentationClass" / f"{name}.png")
        if case.size is not None:
            image = image.resize(case.size[::-1], Image.Resampling.BICUBIC)
            mask = mask.resize(case.size[::-1], Image.Resampling.NEAREST)
        yield Photograph(np.array(image), given(np.array(mask), case, np.random.default_rng(seed)))


def given(mask: Pixels, case: Case, random: np.random.Generator) -> Floats | Integers:
    """(L, H, W) probabilities, or an (H, W) label map, of the mask's classes as labels 0, 1, ..."""
    labels = np.unique(mask, return_inverse=True)[1].reshape(mask.shape) % case.labels
    if not case.noisy:
        return labels.astype(np.int64)
    noise = [gaussian_filter(random.standard_normal(mask.shape), 10) for _ in range(case.labels)]
    noise = [10 * each for each in noise]  # blurring leaves a thirtieth of the standard deviation
    scores = [gaussian_filter((labels == i).astype(np.float64), 8) + 0.12 * each for i, each in enumerate(noise)]
    if case.params == "B":
        return np.argmax([score + 0.6 * each for score, each in zip(scores, noise, strict=True)], axis=0)
    clipped = np.maximum(scores, 0.01)
    return (clipped / clipped.sum(0)).astype(np.float32)


def ours(photo: Photograph, case: Case, stop: float | None = None) -> Floats:
    if photo.given.ndim == 3:
        return dense_crf(photo.image, photo.given, case.params, stop=stop)
    return dense_crf_labels(photo.image, photo.given, case.labels, case.params, GT_PROB, stop=stop)


def reference(photo: Photograph, case: Case) -> Floats:
    """Pydensecrf; it takes width before height."""
    import pydensecrf.densecrf as densecrf
    from pydensecrf.utils import unary_from_labels

    (height, width), params = photo.image.shape[:2], CRF_PARAMETERS[case.params]
    if photo.given.ndim == 3:
        unary = -np.log(np.clip(photo.given, 1e-5, 1)).reshape(case.labels, -1)
    else:
        unary = unary_from_labels(photo.given, case.labels, gt_prob=GT_PROB, zero_unsure=False)
    crf = densecrf.DenseCRF2D(width, height, case.labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=photo.image, compat=params.bilateral_compat
    )
    return np.array(crf.inference(params.iterations), dtype=np.float32).reshape(case.labels, height, width)


def compared(data: Path, case: Case, count: int) -> Row:
    """Agreement and speed."""
    planes, differences, agreements, stopped_agreements, seconds = [], [], [], [], []
    for photo in photographs(data, case, count):
        if not seconds:
            ours(photo, case)  # compiled on first use
        start = process_time()
        expected = reference(photo, case)
        middle = process_time()
        beliefs = ours(photo, case)
        end = process_time()
        stopped = ours(photo, case, STOP)
        seconds.append((middle - start, end - middle, process_time() - end))
        planes.append(planes_of(photo, case))
        differences.append(np.abs(beliefs - expected).mean())
        agreements.append((beliefs.argmax(0) == expected.argmax(0)).mean())
        stopped_agreements.append((stopped.argmax(0) == expected.argmax(0)).mean())
    slow, own, _ = (median(column) for column in zip(*seconds, strict=True))
    return {
        "planes": int(median(planes)),
        "images": len(seconds),
        "mean_difference": f"{mean(differences):.1e}",
        "agreement": f"{mean(agreements):.5f}",
        "images_per_second": f"{1 / own:.1f}",
        "reference_images_per_second": f"{1 / slow:.1f}",
        "speed": f"{median(slow / own for slow, own, _ in seconds):.2f}",
        "stop_agreement": f"{mean(stopped_agreements):.5f}",
        "stop_speed": f"{median(slow / own for slow, _, own in seconds):.2f}",
    }


def planes_of(photo: Photograph, case: Case) -> int:
    """How many planes ours carries: labels that nothing tells apart share one."""
    if photo.given.ndim == 3:
        return len(Prior.of_probabilities(torch.from_numpy(photo.given)).values)
    return len(Prior.of_labels(torch.from_numpy(photo.given), case.labels, GT_PROB).values)


def memory(data: Path, case: Case) -> Row:
    """Peak memory of ours and of the reference, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.crf", "--data", str(data), "--peak", str(CASES.index(case))]
    peaks = []
    for way in ("ours", "reference"):
        told = subprocess.run([*command, way], capture_output=True, text=True, check=True).stdout
        peaks.append(float(told.split()[-1]))
    own, other = peaks
    return {"peak_mb": f"{own:.1f}", "reference_peak_mb": f"{other:.1f}", "memory": f"{own / other:.3f}"}


def peak(data: Path, case: Case, way: str) -> float | None:
    """MB that one call takes; a small image goes before, so that nothing is loaded or compiled in it."""
    work = {"ours": ours, "reference": reference}[way]
    photo = next(photographs(data, case, 1))
    work(Photograph(photo.image[:50, :60].copy(), photo.given[..., :50, :60].copy()), case)
    return peak_memory(lambda each: work(each, case), photo)


def on_accelerator(data: Path, case: Case, device: str, count: int) -> Row:
    """Speed of a batch on another device, beside ours on one core."""
    photos = list(photographs(data, case, count))
    arrays = [(photo.image, photo.given) for photo in photos]
    images, probabilities = zip(*[map(torch.from_numpy, pair) for pair in arrays], strict=True)

    def batch(place: str) -> tuple[float, list[torch.Tensor]]:
        moved = [[each.to(place) for each in tensors] for tensors in (images, probabilities)]
        start = perf_counter()
        found = [each.cpu() for each in dense_crf_batch(*moved, case.params, engine="lattice")]  # waits for the device
        return perf_counter() - start, found

    batch(device)
    seconds, found = batch(device)
    reference_seconds, expected = batch("cpu")
    differences = [(a - b).abs().mean().item() for a, b in zip(found, expected, strict=True)]
    agreements = [(a.argmax(0) == b.argmax(0)).float().mean().item() for a, b in zip(found, expected, strict=True)]
    return {
        "planes": case.labels,
        "images": count,
        "mean_difference": f"{mean(differences):.1e}",
        "agreement": f"{mean(agreements):.5f}",
        "images_per_second": f"{count / seconds:.1f}",
        "reference_images_per_second": f"{count / reference_seconds:.1f}",
        "speed": f"{reference_seconds / seconds:.2f}",
    }


def rows(data: Path, *, count: int = 50, log: Callable[[str], None] = lambda line: None) -> list[Row]:
    """The table: a row for each case, and for an accelerator if there is one."""
    torch.set_num_threads(1)
    table: list[Row] = []
    for case in CASES:
        measured = compared(data, case, count) | (memory(data, case) if case.size else {})
        table.append({"device": "one core", "reference": "pydensecrf", **described(case), **measured})
        log(str(table[-1]))
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        for case in (Case(params, 3, LARGE) for params in "AD"):
            measured = on_accelerator(data, case, "cuda", 16)
            table.append({"device": name, "reference": "ours on one core", **described(case), **measured})
            log(str(table[-1]))
    columns = dict.fromkeys(name for row in table for name in row)
    return [{name: row.get(name) for name in columns} for row in table]


def described(case: Case) -> Row:
    label_map = "noisy label map" if case.noisy else "the mask"
    kind = label_map if case.params == "B" else "probabilities"
    size = "{1} x {0}".format(*case.size) if case.size else "as stored"
    return {"size": size, "params": case.params, "labels": case.labels, "input": kind}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Agreement, speed and memory of the dense CRF beside pydensecrf.")
    parser.add_argument("--data", type=Path, required=True, help="a VOC tree")
    parser.add_argument("--count", type=int, default=50, help="photographs")
    parser.add_argument("--out", type=Path, default=Path("results/crf.csv"))
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "WAY"), help="only print the peak memory of one call")
    arguments = parser.parse_args()
    if arguments.peak:
        torch.set_num_threads(1)
        print(peak(arguments.data, CASES[int(arguments.peak[0])], arguments.peak[1]))
    else:
        write_table(rows(arguments.data, count=arguments.count, log=print), arguments.out)
