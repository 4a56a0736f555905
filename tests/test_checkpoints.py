"""Which weights are kept as the best ones, and which ones `--ckpt_path` means."""

import csv
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.utils.data import DataLoader

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.callbacks import Checkpoint, Rollouts
from pd_lightning.checkpoints import (
    CheckpointError,
    explicit_model_options,
    find_checkpoint,
    is_over,
    read_checkpoint,
    refuse_contradictions,
)
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.resuming import ResumeError
from pd_lightning.rollout import Returns


class Chicken(pl.LightningModule):
    """Crosses the road of Freeway only after the updates in `walks`: then, and only then, its return is above 0."""

    def __init__(self, walks):
        super().__init__()
        self.save_hyperparameters()
        self.walks, self.weight = walks, nn.Parameter(torch.zeros(1))

    def policies(self):
        action = int(self.trainer.global_step in self.walks)  # 0 stays, 1 goes up, 2 down
        return {"freeway": lambda states: torch.eye(3)[action].expand(len(states), -1)}

    def training_step(self, batch, batch_idx):
        return self.weight.sum() - 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)  # the weight counts updates, downwards


def trainer_of(folder, updates, *callbacks, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    logger, callbacks = CSVLogger(folder, "", 0), list(callbacks)
    return pl.Trainer(
        accelerator="cpu",
        max_steps=updates,
        logger=logger,
        callbacks=callbacks,
        log_every_n_steps=1,
        **{**quiet, **settings},
    )


def glance(policy, game, *_, **__):
    """A score without a game: 1 for who walks."""
    walks = policy(torch.zeros(1, 4, 84, 84, dtype=torch.uint8)).argmax(1).numpy() == 1
    return Returns(game, "paper", walks.astype(float), np.ones(1, int), np.ones(1, int), False)


def cross(folder, monkeypatch, walks, mode):
    """A run of seven updates, played after every second one and at the end; returns the best weights."""
    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", glance)
    play = Rollouts(every_n_updates=2, episodes=1)
    keep = Checkpoint("rollout/freeway/return", mode, every_n_train_steps=3)
    trainer_of(folder, 7, play, keep).fit(Chicken(list(walks)), DataLoader([torch.zeros(1)] * 10))  # pyright: ignore
    best = read_checkpoint(folder / "version_0" / "checkpoints" / "best.ckpt")
    assert best["state_dict"]["weight"] == -best["global_step"]
    with (folder / "version_0" / "returns.csv").open(newline="") as file:
        returns = {int(line["update"]): float(line["return"]) for line in csv.DictReader(file)}
    assert list(returns) == [0, 2, 4, 6, 7]
    assert keep.best_score == returns[best["global_step"]]
    return returns, best


@pytest.mark.parametrize("walks", [{0}, {7}, {3, 6}])
def test_the_best_weights_by_return_are_those_that_were_played_and_not_later_ones(walks, tmp_path, monkeypatch):
    returns, best = cross(tmp_path, monkeypatch, walks, "max")
    assert returns[best["global_step"]] > 0
    assert best["global_step"] in walks
    assert sum(value > 0 for value in returns.values()) == 1


def test_less_is_better_where_asked_for(tmp_path, monkeypatch):
    returns, best = cross(tmp_path, monkeypatch, {0, 2}, "min")
    assert (best["global_step"], returns[4]) == (4, 0)


@pytest.mark.parametrize("walks", [[8], []])
def test_a_resumed_run_has_the_score_of_the_first_one_to_beat(walks, tmp_path, monkeypatch):
    cross(tmp_path, monkeypatch, {4}, "max")
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == 7
    play = Rollouts(every_n_updates=2, episodes=1)
    keep = Checkpoint("rollout/freeway/return", "max", every_n_train_steps=5, dirpath=tmp_path / "new")
    trainer = trainer_of(tmp_path / "again", 8, play, keep)
    trainer.fit(Chicken(walks), DataLoader([torch.zeros(1)] * 10), ckpt_path=last)  # pyright: ignore
    assert (tmp_path / "new" / "last.ckpt").exists()
    assert not (tmp_path / "new" / "best.ckpt").exists()  # as good as before is not better


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
    assert keep.best_score is None


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
    assert keep.best_score == -2
    assert read_checkpoint(Path(keep.best_path))["global_step"] == 2


def test_without_a_monitor_only_the_newest_weights_are_kept(datasets, tmp_path):
    data = TeacherDatasets(str(datasets), batch_size=64, validation=0.25, threads=1)
    keep = Checkpoint(every_n_train_steps=2)
    trainer_of(tmp_path, 4, keep).fit(PolicyDistillation(data.actions, size="net3"), datamodule=data)
    names = sorted(path.name for path in (tmp_path / "version_0" / "checkpoints").iterdir())
    assert names == ["epoch=0-step=4.ckpt", "last.ckpt"]


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


def test_what_a_run_goes_on_from_is_not_saved_again_in_the_middle_of_an_update(tmp_path):
    every: Any = {"every_n_train_steps": 2, "save_top_k": -1}
    trainer_of(tmp_path, 3, Checkpoint(**every), accumulate_grad_batches=3).fit(Chicken([]), ten_batches())
    (saved,) = (tmp_path / "version_0" / "checkpoints").glob("*step=2.ckpt")
    again = trainer_of(tmp_path / "again", 3, Checkpoint(**every), accumulate_grad_batches=3)
    again.fit(Chicken([]), ten_batches(), ckpt_path=saved)
    assert [path.name for path in (tmp_path / "again").rglob("*.ckpt")] == ["last.ckpt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_whole(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, 4, keeper := Checkpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=0))
    written = []

    def half(checkpoint, path, save=torch.save):
        save(checkpoint, path)
        written.append(Path(path))
        if len(written) == 2:
            Path(path).write_bytes(Path(path).read_bytes()[:100])
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
    with pytest.raises(ValueError, match=r"after 4 updates weights are not finite .*--ckpt_path \S+last\.ckpt goes on"):
        trainer.fit(Diverging([]), ten_batches())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_score_of_another_kind_is_not_the_one_to_beat():
    keep = Checkpoint("rollout/pong/return")
    keep.best_score = 18.0
    for other in (Checkpoint("val/pong/agreement"), Checkpoint("rollout/pong/return", "min")):
        other.load_state_dict(keep.state_dict())
        assert other.best_score is None
    again = Checkpoint("rollout/pong/return")
    again.load_state_dict(keep.state_dict())
    assert again.best_score == 18.0


def ten_batches():
    return DataLoader([torch.zeros(1)] * 10)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("updates", [6, 10, 13])
def test_an_epoch_that_was_cut_short_is_finished_by_who_goes_on(updates, tmp_path):
    keep = Checkpoint(every_n_train_steps=100)
    trainer = trainer_of(tmp_path, updates, keep)
    trainer.fit(Chicken([]), ten_batches())
    progress = trainer.fit_loop.epoch_progress.current
    assert progress.ready == progress.processed == progress.completed  # pyright: ignore[reportAttributeAccessIssue]
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    again = trainer_of(tmp_path / "again", -1, Checkpoint(every_n_train_steps=100), max_epochs=2)
    assert not is_over(read_checkpoint(last), again)
    again.fit(Chicken([]), ten_batches(), ckpt_path=last)
    assert again.global_step == 20


def test_who_waits_for_a_score_to_rise_knows_after_a_resumption_what_it_was(tmp_path, monkeypatch):
    cross(tmp_path, monkeypatch, {4}, "max")
    patience = EarlyStopping("rollout/freeway/return", mode="max", patience=9, check_on_train_epoch_end=True)
    play = Rollouts(episodes=1, at_end=False)
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    trainer = trainer_of(tmp_path / "again", 10, play, patience)
    trainer.fit(Chicken([]), ten_batches(), ckpt_path=last)  # it would end in "not available"
    assert patience.best_score == 0.0  # of update 7, the last one before


@pytest.mark.parametrize("option", ["optimizer", "seed"])
def test_a_run_does_not_go_on_with_another_optimizer_or_seed(option, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    trainer_of(tmp_path, 2, Checkpoint(every_n_train_steps=2)).fit(Chicken([]), ten_batches())
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    module = Chicken([])
    if option == "seed":
        monkeypatch.setenv("PL_GLOBAL_SEED", "2")
    else:
        monkeypatch.setattr(module, "configure_optimizers", lambda: torch.optim.RMSprop(module.parameters()))
    said = {"seed": "seed_everything was 1 .* is 2 now", "optimizer": "optimizer was SGD .* is RMSprop now"}[option]
    with pytest.raises(ResumeError, match=said):
        trainer_of(tmp_path / "again", 4, Checkpoint()).fit(module, ten_batches(), ckpt_path=last)


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


def test_an_average_that_would_be_neither_scored_nor_kept_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, 4, StochasticWeightAveraging(1.0), Rollouts(at_start=False, at_end=False))
    with pytest.raises(ValueError, match="EMAWeightAveraging, whose average is scored and kept"):
        trainer.fit(Chicken([]), ten_batches())


@pytest.mark.parametrize(
    ("updates", "epochs", "max_steps", "max_epochs", "over"),
    [(4, 0, 4, None, True), (5, 0, 4, -1, True), (3, 0, 4, -1, False), (9, 2, -1, 2, True), (9, 1, -1, 2, False)],
)
def test_a_run_is_over_when_it_has_had_all_its_updates_or_epochs(updates, epochs, max_steps, max_epochs, over):
    trainer = pl.Trainer(accelerator="cpu", max_steps=max_steps, max_epochs=max_epochs, logger=False)
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": epochs}}}}
    assert is_over({"global_step": updates, "loops": loops}, trainer) is over


def test_last_and_best_are_the_newest_files_of_these_names(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for age, folder in enumerate(folders[:2]):
        folder.mkdir()
        for name in ("last.ckpt", "best.ckpt", "epoch=0-step=4.ckpt"):
            (folder / name).touch()
            os.utime(folder / name, (0, 100 - age))
    os.utime(folders[1] / "best.ckpt", (0, 200))
    assert find_checkpoint("last", folders) == folders[0] / "last.ckpt"
    assert find_checkpoint("best", folders) == folders[1] / "best.ckpt"
    assert find_checkpoint(str(folders[1] / "last.ckpt"), []) == folders[1] / "last.ckpt"
    for name in ("last", "best", "no_such.ckpt", str(tmp_path)):
        with pytest.raises(CheckpointError, match=r"no run here has left|there is no such file|has no last\.ckpt"):
            find_checkpoint(name, [])


def test_a_runs_folder_stands_for_its_newest_weights(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    for folder in (tmp_path, tmp_path / "checkpoints"):
        assert find_checkpoint(str(folder), []) == tmp_path / "checkpoints" / "last.ckpt"


def test_last_is_refused_where_the_newest_run_was_killed_before_its_first_checkpoint(tmp_path):
    folders = [tmp_path / version / "checkpoints" for version in ("version_0", "version_1")]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / "last.ckpt").touch()
    os.utime(folders[0] / "last.ckpt", (0, 100))
    with pytest.raises(CheckpointError, match=r"version_1, the newest run here, .*without --ckpt_path, or name .*0"):
        find_checkpoint("last", folders)
    os.utime(folders[1], (0, 50))
    assert find_checkpoint("last", folders) == folders[0] / "last.ckpt"


class Evil:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state_dict": {}, "hyper_parameters": {"size": Evil()}}, "not a whole checkpoint that loads without running"),
        (b"not a checkpoint", "not a whole checkpoint"),
        (b"", "not a whole checkpoint"),
        ({"weights": torch.zeros(1)}, "has no state_dict and hyper_parameters"),
        ({"state_dict": [1], "hyper_parameters": {}}, "has no state_dict and hyper_parameters"),
        ([torch.zeros(1)], "has no state_dict and hyper_parameters"),
    ],
)
def test_a_file_that_is_no_checkpoint_or_holds_code_is_refused_unrun(content, reason, tmp_path):
    file = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(file)
    assert str(file) in str(caught.value)
    assert not Path("owned").exists()


def test_half_a_checkpoint_is_refused_and_a_whole_one_beside_it_named(tmp_path):
    torch.save({}, tmp_path / "epoch=1-step=2.ckpt")
    (tmp_path / ".12-last.ckpt").touch()  # what a killed process was about to write
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a whole .*; name another, .*step=2\.ckpt perhaps"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_half_a_checkpoint_is_refused(tmp_path):
    file = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}, "hyper_parameters": {}}, file)
    file.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--data.root", "x", "--trainer.max_steps=3"], set()),
        (["--model.size", "net1", "--model.init_args.loss=kl"], {"size", "loss"}),
        (["--model", "pd_lightning.pqn.PQN"], {"class_path"}),
        (["--model=PQN", "--model.size=dqn"], {"class_path", "size"}),
        (["--model", '{"class_path": "PQN", "init_args": {"size": "dqn"}}'], {"class_path", "size"}),
        (["--model", "model.yaml"], {"class_path", "loss"}),
        (["--config", "run.yaml", "--config=model.yaml"], {"temperature"}),
    ],
)
def test_options_of_the_model_are_recognised_in_every_form_that_they_take(words, given, tmp_path):
    Path("model.yaml").write_text("class_path: PolicyDistillation\ninit_args:\n  loss: nll\n")
    Path("run.yaml").write_text("model:\n  init_args:\n    temperature: 0.1\ntrainer:\n  max_steps: 3\n")
    files = [Path("run.yaml")] if "run.yaml" in words else []
    assert explicit_model_options(words, files) == given


def test_only_a_real_contradiction_with_the_checkpoint_is_refused():
    saved = {"_class_path": "pd_lightning.distillation.PolicyDistillation", "size": "net1", "learning_rate": 0.003}
    model = Namespace(
        class_path="pd_lightning.distillation.PolicyDistillation",
        init_args=Namespace(size="net2", learning_rate=0.003, warmup=7),
    )
    path = Path("x.ckpt")
    refuse_contradictions(path, saved, model, given=set())  # a default says nothing
    refuse_contradictions(path, saved, model, given={"learning_rate", "warmup"})  # agrees; was not known then
    with pytest.raises(
        CheckpointError, match=r"--model.size is net2, but x.ckpt was trained with net1; leave the option"
    ):
        refuse_contradictions(path, saved, model, given={"size"})
    model.class_path = "pd_lightning.pqn.PQN"
    with pytest.raises(
        CheckpointError, match=r"--model is PQN, but x.ckpt was trained with distillation.PolicyDistillation; give"
    ):
        refuse_contradictions(path, saved, model, given=set())
