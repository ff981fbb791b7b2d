import torch
from PIL import Image

from tests.data.trees import refusal, voc_tree
from weakseg.data.objects import objects_of
from weakseg.data.pseudo import PseudoMasks, WithSaliency
from weakseg.data.voc import VOCDataset


def test_objects_take_the_class_that_most_of_their_pixels_have():
    numbers = torch.tensor([[1, 1, 1, 0], [2, 2, 255, 4]], dtype=torch.uint8)
    labels = torch.tensor([[3, 3, 1, 0], [255, 2, 255, 0]], dtype=torch.uint8)
    objects = objects_of(numbers, labels)
    assert objects.classes.tolist() == [2, 1]  # object 4 is on background
    assert objects.masks.tolist() == [(numbers == 1).tolist(), (numbers == 2).tolist()]
    assert objects.areas.tolist() == [3, 2]
    assert not objects.crowd.any()
    assert len(objects) == 2


def test_an_image_without_objects():
    empty = torch.zeros(3, 5, dtype=torch.uint8)
    objects = objects_of(empty, empty)
    assert objects.masks.shape == (0, 3, 5)
    assert objects.classes.dtype == torch.int64
    assert len(objects.areas) == len(objects.crowd) == 0


def put_numbers(path, size=(48, 40)):
    path.parent.mkdir(exist_ok=True)
    numbers = Image.new("L", size)
    numbers.paste(1, (10, 10, 20, 20))
    numbers.paste(2, (20, 10, 30, 20))
    numbers.save(path)


def test_objects_of_a_voc_tree(tmp_path):
    root = voc_tree(tmp_path)
    dataset = VOCDataset(root)
    before = dataset.fingerprint(), dataset.objects_fingerprint()
    assert dataset.objects("c") is None
    put_numbers(root / "SegmentationObject/c.png")
    objects = dataset.objects("c")
    assert objects.classes.tolist() == [0, 1]
    assert objects.masks[1, 10:20, 20:30].all()
    assert objects.areas.tolist() == [100, 100]
    assert dataset.fingerprint() == before[0]
    assert dataset.objects_fingerprint() != before[1]
    assert len(WithSaliency(dataset, None).objects("c")) == 2
    assert PseudoMasks(dataset, lambda name: root / "SegmentationClass" / f"{name}.png").objects("c") is None
    put_numbers(root / "SegmentationObject/c.png", (47, 40))
    refusal(lambda: dataset.objects("c"), root / "SegmentationObject/c.png", "47 x 40")
    (root / "SegmentationClass/c.png").unlink()
    assert dataset.objects("c") is None
