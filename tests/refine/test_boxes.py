"""Boxes as maps: filled, cut out by colour, and carried along edges."""

import numpy as np
import pytest
import torch

from tests.data.trees import refusal
from tests.refine.learning import picture
from weakseg.data.maps import LocalizationMaps
from weakseg.ops.crf import CRF_PARAMETERS, dense_crf
from weakseg.refine.box_crf import BoxCRF, box_probabilities
from weakseg.refine.boxes import BoxesRefiner
from weakseg.refine.grabcut import GrabCut, cut_out
from weakseg.refine.masks import pseudo_mask
from weakseg.refine.refiner import Chain

HEIGHT, WIDTH = 20, 28
TWO = ([[2, 3, 12, 17], [8, 5, 24, 15]], [4, 1])


def boxed(boxes=TWO[0], box_classes=TWO[1], classes=None, size=(HEIGHT, WIDTH), seed=0, **more):
    """Random maps at image size with boxes."""
    present = sorted(set(box_classes)) if classes is None else list(classes)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(present), *size, generator=generator)
    background = torch.rand(size, generator=generator)
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = torch.tensor(box_classes, dtype=torch.int64)
    return LocalizationMaps(
        torch.tensor(present, dtype=torch.int64),
        scores,
        size,
        background=background,
        boxes=corners,
        box_classes=labels,
        **more,
    )


def many(count=50, seed=3):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.stack([torch.randint(0, side - 3, (count,), generator=generator) for side in (WIDTH, HEIGHT)], 1)
    ends = starts + torch.randint(1, 12, (count, 2), generator=generator)
    boxes = torch.cat([starts, ends.minimum(torch.tensor([WIDTH, HEIGHT]))], 1)
    return boxed(boxes.tolist(), torch.randint(0, 5, (count,), generator=generator).tolist())


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def object_in(box, size=(40, 60), inner=4):
    """A bright, uneven object on a dark ground, ``inner`` pixels within its box."""
    generator = torch.Generator().manual_seed(5)
    image = 40 + 20 * torch.rand(3, *size, generator=generator)
    x1, y1, x2, y2 = box
    truth = torch.zeros(size, dtype=torch.bool)
    truth[y1 + inner : y2 - inner, x1 + inner : x2 - inner] = True
    image[:, truth] += 150
    return image.to(torch.uint8), truth


class TestBoxes:
    def test_the_smallest_box_is_on_top(self, image):
        given = boxed([[0, 0, 20, 20], [4, 4, 10, 10], [5, 5, 11, 11]], [2, 0, 2])
        mask = pseudo_mask(BoxesRefiner().refine(image, given))
        expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
        expected[:20, :20] = 3
        expected[4:10, 4:10] = 1
        expected[5:11, 5:11] = 3
        assert torch.equal(mask, expected)

    @pytest.mark.parametrize("confidence", [1.0, 0.7, 0.3])
    def test_the_rest_of_the_confidence_is_background(self, image, confidence):
        given = boxed()
        refined = BoxesRefiner(confidence=confidence).refine(image, given)
        inside = refined.scores.sum(0) > 0
        assert inside.any()
        torch.testing.assert_close(refined.background + refined.scores.sum(0), torch.ones(HEIGHT, WIDTH))
        assert refined.scores.unique().tolist() == pytest.approx([0, confidence])
        assert (refined.background[~inside] == 1).all()
        assert pseudo_mask(refined).any() == (confidence > 0.5)

    def test_classes_are_those_of_the_boxes_whatever_came_in(self, image):
        refined = BoxesRefiner().refine(image, boxed(classes=(0, 3, 7)))
        assert refined.classes.tolist() == [1, 4]
        assert refined.scores.shape == (2, HEIGHT, WIDTH)

    def test_a_class_whose_boxes_are_all_covered_is_still_a_class(self, image):
        refined = BoxesRefiner().refine(image, boxed([[2, 2, 5, 5], [2, 2, 5, 5]], [3, 1]))
        assert refined.classes.tolist() == [1, 3]
        assert pseudo_mask(refined).unique().tolist() == [0, 2]

    def test_a_box_as_large_as_the_image_leaves_no_background(self, image):
        assert (pseudo_mask(BoxesRefiner().refine(image, boxed([[0, 0, WIDTH, HEIGHT]], [2]))) == 3).all()


