"""From maps to the label map that trains the segmenter."""

from torch import Tensor

from weakseg.data.maps import LocalizationMaps
from weakseg.errors import UserError
from weakseg.ops.maps import label_map, resize


def at_image_size(maps: LocalizationMaps) -> LocalizationMaps:
    """Maps and background enlarged to the image (bilinear, align_corners=False)."""
    if maps.scores.shape[-2:] == maps.size and (maps.background is None or maps.background.shape == maps.size):
        return maps
    background = None if maps.background is None else resize(maps.background[None], maps.size)[0]
    return maps.with_scores(resize(maps.scores, maps.size), background)


def pseudo_mask(maps: LocalizationMaps) -> Tensor:
    """The strongest of background and present classes at every pixel; ties go to the lower index.

    Returns:
        (H, W) uint8, 0 background, class + 1.

    Raises:
        UserError: If nothing has said what background is.
    """
    full = at_image_size(maps)
    return label_map(full.scores, background_of(full), full.classes)


def background_of(maps: LocalizationMaps) -> Tensor:
    """(h, w) background of maps that need one.

    Raises:
        UserError: If nothing has said what background is.
    """
    if maps.background is None:
        raise UserError("the maps have no background", where="refine", remedy="Put 'power' or 'threshold' before")
    return maps.background
