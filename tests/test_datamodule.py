"""Recorded games under Lightning: every game in every batch, nothing lost by stopping, nothing mixed by accident."""

import json
import os
import pickle
import re
import shutil
import warnings
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import quiet_trainer
from torch.nn.functional import mse_loss

from pd_lightning.blocks import CHUNK, Shard, ShardError, ShardWriter
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.recorded import frame_statistics, left_out
from pd_lightning.resuming import ResumeError
from pd_lightning.streaming import Batch, Reach

BOTH = ["pong", "breakout"]


def attached(root, **options):
    """A data module as it is once a fit has begun."""
    data = TeacherDatasets(str(root), **{"games": BOTH, "batch_size": 50, "validation": 0.2, **options})
    data.trainer = quiet_trainer()
    data.setup("fit")
    return data


def digest(batch):
    """What a batch holds, game by game."""
    return {game: sha256(part.states.numpy().tobytes() + part.teacher_q.numpy().tobytes()) .hexdigest()[:12]
            for game, part in batch.items()}  # fmt: skip


def contents(batches):
    """All states of some batches, without their order."""
    return sorted(sha256(state.tobytes()).digest() for batch in batches for state in batch.states.numpy())


def recorded(blocks):
    """All states of some blocks in recorded order, read without any stream."""
    return np.concatenate([blocks.shards[shard].states(int(number)) for shard, number in blocks.chosen])


def hashes(states):
    return sorted(sha256(state.tobytes()).digest() for state in states)


def test_every_batch_holds_every_game_and_the_larger_one_comes_once_an_epoch(datasets):
    data = attached(datasets)
    loader = data.train_dataloader()
    pong, breakout = data.streams["pong"], data.streams["breakout"]
    wanted = TeacherDatasets(str(datasets), BOTH, 50, validation=0.2)
    wanted.trainer = data.trainer
    wanted.setup("fit")
    count = 0
    for _ in range(3):
        batches = list(loader)
        assert len(batches) == len(pong) == 9 > len(breakout) == 3
        assert contents(batch["pong"] for batch in batches) == hashes(recorded(data.blocks["pong"]))
        for batch in batches:
            assert list(batch) == BOTH
            for game, part in batch.items():
                # The smaller game too goes on where it was, into its next epoch and the one after.
                states, teacher_q = wanted.streams[game].batch(count)
                assert isinstance(part, Batch)
                assert torch.equal(part.states, states)
                assert torch.equal(part.teacher_q, teacher_q)
                assert part.teacher_q.shape[1] == data.actions[game]
            count += 1


def test_validation_is_the_held_out_states_in_recorded_order_every_time_from_the_start(datasets):
    data = attached(datasets)
    validation = data.val_dataloader()
    next(iter(validation))  # as Lightning's sanity check does
    for _ in range(2):
        batches = list(validation)
        assert len(batches) == len(validation) == 5
        for game in BOTH:
            states = torch.cat([batch[game].states for batch in batches if game in batch])
            np.testing.assert_array_equal(states, recorded(data.held_out[game]))
        assert [*map(list, batches)] == [[game] for game in ("pong", "breakout", "pong", "breakout", "pong")]


def test_what_is_learned_and_what_is_held_out_are_all_and_share_no_episode(datasets):
    data = TeacherDatasets(str(datasets), ["pong"], validation=0.3)
    shards = data.shards["pong"]
    both = np.concatenate([data.blocks["pong"].chosen, data.held_out["pong"].chosen])
    assert sorted(both.tolist()) == [[s, b] for s in range(2) for b in range(shards[s].n_blocks)]
    learned, held = (
        {(s, shards[s].episodes[b]) for s, b in blocks["pong"].chosen} for blocks in (data.blocks, data.held_out)
    )
    assert len(held) == 2
    assert not learned & held


def test_statistics_are_those_of_the_newest_frames_of_the_training_states(datasets):
    data = TeacherDatasets(str(datasets), BOTH, validation=0.2)
    for game, (mean, deviation) in data.statistics().items():
        newest = recorded(data.blocks[game])[:, -1].astype(np.float64)
        assert mean.dtype == torch.float32
        np.testing.assert_allclose(mean, newest.mean(0), rtol=1e-6)
        assert deviation == pytest.approx(np.sqrt(newest.var(0).mean()), rel=1e-6)


