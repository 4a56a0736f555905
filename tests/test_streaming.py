"""Streams: which states a batch holds, that they are the recorded ones, and that any process can go on anywhere."""

import gc
import queue
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pd_lightning.blocks import CHUNK, Shard, ShardError, find_shards
from pd_lightning.streaming import Blocks, Reach, Stream, choose_reach, held_out, memory_of, variety, window
from pd_lightning.streaming.__main__ import main
from pd_lightning.streaming.buffers import BufferPool
from pd_lightning.streaming.stream import new_workers
from pd_lightning.streaming.window import slot_bytes

WHOLE, TIGHT = None, Reach(8, 20)  # pong's 24 blocks are 84 pieces of 8 steps
REACHES = pytest.mark.parametrize("reach", [WHOLE, TIGHT], ids=["decoded once", "flowing through"])


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


def take(stream, count, start=0):
    """Some batches, copied."""
    batches = (stream.batch(number) for number in range(start, start + count))
    return [(batch.states.numpy().copy(), batch.teacher_q.numpy().copy()) for batch in batches]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for (states, teacher_q), (other_states, other_q) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(states, other_states)
        np.testing.assert_array_equal(teacher_q, other_q)


def assert_true(stream, recorded, number):
    states, teacher_q = take(stream, 1, number)[0]
    wanted = expected(stream.blocks, recorded, stream.ids(number))
    np.testing.assert_array_equal(states, wanted[0])
    np.testing.assert_array_equal(teacher_q, wanted[1])


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
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


class Counting(Blocks):
    """Blocks that count how often each is decoded."""

    def __init__(self, shards, chosen):
        super().__init__(shards, chosen)
        self.reads, self.sequence = np.zeros(len(chosen), int), []

    def read(self, block, out):
        self.reads[block] += 1
        self.sequence.append(block)
        super().read(block, out)


def test_what_fits_is_decoded_once(datasets):
    blocks = blocks_of(datasets / "pong", kind=Counting)
    stream = Stream(blocks, 50, 3)
    take(stream, 3 * len(stream))
    assert (blocks.reads == 1).all()


def test_what_flows_through_is_decoded_once_for_each_piece_and_window_and_epoch(datasets):
    blocks = blocks_of(datasets / "pong", kind=Counting)
    stream = Stream(blocks, 50, 3, TIGHT)
    take(stream, 3 * len(stream))
    pieces, slots = len(stream.order.piece_starts), memory_of(blocks, 50, TIGHT) // slot_bytes(8)
    assert 3 * pieces <= blocks.reads.sum() <= 3 * (pieces + TIGHT.window) + slots


def test_going_on_reads_nothing_of_what_came_before(datasets):
    blocks = blocks_of(datasets / "pong", kind=Counting)
    stream = Stream(blocks, 50, 3, TIGHT, workers=new_workers(1))
    take(stream, 1, 3 * len(stream) + 6)
    assert blocks.reads.sum() <= memory_of(blocks, 50, TIGHT) // slot_bytes(8) + len(stream.order.piece_starts) // 4


class AtOnce(ThreadPoolExecutor):
    """Does what it is given before it goes on, so that the sequence is that of asking."""

    def submit(self, fn, /, *args, **kwargs):
        done = Future()
        done.set_result(fn(*args, **kwargs))
        return done


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


