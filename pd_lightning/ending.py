"""What a run leaves: teachers that have learned, the table of results, and where everything is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console

from pd_lightning.callbacks import Checkpoint, Film, Rollouts
from pd_lightning.folder import run_folder
from pd_lightning.live import LiveTeacher
from pd_lightning.networks import QNetwork
from pd_lightning.pqn import PQN, ParallelPlay
from pd_lightning.resuming import batches_trained
from pd_lightning.rollout import Returns
from pd_lightning.summary import results_table
from pd_lightning.teacher import save_teacher
from pd_lightning.trainers import callbacks_of, data_of


def print_ending(trainer: pl.Trainer, began: float, seconds: float) -> None:
    """Saves teachers that have learned, prints the table and where everything is; on the first rank alone.

    Args:
        trainer: of the run that has ended.
        began: when it did, as `time.time()` says.
        seconds: that it took.
    """
    folder = run_folder(trainer)
    if not trainer.is_global_zero:
        return
    rollouts = next((each for each in callbacks_of(trainer) if isinstance(each, Rollouts)), None)
    teachers = save_teachers(trainer, folder, rollouts) if folder else []
    console = Console()
    if not console.is_terminal:
        console.width = 100  # the table in one piece, in a log file
    scores = rollouts.scores if rollouts else {}
    data = data_of(trainer)
    console.print(results_table(scores, trainer.lightning_module, data, trainer.callback_metrics, seconds))
    logs = [("logs", folder)] if folder else []
    for kind, path in [
        *checkpoints_and_films(trainer, began),
        *(("teacher", path) for path in teachers),
        *logs,
    ]:
        console.print(f"{kind:<11}{path}", soft_wrap=True, highlight=False, markup=False)


def learned(
    trainer: pl.Trainer, rollouts: Rollouts | None
) -> Iterator[tuple[str, QNetwork, int | str, Returns | None]]:
    """Teachers that have learned by reward in this run: game, network, steps that they learned from, score."""
    model, data = trainer.lightning_module, data_of(trainer)
    if isinstance(model, PQN) and isinstance(data, ParallelPlay):
        score = rollouts.scores.get(data.game) if rollouts else None
        steps = data.steps_after(batches_trained(trainer), trainer.world_size)
        if trainer.state.fn == TrainerFn.TESTING:  # on as many devices, and in as many games, as it was trained with
            steps = model.steps_before
        yield data.game, model.network, steps if steps is not None else "unknown", score
    if isinstance(data, LiveTeacher):
        for game, learner in data.learners.items():
            score = rollouts.teacher_scores.get(game) if rollouts else None
            yield game, learner.network, data.steps_learned(game), score


def save_teachers(trainer: pl.Trainer, folder: Path, rollouts: Rollouts | None) -> list[Path]:
    """Writes them as files that can be recorded and distilled; of several games, each to a folder of its own."""
    found = list(learned(trainer, rollouts))
    command = " ".join(["python", *sys.argv])
    return [
        save_teacher(
            network,
            (folder / game if len(found) > 1 else folder) / "teacher.safetensors",
            {"steps": steps, "command": command, **score_metadata(score)},
            fire=data_of(trainer).fire_rules()[game],
        )
        for game, network, steps, score in found
    ]


def score_metadata(returns: Returns | None) -> Mapping[str, object]:
    """What a teacher file says of its score."""
    if returns is None:
        return {}
    low, high = returns.interval
    return {
        "return": f"{returns.mean:.2f}",
        "return_interval_95": f"{low:.2f} to {high:.2f}",
        "episodes": len(returns.values),
        "protocol": returns.protocol,
    }


def checkpoints_and_films(trainer: pl.Trainer, began: float) -> Iterator[tuple[str, Path]]:
    """Kind and path of each that this run has left; without loggers those of others may lie beside them."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, Checkpoint) and callback.dirpath:
            found = [path for path in Path(callback.dirpath).glob("[!.]*.ckpt") if path.stat().st_mtime >= began - 1]
            yield from (("checkpoint", path) for path in sorted(found))
        if isinstance(callback, Film):
            for path in callback.paths:
                yield "film", path