def test_statistics_of_a_long_recording_are_taken_from_blocks_all_over_it(datasets, monkeypatch):
    blocks = TeacherDatasets(str(datasets), ["pong"]).blocks["pong"]
    monkeypatch.setattr("pd_lightning.recorded.STATISTICS_BLOCKS", 3)
    frames = np.empty((3, *CHUNK), np.uint8)
    chosen = [0, (len(blocks) - 1) // 2, len(blocks) - 1]
    for place, block in enumerate(chosen):
        blocks.read(block, frames[place])
    newest = np.concatenate([frames[i][3 : 3 + blocks.lengths[block]] for i, block in enumerate(chosen)])
    np.testing.assert_allclose(frame_statistics(blocks)[0], newest.mean(0, dtype=np.float64), rtol=1e-6)


def test_teachers_returns_are_compared_only_under_the_rules_they_were_played_by(datasets):
    data = TeacherDatasets(str(datasets), BOTH)
    returns = np.concatenate([shard.returns for shard in data.shards["pong"]])
    assert data.teacher_returns("paper") == {
        "pong": returns.mean(),
        "breakout": data.shards["breakout"][0].returns.mean(),
    }
    assert data.teacher_returns("machado") == {}


# Folders that do not fit together


def rewritten(path, **changes):
    """The play of shard 0 as another shard, under a header that says something else."""
    shard = Shard(path.with_name("0000.h5"))
    frames = np.empty(CHUNK, np.uint8)
    with ShardWriter(path, replace(shard.header, **changes)) as writer:
        for block, n in enumerate(shard.lengths.tolist()):
            shard.read_block(block, frames)
            rows = shard.q_values[block, :n], shard.actions[block, :n], shard.rewards[block, :n]
            writer.add(frames[: n + 3], *rows, episode=int(shard.episodes[block]))
        writer.finish(shard.returns)


@pytest.fixture
def copy(datasets, tmp_path):
    """Datasets that a test may change: pong, one shard."""
    (tmp_path / "copy" / "pong").mkdir(parents=True)
    shutil.copy(datasets / "pong" / "0000.h5", tmp_path / "copy" / "pong")
    return tmp_path / "copy"


@pytest.mark.parametrize("changes", [
    {"teacher_sha256": "0" * 64}, {"protocol": "nature"}, {"epsilon": 0.5}, {"sticky": 0.25}, {"fire": True},
])  # fmt: skip
def test_shards_of_several_teachers_or_rules_are_refused_unless_allowed_by_name(copy, changes):
    rewritten(copy / "pong" / "0001.h5", **changes)
    with pytest.raises(ShardError, match=rf"0001\.h5: {next(iter(changes))} is .*--data\.allow_mixed true"):
        TeacherDatasets(str(copy))
    assert TeacherDatasets(str(copy), allow_mixed=True).blocks["pong"].states > 300


@pytest.mark.parametrize("changes", [
    {"action_meanings": ("NOOP", "RIGHT", "FIRE", "LEFT", "RIGHTFIRE", "LEFTFIRE")}, {"frame_skip": 3},
    {"game": "breakout"},
])  # fmt: skip
def test_shards_whose_actions_or_pictures_mean_something_else_are_never_mixed(copy, changes):
    rewritten(copy / "pong" / "0001.h5", **changes)
    with pytest.raises(ShardError, match=rf"0001\.h5: {next(iter(changes))} is") as error:
        TeacherDatasets(str(copy), allow_mixed=True)
    assert "allow_mixed" not in str(error.value)


def test_a_score_is_of_the_play_of_the_teacher_alone_beside_which_a_students_may_lie(copy):
    rewritten(copy / "pong" / "0001.h5", player="both")
    alone = Shard(copy / "pong" / "0000.h5").returns.mean()
    data = TeacherDatasets(str(copy))
    assert data.blocks["pong"].states > 300
    assert data.teacher_returns("paper") == {"pong": alone}
    (copy / "pong" / "0000.h5").unlink()
    assert TeacherDatasets(str(copy)).teacher_returns("paper") == {}


@pytest.mark.parametrize("changes", [{"teacher_sha256": "0" * 64}, {"epsilon": 0.5}, {"sticky": 0.25}])
def test_the_play_of_several_teachers_is_nobodys_score(copy, changes):
    rewritten(copy / "pong" / "0001.h5", **changes)
    assert TeacherDatasets(str(copy), allow_mixed=True).teacher_returns("paper") == {}


def test_the_same_play_twice_is_refused_because_it_would_be_learned_and_held_out(copy):
    shutil.copy(copy / "pong" / "0000.h5", copy / "pong" / "0007.h5")
    with pytest.raises(ShardError, match=r"0007\.h5: holds the same play as 0000\.h5; delete one"):
        TeacherDatasets(str(copy), allow_mixed=True)


def test_devices_with_other_recordings_are_refused_before_they_wait_for_each_other(datasets, copy, monkeypatch):
    def gather(every, mine):
        _, first = mine
        every[:] = [("here", {**first, "seed": 0}), ("there", first)]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    attached(datasets)
    with pytest.raises(ValueError, match=r"seed is 5 for device 1 \(on there\), and 0 for device 0 \(on here\)"):
        attached(datasets, seed=5)
    whole = TeacherDatasets(str(datasets), ["pong"])._described("pong")

    def gather_other(every, mine):
        every[:] = [mine, ("there", {**mine[1], "recording of pong": whole})]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather_other)
    attached(datasets, games=["pong"])
    with pytest.raises(ValueError, match=r"recording of pong is .* for device 1 \(on there\)"):
        attached(copy, games=["pong"])


