"""What every refiner promises, whatever it does; a new one is held to it by standing in the registry.

SAM has weights of its own and is held to the same in its own file.
"""

import inspect
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from tests.refine.learning import batch_of, maps_of, picture, small_backbone
from weakseg.errors import UserError
from weakseg.pipeline import build
from weakseg.pipeline.recipe import Training
from weakseg.refine.background import PowerBackground
from weakseg.refine.masks import pseudo_mask
from weakseg.refine.refiner import TrainedRefiner
from weakseg.refine.registry import REFINERS

SIZES = [(40, 56), (61, 35)]
PLAIN = sorted(name for name in REFINERS if name != "sam")
TRAINED = sorted(name for name, kind in REFINERS.items() if issubclass(kind, TrainedRefiner))
QUICK = {
    "affinitynet": {"logt": 2},
    "box_crf": {"iterations": 2},
    "crf": {"iterations": 2},
    "irn": {"pad_to": 0, "calibration": 64, "logt": 2},
}


def refiner(name):
    kind, options = REFINERS[name], QUICK.get(name, {})
    return kind(small_backbone(kind.output_stride), **options).eval() if name in TRAINED else kind(**options)


def known(size, classes=(1, 4)):
    """An image and maps that say what background is, with a box for each class and features."""
    image, (height, width) = picture(*size), size
    corners = [[1.0, 2.0, width // 2, height - 3], [width // 3, 5.0, width - 1, height]]
    found = replace(
        maps_of(size, classes),
        boxes=torch.tensor(corners)[: len(classes)],
        box_classes=torch.tensor(classes, dtype=torch.int64),
        features=torch.rand(6, 8, 9, generator=torch.Generator().manual_seed(2)),
    )
    return image, PowerBackground(alpha=1).refine(image, found)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PLAIN)
def test_classes_and_size_stay_and_what_was_given_is_left_alone(name, size):
    image, given = known(size)
    before = given.scores.clone(), given.background.clone(), image.clone()
    refined = refiner(name).refine(image, given)
    assert refined.classes.tolist() == [1, 4]
    assert refined.size == size
    assert all(torch.equal(*pair) for pair in zip((given.scores, given.background, image), before, strict=True))
    assert refined.scores.isfinite().all()
    assert refined.scores.dtype == torch.float32
    if REFINERS[name].gives_background:
        assert refined.background.shape == refined.scores.shape[1:]
        assert set(pseudo_mask(refined).unique().tolist()) <= {0, 2, 5}


@pytest.mark.parametrize("name", PLAIN)
def test_an_image_without_classes_is_background(name):
    image, given = known(SIZES[0], classes=())
    refined = refiner(name).refine(image, given)
    assert len(refined.scores) == 0
    if refined.background is not None:
        assert not pseudo_mask(refined).any()


@pytest.mark.parametrize("name", PLAIN)
def test_many_images_are_refined_as_each_alone(name):
    made = refiner(name)
    images, given = zip(*(known(size) for size in SIZES), strict=True)
    for together, image, its_maps in zip(made.refine_batch(images, given), images, given, strict=True):
        alone = made.refine(image, its_maps)
        torch.testing.assert_close(together.scores, alone.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PLAIN)
def test_no_gradient_is_left_behind(name):
    refined = refiner(name).refine(*known(SIZES[0]))
    assert not refined.scores.requires_grad


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("classes", [(), (3,), (1, 4)])
def test_targets_have_the_size_of_the_image(name, classes):
    made = refiner(name)
    target = made.targets(*known(SIZES[1], classes))
    assert target.shape[-2:] == SIZES[1]
    if made.target == "mask":
        assert target.dtype == torch.uint8
        assert set(target.unique().tolist()) <= {0, 255, *(index + 1 for index in classes)}
    else:
        assert target.ndim == 3
        assert 0 <= target.min() <= target.max() <= 1


@pytest.mark.parametrize("name", TRAINED)
def test_losses_are_finite_and_reach_every_parameter_of_the_groups(name):
    made = refiner(name)
    images = [picture(64, 64, seed) for seed in range(2)]
    targets = [
        made.targets(image, maps_of((64, 64), classes)) for image, classes in zip(images, [(1,), (1, 4)], strict=True)
    ]
    losses = made.train().losses(batch_of(made, images, targets))
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    groups = made.parameter_groups(0.1, 0.01)
    trained = [parameter for group in groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in trained}) == len(trained)
    assert {id(parameter) for parameter in trained} == {id(p) for p in made.parameters() if p.requires_grad}
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained)


@pytest.mark.parametrize("name", TRAINED)
def test_the_weights_are_all_that_it_remembers(name):
    first, second = refiner(name), refiner(name)
    for parameter in first.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    if first.calibration_crop() is not None:
        first.calibrate([torch.randn(2, 3, 64, 64)])
    second.load_state_dict(load(save({key: value.contiguous() for key, value in first.state_dict().items()})))
    image, given = known(SIZES[0])
    assert torch.equal(first.refine(image, given).scores, second.refine(image, given).scores)


@pytest.mark.parametrize("name", TRAINED)
def test_what_it_declares_fits_recipe_and_pipeline(name):
    kind = REFINERS[name]
    settings = Training.model_validate(dict(kind.settings))
    made = refiner(name)
    assert build.transform(settings.augment, made.backbone, masks=True)
    options = {key for key, value in inspect.signature(kind).parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert kind.inference_options <= options
    assert not options & {"backbone", "start", "train", "name"}


@pytest.mark.parametrize("name", [name for name in PLAIN if REFINERS[name].needs_background])
def test_a_missing_background_is_the_users_to_mend(name):
    image = picture(*SIZES[0])
    with pytest.raises(UserError, match="no background"):
        refiner(name).refine(image, maps_of(SIZES[0]))


@pytest.mark.parametrize("name", [name for name in PLAIN if REFINERS[name].needs_boxes])
def test_missing_boxes_are_the_users_to_mend(name):
    image, given = known(SIZES[0])
    with pytest.raises(UserError, match="no boxes"):
        refiner(name).refine(image, replace(given, boxes=None, box_classes=None))


@pytest.mark.parametrize("name", [name for name in PLAIN if REFINERS[name].needs_features])
def test_missing_features_are_the_users_to_mend(name):
    image, given = known(SIZES[0])
    with pytest.raises(UserError, match="no features"):
        refiner(name).refine(image, replace(given, features=None))
