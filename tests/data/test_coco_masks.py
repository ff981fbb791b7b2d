import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference

from weakseg.data.coco_masks import area, decoded, encoded, read_segmentation, uncompressed


def drawn(value, size=(6, 8)):
    return decoded(encoded(read_segmentation(value), size))


def run_lengths(mask):
    """The definition: column by column, zeros first."""
    counts, current = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != current:
            counts.append(0)
            current = pixel
        counts[-1] += 1
    return counts


def a_mask(seed, size=(6, 8)):
    return np.random.default_rng(seed).random(size) < 0.5


def test_a_rectangle_of_whole_pixels():
    mask = drawn([[2, 1, 5, 1, 5, 4, 2, 4]])
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 2:5] = True
    assert (mask == expected).all()


def test_parts_of_an_object_are_united():
    mask = drawn([[0, 0, 2, 0, 2, 2, 0, 2], [5, 3, 8, 3, 8, 6, 5, 6], [1, 1, 2, 2]])
    assert mask[0, 0]
    assert mask[5, 7]
    assert mask.sum() == 4 + 9


def test_a_line_has_no_area():
    assert drawn([[1, 1, 3, 3]]).sum() == 0


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_written_out_and_compressed(seed):
    mask = a_mask(seed)
    counts = run_lengths(mask)
    compressed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert (drawn({"size": [6, 8], "counts": counts}) == mask).all()
    assert (drawn({"size": [6, 8], "counts": compressed.decode()}) == mask).all()
    assert area(encoded(read_segmentation({"size": [6, 8], "counts": counts}), (6, 8))) == mask.sum()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 10**6), st.floats(0, 1))
def test_compressed_run_lengths_are_taken_apart(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    compressed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert uncompressed(compressed) == run_lengths(mask)


@pytest.mark.parametrize("value", [None, []])
def test_no_segmentation(value):
    assert read_segmentation(value) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "neither a list of polygons nor run lengths"),
        ([1, 2, 3, 4, 5, 6], "neither a list of polygons"),
        ([[1, 2, 3]], "pairs of numbers"),
        ([[1, 2, 3, "4"]], "pairs of numbers"),
        ([[1, 2, 3, True]], "pairs of numbers"),
        ([[1, 2, 3, float("nan")]], "not finite"),
        ([[1, 2, 3, 10**400]], "not finite"),
        ({"counts": [48]}, "no size"),
        ({"size": [6], "counts": [48]}, "no size"),
        ({"size": [6, -8], "counts": [48]}, "no size"),
        ({"size": [6, 8], "counts": [48.0]}, "neither a text nor a list"),
        ({"size": [6, 8], "counts": [-1, 49]}, "neither a text nor a list"),
        ({"size": [6, 8], "counts": [10**30]}, "neither a text nor a list"),
        ({"size": [6, 8], "counts": "é"}, "neither a text nor a list"),
        ({"size": [6, 8]}, "neither a text nor a list"),
    ],
)
def test_malformed_segmentations(value, words):
    with pytest.raises(ValueError, match=words):
        read_segmentation(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"size": [8, 6], "counts": [48]}, "of 6x8 pixels, the image of 8x6"),
        ({"size": [6, 8], "counts": [47]}, "do not add up to the image's 48 pixels"),
        ({"size": [6, 8], "counts": []}, "do not add up"),
        ({"size": [6, 8], "counts": ""}, "do not add up"),
        ({"size": [6, 8], "counts": "P"}, "end within a number"),
        ({"size": [6, 8], "counts": "PPPPPPPPPPPPPPPP0"}, "damaged"),
        ({"size": [6, 8], "counts": " "}, "damaged"),
        ({"size": [6, 8], "counts": "~"}, "damaged"),
        ({"size": [6, 8], "counts": "O`1"}, "do not add up"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside"),
        ([[0, 0, 3, 0, 3, -7]], "far outside"),
    ],
)
def test_segmentations_that_do_not_fit_the_image(value, words):
    segmentation = read_segmentation(value)
    with pytest.raises(ValueError, match=words):
        encoded(segmentation, (6, 8))


def test_the_content_tells_segmentations_apart():
    values = [[[1, 2, 3, 4]], [[1, 2], [3, 4]], {"size": [6, 8], "counts": [48]}, {"size": [6, 8], "counts": "`1"}]
    assert len({read_segmentation(value).content() for value in values}) == len(values)
