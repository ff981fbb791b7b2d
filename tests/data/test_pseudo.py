import torch

from tests.data.samples import noise
from tests.data.trees import folder_tree, put_mask, refusal
from weakseg.data.folder import FolderDataset
from weakseg.data.instances import Instances
from weakseg.data.maps import write_scores
from weakseg.data.pseudo import PseudoMasks, PseudoObjects, TeacherScores, WeaklyLabelled
from weakseg.data.sample import Sample, WeakLabel, collate


def dataset(tmp_path):
    root = folder_tree(tmp_path / "photos")
    put_mask(root / "masks" / "a.png")
    return FolderDataset(root, "train")


def test_only_the_needed_labels_are_left(tmp_path):
    whole = dataset(tmp_path)
    assert whole.sample("a").mask is not None
    tagged = WeaklyLabelled(whole, frozenset({WeakLabel.TAGS})).sample("a")
    assert tagged.tags is not None
    assert tagged.mask is None


def test_a_pseudo_mask_takes_the_place_of_the_true_one(tmp_path):
    put_mask(tmp_path / "pseudo" / "a.png", value=2)
    sample = PseudoMasks(dataset(tmp_path), lambda name: tmp_path / "pseudo" / f"{name}.png").sample("a")
    assert sample.mask.max() == 2
    assert sample.tags is None


def test_a_teacher_gives_scores_and_nothing_else(tmp_path):
    scores = torch.rand(4, 40, 48)
    write_scores(tmp_path / "scores" / "a.npz", scores)
    taught = TeacherScores(dataset(tmp_path), lambda name: tmp_path / "scores" / f"{name}.npz")
    sample = taught.sample("a")
    assert torch.equal(sample.scores, scores.half())
    assert sample.mask is sample.tags is sample.saliency is sample.boxes is None
    assert not taught.has(WeakLabel.TAGS)


def test_pseudo_objects_and_nothing_else(tmp_path):
    masks = torch.zeros(2, 40, 48, dtype=torch.bool)
    masks[0, :10], masks[1, 20:, 30:] = True, True
    whole = dataset(tmp_path)
    names, path = whole.classes.names, tmp_path / "instances" / "a.json"
    Instances(torch.tensor([1, 0]), torch.ones(2), masks).save(path, names)
    found = PseudoObjects(whole, lambda name: tmp_path / "instances" / f"{name}.json")
    sample = found.sample("a")
    assert torch.equal(sample.objects, masks[0].int() + 2 * masks[1].int())
    assert sample.object_classes.tolist() == [1, 0]
    assert sample.mask is sample.tags is sample.saliency is sample.boxes is None
    assert not any(found.has(kind) for kind in (WeakLabel.TAGS, WeakLabel.MASKS, WeakLabel.BOXES))
    assert found.objects("a") is None
    Instances(torch.tensor([1, 0]), torch.ones(2), masks[:, 1:]).save(path, names)
    refusal(lambda: found.sample("a"), "a.png", "48 x 39", "48 x 40")


def test_objects_of_a_batch():
    one = Sample("one", torch.zeros(3, 6, 8), objects=noise(6, 8).objects, object_classes=noise(6, 8).object_classes)
    batch = collate([one, Sample("none", torch.zeros(3, 6, 8))], num_classes=2)
    assert torch.equal(batch.objects[0], one.objects)
    assert torch.equal(batch.object_classes[0], one.object_classes)
    assert batch.objects[1].tolist() == [[0] * 8] * 6
    assert batch.object_classes[1].shape == (0,)
    moved = batch.to("meta")
    assert all(tensor.is_meta for tensor in (*moved.objects, *moved.object_classes))


def test_stacked_scores_have_as_many_channels_as_the_most():
    few, many = noise(6, 8), noise(6, 8, seed=1)
    few = Sample("few", few.image.float(), scores=few.scores[:2])
    many = Sample("many", many.image.float(), scores=many.scores)
    none = Sample("none", many.image)
    batch = collate([few, many, none], num_classes=2)
    assert batch.scores.shape == (3, 4, 6, 8)
    assert batch.scores.dtype == torch.float32
    assert torch.equal(batch.scores[0, :2], few.scores.float())
    assert torch.equal(batch.scores[1], many.scores.float())
    assert batch.scores[0, 2:].eq(0).all()
    assert batch.scores[2].eq(0).all()
    assert collate([none], num_classes=2).scores.shape == (1, 0, 6, 8)
    assert batch.to("meta").scores.is_meta
