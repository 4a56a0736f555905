"""Streams: which states a batch holds, that they are the recorded ones, and that any process can go on anywhere."""

import gc
import itertools
import shutil
import threading
import time
import tracemalloc
from functools import partial
from hashlib import sha256
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pd_lightning import streaming
from pd_lightning.blocks import CHUNK, Shard, ShardError, find_shards
from pd_lightning.streaming import Stream, held_out
from pd_lightning.window import Blocks, BufferPool

BLOCK_BYTES = int(np.prod(CHUNK))
ONE, MANY = 2**30, 10 * BLOCK_BYTES  # memory for one window, and for two of five blocks: five windows of pong's 24
MEMORIES = pytest.mark.parametrize("memory", [ONE, MANY], ids=["one window", "many windows"])


def blocks_of(folder, kind: Any = Blocks) -> Any:
    """All blocks of a game."""
    shards = [Shard(path) for path in find_shards(folder)]
    return kind(shards, held_out(shards, 0.0, seed=0)[0])


@pytest.fixture(scope="module")
def pong(datasets):
    """All of pong: 24 blocks, 600 states."""
    return blocks_of(datasets / "pong")


@pytest.fixture(scope="module")
def recorded(pong):
    """The states of every block as `Shard.states` reads them."""
    return [pong.shards[shard].states(int(number)) for shard, number in pong.chosen]


def expected(blocks, recorded, ids):
    """States and Q-values of `ids`, one by one."""
    states = np.stack([recorded[block][step] for block, step in ids])
    rows = [
        blocks.shards[s].q_values[b][step] for (s, b), step in zip(blocks.chosen[ids[:, 0]], ids[:, 1], strict=True)
    ]
    return states, np.stack(rows)


def take(stream, count):
    """The next batches, over as many iterations as it takes, copied."""
    endless = itertools.chain.from_iterable(iter(stream) for _ in itertools.count())
    return [(batch.states.numpy().copy(), batch.teacher_q.numpy().copy()) for batch in itertools.islice(endless, count)]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for (states, teacher_q), (other_states, other_q) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(states, other_states)
        np.testing.assert_array_equal(teacher_q, other_q)


def assert_next_is_true(stream, recorded, number):
    states, teacher_q = take(stream, 1)[0]
    wanted = expected(stream.blocks, recorded, stream.ids(number))
    np.testing.assert_array_equal(states, wanted[0])
    np.testing.assert_array_equal(teacher_q, wanted[1])


@MEMORIES
@pytest.mark.parametrize("batch_size", [72, 240])  # cut into batches of 66 and 67, and of 200
def test_the_ranks_shares_joined_are_the_same_array_for_any_number_of_ranks(pong, memory, batch_size):
    alone = Stream(pong, batch_size, 7, memory)
    assert (alone.order.windows == 1) == (memory == ONE)
    for ranks in (1, 2, 3, 4, 8):
        streams = [Stream(pong, batch_size, 7, memory, rank, ranks) for rank in range(ranks)]
        assert [len(stream) for stream in streams] == [len(alone)] * ranks
        for number in range(3 * len(alone)):
            shares = [stream.ids(number) for stream in streams]
            np.testing.assert_array_equal(np.concatenate(shares), alone.ids(number))
            sizes = [len(share) for share in shares]
            assert max(sizes) - min(sizes) <= 1


@MEMORIES
def test_what_the_ranks_deliver_joined_is_what_one_delivers(pong, memory):
    one = take(Stream(pong, 60, 7, memory), 15)
    ranks = [take(Stream(pong, 60, 7, memory, rank, 3), 15) for rank in range(3)]
    assert_same([tuple(map(np.concatenate, zip(*shares, strict=True))) for shares in zip(*ranks, strict=True)], one)


@MEMORIES
@pytest.mark.parametrize("batch_size", [1, 59, 256, 600, 1000])
def test_every_state_comes_exactly_once_per_epoch(pong, memory, batch_size):
    stream = Stream(pong, batch_size, 3, memory)
    every = [[block, step] for block in range(len(pong)) for step in range(pong.lengths[block])]
    for epoch in range(2):
        ids = [stream.ids(epoch * len(stream) + i) for i in range(len(stream))]
        assert max(map(len, ids)) - min(map(len, ids)) <= 1
        assert sorted(np.concatenate(ids).tolist()) == every


@MEMORIES
def test_delivered_states_and_q_values_are_those_that_were_recorded(pong, recorded, memory):
    stream = Stream(pong, 50, 3, memory)
    for number in range(2 * len(stream) + 5):
        assert_next_is_true(stream, recorded, number)
    states, teacher_q = next(iter(stream))
    assert (states.dtype, teacher_q.dtype) == (torch.uint8, torch.float32)


@MEMORIES
def test_an_epoch_is_all_that_the_shards_hold_counted_without_any_index(pong, recorded, memory):
    def digests(states):
        return sorted(sha256(state.tobytes()).digest() for state in states)

    stream = Stream(pong, 64, 3, memory)
    everything = digests(np.concatenate(recorded))
    for _ in range(2):
        assert digests(np.concatenate([states for states, _ in take(stream, len(stream))])) == everything


