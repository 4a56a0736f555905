"""Scores any policy: plays episodes of a game and says what came out. Knows neither Lightning nor datasets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pd_lightning.atari import Protocol, named_protocol
from pd_lightning.episodes import Policy, episode_seeds, moments
from pd_lightning.scores import interval


@dataclass(frozen=True)
class Returns:
    """Sums of unclipped rewards of whole episodes.

    Attributes:
        game: the game.
        protocol: name of the rules.
        values: return of each episode, float64 [n].
        steps: length of each episode in decisions, int64 [n].
        seeds: seed of each episode, int64 [n]; `moments` with some of them plays those again.
        fire: whether FIRE was pressed for the player.
    """

    game: str
    protocol: str
    values: np.ndarray
    steps: np.ndarray
    seeds: np.ndarray
    fire: bool = False

    @property
    def mean(self) -> float:
        """The score."""
        return float(self.values.mean())

    @property
    def std(self) -> float:
        """Standard deviation between episodes (n - 1 in the denominator; nan for one episode)."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval of the mean."""
        return interval(self.values)

    def __str__(self) -> str:
        """The score and its interval, where there is one."""
        low, high = self.interval
        spread = "one episode, no interval" if math.isnan(low) else f"95% interval {low:.1f} to {high:.1f}"
        return f"{self.mean:.1f} ({spread})"


def play(
    policy: Policy,
    game: str,
    episodes: int = 30,
    seed: int = 0,
    *,
    protocol: str | Protocol = "paper",
    parallel: int = 32,
    fire: bool | None = None,
    share: tuple[int, int] = (0, 1),
    on_episode: Callable[[float], None] | None = None,
) -> Returns:
    """Scores `policy`: plays whole episodes and returns their returns.

    Not from several threads at once: it sets torch's number of threads for the whole process while the policy thinks.

    Args:
        policy: who plays.
        game: the game, in the emulator's snake case.
        episodes: how many, over all shares.
        seed: the same seed means the same episodes, whatever `parallel` and `share` are.
        protocol: one of `pd_lightning.atari.PROTOCOLS`, or rules of one's own.
        parallel: how many games are played side by side.
        fire: press FIRE for the player at a start and after a lost life (default: for a teacher as it was trained, for
            others not).
        share: (r, n): play only every n-th episode, starting with the r-th: what one of n processes does.
        on_episode: called with the return of each episode when it ends, for progress bars.

    Returns:
        The episodes of this share, in the order of their numbers.

    >>> import torch
    >>> play(lambda states: torch.zeros(len(states), 6), "pong", episodes=1).values.shape
    (1,)
    """
    rules = protocol if isinstance(protocol, Protocol) else named_protocol(protocol)
    fire = getattr(policy, "fire", False) is True if fire is None else fire
    seeds = episode_seeds(episodes, seed)[share[0] :: share[1]]
    values, steps = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    for moment in moments(policy, game, seeds.tolist(), rules, parallel=parallel, fire=fire):
        values[moment.episodes] += moment.rewards
        steps[moment.episodes] += 1
        if on_episode:
            for value in values[moment.episodes[moment.ended]].tolist():
                on_episode(value)
    return Returns(game, rules.name, values, steps, seeds, fire)
