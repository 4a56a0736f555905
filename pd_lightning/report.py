"""Tables from the runs' own logs: `python -m pd_lightning.report lightning_logs/*`.

A run's score is its last rollout: the episodes of the highest update in `returns.csv`. Runs that differ only in the
seed are one row, and its interval is that of the mean over runs (of one run: over its episodes).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pd_lightning.blocks import ShardError
from pd_lightning.datamodule import open_game
from pd_lightning.scores import interval, percent_of_teacher


class ReportError(ValueError):
    """A folder is not a run that can be reported; the message names it and what is wrong."""


@dataclass(frozen=True)
class Run:
    """What a run's folder says.

    Attributes:
        folder: the run's.
        seed: of the weights.
        labels: size and loss (with its temperature), or class of the model where it has none.
        protocol: of its rollouts.
        updates: at the last rollout.
        returns: of its episodes, by game.
    """

    folder: Path
    seed: int
    labels: tuple[str, ...]
    protocol: str
    updates: int
    returns: dict[str, np.ndarray]


def read_run(folder: Path) -> Run:
    """Reads `config.yaml` and `returns.csv`.

    Raises:
        ReportError: one is missing or does not hold what it should.
    """
    for name in ("config.yaml", "returns.csv"):
        if not (folder / name).is_file():
            raise ReportError(f"{folder}: has no {name}; name folders of runs, such as lightning_logs/version_0")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    try:
        model, seed = config["model"], config["seed_everything"]
        settings = model.get("init_args", {})
        loss = str(settings.get("loss", model["class_path"].rsplit(".", 1)[-1]))
        labels = (str(settings["size"]), f"{loss}, τ = {settings['temperature']}" if loss == "kl" else loss)
        protocol = str(config["rollouts"]["protocol"])
        with (folder / "returns.csv").open(newline="") as file:
            rows = [(int(row["update"]), row["game"], float(row["return"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{folder}: config.yaml or returns.csv lacks or garbles {error}; leave it out") from None
    if not rows:
        raise ReportError(f"{folder}: returns.csv has no episodes; the run was stopped before its first rollout")
    last = max(row[0] for row in rows)
    returns: dict[str, list[float]] = defaultdict(list)
    for update, game, value in rows:
        if update == last:
            returns[game].append(value)
    return Run(folder, seed, labels, protocol, last, {game: np.array(values) for game, values in returns.items()})


def scores_table(runs: list[Run], teachers: dict[tuple[str, str], float]) -> str:
    """A Markdown table: a row for runs that differ only in the seed.

    Args:
        runs: in any order.
        teachers: return of each game's teacher under a protocol, where it is known.
    """
    rows: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        for game in run.returns:
            rows[game, *run.labels, run.protocol, str(run.updates)].append(run)
    lines = [
        "| game | size | loss | protocol | updates | runs x episodes | return of each run | mean ± 95% | of teacher |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (game, size, loss, protocol, updates), group in sorted(rows.items()):
        means = [run.returns[game].mean() for run in sorted(group, key=lambda run: run.seed)]
        # Runs are the independent draws (they share the episodes' seeds); a single one has only its episodes.
        low, high = interval(means if len(means) > 1 else group[0].returns[game])
        teacher = teachers.get((game, protocol), 0.0)
        share = f"{percent_of_teacher(float(np.mean(means)), teacher):.1f}%" if teacher > 0 else "-"
        episodes = "/".join(sorted({str(len(run.returns[game])) for run in group}))
        lines.append(
            f"| {game} | {size} | {loss} | {protocol} | {updates} | {len(group)} x {episodes} "
            f"| {', '.join(f'{mean:.1f}' for mean in means)} | {np.mean(means):.2f} ± {(high - low) / 2:.2f} "
            f"| {share} |"
        )
    return "\n".join(lines)


def not_only_validated(folder: Path) -> bool:
    """Whether a folder is worth reading: a run that never played has no score, and is left out with a note."""
    if folder.is_dir() and (folder / "config.yaml").is_file() and not (folder / "returns.csv").is_file():
        print(f"left out: {folder} has no returns.csv, nothing was played", file=sys.stderr)
        return False
    return True


def main() -> None:
    """`python -m pd_lightning.report RUN...`: the scores of runs as a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m pd_lightning.report", description="Scores of runs as Markdown.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, such as lightning_logs/version_0")
    parser.add_argument(
        "--root", type=Path, default=Path("datasets"), help="the datasets: teachers' returns are their episodes' means"
    )
    options = parser.parse_args()
    try:
        found = [read_run(run) for run in options.runs if not_only_validated(run)]
        games = sorted({game for run in found for game in run.returns})
        recorded = {g: open_game(options.root / g, g, allow_mixed=False) for g in games if (options.root / g).is_dir()}
    except (ReportError, ShardError) as error:
        parser.error(str(error))
    teachers = {
        (game, shards[0].header.protocol): float(np.concatenate([shard.returns for shard in shards]).mean())
        for game, shards in recorded.items()
    }
    print(scores_table(found, teachers))


if __name__ == "__main__":
    main()