@MEMORIES
def test_the_number_of_threads_changes_nothing(pong, memory):
    first, *others = (take(Stream(pong, 50, 3, memory, threads=threads), 30) for threads in (1, 2, 4))
    for other in others:
        assert_same(first, other)


@MEMORIES
def test_a_new_stream_goes_on_from_anywhere_as_if_nothing_had_happened(pong, memory):
    through = take(Stream(pong, 50, 3, memory), 40)
    length = len(Stream(pong, 50, 3, memory))
    for start in (0, 1, length - 1, length, *np.random.default_rng(0).integers(2, 36, 4).tolist()):
        stream = Stream(pong, 50, 3, memory, threads=2)
        stream.batches_given = start
        assert_same(take(stream, 4), through[start : start + 4])
        assert stream.batches_given == start + 4


def test_a_running_stream_can_be_sent_anywhere(pong):
    through = take(Stream(pong, 50, 3, MANY), 40)
    stream = Stream(pong, 50, 3, MANY)
    for start in (30, 2, 3, 17, 0):
        stream.batches_given = start
        assert_same(take(stream, 3), through[start : start + 3])


def test_iterating_gives_an_epochs_number_of_batches_from_wherever_it_stands(pong):
    stream = Stream(pong, 50, 3, ONE)
    through = take(Stream(pong, 50, 3, ONE), 30)
    for batch in stream:
        if stream.batches_given == 5:
            break
        del batch
    assert len(list(stream)) == len(stream) == 12
    assert stream.batches_given == 17
    assert_same(take(stream, 13), through[17:30])


class Counting(Blocks):
    """Blocks that count how often each is decoded."""

    def __init__(self, shards, chosen):
        super().__init__(shards, chosen)
        self.reads = np.zeros(len(chosen), int)

    def read(self, block, out):
        self.reads[block] += 1
        super().read(block, out)


def test_what_fits_is_decoded_once_and_what_does_not_once_an_epoch(datasets):
    for memory, times in ((ONE, 1), (MANY, 3)):
        blocks = blocks_of(datasets / "pong", kind=Counting)
        stream = Stream(blocks, 50, 3, memory)
        take(stream, 3 * len(stream))
        ahead = blocks.reads - times  # the window after the last may have been read already
        assert ahead.min() >= 0
        assert ahead.sum() <= stream.order.window * (memory == MANY)


def test_going_on_reads_nothing_of_what_came_before(datasets):
    blocks = blocks_of(datasets / "pong", kind=Counting)
    stream = Stream(blocks, 50, 3, MANY)
    stream.batches_given = 3 * len(stream) + 6
    take(stream, 1)
    assert blocks.reads.sum() <= 3 * stream.order.window  # a batch may lie in two windows, the third is read ahead


def test_the_frames_of_a_stream_stay_within_its_memory(pong):
    tracemalloc.start()
    try:
        stream = Stream(pong, 8, 3, MANY)
        for _ in itertools.chain(stream, stream):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.9 * MANY < peak < MANY + 10 * 8 * 4 * 84 * 84


@MEMORIES
def test_a_batch_that_is_kept_is_never_overwritten(pong, memory):
    stream = Stream(pong, 50, 3, memory)
    kept, views, copies = [], [], []
    for _ in range(4):
        for i, batch in enumerate(stream):
            if i % 3 == 0:
                copies.append(batch.states.numpy().copy())
                kept.append(batch if i % 2 else batch.states)
            elif i % 3 == 1:  # only a piece of it
                copies.append(batch.states.numpy()[7:9, 1].copy())
                views.append(batch.states[7:9, 1] if i % 2 else batch.states.numpy()[7:9, 1])
                kept.append(views[-1])
    for have, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(np.asarray(have.states if hasattr(have, "states") else have), copy)


def test_memory_of_a_batch_that_is_dropped_is_used_again():
    pool = BufferPool()
    places = set()
    for count in (50, 49, 50, 1, 50) * 10:
        states = pool.take(count)
        assert states.shape == (count, 4, 84, 84)
        assert states.dtype == torch.uint8
        places.add(states.data_ptr())
        del states
    assert len(places) == 1
    first, second = pool.take(50), pool.take(50)
    assert first.data_ptr() != second.data_ptr()
    last = first[3:]
    del first
    assert pool.take(50).data_ptr() != last.data_ptr() - 3 * 4 * 84 * 84


def flip(path, block, place, bit=3):
    """Changes one bit of a block's stored frames, in place."""
    with h5py.File(path, "r") as file:
        chunk = file["frames"].id.get_chunk_info(block)  # pyright: ignore
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset + place % chunk.size)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1 << bit]))


