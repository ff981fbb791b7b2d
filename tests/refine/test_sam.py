"""Segments that vote: the rule against loops, and a tiny SAM with random weights, made here."""

import shutil

import pytest
import torch

from tests.data.trees import refusal
from weakseg.data.maps import LocalizationMaps
from weakseg.pipeline.options import checked_options
from weakseg.refine import sam
from weakseg.refine.masks import at_image_size, pseudo_mask
from weakseg.refine.sam import (
    Proposals,
    SAMRefiner,
    Segments,
    best,
    certain,
    distinct,
    grid,
    peaks,
    segment_anything,
    stability,
    vote,
)

transformers = pytest.importorskip("transformers")

HEIGHT, WIDTH = 40, 60
CPU = torch.device("cpu")


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def rectangles(*boxes, size=(HEIGHT, WIDTH)):
    """Masks of (top, left, bottom, right)."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def segments(*boxes, quality=None, size=(HEIGHT, WIDTH)):
    return Segments(rectangles(*boxes, size=size), torch.tensor(quality or [0.9] * len(boxes)))


def maps(classes=(1, 4), seed=0, size=(HEIGHT, WIDTH)):
    scores = random(len(classes), size[0] // 4, size[1] // 4, seed=seed)
    background = random(size[0] // 4, size[1] // 4, seed=seed + 1)
    return LocalizationMaps(torch.tensor(classes, dtype=torch.int64), scores, size, background=background)


@pytest.fixture
def image():
    return (random(3, HEIGHT, WIDTH) * 255).to(torch.uint8)


def vote_by_loops(scores, background, found, min_share):
    """Pixel by pixel: which segment is it in that has a say, and which of those is the smallest, then the best?"""
    labels, height, width = len(scores) + 1, *background.shape
    given = [[[float((background if c == 0 else scores[c - 1])[y, x]) for x in range(width)] for y in range(height)]
             for c in range(labels)]  # fmt: skip
    voters = []
    for mask, quality in zip(found.masks.tolist(), found.quality.tolist(), strict=True):
        pixels = [(y, x) for y in range(height) for x in range(width) if mask[y][x]]
        if not pixels:
            continue
        means = [sum(given[c][y][x] for y, x in pixels) / len(pixels) for c in range(labels)]
        label = means.index(max(means))
        agreeing = sum(max(range(labels), key=lambda c, y=y, x=x: given[c][y][x]) == label for y, x in pixels)
        if agreeing / len(pixels) >= min_share:
            voters.append((len(pixels), -quality, set(pixels), means))
    expected = torch.empty(labels, height, width)
    for y in range(height):
        for x in range(width):
            covering = [voter for voter in voters if (y, x) in voter[2]]
            values = (
                min(covering, key=lambda voter: voter[:2])[3] if covering else [given[c][y][x] for c in range(labels)]
            )
            expected[:, y, x] = torch.tensor(values)
    return expected[1:], expected[0]


@pytest.mark.parametrize("min_share", [0.0, 0.45, 0.6, 1.0])
@pytest.mark.parametrize("classes", [0, 1, 3])
def test_vote_is_the_rule_of_its_docstring(classes, min_share):
    scores, background = random(classes, 8, 11), random(8, 11, seed=1)
    scores[:, :4, :6] *= 0.3
    masks = torch.cat(
        [random(6, 8, 11, seed=2) > 0.7, rectangles((0, 0, 4, 6), (2, 2, 2, 2), (3, 4, 7, 9), size=(8, 11))]
    )
    found = Segments(masks, random(9, seed=3))
    voted = vote(scores, background, found, min_share)
    for one, other in zip(voted, vote_by_loops(scores, background, found, min_share), strict=True):
        torch.testing.assert_close(one, other)


def test_vote_leaves_what_it_was_given_alone():
    scores, background = random(2, 8, 11), random(8, 11, seed=1)
    before = scores.clone(), background.clone()
    vote(scores, background, segments((0, 0, 8, 11), size=(8, 11)), 0.0)
    assert torch.equal(scores, before[0])
    assert torch.equal(background, before[1])


def test_without_segments_nothing_changes():
    scores, background = random(2, 8, 11), random(8, 11, seed=1)
    for found in (segments(size=(8, 11)), segments((3, 3, 3, 3), size=(8, 11))):
        voted = vote(scores, background, found, 0.0)
        assert torch.equal(voted[0], scores)
        assert torch.equal(voted[1], background)


def test_background_may_win_a_segment_and_a_doubtful_one_abstains():
    scores, background = torch.zeros(1, 1, 10), torch.full((1, 10), 0.5)
    scores[0, 0, :3] = 0.9
    found = segments((0, 0, 1, 10), size=(1, 10))
    assert vote(scores, background, found, 0.7)[0].max() == pytest.approx(0.27)
    assert torch.equal(vote(scores, background, found, 0.71)[0], scores)


@pytest.mark.parametrize("turned", [False, True])
def test_the_smaller_segment_wins_and_then_the_better(turned):
    """An object within an object; then two of equal size that share their middle."""
    scores, background = torch.zeros(2, 1, 12), torch.full((1, 12), 0.1)
    scores[0, 0, :6], scores[1, 0, 6:] = 0.8, 0.8
    boxes, quality = [(0, 0, 1, 8), (0, 5, 1, 12), (0, 1, 1, 8)], [0.9, 0.8, 0.95]
    if turned:
        boxes, quality = boxes[::-1], quality[::-1]
    label = torch.cat(
        [background[None], *[vote(scores, background, segments(*boxes, quality=quality, size=(1, 12)), 0.5)[0]]]
    )
    assert label.argmax(0)[0].tolist() == [1] * 8 + [2] * 4


def test_grid():
    assert grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert grid(1).tolist() == [[0.5, 0.5]]


def test_peaks_are_apart_high_and_in_order():
    scores = torch.zeros(20, 40)
    scores[2, 5], scores[3, 7], scores[15, 30], scores[10, 20] = 0.9, 0.8, 1.0, 0.4
    expected = torch.tensor([[30.5 / 40, 15.5 / 20], [5.5 / 40, 2.5 / 20]])
    torch.testing.assert_close(peaks(scores, 5, 0.5, 0.1), expected)
    assert len(peaks(scores, 5, 0.5, 0.05)) == 3
    assert len(peaks(scores, 5, 0.3, 0.1)) == 3
    assert len(peaks(scores, 1, 0.3, 0.1)) == 1
    assert peaks(scores, 5, 1.1, 0.1).shape == (0, 2)


def test_a_plateau_has_few_peaks():
    assert len(peaks(torch.ones(20, 40), 50, 0.5, 0.5)) <= 4
    assert peaks(torch.ones(1, 1), 50, 0.5, 0.0).tolist() == [[0.5, 0.5]]


def test_stability_is_the_overlap_of_two_thresholds():
    logits = torch.tensor([[[2.0, 0.5, -0.5, -2.0]], [[2.0, 2.0, 2.0, -2.0]], [[-2.0] * 4]])
    assert stability(logits).tolist() == pytest.approx([1 / 3, 1, 0])


def test_which_proposals_vote():
    logits = torch.where(
        rectangles((0, 0, 4, 4), (0, 0, 8, 8), (0, 0, 2, 2), (9, 9, 9, 9), (0, 0, 5, 5), (1, 1, 6, 6)), 5.0, -5.0
    )
    logits[1] /= 10  # unstable
    proposals = Proposals(logits.view(2, 3, HEIGHT, WIDTH), torch.tensor([[0.9, 0.95, 0.5], [0.99, 0.7, 0.91]]))
    assert certain(proposals, 0.88, 0.95).masks.sum((1, 2)).tolist() == [16, 25]
    assert certain(proposals, 0.0, 0.0).quality.tolist() == pytest.approx([0.9, 0.95, 0.5, 0.7, 0.91])
    assert best(proposals).masks.sum((1, 2)).tolist() == [64, 0]


def test_of_near_duplicates_the_best_is_kept():
    found = segments((0, 0, 20, 20), (0, 0, 20, 21), (5, 30, 6, 31), (5, 30, 6, 31), quality=[0.9, 0.95, 0.8, 0.7])
    assert sorted(distinct(found).quality.tolist()) == pytest.approx([0.8, 0.95])
    assert len(distinct(segments()).masks) == 0


def tiny_sam(folder):
    """A SAM for images of 64 pixels, whose weights are random."""
    small = {"image_size": 64, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            **small,
            "hidden_size": 16,
            "output_channels": 8,
            "num_pos_feats": 4,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 32,
        },
        prompt_encoder_config={**small, "hidden_size": 8, "mask_input_channels": 4, "image_embedding_size": 8},
        mask_decoder_config={
            "hidden_size": 8,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
        },
    )
    model = transformers.SamModel(config)
    for name, parameter in model.named_parameters():
        if "mask_decoder" in name or "embed" in name:
            torch.nn.init.normal_(parameter, std=0.5)  # or else all points get the same answer
    quality = model.mask_decoder.iou_prediction_head.proj_out
    torch.nn.init.normal_(quality.weight, mean=0.0, std=0.01)
    torch.nn.init.constant_(quality.bias, 0.9)
    model.save_pretrained(folder)
    square, mask_square = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size=square, mask_size={"longest_edge": 16}, mask_pad_size=mask_square
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(autouse=True)
def fresh():
    segment_anything.cache_clear()


def refiner(folder, **options):
    return SAMRefiner(model=str(folder), **{"points_per_side": 4, "min_quality": 0, "min_stability": 0, **options})


@pytest.mark.parametrize("size", [(40, 60), (90, 33), (64, 64)])
def test_answers_are_those_of_transformers_own_processor(folder, size):
    """Its points are in pixels of the image, ours are not; masks come back at the image's size."""
    picture = (random(3, *size) * 255).to(torch.uint8)
    points = torch.tensor([[0.25, 0.8], [0.9, 0.1]])
    model = segment_anything(str(folder), CPU)
    found = model.propose(*model.embed(picture), points)
    processor = transformers.SamProcessor(transformers.SamImageProcessor.from_pretrained(folder))
    pixels = [[[[x * size[1], y * size[0]]] for x, y in points.tolist()]]
    inputs = processor(picture.permute(1, 2, 0).numpy(), input_points=pixels, return_tensors="pt")
    with torch.no_grad():
        answer = model.model(**inputs)
    (logits,) = processor.image_processor.post_process_masks(
        answer.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
    )
    assert found.logits.shape == (2, 3, *size)
    torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.quality, answer.iou_scores[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found.logits[0], found.logits[1])


