"""Pseudo-masks of several runs side by side, as a picture.

    python -m benchmarks.compare_masks naive=runs/a adaptive=runs/b --images scene_0003 scene_0007 --picture masks.png
    python -m benchmarks.compare_masks Y_crf=runs/c Y_ret=runs/c/masks-retrieval --with boxes --images ... --picture ...

A row for each image of the training split: the photograph, with its boxes or beside its saliency map if that is asked
for, the masks of each run (``masks/ID.png``, or those of a folder of other masks in it), and the true mask.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.sheet import sheet
from weakseg.data.images import read_mask
from weakseg.pipeline import build
from weakseg.pipeline.recipe import load_recipe
from weakseg.report.overlays import overlay_mask

RECIPE = "recipe.yaml"
Titled = tuple[str, Image.Image]


def row(
    image_id: str, photograph: Tensor, boxes: Tensor | None, saliency: Tensor | None, masks: dict[str, Tensor]
) -> list[Titled]:
    """The pictures of one image."""
    pixels = photograph.permute(1, 2, 0).contiguous().numpy()
    first = Image.fromarray(pixels.copy())
    for x1, y1, x2, y2 in [] if boxes is None else boxes.tolist():
        ImageDraw.Draw(first).rectangle((x1, y1, x2 - 1, y2 - 1), outline="white")
    found = [(image_id, first)]
    if saliency is not None:
        found.append(("saliency", Image.fromarray((255 * saliency).round().byte().numpy()).convert("RGB")))
    return [*found, *((name, Image.fromarray(overlay_mask(pixels, mask.numpy()))) for name, mask in masks.items())]


def masks_of(folder: Path) -> Path:
    """The masks of a run folder; any other folder has them itself."""
    return folder / "masks" if (folder / RECIPE).exists() else folder


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--images", nargs="+", required=True, help="ids of training images")
    parser.add_argument("--with", dest="shown", choices=["boxes", "saliency"], help="what the masks were made from")
    parser.add_argument("--picture", type=Path, required=True, help="the PNG to write")
    arguments = parser.parse_args()
    runs = {name: Path(folder) for name, _, folder in (run.partition("=") for run in arguments.runs)}
    first = next(iter(runs.values()))
    data = load_recipe(next(folder for folder in (first, first.parent) if (folder / RECIPE).exists()) / RECIPE).data
    dataset = build.dataset(data, data.train)
    rows = []
    for image_id in arguments.images:
        sample = dataset.sample(image_id)
        masks = {name: read_mask(masks_of(folder) / f"{image_id}.png") for name, folder in runs.items()}
        if sample.mask is not None:
            masks["truth"] = sample.mask
        boxes = sample.boxes if arguments.shown == "boxes" else None
        saliency = None if sample.saliency is None or arguments.shown != "saliency" else sample.saliency[0]
        rows.append(row(image_id, sample.image, boxes, saliency, masks))
    sheet(rows).quantize(128).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
