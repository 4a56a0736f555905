"""What the Trainer's own options and callbacks do here: what they promise, or a line that says why not."""

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import quiet_trainer
from pytorch_lightning.callbacks import EarlyStopping, LearningRateFinder
from running import Run

from pd_lightning.callbacks import Checkpoint, Rollouts
from pd_lightning.checkpoints import read_checkpoint
from pd_lightning.cli import main
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.pqn import PQN

TINY = ["--data.batch_size=64", "--data.threads=1", "--model.size=net3", "--trainer.max_steps=2", "--model.loss=nll",
        "--rollouts.at_start=false", "--rollouts.at_end=false", "--film.enabled=false",
        "--trainer.enable_progress_bar=false"]  # fmt: skip
EMA = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"


@pytest.fixture
def data(datasets):
    return TeacherDatasets(str(datasets), batch_size=64, threads=1)


@pytest.fixture
def module(data):
    return PolicyDistillation(data.actions, "net3", "nll")


@pytest.fixture
def fit(datasets, tmp_path, monkeypatch):
    """Runs `train.py fit`, from the newest checkpoint if that is asked for."""
    monkeypatch.setattr("sys.argv", ["train.py"])

    def run(*words):
        main(["fit", f"--data.root={datasets}", f"--trainer.default_root_dir={tmp_path}", *TINY, *words])

    return run


@pytest.fixture
def refused(fit, capsys):
    """Runs a command that must end with one line that holds all of `reasons`."""

    def run(*words, reasons):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            fit(*words)
        assert stopped.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        for reason in reasons:
            assert reason in line

    return run


def test_best_is_the_best_for_lightning_too_once_the_fit_has_ended(data, module, tmp_path):
    keep = Checkpoint("val/pong/loss", "min", dirpath=tmp_path, every_n_train_steps=1)
    trainer = quiet_trainer(max_epochs=1, max_steps=6, val_check_interval=2, check_val_every_n_epoch=None,
                            callbacks=[keep], enable_checkpointing=True)  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert keep.best_model_path == keep.best.path == str(tmp_path / "best.ckpt")
    assert float(keep.best_model_score or 0) == keep.best.score
    (measured,) = trainer.validate(module, data, ckpt_path="best", verbose=False)
    assert measured["val/pong/loss"] == pytest.approx(keep.best.score)


def test_a_subclass_that_takes_anything_loads_what_a_trainer_in_python_saved(data, tmp_path):
    class Mine(PolicyDistillation):
        def __init__(self, *args, delta=1.0, **kwargs):
            super().__init__(*args, **kwargs)
            self.delta = delta

    keep = Checkpoint(dirpath=tmp_path, every_n_train_steps=1)
    trainer = quiet_trainer(max_steps=2, callbacks=[keep], enable_checkpointing=True)
    trainer.fit(Mine(data.actions, size="net3", loss="nll", delta=0.3), datamodule=data)
    assert Mine.load_from_checkpoint(tmp_path / "last.ckpt").delta == 0.3


def test_means_over_held_out_states_are_not_taken_in_bfloat16(data, module):
    trainer = quiet_trainer(precision="bf16-true", max_steps=1, limit_val_batches=1)
    trainer.fit(module, datamodule=data)
    assert module.metrics["pong"]["loss"].mean_value.dtype == torch.float32  # pyright: ignore
    trainer.test(module, data, verbose=False)
    assert module.metrics["pong"]["loss"].mean_value.dtype == torch.float32  # pyright: ignore


def test_learning_does_not_go_on_from_averages(fit, refused):
    fit(EMA, "--trainer.callbacks.decay=0.9")
    refused("--ckpt_path=last", "--trainer.max_steps=4", reasons=["weights are averages", "EMAWeightAveraging"])
    fit(EMA, "--trainer.callbacks.decay=0.9", "--ckpt_path=last", "--trainer.max_steps=4")


def test_a_learning_rate_that_was_found_is_used(data, module):
    rates = []
    finder = LearningRateFinder(1e-5, 1e-1, num_training_steps=20)
    module.warmup = 0
    module.on_train_batch_start = lambda *_: rates.append(module.optimizers().param_groups[0]["lr"])
    quiet_trainer(max_steps=5, max_epochs=3, callbacks=[finder]).fit(module, datamodule=data)
    assert module.learning_rate != 3e-3
    assert rates[-5] == pytest.approx(module.learning_rate)


