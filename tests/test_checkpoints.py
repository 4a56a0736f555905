"""Which weights are kept, and which ones as the best."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from crossing import Chicken, cross, glance, ten_batches, trainer_of
from pytorch_lightning.callbacks import EMAWeightAveraging, LambdaCallback, StochasticWeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.callbacks import Checkpoint, Rollouts
from pd_lightning.checkpoints import read_checkpoint
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation


@pytest.mark.parametrize("walks", [{0}, {7}, {3, 6}])
def test_the_best_weights_by_return_are_those_that_were_played_and_not_later_ones(walks, tmp_path, monkeypatch):
    returns, best = cross(tmp_path, monkeypatch, walks, "max")
    assert returns[best["global_step"]] > 0
    assert best["global_step"] in walks
    assert sum(value > 0 for value in returns.values()) == 1


def test_less_is_better_where_asked_for(tmp_path, monkeypatch):
    returns, best = cross(tmp_path, monkeypatch, {0, 2}, "min")
    assert (best["global_step"], returns[4]) == (4, 0)


def test_a_run_may_keep_the_best_weights_by_several_scores(tmp_path, monkeypatch):
    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", glance)
    keep = [Checkpoint("rollout/freeway/return", mode, dirpath=tmp_path / mode) for mode in ("max", "min")]
    play = Rollouts(every_n_updates=2, episodes=1)
    trainer_of(tmp_path, 5, play, *keep).fit(Chicken([0, 4]), DataLoader([torch.zeros(1)] * 10))  # pyright: ignore
    best = {
        each.name: read_checkpoint(each / "best.ckpt")["global_step"] for each in (tmp_path / "max", tmp_path / "min")
    }
    assert best == {"max": 0, "min": 2}


def test_a_score_that_is_no_number_is_never_the_best():
    keep = Checkpoint("rollout/pong/percent_of_teacher")
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[keep])
    trainer.state.fn = TrainerFn.FITTING
    trainer.callback_metrics["rollout/pong/percent_of_teacher"] = torch.tensor(torch.nan)
    keep.judge(trainer, "rollout/")  # nothing to save: there is no model
    assert keep.best.score is None


@pytest.mark.parametrize(("key", "mode"), [("val/pong/agreement", "max"), ("val/pong/loss", "min")])
def test_the_best_weights_by_validation_are_those_that_were_validated(key, mode, datasets, tmp_path):
    torch.manual_seed(0)
    data = TeacherDatasets(str(datasets), batch_size=64, validation=0.25, threads=1)
    student = PolicyDistillation(data.actions, size="net3", warmup=0, learning_rate=0.03)  # too much: it jumps about
    keep = Checkpoint(key, mode, every_n_train_steps=3)
    trainer = trainer_of(tmp_path, 12, keep, val_check_interval=2, check_val_every_n_epoch=None)
    trainer.fit(student, datamodule=data)
    folder = tmp_path / "version_0"
    with (folder / "metrics.csv").open(newline="") as file:
        scores = {int(line["step"]) + 1: float(line[key]) for line in csv.DictReader(file) if line[key]}
    assert list(scores) == [2, 4, 6, 8, 10, 12]
    best = read_checkpoint(folder / "checkpoints" / "best.ckpt")
    update = (max if mode == "max" else min)(scores, key=lambda update: scores[update])
    assert best["global_step"] == update
    student.load_state_dict(best["state_dict"])
    again = trainer.validate(student, datamodule=data, verbose=False)[0]
    assert again[key] == pytest.approx(scores[update])
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 12  # 3, 6, 9, 12, whatever the score


def test_what_is_validated_before_a_run_as_a_check_has_no_score(tmp_path):
    class Validated(Chicken):
        def validation_step(self, batch, batch_idx):
            self.log("val/freeway/weight", self.weight.detach(), batch_size=1)  # less with each update

    keep = Checkpoint("val/freeway/weight", save_top_k=0)
    check: Any = {"num_sanity_val_steps": 2, "val_check_interval": 2}
    trainer_of(tmp_path, 4, keep, **check).fit(Validated([]), ten_batches(), ten_batches())
    assert keep.best.score == -2
    assert read_checkpoint(Path(keep.best.path))["global_step"] == 2


@pytest.mark.parametrize(("top", "others"), [(0, []), (1, [4]), (-1, [2, 4])])
def test_without_a_monitor_only_the_newest_weights_are_kept_unless_more_is_wanted(datasets, tmp_path, top, others):
    data = TeacherDatasets(str(datasets), batch_size=64, validation=0.25, threads=1)
    keep = Checkpoint(every_n_train_steps=2, save_top_k=top)
    trainer_of(tmp_path, 4, keep).fit(PolicyDistillation(data.actions, size="net3"), datamodule=data)
    names = sorted(path.name for path in (tmp_path / "version_0" / "checkpoints").iterdir())
    assert names == [*(f"epoch=0-step={update}.ckpt" for update in others), "last.ckpt"]
    assert read_checkpoint(Path(keep.best_model_path))["global_step"] == 4  # what a test of "best" loads
    with pytest.raises(ValueError, match=r"save_last is False and checkpoint\.save_top_k 0, so no weights"):
        Checkpoint(save_last=False)


def test_weights_that_are_kept_after_each_epoch_are_there_when_the_next_begins(tmp_path):
    there = []
    keep = Checkpoint(dirpath=tmp_path, every_n_epochs=1)
    look = LambdaCallback(on_train_epoch_start=lambda *_: there.append((tmp_path / "last.ckpt").exists()))
    trainer_of(tmp_path, -1, keep, look, max_epochs=3, limit_train_batches=2).fit(Chicken([]), ten_batches())
    assert there == [False, True, True]


def test_the_best_of_a_run_without_a_score_is_its_newest_also_after_another_of_before(tmp_path):
    before = Checkpoint(dirpath=tmp_path / "before", every_n_train_steps=2, save_top_k=1)
    trainer_of(tmp_path, 2, before).fit(Chicken([]), ten_batches())
    after = Checkpoint(dirpath=tmp_path / "after", every_n_train_steps=2)
    trainer_of(tmp_path, 4, after).fit(Chicken([]), ten_batches(), ckpt_path=tmp_path / "before/last.ckpt")
    assert after.best_model_path == str(tmp_path / "after/last.ckpt")


def test_a_score_that_nobody_measures_is_an_error_that_lists_those_there_are(datasets, tmp_path):
    with pytest.raises(ValueError, match=r"'train/loss': choose a rollout/... or val/... score"):
        Checkpoint("train/loss")
    data = TeacherDatasets(str(datasets), batch_size=64, validation=0.25, threads=1)
    trainer = trainer_of(
        tmp_path, 4, Checkpoint("val/pong/divergence"), val_check_interval=2, check_val_every_n_epoch=None
    )
    with pytest.raises(ValueError, match="choose one of val/pong/agreement, val/pong/kl, val/pong/loss"):
        trainer.fit(PolicyDistillation(data.actions, size="net3"), datamodule=data)


@pytest.mark.parametrize(("key", "validation", "complaint"), [
    ("val/breakout/kl", 0.25, "the games are pong"),
    ("rollout/breakout/return", 0.25, "the games are pong"),
    ("val/pong/kl", 0.0, "nothing is held out"),
])  # fmt: skip
def test_a_score_that_will_never_be_measured_is_refused_before_anything_is_learned(
    key, validation, complaint, datasets, tmp_path
):
    data = TeacherDatasets(str(datasets), batch_size=64, validation=validation, threads=1)
    with pytest.raises(ValueError, match=complaint):
        trainer_of(tmp_path, 1, Checkpoint(key)).fit(PolicyDistillation(data.actions, size="net3"), datamodule=data)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_best_weights_of_before_stay_the_best_of_a_run_that_goes_on_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", glance)

    def run(folder, updates, walks, **more):
        keep = Checkpoint("rollout/freeway/return", every_n_train_steps=1)
        trainer = trainer_of(tmp_path / folder, updates, Rollouts(every_n_updates=1, episodes=1), keep)
        trainer.fit(Chicken(walks), ten_batches(), **more)
        return keep

    first = run("first", 2, [1])
    assert read_checkpoint(Path(first.best_model_path))["global_step"] == 1
    last = tmp_path / "first" / "version_0" / "checkpoints" / "last.ckpt"
    for walks in ([], [3]):  # as good is no better
        again = run(f"again{len(walks)}", 4, walks, ckpt_path=last)
        assert again.best_model_path == again.best.path == first.best.path
        assert again.best_model_score == 1
    other = read_checkpoint(last)
    for state in other["callbacks"].values():
        if "best_score" in state:
            state["best_score"] = 0.5
    torch.save(other, tmp_path / "worse.ckpt")
    better = run("better", 4, [3], ckpt_path=tmp_path / "worse.ckpt")
    assert Path(better.best_model_path).is_relative_to(tmp_path / "better")
    assert read_checkpoint(Path(first.best.path))["global_step"] == 1  # of another run: left alone


def test_several_best_weights_are_refused_by_name():
    with pytest.raises(ValueError, match=r"checkpoint\.save_top_k is 3.*best\.ckpt"):
        Checkpoint("rollout/pong/return", save_top_k=3)


def test_runs_that_share_a_folder_leave_each_others_weights_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", glance)
    left = {}
    for number, updates in enumerate((2, 4)):
        keep = Checkpoint("rollout/freeway/return", every_n_train_steps=1, dirpath=tmp_path / "shared", save_top_k=0)
        trainer = trainer_of(tmp_path / str(number), updates, Rollouts(episodes=1), keep)
        trainer.fit(Chicken([]), ten_batches())
        left |= {path: read_checkpoint(path)["global_step"] for path in (tmp_path / "shared").iterdir()} | left
    names = {path.name: update for path, update in left.items()}
    assert names == {"last.ckpt": 2, "best.ckpt": 0, "last-v1.ckpt": 4, "best-v1.ckpt": 0}
    keep = Checkpoint("rollout/freeway/return", every_n_train_steps=1, dirpath=tmp_path / "shared", save_top_k=0)
    trainer = trainer_of(tmp_path / "again", 6, Rollouts(episodes=1), keep)
    trainer.fit(Chicken([6]), ten_batches(), ckpt_path=tmp_path / "shared" / "last-v1.ckpt")
    assert {path.name for path in (tmp_path / "shared").iterdir()} == names.keys()  # it goes on with its own
    for name in ("last", "best"):
        assert read_checkpoint(tmp_path / "shared" / f"{name}-v1.ckpt")["global_step"] == 6


def test_the_last_weights_are_kept_as_they_were_trained_and_not_only_averaged(tmp_path):
    average = EMAWeightAveraging(decay=0.5)
    trainer_of(tmp_path, 4, average, Checkpoint(every_n_train_steps=100)).fit(Chicken([]), ten_batches())
    last = read_checkpoint(tmp_path / "version_0" / "checkpoints" / "last.ckpt")
    assert (last["global_step"], last["current_model_state"]["weight"]) == (4, -4)
    assert -4 < last["state_dict"]["weight"] < 0


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_whole(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, 4, keeper := Checkpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=0))
    written = []

    def half(checkpoint, path, save=torch.save):
        save(checkpoint, path)
        if isinstance(path, io.BytesIO):  # to see whether it can be loaded again
            return
        written.append(Path(path.name))
        if len(written) == 2:
            path.truncate(100)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        trainer.fit(Chicken([]), ten_batches())
    assert {path.parent for path in written} == {tmp_path}  # of one file system: a name changes at once or not at all
    assert torch.load(keeper.last_model_path, weights_only=True)["global_step"] == 2
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


def test_weights_that_are_not_finite_are_not_kept_and_end_the_run(tmp_path):
    class Diverging(Chicken):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.inf if self.global_step == 3 else 1)

    trainer = trainer_of(tmp_path, 6, Checkpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=0))
    with pytest.raises(ValueError, match=r"after 4 updates weights are not finite .*last\.ckpt goes on from update 2"):
        trainer.fit(Diverging([]), ten_batches())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_score_of_another_kind_is_not_the_one_to_beat():
    keep = Checkpoint("rollout/pong/return")
    keep.best.score = 18.0
    for other in (Checkpoint("val/pong/agreement"), Checkpoint("rollout/pong/return", "min")):
        other.load_state_dict(keep.state_dict())
        assert other.best.score is None
    again = Checkpoint("rollout/pong/return")
    again.load_state_dict(keep.state_dict())
    assert again.best.score == 18.0


def test_where_weights_are_averaged_those_are_played_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", Protocol("short", epsilon=0.0, noop_max=0, frame_limit=40))
    played = []

    class Looking(Chicken):
        def policies(self):
            def look(states):
                played.append(self.weight.item())
                return torch.eye(3)[0].expand(len(states), -1)

            return {"freeway": look}

    keep = Checkpoint("rollout/freeway/return", every_n_train_steps=100)
    play = Rollouts(every_n_updates=3, episodes=1, protocol="short", at_start=False, at_end=False)
    module = Looking([])
    trainer_of(tmp_path, 4, EMAWeightAveraging(decay=0.5), play, keep).fit(module, ten_batches())
    best = read_checkpoint(tmp_path / "version_0" / "checkpoints" / "best.ckpt")
    assert best["current_model_state"]["weight"] == -3
    assert set(played) == {best["state_dict"]["weight"].item()}
    assert -3 < played[0] < -1


@pytest.mark.parametrize("each", [Rollouts(at_start=False, at_end=False), Checkpoint()])
def test_an_average_that_would_be_neither_scored_nor_kept_is_refused(tmp_path, each):
    trainer = trainer_of(tmp_path, 4, StochasticWeightAveraging(1.0), each)
    with pytest.raises(ValueError, match="EMAWeightAveraging, whose average is scored and kept"):
        trainer.fit(Chicken([]), ten_batches())
