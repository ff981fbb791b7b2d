import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.data.samples import noise, same, seeded, square
from tests.data.trees import voc_tree
from weakseg.data import geometry
from weakseg.data.colour import ColourJitter, HSVJitter, Normalise
from weakseg.data.geometry import View
from weakseg.data.sample import IGNORE, Batch, Sample, WeakLabel
from weakseg.data.transforms import (
    AugmentedDataset,
    ChooseScale,
    Compose,
    Flip,
    RandomCrop,
    RandomResizedCrop,
    RandomScale,
    ResizeLonger,
    ResizeSquare,
    classification,
    integer,
    sample_seed,
    segmentation,
    uniform,
)
from weakseg.data.voc import VOCDataset

GEOMETRIC = [
    ResizeLonger(70, 200),
    ResizeLonger(70, 200, "bilinear", antialias=False),
    RandomScale(0.5, 1.5),
    ChooseScale((0.5, 0.75, 1.0, 1.25)),
    ResizeSquare(100),
    RandomResizedCrop(96, area=(0.5, 1.0)),
    Flip(1.0),
    RandomCrop(100),
    RandomCrop(140),
    RandomCrop(140, place="centre"),
    RandomCrop(140, place="corner"),
    Compose((RandomScale(0.7, 1.3), Flip(), RandomCrop(105))),
]


@pytest.mark.parametrize("transform", GEOMETRIC, ids=repr)
@pytest.mark.parametrize("seed", range(4))
def test_labels_follow_the_image(transform, seed):
    sample = transform(square(), seeded(seed))
    white, labelled = sample.image[0] > 127, sample.mask == 2
    assert white.any()
    assert (white != labelled).sum() <= 2 * (sample.size[0] + sample.size[1])  # at most a line round the square
    assert ((sample.saliency[0] > 0.5) != white).sum() <= 4
    assert torch.equal(sample.scores[1] > 0.5, sample.saliency[0] > 0.5)
    assert sample.scores.dtype == torch.float16
    assert torch.equal(sample.objects, labelled.int() * 300)
    assert sample.objects.dtype == torch.int32
    assert len(sample.object_classes) == 300
    rows, columns = white.any(1).nonzero().flatten(), white.any(0).nonzero().flatten()
    tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert sample.boxes[0].tolist() == pytest.approx([float(corner) for corner in tight], abs=1)
    assert sample.box_classes.tolist() == [1]
    assert sample.tags.tolist() == [False, True]
    assert sample.image.dtype == sample.mask.dtype == torch.uint8


