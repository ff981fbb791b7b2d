"""Pseudo-masks of several runs side by side, as a picture.

    python -m benchmarks.compare_masks naive=runs/a adaptive=runs/b --images scene_0003 scene_0007 --picture masks.png

A row for each image of the training split: the photograph, its saliency map if the data have one, the masks of each run
(``masks/ID.png``), and the true mask.
"""

import argparse
from pathlib import Path

from PIL import Image
from torch import Tensor

from benchmarks.sheet import sheet
from weakseg.data.images import read_mask
from weakseg.pipeline import build
from weakseg.pipeline.recipe import load_recipe
from weakseg.report.overlays import overlay_mask

Titled = tuple[str, Image.Image]


def row(image_id: str, photograph: Tensor, saliency: Tensor | None, masks: dict[str, Tensor]) -> list[Titled]:
    """The pictures of one image."""
    pixels = photograph.permute(1, 2, 0).contiguous().numpy()
    found = [(image_id, Image.fromarray(pixels))]
    if saliency is not None:
        found.append(("saliency", Image.fromarray((255 * saliency).round().byte().numpy()).convert("RGB")))
    return [*found, *((name, Image.fromarray(overlay_mask(pixels, mask.numpy()))) for name, mask in masks.items())]


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--images", nargs="+", required=True, help="ids of training images")
    parser.add_argument("--picture", type=Path, required=True, help="the PNG to write")
    arguments = parser.parse_args()
    runs = {name: Path(folder) for name, _, folder in (run.partition("=") for run in arguments.runs)}
    data = load_recipe(next(iter(runs.values())) / "recipe.yaml").data
    dataset = build.dataset(data, data.train)
    rows = []
    for image_id in arguments.images:
        sample = dataset.sample(image_id)
        masks = {name: read_mask(folder / "masks" / f"{image_id}.png") for name, folder in runs.items()}
        if sample.mask is not None:
            masks["truth"] = sample.mask
        rows.append(row(image_id, sample.image, None if sample.saliency is None else sample.saliency[0], masks))
    sheet(rows).quantize(128).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
