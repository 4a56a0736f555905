"""Damaged shards: damage is an error, never another state."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hdf5plugin
import numpy as np
import pytest
import zstandard
from handmade import BLOCKS, HEADER, block, chunks, content, episode_returns, frame, hdf5, one_line

from pd_lightning.blocks import CHUNK, Shard, ShardError, ShardWriter, writing


def assert_noticed(path: Path, good: tuple) -> bool:
    """Whether the damage raised. If it did not, everything must be as it was; nothing but ShardError may be raised."""
    try:
        found = content(path)
    except ShardError as error:
        message = str(error)
    else:
        assert found == good
        return False
    assert str(path) in message
    assert "\n" not in message
    return True


def test_a_flipped_bit_anywhere_is_an_error_or_harmless(copy):
    good, data, rng = content(copy), copy.read_bytes(), np.random.default_rng(0)
    noticed = 0
    for bit in rng.integers(0, 8 * len(data), 400):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(damaged)
        noticed += assert_noticed(copy, good)
    assert noticed > 100  # the others fell on unused room of the container


def test_a_flipped_bit_in_a_frame_is_always_an_error_that_names_the_block(copy):
    data, rng = copy.read_bytes(), np.random.default_rng(1)
    table = chunks(copy)
    for _ in range(34):
        damaged = bytearray(data)
        for chunk in table:  # all blocks at once, as opening a shard is what takes the time: 204 flips
            damaged[chunk.byte_offset + rng.integers(chunk.size)] ^= 1 << rng.integers(8)
        copy.write_bytes(damaged)
        shard = Shard(copy)
        for i in range(len(table)):
            with one_line(str(copy), f"block {i} "):
                shard.read_block(i, np.empty(CHUNK, np.uint8))


@pytest.mark.parametrize("length", [16, 512])
def test_a_zeroed_stretch_is_an_error_or_harmless(copy, length):
    good, data, rng = content(copy), copy.read_bytes(), np.random.default_rng(2)
    for start in rng.integers(0, len(data) - length, 100):
        copy.write_bytes(data[:start] + bytes(length) + data[start + length :])
        assert_noticed(copy, good)


def test_a_truncated_file_is_an_error(copy):
    data, rng = copy.read_bytes(), np.random.default_rng(3)
    for size in (0, 1, len(data) - 1, *rng.choice(len(data), 120, replace=False)):
        copy.write_bytes(data[:size])
        with one_line(str(copy)):
            Shard(copy)


def test_a_file_truncated_after_opening_is_an_error(copy):
    shard = Shard(copy)
    shard.states(0)  # opens it
    os.truncate(copy, chunks(copy)[-1].byte_offset + 1)
    with one_line("block 5"):
        shard.verify()


def test_swapped_blocks_are_errors_also_where_the_sizes_agree(copy):
    table = chunks(copy)
    with hdf5(copy, "r+") as file:
        dataset = file["frames"].id
        first, second = (dataset.read_direct_chunk((i, 0, 0, 0))[1] for i in (3, 4))
        dataset.write_direct_chunk((3, 0, 0, 0), second)
        dataset.write_direct_chunk((4, 0, 0, 0), first)
        assert np.array_equal(file["frames"][3, 3:], np.stack([frame(2, s) for s in range(32, 64)]))  # HDF5 is content
    shard = Shard(copy)
    for i in (3, 4):
        with one_line(f"block {i} "):
            shard.states(i)
    assert len(shard.states(0)) == 32
    assert len(table) == len(chunks(copy))


def test_any_two_swapped_blocks_are_errors_and_the_others_are_read(tmp_path):
    path = tmp_path / "0000.h5"
    with ShardWriter(path, HEADER) as writer:
        for numbers in BLOCKS:
            writer.add(**block(*numbers))
        for gray in range(1, 6):  # stored in the same number of bytes, all of them
            flat: dict[str, Any] = {"frames": np.full(CHUNK, gray, np.uint8)}
            writer.add(**block(2, 0, 32) | flat)
        writer.finish(episode_returns())
    data, table, frames = path.read_bytes(), chunks(path), np.empty(CHUNK, np.uint8)
    pairs = list(itertools.combinations(range(len(table)), 2))
    equal = 0
    for pair in pairs:
        first, second = (slice(table[i].byte_offset, table[i].byte_offset + table[i].size) for i in pair)
        if table[pair[0]].size == table[pair[1]].size:  # byte for byte: HDF5's own index stays as it is
            equal += 1
            swapped = bytearray(data)
            swapped[first], swapped[second] = data[second], data[first]
            path.write_bytes(swapped)
        else:
            path.write_bytes(data)
            with hdf5(path, "r+") as file:
                file["frames"].id.write_direct_chunk((pair[0], 0, 0, 0), data[second])
                file["frames"].id.write_direct_chunk((pair[1], 0, 0, 0), data[first])
        shard = Shard(path)
        for i in range(len(table)):
            if i in pair:
                with one_line(f"block {i} "):
                    shard.read_block(i, frames)
            else:
                shard.read_block(i, frames)
    assert len(pairs) == 55
    assert equal >= 10


def test_swapped_bytes_of_two_equal_frames_are_errors(tmp_path):
    with ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        for _ in range(2):  # the same frames twice, as a screen that stands still
            still: dict[str, Any] = {"frames": np.full(CHUNK, 5, np.uint8)}
            writer.add(**block(0, 0, 32) | still)
        writer.finish([0.0])
    first, second = chunks(tmp_path / "0000.h5")
    assert first.size == second.size
    shard = Shard(tmp_path / "0000.h5")
    assert shard.checksums[0] != shard.checksums[1]  # so even equal bytes are tied to their place


def test_a_block_without_its_chunk_is_an_error(copy):
    with hdf5(copy, "r+") as file:
        content = [file["frames"].id.read_direct_chunk((i, 0, 0, 0))[1] for i in range(5)]
        del file["frames"]
        dataset = file.create_dataset("frames", (6, *CHUNK), "|u1", chunks=(1, *CHUNK), **hdf5plugin.Zstd())
        for i, stored in enumerate(content):
            dataset.id.write_direct_chunk((i, 0, 0, 0), stored)
    with one_line("frames is 5 chunks"):
        Shard(copy)


def pack_with(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], bytes]) -> None:
    """Lets the writer store what `change` makes of a block's frames. (A subclass of zstandard's would crash Python.)"""
    compressor = SimpleNamespace(compress=lambda data: change(np.array(data)[0]))
    monkeypatch.setattr(writing.zstandard, "ZstdCompressor", lambda level: compressor)


def test_a_block_that_was_never_zstd_is_an_error_and_the_next_one_is_read(tmp_path, monkeypatch):
    real = zstandard.ZstdCompressor()
    stored = iter([b"not packed", real.compress(bytes(np.prod(CHUNK)))[:-3], real.compress(b"short")])
    pack_with(monkeypatch, lambda frames: next(stored, None) or real.compress(frames.data))
    with ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        for _ in range(4):
            writer.add(**block(0, 0, 5))
        writer.finish([0.0])
    shard = Shard(tmp_path / "0000.h5")
    for i in range(3):
        with one_line(f"block {i} "):
            shard.states(i)
        assert np.array_equal(shard.states(3)[:, 3], block(0, 0, 5)["frames"][3:])


def test_frames_beyond_a_blocks_length_are_refused_by_verify(tmp_path, monkeypatch):
    def smear(frames: np.ndarray) -> bytes:
        frames[-1] = 1
        return real.compress(frames.data)

    real = zstandard.ZstdCompressor()
    pack_with(monkeypatch, smear)
    with ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        writer.add(**block(0, 0, 5))
        writer.finish([0.0])
    with one_line("block 0", "beyond"):
        Shard(tmp_path / "0000.h5").verify()
