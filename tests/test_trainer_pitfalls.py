"""What Lightning would do to a run within an update, with averages of before, and with numbers of others."""

import csv
import math
import signal
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quiet_trainer
from crossing import Chicken, glance, ten_batches, trainer_of
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, EMAWeightAveraging, LearningRateFinder
from pytorch_lightning.loggers import Logger

from pd_lightning.callbacks import Checkpoint, Rollouts, StopTogether
from pd_lightning.checkpoints import read_checkpoint
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.folder import run_folder
from pd_lightning.pqn.threads import context_beside
from pd_lightning.refusals import refuse_old_scores, refuse_search
from pd_lightning.resuming import batches_trained
from pd_lightning.trainers import callbacks_of


@pytest.fixture
def data(datasets):
    return TeacherDatasets(str(datasets), batch_size=64, threads=1)


@pytest.fixture
def queued():
    """Where a job was when it was queued again, as by Lightning's handler of SLURM's signal."""
    found: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: found.append(Signalled.trainer.fit_loop.total_batch_idx))
    yield found
    signal.signal(signal.SIGUSR1, before)


class Signalled(Chicken):
    """Its job's time is nearly over in the middle of the second batch."""

    trainer: Any

    def training_step(self, batch, batch_idx):
        Signalled.trainer = self.trainer
        if batch_idx == 1:
            signal.raise_signal(signal.SIGUSR1)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("batches", "queued_after"), [(1, 1), (3, 2)])
def test_a_job_whose_time_is_over_is_saved_and_queued_after_the_update_that_is_made(
    batches, queued_after, queued, tmp_path
):
    trainer = trainer_of(tmp_path, 3, StopTogether(), accumulate_grad_batches=batches, enable_checkpointing=False)
    trainer.fit(Signalled([]), ten_batches())
    assert queued == [queued_after]  # counted from 0
    assert trainer.global_step == 3


def test_a_score_that_was_due_when_a_jobs_time_was_over_is_taken_by_whoever_goes_on(queued, tmp_path, monkeypatch):
    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", glance)
    saved = tmp_path / "job.ckpt"
    signal.signal(signal.SIGUSR1, lambda *_: Signalled.trainer.save_checkpoint(saved))  # after update 2
    trainer = trainer_of(tmp_path, 3, StopTogether(), Rollouts(every_n_updates=2, episodes=1), Checkpoint())
    trainer.fit(Signalled([]), ten_batches())
    trainer = trainer_of(tmp_path / "again", 3, Rollouts(every_n_updates=2, episodes=1), Checkpoint())
    trainer.fit(Chicken([]), ten_batches(), ckpt_path=saved)
    assert updates_scored(tmp_path / "again" / "version_0") == ["2", "3"]
    trainer = trainer_of(tmp_path / "over", 4, Rollouts(every_n_updates=2, episodes=1), Checkpoint())
    last = tmp_path / "again" / "version_0" / "checkpoints" / "last.ckpt"
    trainer.fit(Chicken([]), ten_batches(), ckpt_path=last)
    assert updates_scored(tmp_path / "over" / "version_0") == ["4"]


def test_a_job_whose_time_is_over_at_its_last_update_is_not_queued_again(queued, tmp_path):
    trainer = trainer_of(tmp_path, 2, StopTogether(), enable_checkpointing=False)
    trainer.fit(Signalled([]), ten_batches())
    assert trainer.global_step == 2
    assert not queued