@MEMORIES
@pytest.mark.parametrize("when", ["before opening", "before reading", "while reading"])
def test_a_changed_bit_is_an_error_and_never_a_state(datasets, tmp_path, recorded, memory, when):
    chance = np.random.default_rng([memory, len(when)])
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
        stream = Stream(blocks, 50, attempt, memory)
        if when == "while reading":
            for each in blocks.shards:
                each.states(0)  # opens the file
        if when != "before opening":
            flip(victim, block, place, bit)
        with pytest.raises(ShardError, match=victim.name) as error:
            list(map(partial(assert_next_is_true, stream, recorded), range(len(stream))))
        if when != "before reading":
            assert f"block {block} " in str(error.value)
        with pytest.raises(ShardError, match=victim.name):  # asking again does not help
            take(stream, 2 * len(stream))


def test_a_shard_that_was_replaced_or_cut_short_is_an_error(datasets, tmp_path):
    for change in (lambda path: path.write_bytes(path.read_bytes()), lambda path: path.unlink()):
        shutil.copytree(datasets / "pong", tmp_path / "pong", dirs_exist_ok=True)
        stream = Stream(blocks_of(tmp_path / "pong"), 50, 0, ONE)
        change(tmp_path / "pong" / "0001.h5")
        with pytest.raises(ShardError, match=r"0001\.h5"):
            next(iter(stream))
    shutil.copytree(datasets / "pong", tmp_path / "pong", dirs_exist_ok=True)
    blocks = blocks_of(tmp_path / "pong")
    blocks.shards[1].states(0)
    with (tmp_path / "pong" / "0001.h5").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ShardError, match=r"0001\.h5"):
        next(iter(Stream(blocks, 50, 0, ONE)))


def test_threads_end_with_their_stream(pong):
    stream = Stream(pong, 50, 3, MANY, threads=3)
    take(stream, 3)
    assert {thread.name[:6] for thread in threading.enumerate()} >= {"window", "decode"}
    del stream
    gc.collect()
    for _ in range(50):
        if not any(thread.name.startswith(("window", "decode")) for thread in threading.enumerate()):
            return
        time.sleep(0.1)
    pytest.fail("there are threads left of a stream that is gone")


@pytest.mark.parametrize(("options", "complaint"), [
    ({"batch_size": 25, "ranks": 2}, "batch_size is 25: it must be a multiple of the number of devices, 2"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"memory": 2 * BLOCK_BYTES - 1}, f"memory is {2 * BLOCK_BYTES - 1} bytes: it must hold at least two blocks"),
    ({"batch_size": 1000, "ranks": 1000}, "only 600 states: too few for 1000 devices"),
    ({"rank": 2, "ranks": 2}, "rank is 2: it must be one of 0 to 1"),
])  # fmt: skip
def test_what_cannot_work_is_refused_at_once(pong, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Stream(**{"blocks": pong, "batch_size": 50, "seed": 0, "memory": MANY, **options})


def test_two_blocks_of_memory_are_enough(pong, recorded):
    stream = Stream(pong, 50, 3, 2 * BLOCK_BYTES)
    assert stream.order.windows == len(pong)
    for number in range(15):
        assert_next_is_true(stream, recorded, number)


def test_held_out_blocks_are_those_of_whole_episodes(datasets):
    shards = [Shard(path) for path in find_shards(datasets / "pong")]
    train, validation = held_out(shards, 0.3, seed=1)
    both = np.concatenate([train, validation])
    assert sorted(both.tolist()) == [[s, b] for s in range(2) for b in range(shards[s].n_blocks)]
    episodes = [{(s, int(shards[s].episodes[b])) for s, b in blocks} for blocks in (train, validation)]
    assert not episodes[0] & episodes[1]
    assert len(episodes[1]) == 2  # 0.3 of 8


@pytest.mark.parametrize("memory", [4.0, 20 * BLOCK_BYTES / 2**30])
def test_the_order_command_prints_what_a_rank_would_see(datasets, capsys, memory):
    options = {"games": "pong,breakout", "batch_size": 64, "ranks": 4, "rank": 3, "epoch": 2, "seed": 9}
    options |= {"memory": memory, "validation": 0.2}
    command = ["order", str(datasets), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    assert streaming.main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = []
    for game in ("pong", "breakout"):
        shards = [Shard(path) for path in find_shards(datasets / game)]
        blocks = Blocks(shards, held_out(shards, 0.2, 9)[0])
        stream = Stream(blocks, 64, 9, int(memory * 2**30 / 2), 3, 4)
        for i in range(len(stream)):
            for block, step in stream.ids(2 * len(stream) + i):
                shard, number = blocks.chosen[block]
                lines.append(f"{game} {i} {shard:04d}.h5 {number} {step}")
    assert printed == lines


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--games=[pong, breakout]", "--batch_size=25", "--ranks=2"], "multiple of the number of devices"),
    (["--games", "enduro"], "enduro"),
])  # fmt: skip
def test_the_order_command_complains_in_one_line(datasets, capsys, arguments, complaint):
    assert streaming.main(["order", str(datasets), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err
