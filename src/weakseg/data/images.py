"""Images, masks and saliency maps, from files and to files.

Whatever a camera, a scanner or an image editor may have written comes out as 8-bit RGB the right way up; what cannot be
decoded is a ``UserError`` that names the file.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from weakseg.data.classes import voc_palette
from weakseg.data.files import write_bytes
from weakseg.errors import UserError

MAX_PIXELS = 100_000_000
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # never EPS: PIL would start Ghostscript
MASK_FORMATS = ("PNG", "BMP", "TIFF", "GIF")  # nothing lossy
SIXTEEN_TO_EIGHT_BIT = 257
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what sets the image upright
SIDEWAYS = (5, 6, 7, 8)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image, turned upright as its EXIF data say.

    Grey, palette, CMYK and other modes are converted; transparency is laid over white; 16-bit greyscale is divided by
    257; 32-bit greyscale is taken as [0, 1] (floating point only), [0, 255] or [0, 65535], whichever holds its values.

    Args:
        path: A JPEG, PNG, WebP, BMP, TIFF, GIF or PPM file; of several frames the first is read.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        (3, H, W) uint8 RGB, contiguous.

    Raises:
        UserError: If the file is missing, no image, damaged or too large.
    """
    with _opened(path, IMAGE_FORMATS, max_pixels) as image:
        return torch.from_numpy(np.ascontiguousarray(_rgb(_upright(image)).transpose(2, 0, 1)))


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width that ``read_image`` would give, from the header alone.

    Raises:
        UserError: If the file is missing, no image or too large.
    """
    with _opened(path, IMAGE_FORMATS, max_pixels) as image:
        return (image.width, image.height) if _orientation(image) in SIDEWAYS else (image.height, image.width)


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a label map; the values of a greyscale file or the indices of a palette file are the labels.

    EXIF data are not looked at: a mask says where the pixels are as they are stored.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: If the file is missing, damaged, too large, lossy, in colour, or has values above 255.
    """
    remedy = "Save it as an 8-bit greyscale or palette PNG: 0 background, 1, 2, ... the classes, 255 ignore"
    with _opened(path, MASK_FORMATS, max_pixels, remedy) as image:
        if image.mode not in ("L", "P", "1") and not _is_deep(image):
            raise UserError(f"a mask must hold one label a pixel, this is {image.mode}", where=path, remedy=remedy)
        labels = np.array(image)
        if _is_deep(image) and not ((labels >= 0) & (labels <= 255) & (labels == np.floor(labels))).all():
            raise UserError("the mask has values that are not integers in 0 to 255", where=path, remedy=remedy)
        return torch.from_numpy(labels.astype(np.uint8))


def read_saliency(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a saliency map, white for salient; of a colour file the mean of the channels.

    Returns:
        (1, H, W) float32 in [0, 1].

    Raises:
        UserError: If the file is missing, no image, damaged or too large.
    """
    with _opened(path, IMAGE_FORMATS, max_pixels) as image:
        upright = _upright(image)
        levels = np.array(upright) if image.mode == "L" else _rgb(upright).mean(2)
        return torch.from_numpy(levels.astype(np.float32)[None] / np.float32(255))


def encode_mask(mask: Tensor, palette: NDArray[np.uint8] | None = None) -> bytes:
    """A palette PNG, the same bytes for the same mask.

    Args:
        mask: (H, W) uint8.
        palette: (256, 3) colours; those of PASCAL VOC if ``None``.
    """
    image = Image.fromarray(mask.cpu().numpy())
    image.putpalette((voc_palette() if palette is None else palette).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_mask(path: Path, mask: Tensor, palette: NDArray[np.uint8] | None = None) -> None:
    """Write ``encode_mask`` whole or not at all.

    Raises:
        UserError: If the disk is full or the folder cannot be written.
    """
    write_bytes(path, encode_mask(mask, palette))


@contextmanager
def _opened(
    path: Path,
    formats: tuple[str, ...],
    max_pixels: int,
    remedy: str = "Replace it by a JPEG or PNG that opens elsewhere",
) -> Iterator[Image.Image]:
    """The image with its header read and found harmless; anything PIL raises inside the block is a ``UserError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large or odd files; we decide below
            with Image.open(path, formats=formats) as image:
                _check_pixels(image, path, max_pixels)
                yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            "there is no such file", where=path, remedy="Put the file there, or correct its name"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, max_pixels) from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(formats)
        raise UserError(
            f"is not an image, or none of the kinds read here ({kinds})", where=path, remedy=remedy
        ) from error
    except Exception as error:  # a damaged file makes PIL raise nearly anything
        raise UserError(f"cannot be decoded as an image ({error})", where=path, remedy=remedy) from error


def _check_pixels(image: Image.Image, path: Path, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _too_large(path, max_pixels, f" ({image.width} x {image.height} pixels)")


def _too_large(path: Path, max_pixels: int, size: str = "") -> UserError:
    limit = f"{max_pixels / 1e6:g} megapixels"
    return UserError(f"the image is too large{size}", where=path, remedy=f"Shrink it to at most {limit}, or remove it")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation still to be applied, from the header; must be asked before the pixels are decoded."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1  # PIL turns TIFF itself, and would decode a whole PNG to look for EXIF data at its end
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _upright(image: Image.Image) -> Image.Image:
    turn = UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8."""
    if _is_deep(image):
        return np.repeat(_eight_bit(np.array(image), image.mode)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _eight_bit(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Grey levels of 16 or 32 bits -> uint8."""
    levels = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    top = levels.max()
    if mode.startswith("I;16"):
        levels = levels / SIXTEEN_TO_EIGHT_BIT
    elif mode == "F" and top <= 1:
        levels = levels * 255
    elif top > 65535:
        raise ValueError(f"grey values up to {top:g}, more than 16 bits hold")
    elif top > 255:
        levels = levels / SIXTEEN_TO_EIGHT_BIT
    return np.rint(levels).clip(0, 255).astype(np.uint8)
