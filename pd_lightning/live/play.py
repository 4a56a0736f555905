"""Live play of one game: who acts, and whether the teacher learns from it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pd_lightning.atari import Lives, build
from pd_lightning.atari import Protocol as Rules
from pd_lightning.episodes import LIVE_SEEDS, Policy, episode_seeds
from pd_lightning.teacher import Teacher

NOTHING = np.empty(0)


class Played(NamedTuple):
    """T steps of n games.

    Attributes:
        states: uint8 [T, n, 4, 84, 84].
        q: what the teacher thought of them, float32 [T, n, A].
        actions: what was done, int64 [T, n]. It and what follows are for recorders: empty where the teacher learns, as
            that is not recorded.
        rewards: what followed at once, unclipped, float32 [T, n].
        ended: whether the episode ended with this step, bool [T, n].
    """

    states: Tensor
    q: Tensor
    actions: np.ndarray = NOTHING
    rewards: np.ndarray = NOTHING
    ended: np.ndarray = NOTHING


class Player(Protocol):
    """Who plays a game, round after round."""

    def play(self, student: Policy | None, teacher_share: float) -> Played:
        """A round.

        Args:
            student: who acts where the teacher does not; may be None if it always does.
            teacher_share: probability that the teacher acts, each decision by itself.
        """
        ...


class FrozenPlayer:
    """A teacher that does not learn says what it thinks; it, or the student, acts.

    Args:
        teacher: who is asked.
        parallel: n, games side by side.
        steps: T, decisions in a round.
        rules: of play, share of random actions included.
        fire: press FIRE for the player at a start and after a lost life.
        key: what seeds follow from.
        threads: of the emulator; 0 is one for every core.
    """

    def __init__(
        self, teacher: Teacher, parallel: int, steps: int, rules: Rules, fire: bool, key: tuple[int, ...], threads: int
    ) -> None:
        self.teacher, self.parallel, self.steps, self._epsilon = teacher, parallel, steps, rules.epsilon
        self._env = build(teacher.game, parallel, rules, fire=fire, threads=threads)
        self._states, self._info = self._env.reset(seed=episode_seeds(parallel, LIVE_SEEDS, *key))
        self._lives = Lives(teacher.game, parallel) if fire else None
        self._chance = np.random.default_rng([LIVE_SEEDS, *key])

    def play(self, student: Policy | None, teacher_share: float) -> Played:
        """See `Player`."""
        shape = (self.steps, self.parallel)
        states = torch.empty((*shape, 4, 84, 84), dtype=torch.uint8)
        # Lightning makes the type of true bfloat16 the usual one, of all threads, while the student learns.
        q = torch.empty((*shape, self.teacher.actions), dtype=torch.float32)
        actions, rewards, ended = np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, bool)
        with torch.inference_mode():
            for t in range(self.steps):
                states[t] = torch.from_numpy(self._states)
                q[t] = self.teacher(states[t])
                best = q[t].argmax(1).numpy()
                if student is not None and teacher_share < 1:
                    own = student(states[t]).float().argmax(1).cpu().numpy()
                    best = np.where(self._chance.random(self.parallel) < teacher_share, best, own)
                random = self._chance.integers(self.teacher.actions, size=self.parallel)
                actions[t] = np.where(self._chance.random(self.parallel) < self._epsilon, random, best)
                if self._lives is not None:
                    actions[t] = self._lives.press(actions[t], self._info["lives"])
                self._states, rewards[t], terminated, truncated, self._info = self._env.step(actions[t])
                ended[t] = terminated | truncated
                if self._lives is not None:
                    self._lives.begin(ended[t])
        return Played(states, q, actions, rewards, ended)
