"""One shard: what its header says is played, and written in blocks."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import ale_py
import numpy as np

from pd_lightning import __version__
from pd_lightning.atari import FRAME_SKIP, STEPS_PER_HOUR, Protocol, action_meanings
from pd_lightning.blocks import BLOCK, STACK, Header, Shard, ShardError, ShardWriter
from pd_lightning.episodes import RECORDING_SEEDS, Moment, episode_seeds, moments
from pd_lightning.teacher import Teacher


def header_of(teacher: Teacher, rules: Protocol, parallel: int, seed: int = 0, fire: bool = False) -> Header:
    """What is known of a recording before it begins; number and length of the shard are yet to be said.

    Args:
        teacher: who plays.
        rules: of play.
        parallel: games played side by side.
        seed: of the episodes.
        fire: press FIRE for the teacher at a start and after each lost life.
    """
    return Header(
        game=teacher.game,
        action_meanings=action_meanings(teacher.game),
        protocol=rules.name,
        frame_skip=FRAME_SKIP,
        max_pool=True,
        stack=STACK,
        noop_max=rules.noop_max,
        fire=fire,
        sticky=rules.sticky,
        epsilon=rules.epsilon,
        frame_limit=rules.frame_limit,
        seed=seed,
        shard=0,
        parallel_games=parallel,
        steps_goal=0,
        versions={"pd_lightning": __version__, "ale_py": ale_py.__version__},
        teacher=teacher.name,
        teacher_sha256=teacher.sha256,
        outputs=teacher.outputs,
    )


class OpenBlock:
    """The newest steps of an episode, until they make a block."""

    def __init__(self) -> None:
        self._steps: list[tuple[np.ndarray, np.ndarray, int, float]] = []

    def add(self, state: np.ndarray, q_values: np.ndarray, action: int, reward: float) -> bool:
        """Takes a step; whether the block is full now."""
        # A block's first step brings all 4 frames of its state, the others only their newest.
        self._steps.append((state[-1:] if self._steps else state, q_values, action, reward))
        return len(self._steps) == BLOCK

    def close(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Frames, Q-values, actions and rewards, as `ShardWriter.add` takes them; what comes next is another block."""
        frames, q_values, actions, rewards = zip(*self._steps, strict=True)
        self._steps = []
        return (
            np.concatenate(frames),
            np.stack(q_values).astype(np.float32),
            np.array(actions, np.uint8),
            np.array(rewards, np.float32),
        )


class BlockBuilder:
    """Cuts an episode that arrives step by step into blocks.

    Args:
        writer: who takes the blocks.
    """

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self._open: dict[int, OpenBlock] = defaultdict(OpenBlock)
        self.returns: dict[int, float] = {}
        self._lengths: dict[int, int] = defaultdict(int)
        self.steps = 0

    def add(self, moment: Moment) -> None:
        """Takes one decision of every game that is being played."""
        for row, episode in enumerate(moment.episodes.tolist()):
            block = self._open[episode]
            reward = float(moment.rewards[row])
            full = block.add(moment.states[row], moment.outputs[row], int(moment.actions[row]), reward)
            self.returns[episode] = self.returns.get(episode, 0.0) + reward
            self._lengths[episode] += 1
            self.steps += 1
            if full or moment.ended[row]:
                self._writer.add(*block.close(), episode)
            if moment.ended[row]:
                del self._open[episode]

    def needs_another(self, goal: int, begun: int) -> bool:
        """Whether `goal` steps will not be reached, if the episodes that run become as long as those that have ended.

        Those that run are finished in any case: to begin others until the goal is reached would overshoot it by as
        much again where many are played side by side. What ends last always asks, so the goal is reached.

        Args:
            goal: steps of all episodes.
            begun: how many episodes have begun, those that have ended and those without a step included.
        """
        ended = [steps for episode, steps in self._lengths.items() if episode not in self._open]
        usual = sum(ended) / max(len(ended), 1)
        running = self._open.keys() | (set(range(begun)) - self._lengths.keys())
        return self.steps + sum(max(0.0, usual - self._lengths.get(episode, 0)) for episode in running) < goal


def record_shard(teacher: Teacher, path: Path, header: Header, on_step: Callable[[int], None]) -> Shard:
    """Plays and writes one shard.

    Args:
        teacher: who plays.
        path: the file; it appears when it is whole.
        header: what is known beforehand; says the rules, the seeds and when to stop.
        on_step: called with the number of steps since the last call.

    Raises:
        ShardTaken: the file exists, or somebody else is writing it.
        ShardError: the file cannot be written.
    """
    rules = Protocol(
        header.protocol,
        noop_max=header.noop_max,
        frame_limit=header.frame_limit,
        sticky=header.sticky,
        epsilon=header.epsilon,
    )
    with ShardWriter(path, header) as writer:
        blocks = BlockBuilder(writer)

        def seeds() -> Iterator[int | None]:
            for episode in itertools.count():
                while not blocks.needs_another(header.steps_goal, episode):
                    yield None
                yield int(episode_seeds(1, RECORDING_SEEDS, header.seed, header.shard, episode)[0])

        playing = moments(teacher, header.game, seeds(), rules, parallel=header.parallel_games, fire=header.fire)
        for moment in playing:
            blocks.add(moment)
            on_step(len(moment.episodes))
        writer.finish([blocks.returns[episode] for episode in range(len(blocks.returns))])
    return Shard(path)


def check_same(path: Path, found: Header, wanted: Header) -> None:
    """A finished shard is kept only if the same command would write it again, with any number of games at once.

    Raises:
        ShardError: a field differs; the message names it.
    """
    for field in ("game", "protocol", "epsilon", "noop_max", "frame_limit", "sticky", "fire", "seed", "shard",
                  "steps_goal", "teacher_sha256", "outputs", "player"):  # fmt: skip
        if getattr(found, field) != getattr(wanted, field):
            said = ""
            if field == "steps_goal":
                said = f" ({found.steps_goal / STEPS_PER_HOUR:g} and {wanted.steps_goal / STEPS_PER_HOUR:g} of an hour)"
            raise ShardError(
                f"{path}: {field} is {getattr(found, field)}, this recording's is {getattr(wanted, field)}{said}; "
                "delete the file to record it again, or record to another --root"
            )
