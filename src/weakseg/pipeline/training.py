"""Training of localisers and segmenters through Lightning: one loop for both, resumable after each epoch.

An epoch depends on the seed, its number and the state it starts from, on nothing else. A training that is killed and
started again therefore ends with the same weights as one that was left alone.
"""

import csv
import io
import logging
import math
import signal
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from weakseg.data.chance import sample_seed
from weakseg.data.files import write_bytes, write_text
from weakseg.data.sample import Batch
from weakseg.data.transforms import AugmentedDataset
from weakseg.errors import UserError
from weakseg.networks.depthwise import trained_fast
from weakseg.ops.schedules import poly_lr
from weakseg.pipeline.device import Device
from weakseg.pipeline.progress import Bar, Reporter
from weakseg.pipeline.recipe import Training


class Trainable(Protocol):
    """What a network must offer to be trained here; methods and segmenters do."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised."""

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch."""


def train(
    model: nn.Module,
    dataset: AugmentedDataset,
    settings: Training,
    checkpoint: Path,
    *,
    seed: int,
    device: Device,
    reporter: Reporter,
    label: str,
    after_epoch: Callable[[int], None] | None = None,
) -> int:
    """Train ``model`` in place, going on from ``checkpoint`` where there is one.

    Args:
        model: A ``Trainable`` module.
        dataset: Training samples, already augmented and normalised.
        settings: Optimisation.
        checkpoint: File that is renewed after every epoch; the mean losses stand beside it as CSV.
        seed: Of the run.
        device: Where and in which precision to compute.
        reporter: Receives progress.
        label: What the progress bar is called.
        after_epoch: Called in one process with the number of epochs that are over, before the last one is saved: where
            a training is stopped, it is called again. It must leave the model as it is.

    Returns:
        Number of images that this call has looked at.

    Raises:
        UserError: If there are fewer samples than one batch, a loss is not finite, or a loading process dies.
    """
    if len(dataset) < settings.batch * device.count:
        raise UserError(
            f"{len(dataset)} training images do not fill one batch of {settings.batch} on {device.count} device(s)",
            where="recipe",
            remedy="Lower train.batch",
        )
    sampler = EpochSampler(len(dataset), seed)
    loader = DataLoader(
        dataset,
        batch_size=settings.batch,
        sampler=sampler,
        num_workers=device.workers if settings.workers is None else settings.workers,
        collate_fn=dataset.collate,
        drop_last=True,
        pin_memory=device.kind == "cuda",
        generator=torch.Generator(),  # its own: it draws at a moment that differs between a fresh and a resumed epoch
    )
    steps = len(sampler) // device.count // settings.batch
    model.train()  # Lightning keeps the mode, and networks are looked at in evaluation mode while they are built
    with _quiet(), reporter.track(label, total=settings.epochs * steps * settings.batch * device.count) as bar:
        module = _Module(model, dataset, sampler, settings, seed, steps, bar, checkpoint, after_epoch)
        trainer = pl.Trainer(
            accelerator=device.kind,
            devices=device.count,
            strategy="ddp" if device.count > 1 else "auto",
            precision=device.precision(settings.precision),
            max_epochs=settings.epochs,
            gradient_clip_val=settings.clip_gradients,
            plugins=[_CheckpointFile()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            deterministic="warn",
            default_root_dir=checkpoint.parent,
        )
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
        except UserError as error:
            raise _unwrapped(error) from error
        except RuntimeError as error:
            raise _explained(error) from error
        except SystemExit:  # Lightning ends the whole process on Ctrl-C, and ignores it from then on
            signal.signal(signal.SIGINT, on_ctrl_c)
            raise KeyboardInterrupt from None
    return module.seen


class EpochSampler(Sampler[int]):
    """A permutation that depends on seed and epoch only; each of several processes takes every n-th of it."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length // _world()[1]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(sample_seed(self.seed, self.epoch, -1))
        order = torch.randperm(self.length, generator=generator).tolist()
        rank, size = _world()
        yield from order[rank : len(self) * size : size]


