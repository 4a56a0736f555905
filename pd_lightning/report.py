"""Tables from the runs' own logs: `python -m pd_lightning.report lightning_logs/*`.

A run's score is its last rollout: the episodes of the highest update in `returns.csv`. Runs that differ only in the
seed are one row; the interval is over all episodes of a row's runs, each run's mean stands beside it.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pd_lightning.blocks import ShardError
from pd_lightning.datamodule import open_game
from pd_lightning.scores import interval


class ReportError(ValueError):
    """A folder is not a run that can be reported; the message names it and what is wrong."""


@dataclass(frozen=True)
class Run:
    """What a run's folder says.

    Attributes:
        folder: the run's.
        seed: of the weights.
        labels: size and loss, or class of the model where it has none.
        updates: at the last rollout.
        returns: of its episodes, by game.
    """

    folder: Path
    seed: int
    labels: tuple[str, ...]
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
        labels = (str(settings["size"]), str(settings.get("loss", model["class_path"].rsplit(".", 1)[-1])))
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
    return Run(folder, seed, labels, last, {game: np.array(values) for game, values in returns.items()})


def scores_table(runs: list[Run], teachers: dict[str, float]) -> str:
    """A Markdown table: a row for each game, size and loss.

    Args:
        runs: in any order.
        teachers: return of each game's teacher, where it is known.
    """
    rows: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        for game in run.returns:
            rows[game, *run.labels, str(run.updates)].append(run)
    lines = [
        "| game | size | loss | updates | runs | mean return of each run | mean ± 95% | of teacher |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (game, size, loss, updates), group in sorted(rows.items()):
        group = sorted(group, key=lambda run: run.seed)
        values = np.concatenate([run.returns[game] for run in group])
        low, high = interval(values)
        each = ", ".join(f"{run.returns[game].mean():.1f}" for run in group)
        share = f"{100 * values.mean() / teachers[game]:.1f}%" if teachers.get(game, 0) > 0 else "-"
        lines.append(
            f"| {game} | {size} | {loss} | {updates} | {len(group)} x {len(values) // len(group)} episodes | {each} "
            f"| {values.mean():.2f} ± {(high - low) / 2:.2f} | {share} |"
        )
    return "\n".join(lines)


def main() -> None:
    """`python -m pd_lightning.report RUN...`: the scores of runs as a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m pd_lightning.report", description="Scores of runs as Markdown.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, such as lightning_logs/version_0")
    parser.add_argument(
        "--root", type=Path, default=Path("datasets"), help="the datasets: teachers' returns are their episodes' means"
    )
    options = parser.parse_args()
    try:
        found = [read_run(run) for run in options.runs]
        games = sorted({game for run in found for game in run.returns})
        recorded = {g: open_game(options.root / g, g, allow_mixed=False) for g in games if (options.root / g).is_dir()}
    except (ReportError, ShardError) as error:
        parser.error(str(error))
    teachers = {g: float(np.concatenate([shard.returns for shard in shards]).mean()) for g, shards in recorded.items()}
    print(scores_table(found, teachers))


if __name__ == "__main__":
    main()
