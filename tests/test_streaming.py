"""Streams: which states a batch holds, that they are the recorded ones or an error, and that any process can go on
anywhere.
"""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import sha256

import h5py
import numpy as np
import pytest
import torch
from flowing import REACHES, TIGHT, WHOLE, assert_true, blocks_of, expected, take

from pd_lightning.blocks import Shard, ShardError, find_shards
from pd_lightning.streaming import Reach, Stream, held_out
from pd_lightning.streaming.stream import new_workers


@pytest.fixture(scope="module")
def pong(datasets):
    """All of pong: 24 blocks, 600 states."""
    return blocks_of(datasets / "pong")


@pytest.fixture(scope="module")
def recorded(pong):
    """The states of every block as `Shard.states` reads them."""
    return [pong.shards[shard].states(int(number)) for shard, number in pong.chosen]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for (states, teacher_q), (other_states, other_q) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(states, other_states)
        np.testing.assert_array_equal(teacher_q, other_q)


@REACHES
@pytest.mark.parametrize("batch_size", [72, 240])  # cut into batches of 66 and 67, and of 200
def test_the_ranks_shares_joined_are_the_same_array_for_any_number_of_ranks(pong, reach, batch_size):
    alone = Stream(pong, batch_size, 7, reach)
    for ranks in (1, 2, 3, 4, 8):
        streams = [Stream(pong, batch_size, 7, reach, rank, ranks) for rank in range(ranks)]
        assert [len(stream) for stream in streams] == [len(alone)] * ranks
        for number in range(3 * len(alone)):
            shares = [stream.ids(number) for stream in streams]
            np.testing.assert_array_equal(np.concatenate(shares), alone.ids(number))
            sizes = [len(share) for share in shares]
            assert max(sizes) - min(sizes) <= 1


@REACHES
def test_what_the_ranks_deliver_joined_is_what_one_delivers(pong, reach):
    one = take(Stream(pong, 60, 7, reach), 25)
    ranks = [take(Stream(pong, 60, 7, reach, rank, 3), 25) for rank in range(3)]
    assert_same([tuple(map(np.concatenate, zip(*shares, strict=True))) for shares in zip(*ranks, strict=True)], one)


@REACHES
@pytest.mark.parametrize("batch_size", [1, 59, 256, 600, 1000])
def test_every_state_comes_exactly_once_per_epoch(pong, reach, batch_size):
    stream = Stream(pong, batch_size, 3, reach)
    every = [[block, step] for block in range(len(pong)) for step in range(pong.lengths[block])]
    for epoch in range(2):
        ids = [stream.ids(epoch * len(stream) + i) for i in range(len(stream))]
        assert max(map(len, ids)) - min(map(len, ids)) <= 1
        assert sorted(np.concatenate(ids).tolist()) == every


