"""What a GPU computes is what the CPU computes, up to rounding; the CPU's results are held to oracles elsewhere.

Sums are taken in another order there, and repeated steps carry the difference on: tolerances are for values in [0, 1].
"""

import pytest
import torch

from tests.ops.scenes import scene
from tests.refine.learning import batch_of, maps_of, picture, small_backbone
from tests.refine.test_irn import answering, discs
from weakseg.ops.crf import dense_crf_batch, dense_crf_labels
from weakseg.ops.diffusion import diffuse
from weakseg.ops.pamr import pamr
from weakseg.ops.random_walk import Links, boundary_links, feature_links, random_walk
from weakseg.refine.affinitynet import AffinityNet
from weakseg.refine.irn import IRN

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda")
SIZE = (60, 90)


@pytest.fixture(autouse=True)
def single_precision():
    """Convolutions in float32, as on a CPU, rather than in the GPU's shorter format, which is theirs by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def same(found, expected, tolerance):
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["A", "B", "D"])
@pytest.mark.parametrize(
    ("engine", "sizes"), [("lattice", [(60, 80), (33, 41), (1, 9)]), ("exact", [(20, 24), (9, 7)])]
)
def test_dense_crf_of_a_batch(name, engine, sizes):
    pairs = [scene(*size, labels=count, seed=count) for count, size in enumerate(sizes, start=2)]
    images, probabilities = zip(*pairs, strict=True)
    expected = dense_crf_batch(images, probabilities, name, engine=engine)
    moved = [[tensor.to(GPU) for tensor in tensors] for tensors in (images, probabilities)]
    for beliefs, its in zip(dense_crf_batch(*moved, name, engine=engine), expected, strict=True):
        same(beliefs, its, 1e-3)


def test_dense_crf_from_labels():
    image, probabilities = scene(40, 50, labels=3)
    labels = probabilities.argmax(0)
    same(dense_crf_labels(image.to(GPU), labels.to(GPU), 4), dense_crf_labels(image, labels, 4), 1e-3)


def test_diffusion():
    offsets = torch.tensor([(0, 1), (2, -3), (-1, 0)])
    maps, weights = uniform(2, 3, 20, 31), uniform(2, 3, 20, 31, seed=1) / 3
    expected = diffuse(maps, weights, offsets, 64)
    same(diffuse(maps.to(GPU), weights.to(GPU), offsets, 64), expected, 1e-5)
    half = diffuse(maps.bfloat16().to(GPU), weights.to(GPU), offsets, 4)
    assert half.dtype == torch.bfloat16
    same(half.float(), diffuse(maps.bfloat16(), weights, offsets, 4).float(), 1e-2)


@pytest.mark.parametrize("links", [feature_links, boundary_links])
def test_random_walk(links):
    given = uniform(6, 20, 31) if links is feature_links else uniform(20, 31) ** 3
    maps = uniform(3, 20, 31, seed=1)
    there, here = links(given.to(GPU), 5), links(given, 5)
    same(there.weights, here.weights, 1e-6)
    expected = random_walk(maps, here, beta=8, steps=256)
    same(random_walk(maps.to(GPU), Links(here.offsets, here.weights.to(GPU)), beta=8, steps=256), expected, 1e-4)


def test_pamr():
    images, masks = uniform(2, 3, 40, 50), uniform(2, 4, 20, 25, seed=1)
    same(pamr(images.to(GPU), masks.to(GPU)), pamr(images, masks), 1e-3)


@pytest.mark.parametrize("options", [{"connect": "cropped"}, {"connect": "all", "walk_threshold": 0.4}])
def test_affinitynet(options):
    refiner = AffinityNet(small_backbone(8), **options).eval()
    image, maps = picture(*SIZE), maps_of(SIZE)
    targets, refined = refiner.targets(image, maps), refiner.refine(image, maps)
    refiner.to(GPU)
    found = refiner.refine(image.to(GPU), maps.to(GPU))
    same(found.scores, refined.scores, 1e-3)
    same(found.background, refined.background, 1e-3)
    same(refiner.targets(image.to(GPU), maps.to(GPU)), targets, 1e-3)


def test_irn():
    refiner = IRN(small_backbone(16), pad_to=0).eval()
    image, maps = picture(*SIZE), maps_of(SIZE)
    targets, refined = refiner.targets(image, maps), refiner.refine(image, maps)
    refiner.to(GPU)
    found = refiner.refine(image.to(GPU), maps.to(GPU))
    same(found.scores, refined.scores, 1e-3)
    assert torch.equal(found.background.cpu(), refined.background)
    labels = refiner.targets(image.to(GPU), maps.to(GPU))
    assert labels.device.type == "cuda"
    assert (labels.cpu() == targets).float().mean() > 0.99


def test_objects_of_irn():
    boundary, field = discs()
    maps = maps_of((68, 132), (3,))
    maps, image = maps.with_scores((1 - boundary)[None], None), picture(68, 132)
    refiner = IRN(small_backbone(16), pad_to=0, instances=True).eval()
    expected = answering(refiner, boundary, field).instances(image, maps)
    answering(refiner.to(GPU), boundary.to(GPU), field.to(GPU))
    found = refiner.instances(image.to(GPU), maps.to(GPU))
    assert found.classes.tolist() == expected.classes.tolist()
    same(found.scores, expected.scores, 1e-4)
    assert (found.masks.cpu() == expected.masks).float().mean() > 0.999


@pytest.mark.parametrize("kind", [AffinityNet, IRN])
def test_what_is_learnt_from(kind):
    """Losses and gradients of one step, pairs and paths included."""
    refiner = kind(small_backbone(kind.output_stride)).eval()
    images = [picture(*SIZE, seed) for seed in range(2)]
    batch = batch_of(refiner, images, [refiner.targets(image, maps_of(SIZE)) for image in images])
    weight = refiner.head.mix.weight if kind is AffinityNet else refiner.displacement.head.weight
    losses, gradients = [], []
    for device in (torch.device("cpu"), GPU):
        refiner.to(device).zero_grad()
        parts = refiner.losses(batch.to(device))
        sum(parts.values()).backward()
        losses.append({name: value.item() for name, value in parts.items()})
        gradients.append(weight.grad.cpu().clone())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-4)
    assert any(value > 0.01 for value in losses[0].values())
    largest = gradients[0].abs().max().item()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0.01 * largest)