@pytest.mark.parametrize("mode", ["segments", "peaks"])
def test_end_to_end(folder, image, mode):
    given = maps()
    before = given.scores.clone(), given.background.clone()
    one = refiner(folder, mode=mode, min_share=0.0)
    refined = one.refine(image, given)
    full = at_image_size(given)
    found = one.segments(image, full)
    assert len(found.masks) > 0
    assert len(found.masks) == len(found.quality)
    expected = vote(full.scores, full.background, found, 0.0)
    assert torch.equal(refined.scores, expected[0])
    assert torch.equal(refined.background, expected[1])
    assert not torch.equal(refined.scores, full.scores)
    assert refined.classes.tolist() == [1, 4]
    assert refined.scores.shape == (2, HEIGHT, WIDTH)
    assert 0 <= refined.scores.min() <= refined.scores.max() <= 1
    assert torch.equal(given.scores, before[0])
    assert torch.equal(given.background, before[1])


@pytest.mark.parametrize("mode", ["segments", "peaks"])
def test_the_batch_only_bounds_memory(folder, image, mode):
    single, together = (
        refiner(folder, mode=mode, batch=batch).segments(image, at_image_size(maps())) for batch in (1, 64)
    )
    assert torch.equal(single.masks, together.masks)
    torch.testing.assert_close(single.quality, together.quality)


