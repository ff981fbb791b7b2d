"""Several images in one lattice, as on an accelerator; on a CPU, by the same tensor code."""

from dataclasses import replace

import pytest
import torch

from tests.ops.scenes import scene
from weakseg.data.maps import LocalizationMaps
from weakseg.ops.crf import CRF_PARAMETERS, mean_field
from weakseg.ops.crf.lattice import PermutohedralLattice
from weakseg.ops.crf.potentials import infer, pixel_features
from weakseg.ops.crf.prior import Prior, shared
from weakseg.refine.crf import CRFRefiner

SIZES = [(12, 17), (30, 20), (1, 9), (25, 26)]
LABELS = [2, 5, 1, 3]


def scenes():
    pairs = [scene(*size, labels=count, seed=count) for size, count in zip(SIZES, LABELS, strict=True)]
    images, probabilities = zip(*pairs, strict=True)
    return images, [Prior.of_probabilities(each) for each in probabilities]


@pytest.mark.parametrize("name", ["A", "B", "D"])
@pytest.mark.parametrize("stop", [None, 0.01])
def test_images_together_are_as_by_themselves(name, stop):
    images, priors = scenes()
    params = replace(CRF_PARAMETERS[name], iterations=15)
    found = infer(images, priors, params, exact=False, stop=stop)
    for beliefs, image, prior in zip(found, images, priors, strict=True):
        alone = infer([image], [prior], params, exact=False, stop=stop)[0]
        torch.testing.assert_close(beliefs, alone, rtol=0, atol=1e-5)


def test_labels_that_share_a_plane_count_in_a_batch():
    (image, probabilities), (other, others) = scene(9, 8, labels=3), scene(5, 6, labels=4)
    absent = torch.cat([probabilities, torch.zeros(5, 9, 8)])
    priors = [Prior.of_probabilities(absent), Prior.of_probabilities(others)]
    assert [len(prior.values) for prior in priors] == [4, 4]
    beliefs = infer([image, other], priors, CRF_PARAMETERS["B"], exact=False)[0]
    all_labels = priors[0].of_all_labels(beliefs)
    assert len(all_labels) == 8
    torch.testing.assert_close(all_labels.sum(0), torch.ones(9, 8))


def test_points_of_different_owners_do_not_hear_of_each_other(monkeypatch):
    image, probabilities = scene(8, 9, labels=2)
    features, values = pixel_features(image, 5, 30), probabilities.flatten(1).T.contiguous()
    alone = PermutohedralLattice(features)(values)
    owner = torch.arange(2).repeat_interleave(72)
    for codes in (2**62, 1):
        monkeypatch.setattr("weakseg.ops.crf.lattice.CODES", codes)
        together = PermutohedralLattice(features.repeat(2, 1), owner)(torch.cat([values, 2 * values]))
        torch.testing.assert_close(together, torch.cat([alone, 2 * alone]))


def test_groups_of_an_accelerator(monkeypatch):
    monkeypatch.setattr(mean_field, "PIXELS_TOGETHER", 5000)

    def sizes(device, engine):
        pixels = [40 * 50, 40 * 50, 60 * 60, 10 * 10, 40 * 50, 100 * 100]
        values = [torch.empty(2, 1, count, device=device) for count in pixels]
        pairs = [(each, Prior.of_energies(each)) for each in values]
        return [[pair[0].numel() // 2 for pair in group] for group in mean_field._groups(pairs, engine)]

    assert sizes("meta", "auto") == [[2000, 2000], [3600], [100], [2000], [10000]]
    assert sizes("meta", "lattice") == [[2000, 2000], [3600, 100], [2000], [10000]]
    assert [len(group) for group in sizes("meta", "exact")] == [1] * 6
    assert [len(group) for group in sizes("cpu", "lattice")] == [1] * 6


@pytest.mark.parametrize(
    ("same", "kept", "planes"),
    [
        ([False, False], [0, 1], [0, 1]),
        ([False, True, False, True], [0, 1, 2], [0, 1, 2, 1]),
        ([True, False, True], [0, 1], [0, 1, 0]),
        ([True, True, True], [0], [0, 0, 0]),
        ([True], [0], [0]),
    ],
)
def test_labels_that_are_the_same_share_a_plane(same, kept, planes):
    found = shared(torch.tensor(same))
    assert [each.tolist() for each in found] == [kept, planes]


def test_several_images_are_spread_over_threads():
    images, priors = scenes()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = mean_field.infer(images, priors, "C", engine="lattice")
    finally:
        torch.set_num_threads(threads)
    alone = [mean_field.infer([i], [p], "C", engine="lattice")[0] for i, p in zip(images, priors, strict=True)]
    assert all(map(torch.equal, found, alone))


@pytest.mark.parametrize("unary", ["probabilities", "labels"])
@pytest.mark.parametrize("stop", [None, 0.05])
def test_refiner_takes_images_together(unary, stop):
    images, probabilities = zip(*[scene(40, 30, labels=3), scene(50, 45, labels=2, seed=1)], strict=True)
    maps = [
        LocalizationMaps(torch.arange(len(each) - 1), each[1:], tuple(each.shape[1:]), each[0])
        for each in probabilities
    ]
    planes = [image.permute(2, 0, 1) for image in images]
    refiner = CRFRefiner(params="D", unary=unary, stop=stop)
    together = refiner.refine_batch(planes, maps)
    for image, before, after, scores in zip(planes, maps, together, probabilities, strict=True):
        alone = refiner.refine(image, before)
        assert torch.equal(alone.scores, after.scores)
        assert torch.equal(alone.background, after.background)
        as_labels = Prior.of_labels(scores.argmax(0), len(scores), 0.7)
        prior = as_labels if unary == "labels" else Prior.of_probabilities(scores)
        expected = mean_field.infer([image.permute(1, 2, 0)], [prior], "D", stop=stop)[0]
        assert torch.equal(torch.cat([after.background[None], after.scores]), expected)
