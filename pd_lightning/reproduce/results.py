"""What a reproduction writes: tables, pictures, and everything that one must know to believe them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from pd_lightning.files import write_text
from pd_lightning.recorded import open_game
from pd_lightning.report.findings import Findings
from pd_lightning.report.recorded import Recordings
from pd_lightning.report.runs import Run
from pd_lightning.reproduce.plans import Settings
from pd_lightning.reproduce.tasks import DONE, Task, has_shards

PICTURES = {"curves.png": "learning curves", "sizes.png": "score against size"}
DIFFERENCES = """\
- Teachers are those named above, not the paper's DQN, and no score here uses human starts: absolute scores do not
  compare with the paper's. Shares of the teacher's do so roughly: those trained here are weight averages, which are
  steadier than a DQN and leave a student less to gain.
- Actions are the emulator's minimal sets (Pong has 6, in the paper 3).
- A run learns from the play and for the updates stated above; in the paper from 10 hours, and for longer.
- Online, the student's weights are averaged and its teacher's, beside which it is scored, are not.
- Adam with a warm-up and a linear decay, unless another optimizer is named above, instead of RMSProp; input centred by
  the recording's mean image.
- The temperature of kl is calibrated for each game (a perplexity of 2), unless one is named above; in the paper 0.01.
- With several games every batch holds every game (the paper: one game a batch), unless `--data.mixing one_game` is
  named above.
- One learning rate, batch size and perplexity are used for all games and sizes. They, and who acts in live play, were
  tuned on Pong and Breakout, partly by final scores: results on these two games are not held out.
- Runs differ in the seeds of their weights, of their data, and of the episodes they are scored in."""


def write_results(tasks: Sequence[Task], settings: Settings, command: str, left_out: Mapping[str, str]) -> Path:
    """Writes RESULTS.md, report.csv and pictures to the output folder.

    Args:
        tasks: runs that have ended.
        settings: theirs, as they were planned.
        command: that was given, as a shell takes it.
        left_out: games that could not be learned, and experiments that could not be done, and why.

    Returns:
        RESULTS.md.
    """
    output = Path(settings.output)
    found = Findings.of([Path(task.folder) for task in tasks])  # each beside the teacher that it noted itself
    pictures = [path for path in found.write(output) if path.name in PICTURES]
    seconds = [float(json.loads((Path(task.folder) / DONE).read_text())["seconds"]) for task in tasks]
    text = "\n\n".join(
        [
            "# Results",
            f"Made by\n\n```bash\n{command}\n```",
            about(found.runs, seconds, recordings_here(Path(settings.root), found.runs)),
            *(f"Left out is {game}: {reason}." for game, reason in left_out.items()),
            found.tables.strip(),
            *(f"![{PICTURES[path.name]}]({path.name})" for path in pictures),
            f"## Differs from the paper\n\n{DIFFERENCES}",
        ]
    )
    return write_text(output / "RESULTS.md", text + "\n")


def recordings_here(root: Path, runs: Sequence[Run]) -> Recordings:
    """What lies in a folder of datasets of what runs learned from: perhaps nothing any more."""
    games = {game for run in runs if not run.student.acts for game in run.student.games}
    return {(str(root), game): open_game(root / game, game, True) for game in sorted(games) if has_shards(root / game)}


def each(values: Iterable[str]) -> str:
    """All that occur, once."""
    return ", ".join(dict.fromkeys(values))


def duration(seconds: float) -> str:
    """In hours, or in minutes where it is not even one."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def about(runs: Sequence[Run], seconds: Sequence[float], shards: Recordings) -> str:
    """Seeds, episodes, updates and rules as they were played, time and machine, and what was learned from."""
    machine = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, {platform.machine()}"
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "ale-py"))
    played = ", ".join(
        f"{game} {sum(len(shard) for shard in found):,} states ({found[0].header.teacher}, "
        f"{sum(len(shard.returns) for shard in found)} episodes)"
        for (_, game), found in sorted(shards.items())
    )
    updates = each(f"{run.student.updates:,}" for run in runs)
    episodes = each(str(len(values)) for run in runs for values in run.returns.values())
    seeds, rules = each(str(run.seed) for run in runs), each(run.student.protocol for run in runs)
    many = len(runs) > 1
    each_one = f", {min(seconds) / 60:.1f} to {max(seconds) / 60:.1f} minutes each" if many else ""
    live = all(run.student.acts for run in runs)
    gone = "Learned from live play" if live else "What was recorded is not there any more"
    return (
        f"{len(runs)} run{'s' * many} of {updates} updates, seed{'s' * (',' in seeds)} {seeds}, scored over {episodes} "
        f"episode{'s' * (episodes != '1')} under protocol {rules}; {duration(sum(seconds))} in all{each_one}, on "
        f"{machine}; {packages}.\n\n"
        f"{f'Recorded, to learn from and to hold out: {played}' if played else gone}."
    )