def test_thresholds_keep_segments_out(folder, image):
    full = at_image_size(maps())
    counts = [len(refiner(folder, min_stability=share).segments(image, full).masks) for share in (0.0, 0.6, 1.0)]
    assert counts[0] >= counts[1] >= counts[2]
    assert counts[0] > counts[2]
    assert len(refiner(folder, min_quality=1.0).segments(image, full).masks) < counts[0]


def test_sharp_borders_for_blurred_maps(monkeypatch, image):
    """A stand-in that knows where the object ends."""
    inside = rectangles((10, 20, 30, 50))[0]

    class Knowing:
        def embed(self, image):
            return None, None

        def propose(self, embedding, inputs, points):
            logits = torch.where(torch.stack([inside, ~inside, torch.zeros_like(inside)]), 9.0, -9.0)
            return Proposals(logits.expand(len(points), -1, -1, -1), torch.full((len(points), 3), 0.95))

    monkeypatch.setattr(sam, "segment_anything", lambda name, device: Knowing())
    blurred = torch.nn.functional.avg_pool2d(inside[None].float(), 9, stride=4, padding=4)
    given = LocalizationMaps(torch.tensor([6]), blurred * 0.8, (HEIGHT, WIDTH), background=torch.full((10, 15), 0.3))
    assert not torch.equal(pseudo_mask(given) == 7, inside)
    assert torch.equal(pseudo_mask(SAMRefiner().refine(image, given)) == 7, inside)


