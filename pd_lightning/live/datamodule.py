"""Live play as Lightning data: the same batches {game: Batch} as recordings give, from emulators that run meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.trainer.states import TrainerFn
from rich.progress import Progress
from torch import Tensor

from pd_lightning.atari import action_meanings, named_protocol
from pd_lightning.datamodule import ResumeError
from pd_lightning.live.knobs import Knobs, load_teachers
from pd_lightning.live.learner import Learner, LearningPlayer, Lessons
from pd_lightning.live.memory import Memory
from pd_lightning.live.play import LIVE_SEEDS, FrozenPlayer, Played, Player
from pd_lightning.live.recorder import Recorder
from pd_lightning.pqn import ParallelPlay
from pd_lightning.recording import header_of
from pd_lightning.rollout import Policy, Returns
from pd_lightning.streaming import Batch

ORDER = 7
"""Last part of the key of which states are in which batch."""


class LiveTeacher(pl.LightningDataModule):
    """A teacher that is asked while somebody plays: it, the student, or both; frozen, or learning by PQN meanwhile.

    Play goes in rounds, in a thread of its own: while the student learns from what is in memory, the next round is
    played, by the student as it was when the round began.

    Args:
        games: which of them to learn.
        root: folder of the datasets, where a game's frozen teacher is ROOT/GAME/teacher.safetensors.
        teachers: files of other teachers, as {pong: model.zip}: whatever `python -m pd_lightning.recording` takes.
        learn: a teacher of each game begins anew and learns by PQN while the student follows it; it acts alone then.
        beta: probability that the teacher acts, each decision by itself, at first; else the student does.
        beta_end: the same in the end (default: as at first).
        beta_steps: decisions, over all games and devices, in which it goes linearly from the first to the last.
        batch_size: states of each game in an update, over all devices.
        fresh: states that are played for each state that is learned from; 0.125 looks at each 8 times.
        memory: states of each game that are kept, over all devices; the oldest make room (7 KB each).
        prefill: states of each game that the teacher plays before the first update, over all devices.
        parallel: games played side by side, on each device.
        steps: decisions in each of them between two rounds.
        updates: in an epoch; only a unit.
        protocol: rules of play: paper, nature or machado; a teacher that learns does so by those of its preset.
        fire: press FIRE for the player at a start and after each lost life (default: as the teacher was trained).
        record_to: folder of datasets to which what is played is written, whole episodes in shards of an hour, as
            recordings are: RECORD_TO/GAME/0000.h5, ... (not while the teacher learns: its rewards are clipped).
        seed: of the games, of a learning teacher's weights, and of the batches.
        lessons: how a learning teacher learns.

    Raises:
        ValueError: a knob is out of range, or the memory does not fit this machine's.
        TeacherError: a teacher is missing, broken, or of another game.
    """

    def __init__(
        self,
        games: list[str] = ["pong"],  # noqa: B006 (shown as the default in --help; never changed)
        root: str = "datasets",
        teachers: dict[str, str] = {},  # noqa: B006 (as above)
        learn: bool = False,
        beta: float = 1.0,
        beta_end: float | None = None,
        beta_steps: int = 0,
        batch_size: int = 256,
        fresh: float = 0.125,
        memory: int = 50_000,
        prefill: int = 5_000,
        parallel: int = 32,
        steps: int = 8,
        updates: int = 1000,
        protocol: str = "paper",
        fire: bool | None = None,
        record_to: str | None = None,
        seed: int = 0,
        lessons: Lessons = Lessons(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.knobs = Knobs(
            tuple(games), learn, beta, beta if beta_end is None else beta_end, beta_steps, batch_size, fresh, memory,
            prefill, parallel, steps, updates, protocol, seed, lessons,
        )  # fmt: skip
        self.knobs.check()
        if learn and record_to is not None:
            raise ValueError(
                f"record_to is {record_to}, but a teacher that learns sees clipped rewards and changes: choose "
                "--data.record_to null, and record it when it has learned"
            )
        self.record_to = record_to
        self.recorders: dict[str, Recorder] = {}
        self.actions = {game: len(action_meanings(game)) for game in games}
        self.frozen = {} if learn else load_teachers(games, root, teachers)
        self.outputs = {game: self.frozen[game].outputs if self.frozen else "q" for game in games}
        self.fire = {
            game: fire if fire is not None else self.frozen[game].fire if self.frozen else False for game in games
        }
        self.learners: dict[str, Learner] = {}
        self.memories: dict[str, Memory] = {}
        self.scored: dict[str, float] = {}
        self.rounds = 0  # that are in memory
        self._ahead: Future[dict[str, Played]] | None = None
        self._players: dict[str, Player] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._group: Any = None
        self._cores = torch.get_num_threads()

    # What a student's module and its callbacks ask

    def fire_rules(self) -> dict[str, bool]:
        """Whether FIRE is pressed for the players of each game."""
        return dict(self.fire)

    def statistics(self) -> dict[str, tuple[Tensor, float]]:
        """Mean image float32 [84, 84] and deviation of what is in memory, both in grey levels."""
        return {game: frame_statistics(memory.newest(4096)) for game, memory in self.memories.items()}

    def teacher_q(self, game: str) -> np.ndarray:
        """What the teacher thought of what is in memory, float32 [S, A].

        Raises:
            ValueError: it has not learned anything yet.
        """
        if self.knobs.learn:
            raise ValueError(
                "temperature is auto, but the teacher is only beginning to learn, and its Q-values will change: choose "
                "--model.temperature 0.01, or another number"
            )
        return self.memories[game].newest(4096).teacher_q.cpu().numpy()

    def unscored_teachers(self) -> dict[str, Policy]:
        """Those whose scores are not known: frozen ones before the first, learning ones always, as they are now."""
        if self.knobs.learn:
            self._settle()
            return {game: learner.policy(self._context) for game, learner in self.learners.items()}
        return {} if self.scored else dict(self.frozen)

    def teacher_returns(self, protocol: str, fire: bool = False) -> dict[str, float]:
        """The teachers' newest scores, which students are compared with."""
        return dict(self.scored)

    def note_scores(self, scores: dict[str, Returns]) -> None:
        """Takes the teachers' scores."""
        self.scored = {game: returns.mean for game, returns in scores.items()}

    # Playing

    def setup(self, stage: str) -> None:
        """Makes memories and teachers, and plays what the first update needs."""
        assert self.trainer is not None
        self.knobs.check_devices(self.trainer.world_size)
        device = self._device
        for teacher in self.frozen.values():
            teacher.to(device)
        if stage != "fit" or self.memories:
            return
        knobs, ranks = self.knobs, self.trainer.world_size
        for game in knobs.games:
            self.memories[game] = Memory(
                knobs.capacity(ranks), knobs.parallel, self.actions[game], self.trainer.strategy.root_device
            )
        if self.record_to is not None:
            rules, who = named_protocol(knobs.protocol), knobs.player
            for game, teacher in self.frozen.items():
                header = header_of(teacher, rules, knobs.parallel, knobs.seed, self.fire[game])
                self.recorders[game] = Recorder(
                    Path(self.record_to) / game, replace(header, player=who), self.trainer.global_rank, ranks
                )
        if knobs.learn:
            self._group = torch.distributed.new_group() if ranks > 1 else None  # of its own: it learns in a thread
            rounds = knobs.rounds_due(self._total_updates(), ranks)
            for n, game in enumerate(knobs.games):
                self.learners[game] = Learner(game, self.actions[game], knobs.lessons, rounds, knobs.seed + n, device)
                self._centre(game)
        rank_zero_info(self.describe())
        shown = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero
        with Progress(transient=True, disable=not shown) as progress:
            for _ in progress.track(range(knobs.prefill_rounds(ranks)), description="Playing the first states"):
                self._take(self._round(None, 1.0))

    def _total_updates(self) -> int:
        """Updates of the whole run: what a learning rate falls over."""
        assert self.trainer is not None
        steps, epochs = self.trainer.max_steps, self.trainer.max_epochs or -1
        limits = [steps, epochs * self.knobs.updates]
        if not any(limit > 0 for limit in limits):
            raise ValueError("a teacher that learns needs an end: give --trainer.max_steps")
        return min(limit for limit in limits if limit > 0)

    def _centre(self, game: str) -> None:
        """A teacher that knows nothing is centred on random play."""
        data = ParallelPlay(game, self.knobs.parallel, fire=self.fire[game], seed=self.knobs.seed)
        ((mean, deviation),) = data.statistics().values()
        self.learners[game].network.centre(game, mean, deviation)

    def describe(self) -> str:
        """Who plays and how much is kept, in a line."""
        knobs = self.knobs
        who = "the teacher learns, and acts" if knobs.learn else f"the teacher takes {knobs.beta:.0%} of decisions"
        if knobs.beta != knobs.beta_end:
            who += f", after {knobs.beta_steps:,} steps {knobs.beta_end:.0%}"
        return f"live: {who}; the newest {knobs.memory:,} states of {', '.join(knobs.games)} are kept"

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    def _context(self) -> AbstractContextManager:
        """The precision of training."""
        assert self.trainer is not None
        return self.trainer.precision_plugin.forward_context()

    def _start(self) -> None:
        """Begins all games, from seeds that follow from the number of rounds before."""
        assert self.trainer is not None
        threads = max(self._cores // 2, 1)
        for n, game in enumerate(self.knobs.games):
            key = (self.knobs.seed, n, self.trainer.global_rank, self.rounds)
            shape = self.knobs.parallel, self.knobs.steps
            if self.knobs.learn:
                self._players[game] = LearningPlayer(
                    self.learners[game], *shape, self.fire[game], key, threads, self._context, self._group
                )
            else:
                rules = named_protocol(self.knobs.protocol)
                self._players[game] = FrozenPlayer(self.frozen[game], *shape, rules, self.fire[game], key, threads)

    def _round(self, students: dict[str, Policy] | None, beta: float) -> dict[str, Played]:
        """Plays a round of every game."""
        if not self._players:
            self._start()
        epsilon = self.knobs.epsilon(self.rounds, self._ranks)
        for player in self._players.values():
            if isinstance(player, LearningPlayer):
                player.epsilon = epsilon
        rounds = {
            game: player.play(None if students is None else students[game], beta)
            for game, player in self._players.items()
        }
        for game, recorder in self.recorders.items():
            recorder.add(rounds[game])
        return rounds

    @property
    def _ranks(self) -> int:
        assert self.trainer is not None
        return self.trainer.world_size

    def _take(self, played: dict[str, Played]) -> None:
        """Puts a round into memory."""
        for game, part in played.items():
            self.memories[game].add(part.states, part.q)
        self.rounds += 1

    def _settle(self) -> None:
        """Waits until nobody plays."""
        if self._ahead is not None:
            self._ahead.exception()

    def _students(self) -> dict[str, Policy] | None:
        """The student as it is now, for a round to come; nobody, if the teacher always acts."""
        if self.knobs.learn or self.knobs.beta_at(self.rounds, self._ranks) >= 1:
            return None
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        student = copy.deepcopy(module.student).eval()

        def policy(game: str) -> Policy:
            def act(states: Tensor) -> Tensor:
                with self._context():
                    return student({game: states.to(self._device)})[game]

            return act

        return {game: policy(game) for game in self.knobs.games}

    # Batches

    def train_dataloader(self) -> LiveTeacher:
        """Itself: one iteration is one epoch."""
        return self

    def test_dataloader(self) -> list[dict]:
        """One empty batch: tests are played, but Lightning wants some data."""
        return [{}]

    def __len__(self) -> int:
        """Updates in an epoch."""
        return self.knobs.updates

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        """Batches of one epoch."""
        assert self.trainer is not None
        first = self.trainer.fit_loop.total_batch_idx + 1
        for update in range(first, first + self.knobs.updates):
            while self.rounds < self.knobs.rounds_due(update, self._ranks):
                if self._ahead is None:
                    self._begin_round()
                assert self._ahead is not None
                self._take(self._ahead.result())
                self._begin_round()
            yield {game: self._batch(game, n, update) for n, game in enumerate(self.knobs.games)}

    def _begin_round(self) -> None:
        """Has the next round played in the thread."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "play")
            self._thread.submit(torch.set_num_threads, 1).result()  # of that thread; first: MKL has one number for all
            if self._device.type == "cpu":  # threads that wait for each other lose more than a core to one who disturbs
                left = self._cores // 2 if self.knobs.learn else self._cores - 1
                torch.set_num_threads(max(left, 1))
        beta = self.knobs.beta_at(self.rounds, self._ranks)
        self._ahead = self._thread.submit(self._round, self._students(), beta)

    def _batch(self, game: str, number: int, update: int) -> Batch:
        """States of the memory, each at most once, that follow from seed, rank and update alone."""
        assert self.trainer is not None
        memory, size = self.memories[game], self.knobs.batch_size // self._ranks
        dice = np.random.default_rng([LIVE_SEEDS, self.knobs.seed, number, self.trainer.global_rank, update, ORDER])
        return memory.batch(dice.choice(len(memory), min(size, len(memory)), replace=False, shuffle=False))

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Memories, teachers that learn, and how many rounds were played; games begin anew after a resume."""
        if not self.memories:
            return {}
        played = None
        if self._ahead is not None:
            played = {game: {"states": part.states, "q": part.q} for game, part in self._ahead.result().items()}
        return {
            "knobs": self.knobs.state_dict(self._ranks),
            "rounds": self.rounds,
            "scored": self.scored,
            "memories": {game: memory.state_dict() for game, memory in self.memories.items()},
            "learners": {game: copy.deepcopy(learner.state_dict()) for game, learner in self.learners.items()},
            "ahead": played,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with memories and teachers as they were; to score a checkpoint, nothing of it is needed.

        Raises:
            ResumeError: a setting is not that of the checkpoint.
        """
        if not self.memories or self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        for key, value in self.knobs.state_dict(self._ranks).items():
            was = state_dict.get("knobs", {}).get(key)
            if was != value:
                raise ResumeError(
                    f"cannot resume: {key} was {was} in the checkpoint and is {value} now; give --data options as they "
                    "were, or start anew without --ckpt_path"
                )
        for game, memory in self.memories.items():
            memory.load_state_dict(state_dict["memories"][game])
        for game, learner in self.learners.items():
            learner.load_state_dict(state_dict["learners"][game])
        self.rounds, self.scored = state_dict["rounds"], state_dict["scored"]
        if ahead := state_dict["ahead"]:
            done: Future[dict[str, Any]] = Future()
            nothing = np.empty(0)
            done.set_result({game: Played(each["states"], each["q"], *[nothing] * 3) for game, each in ahead.items()})
            self._ahead = done
        self._players = {}

    def teardown(self, stage: str) -> None:
        """Waits for the thread, which would else play on."""
        if stage == "fit" and self._thread is not None:
            self._thread.shutdown()
            self._thread, self._ahead = None, None
            torch.set_num_threads(self._cores)
        for recorder in self.recorders.values():
            recorder.flush()


def frame_statistics(batch: Batch) -> tuple[Tensor, float]:
    """Mean image float32 [84, 84] and root mean square deviation from it, in grey levels, of states' newest frames."""
    frames = batch.states[:, -1].double()
    mean = frames.mean(0)
    deviation = float((frames - mean).square().mean().sqrt())
    return mean.float().cpu(), deviation
