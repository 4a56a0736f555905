"""Folders of runs as `fit` leaves them, and the tables that a report makes of them."""

import itertools

import numpy as np
import yaml

from pd_lightning.report import measure, read_run
from pd_lightning.report.__main__ import main

numbers = itertools.count()


def write_run(root, episodes, *, seed=0, updates=(0, 100), protocol="paper", more=None, data=None, **model):
    """A run's folder; `episodes` are each game's returns at the last of the updates, those before have -21."""
    folder = root / f"version_{next(numbers)}"
    folder.mkdir(parents=True)
    settings = {"size": "net1", "loss": "kl", "temperature": 0.01, "learning_rate": 0.003, **model}
    module = {"class_path": "pd_lightning.distillation.PolicyDistillation", "init_args": settings}
    config = {"seed_everything": seed, "model": module, "rollouts": {"protocol": protocol, "fire": None},
              "data": {"init_args": {"batch_size": 256, **(data or {})}}, **(more or {})}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = ["update,game,episode,return,steps,seed"]
    for update in updates:
        for game, values in episodes.items():
            values = values if update == updates[-1] else [-21.0] * len(values)
            lines += [f"{update},{game},{i},{value},900,{i}" for i, value in enumerate(values)]
    (folder / "returns.csv").write_text("\n".join(lines) + "\n")
    return folder


TEACHERS = {"pong": [18.0, 20.0, 19.0], "breakout": [300.0, 400.0], "freeway": [28.0, 30.0]}


def measured(*folders):
    return measure([read_run(folder) for folder in folders], lambda student, game: np.array(TEACHERS[game]))


def table(text, title):
    """The rows of the table below a heading, as lists of cells."""
    part = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:2] == "| "]


def run_main(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["report", *map(str, words)])
    return main()


def add_teacher(folder, curves):
    """What a run with a live teacher leaves beside its own returns."""
    lines = ["update,game,episode,return,steps,seed"]
    for game, points in curves.items():
        lines += [f"{u},{game},{i},{v},900,{i}" for u, values in points.items() for i, v in enumerate(values)]
    (folder / "teacher_returns.csv").write_text("\n".join(lines) + "\n")
    return folder