@pytest.mark.parametrize(("words", "reasons"), [
    (["--lr_scheduler.monitor=val/pong/loss"], ["after each epoch", "--trainer.val_check_interval null"]),
    (["--lr_scheduler.monitor=rollout/pong/return", "--trainer.val_check_interval=null",
      "--trainer.check_val_every_n_epoch=1"], ["after each epoch", "val/... score"]),
])  # fmt: skip
def test_a_schedule_that_waits_for_a_score_must_get_a_new_one_each_time(refused, words, reasons):
    refused("--optimizer=torch.optim.Adam", "--optimizer.lr=1e-3", "--lr_scheduler=ReduceLROnPlateau", *words,
            reasons=reasons)  # fmt: skip


def test_a_schedule_that_waits_for_a_score_after_each_epoch_gets_it(fit):
    fit("--optimizer=torch.optim.Adam", "--optimizer.lr=1e-3", "--lr_scheduler=ReduceLROnPlateau",
        "--lr_scheduler.monitor=val/pong/loss", "--trainer.val_check_interval=null", "--trainer.max_steps=-1",
        "--trainer.check_val_every_n_epoch=1", "--trainer.max_epochs=2")  # fmt: skip


@pytest.mark.parametrize(("monitor", "validated", "played", "reason"), [
    ("rollout/pong/return", 4, 3, "there must be a new score each time"),
    ("rollout/pong/return", 4, 0, "there must be a new score each time"),
    ("rollout/pong/return", 4, 2, ""),
    ("rollout/breakout/return", 4, 2, "the games are pong"),
    ("val/pong/loss", 4, 3, ""),
])  # fmt: skip
def test_early_stopping_never_takes_an_old_score_for_a_new_one(data, module, monitor, validated, played, reason):
    stop = EarlyStopping(monitor, strict=False)
    trainer = quiet_trainer(
        max_steps=1,
        callbacks=[stop, Rollouts(played, at_start=False, at_end=False)],
        val_check_interval=validated,
        check_val_every_n_epoch=None,
    )
    if reason:
        with pytest.raises(ValueError, match=reason):
            trainer.fit(module, datamodule=data)
    else:
        trainer.fit(module, datamodule=data)


@pytest.mark.parametrize(("played", "settings", "told"), [
    (3, {}, "--rollouts.every_n_updates 4"),
    (0, {}, "--rollouts.every_n_updates 4"),
    (8, {}, "--rollouts.every_n_updates 4"),
    (4, {}, ""),
    (2, {}, ""),
    (3, {"accumulate_grad_batches": 3}, "--rollouts.every_n_updates 2"),  # the last update is of one batch
    (2, {"accumulate_grad_batches": 3}, ""),
    (4, {"check_val_every_n_epoch": 3}, ""),
    (6, {"check_val_every_n_epoch": 3}, ""),
    (5, {"check_val_every_n_epoch": 3}, "--rollouts.every_n_updates 12"),
])  # fmt: skip
def test_nor_does_early_stopping_in_a_run_that_is_counted_by_epochs(data, module, played, settings, told, monkeypatch):
    scored = []
    monkeypatch.setattr(Rollouts, "_play", lambda *_: scored.append(True))
    stop = EarlyStopping("rollout/pong/return", strict=False)
    score = Rollouts(played, at_start=True, at_end=False)
    trainer = quiet_trainer(max_epochs=1, callbacks=[stop, score], limit_train_batches=4, **settings)
    if told:
        with pytest.raises(ValueError, match=f"there must be a new score each time; give {told}, or a part of it"):
            trainer.fit(module, datamodule=data)
        assert not scored  # nothing was computed
    else:
        trainer.fit(module, datamodule=data)
        assert scored


def test_a_score_that_early_stopping_never_finds_is_one_line(refused):
    refused("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/pong/los",
            "--trainer.val_check_interval=1", reasons=["val/pong/los", "val/pong/loss"])  # fmt: skip


def test_weights_alone_are_nothing_to_go_on_from(fit, refused):
    fit("--checkpoint.save_weights_only=true", "--checkpoint.every_n_train_steps=1", "--checkpoint.save_last=false",
        "--checkpoint.save_top_k=1", "--checkpoint.filename=mine")  # fmt: skip
    refused("--ckpt_path=lightning_logs/version_0/checkpoints/mine.ckpt", "--trainer.max_steps=4",
            reasons=["mine.ckpt: holds weights alone", "`test`"])  # fmt: skip


def test_a_batch_size_is_no_bodys_to_find(data, refused):
    with pytest.raises(ValueError, match="batch_size is 64 and cannot become 16: make other TeacherDatasets"):
        data.batch_size = 16
    refused("--trainer.callbacks+=BatchSizeFinder", reasons=["cannot become", "choice of learning"])


