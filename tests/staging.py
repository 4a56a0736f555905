"""What tests of live play set up: settings, data, students and runs of a few updates."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from conftest import quiet_trainer, tiny_network

from pd_lightning.atari import Protocol
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.live import Lessons, LiveTeacher
from pd_lightning.live.settings import LiveSettings
from pd_lightning.teacher import Teacher

SHORT = Protocol("short", epsilon=0.0, frame_limit=200)  # episodes of 50 steps


def teacher_of(game="pong", seed=0):
    return Teacher(tiny_network(game, seed), game)


def live_settings(**other):
    values = {
        "games": ("pong",), "learn": False, "beta": 1.0, "beta_end": 1.0, "beta_steps": 0, "batch_size": 32,
        "fresh": 0.25, "buffer_size": 400, "prefill": 80, "parallel": 4, "steps": 10, "updates": 100,
        "protocol": "paper", "seed": 0, "lessons": Lessons(),
    }  # fmt: skip
    return LiveSettings(**{**values, **other})


def live(teachers, **other):
    options = {
        "batch_size": 16,
        "fresh": 0.5,
        "buffer_size": 200,
        "prefill": 40,
        "parallel": 4,
        "steps": 5,
        "updates": 100,
    }
    if not other.get("learn"):
        options["teachers"] = {game: str(teachers[game]) for game in other.get("games", ["pong"])}
    return LiveTeacher(**{**options, **other})


def collector_of(data):
    assert data.collector is not None
    return data.collector


def student(data, **other):
    torch.manual_seed(0)
    usual = {"warmup": 2, "temperature": 0.01}
    return PolicyDistillation(data.actions, "net3", **{**usual, **other})


def run(data, updates=8, module=None, **options):
    module = module or student(data)
    quiet_trainer(max_epochs=-1, max_steps=updates, log_every_n_steps=1, **options).fit(module, datamodule=data)
    return module


LEARNING = {"learn": True, "parallel": 4, "steps": 8, "lessons": Lessons(minibatches=2, warmup=2)}


WAYS = {
    "the teacher acts": {},
    "the student acts": {"beta": 0.0},
    "both act": {"beta_end": 0.0, "beta_steps": 200},
    "the teacher learns": LEARNING,
    "two games": {"games": ["pong", "breakout"], "beta": 0.5},
}


SCORE: Any = {"pong": SimpleNamespace(values=np.array([2.0, 4.0]), protocol="paper", fire=False)}