def test_a_folder_of_another_game_is_refused(copy):
    (copy / "pong").rename(copy / "breakout")
    with pytest.raises(ShardError, match=r"0000\.h5: game is 'pong', its folder's is 'breakout'"):
        TeacherDatasets(str(copy), ["breakout"])


def test_a_game_that_there_is_not_and_a_root_that_is_not_there_are_said_as_that(copy):
    with pytest.raises(ValueError, match="unknown game 'pomg': did you mean pong"):
        TeacherDatasets(str(copy), ["pomg"])
    with pytest.raises(ShardError, match=r"nowhere: is missing; give --data\.root"):
        TeacherDatasets(str(copy / "nowhere"))
    with pytest.raises(ShardError, match=r"0000\.h5: is a file; give --data\.root"):
        TeacherDatasets(str(copy / "pong" / "0000.h5"))


def test_what_a_short_recording_loses_to_validation_is_said(copy):
    def said(validation):
        data = TeacherDatasets(str(copy), validation=validation)
        return left_out(data.blocks["pong"], data.held_out.get("pong"), validation), data

    text, data = said(0.2)
    held, episodes = data.held_out["pong"].states, len(data.shards["pong"][0].returns)
    assert text == f"; {held} more, of 1 of {episodes} episodes, are held out"
    assert "that is much: record more, or give --data.validation 0" in said(0.01)[0]
    assert said(0.0)[0] == ""


def test_a_missing_folder_is_an_error_that_says_how_to_record_it(copy):
    with pytest.raises(ShardError, match=r"recording --game enduro"):
        TeacherDatasets(str(copy), ["pong", "enduro"])


