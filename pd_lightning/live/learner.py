"""A teacher that goes on learning, by PQN, while a student follows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed

from pd_lightning.agent import adam
from pd_lightning.episodes import LIVE_SEEDS, Policy, policy_of
from pd_lightning.live.play import Played
from pd_lightning.networks import QNetwork
from pd_lightning.pqn.games import Games, Minibatch, minibatches
from pd_lightning.pqn.learning import falling_share, squared_error


@dataclass(frozen=True)
class Lessons:
    """How a teacher learns; the values are those of `pd_lightning.pqn`.

    Attributes:
        passes: how often each round's steps are learned from.
        minibatches: updates per pass; parallel * steps must be a multiple of it.
        discount: of the future, per step.
        trace: lambda of the returns, 0 to 1.
        epsilon_start: share of random actions at first.
        epsilon_end: share of random actions in the end.
        epsilon_steps: decisions, over all games and devices, in which it falls linearly from first to last.
        learning_rate: from which Adam's falls linearly to zero at the end of the run.
        warmup: updates over which it rises linearly to what it has fallen to meanwhile.
        gradient_clip: the largest norm of a gradient.
    """

    passes: int = 2
    minibatches: int = 8
    discount: float = 0.99
    trace: float = 0.65
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_steps: int = 250_000
    learning_rate: float = 2.5e-4
    warmup: int = 2000
    gradient_clip: float = 10.0


class Learner:
    """Its network, its optimizer, and how far it is.

    Args:
        game: which it learns.
        actions: number of its actions.
        lessons: how.
        rounds: of the whole run, for the learning rate to fall over.
        seed: of its weights.
        device: where it learns.
    """

    def __init__(
        self, game: str, actions: int, lessons: Lessons, rounds: int, seed: int, device: torch.device | str
    ) -> None:
        self.game, self.actions, self.lessons = game, actions, lessons
        with torch.random.fork_rng(devices=[]):  # the student's weights do not depend on whether a teacher is made
            torch.manual_seed(seed)
            self.network = QNetwork({game: actions}, "dqn", layer_norm=True)
        self.network.to(device)
        total = max(rounds, 1) * lessons.passes * lessons.minibatches
        self.optimizer = adam(self.network.parameters(), lessons.learning_rate)
        share = partial(falling_share, warmup=lessons.warmup, total=total)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, share)

    def policy(self, context: Callable[[], AbstractContextManager]) -> Policy:
        """Its Q-values, float32 [B, A], in the precision of a context."""
        return policy_of(self.network, self.game, context)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and learning rate."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As it was saved."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


class LearningPlayer:
    """Plays a round with what it knows, then learns from it.

    Args:
        learner: who.
        parallel: n, games side by side.
        steps: T, decisions in a round.
        fire: press FIRE for the player at a start.
        key: what seeds follow from.
        threads: of the emulator; 0 is one for every core.
        context: of the precision in which it plays and learns.
        group: of processes whose teachers are one; each plays its own games.
    """

    def __init__(
        self,
        learner: Learner,
        parallel: int,
        steps: int,
        fire: bool,
        key: tuple[int, ...],
        threads: int,
        context: Callable[[], AbstractContextManager],
        group: Any = None,
    ) -> None:
        self.learner, self.group, self.context = learner, group, context
        lessons = learner.lessons
        self._games = Games(
            learner.game, parallel, steps, lessons.discount, lessons.trace, fire, (LIVE_SEEDS, *key), threads
        )
        self._order = np.random.default_rng([LIVE_SEEDS, *key, 1])
        self.epsilon = lessons.epsilon_start

    def play(self, student: Policy | None, teacher_share: float) -> Played:
        """See `Player`; the teacher always acts, since it learns from what it does."""
        policy = self.learner.policy(self.context)
        played = self._games.play(policy, self.epsilon)
        lessons, shape = self.learner.lessons, (self._games.steps, self._games.parallel)
        for batch in minibatches(played.learned, lessons.passes, lessons.minibatches, self._order):
            self._update(batch)
        return Played(played.learned.states.unflatten(0, shape), played.outputs)

    def _update(self, batch: Minibatch) -> None:
        """One step of the optimizer, on gradients that are averaged over the group."""
        network = self.learner.network
        device = next(network.parameters()).device
        batch = Minibatch(*(part.to(device) for part in batch))
        with torch.enable_grad():
            with self.context():
                loss = squared_error(network, batch)
            self.learner.optimizer.zero_grad()
            loss.backward()
        if self.group is not None:
            for parameter in network.parameters():
                assert parameter.grad is not None
                torch.distributed.all_reduce(parameter.grad, group=self.group)
                parameter.grad /= torch.distributed.get_world_size(self.group)
        torch.nn.utils.clip_grad_norm_(network.parameters(), self.learner.lessons.gradient_clip)
        self.learner.optimizer.step()
        self.learner.schedule.step()
