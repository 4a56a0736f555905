"""The games that a learning teacher plays, and the returns of what it did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pd_lightning.atari import PROTOCOLS, action_meanings, build
from pd_lightning.bounds import check_at_least
from pd_lightning.episodes import TRAINING_SEEDS, Policy, episode_seeds

AT_LEAST_ONE = ("parallel", "steps", "passes", "minibatches", "rounds")
AT_LEAST_ZERO = ("epsilon_steps", "warmup", "seed")
SHARES = ("discount", "trace", "epsilon_start", "epsilon_end")
ABOVE_ZERO = ("learning_rate", "gradient_clip")


def check_learning(settings: Mapping[str, Any], prefix: str) -> None:
    """Raises a ValueError that names the first setting of a teacher that learns which makes no sense.

    Args:
        settings: those named above, or some of them; others are not looked at.
        prefix: of the options on the command line.
    """
    for least, names in (1, AT_LEAST_ONE), (0, AT_LEAST_ZERO):
        check_at_least(least, prefix, **{name: settings[name] for name in names if name in settings})
    kinds = (
        (SHARES, lambda value: 0 <= value <= 1, "from 0 to 1"),
        (ABOVE_ZERO, lambda value: 0 < value < math.inf, "above 0"),
    )
    for names, allowed, which in kinds:
        for name in names:
            if name in settings and not allowed(settings[name]):
                raise ValueError(f"{name} is {settings[name]}: choose {prefix}{name} {which}")
    if "minibatches" in settings and settings["parallel"] * settings["steps"] % settings["minibatches"]:
        played = settings["parallel"] * settings["steps"]
        raise ValueError(
            f"{settings['parallel']} games x {settings['steps']} steps do not divide into {settings['minibatches']} "
            f"minibatches: choose {prefix}minibatches that divides {played}"
        )


class Minibatch(NamedTuple):
    """What one update learns from.

    Attributes:
        states: uint8 [B, 4, 84, 84].
        actions: int64 [B].
        targets: float32 [B], what Q(state, action) should be.
    """

    states: Tensor
    actions: Tensor
    targets: Tensor


class Round(NamedTuple):
    """Some steps of all games.

    Attributes:
        learned: all of them, as one minibatch.
        returns: sums of clipped rewards of the games that ended.
        outputs: what the network thought of every action, float32 [T, n, A].
    """

    learned: Minibatch
    returns: list[float]
    outputs: Tensor


def lambda_returns(
    rewards: np.ndarray, ends: np.ndarray, values: np.ndarray, discount: float, trace: float
) -> np.ndarray:
    """Q(lambda) targets of T steps (Gallici et al., 2024, equation 14, as Peng's Q(lambda)).

    ``G[t] = r[t] + discount * (1 - end[t]) * (trace * G[t+1] + (1 - trace) * value[t+1])``, and ``value[T]`` in place
    of ``G[T]``.

    Args:
        rewards: float32 [T, n].
        ends: bool [T, n], whether the return is cut after step t: the game or a life was lost, or the limit of frames
            was reached, which counts as an end too.
        values: max over actions of Q, float32 [T + 1, n]; the last row is of the states after the last step.
        discount: of the future, per step.
        trace: lambda; 0 looks one step ahead, 1 to the end.

    Returns:
        float32 [T, n].
    """
    targets = np.empty_like(rewards)
    ahead = values[-1]
    for t in reversed(range(len(rewards))):
        mixed = trace * ahead + (1 - trace) * values[t + 1]
        ahead = targets[t] = rewards[t] + discount * np.where(ends[t], 0, mixed)
    return targets


def minibatches(learned: Minibatch, passes: int, count: int, order: np.random.Generator) -> Iterator[Minibatch]:
    """A round's steps, `passes` times over, each time shuffled anew and cut into `count` minibatches."""
    for _ in range(passes):
        for rows in np.array_split(order.permutation(len(learned.actions)), count):
            index = torch.from_numpy(rows)
            yield Minibatch(*(part.index_select(0, index) for part in learned))


def linear(first: float, last: float, steps: int, played: int) -> float:
    """What goes linearly from first to last within so many steps, after `played` of them; at once, if they are 0."""
    share = min(played / steps, 1.0) if steps else 1.0
    return first + share * (last - first)


def random_play(game: str, parallel: int, fire: bool, seed: int) -> Iterator[np.ndarray]:
    """What is seen in 100 steps of random play in many games side by side: uint8 [parallel, 84, 84] after each step."""
    env = build(game, parallel, PROTOCOLS["paper"], fire=fire)
    env.reset(seed=episode_seeds(parallel, TRAINING_SEEDS, seed))
    chance = np.random.default_rng(seed)
    for _ in range(100):
        states = env.step(chance.integers(len(action_meanings(game)), size=parallel))[0]
        yield states[:, -1]


class Games:
    """Many copies of one game, played side by side and never left.

    Args:
        game: the game, in the emulator's snake case.
        parallel: n, number of copies.
        steps: T, decisions in each game in a round.
        discount: of the future, per step.
        trace: lambda of the returns.
        fire: press FIRE for the player at a start.
        key: what seeds follow from; whole numbers, not negative.
        threads: of the emulator; 0 is one for every core.
    """

    def __init__(
        self,
        game: str,
        parallel: int,
        steps: int,
        discount: float,
        trace: float,
        fire: bool,
        key: tuple[int, ...],
        threads: int = 0,
    ) -> None:
        self.parallel, self.steps, self.discount, self.trace = parallel, steps, discount, trace
        self._env = build(game, parallel, PROTOCOLS["paper"], fire=fire, training=True, threads=threads)
        self._states, _ = self._env.reset(seed=episode_seeds(parallel, TRAINING_SEEDS, *key))
        self._dice = np.random.default_rng([TRAINING_SEEDS, *key])
        self._running = np.zeros(parallel)

    def play(self, policy: Policy, epsilon: float) -> Round:
        """Plays a round, with a share `epsilon` of random actions."""
        shape = (self.steps, self.parallel)
        seen = torch.empty((*shape, 4, 84, 84), dtype=torch.uint8)
        actions, rewards, ends = np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, bool)
        values = np.empty((self.steps + 1, self.parallel), np.float32)
        outputs: list[np.ndarray] = []
        returns: list[float] = []
        with torch.inference_mode():
            for t in range(self.steps):
                seen[t] = torch.from_numpy(self._states)
                q = policy(seen[t]).cpu().numpy()
                outputs.append(q)
                values[t] = q.max(1)
                dice = self._dice.random(self.parallel) < epsilon
                actions[t] = np.where(dice, self._dice.integers(q.shape[1], size=self.parallel), q.argmax(1))
                self._states, rewards[t], terminated, truncated, info = self._env.step(actions[t])
                ends[t] = terminated | truncated
                self._running += rewards[t]
                over = ends[t] & (info["episode_frame_number"] <= 31)  # not a life: the game's clock starts again
                returns += self._running[over].tolist()
                self._running[over] = 0
            values[-1] = policy(torch.from_numpy(self._states)).max(1).values.cpu().numpy()
        targets = lambda_returns(rewards, ends, values, self.discount, self.trace)
        flat = Minibatch(seen.flatten(0, 1), torch.from_numpy(actions.ravel()), torch.from_numpy(targets.ravel()))
        return Round(flat, returns, torch.from_numpy(np.stack(outputs)))
