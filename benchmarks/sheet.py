"""Pictures in rows and columns, with a line of text above each."""

from collections.abc import Sequence
from itertools import accumulate

from PIL import Image, ImageDraw, ImageFont

GAP, LINE, TEXT = 6, 18, 12


def sheet(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Rows of titled pictures in columns of equal width."""
    width = max(tile.width for one in rows for _, tile in one) + GAP
    heights = [max(tile.height for _, tile in one) + GAP + LINE for one in rows]
    canvas = Image.new("RGB", (width * max(map(len, rows)) + GAP, sum(heights) + GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(TEXT)
    for one, top in zip(rows, accumulate(heights, initial=GAP), strict=False):
        for across, (title, tile) in enumerate(one):
            left = GAP + across * width
            pen.text((left, top), title, fill="black", font=font)
            canvas.paste(tile, (left, top + LINE))
    return canvas
