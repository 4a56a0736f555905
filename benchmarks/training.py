"""How fast `fit` trains from recordings, beside the same Trainer on one fixed batch, and beside a bare PyTorch loop.

    python -m benchmarks.training

The three take turns on one machine; what counts is their ratio. `fit` over `fixed` is what reading, decoding, shuffling
and gathering cost; `fixed` over `bare` is what Lightning, logging and the schedule cost.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import auto_cli
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pd_lightning.checkpoints import Checkpoint
from pd_lightning.cli import quieten
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.losses import LOSSES
from pd_lightning.machine import fastest_precision, keep_freed_memory
from pd_lightning.streaming import Batch

WARM_UP = 60
"""Updates before the clock starts."""


class Clock(pl.Callback):
    """Times the updates after the first ones.

    Args:
        device: waited for before the clock is read.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.started, self.seconds = device, 0.0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Starts after the warm-up, stops at the end."""
        if trainer.global_step in (WARM_UP, trainer.max_steps):
            synchronise(self.device)
            now = time.perf_counter()
            self.started, self.seconds = now, now - self.started


class FixedBatch(TeacherDatasets):
    """The first batch of the recording, again and again, on the device already."""

    def train_dataloader(self) -> Any:
        """As many times as an epoch has batches."""
        assert self.trainer is not None
        loader = super().train_dataloader()
        device = self.trainer.strategy.root_device
        batch = {game: Batch(*(each.to(device) for each in part)) for game, part in loader.batch(0).items()}
        return Repeated(batch, len(loader))


class Repeated:
    """One batch, some number of times."""

    def __init__(self, batch: dict[str, Batch], times: int) -> None:
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        for _ in range(self.times):
            yield self.batch


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_trainer(kind: type[TeacherDatasets], options: dict[str, Any]) -> Callable[[str, int], float]:
    """What `python train.py fit` does between two validations: loggers, checkpoints, schedule and all."""

    def run(size: str, updates: int) -> float:
        data = kind(options["root"], options["games"], options["batch_size"])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        clock = Clock(device)
        with tempfile.TemporaryDirectory() as folder:
            board = TensorBoardLogger(folder, "lightning_logs")
            trainer = pl.Trainer(
                accelerator=device.type,
                devices=1,
                max_steps=WARM_UP + updates,
                precision=options["precision"],
                logger=[board, CSVLogger(board.root_dir, "", board.version)],
                callbacks=[clock, Checkpoint(every_n_train_steps=250)],
                limit_val_batches=0,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(PolicyDistillation(data.actions, size), datamodule=data)
        return updates / clock.seconds

    return run


def bare_loop(options: dict[str, Any]) -> Callable[[str, int], float]:
    """The same network, loss and optimizer on one fixed batch, as one would write it without Lightning."""

    def run(size: str, updates: int) -> float:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = TeacherDatasets(options["root"], options["games"], options["batch_size"])
        data.trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        data.setup("fit")
        batch = {g: Batch(*(t.to(device) for t in part)) for g, part in data.train_dataloader().batch(0).items()}
        student = PolicyDistillation(data.actions, size).student.to(device)
        for game, (mean, deviation) in data.statistics().items():
            student.centre(game, mean, deviation)
        optimizer = torch.optim.Adam(student.parameters(), 3e-3)
        bf16 = options["precision"] == "bf16-mixed"
        started = 0.0
        for update in range(WARM_UP + updates):
            if update == WARM_UP:
                synchronise(device)
                started = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = student({game: part.states for game, part in batch.items()})
                losses = [LOSSES["kl"](outputs[game], part.teacher_q, 0.01) for game, part in batch.items()]
            loss = torch.stack(losses).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronise(device)
        return updates / (time.perf_counter() - started)

    return run


def training(
    root: str = "datasets",
    games: list[str] = ["pong"],  # noqa: B006 (never changed)
    sizes: list[str] = ["dqn", "net1", "net3"],  # noqa: B006 (never changed)
    batch_size: int = 256,
    updates: int = 200,
    repetitions: int = 5,
    precision: str | None = None,
    output: str | None = None,
) -> None:
    """Compares `fit` from recordings with the same Trainer on a fixed batch, and with a bare loop.

    Args:
        root: folder of the datasets.
        games: which of them.
        sizes: of the students.
        batch_size: states of each game in an update.
        updates: that are timed, in each turn.
        repetitions: turns of each.
        precision: of Lightning (default: the fastest of the machine).
        output: JSON file for all figures.
    """
    quieten()
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    options = {"root": root, "games": games, "batch_size": batch_size}
    options["precision"] = precision or fastest_precision("auto")
    ways = {
        "bare": bare_loop(options),
        "fixed": with_trainer(FixedBatch, options),
        "fit": with_trainer(TeacherDatasets, options),
    }
    turns = [(size, way) for size in sizes for _ in range(repetitions) for way in ways]
    rates: dict[str, dict[str, list[float]]] = {size: {way: [] for way in ways} for size in sizes}
    for size, way in track(turns, "training", console=Console(stderr=True)):
        rates[size][way].append(ways[way](size, updates))
        gc.collect()  # a trainer and its module know each other; the next turn should find their memory free
    if output:
        Path(output).write_text(json.dumps({"options": options, "updates_per_second": rates}, indent=2))
    Console(width=100).print(table(rates, batch_size * len(games), options["precision"]))


def table(rates: dict[str, dict[str, list[float]]], states: int, precision: str) -> Table:
    """Medians of states a second, and of the ratios within a turn."""
    found = Table(title=f"training, {states} states an update, {precision}, torch {torch.__version__}")
    for name in ("size", "bare loop", "Trainer, fixed batch", "fit", "fit / fixed", "fixed / bare"):
        found.add_column(name, justify="left" if name == "size" else "right")
    for size, ways in rates.items():
        speeds = [f"{statistics.median(ways[way]) * states:,.0f} states/s" for way in ("bare", "fixed", "fit")]
        ratios = [
            f"{statistics.median(ratio):.3f} ({min(ratio):.2f} to {max(ratio):.2f})"
            for ratio in (
                [a / b for a, b in zip(ways[over], ways[under], strict=True)]
                for over, under in (("fit", "fixed"), ("fixed", "bare"))
            )
        ]
        found.add_row(size, *speeds, *ratios)
    return found


if __name__ == "__main__":
    auto_cli(training, as_positional=False, prog="python -m benchmarks.training")
