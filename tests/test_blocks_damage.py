"""Damaged shards: damage is an error, never another state."""

import itertools
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import zstandard
from handmade import ACTIONS, BLOCKS, HEADER, block, chunks, content, episode_returns, frame, hdf5, one_line, write

from pd_lightning.blocks import BLOCK, CHUNK, Shard, ShardError, ShardWriter, contract, writing
from pd_lightning.blocks.contract import KINDS, OPTIONAL, SMALL


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


def rewrite(path: Path, name: str, change: Callable) -> None:
    """Changes a dataset or an attribute with h5py, computing nothing else anew. Text is bytes, as HDF5 has it."""
    with hdf5(path, "r+") as file:
        if name in file:
            changed = change(file[name][()])
            del file[name]
            file.create_dataset(name, data=changed, chunks=changed.shape, compression="gzip", shuffle=True)
        else:
            file.attrs[name] = change(file.attrs[name])


@pytest.mark.parametrize("name", [*SMALL])
def test_a_changed_value_in_any_small_dataset_is_an_error(copy, name):
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[0] += 1
        return array

    rewrite(copy, name, change)
    with one_line(str(copy), "digest"):
        Shard(copy)


@pytest.mark.parametrize("name", [*sorted(KINDS.keys() - OPTIONAL.keys()), "digest"])
def test_a_changed_attribute_is_an_error(copy, name):
    def change(value):
        if isinstance(value, bytes):
            return np.bytes_(value[:-1] + (b"1" if value.endswith(b"0") else b"0"))
        return np.bool_(not value) if isinstance(value, np.bool_) else value + type(value)(1)

    rewrite(copy, name, change)
    with one_line(str(copy)):
        Shard(copy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", np.bytes_("other")),
        ("version", 2),
        ("version", np.bytes_("1")),
        ("game", 5),
        ("game", "text of variable length"),
        ("seed", 7.0),
        ("epsilon", 1),
        ("fire", 1),
        ("stack", 3),
        ("stack_padding", np.bytes_("repeat")),
        ("sticky", float("nan")),
        ("teacher_sha256", np.bytes_("unknown")),
        ("versions", np.bytes_("[1]")),
        ("action_meanings", np.bytes_("{}")),
    ],
)
def test_an_attribute_of_another_type_or_value_is_named(copy, name, value):
    rewrite(copy, name, lambda _: value)
    with one_line(str(copy), f"{name} is"):
        Shard(copy)


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_an_attribute_that_is_no_json_is_an_error(copy, text):
    rewrite(copy, "versions", lambda _: np.bytes_(text))
    with one_line(str(copy)):
        Shard(copy)


def test_missing_and_unknown_attributes_and_missing_datasets_are_named(copy):
    good = copy.read_bytes()
    with hdf5(copy, "r+") as file:
        file.attrs["remark"] = 1
    with one_line("attributes", "remark"):
        Shard(copy)
    for name in ("format", "digest", "epsilon"):
        copy.write_bytes(good)
        with hdf5(copy, "r+") as file:
            del file.attrs[name]
        with one_line(f"{name} is missing"):
            Shard(copy)
    for name in ("frames", *SMALL):
        copy.write_bytes(good)
        with hdf5(copy, "r+") as file:
            del file[name]
        with one_line(f"{name} is"):
            Shard(copy)


def test_a_dataset_that_lies_in_another_file_is_refused(copy, shard_file):
    with hdf5(copy, "r+") as file:
        del file["q_values"]
        file["q_values"] = h5py.ExternalLink(str(shard_file), "/q_values")
        assert file["q_values"].shape == (6, 32, 6)  # HDF5 follows it
    with one_line("q_values", "in this file"):
        Shard(copy)


def test_datasets_of_another_type_shape_or_packing_are_named(copy):
    good = copy.read_bytes()
    for name, changed, packing in (
        ("q_values", np.zeros((6, 32, 6)), "gzip"),
        ("q_values", np.zeros((6, 32, 5), np.float32), "gzip"),
        ("lengths", np.zeros(5, np.uint8), "gzip"),
        ("episodes", np.zeros(6, np.int32), "lzf"),
        ("returns", np.zeros(7), "gzip"),
        ("frames", np.zeros((6, *CHUNK), np.uint8), "gzip"),
    ):
        copy.write_bytes(good)
        with hdf5(copy, "r+") as file:
            del file[name]
            file.create_dataset(name, data=changed, compression=packing, shuffle=packing == "gzip")
        with one_line(f"{name} is"):
            Shard(copy)


