"""Saliency: the equations on graphs done by hand, pictures with a known answer, maps that are of no use, and files."""

import sys
import time
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import put_image, put_saliency, refusal, voc_tree
from weakseg.data.catalog import open_dataset
from weakseg.data.images import read_saliency
from weakseg.data.pseudo import WithSaliency
from weakseg.data.saliency import background_connectivity as rbd
from weakseg.data.saliency.cache import FOLDER_PREFIX, folder_name, is_of, write_saliency
from weakseg.data.saliency.provider import SaliencyProvider
from weakseg.data.saliency.quality import fitted, flaw, read_usable, same_aspect
from weakseg.data.saliency.registry import SALIENCY, saliency_class
from weakseg.data.saliency.rembg_models import RembgSaliency
from weakseg.data.sample import Sample, WeakLabel, collate


def disc(height=90, width=130, radius=22, seed=0):
    """A red disc, off the middle, on a textured green ground, and where it is."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - 0.45 * height, x - 0.6 * width) < radius
    image = np.stack([np.full((height, width), level) for level in (70.0, 130.0, 60.0)])
    image += chance.normal(0, 12, (1, height, width)) + 15 * np.sin(x / 7) * np.cos(y / 5)
    image[:, inside] = np.array([200.0, 40.0, 30.0])[:, None] + chance.normal(0, 8, (1, inside.sum()))
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8)), torch.from_numpy(inside)


def overlap(one, other):
    return ((one & other).sum() / (one | other).sum()).item()


# --- the equations -------------------------------------------------------------------------------------------------

COLOURS = np.array([[0.0, 0, 0], [3, 0, 0], [3, 4, 0], [60, 0, 0]])
CHAIN = np.array([[0, 1], [1, 2], [2, 3]])


def test_geodesic_distances_add_up_along_the_way():
    steps = [3.0, 4.0, np.hypot(57, 4)]
    found = rbd.geodesic_distances(COLOURS, CHAIN)
    slow = np.array([[sum(steps[min(a, b) : max(a, b)]) for b in range(4)] for a in range(4)])
    np.testing.assert_allclose(found, slow, atol=1e-6)
    short = rbd.geodesic_distances(COLOURS, np.concatenate([CHAIN, [[0, 2]]]))
    assert short[0, 2] == pytest.approx(5)  # straight instead of 3 + 4


def test_regions_of_one_colour_are_joined_at_no_cost():
    found = rbd.geodesic_distances(np.zeros((3, 3)), np.array([[0, 1], [1, 2]]))
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_boundary_connectivity_is_length_over_root_of_area():
    distances = np.array([[0.0, 10, 50], [10, 0, 40], [50, 40, 0]])
    on_border = np.array([True, True, False])
    near, middle, far = np.exp(-0.5), np.exp(-8), np.exp(-12.5)
    expected = [
        (1 + near) / np.sqrt(1 + near + far),
        (1 + near) / np.sqrt(1 + near + middle),
        (middle + far) / np.sqrt(1 + middle + far),
    ]
    np.testing.assert_allclose(rbd.boundary_connectivity(distances, on_border, 10), expected)


def test_an_object_at_the_border_is_less_connected_than_the_ground_around_it():
    """A strip of ground regions, all on the border, and an object of four regions of which one is."""
    colours = np.array([[0.0, 0, 0]] * 12 + [[80.0, 0, 0]] * 4)
    edges = np.array([*pairwise(range(12)), *pairwise(range(12, 16)), (5, 12), (6, 13)])
    on_border = np.arange(16) < 13
    found = rbd.boundary_connectivity(rbd.geodesic_distances(colours, edges), on_border, 10)
    np.testing.assert_allclose(found[:12], 12 / np.sqrt(12))
    np.testing.assert_allclose(found[12:], 1 / np.sqrt(4), atol=1e-6)
    background = rbd.background_probability(found, 1)
    assert background[0] == pytest.approx(1 - np.exp(-6))
    assert background[15] == pytest.approx(1 - np.exp(-1 / 8), abs=1e-6)


def test_contrast_counts_what_is_background_and_near():
    chance = np.random.default_rng(0)
    colours, positions, background = chance.random((6, 3)) * 50, chance.random((6, 2)), chance.random(6)
    slow = [
        sum(
            np.linalg.norm(colours[p] - colours[q])
            * np.exp(-(np.linalg.norm(positions[p] - positions[q]) ** 2) / (2 * 0.25**2))
            * background[q]
            for q in range(6)
        )
        for p in range(6)
    ]
    np.testing.assert_allclose(rbd.background_weighted_contrast(colours, positions, background, 0.25), slow)


def test_the_optimum_is_one():
    """No small step away from it makes the three terms smaller."""
    chance = np.random.default_rng(1)
    background, foreground = chance.random(5), chance.random(5)
    edges = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [0, 4], [1, 3]])
    alike = chance.random(6) + 0.1

    def cost(s):
        pairs = alike * (s[edges[:, 0]] - s[edges[:, 1]]) ** 2
        return (background * s**2).sum() + (foreground * (s - 1) ** 2).sum() + pairs.sum()

    found = rbd.optimal_saliency(background, foreground, edges, alike)
    assert all(cost(found) < cost(found + step) for step in chance.normal(0, 1e-3, (50, 5)))
    assert rbd.optimal_saliency(np.zeros(1), np.ones(1), np.zeros((0, 2), int), np.zeros(0)) == pytest.approx(1)


def test_low_contrast_is_no_sign_of_foreground():
    found = rbd.foreground_weight(np.array([2.0, 2.5, 2.9, 9.0, 10.0, 12.0]))
    np.testing.assert_allclose(found, [0, 0, 0, 0.7, 0.8, 1])
    np.testing.assert_array_equal(rbd.foreground_weight(np.full(4, 3.0)), 0)


def test_sharpening_draws_apart_and_keeps_the_order():
    given = np.array([0.1, 0.15, 0.2, 0.3, 0.35, 0.4])
    found = rbd.sharpened(given)
    assert (np.diff(found) > 0).all()
    assert (found[0], found[-1]) == (0, pytest.approx(1))
    stretched = (given - 0.1) / 0.3
    assert found[3] - found[2] > stretched[3] - stretched[2]
    assert (rbd.sharpened(np.full(3, 0.2)) == 0).all()


def test_neighbours_and_border_of_a_label_map():
    labels = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [3, 3, 3, 3]])
    assert rbd.neighbours(labels).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert rbd.border_regions(labels).tolist() == [0, 1, 3]
    assert rbd.joined(np.array([[0, 2], [2, 3]]), np.array([0, 1, 3])).tolist() == [
        [0, 1], [0, 2], [0, 3], [1, 3], [2, 3],
    ]  # fmt: skip
    assert rbd.neighbours(np.zeros((4, 4), int)).shape == (0, 2)
    means = rbd.region_means(np.stack([labels, 10.0 * labels], axis=2), labels)
    np.testing.assert_allclose(means, [[0, 0], [1, 10], [2, 20], [3, 30]])


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [{}, {"height": 300, "width": 520, "radius": 75}, {"height": 130, "width": 90}])
def test_a_red_disc_is_found(size):
    image, inside = disc(**size)
    found = rbd.BackgroundConnectivity()(image)
    assert (found.shape, found.dtype) == (inside.shape, torch.float32)
    assert (found.min(), found.max()) == (0, pytest.approx(1))
    assert overlap(found > 0.5, inside) > 0.8


def test_an_object_that_touches_the_border_is_found():
    image, inside = disc()
    image, inside = image[:, :, : image.shape[2] - 40], inside[:, : inside.shape[1] - 40]  # cut through the disc
    assert inside[:, -1].any()
    assert overlap(rbd.BackgroundConnectivity()(image) > 0.5, inside) > 0.7


@pytest.mark.parametrize("colour", [0, 128, 255])
@pytest.mark.parametrize("size", [(40, 60), (1, 1), (1, 7), (2, 2), (5, 3), (900, 2)])
def test_nothing_is_salient_in_an_image_of_one_colour(size, colour):
    found = rbd.BackgroundConnectivity()(torch.full((3, *size), colour, dtype=torch.uint8))
    assert found.shape == size
    assert (found == 0).all()


@pytest.mark.parametrize("size", [(1, 2), (3, 3), (2, 400), (500, 1), (33, 17)])
def test_any_size_gives_a_map_in_range(size):
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = rbd.BackgroundConnectivity()(image)
    assert found.shape == size
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_the_same_image_gives_the_same_bits_and_is_left_alone():
    image, _ = disc()
    before, provider = image.clone(), rbd.BackgroundConnectivity()
    assert torch.equal(provider(image), provider(image))
    assert torch.equal(image, before)


def test_options_change_the_map():
    image, _ = disc()
    usual = rbd.BackgroundConnectivity()(image)
    changed = (
        ("superpixels", 60),
        ("color_sigma", 3.0),
        ("boundary_sigma", 3.0),
        ("position_sigma", 1.0),
        ("smoothness", 5.0),
    )
    for option in changed:
        assert not torch.equal(rbd.BackgroundConnectivity(**dict([option]))(image), usual), option


def test_it_is_quick():
    image, provider = disc(213, 320, 50)[0], rbd.BackgroundConnectivity()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        provider(image)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


# --- the registry --------------------------------------------------------------------------------------------------


def test_providers_by_name():
    assert set(SALIENCY) == {"background-connectivity", "folder", "rembg"}
    refusal(lambda: saliency_class("background-conectivity"), "saliency provider", "'background-connectivity'")


# --- rembg, without rembg ------------------------------------------------------------------------------------------


class FakeSession:
    """Says that the left half is salient; of two masks, the second adds the upper half."""

    def __init__(self, count=1):
        self.count = count

    def predict(self, image):
        assert image.mode == "RGB"
        width, height = image.size
        left, upper = np.zeros((2, height, width), dtype=np.uint8)
        left[:, : width // 2], upper[: height // 2] = 204, 255
        return [Image.fromarray(left), Image.fromarray(upper)][: self.count]


def install_rembg(monkeypatch, new_session):
    """Modules as rembg and onnxruntime would be, as far as they are used."""
    kinds = {"u2net": True, "u2netp": True, "elsewhere": False}
    sessions = {name: SimpleNamespace(is_local=lambda local=local: local) for name, local in kinds.items()}
    modules = {"rembg": {"new_session": new_session}, "rembg.sessions": {"sessions": sessions}}
    modules["onnxruntime"] = {"SessionOptions": SimpleNamespace}
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def test_rembg_masks_become_maps(monkeypatch):
    asked = []

    def new_session(name, *, sess_opts, providers):
        asked.append((name, sess_opts.intra_op_num_threads, providers))
        return FakeSession()

    install_rembg(monkeypatch, new_session)
    found = RembgSaliency(model="u2netp")(torch.zeros(3, 4, 6, dtype=torch.uint8))
    assert asked == [("u2netp", 1, ["CPUExecutionProvider"])]
    assert (found.shape, found.dtype) == ((4, 6), torch.float32)
    assert found[0].tolist() == pytest.approx([0.8] * 3 + [0] * 3)


def test_of_several_masks_the_highest_value_counts(monkeypatch):
    install_rembg(monkeypatch, lambda *_, **__: FakeSession(2))
    found = RembgSaliency()(torch.zeros(3, 4, 6, dtype=torch.uint8))
    assert (found[:2] == 1).all()
    assert found[3].tolist() == pytest.approx([0.8] * 3 + [0] * 3)


def test_rembg_refusals(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Name or service not known\nand more")

    install_rembg(monkeypatch, unreachable)
    refusal(RembgSaliency, "no weights for the rembg model 'u2net'", "Name or service not known", "Connect")
    refusal(lambda: RembgSaliency(model="u2nett"), "no model 'u2nett'", "'u2net'")
    refusal(lambda: RembgSaliency(model="elsewhere"), "send the images to a service", "u2net")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refusal(RembgSaliency, "needs the package rembg", "weakseg[saliency]")


# --- maps of no use ------------------------------------------------------------------------------------------------


def spot(height, width, value=1.0, side=8):
    saliency = torch.zeros(1, height, width)
    saliency[:, 4 : 4 + side, 4 : 4 + side] = value
    return saliency


@pytest.mark.parametrize(
    ("saliency", "check"),
    [
        (spot(40, 48), None),
        (spot(20, 24), None),
        (spot(80, 96), None),
        (spot(27, 32), None),  # 26.7 rounded
        (spot(40, 48, 0.51), None),
        (spot(40, 48, 0.5), "saliency-empty"),
        (spot(40, 48, 0.01), "saliency-empty"),
        (spot(100, 120, 1.0, 3), "saliency-empty"),  # 9 of 12000 pixels
        (torch.zeros(1, 40, 48), "saliency-constant"),
        (torch.ones(1, 40, 48), "saliency-constant"),
        (torch.full((1, 40, 48), 0.7) + 1 / 255 * (torch.arange(48) % 2), "saliency-constant"),
        (spot(48, 48), "saliency-stretched"),
        (spot(48, 40), "saliency-stretched"),
        (torch.zeros(1, 32, 32), "saliency-stretched"),
        (torch.ones(1, 1, 1), "saliency-constant"),
    ],
)
def test_what_makes_a_map_useless(saliency, check):
    found = flaw(saliency, (40, 48))
    assert (None if found is None else found.check) == check
    if found is not None:
        assert found.problem
        assert found.remedy


def test_same_aspect_is_symmetric_and_bears_rounding():
    for one, other, same in (
        ((480, 640), (48, 64), True),
        ((333, 500), (149, 224), True),
        ((333, 500), (150, 224), True),
        ((333, 500), (224, 224), False),
        ((333, 500), (500, 333), False),
        ((333, 500), (333, 497), False),
    ):
        assert same_aspect(one, other) is same_aspect(other, one) is same


def test_a_small_map_is_enlarged(tmp_path):
    path = tmp_path / "m.png"
    write_saliency(path, spot(20, 24)[0], "of what")
    found = read_usable(path, (40, 48))
    assert found.shape == (1, 40, 48)
    assert torch.equal(found, fitted(read_saliency(path), (40, 48)))
    assert overlap(found > 0.5, spot(40, 48)[:, :] * 0 + fitted(spot(20, 24), (40, 48)) > 0.5) == 1
    assert found[0, 9:23, 9:23].min() > 0.5  # twice 4 to 12
    assert found[0, 30:].max() == 0


def test_a_sample_with_a_useless_map_still_has_everything_else(tmp_path):
    root = voc_tree(tmp_path)
    Image.new("L", (48, 40)).save(root / "SaliencyMaps/b.png")
    dataset = open_dataset("auto", root, "train")
    samples = [dataset.sample(image_id) for image_id in "abc"]
    assert [sample.saliency is None for sample in samples] == [False, True, False]
    assert samples[1].tags.tolist() == [False, True]
    floats = [Sample(one.id, one.image.float(), tags=one.tags, saliency=one.saliency) for one in samples]
    batch = collate(floats, 2)
    assert batch.known[WeakLabel.SALIENCY].tolist() == [True, False, True]
    assert batch.saliency[1].sum() == 0


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_map_file_is_read_back_and_knows_its_image(tmp_path):
    path, saliency = tmp_path / "x/y.png", torch.arange(256).reshape(16, 16) / 255
    write_saliency(path, saliency, "1f00")
    torch.testing.assert_close(read_saliency(path)[0], saliency)
    assert is_of(path, "1f00")
    assert not is_of(path, "1f01")
    assert not is_of(tmp_path / "none.png", "1f00")
    first = path.read_bytes()
    write_saliency(path, saliency, "1f00")
    assert path.read_bytes() == first
    path.write_bytes(b"broken")
    assert not is_of(path, "1f00")


def test_a_folder_is_named_after_provider_version_and_options():
    names = [
        folder_name("rembg", "1", {"model": "u2net"}),
        folder_name("rembg", "1", {"model": "u2netp"}),
        folder_name("rembg", "2", {"model": "u2net"}),
        folder_name("other", "1", {"model": "u2net"}),
    ]
    assert len(set(names)) == 4
    assert names[0] == folder_name("rembg", "1", {"model": "u2net"})
    assert all(name.startswith(FOLDER_PREFIX) for name in names)
    assert folder_name("a", "1", {"x": 1, "y": 2}) == folder_name("a", "1", {"y": 2, "x": 1})


def test_maps_beside_the_images_of_a_plain_folder_are_no_images(tmp_path):
    for name in "abcd":
        put_image(tmp_path / f"{name}.jpg")
    put_saliency(tmp_path / folder_name("rembg", "1", {}) / "a.png")
    (tmp_path / "tags.csv").write_text("image,tags\na,cat\nb,dog\nc,cat\nd,dog\n")
    assert open_dataset("folder", tmp_path).ids == ("a", "b", "c", "d")


def test_maps_from_another_folder_take_the_place_of_those_in_the_data(tmp_path):
    dataset = open_dataset("auto", voc_tree(tmp_path / "data"), "train")
    write_saliency(tmp_path / "maps/a.png", spot(40, 48, side=20)[0], "")
    other = WithSaliency(dataset, tmp_path / "maps")
    assert other.sample("a").saliency.sum() == 400
    assert other.sample("b").saliency is None
    assert torch.equal(other.sample("a").mask, dataset.sample("a").mask)
    assert other.ids == dataset.ids
    assert WithSaliency(dataset, None).sample("a").saliency is None


def test_fingerprints_see_the_maps_and_not_where_they_are(tmp_path):
    dataset = open_dataset("auto", voc_tree(tmp_path / "data"), "train")
    prints = []
    for folder, side in (("one", 20), ("two", 20), ("three", 21)):
        write_saliency(tmp_path / folder / "a.png", spot(40, 48, side=side)[0], "")
        prints.append(WithSaliency(dataset, tmp_path / folder).fingerprint())
    assert prints[0] == prints[1] != prints[2]
    assert len({*prints, dataset.fingerprint(), WithSaliency(dataset, None).fingerprint()}) == 4


def test_a_provider_must_be_called():
    with pytest.raises(TypeError, match="abstract"):
        SaliencyProvider()
