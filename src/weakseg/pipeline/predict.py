"""Segmenting new images, and finding objects in them, with the networks of a finished run."""

import glob
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from weakseg.data.files import write_bytes
from weakseg.data.ids import IMAGE_SUFFIXES
from weakseg.data.images import read_image, write_mask
from weakseg.errors import UserError
from weakseg.metrics.overlap import SURE
from weakseg.networks.weights import load_weights
from weakseg.pipeline import build
from weakseg.pipeline.device import Device, choose_device
from weakseg.pipeline.inference import Predictor, detect_images, placed, predict_images, ready
from weakseg.pipeline.progress import Reporter
from weakseg.pipeline.recipe import DetectPredict, Predict, Recipe
from weakseg.pipeline.reporting import outlined
from weakseg.pipeline.trained import run_recipe, trained_classes
from weakseg.report.overlays import Pixels, overlay_mask, overlay_objects
from weakseg.segment.instances import InstanceSegmenter

Write = Callable[[str, Tensor], None]


def predict_files(
    run_folder: Path,
    images: Sequence[str],
    output: Path,
    *,
    overlay: bool = False,
    device: str = "auto",
    reporter: Reporter,
) -> int:
    """Write a palette PNG for each image, named after it, or the objects in it as JSON, or both.

    Args:
        run_folder: A run with a trained segmenter, a trained detector, or both.
        images: Files, folders (all images below them) or globs.
        output: Folder of the results.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        overlay: Also write ``NAME.overlay.jpg``, the mask laid over the image, and ``NAME.objects.jpg``, the objects.
        reporter: Receives progress.

    Returns:
        Number of images.

    Raises:
        UserError: If the run has no such network, nothing matches, or an image cannot be read.
    """
    chosen = choose_device(device, 1)
    writers = list(_writers(run_folder, output, overlay, chosen))
    files = _matching(images)
    with reporter.track("predict", len(files)) as bar:
        for name, path in files.items():
            image = read_image(path)
            for write in writers:
                write(name, image)
            bar.advance()
    return len(files)


def _writers(run_folder: Path, output: Path, overlay: bool, device: Device) -> Iterator[Write]:
    """What looks at an image and writes what it sees; a detector that is still to be trained is not waited for."""
    recipe = run_recipe(run_folder, "segmenter")
    segments = build.predicting(recipe) is not None
    if segments:
        predict, segmenter = load_segmenter(run_folder)
        yield partial(_write_mask, ready(segmenter, device), predict, device, output, overlay)
    if recipe.detect is not None and ((run_folder / "detector.safetensors").is_file() or not segments):
        detect, detector, classes = load_detector(run_folder)
        yield partial(_write_objects, placed(detector, device), detect, classes, device, output, overlay)
    elif not segments:
        remedy = "Set 'segment' or 'detect' in its recipe"
        raise UserError("was run without a segmenter and without a detector", where=run_folder, remedy=remedy)


def _write_mask(
    segmenter: Predictor, settings: Predict, device: Device, output: Path, overlay: bool, name: str, image: Tensor
) -> None:
    mask = next(predict_images(segmenter, [image], settings, device))
    write_mask(output / f"{name}.png", mask)
    if overlay:
        picture = overlay_mask(image.permute(1, 2, 0).numpy(), mask.numpy())
        _write_picture(output / f"{name}.overlay.jpg", picture)


def _write_objects(
    detector: InstanceSegmenter,
    settings: DetectPredict,
    classes: Sequence[str],
    device: Device,
    output: Path,
    overlay: bool,
    name: str,
    image: Tensor,
) -> None:
    (found,) = detect_images(detector, [image], settings, device)
    found.save(output / f"{name}.json", classes, name)
    if overlay:
        objects = outlined(found, None, classes, least=SURE)
        picture = overlay_objects(image.permute(1, 2, 0).numpy(), objects)
        _write_picture(output / f"{name}.objects.jpg", picture)


def _write_picture(path: Path, picture: Pixels) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=90)
    write_bytes(path, buffer.getvalue())


def load_segmenter(run_folder: Path) -> tuple[Predict, Predictor]:
    """How a run's trained network looks at images, and that network: the segmenter, or a localiser that is one.

    Raises:
        UserError: If the folder has none, or its weights do not say which classes they tell apart.
    """
    recipe = run_recipe(run_folder, "segmenter")
    settings = build.predicting(recipe)
    if settings is None:
        raise UserError("was run without a segmenter", where=run_folder, remedy="Set 'segment' in its recipe")
    weights = run_folder / ("localizer.safetensors" if recipe.segment is None else "segmenter.safetensors")
    predictor = _untrained(recipe, len(trained_classes(weights, "segmenter")))
    load_weights(predictor, weights)
    return settings, predictor


def load_detector(run_folder: Path) -> tuple[DetectPredict, InstanceSegmenter, list[str]]:
    """How a run's trained detector looks at images, the detector, and the names of its classes.

    Raises:
        UserError: If the folder has none, or its weights do not say which classes they tell apart.
    """
    recipe = run_recipe(run_folder, "segmenter")
    if recipe.detect is None:
        raise UserError("was run without a detector", where=run_folder, remedy="Set 'detect' in its recipe")
    weights = run_folder / "detector.safetensors"
    classes = trained_classes(weights, "detector")
    detector = build.detector(recipe.detect, (recipe.detect.backbone or recipe.backbone).blank(), len(classes))
    load_weights(detector, weights)
    return recipe.detect.predict, detector, classes


def _untrained(recipe: Recipe, num_classes: int) -> Predictor:
    """The network whose weights are about to be read."""
    if recipe.segment is not None:
        return build.segmenter(recipe.segment, (recipe.segment.backbone or recipe.backbone).blank(), num_classes)
    assert recipe.localize is not None
    options = build.method_options(recipe.localize.method)
    return build.method(recipe.localize, options, num_classes, blank=True)


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
