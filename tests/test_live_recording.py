"""Live play that is recorded leaves whole episodes behind, once, whoever plays beside it."""

import inspect
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from conftest import quiet_trainer, short_play
from pytorch_lightning.callbacks import ModelCheckpoint
from staging import SHORT, live, run, student, teacher_of

from pd_lightning.atari import PROTOCOLS
from pd_lightning.blocks import Shard, ShardError
from pd_lightning.blocks.folders import shard_name
from pd_lightning.cli import PRESETS
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.live import Lessons, LiveTeacher, recorder
from pd_lightning.live.play import FrozenPlayer
from pd_lightning.live.recorder import Episode, Recorder
from pd_lightning.pqn import PQN, ParallelPlay
from pd_lightning.recorded import open_game
from pd_lightning.recording import header_of
from pd_lightning.recording.shards import check_same


@pytest.mark.parametrize("beta", [1.0, 0.0, 0.5])
def test_what_was_played_is_written_in_whole_episodes(teachers, tmp_path, monkeypatch, beta):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    monkeypatch.setattr(recorder, "STEPS_PER_HOUR", 300)
    data = live(teachers, protocol="short", record_to=str(tmp_path), beta=beta, steps=10, fresh=4.0)
    seen = []
    monkeypatch.setattr(Recorder, "add", lambda self, part, add=Recorder.add: seen.append(part) or add(self, part))
    run(data, 13)
    shards = [Shard(path) for path in sorted((tmp_path / "pong").glob("*.h5"))]
    assert len(shards) >= 2
    assert {shard.header.player for shard in shards} == {"both"}
    q, actions, rewards, ended = (np.concatenate([np.asarray(getattr(p, name)) for p in seen])
                                  for name in ("q", "actions", "rewards", "ended"))  # fmt: skip
    states = np.concatenate([p.states.numpy() for p in seen])
    episodes = []  # of the play, in the order of their ends
    begun = [0] * 4
    for step, game in np.argwhere(ended):
        episodes.append((slice(begun[game], step + 1), game))
        begun[game] = step + 1
    written = [(shard, number) for shard in shards for number in range(len(shard.returns))]
    assert len(written) == len(episodes) >= 8
    for (shard, number), (steps, game) in zip(written, episodes, strict=True):
        blocks = np.flatnonzero(shard.episodes == number).tolist()
        assert np.array_equal(np.concatenate([shard.states(block) for block in blocks]), states[steps, game])
        for name, played in (("q_values", q), ("actions", actions), ("rewards", rewards)):
            found = np.concatenate([getattr(shard, name)[block, : shard.lengths[block]] for block in blocks])
            assert np.array_equal(found, played[steps, game])
        assert shard.returns[number] == rewards[steps, game].sum()