@pytest.mark.parametrize("way", ["packed three times", "never written", "more than it says", "in two pieces"])
def test_what_would_unpack_to_more_than_it_says_or_was_never_written_is_refused(copy, way):
    with hdf5(copy, "r+") as file:
        rewards = file["rewards"][()]
        del file["rewards"]
        if way == "packed three times":
            packing = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            packing.set_chunk(rewards.shape)
            packing.set_shuffle()
            for _ in range(3):
                packing.set_deflate(9)
            space = h5py.h5s.create_simple(rewards.shape)
            dataset = h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, space, packing)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, rewards)
        else:
            chunks = (1, rewards.shape[1]) if way == "in two pieces" else rewards.shape
            made = file.create_dataset("rewards", rewards.shape, "<f4", chunks=chunks, compression="gzip", shuffle=True)
            if way == "more than it says":
                made.id.write_direct_chunk((0, 0), zlib.compress(bytes(rewards.nbytes + 1)))
            if way == "in two pieces":
                made[:] = rewards
    with one_line("rewards" if way != "never written" else "0000.h5"):
        Shard(copy)


def test_a_shard_of_more_blocks_than_anybody_records_is_refused_before_they_are_counted(copy):
    with hdf5(copy, "r+") as file:
        del file["frames"]
        file.create_dataset("frames", (2**30, *CHUNK), "|u1", chunks=(1, *CHUNK), **hdf5plugin.Zstd())
    with one_line("frames is 1,073,741,824 blocks, allowed is at most 131,072"):
        Shard(copy)


def test_a_block_without_its_chunk_is_an_error(copy):
    with hdf5(copy, "r+") as file:
        content = [file["frames"].id.read_direct_chunk((i, 0, 0, 0))[1] for i in range(5)]
        del file["frames"]
        dataset = file.create_dataset("frames", (6, *CHUNK), "|u1", chunks=(1, *CHUNK), **hdf5plugin.Zstd())
        for i, stored in enumerate(content):
            dataset.id.write_direct_chunk((i, 0, 0, 0), stored)
    with one_line("frames is 5 chunks"):
        Shard(copy)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("q_values", lambda a: a.__setitem__((0, 3, 1), np.nan)),
        ("q_values", lambda a: a.__setitem__((1, 31, 1), 1)),  # beyond the block's one step
        ("rewards", lambda a: a.__setitem__((0, 3), np.inf)),
        ("rewards", lambda a: a.__setitem__((1, 1), 1)),
        ("actions", lambda a: a.__setitem__((0, 3), ACTIONS)),
        ("actions", lambda a: a.__setitem__((1, 1), 1)),
        ("lengths", lambda a: a.__setitem__(0, 0)),
        ("lengths", lambda a: a.__setitem__(0, BLOCK + 1)),
        ("episodes", lambda a: a.__setitem__(1, 2)),
        ("episodes", lambda a: a.__setitem__(1, -1)),
        ("episodes", lambda a: a.__setitem__(1, 3)),
        ("returns", lambda a: a.__setitem__(1, np.nan)),
    ],
)
def test_values_that_break_the_contract_are_refused_although_the_digest_is_right(tmp_path, monkeypatch, name, damage):
    honest = writing.digest

    def digest(attributes: dict, arrays: dict) -> str:  # the last thing before writing
        damage(arrays[name])
        return honest(attributes, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "digest", digest)
        write(tmp_path / "0000.h5")
    with one_line(f"{name} is"):
        Shard(tmp_path / "0000.h5")


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


def test_a_shard_of_another_version_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(contract, "VERSION", 2)
        write(tmp_path / "0000.h5")
    with one_line("version is", "2", "1"):
        Shard(tmp_path / "0000.h5")


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
