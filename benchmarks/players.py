"""Everybody who plays: each function is one measurement, in a process of its own, and returns steps a second."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import pytorch_lightning as pl
import torch

from pd_lightning.atari import PROTOCOLS, action_meanings, build
from pd_lightning.blocks import Header
from pd_lightning.machine import fastest_precision, keep_freed_memory
from pd_lightning.pqn import PQN, ParallelPlay
from pd_lightning.recording import header_of, record_shard
from pd_lightning.teacher import load_teacher

WARM_UP = 500
"""Steps before the clock starts, of whoever plays."""


def emulator(game: str, parallel: int, steps: int, root: str) -> float:
    """The emulator alone: all games on all cores, random actions, nothing looked at and nothing kept."""
    env = build(game, parallel, PROTOCOLS["paper"])
    env.reset(seed=np.arange(parallel))
    actions = np.random.default_rng(0).integers(len(action_meanings(game)), size=(64, parallel))
    for turn in range(-WARM_UP // parallel, steps // parallel):
        if turn == 0:
            began = time.perf_counter()
        env.step(actions[turn % 64])
    return steps // parallel * parallel / (time.perf_counter() - began)  # pyright: ignore[reportPossiblyUnbound]


def recording(game: str, parallel: int, steps: int, root: str) -> float:
    """What `python -m pd_lightning.recording` does: network, emulator, packing, checksums, file."""
    keep_freed_memory()
    teacher = load_teacher(Path(root) / game / "teacher.safetensors", game)
    header: Header = replace(header_of(teacher, PROTOCOLS["paper"], parallel), steps_goal=steps)
    began, before = 0.0, 0

    def count(played: int) -> None:
        nonlocal began, before
        if not began:  # as for the emulator alone: not while emulators are built
            before += played
            began = time.perf_counter() if before >= WARM_UP else 0.0

    with tempfile.TemporaryDirectory() as folder:
        shard = record_shard(teacher, Path(folder) / "0000.h5", header, count)
        return (len(shard) - before) / (time.perf_counter() - began)


def baselines_dqn(game: str, parallel: int, **settings: Any) -> Any:
    """Stable-Baselines3's DQN with the settings that RL Zoo has for Atari."""
    import cv2  # noqa: F401 (if it is missing, its wrappers fail without naming it) # pyright: ignore
    import gymnasium
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    name = "".join(word.capitalize() for word in game.split("_")) + "NoFrameskip-v4"
    env = VecFrameStack(make_atari_env(name, n_envs=parallel, seed=0), n_stack=4)
    zoo = {"buffer_size": 10_000, "learning_rate": 1e-4, "batch_size": 32, "learning_starts": WARM_UP,
           "target_update_interval": 1000, "train_freq": 4, "gradient_steps": 1, "exploration_fraction": 0.1,
           "exploration_final_eps": 0.01}  # fmt: skip
    return DQN("CnnPolicy", env, device="cpu", seed=0, **{**zoo, **settings})


def timed_learning(model: Any, steps: int) -> float:
    """Steps a second of `learn`, from the end of the warm-up on."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        began, ended, counted = 0.0, 0.0, 0

        def _on_step(self) -> bool:
            if self.num_timesteps >= 2 * WARM_UP and not self.began:
                self.began, self.counted = time.perf_counter(), self.num_timesteps
            self.ended = time.perf_counter()
            return self.num_timesteps < 2 * WARM_UP + steps  # within a rollout too

    clock = Clock()
    model.learn(2 * WARM_UP + steps, callback=clock)
    return (clock.num_timesteps - clock.counted) / (clock.ended - clock.began)


def baselines_rollout(game: str, parallel: int, steps: int, root: str) -> float:
    """Stable-Baselines3's own rollout loop: its network acts, its buffer keeps the states, nothing is learned."""
    never = {"learning_starts": 0, "exploration_initial_eps": 0.05, "exploration_final_eps": 0.05,
             "train_freq": 10**6}  # fmt: skip
    return timed_learning(baselines_dqn(game, parallel, **never), steps)


def baselines_training(game: str, parallel: int, steps: int, root: str) -> float:
    """Stable-Baselines3's DQN while it learns: one game, an update every four steps."""
    return timed_learning(baselines_dqn(game, 1), steps)


def pqn_training(game: str, parallel: int, steps: int, root: str) -> float:
    """The `teacher` preset's PQN while it learns, without scores, checkpoints and logs on disk."""
    keep_freed_memory()
    data = ParallelPlay(game)
    module = PQN(data.actions, "dqn", 2.5e-4)
    per_update = data.steps_after(len(data)) // len(data)
    warm, updates = 4 * len(data) // data.rounds, -(-steps // per_update)

    class Clock(pl.Callback):
        began = ended = 0.0

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == warm:
                self.began = time.perf_counter()
            self.ended = time.perf_counter()

    precision: Any = fastest_precision("auto")  # as `train.py` chooses it
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=warm + updates, precision=precision, gradient_clip_val=10.0,
        callbacks=[clock], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return updates * per_update / (clock.ended - clock.began)


Player = Callable[[str, int, int, str], float]
"""(game, parallel games, steps, root of the datasets) to steps a second."""


def measure(player: Player, threads: int, *arguments: Any) -> float:
    """One measurement, with so many threads of torch."""
    torch.set_num_threads(threads)
    return player(*arguments)
