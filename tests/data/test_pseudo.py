import torch

from tests.data.samples import noise
from tests.data.trees import folder_tree, put_mask
from weakseg.data.folder import FolderDataset
from weakseg.data.maps import write_scores
from weakseg.data.pseudo import PseudoMasks, TeacherScores, WeaklyLabelled
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
