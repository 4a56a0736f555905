"""Episodes of a game, played by any policy, decision by decision. Knows neither Lightning nor datasets.

Every episode has a seed of its own, for the emulator (number of no-ops, stickiness) and for the random actions. So an
episode does not depend on which games run beside it, or on which process plays it, and all episodes that were asked for
are played to their end: taking the first to finish would favour short ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pd_lightning.atari import STACK, Lives, Protocol, action_meanings
from pd_lightning.emulators import EMULATORS

TWO_GROUPS = 8
"""Games from which on it pays to play them in two groups: a network takes nearly as long for two as for four."""
TOGETHER = 2
"""Emulators that are one vector. It steps all of its games until none is needed any more, so small vectors waste fewer
steps when games end one by one; a vector for each would cost a tenth of the time."""
TRAINING_SEEDS, FIT_SEEDS, TEST_SEEDS, RECORDING_SEEDS, TRYOUT_SEEDS, SCORE_SEEDS, LIVE_SEEDS = range(1, 8)
"""First parts of the keys of `episode_seeds`, by what is played for: so nobody is scored in games that were learned
from, recorded, or looked at during fit."""
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
        self._game, self._protocol, self._fire = game, protocol, fire
        self._count = len(action_meanings(game))
        self._episodes = np.array([episode for episode, _ in places])  # -1: nobody plays there any more
        self.playing = np.arange(len(places))  # the places at which somebody does
        self._chance = [np.random.default_rng(seed) for _, seed in places]
        self._lives = Lives(game, len(places)) if fire else None
        self._left = np.zeros(len(places), np.int64)
        self._actions = np.zeros(len(places), np.int64)
        self._rewards = np.zeros(len(places), np.float32)
        self._ended = np.zeros(len(places), bool)
        self._states = np.empty((len(places), STACK, 84, 84), np.uint8)
        shares = [slice(low, min(low + TOGETHER, len(places))) for low in range(0, len(places), TOGETHER)]
        self._vectors = [(EMULATORS.lend(game, len(self._states[share]), protocol, fire), share) for share in shares]
        seeds = np.array([seed for _, seed in places])
        with ThreadPoolExecutor(len(shares)) as threads:  # a reset with a seed loads the game anew: 0.1 to 0.2 s
            resets = threads.map(lambda each: each[0].reset(seed=seeds[each[1]]), self._vectors)
            for share, (states, info) in zip(shares, resets, strict=True):
                self._see(share, states, info)

    def _see(self, share: slice, states: np.ndarray, info: dict) -> None:
        self._states[share], self._left[share] = states, info["lives"]

    def decide(self, policy: Policy) -> None:
        """Chooses actions and hands them to the emulators, which go on by themselves."""
        self._seen = self._states[self.playing]
        with one_thread(), torch.inference_mode():
            outputs = policy(torch.from_numpy(self._seen))
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"{self._game}: the player's outputs are a {type(outputs).__name__}, allowed is a tensor; a module "
                f"plays by module.policies()[{self._game!r}]"
            )
        self._outputs = outputs.float().cpu().numpy()
        allowed = len(self.playing), self._count
        if self._outputs.shape != allowed or not np.isfinite(self._outputs).all():
            kind = "not all finite" if self._outputs.shape == allowed else f"of shape {list(self._outputs.shape)}"
            raise ValueError(
                f"{self._game}: the player's outputs are {kind}, allowed are finite numbers [{allowed[0]} states, "
                f"{allowed[1]} actions], one for each action of the game's minimal set"
            )
        self._actions[self.playing] = self._outputs.argmax(1)
        for place in self.playing.tolist():
            if self._chance[place].random() < self._protocol.epsilon:
                self._actions[place] = self._chance[place].integers(self._outputs.shape[1])
        if self._lives is not None:
            self._actions = self._lives.press(self._actions, self._left)
        for env, share in self._vectors:
            env.send(self._actions[share])

    def arrive(self) -> Moment:
        """Waits for what the emulators make of the actions."""
        for env, share in self._vectors:
            states, self._rewards[share], terminated, truncated, info = env.recv()
            self._see(share, states, info)
            self._ended[share] = terminated | truncated
        mine = self.playing
        return Moment(
            self._seen, self._outputs, self._actions[mine], self._rewards[mine], self._ended[mine], self._episodes[mine]
        )

    def begin_again(self, queue: Iterator[tuple[int, int]]) -> None:
        """Begins the next episodes of a queue where one has ended; emulators that nobody plays at are given back."""
        self._ended &= self._episodes >= 0
        if not self._ended.any():
            return
        seeds = np.zeros(len(self._episodes), np.int64)
        for place in np.flatnonzero(self._ended):
            self._episodes[place], seeds[place] = next(queue, (-1, 0))
            self._chance[place] = np.random.default_rng(seeds[place])
        begins = self._ended & (self._episodes >= 0)
        if self._lives is not None:
            self._lives.begin(begins)
        for env, share in list(self._vectors):
            if begins[share].any():
                self._see(share, *env.reset(seed=seeds[share][begins[share]], options={"reset_mask": begins[share]}))
            elif (self._episodes[share] < 0).all():
                EMULATORS.take_back(env, self._game, self._protocol, self._fire)
                self._vectors.remove((env, share))
        self.playing = np.flatnonzero(self._episodes >= 0)


def numbered(seeds: Iterable[int | None]) -> Iterator[tuple[int, int]]:
    """Number and seed of each episode; -1 where a place is to stay empty."""
    numbers = itertools.count()
    return ((-1, 0) if seed is None else (next(numbers), seed) for seed in seeds)


def moments(
    policy: Policy,
    game: str,
    seeds: Iterable[int | None],
    protocol: Protocol,
    *,
    parallel: int = 32,
    fire: bool = False,
) -> Iterator[Moment]:
    """Plays one episode for each seed, several at a time, and yields every decision.

    Many games are in two groups that take turns: while the network thinks about one, the emulator plays the other.

    Args:
        policy: who plays.
        game: the game.
        seeds: one for each episode, taken when a place becomes free; None leaves that place empty.
        protocol: the rules, share of random actions included.
        parallel: how many games are played side by side.
        fire: press FIRE for the player at a start and after a lost life.

    Raises:
        ValueError: `parallel` is less than 1.
    """
    if parallel < 1:
        raise ValueError(f"parallel is {parallel}: at least one game is needed to play")
    queue = numbered(seeds)
    first = [place for place in itertools.islice(queue, parallel) if place[0] >= 0]
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
