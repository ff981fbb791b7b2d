"""The training loop on a tiny network: schedules, resuming, and what stops it."""

import csv
import math
import os
import signal

import pytest
import torch
from torch import nn

from tests.data.trees import refusal
from tests.pipeline.shapes import Screen, folder_shapes
from weakseg.data.folder import FolderDataset
from weakseg.data.transforms import AugmentedDataset, classification
from weakseg.errors import UserError
from weakseg.methods.cam import CAM
from weakseg.networks.backbone import Backbone
from weakseg.pipeline.device import Device
from weakseg.pipeline.progress import Silent
from weakseg.pipeline.recipe import Training
from weakseg.pipeline.training import EpochSampler, schedule_factor, train

IMAGES, BATCH, SEED = 9, 2, 7
STEPS = IMAGES // BATCH


class Stopped(Exception):
    """As if somebody had pulled the plug."""


class StopsAfter(Screen):
    """Breaks off after so many images."""

    def __init__(self, images):
        super().__init__()
        self.left = images

    def advance(self, images=1, note=""):
        self.left -= images
        if self.left <= 0:
            raise Stopped


class Probe(nn.Module):
    """One number to train; it remembers at which rate, in which epoch, and what it saw."""

    def __init__(self, loss=lambda value, step: value.square()):
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))
        self.loss, self.rates, self.epochs, self.ids, self.seen = loss, [], [], [], []

    def parameter_groups(self, lr, weight_decay):
        self.groups = [{"params": [self.value], "lr": lr, "weight_decay": weight_decay}]
        return self.groups

    def begin_epoch(self, epoch, epochs):
        self.epochs.append((epoch, epochs))

    def losses(self, batch):
        self.rates.append(self.groups[0]["lr"])
        self.ids.append(batch.ids)
        self.seen.append(batch.images.double().sum().item())
        return {"first": self.loss(self.value, len(self.rates)), "second": 0 * self.value}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return FolderDataset(folder_shapes(tmp_path_factory.mktemp("shapes"), train=IMAGES, val=0))


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "checkpoints/model.ckpt"


def augmented(images, crop=32):
    return AugmentedDataset(images, classification(crop, resize=(40, 60), jitter=(0.3, 0, 0, 0)), SEED)


def cam(**options):
    torch.manual_seed(0)
    body = Backbone("test_resnet", weights="none", output_stride=16, batchnorm="train")
    return CAM(body, 2, **{"dropout": 0.5, **options})


def trained(model, images, checkpoint, reporter=None, after_epoch=None, **settings):
    chosen = Training(**{"epochs": 3, "batch": BATCH, "lr": 0.01, "precision": "32", "workers": 0, **settings})
    train(
        model,
        augmented(images),
        chosen,
        checkpoint,
        seed=SEED,
        device=Device("cpu", 1, 2),
        reporter=reporter or Silent(),
        label="train",
        after_epoch=after_epoch,
    )
    return model


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def identical(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def settings(**more):
    return Training(epochs=10, **more)


@pytest.mark.parametrize(("batchnorm", "batches"), [("train", 3 * STEPS), ("statistics", 0)])
def test_a_network_is_trained_in_training_mode(images, checkpoint, batchnorm, batches):
    model = CAM(Backbone("test_resnet", weights="none", output_stride=16, batchnorm=batchnorm), 2, dropout=0.5).eval()
    modes = []
    model.dropout.register_forward_hook(lambda layer, *_: modes.append(layer.training))
    trained(model, images, checkpoint)
    assert modes == [True] * 3 * STEPS
    counted = {layer.num_batches_tracked.item() for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)}
    assert counted == {batches}


@pytest.mark.parametrize("step", [0, 1, 13, 39])
def test_schedules(step):
    total = 10 * 4
    assert schedule_factor(settings(schedule="constant"), step, 4) == 1
    assert schedule_factor(settings(), step, 4) == pytest.approx((1 - step / total) ** 0.9)
    assert schedule_factor(settings(power=2), step, 4) == pytest.approx((1 - step / total) ** 2)
    cosine = (1 + math.cos(math.pi * step / total)) / 2
    assert schedule_factor(settings(schedule="cosine"), step, 4) == pytest.approx(cosine)