@pytest.mark.parametrize("reach", [WHOLE, TIGHT, Reach(8, 1), Reach(16, 33), Reach(32, 3), Reach(8, 1000)])
@pytest.mark.parametrize("device", ["host", "host with threads", "device"])
def test_delivered_states_and_q_values_are_those_that_were_recorded(pong, recorded, reach, device):
    torch.set_num_threads(2 if "threads" in device else 1)  # the gather is torch's or numpy's
    stream = Stream(pong, 50, 3, reach)
    stream._on_host = "host" in device  # the way to a GPU, on a machine that has none
    for number in range(2 * len(stream) + 5):
        assert_true(stream, recorded, number)
    states, teacher_q = stream.batch(7)
    assert (states.dtype, teacher_q.dtype) == (torch.uint8, torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or not --gpu")
@REACHES
def test_on_a_gpu_batches_are_there_and_those_that_were_recorded(pong, recorded, reach):
    stream = Stream(pong, 50, 3, reach, device="cuda")
    for number in range(2 * len(stream)):
        batch = stream.batch(number)
        assert (batch.states.device.type, batch.teacher_q.device.type) == ("cuda", "cuda")
        states, teacher_q = expected(pong, recorded, stream.ids(number))
        np.testing.assert_array_equal(batch.states.cpu(), states)
        np.testing.assert_array_equal(batch.teacher_q.cpu(), teacher_q)


@REACHES
def test_a_batch_that_is_larger_than_the_window_is_whole_all_the_same(pong, recorded, reach):
    stream = Stream(pong, 600, 3, Reach(8, 2) if reach else None)
    for number in range(3):
        assert_true(stream, recorded, number)


def test_held_out_states_come_in_recorded_order_and_need_little_memory(pong, recorded):
    stream = Stream(pong, 50, 3, shuffle=False)
    for number in range(len(stream)):
        assert_true(stream, recorded, number)
    ids = np.concatenate([stream.ids(number) for number in range(len(stream))])
    assert ids.tolist() == [[block, step] for block in range(len(pong)) for step in range(pong.lengths[block])]


@REACHES
def test_an_epoch_is_all_that_the_shards_hold_counted_without_any_index(pong, recorded, reach):
    def digests(states):
        return sorted(sha256(state.tobytes()).digest() for state in states)

    stream = Stream(pong, 64, 3, reach)
    everything = digests(np.concatenate(recorded))
    for epoch in range(2):
        batches = take(stream, len(stream), epoch * len(stream))
        assert digests(np.concatenate([states for states, _ in batches])) == everything


@REACHES
def test_the_number_of_threads_changes_nothing(pong, reach):
    first, *others = (take(Stream(pong, 50, 3, reach, workers=new_workers(threads)), 30) for threads in (1, 2, 4))
    for other in others:
        assert_same(first, other)


@REACHES
def test_a_new_stream_goes_on_from_anywhere_as_if_nothing_had_happened(pong, reach):
    through = take(Stream(pong, 50, 3, reach), 40)
    length = len(Stream(pong, 50, 3, reach))
    for start in (0, 1, length - 1, length, *np.random.default_rng(0).integers(2, 36, 6).tolist()):
        assert_same(take(Stream(pong, 50, 3, reach, workers=new_workers(2)), 4, start), through[start : start + 4])


def test_a_running_stream_can_be_sent_anywhere(pong):
    through = take(Stream(pong, 50, 3, TIGHT), 40)
    stream = Stream(pong, 50, 3, TIGHT)
    for start in (30, 2, 3, 17, 0, 12, 11):
        assert_same(take(stream, 3, start), through[start : start + 3])


def test_orders_of_epochs_that_are_over_are_forgotten(pong):
    stream = Stream(pong, 200, 3)
    for number in range(10 * len(stream)):
        stream.batch(number)
        assert len(stream._epochs._found) <= 3


class Begun(Future):
    """What a thread has begun, and ends when somebody waits for it."""

    def __init__(self, work):
        super().__init__()
        self.work = work
        self.set_running_or_notify_cancel()

    def result(self, timeout=None):
        if not self.done():
            self.set_result(self.work())
        return super().result(timeout)

    def exception(self, timeout=None):
        self.result()


class Sluggish(ThreadPoolExecutor):
    """Begins whatever it is given at once, and hurries with nothing."""

    def __init__(self):
        super().__init__(1)
        self.begun = []

    def submit(self, fn, /, *args, **kwargs):
        self.begun.append(Begun(partial(fn, *args, **kwargs)))
        return self.begun[-1]


def test_what_was_being_decoded_before_a_jump_never_ends_in_the_place_of_something_else(pong, recorded):
    workers = Sluggish()
    stream = Stream(pong, 8, 3, Reach(8, 60), workers=workers)
    stream.batch(40)
    assert not all(each.done() for each in workers.begun)
    stream.batch(0)
    for each in reversed(workers.begun):  # what was begun first ends last
        each.result()
    for number in range(1, 6):
        assert_true(stream, recorded, number)


def flip(path, block, place, bit=3):
    """Changes one bit of a block's stored frames, in place."""
    with h5py.File(path, "r") as file:
        chunk = file["frames"].id.get_chunk_info(block)  # pyright: ignore
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset + place % chunk.size)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1 << bit]))


