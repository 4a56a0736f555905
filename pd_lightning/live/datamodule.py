"""Live play as Lightning data: the same batches {game: Batch} as recordings give, from emulators that run meanwhile."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.trainer.states import TrainerFn
from rich.progress import Progress
from torch import Tensor

from pd_lightning.atari import action_meanings, check_fire
from pd_lightning.centring import mean_image
from pd_lightning.episodes import Policy
from pd_lightning.files import local_folder
from pd_lightning.live.batches import LiveBatches
from pd_lightning.live.collector import Collector, Process
from pd_lightning.live.learner import Learner, Lessons
from pd_lightning.live.parts import load_teachers, new_learners, new_recorders
from pd_lightning.live.settings import LiveSettings
from pd_lightning.machine import sharing
from pd_lightning.pqn.learning import refuse_float16
from pd_lightning.pqn.threads import context_beside
from pd_lightning.resuming import batches_trained, refuse_changes
from pd_lightning.rollout import Returns
from pd_lightning.streaming.shares import check_devices, check_distinct
from pd_lightning.tryout import outputs_in_play

SAMPLE = 4096
"""How many of the newest states the mean image is taken from."""


class LiveTeacher(pl.LightningDataModule):
    """A teacher that is asked while somebody plays: it, the student, or both; frozen, or learning by PQN meanwhile.

    Play goes in rounds, in a thread of its own: while the student learns from what is in memory, the next round is
    played, by the student as it was when the round began.

    Args:
        games: which of them to learn.
        root: folder of the datasets, where a game's frozen teacher is ROOT/GAME/teacher.safetensors.
        teachers: files of other teachers, as {pong: model.zip}: whatever `python -m pd_lightning.recording` takes.
        learn: a teacher of each game begins anew and learns by PQN while the student follows it; it acts alone then,
            and no file is needed.
        beta: probability that the teacher acts, each decision by itself, at first; else the student does.
        beta_end: the same in the end (default: as at first).
        beta_steps: decisions of each game, over all devices, in which it goes linearly from the first to the last.
        batch_size: states of each game in an update, over all devices.
        fresh: states that are played for each state that is learned from; 0.125 looks at each 8 times (the inverse of
            what others call samples per insert).
        buffer_size: of the replay buffer: states of each game that are kept, over all devices; the oldest make room (7
            KB each).
        prefill: states of each game that the teacher plays before the first update, over all devices.
        parallel: games played side by side, on each device.
        steps: decisions in each of them in a round of play.
        updates: per epoch, which is only a unit to count in.
        protocol: rules of play: paper, nature or machado; a teacher that learns does so by those of its preset.
        fire: press FIRE for the player at a start and after each lost life (default: as the teacher was trained); for a
            teacher that learns only at a start, while it learns.
        record_to: folder of datasets to which what is played is written, whole episodes in shards of an hour, as
            recordings are: RECORD_TO/GAME/0000.h5, ... (not while the teacher learns: its rewards are clipped).
        seed: of the games, of a learning teacher's weights, and of the batches.
        lessons: how a learning teacher learns.

    Raises:
        ValueError: a setting is out of range.
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
        buffer_size: int = 50_000,
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
        check_distinct(games)
        self.settings = LiveSettings(
            games=tuple(games), learn=learn, beta=beta, beta_end=beta if beta_end is None else beta_end,
            beta_steps=beta_steps, batch_size=batch_size, fresh=fresh, buffer_size=buffer_size, prefill=prefill,
            parallel=parallel, steps=steps, updates=updates, protocol=protocol, seed=seed, lessons=lessons,
        )  # fmt: skip
        self.settings.check()
        if learn and record_to is not None:
            raise ValueError(
                f"record_to is {record_to}, but a teacher that learns sees clipped rewards and changes: choose "
                "--data.record_to null, and record it when it has learned"
            )
        if learn and teachers:
            raise ValueError(
                f"teachers is {teachers}, but a teacher that learns begins anew: choose --data.learn false to follow "
                "the one in the file as it is"
            )
        self.record_to = None if record_to is None else str(local_folder("--data.record_to", record_to))
        self.actions = {game: len(action_meanings(game)) for game in games}
        self.frozen = {} if learn else load_teachers(games, root, teachers)
        self.outputs = {game: self.frozen[game].outputs if self.frozen else "q" for game in games}
        trained = {game: bool(self.frozen) and self.frozen[game].fire for game in games}
        self.fire = {game: trained[game] if fire is None else fire for game in games}
        for game in games if fire else ():
            check_fire(game, "--data.fire")
        self.learners: dict[str, Learner] = {}
        self.scored: dict[str, tuple[list[float], str, bool]] = {}
        self.collector: Collector | None = None

    # What a student's module and its callbacks ask

    def fire_rules(self) -> dict[str, bool]:
        """Whether FIRE is pressed for the players of each game."""
        return dict(self.fire)

    def statistics(self) -> dict[str, tuple[Tensor, float]]:
        """Mean image float32 [84, 84] and deviation of what is in the replay buffer, both in grey levels.

        At first that is the starts of episodes, whose deviation can be far below that of all play (Breakout: 6 to 23).
        """
        assert self.collector is not None
        newest = {game: buffer.newest(SAMPLE).states[:, -1] for game, buffer in self.collector.buffers.items()}
        return {game: mean_image(frames.cpu().numpy() for frames in seen.split(256)) for game, seen in newest.items()}

    def teacher_q(self, game: str) -> np.ndarray:
        """What the teacher thinks in a few episodes that it plays for this alone, float32 [S, A].

        Not from the replay buffer, which before the first update holds only the starts of episodes.

        Raises:
            ValueError: it has not learned anything yet.
        """
        if self.settings.learn:
            raise ValueError(
                "temperature is auto, but the teacher is only beginning to learn, and its Q-values will change: choose "
                "--model.temperature 0.01, or another number"
            )
        rank_zero_info(f"{game}: the teacher plays four episodes, to calibrate the temperature on")
        return outputs_in_play(self.frozen[game], self.settings.protocol, self.fire[game])

    def unscored_teachers(self, protocol: str) -> dict[str, Policy]:
        """Those whose scores by a protocol are not known: frozen ones once, learning ones always, as they are now."""
        if self.learners and self.collector is not None:
            self.collector.settle()
            return {game: learner.policy(self.collector.process.context) for game, learner in self.learners.items()}
        known = {game for game, (_, rules, _) in self.scored.items() if rules == protocol}
        return {game: teacher for game, teacher in self.frozen.items() if game not in known}

    def steps_learned(self, game: str) -> int:
        """Decisions, over all devices, that a teacher which learns has learned from."""
        lessons, updates = self.settings.lessons, self.learners[game].schedule.last_epoch
        rounds = updates // (lessons.passes * lessons.minibatches)
        return rounds * self.settings.round_states

    def teacher_returns(self, protocol: str, fire: bool = False) -> dict[str, np.ndarray]:
        """Returns of the episodes in which teachers were last scored by these rules, to compare students with."""
        return {
            game: np.array(values, ndmin=1)
            for game, (values, *rules) in self.scored.items()
            if rules == [protocol, fire]
        }

    def note_scores(self, scores: dict[str, Returns]) -> None:
        """Takes the teachers' scores."""
        self.scored |= {game: (each.values.tolist(), each.protocol, each.fire) for game, each in scores.items()}

    # What the Trainer asks

    def setup(self, stage: str) -> None:
        """Makes replay buffers and teachers, and plays what the first update needs.

        Raises:
            ValueError: what is to be kept does not fit the device's memory, the precision is float16's, or this Trainer
                has learned from live play before.
        """
        assert self.trainer is not None
        trainer = self.trainer
        self.settings = settings = replace(self.settings, devices=trainer.world_size)
        check_devices(settings.batch_size, trainer.world_size)
        if settings.learn and stage == "fit":
            refuse_float16(trainer)
        process = Process(trainer.global_rank, trainer.strategy.root_device, context_beside(trainer))
        for teacher in self.frozen.values():
            teacher.to(process.device)
        if stage != "fit":
            return
        settings.check_room(process.device, sharing(process.device, trainer.num_devices))
        if batches_trained(trainer):
            raise ValueError(
                "this Trainer has learned from live play before, which does not go on in a second fit: make a new "
                "Trainer, and give its fit the checkpoint (ckpt_path)"
            )
        if settings.learn:
            self.learners = new_learners(settings, process, self.fire, trainer)
        recorders = new_recorders(self.record_to, settings, process, self.fire, self.frozen)
        self.collector = Collector(settings, process, self.learners or self.frozen, self.fire, recorders)
        rank_zero_info(f"live: {settings.said}")
        shown = trainer.progress_bar_callback is not None and trainer.is_global_zero
        with Progress(transient=True, disable=not shown) as progress:
            rounds = range(settings.prefill_rounds)
            for _ in progress.track(rounds, description="Playing the first states"):
                self.collector.play_one()

    def train_dataloader(self) -> LiveBatches:
        """Its batches."""
        assert self.trainer is not None
        assert self.collector is not None
        # Lightning would say of a run that goes on that its loader does not: its collector does.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
        return LiveBatches(self.collector, self.trainer)

    def test_dataloader(self) -> list[int]:
        """A batch of nothing: tests are played, but Lightning wants some data."""
        return [0]

    def state_dict(self) -> dict[str, Any]:
        """What was played and learned, and under which settings."""
        if self.collector is None:
            return {}
        return {"settings": self._fixed(), "scored": self.scored, "collector": self.collector.state_dict()}

    def _fixed(self) -> dict[str, object]:
        """What a resumed run must have as it was; plain values."""
        teachers = {game: f"{teacher.name} ({teacher.sha256[:12]})" for game, teacher in self.frozen.items()}
        return {**self.settings.state_dict(), "fire": self.fire, "teachers": teachers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with replay buffers and teachers as they were; to score a checkpoint, nothing of it is needed.

        Raises:
            ResumeError: a setting is not that of the checkpoint.
        """
        if self.collector is None or self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        refuse_changes(state_dict.get("settings", {}), self._fixed(), "--data options, teachers and --trainer.devices")
        self.scored = state_dict["scored"]
        self.collector.load_state_dict(state_dict["collector"])

    def on_exception(self, exception: BaseException) -> None:
        """As after a normal end: Lightning calls `teardown` only then, and what was recorded would be lost."""
        self.teardown("fit")

    def teardown(self, stage: str) -> None:
        """Waits for the thread, which would else play on."""
        if self.collector is not None:
            self.collector.close()