class Late(Chicken):
    """An hour is over in the first batch of the second update, which has three."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            self.trainer.checkpoint_callback._last_time_checked = -math.inf  # pyright: ignore
        return super().training_step(batch, batch_idx)


def test_time_is_not_up_within_an_update(tmp_path):
    keep = Checkpoint(train_time_interval=timedelta(hours=1), dirpath=tmp_path, save_last=False, save_top_k=1)
    trainer_of(tmp_path, 3, keep, accumulate_grad_batches=3).fit(Late([]), ten_batches())
    (saved,) = (read_checkpoint(path) for path in tmp_path.glob("epoch*.ckpt"))
    assert saved["global_step"] == 2
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 6


def test_the_best_by_validation_is_not_looked_for_within_an_update(data):
    keep = Checkpoint("val/pong/agreement")
    trainer = quiet_trainer(max_steps=1, accumulate_grad_batches=3, val_check_interval=2, limit_val_batches=1,
                            callbacks=[keep], enable_checkpointing=True, check_val_every_n_epoch=None)  # fmt: skip
    with pytest.raises(ValueError, match=r"every 2 batches, of which an update has 3: .* a multiple of 3"):
        trainer.fit(PolicyDistillation(data.actions, "net3", "nll"), datamodule=data)


def test_weights_alone_are_kept_where_that_was_asked_for(tmp_path):
    keep = Checkpoint(save_weights_only=True, dirpath=tmp_path, every_n_train_steps=100)
    trainer_of(tmp_path, 2, keep).fit(Chicken([]), ten_batches())
    assert "optimizer_states" not in read_checkpoint(tmp_path / "last.ckpt")


def test_the_best_weights_lie_beside_the_others_elsewhere_too(tmp_path):
    keep = Checkpoint("rollout/freeway/return", dirpath="memory://bucket/run")
    assert keep._free(quiet_trainer(), "best") == "memory://bucket/run/best.ckpt"
    keep._kept_as = "memory://bucket/run/last.ckpt", 3
    assert keep._kept() == "no checkpoint was due yet"
    keep._fs.touch("memory://bucket/run/last.ckpt")
    assert "--ckpt_path memory://bucket/run/last.ckpt goes on" in keep._kept()


class Weighed(Chicken):
    """Its return is its weight."""

    def policies(self):
        return {"freeway": lambda states: self.weight.detach().expand(len(states), 3)}


def test_a_test_plays_the_weights_that_it_was_given_and_not_an_average_of_the_fit_before(tmp_path, monkeypatch):
    seen = []

    def note(policy, game, *_, **__):
        seen.append(float(policy(torch.zeros(1, 4, 84, 84, dtype=torch.uint8))[0, 0]))
        return glance(policy, game)

    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", note)
    play = Rollouts(episodes=1, at_start=False)
    trainer = trainer_of(tmp_path, 4, EMAWeightAveraging(decay=0.5), play, Checkpoint(every_n_train_steps=100))
    trainer.fit(Weighed([]), ten_batches())
    assert -4 < seen[-1] < -1
    other = Weighed([])
    other.weight.data.fill_(42.0)
    other.test_step = lambda *_: None
    trainer.test(other, ten_batches(), verbose=False)
    assert seen[-1] == 42


def test_an_average_that_is_scored_is_measured_on_held_out_states_too(data, tmp_path):
    student = PolicyDistillation(data.actions, "net3", "nll", warmup=0)
    trainer = quiet_trainer(max_steps=3, callbacks=[EMAWeightAveraging(decay=0.5)], limit_val_batches=0)
    trainer.fit(student, datamodule=data)
    bias = student.student.heads["pong"].output.bias.detach().clone()
    raw = {name: value + 1 for name, value in student.state_dict().items()}
    checkpoint = {"state_dict": student.state_dict(), "current_model_state": raw, "averaging_state": {},
                  "temperatures": {"pong": "auto"}}  # fmt: skip
    trainer.state.fn = "test"  # pyright: ignore[reportAttributeAccessIssue]
    student.on_load_checkpoint(checkpoint)
    assert "current_model_state" not in checkpoint
    trainer.state.fn = "fit"  # pyright: ignore[reportAttributeAccessIssue]
    student.on_load_checkpoint(going_on := {**checkpoint, "current_model_state": raw})
    assert "current_model_state" in going_on
    assert torch.equal(student.student.heads["pong"].output.bias, bias)


@pytest.mark.parametrize("numbers", [np.float64, np.float32, torch.tensor])
def test_numbers_of_numpy_and_torch_are_python_s_in_a_checkpoint(numbers, data, tmp_path):
    student = PolicyDistillation(
        data.actions, "net3", temperature={"pong": 0.5}, learning_rate=numbers(0.001), perplexity=numbers(3.0)
    )
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(student, datamodule=data)
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    settings = read_checkpoint(tmp_path / "student.ckpt")["hyper_parameters"]
    assert (type(settings["learning_rate"]), settings["perplexity"]) == (float, 3.0)


def test_a_temperature_that_is_given_is_not_the_checkpoints(data, tmp_path):
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(PolicyDistillation(data.actions, "net3", temperature=0.01), datamodule=data)
    trainer.save_checkpoint(path := tmp_path / "student.ckpt")
    assert PolicyDistillation.load_from_checkpoint(path).temperature("pong") == 0.01
    assert PolicyDistillation.load_from_checkpoint(path, temperature=0.05).temperature("pong") == 0.05
    assert PolicyDistillation.load_from_checkpoint(path, temperature="auto").temperature("pong") == 0.01


@pytest.mark.parametrize("finder", [LearningRateFinder, BatchSizeFinder])
def test_a_search_that_begins_anew_is_refused_where_a_run_goes_on(finder):
    trainer = quiet_trainer(callbacks=[finder()])
    with pytest.raises(ValueError, match=f"{finder.__name__} would begin the run anew: leave it out"):
        refuse_search(trainer, by_itself=False)
    refuse_search(trainer, by_itself=True)
    assert not any(isinstance(each, finder) for each in callbacks_of(trainer))


class Impatient(Callback):
    """Wants a run to end within its second update, as a Timer may."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.fit_loop.total_batch_idx == 4


