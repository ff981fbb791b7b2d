"""Saliency maps that were computed, kept in files that know which image they are of."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from weakseg.data.files import write_bytes

FOLDER_PREFIX = "SaliencyMaps-"
IMAGE_KEY = "image"


def folder_name(provider: str, version: str, options: Mapping[str, Any]) -> str:
    """Name of the folder of a provider's maps with these options, such as ``SaliencyMaps-rembg-1f00ba5e``."""
    text = json.dumps([provider, version, dict(options)], sort_keys=True, default=str)
    return f"{FOLDER_PREFIX}{provider}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def write_saliency(path: Path, saliency: Tensor, image: str) -> None:
    """Write a map as an 8-bit grey PNG, whole or not at all; the same bytes for the same map.

    Args:
        path: Its file.
        saliency: (H, W) in [0, 1].
        image: Hash of the image's file.

    Raises:
        UserError: If the disk is full or the folder cannot be written.
    """
    about, buffer = PngInfo(), io.BytesIO()
    about.add_text(IMAGE_KEY, image)
    levels = (saliency.double() * 255).round().clamp(0, 255).byte()
    Image.fromarray(levels.cpu().numpy()).save(buffer, format="PNG", pnginfo=about)
    write_bytes(path, buffer.getvalue())


def is_of(path: Path, image: str) -> bool:
    """Whether a map is there and was made of the image whose file has this hash; the map is not decoded."""
    try:
        with Image.open(path, formats=("PNG",)) as found:
            return bool(found.info.get(IMAGE_KEY) == image)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return False
