"""When to play which game during a run, and where the returns go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from pd_lightning.atari import check_fire, named_protocol
from pd_lightning.bounds import check_at_least
from pd_lightning.callbacks.keeping import Checkpoint
from pd_lightning.callbacks.playing import playing, refuse_late_average
from pd_lightning.callbacks.progress import episode_bar
from pd_lightning.callbacks.scoring import append_returns, note_recorded, rollout_metrics
from pd_lightning.callbacks.stopping import check_early_stopping, check_stopping_by_epochs, is_last_update
from pd_lightning.episodes import FIT_SEEDS, TEST_SEEDS, episode_seeds
from pd_lightning.folder import run_folder
from pd_lightning.rollout import Returns, play
from pd_lightning.summary import returns_of_teachers
from pd_lightning.trainers import callbacks_of, data_of, is_dry

SEEDS = {"fit": FIT_SEEDS, "test": TEST_SEEDS}


class Rollouts(Callback):
    """Plays every game with the network being trained: before the first update, during fit, at its end, in test.

    Episodes are dealt over the ranks, and every rank logs the same numbers. The module must have `policies()`.

    Args:
        every_n_updates: how often during fit, in optimizer steps; 0 for never.
        episodes: of each game and each time.
        protocol: rules of play: paper, nature or machado.
        at_start: also before the first update, so that curves begin with the untrained network.
        at_end: also after the last update.
        parallel: games played side by side, on each rank.
        fire: press FIRE for the player at a start and after a lost life (default: as for the teacher).
        seed: of the episodes; during fit and in test they differ.
    """

    def __init__(
        self,
        every_n_updates: int = 0,
        episodes: int = 30,
        protocol: str = "paper",
        at_start: bool = True,
        at_end: bool = True,
        parallel: int = 32,
        fire: bool | None = None,
        seed: int = 0,
    ) -> None:
        check_at_least(1, "--rollouts.", episodes=episodes, parallel=parallel)
        check_at_least(0, "--rollouts.", every_n_updates=every_n_updates, seed=seed)
        named_protocol(protocol)
        self.every_n_updates, self.episodes, self.protocol = every_n_updates, episodes, protocol
        self.at_start, self.at_end = at_start, at_end
        self.parallel, self.fire, self.seed = parallel, fire, seed
        self.scores: dict[str, Returns] = {}
        self.teacher_scores: dict[str, Returns] = {}  # of a live teacher, when it was last scored
        self.updates_before = 0  # a test begins to count at 0: the command line says what the checkpoint has behind it
        self._played_at, self._cut_short = -1, False
        self._metrics: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses, before anything is computed, what would go wrong later.

        Raises:
            ValueError: the module does not say who plays, weights are averaged in a way that nobody would score, a
                score is waited for that is not taken, or FIRE is to be pressed where there is none.
        """
        if not hasattr(pl_module, "policies"):
            raise ValueError(
                f"{type(pl_module).__name__} has no policies(), which say who plays: {{game: states to outputs}}, as "
                "PolicyDistillation.policies"
            )
        refuse_late_average(trainer)
        if stage == "fit":
            check_early_stopping(trainer, self.every_n_updates)
        for game in getattr(data_of(trainer), "actions", {}) if self.fire else ():
            check_fire(game, "--rollouts.fire")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The untrained network's score; that of before, for those who wait for one, if the run was resumed.

        Raises:
            ValueError: training would be stopped by a score that is not taken anew each time.
        """
        check_stopping_by_epochs(trainer, self.every_n_updates)
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in self._metrics.items()})
        if self._cut_short or (self.at_start and trainer.global_step == 0):
            self._play(trainer, pl_module, "fit")
        self._played_at = trainer.global_step  # checkpoints are taken after the score

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # noqa: ANN001
        """The score every so many updates; and that of the last, before a checkpoint says that the run is over."""
        if self._is_due(trainer):
            self._play(trainer, pl_module, "fit")

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Whether the weights of the newest update are to be scored."""
        due = bool(self.every_n_updates) and trainer.global_step % self.every_n_updates == 0
        return due or (self.at_end and is_last_update(trainer))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What is saved before the score that is due, at the end of a job's time, owes that score."""
        fits = trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0
        if fits and self._played_at != trainer.global_step and self._is_due(trainer):
            checkpoint["callbacks"][self.state_key]["cut_short"] = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The score after the last update, where nobody knew that it was: training was stopped."""
        if self.at_end:
            self._play(trainer, pl_module, "fit")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The score of a checkpoint."""
        self._play(trainer, pl_module, "test")

    def _play(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Plays all games and logs; once for each number of updates."""
        if is_dry(trainer) or (stage == "fit" and self._played_at == trainer.global_step):
            return
        self._played_at, self._cut_short = trainer.global_step, False
        games = module.policies()  # pyright: ignore[reportCallIssue]
        try:
            with playing(trainer, module):
                scores = {game: self._score(trainer, module, game, policy, stage) for game, policy in games.items()}
            teachers = self._score_teachers(trainer, module, stage)
        except SIGTERMException:
            self._cut_short = True
            if stage == "fit" and not is_last_update(trainer) and not trainer.should_stop:
                return  # what is due now is saved yet, and whoever goes on from it plays first; then Lightning stops
            raise
        self.scores = scores
        self.teacher_scores.update(teachers)
        self._log(trainer, teachers, stage)

    def _log(self, trainer: pl.Trainer, teachers: dict[str, Returns], stage: str) -> None:
        """Logs, judges, keeps and says what was just played."""
        updates = trainer.global_step + self.updates_before
        metrics = rollout_metrics(self.scores, returns_of_teachers(data_of(trainer), self.scores))
        for game, returns in teachers.items():
            metrics[f"rollout/{game}/teacher_return"] = returns.mean
            metrics[f"rollout/{game}/teacher_return_std"] = returns.std
        self._metrics |= metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, updates)
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in metrics.items()})
        for callback in callbacks_of(trainer):
            if isinstance(callback, Checkpoint):
                callback.judge(trainer, "rollout/")
        folder = run_folder(trainer)
        if trainer.is_global_zero and folder:
            # In Python one trainer may test what it has fitted: those episodes are no part of the curve.
            prefix = "test_" if stage == "test" and (folder / "returns.csv").exists() else ""
            append_returns(folder / f"{prefix}returns.csv", updates, self.scores)
            compared = folder / f"{prefix}teacher_returns.csv"
            if teachers:
                append_returns(compared, updates, teachers)
            note_recorded(compared, updates, data_of(trainer), self.scores)
        for player, scores in (("", self.scores), (", the teacher", teachers)):
            for game, returns in scores.items():
                rank_zero_info(f"update {updates:,}: {game}{player} {returns}")

    def state_dict(self) -> dict[str, Any]:
        """The last scores, and whether newer ones are owed."""
        return {"metrics": self._metrics, "cut_short": self._cut_short}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As they were."""
        self._metrics, self._cut_short = dict(state_dict["metrics"]), state_dict.get("cut_short", False)

    def _score_teachers(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> dict[str, Returns]:
        """Scores teachers that were not recorded, in the same episodes; live data know which."""
        data = data_of(trainer)
        unscored = data.unscored_teachers(self.protocol) if hasattr(data, "unscored_teachers") else {}
        found = {game: self._score(trainer, module, game, policy, stage) for game, policy in unscored.items()}
        if found:
            data.note_scores(found)
        return found

    def _score(self, trainer, module, game, policy, stage) -> Returns:  # noqa: ANN001
        """One game's episodes, gathered from all ranks in the order of their numbers."""
        share = (trainer.global_rank, trainer.world_size)
        seed = int(episode_seeds(1, SEEDS[stage], self.seed)[0])
        fire = fire_rule(trainer, game, self.fire)
        rules = {"protocol": self.protocol, "parallel": self.parallel, "fire": fire}
        with episode_bar(trainer, game, len(range(share[0], self.episodes, share[1]))) as advance:

            def ended(value: float) -> None:
                advance(value)
                # Lightning itself looks only between batches. Ranks that fit stop together, later: see StopTogether.
                if trainer.received_sigterm and (stage == "test" or trainer.world_size == 1):
                    raise SIGTERMException

            mine = play(policy, game, self.episodes, seed, share=share, on_episode=ended, **rules)
        if trainer.world_size == 1:
            return mine
        most = -(-self.episodes // trainer.world_size)  # ranks may hold one episode less: gathering wants equal shapes
        table = torch.full((most, 3), torch.nan, dtype=torch.float64, device=module.device)
        rows = np.stack([mine.values, mine.steps, mine.seeds], 1)
        table[: len(rows)] = torch.from_numpy(rows)
        gathered = module.all_gather(table).transpose(0, 1).reshape(-1, 3)[: self.episodes].cpu().numpy()
        steps, seeds = gathered[:, 1:].T.astype(int)
        return Returns(game, mine.protocol, gathered[:, 0], steps, seeds, fire)


def fire_rule(trainer: pl.Trainer, game: str, given: bool | None) -> bool:
    """Whether to press FIRE for a student: as it was for its teacher, unless told otherwise."""
    rules = getattr(data_of(trainer), "fire_rules", dict)()
    return rules.get(game, False) if given is None else given
