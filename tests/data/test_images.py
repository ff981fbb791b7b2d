import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import put_image, put_text
from weakseg.data.classes import voc_palette
from weakseg.data.images import encode_mask, image_size, read_image, read_mask, read_saliency, write_mask
from weakseg.errors import UserError

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def corner(tmp_path):
    """A picture that is red in its top left corner and blue elsewhere, 6 wide and 4 high."""
    image = Image.new("RGB", (6, 4), BLUE)
    image.paste(RED, (0, 0, 3, 2))
    return image


def complaint(path, read, *parts):
    """The one line with which ``read`` refuses ``path``; it names the file and has ``parts``."""
    with pytest.raises(UserError) as raised:
        read(path)
    line = str(raised.value)
    assert raised.value.remedy
    assert "\n" not in line
    assert str(path) in line
    for part in parts:
        assert part in line
    return line


def test_rgb_is_read_as_it_is(tmp_path, corner):
    corner.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 4, 6)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert image[:, 0, 0].tolist() == list(RED)
    assert image[:, 3, 5].tolist() == list(BLUE)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif", "gif", "ppm"])
def test_kinds_of_files(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (6, 4), (128, 128, 128)).save(path)
    assert read_image(path).float().sub(128).abs().max() <= 2


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert read_image(tmp_path / "a.jpg").float().amax((1, 2)).tolist() == pytest.approx([255, 0, 0], abs=4)


def test_palette_is_looked_up(tmp_path, corner):
    corner.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == list(RED)