class TestGrabCut:
    def test_an_object_of_another_colour_is_cut_out(self):
        box = (10, 8, 44, 32)
        image, truth = object_in(box)
        mask = pseudo_mask(GrabCut().refine(image, boxed([box], [2], size=(40, 60))))
        assert torch.equal(mask == 3, truth)

    def test_an_object_on_top_of_another(self):
        """Two boxes; the smaller one's object hides a part of the larger one's."""
        image, large = object_in((6, 4, 54, 36))
        small = torch.zeros_like(large)
        small[14:24, 20:32] = True
        image[:, small] = torch.tensor([250, 10, 10], dtype=torch.uint8)[:, None]
        given = boxed([[16, 10, 36, 28], [6, 4, 54, 36]], [0, 5], size=(40, 60))
        mask = pseudo_mask(GrabCut().refine(image, given))
        assert (mask[small] == 1).all()
        assert (mask[large & ~small] == 6).float().mean() > 0.9
        assert not mask[~large & ~small].any()

    def test_scores_are_hard_and_keep_within_their_boxes(self, image):
        given = many()
        refined = GrabCut(iterations=1).refine(image, given)
        assert set(refined.scores.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(refined.background + refined.scores.sum(0), torch.ones(HEIGHT, WIDTH))
        filled = BoxesRefiner().refine(image, given)
        assert not refined.scores.sum(0)[filled.background == 1].any()

    def test_the_same_on_every_call(self, image):
        given = boxed()
        first = GrabCut().refine(image, given).scores
        GrabCut().refine(image, boxed([[1, 1, 9, 9]], [0]))
        assert torch.equal(GrabCut().refine(image, given).scores, first)

    def test_a_box_as_large_as_the_image_is_kept_whole(self, image):
        assert (pseudo_mask(GrabCut().refine(image, boxed([[0, 0, WIDTH, HEIGHT]], [2]))) == 3).all()

    @pytest.mark.parametrize("box", [[3, 4, 4, 5], [0, 0, 2, 1], [0, 0, WIDTH, HEIGHT - 1], [5, 0, 7, HEIGHT]])
    @pytest.mark.parametrize("flat", [True, False])
    def test_boxes_and_surroundings_of_a_few_pixels_and_flat_colours(self, image, box, flat):
        given = torch.full_like(image, 90) if flat else image
        refined = GrabCut().refine(given, boxed([box], [2]))
        x1, y1, x2, y2 = box
        outside = refined.scores[0].clone()
        outside[y1:y2, x1:x2] = 0
        assert refined.scores.any()
        assert not outside.any()

    def test_what_cannot_be_cut_is_kept_whole(self):
        flat = np.full((12, 16, 3), 90, dtype=np.uint8)
        region = (slice(3, 8), slice(2, 9))
        cut = cut_out(flat, region, 5)
        assert cut.any()
        assert not np.delete(cut, np.s_[3:8], axis=0).any()

    def test_a_box_without_a_pixel_adds_nothing(self, image):
        refined = GrabCut().refine(image, boxed([[3, 3, 3, 9]], [2]))
        assert refined.classes.tolist() == [2]
        assert not pseudo_mask(refined).any()


class TestBoxProbabilities:
    def test_softmax_inside_and_background_outside(self):
        given = boxed()
        inside = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)) < 0.5
        found = box_probabilities(given.background, given.scores, inside)
        for y in range(0, HEIGHT, 3):
            for x in range(0, WIDTH, 5):
                values = np.array([given.background[y, x], *given.scores[:, y, x]], dtype=np.float64)
                expected = np.exp(values) / np.exp(values).sum() if inside[y, x] else [1, 0, 0]
                assert found[:, y, x].tolist() == pytest.approx(expected, abs=1e-6)

    def test_plain_is_what_was_given(self):
        given = boxed()
        found = box_probabilities(given.background, given.scores, given.background > 0.5, "plain")
        assert torch.equal(found, torch.cat([given.background[None], given.scores]))

    def test_bfloat16_background(self):
        given = boxed()
        found = box_probabilities(given.background.bfloat16(), given.scores, given.background > 0.5)
        assert found.dtype == torch.float32

    def test_no_class_is_background(self):
        found = box_probabilities(torch.rand(3, 4), torch.zeros(0, 3, 4), torch.ones(3, 4, dtype=torch.bool))
        assert torch.equal(found, torch.ones(1, 3, 4))

    def test_another_unary(self):
        with pytest.raises(ValueError, match="unknown unary 'hard'"):
            box_probabilities(torch.rand(3, 4), torch.zeros(1, 3, 4), torch.ones(3, 4, dtype=torch.bool), "hard")


