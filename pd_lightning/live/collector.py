"""Where a process plays: its games, replay buffers, and the thread in which rounds are played ahead of the student."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning_utilities.core.rank_zero import rank_zero_info

from pd_lightning.atari import STACK, named_protocol
from pd_lightning.episodes import LIVE_SEEDS, Policy
from pd_lightning.live.learner import Learner, LearningPlayer
from pd_lightning.live.play import FrozenPlayer, Played, Player
from pd_lightning.live.recorder import Recorder
from pd_lightning.live.replay import ReplayBuffer, pack, unpack
from pd_lightning.live.settings import LiveSettings
from pd_lightning.pqn.threads import playing_thread
from pd_lightning.streaming import Batch
from pd_lightning.teacher import Teacher

ORDER = 7
"""Last part of the key of which states are in which batch."""


@dataclass(frozen=True)
class Process:
    """What this process is among those of a run.

    Attributes:
        rank: its number.
        device: where it learns.
        context: of the precision in which it learns, for a thread beside.
    """

    rank: int
    device: torch.device
    context: Callable[[], AbstractContextManager]


class Collector:
    """Plays rounds and remembers them.

    Args:
        settings: of live play.
        process: this process.
        teachers: of each game, frozen or learning.
        fire: whether FIRE is pressed, by game.
        recorders: of what is played, by game; may be none.

    Attributes:
        rounds: how many are in the buffers, or were.
        began: batches that the run had learned from before it came here; None until the first is asked for.
        buffers: of each game.
    """

    def __init__(
        self,
        settings: LiveSettings,
        process: Process,
        teachers: Mapping[str, Teacher | Learner],
        fire: Mapping[str, bool],
        recorders: dict[str, Recorder],
    ) -> None:
        self.settings, self.process, self.teachers = settings, process, teachers
        self._fire, self._recorders = fire, recorders
        actions = {game: teacher.actions for game, teacher in teachers.items()}
        shape = settings.capacity, settings.parallel
        self.buffers = {game: ReplayBuffer(*shape, actions[game], process.device) for game in settings.games}
        self.rounds, self.began = 0, None
        self._players: dict[str, Player] = {}
        self._ahead: Future[dict[str, Played]] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._cores = torch.get_num_threads()
        # A learning teacher averages its gradients in a thread: not among the collectives of the student. Of two NCCL
        # communicators both would have to be used in one order on all ranks, which threads do not keep.
        self._group = torch.distributed.new_group(backend="gloo") if settings.learn and settings.devices > 1 else None

    def play_one(self) -> None:
        """Plays a round and remembers it, at once; the teacher acts.

        Nothing of it is written yet: if a checkpoint is loaded next, all this was played by the run that left it.
        """
        self._take(self._round(None, 1.0))

    def advance(self, update: int, students: Callable[[], Mapping[str, Policy]]) -> dict[str, Batch]:
        """The batch of an update; rounds that it needs are waited for, and the next is begun.

        Args:
            update: its number here, from 0.
            students: gives the student as it is now, as a player of each game.
        """
        while self.rounds < self.settings.rounds_due(update):
            if self._ahead is None:
                self._begin(students)
            assert self._ahead is not None
            self._take(self._ahead.result())
            self._begin(students)
        return {game: self._batch(game, number, update) for number, game in enumerate(self.settings.games)}

    def settle(self) -> None:
        """Waits until nobody plays, and so nobody learns."""
        if self._ahead is not None:
            self._ahead.exception()

    def close(self) -> None:
        """Ends the thread, and writes what was recorded; the round that was played ahead stays, for a checkpoint."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
            torch.set_num_threads(self._cores)
        with ExitStack() as every:  # one that cannot be written takes none of the others along
            while self._recorders:
                every.callback(self._write_rest, *self._recorders.popitem())

    @staticmethod
    def _write_rest(game: str, recorder: Recorder) -> None:
        recorder.flush()
        more = "" if recorder.episodes else ": none has ended; play for longer, or fewer at once (--data.parallel)"
        rank_zero_info(f"{game}: {recorder.episodes:,} whole episodes were recorded in {recorder.folder}{more}")

    def _start(self) -> None:
        """Begins all games, from seeds that follow from the number of rounds before.

        Where play is recorded, from what lies there too: else another run of the same seed would record the same.
        """
        settings, threads = self.settings, max(self._cores // 2, 1)
        for number, (game, teacher) in enumerate(self.teachers.items()):
            key, shape = (settings.seed, number, self.process.rank, self.rounds), (settings.parallel, settings.steps)
            if game in self._recorders:
                key = *key, self._recorders[game].number
            if isinstance(teacher, Learner):
                self._players[game] = LearningPlayer(
                    teacher, *shape, self._fire[game], key, threads, self.process.context, self._group
                )
            else:
                rules = named_protocol(settings.protocol)
                self._players[game] = FrozenPlayer(teacher, *shape, rules, self._fire[game], key, threads)

    def _round(self, students: Mapping[str, Policy] | None, beta: float) -> dict[str, Played]:
        """Plays a round of every game."""
        if not self._players:
            self._start()
        played = {}
        for game, player in self._players.items():
            if isinstance(player, LearningPlayer):
                player.epsilon = self.settings.epsilon(self.rounds)
            played[game] = player.play(None if students is None else students[game], beta)
            if game in self._recorders:
                self._recorders[game].add(played[game])
        return played

    def _take(self, played: Mapping[str, Played]) -> None:
        """Puts a round into the buffers."""
        for game, part in played.items():
            self.buffers[game].add(part.states, part.q)
        self.rounds += 1

    def _begin(self, students: Callable[[], Mapping[str, Policy]]) -> None:
        """Has the next round played in the thread."""
        if self._thread is None:
            self._thread = playing_thread()
            if self.process.device.type == "cpu":  # threads that wait for each other lose most to one who disturbs them
                left = self._cores // 2 if self.settings.learn else self._cores - 1
                torch.set_num_threads(max(left, 1))
        beta = self.settings.beta_at(self.rounds)
        self._ahead = self._thread.submit(self._write_and_play, students() if beta < 1 else None, beta)

    def _write_and_play(self, students: Mapping[str, Policy] | None, beta: float) -> dict[str, Played]:
        """Writes recorded hours that are full, and plays a round."""
        for recorder in self._recorders.values():
            if recorder.full:
                recorder.flush()
        return self._round(students, beta)

    def _batch(self, game: str, number: int, update: int) -> Batch:
        """States of a buffer, each at most once, that follow from seed, rank and update alone."""
        buffer, size = self.buffers[game], self.settings.batch_size // self.settings.devices
        dice = np.random.default_rng([LIVE_SEEDS, self.settings.seed, number, self.process.rank, update, ORDER])
        return buffer.batch(dice.choice(len(buffer), size, replace=False, shuffle=False))

    def state_dict(self) -> dict[str, Any]:
        """Replay buffers of all processes, learning teachers, how many rounds were played; games begin anew then."""
        ahead = None
        if self._ahead is not None:
            ahead = {game: {"states": pack(part.states), "q": part.q} for game, part in self._ahead.result().items()}
        mine = {"buffers": {game: buffer.state_dict() for game, buffer in self.buffers.items()}, "ahead": ahead}
        every: list[Any] = [mine]
        if self.settings.devices > 1:
            every = [None] * self.settings.devices
            torch.distributed.all_gather_object(every, mine)
        learners = {game: each for game, each in self.teachers.items() if isinstance(each, Learner)}
        return {
            "rounds": self.rounds,
            "began": self.began,
            "processes": every,
            "learners": {game: copy.deepcopy(learner.state_dict()) for game, learner in learners.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was saved."""
        self.settle()  # a search for a learning rate has played and taught
        self._ahead = None
        mine = state["processes"][self.process.rank]
        for game, buffer in self.buffers.items():
            buffer.load_state_dict(mine["buffers"][game])
        for game, teacher in self.teachers.items():
            if isinstance(teacher, Learner):
                teacher.load_state_dict(state["learners"][game])
        self.rounds, self.began, self._players = state["rounds"], state["began"], {}
        for recorder in self._recorders.values():
            recorder.forget()
        if mine["ahead"]:
            shape = (self.settings.steps, self.settings.parallel, STACK, 84, 84)
            self._ahead = Future()
            self._ahead.set_result(
                {game: Played(unpack(each["states"], shape), each["q"]) for game, each in mine["ahead"].items()}
            )
