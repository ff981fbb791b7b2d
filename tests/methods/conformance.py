"""What every method must be able to do; a method of a plug-in can be held to the same by inheriting ``Conformance``.

::

    class TestMine(Conformance):
        setup = Setup("mine", options={"depth": 2})
"""

import copy
import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from weakseg.data.sample import Batch, Sample, WeakLabel, collate
from weakseg.methods.method import Activation, Method, Views
from weakseg.methods.registry import create_method, method_class
from weakseg.networks.backbone import Backbone
from weakseg.ops.maps import strided_size, unflip
from weakseg.refine.background import PowerBackground, ThresholdBackground
from weakseg.refine.masks import pseudo_mask

HEIGHT, WIDTH, CLASSES = 48, 72, 3
TAGGED = ((0,), (0, 2), ())  # one tag, two, none
VIEWS = Views(scales=(1.0, 0.5), flip=True, stride=4)


@dataclass(frozen=True)
class Setup:
    """How a method is built here.

    Attributes:
        name: Its name in the registry.
        backbone: A small timm model it can work with.
        settings: Further settings of the backbone.
        options: Options of the method.
    """

    name: str
    backbone: str = "test_resnet"
    settings: dict[str, Any] = field(default_factory=lambda: {"output_stride": 16})
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, classes: int = CLASSES, seed: int = 0) -> Method:
        torch.manual_seed(seed)
        return create_method(
            self.name, Backbone(self.backbone, weights="none", **self.settings), classes, **self.options
        )