@REACHES
@pytest.mark.parametrize("when", ["before opening", "before reading", "while reading"])
def test_a_changed_bit_is_an_error_and_never_a_state(datasets, tmp_path, recorded, reach, when):
    chance = np.random.default_rng([reach is None, len(when)])
    for attempt in range(4):
        folder = tmp_path / str(attempt) / "pong"
        folder.mkdir(parents=True)
        for path in find_shards(datasets / "pong"):
            shutil.copy(path, folder)
        shard, block, place, bit = (int(n) for n in chance.integers([2, 12, 2**20, 8]))
        victim = folder / f"{shard:04d}.h5"
        if when == "before opening":
            flip(victim, block, place, bit)
        blocks = blocks_of(folder)
        stream = Stream(blocks, 50, attempt, reach)
        if when == "while reading":
            for each in blocks.shards:
                each.states(0)  # opens the file
        if when != "before opening":
            flip(victim, block, place, bit)
        with pytest.raises(ShardError, match=victim.name) as error:
            list(map(partial(assert_true, stream, recorded), range(len(stream))))
        if when != "before reading":
            assert f"block {block} " in str(error.value)
        with pytest.raises(ShardError, match=victim.name):  # asking again does not help
            take(stream, 2 * len(stream))


def test_a_shard_that_was_replaced_or_cut_short_is_an_error(datasets, tmp_path):
    for change in (lambda path: path.write_bytes(path.read_bytes()), lambda path: path.unlink()):
        shutil.copytree(datasets / "pong", tmp_path / "pong", dirs_exist_ok=True)
        stream = Stream(blocks_of(tmp_path / "pong"), 50, 0)
        change(tmp_path / "pong" / "0001.h5")
        with pytest.raises(ShardError, match=r"0001\.h5"):
            take(stream, len(stream))
    shutil.copytree(datasets / "pong", tmp_path / "pong", dirs_exist_ok=True)
    blocks = blocks_of(tmp_path / "pong")
    blocks.shards[1].states(0)
    with (tmp_path / "pong" / "0001.h5").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ShardError, match=r"0001\.h5"):
        take(Stream(blocks, 50, 0), 12)


@pytest.mark.parametrize(("options", "complaint"), [
    ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": 1000, "ranks": 1000}, "pong: 600 states in batches of 1000 leave one with 600, for 1000 devices"),
    ({"rank": 2, "ranks": 2}, "rank is 2: it must be one of 0 to 1"),
])  # fmt: skip
def test_what_cannot_work_is_refused_at_once(pong, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Stream(**{"blocks": pong, "batch_size": 50, "seed": 0, **options})


def test_a_batch_that_has_fewer_states_than_devices_is_refused_with_its_game(datasets):
    breakout = blocks_of(datasets / "breakout")  # 180 states: batches of 7 are 6 or 7
    Stream(breakout, 7, 0, ranks=6)
    with pytest.raises(
        ValueError, match=r"breakout: 180 states in batches of 7 leave one with 6, for 7 devices: raise"
    ):
        Stream(breakout, 7, 0, ranks=7)


def test_held_out_blocks_are_those_of_whole_episodes(datasets):
    shards = [Shard(path) for path in find_shards(datasets / "pong")]
    train, validation = held_out(shards, 0.3, seed=1)
    both = np.concatenate([train, validation])
    assert sorted(both.tolist()) == [[s, b] for s in range(2) for b in range(shards[s].n_blocks)]
    episodes = [{(s, int(shards[s].episodes[b])) for s, b in blocks} for blocks in (train, validation)]
    assert not episodes[0] & episodes[1]
    assert len(episodes[1]) == 2  # 0.3 of 8
