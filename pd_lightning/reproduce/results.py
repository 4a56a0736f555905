"""What a reproduction writes: tables, pictures, and everything that one must know to believe them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from pd_lightning.report.charts import learning_curves, score_against_size
from pd_lightning.report.following import following_table
from pd_lightning.report.lines import write_csv
from pd_lightning.report.recorded import recordings_of, teacher_of
from pd_lightning.report.runs import joined, read_run
from pd_lightning.report.tables import measure, report
from pd_lightning.reproduce.plans import Settings
from pd_lightning.reproduce.tasks import DONE, Task, run_folders, write_whole

DIFFERENCES = """\
- Teachers are PQN's, not DQN's, and scored from no-op starts: absolute scores do not compare with the paper's, shares
  of the teacher's do.
- Actions are the emulator's minimal sets (Pong has 6, in the paper 3).
- A run learns from the play and for the updates stated above; in the paper from 10 hours, and for longer.
- Adam with a warm-up and a linear decay instead of RMSProp, input centred by the recording's mean image.
- With several games every batch holds every game (the paper: one game a batch, `--data.mixing one_game`).
- One learning rate and one batch size are used for all games and sizes; nothing was tuned on the final scores."""


def write_results(tasks: Sequence[Task], settings: Settings, command: str) -> Path:
    """Writes RESULTS.md, report.csv and pictures to the output folder.

    Args:
        tasks: runs that have ended.
        settings: theirs.
        command: that was given, as a shell takes it.

    Returns:
        RESULTS.md.
    """
    output = Path(settings.output)
    runs = [joined([read_run(folder) for folder in run_folders(task)]) for task in tasks]
    shards = recordings_of(Path(settings.root), runs)
    measures = measure(runs, lambda student, game: teacher_of(shards, runs, student, game))
    curves = learning_curves(runs, measures, output / "curves.png")
    sizes = score_against_size(measures, output / "sizes.png")
    write_csv(output / "report.csv", measures)
    seconds = [float(json.loads((Path(task.folder) / DONE).read_text())["seconds"]) for task in tasks]
    text = "\n\n".join(
        [
            "# Results",
            f"Made by\n\n```bash\n{command}\n```",
            about(settings, seconds, shards),
            report(measures).strip(),
            *filter(None, [following_table(runs).strip()]),
            f"![learning curves]({curves.name})",
            *([f"![score against size]({sizes.name})"] if sizes else []),
            f"## Differs from the paper\n\n{DIFFERENCES}",
        ]
    )
    path = output / "RESULTS.md"
    write_whole(path, text + "\n")
    return path


def duration(seconds: float) -> str:
    """In hours, or in minutes where it is not even one."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def about(settings: Settings, seconds: Sequence[float], shards: dict) -> str:
    """Seeds, episodes, updates, time and machine, and what was learned from."""
    machine = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, {platform.machine()}"
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "ale-py"))
    played = ", ".join(
        f"{game} {sum(len(shard) for shard in found):,} states ({found[0].header.teacher}, "
        f"{sum(len(shard.returns) for shard in found)} episodes)"
        for (_, game), found in sorted(shards.items())
    )
    return (
        f"{len(seconds)} runs of {settings.updates:,} updates, seeds {', '.join(map(str, settings.seeds))}, scored "
        f"over {settings.episodes} episodes under protocol paper; {duration(sum(seconds))} in all, "
        f"{min(seconds) / 60:.1f} to {max(seconds) / 60:.1f} minutes each, on {machine}; {packages}.\n\n"
        f"Learned from {played or 'live play'}."
    )
