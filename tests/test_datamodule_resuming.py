"""A run goes on with exactly the batches that it would have seen, or says why it cannot."""

import json
import os
import re
import shutil
import warnings
import weakref

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import quiet_trainer
from feeding import Watched, attached, data_of, digest, fit

from pd_lightning.blocks import CHUNK, ShardError
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.resuming import ResumeError
from pd_lightning.streaming import Reach
from pd_lightning.streaming.window import Window


class Foresighted(Watched):
    """The same, but asks how long the run will be: Lightning then forgets data loaders' states (its issue 20550)."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        end = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1 - update / (end + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Student(PolicyDistillation):
    """The real one."""

    def __init__(self, games):
        torch.manual_seed(0)
        super().__init__(games, "net3", warmup=2)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(digest(batch))
        return super().training_step(batch, batch_idx)


class Saving(pl.Callback):
    """Saves after some batches (counted from 1, over all epochs), the second validation and the first epoch."""

    def __init__(self, folder, batches):
        self.folder, self.batches, self.validations, self.saved = folder, batches, 0, {}

    def save(self, trainer, module, when):
        path = self.folder / f"{when}-{len(module.seen)}.ckpt"
        self.saved[path] = len(module.seen)
        trainer.save_checkpoint(path)

    def on_train_batch_end(self, trainer, module, *_):
        if len(module.seen) in self.batches:
            self.save(trainer, module, "batch")

    def on_validation_end(self, trainer, module):
        self.validations += not trainer.sanity_checking
        if self.validations == 2:
            self.save(trainer, module, "validation")

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 0:
            self.save(trainer, module, "epoch")


def assert_same_weights(module, other):
    for (name, tensor), expected in zip(module.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected), name


@pytest.fixture(scope="module")
def in_order(datasets):
    """What the first 32 batches hold."""
    data = attached(datasets, **{name: getattr(data_of(datasets), name) for name in ("batch_size", "memory")})
    assert [stream.order.reach for stream in data.streams.values()] == [Reach(8, 29), None]
    return [digest({game: stream.batch(i) for game, stream in data.streams.items()}) for i in range(32)]


CASES = {
    "plainly": (Watched, {}, (1, 2, 8, 11)),
    "knowing the end": (Foresighted, {}, (3,)),
    "as a real student": (Student, {"max_epochs": 2}, (3,)),
    "with accumulated gradients": (Foresighted, {"accumulate_grad_batches": 2}, (2, 10)),
    "with short epochs": (Foresighted, {"limit_train_batches": 5}, (3, 7)),
    "with a share of an epoch": (Watched, {"limit_train_batches": 0.5}, (3, 6)),
    "validating within the epoch": (Foresighted, {"val_check_interval": 3}, (4, 12)),
    "validating every second epoch": (Watched, {"check_val_every_n_epoch": 2, "max_epochs": 4}, (9,)),
    "counting steps": (Foresighted, {"max_epochs": -1, "max_steps": 19}, (4, 11)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_stopped_goes_on_with_exactly_the_batches_it_would_have_seen(datasets, tmp_path, in_order, case):
    kind, options, batches = CASES[case]
    saving = Saving(tmp_path, batches)
    through = fit(datasets, kind, callbacks=[saving], **options)
    assert through.seen == in_order[: len(through.seen)]
    assert len(saving.saved) == len(batches) + 2
    for path, count in saving.saved.items():
        again = fit(datasets, kind, ckpt_path=path, **options)
        assert again.seen == through.seen[count:], path.name
        assert_same_weights(again, through)


@pytest.fixture(scope="module")
def checkpoint(datasets, tmp_path_factory):
    """Of a run over eight batches and three more."""
    saving = Saving(tmp_path_factory.mktemp("checkpoint"), (11,))
    fit(datasets, callbacks=[saving])
    return next(path for path in saving.saved if path.name == "batch-11.ckpt")


def test_recordings_may_be_moved_and_threads_changed_meanwhile(datasets, tmp_path, checkpoint, in_order):
    shutil.copytree(datasets, tmp_path / "elsewhere")
    module = fit(tmp_path / "elsewhere", ckpt_path=checkpoint, data=data_of(tmp_path / "elsewhere", threads=2))
    assert module.seen == in_order[11:24]


def test_lightning_does_not_warn_that_the_data_cannot_resume(datasets, checkpoint):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        fit(datasets, ckpt_path=checkpoint)
    assert not [warning for warning in heard if "not resumable" in str(warning.message)]


@pytest.mark.parametrize("changes", [
    {"batch_size": 64}, {"seed": 1}, {"games": ["breakout", "pong"]}, {"validation": 0.3}, {"mixing": "one_game"},
    {"weights": {"pong": 2.0, "breakout": 1.0}},
])  # fmt: skip
def test_what_would_change_the_order_is_refused_by_name(datasets, checkpoint, changes):
    ((name, value),) = changes.items()
    with pytest.raises(ResumeError) as error:
        fit(datasets, ckpt_path=checkpoint, data=data_of(datasets, **changes))
    assert f"{name} was {getattr(data_of(datasets), name)} in the checkpoint and is {value} now" in str(error.value)


def test_more_memory_changes_nothing_about_a_run_that_goes_on_and_too_little_is_refused(datasets, checkpoint, in_order):
    for memory in (None, 1.0):
        assert fit(datasets, ckpt_path=checkpoint, data=data_of(datasets, memory=memory)).seen == in_order[11:24]
    with pytest.raises(ResumeError, match=r"memory is 0\.002 GiB .* needs 0\.00\d GiB; give --data\.memory 0\.00\d"):
        fit(datasets, ckpt_path=checkpoint, data=data_of(datasets, memory=0.002))


def test_a_run_that_chose_its_own_memory_resumes_where_half_as_much_is_free_now(
    datasets, checkpoint, in_order, monkeypatch
):
    half = 7 * int(np.prod(CHUNK))  # of what `data_of` gives
    monkeypatch.setattr("pd_lightning.datamodule.usual_room", lambda device, neighbours: half)
    assert fit(datasets, ckpt_path=checkpoint, data=data_of(datasets, memory=None)).seen == in_order[11:24]
    with pytest.raises(ResumeError, match=r"memory is 0\.002 GiB"):  # a memory that was asked for is not exceeded
        fit(datasets, ckpt_path=checkpoint, data=data_of(datasets, memory=half / 2**30))


def test_what_a_fit_of_before_holds_in_memory_is_there_for_the_next_one(datasets, monkeypatch):
    frames = int(np.prod(CHUNK))
    live = weakref.WeakSet()
    begin = Window.__init__

    def note(window, *arguments):
        begin(window, *arguments)
        live.add(window)

    monkeypatch.setattr(Window, "__init__", note)

    def room(device, neighbours):
        return 14 * frames - sum(window.slots * window.depth for window in live) * frames // CHUNK[0]

    monkeypatch.setattr("pd_lightning.datamodule.usual_room", room)
    data = data_of(datasets, memory=None, validation=0)
    fit(datasets, data=data)
    reaches = [stream.order.reach for stream in data.streams.values()]
    assert live
    fit(datasets, data=data)
    assert [stream.order.reach for stream in data.streams.values()] == reaches


def test_a_checkpoint_of_a_test_can_be_gone_on_from(datasets, tmp_path):
    data = data_of(datasets)
    trainer = quiet_trainer()
    trainer.validate(Watched(data.actions), data, verbose=False)
    trainer.save_checkpoint(tmp_path / "validated.ckpt")  # nothing was shuffled
    again = attached(datasets, batch_size=60, memory=data.memory)
    order = [stream.order.reach for stream in again.streams.values()]
    again.load_state_dict(torch.load(tmp_path / "validated.ckpt", weights_only=True)["TeacherDatasets"])
    assert [stream.order.reach for stream in again.streams.values()] == order


def test_other_recordings_are_refused(datasets, tmp_path, checkpoint):
    shutil.copytree(datasets, tmp_path / "datasets")
    (tmp_path / "datasets" / "pong" / "0001.h5").unlink()
    with pytest.raises(ResumeError, match=r"recordings was [0-9a-f]{64} in the checkpoint"):
        fit(tmp_path / "datasets", ckpt_path=checkpoint)


def test_the_state_is_small_and_plain_and_names_no_place(datasets, checkpoint):
    state = torch.load(checkpoint, weights_only=True)["TeacherDatasets"]
    assert len(json.dumps(state)) < 1024
    assert str(datasets) not in json.dumps(state)


def test_a_checkpoint_can_be_scored_on_any_data_and_others_than_its_own_are_named(datasets, checkpoint):
    for games, named in (["pong"], True), (["pong", "breakout"], False):
        data = data_of(datasets, games=games, batch_size=40, seed=3)
        module = Watched({"pong": 6, "breakout": 4})
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            (scores,) = quiet_trainer().validate(module, data, ckpt_path=checkpoint, verbose=False)
        assert scores["val/loss"] > 0
        said = "not the recordings that the student has learned from"
        assert any(said in str(each.message) for each in heard) is named


def test_a_trainer_that_fits_once_more_goes_on(datasets, tmp_path, in_order):
    data = data_of(datasets)
    module, run = Watched(data.actions), quiet_trainer(max_epochs=1)
    run.fit(module, data)
    run.fit_loop.max_epochs = 2
    run.fit(module, data)
    assert module.seen == in_order[:16]
    run.save_checkpoint(tmp_path / "twice.ckpt")
    assert fit(datasets, ckpt_path=tmp_path / "twice.ckpt").seen == in_order[16:24]


def test_a_run_that_began_with_weights_from_other_data_goes_on_where_it_was(datasets, tmp_path, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    del content["TeacherDatasets"]  # as live play leaves it
    torch.save(content, tmp_path / "live.ckpt")
    saving = Saving(tmp_path, (3,))
    through = fit(datasets, ckpt_path=tmp_path / "live.ckpt", callbacks=[saving])
    (path,) = (path for path in saving.saved if path.name == "batch-3.ckpt")
    assert len(through.seen) > 6
    assert fit(datasets, ckpt_path=path).seen == through.seen[3:]


def test_a_callback_that_looks_at_a_batch_takes_none_away(datasets, in_order):
    class Looks(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            next(iter(trainer.train_dataloader))  # pyright: ignore[reportArgumentType]

    assert fit(datasets, callbacks=[Looks()]).seen == in_order[:24]


def test_a_new_trainer_begins_anew_with_the_same_data_module(datasets, checkpoint, in_order):
    data = data_of(datasets)
    assert fit(datasets, ckpt_path=checkpoint, data=data).seen == in_order[11:24]
    assert fit(datasets, data=data, max_epochs=1).seen == in_order[:8]


@pytest.mark.parametrize(("wanted", "count"), [(2, 2), (0.5, 4)])
def test_to_overfit_some_batches_the_same_come_again_and_again(datasets, in_order, wanted, count):
    assert fit(datasets, overfit_batches=wanted).seen == in_order[:count] * 3


def overwritten(path):
    """Other frames, in place."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4)
        file.write(bytes(path.stat().st_size // 2))


def appended_to(path):
    with path.open("ab") as file:
        file.write(bytes(1000))


HARMLESS = {  # what was opened is still there
    "deleted": lambda path: path.unlink(),
    "replaced": lambda path: os.replace(shutil.copy(path.with_name("0001.h5"), path.parent / "other"), path),
    "appended to": appended_to,
    "joined by another": lambda path: shutil.copy(path, path.with_name("0002.h5")),
}


HARMFUL = {"overwritten": overwritten, "cut short": lambda path: os.truncate(path, 5000)}


@pytest.mark.parametrize("memory", [None, 0.003], ids=["decoded once", "flowing through"])
@pytest.mark.parametrize("change", [*HARMLESS, *HARMFUL])
def test_a_shard_that_changes_during_a_fit_gives_the_states_it_had_or_an_error_and_never_another_state(
    datasets, tmp_path, change, memory
):
    shutil.copytree(datasets, tmp_path / "datasets")
    victim = tmp_path / "datasets" / "pong" / "0000.h5"
    expected = fit(datasets, data=data_of(datasets, memory=memory)).seen

    class Change(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if len(module.seen) == 3:
                (HARMLESS | HARMFUL)[change](victim)

    data = data_of(tmp_path / "datasets", memory=memory)
    module = Watched(data.actions)
    run = quiet_trainer(max_epochs=3, callbacks=[Change()])
    error = None
    try:
        run.fit(module, data)
    except ShardError as raised:
        error = str(raised)
    assert module.seen == expected[: len(module.seen)]
    if error is None:
        assert change in HARMLESS or memory is None  # what is decoded cannot be harmed
        assert len(module.seen) == len(expected)
    else:
        assert change in HARMFUL
        assert re.search(r"0000\.h5: block \d+ is", error)