@pytest.mark.parametrize("kind", [PolicyDistillation, PQN])
def test_loaders_alone_are_refused(data, kind):
    with pytest.raises(ValueError, match=f"{kind.__name__} learns from a data module"):
        quiet_trainer().fit(kind(data.actions, size="net3"), train_dataloaders=data.batches())


def test_a_module_that_has_learned_sees_other_data_as_it_saw_the_first(datasets, data, module):
    quiet_trainer(max_steps=1).fit(module, datamodule=data)
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    before = module.student({"pong": states})["pong"]
    other = TeacherDatasets(str(datasets), batch_size=64, threads=1, validation=0.6, seed=3)
    quiet_trainer(max_steps=0).fit(module, datamodule=other)
    assert torch.equal(module.student({"pong": states})["pong"], before)


def test_nothing_held_out_is_nothing_to_validate(fit, datasets, tmp_path, capsys):
    fit()
    with pytest.raises(SystemExit) as stopped:
        main(["validate", f"--data.root={datasets}", f"--trainer.default_root_dir={tmp_path}", "--data.validation=0",
              "--ckpt_path=last"])  # fmt: skip
    assert stopped.value.code == 2
    assert "error: validate asks for held-out states" in capsys.readouterr().err


def test_a_teacher_plays_without_a_trainer():
    outputs = PQN({"pong": 6}, "net3").policies()["pong"](torch.zeros(2, 4, 84, 84, dtype=torch.uint8))
    assert outputs.shape == (2, 6)


@pytest.mark.parametrize(("words", "reason"), [
    (["--trainer.barebones=true"], "barebones leaves out"),
    (["--trainer.strategy=fsdp"], "fsdp"),
])  # fmt: skip
def test_what_leaves_nothing_to_play_with_is_refused(refused, words, reason):
    refused(*words, reasons=[reason])


def second_rank(pid):
    """The process that Lightning has started beside the first."""
    return next(each for each in psutil.Process(pid).children() if "train.py" in " ".join(each.cmdline()))


@pytest.mark.parametrize("told", ["the second", "all"])
def test_sigterm_to_one_process_or_to_all_ends_all_of_them_together(datasets, tmp_path, told):
    run = Run(tmp_path, "fit", f"--data.root={datasets}", *TINY, "--trainer.max_steps=1000000", "--trainer.devices=2",
              "--trainer.strategy=ddp", "--trainer.accelerator=cpu", "--checkpoint.every_n_train_steps=3")  # fmt: skip
    run.until("lightning_logs/version_0/checkpoints/last.ckpt")
    if told == "all":
        os.killpg(run.pid, signal.SIGTERM)
    else:
        second_rank(run.pid).terminate()
    status, output = run.end(timeout=120)
    assert status == 143
    assert "the same command with --ckpt_path" in " ".join(output.split())
    assert "Traceback" not in output


class Named(PolicyDistillation):
    """Somebody's own, with an argument that is no plain value, and all arguments in its checkpoints."""

    def __init__(self, games, extra, **settings):
        super().__init__(games, "net3", **settings)
        self.save_hyperparameters()


@pytest.mark.parametrize(("extra", "kind"), [
    (Path("here"), "PosixPath"), (torch.nn.Linear(2, 2), "Linear"), (np.ones(2), "ndarray"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`")
def test_arguments_that_no_checkpoint_could_be_loaded_with_are_refused_before_the_run(extra, kind, data, tmp_path):
    trainer = quiet_trainer(max_steps=1, callbacks=[Checkpoint(dirpath=tmp_path)], enable_checkpointing=True)
    with pytest.raises(ValueError, match=f"Named's extra is a {kind}, .*save_hyperparameters\\(ignore=\\['extra'\\]"):
        trainer.fit(Named(data.actions, extra), datamodule=data)


@pytest.mark.parametrize("extra", [None, "here", {"a": [1, 2.5, (True, "b")]}, torch.ones(3)])
def test_arguments_that_are_plain_values_are_in_checkpoints_that_load(extra, data, tmp_path):
    trainer = quiet_trainer(max_steps=1, callbacks=[Checkpoint(dirpath=tmp_path)], enable_checkpointing=True)
    trainer.fit(Named(data.actions, extra), datamodule=data)
    assert str(read_checkpoint(tmp_path / "last.ckpt")["hyper_parameters"]["extra"]) == str(extra)