def test_a_rate_that_falls_in_steps():
    chosen = settings(schedule="step", step_epochs=1.5)
    assert [schedule_factor(chosen, step, 4) for step in (0, 5, 6, 11, 12)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert schedule_factor(settings(schedule="step", step_epochs=0.01), 2, 4) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_warm_up_rises_in_even_steps_to_the_schedule(schedule):
    warm, cold = settings(schedule=schedule, warmup_epochs=1.5), settings(schedule=schedule)
    shares = [schedule_factor(warm, step, 4) / schedule_factor(cold, step, 4) for step in range(12)]
    assert shares[:6] == pytest.approx([1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7])
    assert shares[6:] == pytest.approx([1.0] * 6)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_schedules_end_at_zero_and_stay_there(schedule):
    assert schedule_factor(settings(schedule=schedule), 40, 4) == pytest.approx(0, abs=1e-12)
    assert schedule_factor(settings(schedule=schedule), 45, 4) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("chosen", [{"schedule": "poly"}, {"schedule": "cosine", "warmup_epochs": 1.0}])
def test_every_step_has_its_rate(images, checkpoint, chosen):
    model = trained(Probe(), images, checkpoint, epochs=2, lr=0.5, **chosen)
    expected = [0.5 * schedule_factor(Training(epochs=2, **chosen), step, STEPS) for step in range(2 * STEPS)]
    assert model.rates == pytest.approx(expected)


def test_epochs_begin_and_are_told_apart(images, checkpoint):
    model = trained(Probe(), images, checkpoint, epochs=3)
    assert model.epochs == [(0, 3), (1, 3), (2, 3)]
    per_epoch = [sum(model.ids[STEPS * epoch : STEPS * (epoch + 1)], ()) for epoch in range(3)]
    assert all(len(set(ids)) == STEPS * BATCH for ids in per_epoch)
    assert len(set(per_epoch)) == 3
    assert len(set(model.seen)) == 3 * STEPS  # no augmentation is seen twice


@pytest.mark.parametrize(("momentum", "first_steps"), [(0.9, 0.9), (None, 0.01)])
def test_momentum_of_null_is_the_weight_decay(images, checkpoint, momentum, first_steps):
    """Of a loss with slope 1, the second step is 1 + momentum long."""
    model = Probe(lambda value, step: value)
    places = []
    model.value.register_hook(lambda _: places.append(model.value.item()))
    chosen = {"momentum": momentum, "weight_decay": 0.01, "schedule": "constant"}
    trained(model, images, checkpoint, epochs=1, lr=0.001, **chosen)
    first, second = places[0] - places[1], places[1] - places[2]
    assert second / first == pytest.approx(1 + first_steps, abs=0.01)


def test_gradients_are_clipped(images, checkpoint):
    model = Probe(lambda value, step: 1000 * value)
    trained(
        model,
        images,
        checkpoint,
        epochs=1,
        lr=1e-4,
        momentum=0,
        weight_decay=0,
        schedule="constant",
        clip_gradients=2.0,
    )
    assert model.value.item() == pytest.approx(1 - STEPS * 1e-4 * 2, abs=1e-6)


@pytest.mark.parametrize(
    "chosen",
    [
        {"optimizer": "sgd"},
        {"optimizer": "adamw", "lr": 0.001, "schedule": "cosine", "warmup_epochs": 1.0, "weight_decay": 0.05},
        {"precision": "bf16", "epochs": 1},
    ],
    ids=["sgd", "adamw", "bf16"],
)
def test_weights_move_and_stay_finite(images, checkpoint, chosen):
    before, after = state(cam()), state(trained(cam(), images, checkpoint, **{"epochs": 2, **chosen}))
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert {"head.weight", "backbone.model.conv1.weight"} <= set(moved) or len(moved) > 10
    assert all(value.isfinite().all() for value in after.values())
    assert all(value.dtype == before[name].dtype for name, value in after.items())


def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(images, tmp_path):
    alone = trained(cam(), images, tmp_path / "a.ckpt", epochs=2)
    helped = trained(cam(), images, tmp_path / "b.ckpt", epochs=2, workers=2)
    assert identical(state(alone), state(helped))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("images_seen", [1, STEPS * BATCH + 3, 2 * STEPS * BATCH + 1])
def test_what_was_stopped_ends_like_what_was_not(images, tmp_path, optimizer, images_seen):
    chosen = {"optimizer": optimizer, "lr": 0.002, "warmup_epochs": 1.0}
    undisturbed = trained(cam(), images, tmp_path / "a.ckpt", **chosen)
    with pytest.raises(Stopped):
        trained(cam(), images, tmp_path / "b.ckpt", StopsAfter(images_seen), **chosen)
    finished = images_seen // (STEPS * BATCH)
    assert (tmp_path / "b.ckpt").exists() is bool(finished)
    torch.manual_seed(99)  # another process starts from elsewhere
    resumed = trained(cam(), images, tmp_path / "b.ckpt", **chosen)
    assert identical(state(undisturbed), state(resumed))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_what_was_stopped_twice(images, tmp_path):
    undisturbed = trained(cam(), images, tmp_path / "a.ckpt", epochs=4)
    for _ in range(3):
        with pytest.raises(Stopped):
            trained(cam(), images, tmp_path / "b.ckpt", StopsAfter(STEPS * BATCH + 1), epochs=4)
    assert identical(state(undisturbed), state(trained(cam(), images, tmp_path / "b.ckpt", epochs=4)))


def test_after_an_epoch_comes_a_call_before_it_is_saved(images, checkpoint):
    told = []

    def after(epochs):
        saved = len(torch.load(checkpoint, weights_only=True)["history"]) if checkpoint.exists() else 0
        told.append((epochs, saved))
        if len(told) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        trained(Probe(), images, checkpoint, after_epoch=after)
    trained(Probe(), images, checkpoint, after_epoch=after)
    assert told == [(1, 0), (2, 1), (2, 1), (3, 2)]


def test_only_the_epoch_in_hand_is_done_again(images, checkpoint):
    with pytest.raises(Stopped):
        trained(Probe(), images, checkpoint, StopsAfter(2 * STEPS * BATCH + 1))
    model = trained(Probe(), images, checkpoint)
    assert model.epochs == [(2, 3)]
    assert len(model.ids) == STEPS


def test_a_finished_training_does_nothing_more(images, checkpoint):
    done = trained(cam(), images, checkpoint)
    before = checkpoint.read_bytes()
    assert identical(state(done), state(trained(cam(), images, checkpoint)))
    assert checkpoint.read_bytes() == before


def test_the_checkpoint_holds_no_objects(images, checkpoint):
    trained(cam(), images, checkpoint, epochs=1)
    found = torch.load(checkpoint, weights_only=True)
    assert len(found["history"]) == 1
    assert {"state_dict", "optimizer_states", "lr_schedulers"} <= set(found)
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["model.ckpt", "model.csv"]


def test_mean_losses_by_epoch_stand_in_a_table(images, checkpoint):
    trained(Probe(lambda value, step: 0 * value + step), images, checkpoint, epochs=2)
    rows = list(csv.reader(checkpoint.with_suffix(".csv").read_text().splitlines()))
    assert rows[0] == ["epoch", "first", "second"]
    assert [list(map(float, row)) for row in rows[1:]] == [[1, 2.5, 0], [2, 6.5, 0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(images, checkpoint, bad):
    with pytest.raises(Stopped):
        trained(Probe(), images, checkpoint, StopsAfter(STEPS * BATCH + 1))
    after_one_epoch = checkpoint.read_bytes()
    checkpoint.unlink()
    sick = Probe(lambda value, step: value.square() if step < STEPS + 3 else value * bad)
    words = ("the loss 'first' is", str(bad), "in epoch 2", "checkpoint of epoch 1 is kept", "train.lr")
    refusal(lambda: trained(sick, images, checkpoint), *words)
    assert checkpoint.read_bytes() == after_one_epoch


def test_a_loss_that_is_no_number_from_the_start(images, checkpoint):
    sick = Probe(lambda value, step: value * math.nan)
    refusal(lambda: trained(sick, images, checkpoint), "in epoch 1", "no epoch was finished")
    assert not checkpoint.exists()


def test_too_few_images(images, checkpoint):
    refusal(lambda: trained(cam(), images, checkpoint, batch=10), "9 training images", "one batch of 10", "train.batch")
    assert not checkpoint.parent.exists()


def test_a_damaged_image_is_named(images, checkpoint, tmp_path):
    broken = FolderDataset(folder_shapes(tmp_path / "shapes", train=IMAGES, val=0))
    path = broken.paths(broken.ids[4])["image"]
    path.write_bytes(path.read_bytes()[:200])
    for workers in (0, 1):
        with pytest.raises(UserError) as raised:
            trained(cam(), broken, checkpoint, workers=workers)
        line = str(raised.value)
        assert line.startswith(f"{path}: cannot be decoded")
        assert line.endswith("Replace it by a JPEG or PNG that opens elsewhere.")


class Deadly:
    """A transform that ends the process which loads."""

    def __call__(self, sample, generator):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_loading_process_is_a_clean_error(images, checkpoint):
    chosen = Training(epochs=1, batch=BATCH, workers=1)
    dataset = AugmentedDataset(images, Deadly(), SEED)
    where = {"seed": SEED, "device": Device("cpu", 1, 2), "reporter": Silent(), "label": "train"}
    refusal(lambda: train(Probe(), dataset, chosen, checkpoint, **where), "loading process died", "train.workers")


def test_a_full_device_is_a_clean_error(images, checkpoint):
    def full(value, step):
        raise torch.OutOfMemoryError("CUDA out of memory")

    refusal(lambda: trained(Probe(full), images, checkpoint), "out of memory", "train.batch", "crop")


def test_our_own_mistakes_are_not_dressed_up(images, checkpoint):
    with pytest.raises(RuntimeError, match=r"size|shape"):
        trained(Probe(lambda value, step: torch.ones(2) @ torch.ones(3) + value), images, checkpoint)


def test_ctrl_c_goes_through_and_the_training_goes_on_from_there(images, tmp_path):
    class Impatient(StopsAfter):
        def advance(self, images=1, note=""):
            try:
                super().advance(images)
            except Stopped:
                raise KeyboardInterrupt from None

    undisturbed = trained(cam(), images, tmp_path / "a.ckpt")
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(cam(), images, tmp_path / "b.ckpt", Impatient(STEPS * BATCH + 1))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert identical(state(undisturbed), state(trained(cam(), images, tmp_path / "b.ckpt")))


def test_the_bar_counts_every_image_once(images, checkpoint):
    class Counting(Screen):
        shown = earlier = 0

        def advance(self, images=1, note=""):
            self.shown += images

        def skip(self, images):
            self.earlier += images

    with pytest.raises(Stopped):
        trained(Probe(), images, checkpoint, StopsAfter(STEPS * BATCH + 3))
    screen = Counting()
    trained(Probe(), images, checkpoint, screen)
    label, total, done = screen.tracked[0]
    assert label == "train"
    assert screen.shown + screen.earlier + done == total == 3 * STEPS * BATCH
    assert screen.earlier + done == STEPS * BATCH


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_order_is_a_permutation_of_seed_and_epoch(epoch):
    sampler = EpochSampler(10, seed=1)
    sampler.epoch = epoch
    order = list(sampler)
    assert sorted(order) == list(range(10))
    assert order == list(sampler)
    other = EpochSampler(10, seed=2)
    other.epoch = epoch
    assert order != list(other)