@pytest.mark.parametrize("reach", [WHOLE, Reach(8, 60)])
@pytest.mark.parametrize("start", [0, 7, 16])
def test_what_is_needed_first_is_decoded_first(datasets, reach, start):
    blocks = blocks_of(datasets / "pong", kind=Counting)
    stream = Stream(blocks, 8, 3, reach, workers=AtOnce())
    stream.batch(start)
    block, step = stream.ids(start).T
    needed = np.unique([block, step // 8 if reach else 0 * step], axis=1)[0]
    assert sorted(blocks.sequence[: len(needed)]) == needed.tolist()


def test_no_batch_waits_for_what_later_ones_need(datasets, monkeypatch):
    monkeypatch.setattr(window, "JOB", 1)
    monkeypatch.setattr(window, "BUSY", 1)
    blocks = blocks_of(datasets / "pong", kind=Counting)
    stream = Stream(blocks, 8, 3, Reach(8, 60), workers=AtOnce())
    for number in range(3):
        stream.batch(number)
        assert len(blocks.sequence) <= 16 * (number + 1)  # a piece for each state, and as many more meanwhile


def test_the_frames_of_a_stream_stay_within_its_memory(pong):
    tracemalloc.start()
    try:
        stream = Stream(pong, 8, 3, TIGHT)
        for number in range(2 * len(stream)):
            stream.batch(number)
        peak = tracemalloc.get_traced_memory()[1]
        room = stream._window.slots * slot_bytes(TIGHT.piece)  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        tracemalloc.stop()
    frames = memory_of(pong, 8, TIGHT)
    threads, batches, orders = 4 * np.prod(CHUNK), 3 * 8 * 4 * 84 * 84, 100_000
    assert room == frames
    assert frames < peak < frames + threads + batches + orders


@REACHES
def test_a_batch_that_is_kept_is_never_overwritten(pong, reach):
    stream = Stream(pong, 50, 3, reach)
    kept, copies = [], []
    for number in range(40):
        batch = stream.batch(number)
        if number % 3 == 0:
            copies.append(batch.states.numpy().copy())
            kept.append(batch.states)
        elif number % 3 == 1:  # only a piece of it
            copies.append(batch.states.numpy()[7:9, 1].copy())
            kept.append(batch.states[7:9, 1] if number % 2 else batch.states.numpy()[7:9, 1])
    for have, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(np.asarray(have), copy)


def test_another_thread_may_hold_a_batch(pong):
    stream, held = Stream(pong, 50, 3), queue.Queue()
    copies = []
    for number in range(12):
        batch = stream.batch(number)
        copies.append(batch.states.numpy().copy())
        threading.Thread(target=held.put, args=((number, batch.states.view(50, -1)),)).start()
        del batch
    for _ in range(12):
        number, states = held.get(timeout=10)
        assert np.array_equal(states.view(50, 4, 84, 84).numpy(), copies[number])


def test_memory_of_a_batch_that_is_dropped_is_used_again():
    pool = BufferPool()
    places = set()
    for count in (50, 49, 50, 1, 50) * 10:
        states = torch.from_numpy(pool.take(count))
        assert states.shape == (count, 4, 84, 84)
        assert states.dtype == torch.uint8
        places.add(states.data_ptr())
        del states
    assert len(places) == 1
    first, second = torch.from_numpy(pool.take(50)), torch.from_numpy(pool.take(50))
    assert first.data_ptr() != second.data_ptr()
    last = first[3:]
    del first
    assert torch.from_numpy(pool.take(50)).data_ptr() != last.data_ptr() - 3 * 4 * 84 * 84


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


def test_threads_end_with_their_stream(pong):
    others = set(threading.enumerate())  # fixtures of other files may hold streams, where tests run side by side
    stream = Stream(pong, 50, 3, TIGHT, workers=new_workers(3))
    take(stream, 3)
    mine = [thread for thread in set(threading.enumerate()) - others if thread.name.startswith("stream")]
    assert mine
    del stream
    for _ in range(50):
        gc.collect()
        if not any(thread.is_alive() for thread in mine):
            return
        time.sleep(0.1)
    pytest.fail("there are threads left of a stream that is gone")


@pytest.mark.parametrize(("options", "complaint"), [
    ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": 1000, "ranks": 1000}, "only 600 states: too few for 1000 devices"),
    ({"rank": 2, "ranks": 2}, "rank is 2: it must be one of 0 to 1"),
])  # fmt: skip
def test_what_cannot_work_is_refused_at_once(pong, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Stream(**{"blocks": pong, "batch_size": 50, "seed": 0, **options})


def test_a_recording_that_fits_is_shuffled_perfectly_and_what_does_not_as_well_as_memory_allows(pong):
    whole = len(pong) * slot_bytes(32)
    assert choose_reach(pong, 50, whole) is None
    assert memory_of(pong, 50, None) == whole
    widths = []
    for memory in (2 * slot_bytes(8), 10 * slot_bytes(8), 10**6, whole - 1):
        reach = choose_reach(pong, 2, memory)
        assert reach is not None
        assert slot_bytes(8) < memory_of(pong, 2, reach) <= memory
        widths.append(reach.window)
        assert len(take(Stream(pong, 2, 3, reach), 30)) == 30
    assert widths == sorted(widths)
    with pytest.raises(ValueError, match=r"0\.000145 GiB, it needs at least 0\.000145: raise --data\.memory"):
        choose_reach(pong, 50, 2 * slot_bytes(8) - 1)


class Long:
    """Ten hours, of which only the number of blocks is asked for."""

    def __len__(self):
        return 17_000


def test_with_more_memory_pieces_are_larger_and_mixing_is_better_until_nothing_is_gained():
    reaches = [choose_reach(Long(), 256, int(gib * 2**30)) for gib in (0.1, 0.15, 0.25, 0.8, 1.6, 3.8)]  # pyright: ignore
    assert [reach and reach.piece for reach in reaches] == [8, 8, 16, 32, 32, 32]
    for gib, reach in zip((0.1, 0.15, 0.25, 0.8, 1.6, 3.8), reaches, strict=True):
        assert memory_of(Long(), 256, reach) <= gib * 2**30  # pyright: ignore
        assert variety(reach, 256) > 0.9
    assert choose_reach(Long(), 64, int(3.8 * 2**30)) == Reach(32, 64 * 64)  # pyright: ignore


def test_held_out_blocks_are_those_of_whole_episodes(datasets):
    shards = [Shard(path) for path in find_shards(datasets / "pong")]
    train, validation = held_out(shards, 0.3, seed=1)
    both = np.concatenate([train, validation])
    assert sorted(both.tolist()) == [[s, b] for s in range(2) for b in range(shards[s].n_blocks)]
    episodes = [{(s, int(shards[s].episodes[b])) for s, b in blocks} for blocks in (train, validation)]
    assert not episodes[0] & episodes[1]
    assert len(episodes[1]) == 2  # 0.3 of 8


@pytest.mark.parametrize("memory", [None, 0.005])
def test_the_order_command_prints_what_a_rank_would_see(datasets, capsys, memory):
    options = {"games": "pong,breakout", "batch_size": 64, "ranks": 4, "rank": 3, "epoch": 2, "seed": 9}
    options |= {"validation": 0.2, **({"memory": memory} if memory else {})}
    command = ["order", str(datasets), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    streams = {}
    for game in ("pong", "breakout"):
        shards = [Shard(path) for path in find_shards(datasets / game)]
        blocks = Blocks(shards, held_out(shards, 0.2, 9)[0])
        need = memory_of(blocks, 64, None) if game == "breakout" else 0  # the smaller one; it leaves the rest
        streams[game] = blocks, need
    lines, length = [], -(-streams["pong"][0].states // 64)
    room = int((memory or 1) * 2**30)
    breakout = choose_reach(streams["breakout"][0], 64, room // 2)
    pong = choose_reach(streams["pong"][0], 64, room - memory_of(streams["breakout"][0], 64, breakout))
    for i in range(length):
        for game, reach in (("pong", pong), ("breakout", breakout)):
            stream = Stream(streams[game][0], 64, 9, reach, 3, 4)
            for block, step in stream.ids(2 * length + i):
                shard, number = stream.blocks.chosen[block]
                lines.append(f"{game} {i} {shard:04d}.h5 {number} {step}")
    assert printed == lines


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--games=[pong, breakout]", "--batch_size=25", "--ranks=2"], "multiple of the number of devices"),
    (["--games", "enduro"], "enduro"),
    (["--mixing", "stirred"], "balanced, one_game"),
    (["--weights.breakout", "2"], "weight of breakout is 2"),
    (["--memory", "0.0001"], "raise --data.memory"),
    (["--memory", "-1"], "memory is -1"),
    (["--games=pong,pong"], "each once"),
    (["--batch_size=0"], "batch_size is 0"),
    (["--epoch=-1"], "epoch -1"),
    (["--games=[pong, breakout]", "--batch_size=8", "--ranks=4", "--weights.pong=7"], "weight of breakout leaves 2"),
])  # fmt: skip
def test_the_order_command_complains_in_one_line(datasets, capsys, arguments, complaint):
    assert main(["order", str(datasets), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


@pytest.mark.parametrize("words", ["streaming order", "blocks info"])
def test_whoever_reads_a_list_may_stop_reading(datasets, words):
    command = f"{sys.executable} -m pd_lightning.{words} {datasets} | head -1"
    done = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert done.returncode in (0, 141)