@pytest.mark.parametrize("transform", [*GEOMETRIC, ColourJitter(0.3, 0.3, 0.3, 0.1), HSVJitter()], ids=repr)
def test_only_the_generator_decides_and_the_sample_is_left_alone(transform):
    original, sample = noise(), noise()
    first = transform(sample, seeded(3))
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    assert same(first, transform(sample, seeded(3)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert same(original, sample)


def test_random_transforms_differ_by_seed():
    for transform in (ResizeLonger(70, 200), RandomScale(0.5, 1.5), RandomResizedCrop(50), RandomCrop(30), HSVJitter()):
        images = [transform(noise(), seeded(seed)).image for seed in range(4)]
        assert not all(torch.equal(images[0], image) for image in images[1:])


def test_two_flips_are_none():
    assert same(geometry.flip(geometry.flip(noise())), noise())


def test_flip_moves_boxes_to_the_other_side():
    assert geometry.flip(noise()).boxes.tolist() == [[30, 5, 77, 40], [70, 0, 80, 60]]


def test_flip_happens_as_often_as_it_should():
    sample, generator = noise(4, 4), seeded()
    flipped = sum(not same(Flip(0.25)(sample, generator), sample) for _ in range(400))
    assert 70 < flipped < 130
    assert same(Flip(0.0)(sample, generator), sample)


def test_longer_side_is_an_integer_of_the_range():
    sizes = {max(ResizeLonger(10, 12)(noise(6, 9), seeded(seed)).size) for seed in range(30)}
    assert sizes == {10, 11, 12}
    assert ResizeLonger(100, 100)(noise(213, 320), seeded()).size == (67, 100)
    assert ResizeLonger(100, 100)(noise(320, 213), seeded()).size == (100, 67)


@pytest.mark.parametrize(("height", "width", "longer"), [(60, 80, 50), (60, 80, 130), (37, 23, 29)])
def test_resizing_is_that_of_pil(height, width, longer):
    sample = noise(height, width)
    resized = ResizeLonger(longer, longer)(sample, seeded())
    pil = Image.fromarray(sample.image.permute(1, 2, 0).numpy()).resize(resized.size[::-1], Image.Resampling.BICUBIC)
    assert np.abs(resized.image.permute(1, 2, 0).numpy().astype(int) - np.array(pil)).max() <= 2
    mask = Image.fromarray(sample.mask.numpy()).resize(resized.size[::-1], Image.Resampling.NEAREST)
    assert (
        resized.mask.numpy() == np.array(mask)
    ).mean() > 0.95  # where a centre falls between two pixels, they differ


def test_masks_are_never_blended_and_saliency_stays_a_share():
    sample = noise()
    resized = ResizeSquare(113)(replace(sample, mask=sample.mask.clamp(max=1) * 255), seeded())
    assert set(resized.mask.unique().tolist()) == {0, 255}
    for share in (resized.saliency, resized.scores):
        assert 0 <= share.min() < share.max() <= 1


def test_extremely_flat_image_keeps_a_pixel():
    assert RandomScale(0.1, 0.1)(noise(1, 300), seeded()).size == (1, 30)


def test_crop_of_a_large_image_is_a_part_of_it():
    sample = noise()
    crop = RandomCrop(32)(sample, seeded(5))
    assert crop.valid.all()
    windows = sample.image.unfold(1, 32, 1).unfold(2, 32, 1)
    places = (windows == crop.image[:, None, None]).all(-1).all(-1).all(0).nonzero()
    (top, left) = places[0].tolist()
    assert torch.equal(crop.mask, sample.mask[top : top + 32, left : left + 32])
    assert torch.equal(crop.saliency, sample.saliency[:, top : top + 32, left : left + 32])
    assert torch.equal(crop.scores, sample.scores[:, top : top + 32, left : left + 32])
    assert torch.equal(crop.objects, sample.objects[top : top + 32, left : left + 32])


@pytest.mark.parametrize("place", ["random", "centre", "corner"])
def test_padding_of_a_small_image(place):
    sample = Normalise()(noise(20, 30), seeded())
    crop = RandomCrop(50, place=place)(sample, seeded(1))
    assert isinstance(crop, View)
    assert crop.image.shape == (3, 50, 50)
    padding = ~crop.valid
    assert crop.valid.sum() == 20 * 30
    assert (crop.image[padding.expand(3, -1, -1)] == 0).all()
    assert (crop.saliency[padding] == 0).all()
    assert (crop.scores[padding.expand(4, -1, -1)] == 0).all()
    assert (crop.mask[padding[0]] == IGNORE).all()
    assert torch.equal(crop.image[crop.valid.expand(3, -1, -1)], sample.image.flatten())
    top, left = crop.valid[0].nonzero()[0].tolist()
    assert (top, left) == {"centre": (15, 10), "corner": (0, 0)}.get(place, (top, left))
    assert 0 <= top <= 30
    assert 0 <= left <= 20


def test_one_side_padded_and_the_other_cut():
    crop = RandomCrop(40)(noise(20, 90), seeded())
    assert crop.valid[0].sum(0).tolist() == [20] * 40
    assert crop.image.shape == (3, 40, 40)


def test_padding_before_normalisation_can_have_a_colour_and_a_label():
    crop = RandomCrop(50, place="centre", fill=(123, 117, 104), mask_fill=0)(noise(20, 30), seeded())
    assert crop.image[:, 0, 0].tolist() == [123, 117, 104]
    assert crop.image.dtype == torch.uint8
    assert crop.mask[0, 0] == 0


def test_validity_follows_what_comes_after_the_padding():
    crop = RandomCrop(50, place="corner")(noise(20, 30), seeded())
    assert geometry.flip(crop).valid[0, 0].tolist() == [False] * 20 + [True] * 30
    assert geometry.resize(crop, 100, 100).valid.sum() == 40 * 60
    assert geometry.window(crop, 10, 20, 20, 20).valid.sum() == 10 * 10
    again = RandomCrop(60, place="corner")(crop, seeded())
    assert again.valid.sum() == 20 * 30


def test_boxes_are_clipped_and_dropped_under_one_pixel():
    sample = replace(noise(), boxes=torch.tensor([[0, 0, 20.5, 60], [10, 10, 40, 40], [0, 0, 5, 5.0]]))
    sample = replace(sample, box_classes=torch.tensor([7, 8, 9]))
    part = geometry.window(sample, 5, 20, 20, 30)
    assert part.boxes.tolist() == [[0, 5, 20, 20]]  # the first keeps half a pixel, the last nothing
    assert part.box_classes.tolist() == [8]


@pytest.mark.parametrize("transform", GEOMETRIC, ids=repr)
def test_no_boxes_and_no_labels(transform):
    empty = replace(noise(), boxes=torch.zeros(0, 4), box_classes=torch.zeros(0, dtype=torch.int64))
    moved = transform(empty, seeded())
    assert moved.boxes.shape == (0, 4)
    assert moved.box_classes.shape == (0,)
    bare = transform(Sample("bare", noise().image), seeded())
    assert bare.boxes is bare.mask is bare.saliency is bare.scores is bare.tags is None


@pytest.mark.parametrize(("height", "width"), [(60, 80), (10, 400), (400, 10), (1, 1)])
def test_random_resized_crop_keeps_to_area_and_ratio(height, width):
    transform = RandomResizedCrop(32, area=(0.2, 0.5))
    for seed in range(40):
        top, left, part_height, part_width = transform._part(height, width, seeded(seed))
        assert 0 <= top <= height - part_height
        assert 0 <= left <= width - part_width
        assert part_height > 0
        assert part_width > 0
        if (height, width) == (60, 80):
            assert 0.19 <= part_height * part_width / (height * width) <= 0.52
            assert 0.7 <= part_width / part_height <= 1.4
    assert transform(noise(height, width), seeded()).size == (32, 32)


@pytest.mark.parametrize("preset", [classification, segmentation])
def test_parts_of_an_image_instead_of_its_size(preset):
    made = preset(32, area=(0.5, 1.0))
    assert RandomResizedCrop(32, (0.5, 1.0)) in made.transforms
    assert not any(isinstance(transform, ResizeLonger | RandomScale) for transform in made.transforms)
    assert made(noise(60, 80), seeded()).size == (32, 32)


def test_seeds_are_fixed_and_distinct():
    assert sample_seed(0, 0, 0) == 1445694884619442965
    seeds = {sample_seed(run, epoch, index) for run in range(5) for epoch in range(10) for index in range(-2, 50)}
    assert len(seeds) == 5 * 10 * 52
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_draws_are_in_range():
    generator = seeded()
    assert {integer(generator, 2, 4) for _ in range(50)} == {2, 3, 4}
    assert all(2 <= uniform(generator, 2, 3) < 3 for _ in range(50))


@pytest.mark.parametrize("preset", [classification, segmentation])
def test_presets(preset):
    for options in (
        {},
        {"jitter": (0.3, 0.3, 0.3, 0.1)},
        {"resize": (60, 90), "scale": None},
        {"resize": None, "scale": (1, 2)},
    ):
        view = preset(64, **options)(square(), seeded())
        assert view.image.shape == (3, 64, 64)
        assert view.image.dtype == torch.float32
        assert view.valid.shape == (1, 64, 64)
        assert view.mask.shape == (64, 64)


def test_order_of_the_presets():
    jitter = (0.3, 0.2, 0.1, 0.05)
    ending = (Normalise(), RandomCrop(64))
    assert classification(64, jitter=jitter).transforms == (
        *(ResizeLonger(256, 512), Flip(0.5), ColourJitter(*jitter)),
        *ending,
    )
    assert segmentation(64, jitter=jitter).transforms == (
        *(ColourJitter(*jitter), Flip(0.5), RandomScale(0.5, 1.5)),
        *ending,
    )
    assert classification(64, resize=None, jitter=(0, 0, 0, 0)).transforms == (Flip(0.5), *ending)


@pytest.fixture
def augmented(tmp_path):
    return AugmentedDataset(VOCDataset(voc_tree(tmp_path)), classification(32, resize=(30, 60)), seed=7)


def test_epochs_differ_and_can_be_repeated(augmented):
    first, valid = augmented[1]
    assert torch.equal(valid, first.valid)
    assert same(first, augmented[1][0])
    augmented.set_epoch(1)
    second, _ = augmented[1]
    assert not torch.equal(first.image, second.image) or not torch.equal(first.mask, second.mask)
    augmented.set_epoch(0)
    assert same(first, augmented[1][0])


def test_cache_changes_nothing(augmented):
    cached = AugmentedDataset(augmented.dataset, augmented.transform, seed=7, cache=True)
    for epoch in range(2):
        augmented.set_epoch(epoch)
        cached.set_epoch(epoch)
        assert all(same(cached[index][0], augmented[index][0]) for index in range(3))


def test_everything_is_valid_where_nothing_is_padded(augmented):
    resized = AugmentedDataset(augmented.dataset, ResizeSquare(16), seed=0)
    assert resized[0][1].shape == (1, 16, 16)
    assert resized[0][1].all()


def test_batches(augmented):
    batch = augmented.collate([augmented[index] for index in range(3)])
    assert isinstance(batch, Batch)
    assert batch.ids == ("a", "b", "c")
    assert batch.images.shape == (3, 3, 32, 32)
    assert torch.equal(batch.valid[1], augmented[1][1])
    assert batch.masks.dtype == torch.int64
    assert all(known.all() for known in batch.known.values())
    assert set(batch.known) == set(WeakLabel)


def test_workers_and_their_number_do_not_matter(augmented):
    def epochs(workers):
        loader = DataLoader(
            augmented,
            batch_size=2,
            num_workers=workers,
            collate_fn=augmented.collate,
            persistent_workers=workers > 0,
        )
        for epoch in range(2):
            augmented.set_epoch(epoch)  # seen by workers that are alive already
            yield from (torch.cat((batch.images, batch.masks[:, None]), 1) for batch in loader)

    alone, together = list(epochs(0)), list(epochs(2))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[2])


def test_can_be_sent_to_another_process(augmented):
    assert same(
        pickle.loads(pickle.dumps(augmented.transform))(square(), seeded()), augmented.transform(square(), seeded())
    )
