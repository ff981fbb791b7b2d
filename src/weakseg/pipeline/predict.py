"""Segmenting new images with the network of a finished run."""

import glob
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from weakseg.data.files import write_bytes
from weakseg.data.ids import IMAGE_SUFFIXES
from weakseg.data.images import read_image, write_mask
from weakseg.errors import UserError
from weakseg.networks.weights import load_weights, read_about
from weakseg.pipeline import build
from weakseg.pipeline.device import choose_device
from weakseg.pipeline.inference import Predictor, predict_images, ready
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import Predict, Recipe, load_recipe
from weakseg.report.overlays import overlay_mask


def predict_files(
    run_folder: Path,
    images: Sequence[str],
    output: Path,
    *,
    overlay: bool = False,
    device: str = "auto",
    reporter: Reporter,
) -> int:
    """Write a palette PNG for each image, named after it.

    Args:
        run_folder: A run with a trained segmenter.
        images: Files, folders (all images below them) or globs.
        output: Folder of the masks.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        overlay: Also write ``NAME.overlay.jpg``, the mask laid over the image.
        reporter: Receives progress.

    Returns:
        Number of masks.

    Raises:
        UserError: If the run has no segmenter, nothing matches, or an image cannot be read.
    """
    settings, segmenter = load_segmenter(run_folder)
    files = _matching(images)
    chosen = choose_device(device, 1)
    segmenter = ready(segmenter, chosen)
    with reporter.track("predict", len(files)) as bar:
        for name, path in files.items():
            image = read_image(path)
            mask = next(predict_images(segmenter, [image], settings, chosen))
            write_mask(output / f"{name}.png", mask)
            if overlay:
                picture = overlay_mask(image.permute(1, 2, 0).numpy(), mask.numpy())
                buffer = io.BytesIO()
                Image.fromarray(picture).save(buffer, format="JPEG", quality=90)
                write_bytes(output / f"{name}.overlay.jpg", buffer.getvalue())
            bar.advance()
    return len(files)


def load_segmenter(run_folder: Path) -> tuple[Predict, Predictor]:
    """How a run's trained network looks at images, and that network: the segmenter, or a localiser that is one.

    Raises:
        UserError: If the folder has none, or its weights do not say which classes they tell apart.
    """
    recipe_file = run_folder / "recipe.yaml"
    if not recipe_file.is_file():
        raise _nothing_trained(run_folder)
    recipe = load_recipe(recipe_file)
    settings = build.predicting(recipe)
    if settings is None:
        alone = " (its detector tells objects apart, which is no mask)" if recipe.detect is not None else ""
        raise UserError(f"was run without a segmenter{alone}", where=run_folder, remedy="Set 'segment' in its recipe")
    weights = run_folder / ("localizer.safetensors" if recipe.segment is None else "segmenter.safetensors")
    if not weights.is_file():
        raise _nothing_trained(run_folder)
    classes = read_about(weights).get("classes")
    if classes is None:
        raise UserError("names no classes in its header", where=weights, remedy="Train the segmenter again")
    predictor = _untrained(recipe, len(classes.split("\n")))
    load_weights(predictor, weights)
    return settings, predictor


def _nothing_trained(run_folder: Path) -> UserError:
    return UserError("holds no trained segmenter", where=run_folder, remedy="Give the folder of a finished run")


def _untrained(recipe: Recipe, num_classes: int) -> Predictor:
    """The network whose weights are about to be read, so that none are looked for elsewhere."""
    changes = {"weights": "none", "sha256": None}
    if recipe.segment is not None:
        backbone = recipe.segment.backbone or recipe.backbone
        return build.segmenter(recipe.segment, backbone.model_copy(update=changes), num_classes)
    assert recipe.localize is not None
    blank = recipe.localize.model_copy(update={"backbone": recipe.localize.backbone.model_copy(update=changes)})
    return build.method(blank, build.method_options(recipe.localize.method), num_classes)


def _matching(images: Sequence[str]) -> dict[str, Path]:
    """Name of the mask -> image, in order."""
    found: dict[str, Path] = {}
    for pattern in images:
        for name, path in _one(pattern):
            if found.get(name, path) != path:
                raise UserError(
                    f"would have the same mask as {found[name]}", where=path, remedy="Predict them into two folders"
                )
            found[name] = path
    if not found:
        raise UserError("no image matches", where=" ".join(images), remedy="Give files, folders or quoted globs")
    return found


def _one(pattern: str) -> list[tuple[str, Path]]:
    root = Path(pattern)
    if root.is_dir():
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        return [(path.relative_to(root).with_suffix("").as_posix(), path) for path in files]
    if root.is_file():
        return [(root.stem, root)]
    if not glob.has_magic(pattern):
        raise UserError("there is no such image", where=root, remedy="Check the path")
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (patterns may be absolute)
    return [(Path(name).stem, Path(name)) for name in names if Path(name).is_file()]