def test_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.new("P", (6, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((2, 1), 1)
    image.save(tmp_path / "a.png", transparency=0)
    read = read_image(tmp_path / "a.png")
    assert read[:, 0, 0].tolist() == [255, 255, 255]
    assert read[:, 1, 2].tolist() == [40, 50, 60]


@pytest.mark.parametrize(("mode", "pixel"), [("RGBA", (0, 100, 200, 0)), ("LA", (0, 0))])
def test_transparency_is_laid_over_white(tmp_path, mode, pixel):
    Image.new(mode, (6, 4), pixel).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()


def test_half_transparency_is_blended(tmp_path):
    Image.new("RGBA", (6, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").float().mean().item() == pytest.approx(127, abs=1)


def test_grey_and_black_and_white(tmp_path):
    Image.new("L", (6, 4), 77).save(tmp_path / "grey.png")
    Image.new("1", (6, 4), 1).save(tmp_path / "white.png")
    assert (read_image(tmp_path / "grey.png") == 77).all()
    assert (read_image(tmp_path / "white.png") == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_is_divided_by_257(tmp_path, suffix):
    levels = np.array([[0, 257, 514, 65535], [128, 129, 32768, 255]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    read = read_image(tmp_path / f"a.{suffix}")
    assert read[0].tolist() == [[0, 1, 2, 255], [0, 1, 128, 1]]
    assert torch.equal(read[0], read[2])


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.4, 255.0]], dtype=np.float32), [0, 100, 255]),
        (np.array([[-3.0, np.nan, 255.0]], dtype=np.float32), [0, 0, 255]),
        (np.array([[0, 7, 255]], dtype=np.int32), [0, 7, 255]),
        (np.array([[0, 257, 65535]], dtype=np.int32), [0, 1, 255]),
    ],
)
def test_thirty_two_bit_grey(tmp_path, levels, expected):
    Image.fromarray(levels).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[1].flatten().tolist() == expected


def test_more_than_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "a.tif")
    complaint(tmp_path / "a.tif", read_image, "70000")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_sets_the_image_upright(tmp_path, corner, suffix, orientation):
    # What a camera stores is the upright picture turned back.
    turned_back = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]
    big = corner.resize((48, 32), Image.Resampling.NEAREST)
    stored = big if turned_back is None else big.transpose(Image.Transpose(turned_back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    read = read_image(path)
    assert image_size(path) == tuple(read.shape[1:]) == (32, 48)
    assert read[:, 4, 4].tolist() == pytest.approx(RED, abs=8)
    for row, column in ((28, 4), (4, 44), (28, 44)):
        assert read[:, row, column].tolist() == pytest.approx(BLUE, abs=8)


def test_missing_file(tmp_path):
    for read in (read_image, read_mask, read_saliency, image_size):
        complaint(tmp_path / "none.png", read, "no such file")


def test_folder_instead_of_a_file(tmp_path):
    complaint(tmp_path, read_image)


def test_empty_file_and_text(tmp_path):
    complaint(put_text(tmp_path / "empty.jpg", ""), read_image, "not an image")
    complaint(put_text(tmp_path / "text.png", "hello"), read_image, "not an image")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp"])
def test_truncated_file(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(whole)
    part = tmp_path / f"part.{suffix}"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    complaint(part, read_image)


def test_postscript_is_never_opened(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    complaint(tmp_path / "a.jpg", read_image, "not an image")


def bomb(path, side):
    """A PNG whose header promises ``side`` x ``side`` pixels and that has no more than that."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_decompression_bomb_is_refused_from_its_header(tmp_path, side):
    path = bomb(tmp_path / "bomb.png", side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (read_image, read_saliency, read_mask, image_size):
            complaint(path, read, "too large", "100 megapixels")


def test_the_limit_can_be_set(tmp_path):
    path = put_image(tmp_path / "a.png", 20, 10)
    assert read_image(path, max_pixels=200).shape == (3, 10, 20)
    complaint(path, lambda file: read_image(file, max_pixels=199), "too large", "20 x 10")


@pytest.mark.parametrize("mode", ["L", "P"])
def test_mask_values_are_the_indices(tmp_path, mode):
    values = np.array([[0, 1, 20], [254, 255, 3]], dtype=np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(voc_palette().tobytes())
    image.save(tmp_path / "a.png")
    assert torch.equal(read_mask(tmp_path / "a.png"), torch.from_numpy(values))


def test_mask_of_one_or_sixteen_bits(tmp_path):
    Image.new("1", (3, 2), 1).save(tmp_path / "one.png")
    Image.fromarray(np.full((2, 3), 255, dtype=np.uint16)).save(tmp_path / "sixteen.png")
    assert (read_mask(tmp_path / "one.png") == 1).all()
    assert (read_mask(tmp_path / "sixteen.png") == 255).all()


def test_mask_is_not_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (6, 4)).save(tmp_path / "a.png", exif=exif)
    assert read_mask(tmp_path / "a.png").shape == (4, 6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_mask_is_refused(tmp_path, mode):
    Image.new(mode, (6, 4)).save(tmp_path / "a.png")
    complaint(tmp_path / "a.png", read_mask, mode, "palette PNG")


def test_mask_with_large_values_is_refused(tmp_path):
    Image.fromarray(np.full((2, 3), 256, dtype=np.uint16)).save(tmp_path / "a.png")
    complaint(tmp_path / "a.png", read_mask, "0 to 255")


def test_lossy_mask_is_refused(tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg")
    complaint(tmp_path / "a.jpg", read_mask, "palette PNG")


def test_mask_survives_writing(tmp_path):
    mask = torch.randint(0, 256, (7, 5), dtype=torch.uint8)
    write_mask(tmp_path / "new/a.png", mask)
    assert torch.equal(read_mask(tmp_path / "new/a.png"), mask)
    assert encode_mask(mask) == (tmp_path / "new/a.png").read_bytes()


def test_mask_has_the_colours_of_voc(tmp_path):
    write_mask(tmp_path / "a.png", torch.tensor([[0, 1, 255]], dtype=torch.uint8))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array(image.convert("RGB")).tolist() == [[[0, 0, 0], [128, 0, 0], [224, 224, 192]]]


def test_saliency_is_a_share(tmp_path):
    Image.fromarray(np.array([[0, 51, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    Image.new("RGB", (3, 1), (0, 51, 102)).save(tmp_path / "colour.png")
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    grey = read_saliency(tmp_path / "grey.png")
    assert grey.shape == (1, 1, 3)
    assert grey.flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert read_saliency(tmp_path / "colour.png").flatten().tolist() == pytest.approx([0.2] * 3)
    assert read_saliency(tmp_path / "deep.png").flatten().tolist() == [0, 1]
