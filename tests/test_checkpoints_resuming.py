"""Which weights `--ckpt_path` means, how a run goes on from them, and what is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from crossing import Chicken, cross, ten_batches, trainer_of
from jsonargparse import Namespace
from torch.utils.data import DataLoader

from pd_lightning.callbacks import Checkpoint, Rollouts
from pd_lightning.checkpoints import (
    CheckpointError,
    explicit_model_options,
    find_checkpoint,
    is_over,
    read_checkpoint,
    refuse_contradictions,
)
from pd_lightning.resuming import ResumeError


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


def test_what_a_run_goes_on_from_is_not_saved_again_in_the_middle_of_an_update(tmp_path):
    every: Any = {"every_n_train_steps": 2, "save_top_k": -1}
    trainer_of(tmp_path, 3, Checkpoint(**every), accumulate_grad_batches=3).fit(Chicken([]), ten_batches())
    (saved,) = (tmp_path / "version_0" / "checkpoints").glob("*step=2.ckpt")
    again = trainer_of(tmp_path / "again", 3, Checkpoint(**every), accumulate_grad_batches=3)
    again.fit(Chicken([]), ten_batches(), ckpt_path=saved)
    assert [path.name for path in (tmp_path / "again").rglob("*.ckpt")] == ["last.ckpt"]


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
    play = Rollouts(episodes=1, at_end=False)
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    trainer = trainer_of(tmp_path / "again", 10, play)
    trainer.fit(Chicken([]), ten_batches(), ckpt_path=last)
    assert trainer.callback_metrics["rollout/freeway/return"] == 0.0  # of update 7, the last one before


@pytest.mark.parametrize(("spent", "over"), [(4.0, False), (5.0, True)])
def test_a_run_is_over_when_it_has_had_all_its_time(spent, over):
    trainer = pl.Trainer(accelerator="cpu", max_time="00:00:00:05", logger=False)
    checkpoint = {"global_step": 3, "callbacks": {"Timer": {"time_elapsed": {"train": spent}}}}
    assert is_over(checkpoint, trainer) is over


def test_what_a_trainer_has_tested_says_nothing_of_its_next_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    trainer_of(tmp_path, 2, Checkpoint(every_n_train_steps=2)).fit(Chicken([]), ten_batches())
    trainer = trainer_of(tmp_path / "again", 2, Checkpoint())
    trainer.validate(Validated([]), ten_batches(), tmp_path / "version_0" / "checkpoints" / "last.ckpt", verbose=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "2")
    trainer.fit(Chicken([]), ten_batches())
    assert trainer.global_step == 2


class Validated(Chicken):
    """Something to validate, of which nothing is measured."""

    def validation_step(self, batch, batch_idx): ...


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


def test_best_is_refused_where_the_newest_run_has_kept_none(tmp_path):
    folders = [tmp_path / version / "checkpoints" for version in ("version_7", "version_8")]
    for age, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / "last.ckpt").touch()
        os.utime(folder / "last.ckpt", (0, 100 + age))
    (folders[0] / "best.ckpt").touch()
    os.utime(folders[0] / "best.ckpt", (0, 90))
    with pytest.raises(CheckpointError, match=r"version_8, .* has no best\.ckpt; name .*_8.*last\.ckpt, or .*_7.*best"):
        find_checkpoint("best", folders)
    os.utime(folders[0] / "last.ckpt", (0, 200))
    assert find_checkpoint("best", folders) == folders[0] / "best.ckpt"


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
        (["--config", "{model: {init_args: {loss: kl}}, trainer: {max_steps: 7}}"], {"loss"}),
        (["--config={fit: {model: {class_path: PQN}}}", "--config", "multi_task"], {"class_path"}),
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
