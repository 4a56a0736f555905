"""Episodes of a game, played by any policy, decision by decision. Knows neither Lightning nor datasets.

Every episode has a seed of its own, for the emulator (number of no-ops, stickiness) and for the random actions. So an
episode does not depend on which games run beside it, or on which process plays it, and all episodes that were asked for
are played to their end: taking the first to finish would favour short ones.
"""

from __future__ import annotations

import atexit
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from torch import Tensor

from pd_lightning.atari import Lives, Protocol, build

TWO_GROUPS = 8
"""Games from which on it pays to play them in two groups: a network takes nearly as long for two as for four."""
IDLE_EMULATORS = 128
"""At most so many are kept for episodes to come, 2 MB each: one is built in the time of hundreds of steps."""
Policy = Callable[[Tensor], Tensor]
"""States uint8 [n, 4, 84, 84] on the CPU to outputs [n, A]; the greedy action is the largest output."""


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


class Emulators:
    """Lends emulators, and keeps those that come back: a reset with seeds leaves nothing of what was played before."""

    def __init__(self) -> None:
        self._idle: defaultdict[tuple, list[AtariVectorEnv]] = defaultdict(list)

    def lend(self, game: str, parallel: int, protocol: Protocol, fire: bool) -> AtariVectorEnv:
        """`parallel` copies of a game, see `build`. They must be reset, all of them, with seeds."""
        idle = self._idle[kind(game, parallel, protocol, fire)]
        return idle.pop() if idle else build(game, parallel, protocol, fire=fire)

    def take_back(self, env: AtariVectorEnv, game: str, protocol: Protocol, fire: bool) -> None:
        """Keeps emulators that nobody awaits an answer of; what lay longest is dropped, if they become too many."""
        own = kind(game, env.num_envs, protocol, fire)
        self._idle[own] = [*self._idle.pop(own, ()), env]
        for other in [other for other in self._idle if other[0] == own[0]]:
            if sum(known[2] * len(idle) for known, idle in self._idle.items()) > IDLE_EMULATORS:
                del self._idle[other]

    def clear(self) -> None:
        """Drops all of this process: an interpreter that ends with some in its hands complains of leaks."""
        for mine in [known for known in self._idle if known[0] == os.getpid()]:
            del self._idle[mine]


def kind(game: str, parallel: int, protocol: Protocol, fire: bool) -> tuple:
    """What emulators have in common that can play for each other."""
    # A process that was forked has its parent's emulators without their threads: it builds its own.
    return os.getpid(), game, parallel, protocol.noop_max, protocol.frame_limit, protocol.sticky, fire


EMULATORS = Emulators()
atexit.register(EMULATORS.clear)


class Group:
    """Games that are played side by side: the network thinks about them while the emulator plays another group's.

    Args:
        game: the game.
        places: number and seed of the first episode of each.
        protocol: the rules, share of random actions included.
        fire: press FIRE for the player at a start and after a lost life.
    """

    def __init__(self, game: str, places: Sequence[tuple[int, int]], protocol: Protocol, fire: bool) -> None:
        self._game, self._protocol, self._fire = game, protocol, fire
        self._env = EMULATORS.lend(game, len(places), protocol, fire)
        self._lives = Lives(game, len(places)) if fire else None
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
            if self._chance[place].random() < self._protocol.epsilon:
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
        seeds = []
        for place in np.flatnonzero(self._ended & (self._episodes >= 0)):
            self._episodes[place], seed = next(queue, (-1, 0))
            if self._episodes[place] >= 0:
                self._chance[place] = np.random.default_rng(seed)
                seeds.append(seed)
        if seeds:
            begin = {"reset_mask": self._ended & (self._episodes >= 0)}
            self._states, self._info = self._env.reset(seed=np.array(seeds), options=begin)

    def leave(self) -> None:
        """Gives the emulators back, when nobody plays any more."""
        EMULATORS.take_back(self._env, self._game, self._protocol, self._fire)


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
                group.leave()
