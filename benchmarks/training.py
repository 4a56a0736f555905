"""How fast `fit` trains from recordings, beside the same Trainer on one fixed batch, and beside a bare PyTorch loop.

    python -m benchmarks.training

What counts are ratios. `fit` over `fixed` is what reading, decoding, shuffling and gathering cost: one Trainer does
both, some updates at a time. `fixed` over `bare` is what Lightning, logging and the schedule cost: they take turns.
"""

from __future__ import annotations

import gc
import itertools
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import auto_cli
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pd_lightning.agent import adam
from pd_lightning.callbacks import Checkpoint
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.losses import LOSSES
from pd_lightning.machine import fastest_precision, keep_freed_memory
from pd_lightning.messages import quieten
from pd_lightning.networks import Student
from pd_lightning.streaming import Batch
from pd_lightning.streaming.mixing import Mixture

WARM_UP = 60
"""Updates before the clock starts."""
TURN = 10
"""Updates of a kind at a time."""
ENDLESS = 10**6


class Alternating(TeacherDatasets):
    """The recording, and in turn with it one batch of it again and again, on the device already; timed."""

    def train_dataloader(self) -> Any:
        """Endless turns."""
        assert self.trainer is not None
        self.turns = Turns(super().train_dataloader(), self.trainer.strategy.root_device)
        return self.turns


class Turns:
    """Updates on one batch and updates on the recording, some at a time, so that both meet the machine as it is.

    Args:
        loader: of the recording.
        device: where the training is.

    Attributes:
        seconds: what the updates of each kind took, those apart that follow a change of the kind.
    """

    def __init__(self, loader: Mixture, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self.seconds: dict[str, list[float]] = {"fixed": [], "fit": []}

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        first = self._loader.batch(0)
        fixed = {game: Batch(*(each.to(self._device) for each in part)) for game, part in first.items()}
        epochs = itertools.chain.from_iterable(itertools.repeat(self._loader))
        for number in range(ENDLESS):
            kind, recording = ("fit", epochs) if number % 2 else ("fixed", repeat(fixed))
            yield next(recording)
            synchronise(self._device)
            started = time.perf_counter()
            for _ in range(TURN):
                yield next(recording)
            synchronise(self._device)
            self.seconds[kind].append((time.perf_counter() - started) / TURN)


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_trainer(options: dict[str, Any], size: str, updates: int) -> dict[str, float]:
    """What `python train.py fit` does between two validations: loggers, checkpoints, schedule and all.

    Returns:
        Updates a second on one batch (`fixed`) and from the recording (`fit`).
    """
    data = Alternating(options["root"], options["games"], options["batch_size"])
    with tempfile.TemporaryDirectory() as folder:
        board = TensorBoardLogger(folder, "lightning_logs")
        trainer = pl.Trainer(
            accelerator=options["device"],
            devices=1,
            max_steps=WARM_UP + 2 * updates,
            precision=options["precision"],
            logger=[board, CSVLogger(board.root_dir, "", board.version)],
            callbacks=[Checkpoint(every_n_train_steps=250)],
            limit_val_batches=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(PolicyDistillation(data.actions, size), datamodule=data)
    skipped = WARM_UP // (2 * (TURN + 1))
    return {kind: 1 / statistics.fmean(seconds[skipped:]) for kind, seconds in data.turns.seconds.items()}


def bare_update(student: Student, optimizer: torch.optim.Optimizer, batch: dict[str, Batch], precision: str) -> None:
    """Forward, kl, backward and a step of the optimizer."""
    device = next(student.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        outputs = student({game: part.states for game, part in batch.items()})
        losses = [LOSSES["kl"](outputs[game], part.teacher_q, 0.01) for game, part in batch.items()]
    loss = torch.stack(losses).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def bare_loop(options: dict[str, Any], size: str, updates: int) -> dict[str, float]:
    """The same network, loss and optimizer on one fixed batch, as one would write it without Lightning.

    Returns:
        Updates a second (`bare`).
    """
    device = torch.device(options["device"])
    data = TeacherDatasets(options["root"], options["games"], options["batch_size"])
    data.trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    data.setup("fit")
    batch = {g: Batch(*(t.to(device) for t in part)) for g, part in data.train_dataloader().batch(0).items()}
    student = PolicyDistillation(data.actions, size).student.to(device)
    for game, (mean, deviation) in data.statistics().items():
        student.centre(game, mean, deviation)
    optimizer = adam(student.parameters(), 3e-3)
    started = 0.0
    for update in range(WARM_UP + updates):
        if update == WARM_UP:
            synchronise(device)
            started = time.perf_counter()
        bare_update(student, optimizer, batch, options["precision"])
    synchronise(device)
    return {"bare": updates / (time.perf_counter() - started)}


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
        updates: of each kind that are timed, in each turn.
        repetitions: turns of each.
        precision: of Lightning (default: the fastest of the machine).
        output: JSON file for all figures.
    """
    quieten()
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    options = {
        "root": root,
        "games": games,
        "batch_size": batch_size,
        "precision": precision or fastest_precision("auto"),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    turns = [(size, way) for size in sizes for _ in range(repetitions) for way in (bare_loop, with_trainer)]
    rates: dict[str, dict[str, list[float]]] = {size: {} for size in sizes}
    for size, way in track(turns, "training", console=Console(stderr=True)):
        for name, rate in way(options, size, updates).items():
            rates[size].setdefault(name, []).append(rate)
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
