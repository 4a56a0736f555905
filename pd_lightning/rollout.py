"""Plays episodes of a game with any policy and says what came out. Knows neither Lightning nor datasets.

Every episode has a seed of its own, for the emulator (number of no-ops, stickiness) and for the random actions. So an
episode does not depend on which games run beside it, or on which process plays it, and all episodes that were asked for
are played to their end: taking the first to finish would favour short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pd_lightning.atari import Lives, Protocol, build, named_protocol
from pd_lightning.scores import interval

TWO_GROUPS = 8
"""Games from which on it pays to play them in two groups: a network takes nearly as long for two as for four."""
Policy = Callable[[Tensor], Tensor]
"""States uint8 [n, 4, 84, 84] on the CPU to outputs [n, A]; the greedy action is the largest output."""


def policy_of(network: nn.Module, game: str, context: Callable[[], AbstractContextManager]) -> Policy:
    """What a network of several games says of one of them, on its device, in the precision of a context."""

    def act(states: Tensor) -> Tensor:
        with context():
            return network({game: states.to(next(network.parameters()).device)})[game]

    return act


class Moment(NamedTuple):
    """One decision in each of n games that are being played.

    Attributes:
        states: what the player saw, uint8 [n, 4, 84, 84].
        outputs: what the policy thought of it, float32 [n, A].
        actions: what was done, random actions included, int64 [n].
        rewards: what followed at once, unclipped, float32 [n].
        ended: whether the episode ended with this step, bool [n].
        episodes: which of the episodes asked for each row belongs to, counted from 0, int64 [n].
    """

    states: np.ndarray
    outputs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ended: np.ndarray
    episodes: np.ndarray


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


def episode_seeds(count: int, *key: int) -> np.ndarray:
    """`count` seeds that follow from `key` (whole numbers, not negative), int64 [count].

    Different keys give unrelated seeds, so recording, scoring and training never share an episode by accident.
    """
    words = (len(key), *key)  # numpy fills short keys up with zeros: without their length (1,) and (1, 0) are the same
    return np.random.SeedSequence(words).generate_state(count).astype(np.int64) >> 1  # the emulator takes 31 bits


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for what torch does on the CPU meanwhile.

    A few dozen states are little to share out, and torch's threads wait by spinning, in the time that the emulator's
    own threads would play in: alone they are five times faster on two cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Group:
    """Games that are played side by side: the network thinks about them while the emulator plays another group's.

    Args:
        game: the game.
        places: number and seed of the first episode of each.
        protocol: the rules, share of random actions included.
        fire: press FIRE for the player at a start and after a lost life.
    """

    def __init__(self, game: str, places: Sequence[tuple[int, int]], protocol: Protocol, fire: bool) -> None:
        self._env = build(game, len(places), protocol, fire=fire)
        self._lives = Lives(game, len(places)) if fire else None
        self._epsilon = protocol.epsilon
        self._episodes = np.array([episode for episode, _ in places])  # -1: nobody plays there any more
        self._chance = [np.random.default_rng(seed) for _, seed in places]
        self._actions = np.zeros(len(places), np.int64)
        self._states, self._info = self._env.reset(seed=np.array([seed for _, seed in places]))

    @property
    def playing(self) -> np.ndarray:
        """The places at which somebody plays."""
        return np.flatnonzero(self._episodes >= 0)

    def decide(self, policy: Policy) -> None:
        """Chooses actions and hands them to the emulator, which goes on by itself."""
        self._seen = self._states[self.playing]
        with one_thread(), torch.inference_mode():
            self._outputs = policy(torch.from_numpy(self._seen)).float().cpu().numpy()
        self._actions[self.playing] = self._outputs.argmax(1)
        for place in self.playing:
            if self._chance[place].random() < self._epsilon:
                self._actions[place] = self._chance[place].integers(self._outputs.shape[1])
        self._done = self._actions if self._lives is None else self._lives.press(self._actions, self._info["lives"])
        self._env.send(self._done)

    def arrive(self) -> Moment:
        """Waits for what the emulator makes of the actions."""
        self._states, rewards, terminated, truncated, self._info = self._env.recv()
        self._ended = terminated | truncated
        mine = self.playing
        return Moment(
            self._seen, self._outputs, self._done[mine], rewards[mine].astype(np.float32), self._ended[mine],
            self._episodes[mine],
        )  # fmt: skip

    def begin_again(self, queue: Iterator[tuple[int, int]]) -> None:
        """Begins the next episodes of a queue where one has ended."""
        for place in self.playing[self._ended[self.playing]]:
            self._episodes[place], seed = next(queue, (-1, 0))
            if self._episodes[place] >= 0:
                self._chance[place] = np.random.default_rng(seed)
                mask = np.arange(len(self._episodes)) == place
                self._states, self._info = self._env.reset(seed=np.array([seed]), options={"reset_mask": mask})


def moments(
    policy: Policy, game: str, seeds: Iterable[int], protocol: Protocol, *, parallel: int = 32, fire: bool = False
) -> Iterator[Moment]:
    """Plays one episode for each seed, several at a time, and yields every decision.

    Many games are in two groups that take turns: while the network thinks about one, the emulator plays the other.

    Args:
        policy: who plays.
        game: the game.
        seeds: one for each episode, taken when a place becomes free; a generator may end when enough was played.
        protocol: the rules, share of random actions included.
        parallel: how many games are played side by side.
        fire: press FIRE for the player at a start and after a lost life.

    Raises:
        ValueError: `parallel` is less than 1.
    """
    if parallel < 1:
        raise ValueError(f"parallel is {parallel}: at least one game is needed to play")
    queue = enumerate(seeds)
    first = list(islice(queue, parallel))
    half = -(-len(first) // 2) if len(first) >= TWO_GROUPS else len(first)
    groups = [Group(game, places, protocol, fire) for places in (first[:half], first[half:]) if places]
    for group in groups:
        group.decide(policy)
    while groups:
        for group in list(groups):
            yield group.arrive()
            group.begin_again(queue)
            if group.playing.size:
                group.decide(policy)
            else:
                groups.remove(group)


def play(
    policy: Policy,
    game: str,
    episodes: int = 30,
    seed: int = 0,
    *,
    protocol: str | Protocol = "paper",
    parallel: int = 32,
    fire: bool = False,
    share: tuple[int, int] = (0, 1),
    on_episode: Callable[[float], None] | None = None,
) -> Returns:
    """Scores `policy`: plays whole episodes and returns their returns.

    Args:
        policy: who plays.
        game: the game, in the emulator's snake case.
        episodes: how many, over all shares.
        seed: the same seed means the same episodes, whatever `parallel` and `share` are.
        protocol: one of `pd_lightning.atari.PROTOCOLS`, or rules of one's own.
        parallel: how many games are played side by side.
        fire: press FIRE for the player at a start and after a lost life.
        share: (r, n): play only every n-th episode, starting with the r-th: what one of n processes does.
        on_episode: called with the return of each episode when it ends, for progress bars.

    Returns:
        The episodes of this share, in the order of their numbers.

    >>> play(lambda states: torch.zeros(len(states), 6), "pong", episodes=2, parallel=2).values.shape
    (2,)
    """
    rules = protocol if isinstance(protocol, Protocol) else named_protocol(protocol)
    seeds = episode_seeds(episodes, seed)[share[0] :: share[1]]
    values, steps = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    for moment in moments(policy, game, seeds.tolist(), rules, parallel=parallel, fire=fire):
        values[moment.episodes] += moment.rewards
        steps[moment.episodes] += 1
        if on_episode:
            for value in values[moment.episodes[moment.ended]].tolist():
                on_episode(value)
    return Returns(game, rules.name, values, steps, seeds, fire)
