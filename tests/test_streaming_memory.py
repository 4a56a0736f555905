"""What a stream decodes and when, how much memory it takes for that, and that its threads end with it."""

import gc
import queue
import threading
import time
import tracemalloc
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from flowing import REACHES, TIGHT, WHOLE, blocks_of, take

from pd_lightning.blocks import CHUNK
from pd_lightning.streaming import Blocks, Reach, Stream, choose_reach, memory_of, variety, window
from pd_lightning.streaming.buffers import BufferPool
from pd_lightning.streaming.stream import new_workers
from pd_lightning.streaming.window import slot_bytes


@pytest.fixture(scope="module")
def pong(datasets):
    """All of pong: 24 blocks, 600 states."""
    return blocks_of(datasets / "pong")


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
