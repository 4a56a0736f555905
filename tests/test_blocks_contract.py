"""Whole files that break the contract of a shard: they are refused, and what does not hold is named."""

import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from handmade import ACTIONS, hdf5, one_line, write

from pd_lightning.blocks import BLOCK, CHUNK, Shard, contract, writing
from pd_lightning.blocks.contract import FIELD_TYPES, OPTIONAL, SMALL


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


@pytest.mark.parametrize("name", [*sorted(FIELD_TYPES.keys() - OPTIONAL.keys()), "digest"])
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


def test_a_shard_of_another_version_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(contract, "VERSION", 2)
        write(tmp_path / "0000.h5")
    with one_line("version is", "2", "1"):
        Shard(tmp_path / "0000.h5")