class TestBoxCRF:
    @pytest.mark.parametrize("unary", ["softmax", "plain"])
    def test_it_is_the_crf_kept_in_boxes(self, image, unary):
        given = boxed()
        refined = BoxCRF(unary=unary).refine(image, given)
        inside, areas = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool), torch.zeros(2, HEIGHT, WIDTH)
        for (x1, y1, x2, y2), channel in zip(TWO[0], (1, 0), strict=True):
            inside[y1:y2, x1:x2] = True
            areas[channel, y1:y2, x1:x2] = 1
        probabilities = box_probabilities(given.background, given.scores, inside, unary)
        beliefs = dense_crf(image.permute(1, 2, 0).contiguous(), probabilities, "G")
        assert torch.equal(refined.background, beliefs[0])
        assert torch.equal(refined.scores, beliefs[1:] * areas)

    def test_labels_are_background_outside_and_classes_keep_to_their_boxes(self, image):
        given = many()
        mask = pseudo_mask(BoxCRF(iterations=2).refine(image, given))
        allowed = torch.zeros(6, HEIGHT, WIDTH, dtype=torch.bool)
        allowed[0] = True
        for (x1, y1, x2, y2), box_class in zip(given.boxes.int().tolist(), given.box_classes.tolist(), strict=True):
            allowed[box_class + 1, y1:y2, x1:x2] = True
        assert allowed.gather(0, mask.long()[None]).all()
        assert mask.any()

    def test_filled_boxes_shrink_to_the_object(self):
        """The baseline: boxes, then edges; the boxes are loose around an object of another colour."""
        box = (10, 8, 44, 32)
        image, truth = object_in(box, inner=3)
        given = boxed([box], [2], size=(40, 60))
        chain = Chain([("boxes", BoxesRefiner()), ("box_crf", BoxCRF())])
        mask = pseudo_mask(chain.refine(image, given))
        filled = pseudo_mask(BoxesRefiner().refine(image, given))
        assert (mask > 0)[truth].all()
        assert ((mask > 0) & ~truth).sum() < 0.5 * ((filled > 0) & ~truth).sum()

    def test_a_class_without_a_box_is_nowhere(self, image):
        refined = BoxCRF(iterations=1).refine(image, boxed([[2, 3, 12, 17]], [1], classes=(1, 4)))
        assert refined.scores[0].any()
        assert not refined.scores[1].any()

    def test_no_box_is_background(self, image):
        refined = BoxCRF().refine(image, boxed([], [], classes=(1, 4)))
        assert not pseudo_mask(refined).any()

    def test_a_box_as_large_as_the_image(self, image):
        refined = BoxCRF().refine(image, boxed([[0, 0, WIDTH, HEIGHT]], [2]))
        assert refined.scores.isfinite().all()
        torch.testing.assert_close(refined.background + refined.scores.sum(0), torch.ones(HEIGHT, WIDTH))

    def test_settings(self):
        assert BoxCRF().params is CRF_PARAMETERS["G"]
        assert BoxCRF(iterations=3, scale_factor=2).params.iterations == 3
        assert BoxCRF(scale_factor=2).params.bilateral_sxy == 27.5
        refusal(lambda: BoxCRF(params="X"), "CRF parameter set 'X'")

    def test_coarse_maps_are_enlarged(self, image):
        given = boxed()
        coarse = given.with_scores(given.scores[:, ::4, ::4], given.background[::4, ::4])
        assert BoxCRF(iterations=1).refine(image, coarse).scores.shape == (2, HEIGHT, WIDTH)


@pytest.mark.parametrize("refiner", [BoxesRefiner(), GrabCut(), BoxCRF()])
def test_an_image_whose_boxes_are_not_known(image, refiner):
    given = boxed()
    unknown = LocalizationMaps(given.classes, given.scores, given.size, background=given.background)
    refusal(lambda: refiner.refine(image, unknown), "no boxes", "out of the chain")


def test_pictures_of_odd_sizes():
    given = boxed([[1, 1, 20, 9]], [0], size=(11, 37))
    for refiner in (BoxesRefiner(), GrabCut(), BoxCRF(iterations=1)):
        assert refiner.refine(picture(11, 37), given).scores.shape == (1, 11, 37)
