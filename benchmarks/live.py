"""How fast a student learns from live play, beside the same student on a recording.

    python -m benchmarks.live

The ratio is what counts: ways take turns, in one run.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from jsonargparse import auto_cli
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.training import synchronise
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.live import LiveTeacher
from pd_lightning.machine import fastest_precision, keep_freed_memory
from pd_lightning.messages import quieten

WARM_UP = 40
"""Updates before the clock starts."""
WAYS = {
    "recording": None,
    "teacher acts": {"beta": 1.0},
    "student acts": {"beta": 0.0},
    "teacher learns": {"learn": True, "steps": 32, "prefill": 1024},
}


class Clock(Callback):
    """Times a run from its warm-up on; notes the memory of the process at both ends."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Starts, and stops."""
        if trainer.global_step in (WARM_UP, trainer.max_steps):
            synchronise(trainer.strategy.root_device)
            now = time.perf_counter(), psutil.Process().memory_info().rss
            if trainer.global_step == WARM_UP:
                self.begun = now
            else:
                self.seconds, self.grown = now[0] - self.begun[0], now[1] - self.begun[1]


def run(way: str, game: str, size: str, fresh: float, updates: int, batch_size: int) -> Clock:
    """A fit without scores, logs and checkpoints."""
    options = WAYS[way]
    data: pl.LightningDataModule
    if options is None:
        data = TeacherDatasets(games=[game], batch_size=batch_size)
    else:
        data = LiveTeacher([game], batch_size=batch_size, fresh=fresh, buffer_size=20_000, **options)
    clock = Clock()
    precision: Any = fastest_precision("auto")
    trainer = pl.Trainer(
        accelerator="auto", devices=1, max_steps=WARM_UP + updates, precision=precision,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, callbacks=[clock],
    )  # fmt: skip
    actions: dict[str, int] = data.actions  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(PolicyDistillation(actions, size, temperature=0.01), datamodule=data)
    return clock


def live(
    game: str = "pong",
    size: str = "net1",
    fresh: float = 0.125,
    updates: int = 200,
    batch_size: int = 256,
    repetitions: int = 3,
    ways: list[str] = list(WAYS),  # noqa: B006 (never changed)
    output: str | None = None,
) -> None:
    """Compares learning from live play with learning from the shipped recording.

    Args:
        game: the game; it needs a recording and a teacher in `datasets`.
        size: of the student.
        fresh: states that are played for each one that is learned from.
        updates: that are timed, in each turn.
        batch_size: states in an update.
        repetitions: turns.
        ways: recording, and what is to be compared with it: teacher acts, student acts, teacher learns.
        output: JSON file for all figures.
    """
    quieten()
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for way in track(ways * repetitions, "live", console=Console(stderr=True)):
        clock = run(way, game, size, fresh, updates, batch_size)
        found[way].append({"states_per_second": updates * batch_size / clock.seconds, "bytes_grown": clock.grown})
    if output:
        Path(output).write_text(json.dumps(found, indent=2))
    table = Table(title=f"{game}, {size}, {fresh} fresh states for one that is learned from, torch {torch.__version__}")
    for name in ("way", "states/s", "of recording", "memory grown"):
        table.add_column(name, justify="left" if name == "way" else "right")
    rates = {way: [each["states_per_second"] for each in turns] for way, turns in found.items()}
    for way, turns in found.items():
        ratios = [a / b for a, b in zip(rates[way], rates["recording"], strict=True)] if "recording" in rates else []
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
        grown = max(each["bytes_grown"] for each in turns) / 2**20
        table.add_row(way, f"{statistics.median(rates[way]):,.0f}", ratio, f"{grown:.0f} MiB")
    Console(width=100).print(table)


if __name__ == "__main__":
    auto_cli(live, as_positional=False, prog="python -m benchmarks.live")