def labelled_batch(tagged=TAGGED, classes=CLASSES, height=HEIGHT, width=WIDTH, seed=0) -> Batch:
    """Random images with every kind of label; the objects are squares, side by side."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for number, shown in enumerate(tagged):
        mask = torch.zeros(height, width, dtype=torch.uint8)
        for place, value in enumerate(shown):
            mask[10:34, 4 + 28 * place : 28 + 28 * place] = value + 1
        tags = torch.zeros(classes, dtype=torch.bool)
        tags[list(shown)] = True
        boxes = [[4 + 28 * place, 10, 28 + 28 * place, 34] for place in range(len(shown))]
        samples.append(
            Sample(
                id=str(number),
                image=torch.randn(3, height, width, generator=generator) + mask,
                tags=tags,
                boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
                box_classes=torch.tensor(shown, dtype=torch.int64),
                saliency=(mask > 0)[None].float(),
                mask=mask,
            )
        )
    return collate(samples, classes)


def mirrored(batch: Batch) -> Batch:
    """The mirror images with all their labels."""
    width = batch.images.shape[-1]

    def corners(boxes: torch.Tensor) -> torch.Tensor:
        x1, y1, x2, y2 = boxes.unbind(1)
        return torch.stack((width - x2, y1, width - x1, y2), dim=1)

    pictures = {name: getattr(batch, name).flip(-1) for name in ("images", "valid", "saliency", "masks")}
    return replace(batch, **pictures, boxes=tuple(corners(boxes) for boxes in batch.boxes))


def gradients(model: Method, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


class Conformance:
    """Inherit, and say in ``setup`` which method it is about."""

    setup: Setup

    @pytest.fixture
    def method(self) -> Method:
        return self.setup.build()

    @pytest.fixture
    def batch(self) -> Batch:
        return labelled_batch()

    def test_needs_are_kinds_of_labels(self, method):
        assert method.needs
        assert method.needs <= set(WeakLabel)

    def test_forward_gives_scores_logits_and_features(self, method, batch):
        with torch.no_grad():
            seen = method.eval()(batch.images)
        assert isinstance(seen, Activation)
        assert seen.logits.shape == (len(batch), CLASSES)
        assert seen.scores.shape[:2] == (len(batch), CLASSES) or seen.scores.shape[1] > CLASSES
        assert seen.features.shape[0] == len(batch)
        for tensor in (seen.scores, seen.features):
            assert tensor.ndim == 4
            assert tensor.shape[-1] > tensor.shape[-2]  # as the images
        assert all(tensor.isfinite().all() for tensor in (seen.scores, seen.logits, seen.features))

    @pytest.mark.parametrize("tagged", [TAGGED, ((1,),), ((), ())], ids=["mixed", "one image", "no tags"])
    def test_losses_are_finite_named_scalars(self, method, tagged):
        losses = method.train().losses(labelled_batch(tagged))
        assert losses
        for name, value in losses.items():
            assert name.isidentifier()
            assert value.shape == ()
            assert value.dtype == torch.float32
            assert value.isfinite()

    def test_gradients_reach_head_and_backbone(self, method, batch):
        found = gradients(method, method.train().losses(batch))
        assert all(gradient.isfinite().all() for gradient in found.values())
        moved = {name for name, gradient in found.items() if gradient.abs().sum() > 0}
        assert any(name.startswith("backbone.") for name in moved)
        assert any(not name.startswith("backbone.") for name in moved)

    def test_bfloat16_autocast_agrees_with_float32(self, method, batch):
        torch.manual_seed(5)
        exact = copy.deepcopy(method).train().losses(batch)
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = method.train().losses(batch)
        assert rounded.keys() == exact.keys()
        for name, value in rounded.items():
            assert value.item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.05), name
        assert all(gradient.isfinite().all() for gradient in gradients(method, rounded).values())

    def test_a_few_steps_lower_the_loss(self, method, batch):
        method.begin_epoch(0, 1)
        optimizer = torch.optim.SGD(method.parameter_groups(lr=0.005, weight_decay=0), momentum=0.9)
        totals = []
        for _ in range(12):
            total = torch.stack(list(method.train().losses(batch).values())).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
        assert min(totals[-3:]) < totals[0]

    def test_one_class(self):
        method, batch = self.setup.build(classes=1), labelled_batch(((0,), ()), classes=1)
        assert all(value.isfinite() for value in method.train().losses(batch).values())
        shown, empty = method.eval().localize(batch, VIEWS)
        assert shown.classes.tolist() == [0]
        assert empty.classes.tolist() == []

    @pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5, 1.5)])
    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("stride", [1, 4])
    def test_localize_gives_maps_of_the_present_classes(self, method, scales, flip, stride):
        height, width = 41, 67  # nothing divides these
        batch = labelled_batch(height=height, width=width)
        found = method.eval().localize(batch, Views(scales, flip, stride))
        assert len(found) == len(batch)
        for maps, shown in zip(found, TAGGED, strict=True):
            assert maps.classes.tolist() == list(shown)
            assert maps.classes.dtype == torch.int64
            assert maps.size == (height, width)
            assert maps.scores.shape == (len(shown), strided_size(height, stride), strided_size(width, stride))
            assert maps.scores.dtype == torch.float32
            assert not maps.scores.requires_grad
            assert ((maps.scores >= 0) & (maps.scores <= 1)).all()

    def test_localize_changes_nothing_and_repeats_itself(self, method, batch):
        method.eval()
        before = copy.deepcopy(method.state_dict())
        first, second = method.localize(batch, VIEWS), method.localize(batch, VIEWS)
        assert all(torch.equal(one.scores, other.scores) for one, other in zip(first, second, strict=True))
        assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())

    def test_an_image_without_tags_is_all_background(self, method, batch):
        maps = method.eval().localize(batch, VIEWS)[TAGGED.index(())]
        assert maps.scores.shape[0] == 0
        for refiner in (ThresholdBackground(value=0.0), PowerBackground(alpha=32)):
            mask = pseudo_mask(refiner.refine(torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8), maps))
            assert mask.shape == (HEIGHT, WIDTH)
            assert not mask.any()

    def test_tags_choose_the_maps_and_do_not_change_them(self, method):
        few, many = (
            method.eval().localize(labelled_batch(((0,),)), VIEWS)[0],
            method.localize(self._retagged(labelled_batch(((0,),))), VIEWS)[0],
        )
        assert many.classes.tolist() == [0, 1, 2]
        torch.testing.assert_close(many.scores[:1], few.scores)

    def test_the_mirror_image_has_the_mirrored_maps(self, method, batch):
        pairs = zip(method.eval().localize(batch, VIEWS), method.localize(mirrored(batch), VIEWS), strict=True)
        for straight, other in pairs:
            torch.testing.assert_close(unflip(other.scores), straight.scores, atol=1e-3, rtol=1e-3)

    def test_an_image_does_not_depend_on_its_company(self, method, batch):
        together = method.eval().localize(batch, VIEWS)[1]
        alone = method.localize(labelled_batch(TAGGED[:2]), VIEWS)[1]
        torch.testing.assert_close(alone.scores, together.scores, atol=1e-4, rtol=1e-3)

    def test_parameter_groups_hold_every_trainable_parameter_once(self, method):
        method.backbone.requires_grad_(False)
        next(method.backbone.parameters()).requires_grad_(True)
        listed = [id(p) for group in method.parameter_groups(0.1, 1e-4) for p in group["params"]]
        trainable = {id(parameter) for parameter in method.parameters() if parameter.requires_grad}
        assert len(listed) == len(trainable)
        assert set(listed) == trainable

    def test_new_layers_learn_faster_than_the_backbone(self, method):
        body = {id(parameter) for parameter in method.backbone.parameters()}
        rates = [(id(p) in body, group["lr"]) for group in method.parameter_groups(0.1, 1e-4) for p in group["params"]]
        assert max(rate for old, rate in rates if not old) > min(rate for old, rate in rates if old)

    def test_weights_carry_everything(self, method, batch):
        other = self.setup.build(seed=1)
        other.load_state_dict(method.state_dict())
        with torch.no_grad():
            one, two = method.eval()(batch.images), other.eval()(batch.images)
        assert torch.equal(one.scores, two.scores)
        assert torch.equal(one.logits, two.logits)

    def test_the_same_seed_gives_the_same_weights(self, method):
        again = self.setup.build().state_dict()
        assert all(torch.equal(value, again[name]) for name, value in method.state_dict().items())

    def test_options_of_maps_are_options(self):
        kind = method_class(self.setup.name)
        options = {key for key, value in inspect.signature(kind).parameters.items() if value.kind is value.KEYWORD_ONLY}
        assert kind.inference_options <= options

    def test_every_epoch_can_begin(self, method, batch):
        for epoch in range(3):
            method.begin_epoch(epoch, 3)
            assert all(value.isfinite() for value in method.train().losses(batch).values())

    @staticmethod
    def _retagged(batch):
        """Every tag, and every box once for each class."""
        classes = batch.tags.shape[1]
        return replace(
            batch,
            tags=torch.ones_like(batch.tags),
            boxes=tuple(boxes.repeat(classes, 1) for boxes in batch.boxes),
            box_classes=tuple(torch.arange(classes).repeat_interleave(len(boxes)) for boxes in batch.boxes),
        )