def test_what_is_played_before_a_checkpoint_is_loaded_is_not_recorded_again(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", replace(SHORT, epsilon=0.3))  # few starts, so chance must tell them apart
    monkeypatch.setattr(recorder, "STEPS_PER_HOUR", 300)
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    long = {"protocol": "short", "record_to": str(tmp_path), "prefill": 600, "buffer_size": 600}
    run(live(teachers, **long), 5, enable_checkpointing=True, callbacks=[saved])
    before = {path.name for path in (tmp_path / "pong").iterdir()}
    data = live(teachers, **long)
    trainer = quiet_trainer(max_epochs=-1, max_steps=30)
    trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=5.ckpt"))
    shards = [Shard(path) for path in sorted((tmp_path / "pong").iterdir())]
    assert len(before) < len(shards)
    first = [shard.states(0).tobytes() for shard in shards]
    assert len(set(first)) == len(first)


def test_a_resumed_run_records_no_episode_that_began_before(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    run(live(teachers, protocol="short"), 5, enable_checkpointing=True, callbacks=[saved])
    data = live(teachers, protocol="short", record_to=str(tmp_path), fresh=0.5)
    trainer = quiet_trainer(max_epochs=-1, max_steps=40)
    trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=5.ckpt"))
    shard = Shard(tmp_path / "pong/0000.h5")
    lengths = np.bincount(shard.episodes, weights=shard.lengths)
    assert lengths.tolist() == [50] * len(
        lengths
    )  # the first states, played anew before the checkpoint is read, are 10
    assert len(lengths) >= 4


def test_a_second_run_with_the_same_seed_records_other_episodes(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", replace(SHORT, epsilon=0.3))
    for updates in (13, 23):
        run(live(teachers, protocol="short", record_to=str(tmp_path), steps=10, fresh=4.0), updates)
    plays = [play for shard in open_game(tmp_path / "pong", "pong", allow_mixed=False) for play in shard.plays()]
    assert len(set(plays)) == len(plays) >= 20


def test_an_episode_that_a_longer_recording_repeats_is_found(tmp_path):
    teacher, rules = teacher_of(), replace(SHORT, frame_limit=160)
    for rounds in (12, 24):
        player = FrozenPlayer(teacher, 2, 8, rules, False, (0,), 1)
        recorder = Recorder(tmp_path / "pong", header_of(teacher, rules, 2, 0, False))
        for _ in range(rounds):
            recorder.add(player.play(None, 1.0))
        recorder.flush()
    with pytest.raises(ShardError, match=r"0001\.h5: holds the same play as 0000\.h5 \(episode 0\); delete one"):
        open_game(tmp_path / "pong", "pong", allow_mixed=True)


def test_what_was_recorded_is_written_when_a_run_is_interrupted(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    data = live(teachers, protocol="short", record_to=str(tmp_path), steps=10, fresh=4.0)
    module = student(data)
    step = module.training_step

    def interrupted(batch, batch_idx):
        if batch_idx == 8:
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    module.training_step = interrupted
    with pytest.raises(SystemExit):
        run(data, 13, module)
    assert len(Shard(tmp_path / "pong/0000.h5").returns) >= 4


def test_a_recording_with_the_same_settings_does_not_take_a_live_shard_for_an_hour_of_its_own(
    teachers, tmp_path, monkeypatch
):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    run(live(teachers, protocol="short", record_to=str(tmp_path), steps=10, fresh=4.0), 8)
    header = Shard(tmp_path / "pong/0000.h5").header
    assert header.steps_goal == len(Shard(tmp_path / "pong/0000.h5"))
    with pytest.raises(ShardError, match="steps_goal is"):
        check_same(tmp_path / "pong/0000.h5", header, replace(header, steps_goal=54_000))


def test_a_live_recording_distils_but_its_returns_are_nobodys_score(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    for number, beta in enumerate((1.0, 0.0)):  # whoever acts: what was not over when play ended is left out
        run(live(teachers, protocol="short", record_to=str(tmp_path), beta=beta, steps=10, fresh=4.0), 8)
        assert [path.name for path in sorted((tmp_path / "pong").iterdir())] == ["0000.h5", "0001.h5"][: number + 1]
        data = TeacherDatasets(str(tmp_path), batch_size=32, validation=0)
        run(data, 2)
        assert data.teacher_returns("short") == {}


def test_two_runs_that_record_into_one_folder_do_not_stop_each_other(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    both = [live(teachers, protocol="short", record_to=str(tmp_path), steps=10, fresh=4.0, seed=n) for n in (0, 1)]
    recorders = [Recorder(tmp_path / "pong", header_of(each.frozen["pong"], SHORT, 4, 0, False)) for each in both]
    for mine in recorders:
        mine.add(FrozenPlayer(both[0].frozen["pong"], 4, 60, SHORT, False, (0,), 1).play(None, 1.0))
    assert [path.name for path in map(Recorder.flush, recorders) if path] == ["0000.h5", "0001.h5"]


def test_two_processes_that_record_never_take_one_number_whatever_is_there(teachers, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "_write", lambda self: (self.folder / shard_name(self.number)).touch(exist_ok=False))
    for there in range(5):
        folder = tmp_path / str(there)
        folder.mkdir()
        (folder / shard_name(there)).touch()
        recorders = []
        for rank in range(2):  # the second looks when the first has written
            recorders.append(Recorder(folder, short_play("pong", teachers["pong"]), rank, 2))
            for each in recorders * 3:
                each._done = [Episode()]
                each.flush()
        shards = sorted(path.name for path in folder.iterdir())
        assert len(shards) == 1 + 6 + 3
        assert shards[0] == shard_name(there)  # they lie behind it


def test_a_game_that_cannot_be_written_takes_no_other_along(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    write = Recorder._write

    def full(self):
        if self.folder.name == "pong":
            raise ShardError("0000.h5: disk is full")
        return write(self)

    monkeypatch.setattr(Recorder, "_write", full)
    games = {"games": ["pong", "breakout"], "steps": 10, "fresh": 4.0}
    with pytest.raises(ShardError, match="disk is full"):
        run(live(teachers, protocol="short", record_to=str(tmp_path), **games), 13)
    assert len(Shard(tmp_path / "breakout" / "0000.h5").returns) >= 4


def test_a_folder_that_cannot_be_made_is_named(teachers, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match=r"file/pong: Not a directory; choose another --data\.record_to"):
        run(live(teachers, record_to=str(tmp_path / "file")), 1)


def test_a_teacher_that_learns_is_not_recorded(tmp_path):
    with pytest.raises(ValueError, match=r"record_to is .*, but a teacher that learns sees clipped rewards"):
        LiveTeacher(learn=True, record_to=str(tmp_path))


def test_a_live_teacher_learns_as_the_preset_teaches():
    preset = yaml.safe_load((PRESETS / "teacher.yaml").read_text())
    usual = {
        name: parameter.default
        for room in (PQN, ParallelPlay)
        for name, parameter in inspect.signature(room).parameters.items()
    }
    usual |= preset["model"]["init_args"] | {"gradient_clip": preset["trainer"]["gradient_clip_val"]}
    lessons = asdict(Lessons())
    assert {name: usual[name] for name in lessons} == lessons
