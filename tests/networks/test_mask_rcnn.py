"""Mask R-CNN on backbones of ours."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.ops import box_iou

from tests.data.trees import refusal
from weakseg.networks import mask_rcnn
from weakseg.networks.backbone import Backbone
from weakseg.networks.mask_rcnn import (
    DETECTORS,
    LOSSES,
    MaskRCNN,
    Target,
    create_detector,
    known_mask_loss,
    own_kernels,
)
from weakseg.networks.weights import save_weights
from weakseg.ops.instances import mask_boxes

CLASSES = 3
SIZE = (50, 75)
SMALL = {"width": 16, "box_width": 32, "samples": 16}


def detector(encoder="test_resnet", seed=0, detector=SMALL, **settings):
    torch.manual_seed(seed)
    return create_detector("mask_rcnn", CLASSES, encoder=encoder, detector=detector, **{"weights": "none", **settings})


def images(*size, seed=0):
    return torch.randn(2, 3, *(size or SIZE), generator=torch.Generator().manual_seed(seed))


def objects(*size, count=2):
    masks = torch.zeros(2, *(size or SIZE), dtype=torch.bool)
    masks[0, 5:40, 4:30], masks[1, 10:50, 40:70] = True, True
    return Target(mask_boxes(masks[:count]), torch.tensor([1, 3])[:count], masks[:count])


def losses(net, targets, seed=0):
    torch.manual_seed(seed)  # regions are drawn
    return net.train().losses(images(), targets)


def regions_and_logits(seed=0, cells=4, count=5):
    """Boxes near the objects of ``objects`` in the first of two images, and logits of masks in them."""
    generator = torch.Generator().manual_seed(seed)
    base = objects().boxes[torch.arange(count) % 2]
    boxes = base + 6 * torch.rand(count, 4, generator=generator) - 3
    boxes = boxes.clamp(min=0).minimum(torch.tensor([SIZE[1], SIZE[0]] * 2))
    return [boxes, boxes[:0]], torch.randn(count, CLASSES + 1, cells, cells, generator=generator)


def given_to_torchvision(targets):
    return [target.for_torchvision() for target in targets]


def test_the_loss_of_masks_is_torchvisions_where_all_is_known():
    targets, (regions, logits) = [objects(), objects(count=0)], regions_and_logits()
    owners = [box_iou(target.boxes, boxes).argmax(0) if len(boxes) else torch.zeros(0, dtype=torch.long)
              for target, boxes in zip(targets, regions, strict=True)]  # fmt: skip
    theirs = maskrcnn_loss(logits, regions, [t.masks for t in targets], [t.labels for t in targets], owners)
    torch.testing.assert_close(known_mask_loss(logits, regions, given_to_torchvision(targets)), theirs)


def test_the_loss_of_masks_is_the_mean_over_what_is_known():
    """A region of 4 x 4 cells of 2 x 2 pixels, cell by cell.

    RoIAlign reads half-way between pixels, so that a cell's share is that of three pixels, the middle one twice.
    """
    mask, unsure = torch.zeros(2, 12, 12, dtype=torch.bool)
    mask[2:8, 2:6], unsure[5:9, 3:12] = True, True
    mask &= ~unsure
    box = torch.tensor([[2.0, 2, 10, 10]])
    target = Target(box, torch.tensor([2]), mask[None], unsure)
    logits = torch.randn(1, CLASSES + 1, 4, 4, generator=torch.Generator().manual_seed(0))
    reading = torch.tensor([0.25, 0.5, 0.25])
    total = weight = 0.0
    for row in range(4):
        for column in range(4):
            cell = slice(2 + 2 * row, 5 + 2 * row), slice(2 + 2 * column, 5 + 2 * column)
            known, share = (float(reading @ pixels[cell].float() @ reading) for pixels in (~unsure, mask))
            p = torch.sigmoid(logits[0, 2, row, column]).item()
            total -= share * math.log(p) + (known - share) * math.log(1 - p)
            weight += known
    found = known_mask_loss(logits, [box], given_to_torchvision([target]))
    assert found.item() == pytest.approx(total / weight, rel=1e-5)
    as_background = known_mask_loss(logits, [box], given_to_torchvision([target._replace(unsure=None)]))
    assert abs(found - as_background) > 0.01


def test_what_is_unsure_has_no_gradient():
    unsure = torch.zeros(SIZE, dtype=torch.bool)
    unsure[:, :37] = True
    (regions, logits), target = regions_and_logits(cells=8), objects()._replace(unsure=unsure)
    logits.requires_grad_()
    known_mask_loss(logits, regions, given_to_torchvision([target, objects(count=0)])).backward()
    of_first, of_second = logits.grad[0::2], logits.grad[1::2]  # whose objects are left and right of that line
    assert not of_first.any()
    assert of_second[:, 3].abs().min() > 0
    assert not of_second[:, :3].any()


def test_if_nothing_is_known_the_loss_of_masks_is_zero():
    (regions, logits), everything = regions_and_logits(), torch.ones(SIZE, dtype=torch.bool)
    logits.requires_grad_()
    covered = [objects()._replace(unsure=everything), objects(count=0)]
    for targets, boxes, scores in ((covered, regions, logits), (covered, [regions[1]] * 2, logits[:0])):
        found = known_mask_loss(scores, boxes, given_to_torchvision(targets))
        found.backward()
        assert found.item() == 0
    assert not logits.grad.any()


def test_the_network_learns_from_what_is_known_alone():
    """The other losses are the same; without anything unsure the loss of masks is the one that torchvision gives."""
    net, unsure = detector(), torch.zeros(SIZE, dtype=torch.bool)
    unsure[20:35] = True
    theirs = {}
    hook = net.model.register_forward_hook(lambda _, __, found: theirs.update(mask=found["loss_mask"].item()))
    plain = losses(net, [objects(), objects(count=1)])
    hook.remove()
    assert plain["masks"].item() == pytest.approx(theirs["mask"], rel=1e-5)
    partly = losses(net, [objects()._replace(unsure=unsure), objects(count=1)])
    assert {name for name in plain if plain[name] != partly[name]} == {"masks"}
    covered = losses(net, [each._replace(unsure=torch.ones_like(unsure)) for each in (objects(), objects(count=1))])
    assert covered["masks"].item() == 0


ENCODERS = {
    "test_resnet": [4, 8, 16, 32],
    "mobilenetv3_small_050": [4, 8, 16, 32],
    "vit_tiny_patch16_224": [16],
    "test_convnext": [4, 8, 16, 32],
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_backbone_with_stages(encoder):
    net = detector(encoder)
    assert net.model.backbone.strides == ENCODERS[encoder]
    assert set(losses(net, [objects(), objects(count=1)])) == set(LOSSES.values())
    with torch.no_grad():
        found = net.eval().detect(images(), score=0.0, most=4)
    assert len(found) == 2
    for each in found:
        assert each.masks.shape == (4, *SIZE)
        assert each.masks.min() >= 0
        assert each.masks.max() <= 1
        assert each.scores.tolist() == sorted(each.scores.tolist(), reverse=True)
        assert {1, 2, 3}.issuperset(each.labels.tolist())


def test_a_level_for_each_stride_and_one_more():
    pyramid = detector().model.backbone
    with torch.no_grad():
        levels = pyramid(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (16, 16, 24),
        (16, 8, 12),
        (16, 4, 6),
        (16, 2, 3),
        (16, 1, 2),
    ]


@pytest.mark.parametrize(("scale", "sides"), [(8, [32, 64, 128, 256, 512]), (2, [8, 16, 32, 64, 128])])
def test_sides_of_anchors(scale, sides):
    anchors = detector(detector={**SMALL, "anchor_scale": scale}).model.rpn.anchor_generator
    assert [side for (side,) in anchors.sizes] == sides


def test_images_without_an_object_are_all_background():
    net = detector()
    found = losses(net, [objects(count=0)] * 2)
    assert all(torch.isfinite(value) for value in found.values())
    assert found["masks"] == found["boxes"] == found["proposals"] == 0
    assert found["objectness"] > 0
    sum(found.values()).backward()
    assert net.model.roi_heads.mask_head[0][0].weight.grad is not None  # so that several devices can add up
    mixed = losses(net, [objects(), objects(count=0)])
    assert mixed["masks"] > 0


def test_gradients_reach_all_parts():
    net = detector()
    sum(losses(net, [objects()] * 2).values()).backward()
    reached = {
        name.split(".")[1] for name, value in net.named_parameters() if value.grad is not None and value.grad.any()
    }
    assert reached == {"backbone", "rpn", "roi_heads"}
    assert any(value.grad is not None and value.grad.any() for value in net.encoder.parameters())


def test_bfloat16_agrees_with_float32():
    net, targets = detector(), [objects()] * 2
    exact = losses(net, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = losses(net, targets)
        levels = net.model.backbone(torch.zeros(1, 3, 64, 96))
    assert {level.dtype for level in levels.values()} == {torch.float32}
    for name in ("objectness", "classes", "masks"):  # others depend much on which regions are drawn
        assert rounded[name].dtype == torch.float32
        assert rounded[name].item() == pytest.approx(exact[name].item(), rel=0.1)


def test_places_keep_their_precision_in_bfloat16():
    """What decides about places is float32 before they are computed, for bfloat16 has 8 bits."""
    net, seen = detector().eval(), []
    net.model.rpn.register_forward_hook(lambda module, inputs, output: seen.extend(output[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = net.detect(images(96, 640), score=0.0, most=5)
    assert all(boxes.dtype == torch.float32 for boxes in seen)
    assert not torch.equal(seen[0], seen[0].bfloat16().float())
    assert {each.masks.dtype for each in found} == {torch.float32}


SIZES = [
    ({}, SIZE, SIZE),
    ({"min_size": 100}, SIZE, (100, 150)),
    ({"min_size": 100, "max_size": 120}, SIZE, (80, 120)),
    ({"min_size": 100, "resize_training": True}, (100, 150), (100, 150)),
]


@pytest.mark.parametrize(("options", "training", "prediction"), SIZES)
def test_images_are_resized_only_where_asked(options, training, prediction):
    net, seen = detector(detector={**SMALL, **options}), []
    net.model.rpn.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0], inputs[2])))
    losses(net, [objects()] * 2)
    with torch.no_grad():
        found = net.eval().detect(images(), score=0.0, most=2)
    (given, targets), (looked_at, _) = seen
    assert given.image_sizes == [training] * 2
    assert looked_at.image_sizes == [prediction] * 2
    scale = training[0] / SIZE[0]
    torch.testing.assert_close(targets[0]["boxes"], objects().boxes * scale)
    assert targets[0]["masks"].shape[1:] == training
    assert found[0].masks.shape[1:] == SIZE


def test_images_are_not_normalised_again():
    net, seen = detector(), []
    net.model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    losses(net, [objects()] * 2)
    assert torch.equal(seen[0][..., : SIZE[0], : SIZE[1]], images())
    assert seen[0].shape[-2:] == (64, 96)
    assert not seen[0][..., SIZE[0] :, :].any()
    assert net.mean == net.model.backbone.body.mean


def test_scores_and_numbers_are_limited():
    net = detector().eval()
    with torch.no_grad():
        assert len(net.detect(images(), score=1.0)[0].scores) == 0
        assert len(net.detect(images(), score=0.0, most=3)[0].scores) == 3
        some = net.detect(images(), score=0.3)[0].scores
    assert (some > 0.3).all()


def test_weights_from_a_file(tmp_path):
    source = Backbone("test_resnet", weights="none", output_stride=None)
    save_weights(source.model, tmp_path / "w.safetensors", {})
    net = detector(seed=1, weights=str(tmp_path / "w.safetensors"))
    given = source.model.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in net.encoder.state_dict().items())
    refusal(lambda: detector(weights=str(tmp_path / "missing.pth")), "missing.pth")


def test_weights_go_round(tmp_path):
    net, other = detector(), detector(seed=1)
    save_weights(net, tmp_path / "w.safetensors", {})
    mask_rcnn_state = net.state_dict()
    other.load_state_dict(mask_rcnn_state)
    with torch.no_grad():
        one, two = (each.eval().detect(images(), 0.0, 3)[0] for each in (net, other))
    assert torch.equal(one.masks, two.masks)


@pytest.mark.parametrize(("mode", "moves"), [("train", True), ("statistics", False)])
def test_batch_normalisation_follows_the_backbones_setting(mode, moves):
    net = detector(batchnorm=mode).train()
    assert {layer.training for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)} == {moves}


def test_frozen_layers_stay():
    assert not any(value.requires_grad for value in detector(freeze=["layer1"]).encoder.layer1.parameters())


def test_what_cannot_be_built():
    refusal(lambda: create_detector("mask_rcn", 2, encoder="test_resnet"), "unknown detector", "mask_rcnn")
    refusal(lambda: detector("resnet9000"), "unknown backbone")
    refusal(lambda: detector("vit_small_patch14_dinov2"), "powers of two")
    assert DETECTORS["mask_rcnn"] is MaskRCNN is mask_rcnn.MaskRCNN


@pytest.mark.parametrize(
    ("mode", "device", "inside"),
    [
        ((True, True), "cuda", False),
        ((True, True), "cpu", True),
        ((True, False), "cuda", True),
        ((False, False), "cuda", False),
    ],
)
def test_repeatable_operators_are_given_up_only_where_they_are_a_wish(mode, device, inside):
    """A CPU keeps its promise of one result, and so does whoever insists on it elsewhere."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])
    try:
        with own_kernels(torch.device(device)):
            assert torch.are_deterministic_algorithms_enabled() is inside
        after = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        assert after == mode
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