def test_it_is_loaded_once_and_only_when_needed(folder, image, monkeypatch):
    loads = []
    original = sam._from_pretrained
    monkeypatch.setattr(sam, "_from_pretrained", lambda name: loads.append(name) or original(name))
    first, second = refiner(folder), refiner(folder, mode="peaks")
    assert first.refine(image, maps(classes=())).scores.shape == (0, HEIGHT, WIDTH)
    second.min_peak = 2.0
    assert torch.equal(second.refine(image, maps()).scores, at_image_size(maps()).scores)
    assert loads == []
    first.refine(image, maps())
    first.refine(image, maps(seed=5))
    second.min_peak = 0.1
    second.refine(image, maps())
    assert loads == [str(folder)]


def test_maps_without_background(folder, image):
    found = maps()
    refusal(lambda: refiner(folder).refine(image, found.with_scores(found.scores, None)), "no background", "before")


def test_without_transformers(monkeypatch):
    monkeypatch.setattr(sam, "find_spec", lambda name: None)
    refusal(SAMRefiner, "needs transformers", "pip install 'weakseg[sam]'")


def test_a_folder_that_is_not_there(tmp_path):
    refusal(lambda: SAMRefiner(model=str(tmp_path / "no")), tmp_path / "no", "no such folder")


def broken(folder, copy, how):
    shutil.copytree(folder, copy)
    if how == "empty":
        shutil.rmtree(copy)
        copy.mkdir()
    elif how == "other":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
        transformers.ResNetModel(config).save_pretrained(copy)
    elif how == "truncated":
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif how == "pickled":
        (copy / "model.safetensors").unlink()
        torch.save(transformers.SamModel.from_pretrained(folder).state_dict(), copy / "pytorch_model.bin")
    elif how == "less":
        model = transformers.SamModel.from_pretrained(folder)
        del model.mask_decoder.iou_token
        model.save_pretrained(copy)
    return copy


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty", ()),
        ("other", ("type 'resnet'",)),
        ("truncated", ()),
        ("pickled", ("safetensors",)),
        ("less", ("lacks 1 tensors",)),
    ],
)
def test_a_folder_without_a_whole_sam(folder, tmp_path, image, how, words):
    copy = broken(folder, tmp_path / "copy", how)
    refusal(lambda: refiner(copy).refine(image, maps()), f"SAM '{copy}' cannot be had", "local folder", *words)


def test_a_hub_that_cannot_be_reached(image, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nowhere")
    refusal(lambda: SAMRefiner(model="weakseg/no-such-sam").refine(image, maps()), "'weakseg/no-such-sam'", "network")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_share": 1.5}, ("min_share", "1.5")),
        ({"points_per_side": 0}, ("points_per_side",)),
        ({"mode": "boxes"}, ("mode", "'boxes'")),
        ({"points": 3}, ("unknown key 'refine.points'",)),
    ],
)
def test_options_are_checked(options, words):
    refusal(lambda: checked_options(SAMRefiner, options, "refine"), *words)
