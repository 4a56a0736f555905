"""Recordings as Lightning data: what is learned from, what is held out, and what is refused before it misleads."""

import pickle
import shutil
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from feeding import BOTH, attached, data_of, fit

from pd_lightning.blocks import CHUNK, Shard, ShardError, ShardWriter
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.recorded import frame_statistics, left_out
from pd_lightning.streaming import Batch


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
    loader = data.batches()
    pong, breakout = loader.streams["pong"], loader.streams["breakout"]
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
    found = data.teacher_returns("paper")
    assert list(found) == BOTH
    for game, returns in found.items():
        np.testing.assert_array_equal(returns, np.concatenate([shard.returns for shard in data.shards[game]]))
    assert data.teacher_returns("machado") == {}


def rewritten(path, brighter=1, nearly=False, **changes):
    """The play of shard 0, each block a pixel brighter, as another shard, under a header that says something else.

    Nearly: its Q-values are the next larger float32.
    """
    shard = Shard(path.with_name("0000.h5"))
    frames = np.empty(CHUNK, np.uint8)
    with ShardWriter(path, replace(shard.header, **changes)) as writer:
        for block, n in enumerate(shard.lengths.tolist()):
            shard.read_block(block, frames)
            frames[0, 0, 0] += brighter
            q_values = (
                np.nextafter(shard.q_values[block, :n], np.float32(np.inf)) if nearly else shard.q_values[block, :n]
            )
            rows = q_values, shard.actions[block, :n], shard.rewards[block, :n]
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
    alone = Shard(copy / "pong" / "0000.h5").returns
    data = TeacherDatasets(str(copy))
    assert data.blocks["pong"].states > 300
    np.testing.assert_array_equal(data.teacher_returns("paper")["pong"], alone)
    (copy / "pong" / "0000.h5").unlink()
    assert TeacherDatasets(str(copy)).teacher_returns("paper") == {}


@pytest.mark.parametrize("changes", [{"teacher_sha256": "0" * 64}, {"epsilon": 0.5}, {"sticky": 0.25}])
def test_the_play_of_several_teachers_is_nobodys_score(copy, changes):
    rewritten(copy / "pong" / "0001.h5", **changes)
    assert TeacherDatasets(str(copy), allow_mixed=True).teacher_returns("paper") == {}


@pytest.mark.parametrize("number", [0, 7])  # as it says of itself: a repeated recording counts on
def test_the_same_play_twice_is_refused_because_it_would_be_learned_and_held_out(copy, number):
    rewritten(copy / "pong" / "0007.h5", brighter=0, shard=number)
    with pytest.raises(ShardError, match=r"0007\.h5: holds the same play as 0000\.h5 \(episode 0\); delete one"):
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
    with pytest.raises(ShardError, match=r"0000\.h5: game is pong, allowed is breakout"):
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
    ({"games": []}, "name at least one"), ({"games": "pong"}, r"games is 'pong': give a list, as \['pong'\]"),
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


def test_the_same_play_by_another_machine_is_refused_although_its_q_values_differ_in_last_bits(copy):
    rewritten(copy / "pong" / "0007.h5", nearly=True)
    with pytest.raises(ShardError, match=r"0007\.h5: was recorded with the seeds of 0000\.h5; delete one of them"):
        TeacherDatasets(str(copy))
    (copy / "pong" / "0007.h5").unlink()
    rewritten(copy / "pong" / "0007.h5", nearly=True, shard=7)
    assert len(TeacherDatasets(str(copy)).shards["pong"]) == 2
