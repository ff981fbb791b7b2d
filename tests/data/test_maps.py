import pytest
import torch

from tests.data.trees import put_text, refusal
from weakseg.data.instances import Instances
from weakseg.data.maps import LocalizationMaps, read_scores, write_scores

NAMES = ("cat", "dog", "bird")


def maps(**more):
    scores = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    return LocalizationMaps(torch.tensor([0, 2]), scores, (17, 25), **more)


def test_maps_come_back_in_half_precision(tmp_path):
    given = maps(background=torch.rand(5, 7), features=torch.rand(3, 2, 4))
    given.save(tmp_path / "a" / "b.npz")
    read = LocalizationMaps.load(tmp_path / "a" / "b.npz")
    assert read.size == (17, 25)
    assert read.classes.tolist() == [0, 2]
    for name in ("scores", "background", "features"):
        assert torch.equal(getattr(read, name), getattr(given, name).half().float())


def test_what_maps_do_not_say_stays_open(tmp_path):
    maps().save(tmp_path / "a.npz")
    read = LocalizationMaps.load(tmp_path / "a.npz")
    assert read.background is read.features is None


@pytest.mark.parametrize("channels", [0, 1, 6])
def test_scores_come_back_in_half_precision(tmp_path, channels):
    scores = torch.rand(channels, 4, 6)
    write_scores(tmp_path / "s.npz", scores)
    assert torch.equal(read_scores(tmp_path / "s.npz"), scores.half())


@pytest.mark.parametrize("read", [LocalizationMaps.load, read_scores])
def test_a_damaged_file_is_named(tmp_path, read):
    refusal(lambda: read(tmp_path / "maps" / "no.npz"), "no.npz", "Remove the folder maps")
    refusal(lambda: read(put_text(tmp_path / "maps" / "text.npz", "PK")), "text.npz")


def objects():
    masks = torch.zeros(3, 6, 9, dtype=torch.bool)
    masks[0, 1:3, 2:5], masks[1, 4:, 6:] = True, True
    return Instances(torch.tensor([2, 0, 2]), torch.tensor([0.25, 1.0, 0.0]), masks)


def test_instances_come_back(tmp_path):
    objects().save(tmp_path / "i.json", NAMES)
    read = Instances.load(tmp_path / "i.json", NAMES)
    for name in ("classes", "scores", "masks"):
        assert torch.equal(getattr(read, name), getattr(objects(), name))


def test_the_list_says_what_each_number_is(tmp_path):
    objects().save(tmp_path / "i.json", NAMES)
    text = (tmp_path / "i.json").read_text()
    assert '"class": "bird"' in text
    assert '"area": 6' in text
    assert "".join(text.split()).count('"box":[2,1,5,3]') == 1
    assert "".join(text.split()).count('"box":[0,0,0,0]') == 1  # nothing is left of the third


def test_no_instances(tmp_path):
    Instances(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 4, 5, dtype=torch.bool)).save(
        tmp_path / "i.json", NAMES
    )
    assert Instances.load(tmp_path / "i.json", NAMES).masks.shape == (0, 4, 5)


def test_damaged_instances_are_named(tmp_path):
    objects().save(tmp_path / "i.json", NAMES)
    (tmp_path / "i.png").unlink()
    refusal(lambda: Instances.load(tmp_path / "i.json", NAMES), "i.json", "run again")
    refusal(lambda: Instances.load(put_text(tmp_path / "j.json", "[{}]"), NAMES), "j.json")