class _Module(pl.LightningModule):
    """Lightning's view of a ``Trainable``."""

    def __init__(
        self,
        model: nn.Module,
        dataset: AugmentedDataset,
        sampler: EpochSampler,
        settings: Training,
        seed: int,
        steps: int,
        bar: Bar,
        checkpoint: Path,
        after_epoch: Callable[[int], None] | None,
    ) -> None:
        super().__init__()
        self.model: Any = trained_fast(model.to(memory_format=torch.channels_last))
        self.dataset, self.sampler, self.settings, self.seed = dataset, sampler, settings, seed
        self.steps, self.bar, self.checkpoint, self.after_epoch = steps, bar, checkpoint, after_epoch
        self.history: list[dict[str, float]] = []
        self.seen = 0
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimiser, its rates scheduled at every step."""
        chosen = self.settings
        groups = self.model.parameter_groups(chosen.lr, chosen.weight_decay)
        if chosen.optimizer == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=chosen.lr)
        else:
            momentum = chosen.weight_decay if chosen.momentum is None else chosen.momentum
            optimizer = torch.optim.SGD(groups, lr=chosen.lr, momentum=momentum)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule_factor(chosen, step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Show what an earlier run has already done."""
        self.bar.skip(self.current_epoch * self.steps * self.settings.batch * _world()[1])

    def on_train_epoch_start(self) -> None:
        """Everything random in this epoch follows from seed and epoch."""
        self._seed(self.current_epoch)
        self.model.begin_epoch(self.current_epoch, self.settings.epochs)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The sum of the model's losses."""
        losses = self.model.losses(batch)
        for name, value in losses.items():
            self._check_finite(name, value)
            self.sums[name] = self.sums[name] + value.detach()
        total = torch.stack(list(losses.values())).sum()
        images = len(batch) * _world()[1]
        self.seen += images
        self.bar.advance(images, note=f"loss {total.item():.3f}")
        return total

    def on_train_epoch_end(self) -> None:
        """Keep what a later run needs to go on from here."""
        self.history.append({name: (total / self.steps).item() for name, total in self.sums.items()})
        self.sums.clear()
        self.sampler.epoch = self.current_epoch + 1
        self.dataset.set_epoch(self.current_epoch + 1)
        if self.after_epoch is not None and self.trainer.is_global_zero:
            self.after_epoch(self.current_epoch + 1)
        self.trainer.save_checkpoint(self.checkpoint)
        if self.trainer.is_global_zero:
            write_text(self.checkpoint.with_suffix(".csv"), _table(self.history))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Batches are ours, so Lightning does not know how to move them."""
        moved = batch.to(device, non_blocking=True)
        object.__setattr__(moved, "images", moved.images.contiguous(memory_format=torch.channels_last))
        return moved

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's own part of the state, and the losses so far."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the epoch after the last one that was finished."""
        self.history = checkpoint["history"]
        self.sampler.epoch = len(self.history)
        self.dataset.set_epoch(len(self.history))

    def _seed(self, epoch: int) -> None:
        torch.manual_seed(sample_seed(self.seed, epoch, -2 - _world()[0]))

    def _check_finite(self, name: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            kept = f"the checkpoint of epoch {len(self.history)} is kept" if self.history else "no epoch was finished"
            raise UserError(
                f"the loss '{name}' is {value.item()} in epoch {self.current_epoch + 1}; {kept}",
                where=self.checkpoint,
                remedy="Lower train.lr, or set train.precision to 32",
            )


class _CheckpointFile(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and are read without unpickling objects."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:  # noqa: ANN401
        state: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return state


def schedule_factor(settings: Training, step: int, steps_per_epoch: int) -> float:
    """Share of the base learning rate at a step (from 0)."""
    total, warm = settings.epochs * steps_per_epoch, settings.warmup_epochs * steps_per_epoch
    rising = min(1.0, (step + 1) / (warm + 1))
    if settings.schedule == "constant":
        return rising
    if settings.schedule == "step":
        return rising * 0.1 ** (step // max(1, round(settings.step_epochs * steps_per_epoch)))
    if settings.schedule == "cosine":
        return rising * 0.5 * (1 + math.cos(math.pi * min(step, total) / total))
    return rising * poly_lr(1.0, min(step, total), total, settings.power)


def _world() -> tuple[int, int]:
    """Rank of this process and their number."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _table(history: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history[0]])
    writer.writerows([epoch + 1, *losses.values()] for epoch, losses in enumerate(history))
    return text.getvalue()


def _unwrapped(error: UserError) -> UserError:
    """A loading process hands its error over as a traceback, whose last line is the one that was meant."""
    if "DataLoader worker" not in error.problem:
        return error
    return UserError(error.problem.strip().rpartition("UserError: ")[2].removesuffix("."))


def _explained(error: RuntimeError) -> Exception:
    """A dead loading process and a full GPU are the user's to mend; anything else is a bug of ours."""
    if "DataLoader worker" in str(error):
        return UserError("a data-loading process died", remedy="Run again, with a lower train.workers if it recurs")
    if isinstance(error, torch.OutOfMemoryError):
        return UserError(
            "the device is out of memory", where="recipe", remedy="Lower train.batch or train.augment.crop"
        )
    return error


class _quiet:  # noqa: N801
    """Lightning's advice to its developers is not for our users."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.filterwarnings("ignore", module=r"lightning.*")
        warnings.filterwarnings("ignore", message=r".*(does not have many workers|lr_scheduler\.step).*")

    def __exit__(self, *reason: object) -> None:
        self.warnings.__exit__(None, None, None)
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
