"""What can be set of live play, refused before anything runs if it makes no sense, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from pd_lightning.atari import check_game, named_protocol
from pd_lightning.bounds import check_at_least
from pd_lightning.live.learner import Lessons
from pd_lightning.live.replay import STATE_BYTES
from pd_lightning.machine import available_memory
from pd_lightning.pqn.games import check_learning, linear
from pd_lightning.resuming import to_python


@dataclass(frozen=True)
class LiveSettings:
    """Settings of `pd_lightning.live.LiveTeacher`, which explains them, and how many devices play."""

    games: tuple[str, ...]
    learn: bool
    beta: float
    beta_end: float
    beta_steps: int
    batch_size: int
    fresh: float
    buffer_size: int
    prefill: int
    parallel: int
    steps: int
    updates: int
    protocol: str
    seed: int
    lessons: Lessons
    devices: int = 1

    @property
    def said(self) -> str:
        """Who plays and how much is kept, in a line."""
        who = "the teacher learns, and acts" if self.learn else f"the teacher takes {self.beta:.0%} of decisions"
        if self.beta != self.beta_end:
            who += f", after {self.beta_steps:,} steps {self.beta_end:.0%}"
        return f"{who}; the newest {self.kept:,} states of {', '.join(self.games)} are kept"

    def check(self) -> None:
        """Raises a ValueError that names the first that makes no sense."""
        for game in self.games:
            check_game(game)
        named_protocol(self.protocol)
        for name in ("beta", "beta_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: choose --data.{name} from 0 (the student acts) to 1"
                )
        if self.learn and (self.beta, self.beta_end) != (1, 1):
            raise ValueError(
                f"beta is {self.beta} to {self.beta_end}, but a teacher that learns does so from what it does itself: "
                "choose --data.beta 1, or --data.learn false"
            )
        least_one = ("batch_size", "buffer_size", "prefill", "parallel", "steps", "updates")
        check_at_least(1, "--data.", **{name: getattr(self, name) for name in least_one})
        check_at_least(0, "--data.", beta_steps=self.beta_steps, seed=self.seed)
        if not 0 < self.fresh < math.inf:
            raise ValueError(
                f"fresh is {self.fresh}: choose --data.fresh above 0; 0.125 plays a state for 8 learned from"
            )
        for name in ("prefill", "batch_size"):
            if getattr(self, name) > self.buffer_size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but only the newest {self.buffer_size} states are kept: raise "
                    f"--data.buffer_size, or lower --data.{name}"
                )
        if self.learn:
            check_learning({**asdict(self.lessons), "parallel": self.parallel, "steps": self.steps}, "--data.lessons.")

    def check_room(self, device: torch.device, neighbours: int) -> None:
        """Raises a ValueError if what is kept does not fit the memory in which it is to lie.

        Args:
            device: where batches are.
            neighbours: how many of them share that memory.
        """
        kept, free = self.kept, available_memory(device)
        each = STATE_BYTES * len(self.games) * neighbours / self.devices  # bytes here for a state of the run
        if kept * each > free:
            rounds = ", two rounds," if kept > self.buffer_size else ""
            raise ValueError(
                f"buffer_size is {kept:,} states{rounds} of {len(self.games)} games: {kept * each / 2**30:.1f} GiB, "
                f"and {free / 2**30:.1f} GiB are free ({device.type}); choose --data.buffer_size of at most "
                f"{int(free / 2 / each):,}{', and fewer --data.steps' if rounds else ''}"
            )

    @property
    def capacity(self) -> int:
        """Steps of each game that a device keeps: at least two rounds, and a batch."""
        games = self.parallel * self.devices
        return max(self.buffer_size // games, 2 * self.steps, -(-self.batch_size // games))

    @property
    def kept(self) -> int:
        """States of each game that are kept, over all devices."""
        return self.capacity * self.parallel * self.devices

    @property
    def round_states(self) -> int:
        """States of each game in a round, over all devices."""
        return self.parallel * self.steps * self.devices

    @property
    def prefill_rounds(self) -> int:
        """Rounds before the first update: at least a batch."""
        states = self.round_states
        return max(self.prefill // states, -(-self.batch_size // states))

    def rounds_due(self, update: int) -> int:
        """Rounds that must be in memory for the update of that number, counted from 0."""
        return self.prefill_rounds + math.floor(update * self.batch_size * self.fresh / self.round_states)

    def beta_at(self, rounds: int) -> float:
        """Probability that the teacher acts, after so many rounds."""
        return linear(self.beta, self.beta_end, self.beta_steps, rounds * self.round_states)

    def epsilon(self, rounds: int) -> float:
        """Share of random actions of a teacher that learns, after so many rounds."""
        start, end, steps = self.lessons.epsilon_start, self.lessons.epsilon_end, self.lessons.epsilon_steps
        return linear(start, end, steps, rounds * self.round_states)

    def state_dict(self) -> dict[str, object]:
        """What a resumed run must have as it was; plain values."""
        return to_python({**asdict(self), "games": list(self.games)})