@pytest.mark.parametrize(("batches", "learned"), [(1, 5), (3, 6)])
def test_an_update_that_was_begun_is_ended_before_a_run_is(batches, learned, tmp_path):
    trainer = trainer_of(tmp_path, 9, Impatient(), StopTogether(), accumulate_grad_batches=batches)
    trainer.fit(Chicken([]), ten_batches())
    assert batches_trained(trainer) == learned
    assert trainer.global_step == learned / batches


def test_the_loss_of_a_batch_is_nothing_for_a_schedule_to_wait_for():
    trainer = quiet_trainer(check_val_every_n_epoch=1)
    refuse_old_scores(trainer, "val/pong/loss")
    with pytest.raises(ValueError, match=r"'train/pong/loss' after each epoch: give .* a val/\.\.\. score"):
        refuse_old_scores(trainer, "train/pong/loss")


def test_a_thread_beside_mixed_precision_changes_nothing_of_the_process(monkeypatch):
    trainer = quiet_trainer(precision="bf16-mixed")
    monkeypatch.setattr(type(trainer.precision_plugin), "forward_context", None)
    with context_beside(trainer)():
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")


def updates_scored(folder):
    with (folder / "returns.csv").open(newline="") as file:
        return [line["update"] for line in csv.DictReader(file)]


class OneForAll(Logger):
    """As W&B's: all runs share its folder."""

    name, version, save_dir = "all", "3", "."  # pyright: ignore[reportAssignmentType]

    def log_metrics(self, metrics: Any, step: Any = None) -> None: ...

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None: ...


def test_runs_whose_logger_has_one_folder_for_all_leave_their_scores_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", glance)
    trainer = trainer_of(tmp_path, 1, Rollouts(episodes=1), Checkpoint())
    trainer.loggers = [OneForAll()]
    trainer.fit(Chicken([]), ten_batches())
    folder = run_folder(trainer)
    assert folder is not None
    assert folder.resolve() == tmp_path / "all" / "3"
    assert updates_scored(folder) == ["0", "1"]
    assert not (tmp_path / "returns.csv").exists()


class Enough(Callback):
    """Ends a run after so many updates, in the middle of an epoch."""

    def on_train_batch_end(self, trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == 5


def test_a_run_that_stops_early_has_a_last_score_and_can_go_on_with_the_rest_of_its_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", glance)
    keep, play = Checkpoint(every_n_train_steps=100), Rollouts(episodes=1, at_start=False)
    trainer_of(tmp_path, 9, EMAWeightAveraging(decay=0.5), Enough(), play, keep).fit(Chicken([]), ten_batches())
    last = read_checkpoint(tmp_path / "version_0" / "checkpoints" / "last.ckpt")
    assert last["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] == 0
    assert last["current_model_state"]["weight"] == -5
    assert updates_scored(tmp_path / "version_0") == ["5"]