@pytest.mark.parametrize(("options", "complaint"), [
    ({"games": []}, "name at least one"),
    ({"games": ["pong", "pong"]}, "each once"),
    ({"memory": float("inf")}, "a number of GiB above 0"),
    ({"validation": 0.99}, "leaves none to learn from"),
    ({"validation": 1.0}, "from 0 to less than 1"),
])  # fmt: skip
def test_what_cannot_be_learned_from_is_refused_at_once(datasets, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        TeacherDatasets(str(datasets), **options)


def test_it_travels_to_other_processes(datasets):
    data = TeacherDatasets(str(datasets), BOTH)
    arrived = pickle.loads(pickle.dumps(data))
    assert arrived.fingerprint() == data.fingerprint()
    assert arrived.statistics()["pong"][1] == data.statistics()["pong"][1]


@pytest.mark.parametrize(("wanted", "count"), [(2, 2), (0.5, 4)])
def test_to_overfit_some_batches_the_same_come_again_and_again(datasets, in_order, wanted, count):
    assert fit(datasets, overfit_batches=wanted).seen == in_order[:count] * 3


# Stopping and going on


class Watched(pl.LightningModule):
    """A student so small that it costs nothing, which remembers what it was trained on."""

    def __init__(self, games):
        super().__init__()
        torch.manual_seed(0)
        self.heads = torch.nn.ModuleDict({game: torch.nn.Linear(4 * 7 * 7, actions) for game, actions in games.items()})
        self.seen = []

    def loss(self, batch):
        pixels = {game: part.states[:, :, ::12, ::12].flatten(1) / 255 for game, part in batch.items()}
        return sum(mse_loss(self.heads[game](pixels[game]), part.teacher_q) for game, part in batch.items())

    def training_step(self, batch, batch_idx):
        self.seen.append(digest(batch))
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


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


def data_of(root, **options):
    """Eight batches an epoch; pong flows through, breakout is decoded once."""
    memory = 14 * np.prod(CHUNK) / 2**30  # a number of numpy's, as notebooks have them
    return TeacherDatasets(
        str(root), **{"games": BOTH, "batch_size": 60, "validation": 0.2, "memory": memory, **options}
    )


def fit(root, kind=Watched, ckpt_path=None, data=None, **options):
    """Three epochs; returns the module."""
    data = data or data_of(root)
    module = kind(data.actions)
    quiet_trainer(**{"max_epochs": 3, **options}).fit(module, data, ckpt_path=ckpt_path)
    return module


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


def test_other_recordings_are_refused(datasets, tmp_path, checkpoint):
    shutil.copytree(datasets, tmp_path / "datasets")
    (tmp_path / "datasets" / "pong" / "0001.h5").unlink()
    with pytest.raises(ResumeError, match=r"recordings was [0-9a-f]{64} in the checkpoint"):
        fit(tmp_path / "datasets", ckpt_path=checkpoint)


def test_the_state_is_small_and_plain_and_names_no_place(datasets, checkpoint):
    state = torch.load(checkpoint, weights_only=True)["TeacherDatasets"]
    assert state["batches"] == 11
    assert len(json.dumps(state)) < 1024
    assert str(datasets) not in json.dumps(state)


def test_a_checkpoint_can_be_scored_on_any_data(datasets, checkpoint):
    data = data_of(datasets, games=["pong"], batch_size=40, seed=3)
    (scores,) = quiet_trainer().validate(Watched({"pong": 6, "breakout": 4}), data, ckpt_path=checkpoint, verbose=False)
    assert scores["val/loss"] > 0


def test_a_trainer_that_fits_once_more_goes_on(datasets, tmp_path, in_order):
    data = data_of(datasets)
    module, run = Watched(data.actions), quiet_trainer(max_epochs=1)
    run.fit(module, data)
    run.fit_loop.max_epochs = 2
    run.fit(module, data)
    assert module.seen == in_order[:16]
    run.save_checkpoint(tmp_path / "twice.ckpt")
    assert fit(datasets, ckpt_path=tmp_path / "twice.ckpt").seen == in_order[16:24]


def test_a_new_trainer_begins_anew_with_the_same_data_module(datasets, checkpoint, in_order):
    data = data_of(datasets)
    assert fit(datasets, ckpt_path=checkpoint, data=data).seen == in_order[11:24]
    assert fit(datasets, data=data, max_epochs=1).seen == in_order[:8]


# What happens to the files while a run learns from them


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


def test_all_devices_have_the_memory_of_the_first(datasets, monkeypatch):
    data = attached(datasets)
    assert data.trainer is not None
    monkeypatch.setattr(data.trainer.strategy, "broadcast", lambda room: room - 12345)
    monkeypatch.setattr("pd_lightning.datamodule.usual_room", lambda device, neighbours: 2**30)
    assert data._room() == 2**30 - 12345


def test_devices_that_are_one_cpu_share_its_memory(datasets, monkeypatch):
    data, asked = attached(datasets), []
    monkeypatch.setattr("pd_lightning.datamodule.usual_room", lambda *given: asked.append(given) or 2**30)
    monkeypatch.setattr(pl.Trainer, "num_devices", 2)
    data._room()
    assert asked == [(torch.device("cpu"), 2)]


def test_nothing_need_be_held_out(datasets):
    module = fit(datasets, data=data_of(datasets, validation=0, games=["breakout"]), max_epochs=2)
    assert len(module.seen) == 6
