import contextlib
import errno
import fcntl
import io
import itertools
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import zstandard
from payload import Payload

from pd_lightning.blocks import BLOCK, CHUNK, Header, Shard, ShardError, ShardWriter, contract, find_shards, writing
from pd_lightning.blocks.__main__ import main
from pd_lightning.blocks.contract import KINDS, OPTIONAL, SMALL

ROOT = Path(__file__).parent.parent
ACTIONS = 6
EPISODES = (45, 1, 70)  # steps: blocks of 32 + 13, of a single step, and of 32 + 32 + 6
BLOCKS = ((0, 0, 32), (1, 0, 1), (0, 32, 13), (2, 0, 32), (2, 32, 32), (2, 64, 6))  # episode, first step, steps
HEADER = Header(
    game="pong",
    action_meanings=("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"),
    protocol="paper",
    frame_skip=4,
    max_pool=True,
    noop_max=30,
    fire=False,
    sticky=0.0,
    epsilon=0.05,
    frame_limit=108_000,
    seed=7,
    shard=0,
    parallel_games=2,
    steps_goal=100,
    versions={"pd_lightning": "0.1.0", "ale_py": "0.12.1"},
    teacher="tëst teacher",
    teacher_sha256="0123456789abcdef" * 4,
)


def hdf5(path: Path, mode: str = "r") -> Any:
    """The file as any HDF5 tool has it. Any: h5py's own types are unions that say nothing."""
    return h5py.File(path, mode)


def frame(episode: int, step: int) -> np.ndarray:
    """The frame that is new at a step, 84x84: says which one it is, and is not quite flat. Before step 0: zeros."""
    picture = np.zeros((84, 84), np.uint8)
    if step >= 0:
        picture[:] = 20 * episode + 100
        picture[0, :3] = episode + 1, step, 255
        picture[(7 * step) % 83 + 1, (11 * step + episode) % 84] = step + 1
    return picture


def block(episode: int, first: int, steps: int) -> dict[str, Any]:
    t = np.arange(first, first + steps)
    return {
        "frames": np.stack([frame(episode, s) for s in range(first - 3, first + steps)]),
        "q_values": (1000 * episode + t[:, None] + np.arange(ACTIONS) / 7).astype(np.float32),
        "actions": ((t + episode) % ACTIONS).astype(np.uint8),
        "rewards": (t % 3 - 1).astype(np.float32),
        "episode": episode,
    }


def episode_returns() -> list[float]:
    return [sum(step % 3 - 1 for step in range(steps)) + 0.5 for steps in EPISODES]


def write(path: Path, header: Header = HEADER) -> Path:
    with ShardWriter(path, header) as writer:
        for numbers in BLOCKS:
            writer.add(**block(*numbers))
        writer.finish(episode_returns())
    return path


def content(path: Path) -> tuple:
    """Everything that a shard says, in a form that `==` compares."""
    shard = Shard(path)
    shard.verify()
    arrays = [getattr(shard, name) for name in SMALL]
    frames = np.empty((shard.n_blocks, *CHUNK), np.uint8)
    for i in range(shard.n_blocks):
        shard.read_block(i, frames[i])  # the states are slices of these
    return shard.header, shard.digest, len(shard), [(a.dtype.str, a.shape, a.tobytes()) for a in (*arrays, frames)]


@contextlib.contextmanager
def one_line(*words: str) -> Iterator[None]:
    """What runs inside must raise a ShardError of one line that holds all `words`."""
    with pytest.raises(ShardError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.fixture(scope="module")
def shard_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good shard that no test changes."""
    return write(tmp_path_factory.mktemp("datasets") / "pong" / "0000.h5")


@pytest.fixture
def copy(shard_file: Path, tmp_path: Path) -> Path:
    """A shard to damage."""
    folder = tmp_path / "pong"
    folder.mkdir()
    return Path(shutil.copy(shard_file, folder / "0000.h5"))


# ---- what is written is what is read ----


def test_a_shard_returns_bit_for_bit_what_was_written(shard_file):
    shard = Shard(shard_file)
    assert shard.header == HEADER
    assert (shard.n_blocks, len(shard), shard.path) == (len(BLOCKS), sum(EPISODES), shard_file)
    assert shard.returns.tolist() == episode_returns()
    frames = np.full(CHUNK, 99, np.uint8)
    for i, (episode, first, steps) in enumerate(BLOCKS):
        given = block(episode, first, steps)
        shard.read_block(i, frames)
        assert np.array_equal(frames[: steps + 3], given["frames"])
        assert not frames[steps + 3 :].any()
        assert (shard.lengths[i], shard.episodes[i]) == (steps, episode)
        for name in ("q_values", "actions", "rewards"):
            stored = getattr(shard, name)[i]
            assert stored.dtype == given[name].dtype
            assert np.array_equal(stored[:steps], given[name])
            assert not stored[steps:].any()


def test_a_state_is_the_last_four_frames_newest_last_and_zeros_at_a_start(shard_file):
    shard = Shard(shard_file)
    for i, (episode, first, steps) in enumerate(BLOCKS):
        states = shard.states(i)
        assert states.shape == (steps, 4, 84, 84)
        assert not states.flags.writeable
        for step, state in enumerate(states, first):
            assert np.array_equal(state, [frame(episode, s) for s in range(step - 3, step + 1)])


def test_the_same_calls_give_the_same_bytes(shard_file, tmp_path):
    assert write(tmp_path / "0000.h5").read_bytes() == shard_file.read_bytes()


def test_what_the_writer_got_may_be_reused_at_once(shard_file, tmp_path):
    with ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        for numbers in BLOCKS:
            given = block(*numbers)
            writer.add(**given)
            for name in ("frames", "q_values", "actions", "rewards"):
                given[name][:] = 1
        writer.finish(np.array(episode_returns()))
    assert content(tmp_path / "0000.h5") == content(shard_file)


def test_any_hdf5_tool_reads_the_same_frames_and_attributes(shard_file):
    shard, frames = Shard(shard_file), np.empty(CHUNK, np.uint8)
    with hdf5(shard_file) as file:
        assert set(file) == {"frames", *SMALL}
        assert file.attrs["game"].decode() == "pong"
        assert json.loads(file.attrs["action_meanings"]) == list(HEADER.action_meanings)
        assert file.attrs["epsilon"] == HEADER.epsilon
        for i in range(shard.n_blocks):
            shard.read_block(i, frames)
            assert np.array_equal(file["frames"][i], frames)
        for name in SMALL:
            assert np.array_equal(file[name][()], getattr(shard, name))


def test_the_snippet_in_the_readme_reads_a_state(shard_file, capsys):
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "datasets" / "README.md").read_text(), re.DOTALL)
    assert snippet is not None
    found: dict = {}
    exec(snippet[1].replace("datasets/pong/0000.h5", str(shard_file)), found)
    i, j = found["i"], found["j"]
    assert np.array_equal(found["state"], Shard(shard_file).states(i)[j])
    assert np.array_equal(found["q"], Shard(shard_file).q_values[i, j])


def test_the_readme_names_every_dataset_and_attribute():
    text = (ROOT / "datasets" / "README.md").read_text()
    names = ("frames", *SMALL, "format", "version", "digest", *KINDS)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_threads_read_at_once_and_get_their_own_blocks(shard_file):
    shard = Shard(shard_file)

    def read(worker: int) -> None:
        out = np.empty(CHUNK, np.uint8)
        for i in np.random.default_rng(worker).integers(0, shard.n_blocks, 100):
            shard.read_block(int(i), out)
            assert np.array_equal(out[: BLOCKS[i][2] + 3], block(*BLOCKS[i])["frames"])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(read, range(4)))


def test_a_shard_pickles_without_its_descriptor(shard_file):
    shard = Shard(shard_file)
    before = shard.states(3).copy()
    again = pickle.loads(pickle.dumps(shard))
    assert "_descriptor" in vars(shard)
    assert "_descriptor" not in vars(again)
    assert np.array_equal(again.states(3), before)
    assert again.header == HEADER


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_shard_that_was_read_before_is_read_by_another_process(shard_file, method):
    shard = Shard(shard_file)
    mine = shard.states(3)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as processes:
        assert np.array_equal(processes.submit(shard.states, 3).result(timeout=60), mine)
    assert np.array_equal(shard.states(3), mine)


def test_a_shard_that_somebody_has_locked_is_read_all_the_same(copy):
    with copy.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(Shard(copy).states(0)) == 32


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="nothing says which files are open")
def test_a_shard_that_is_gone_leaves_no_file_open(shard_file):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        shard = Shard(shard_file)
        shard.states(0)
        del shard
    assert len(os.listdir("/proc/self/fd")) == before


def test_read_block_refuses_a_wrong_index_or_array(shard_file):
    shard = Shard(shard_file)
    for index in (-1, shard.n_blocks):
        with pytest.raises(IndexError, match="block"):
            shard.read_block(index, np.empty(CHUNK, np.uint8))
    for out in (np.empty(CHUNK, np.int8), np.empty((BLOCK, 84, 84), np.uint8), np.empty(CHUNK, np.uint8)[..., ::-1]):
        with pytest.raises(ValueError, match="out is"):
            shard.read_block(0, out)


# ---- damage is an error, never another state ----


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


def chunks(path: Path) -> list:
    found: list = []
    with hdf5(path) as file:
        file["frames"].id.chunk_iter(found.append)
    return found


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


# ---- files that are no shards ----


def test_what_is_no_hdf5_file_is_one_line(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5\n" * 1000)
    (tmp_path / "empty.h5").touch()
    (tmp_path / "folder.h5").mkdir()
    h5py.File(tmp_path / "bare.h5", "w").close()
    words = {"text": "unreadable", "empty": "unreadable", "folder": "a folder", "absent": "missing", "bare": "format"}
    for name, word in words.items():
        with one_line(str(tmp_path / f"{name}.h5"), word):
            Shard(tmp_path / f"{name}.h5")


def test_a_pickle_in_the_place_of_a_shard_is_not_executed(tmp_path):
    (tmp_path / "0000.h5").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with one_line("unreadable"):
        Shard(tmp_path / "0000.h5")
    assert not (tmp_path / "ran").exists()


def test_shards_are_found_by_number(tmp_path):
    for name in ("10000.h5", "0010.h5", "0002.h5", ".0003.h5.part", "12.h5", "notes.h5", "0004.h5.bak"):
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(tmp_path)] == ["0002.h5", "0010.h5", "10000.h5"]


def test_a_folder_without_shards_says_what_exists_and_what_to_run(shard_file, tmp_path):
    with one_line("missing", str(shard_file.parent), "python -m pd_lightning.recording --game breakout"):
        find_shards(shard_file.parent.parent / "breakout")
    (tmp_path / "seaquest").mkdir()
    with one_line("empty", "none beside it", "python -m pd_lightning.recording --game seaquest"):
        find_shards(tmp_path / "seaquest")


def test_a_file_that_was_replaced_or_changed_since_it_was_opened_is_an_error(copy, tmp_path):
    shard = Shard(copy)
    os.replace(write(tmp_path / "0001.h5", replace(HEADER, seed=8)), copy)
    with one_line("replaced"):
        shard.states(0)
    shard = Shard(copy)
    os.utime(copy, (1, 1))
    with one_line("changed"):
        shard.states(0)
    shard = Shard(copy)
    copy.unlink()
    with one_line("gone"):
        shard.states(0)


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EMFILE, "ulimit -n"), (errno.EIO, "check the disk"), (errno.ENOENT, "gone")]
)
@pytest.mark.parametrize("call", ["open", "pread"])
def test_what_the_system_refuses_while_reading_is_said_as_it_is(copy, monkeypatch, code, words, call):
    shard = Shard(copy)

    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with one_line(words):
        shard.states(0)


# ---- a shard appears whole or not at all ----


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("frames", lambda a: a[:-1]),
        ("frames", lambda a: a[:3]),
        ("frames", lambda a: np.concatenate([a] * 8)),
        ("frames", lambda a: a.astype(np.float32)),
        ("frames", lambda a: a[:, :80]),
        ("q_values", lambda a: a.astype(np.float64)),
        ("q_values", lambda a: a[:, :5]),
        ("q_values", lambda a: a * np.nan),
        ("q_values", lambda a: a + np.inf),
        ("actions", lambda a: a.astype(np.int64)),
        ("actions", lambda a: a + np.uint8(ACTIONS)),
        ("rewards", lambda a: a[:-1]),
        ("rewards", lambda a: a * np.nan),
        ("episode", lambda _: -1),
    ],
)
def test_the_writer_refuses_what_breaks_the_contract_and_names_it(tmp_path, name, change):
    given = block(0, 0, 5)
    with ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        with one_line(str(tmp_path / "0000.h5"), name):
            writer.add(**given | {name: change(given[name])})
        writer.add(**given)  # a refused block leaves no trace
        writer.finish([0.0])
    assert len(Shard(tmp_path / "0000.h5")) == 5


@pytest.mark.parametrize("returns", [[], [1.0], [1.0, 2.0, 3.0], [1.0, np.nan]])
def test_the_number_of_returns_is_the_number_of_episodes(tmp_path, returns):
    with one_line("returns"), ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        writer.add(**block(0, 0, 5))
        writer.add(**block(1, 0, 5))
        writer.finish(returns)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("game", ""), ("action_meanings", ["NOOP"]), ("action_meanings", ()), ("seed", -1), ("seed", True), ("fire", 1),
     ("epsilon", 1.5), ("sticky", float("nan")), ("stack", 3), ("versions", {"a": 1}), ("teacher_sha256", "abc"),
     ("teacher", "two\nlines")],
)  # fmt: skip
def test_the_writer_refuses_a_header_before_anything_is_played(tmp_path, name, value):
    with one_line(f"{name} is"):
        ShardWriter(tmp_path / "0000.h5", replace(HEADER, **{name: value}))
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_nothing_behind(tmp_path):
    def play() -> None:
        with ShardWriter(tmp_path / "pong" / "0000.h5", HEADER) as writer:
            writer.add(**block(0, 0, 32))
            assert names(tmp_path / "pong") == [".0000.h5.part"]
            raise RuntimeError("the emulator stopped")

    with pytest.raises(RuntimeError, match="the emulator stopped"):
        play()
    assert names(tmp_path / "pong") == []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_writer_works_only_inside_its_with_and_finishes_once(tmp_path):
    writer = ShardWriter(tmp_path / "0000.h5", HEADER)
    with one_line("closed"):
        writer.add(**block(0, 0, 5))
    with writer:
        with one_line("empty"):
            writer.finish([])
        writer.add(**block(0, 0, 5))
        writer.finish([0.0])
        with one_line("closed"):
            writer.finish([0.0])
    assert names(tmp_path) == ["0000.h5"]


def test_a_second_writer_is_refused_and_disturbs_nothing(tmp_path, shard_file):
    path = tmp_path / "0000.h5"
    with ShardWriter(path, HEADER) as first:
        for numbers in BLOCKS:
            first.add(**block(*numbers))
        with one_line("writers"), ShardWriter(path, HEADER):
            pass
        first.finish(episode_returns())
    assert path.read_bytes() == shard_file.read_bytes()
    with one_line("already"), ShardWriter(path, HEADER):
        pass
    assert path.read_bytes() == shard_file.read_bytes()
    assert names(tmp_path) == ["0000.h5"]


def test_a_shard_that_appeared_meanwhile_is_not_overwritten(tmp_path):
    with one_line("already"), ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        writer.add(**block(0, 0, 5))
        (tmp_path / "0000.h5").write_text("precious")
        writer.finish([0.0])
    assert (tmp_path / "0000.h5").read_text() == "precious"
    assert names(tmp_path) == ["0000.h5"]


def failing(patch: pytest.MonkeyPatch, owner: Any, name: str, code: int, calls: int = 0) -> None:
    """Lets a function raise what the system says, after some calls that succeed."""
    real, counter = getattr(owner, name), itertools.count()

    def fail(*arguments, **options):
        if next(counter) < calls:
            return real(*arguments, **options)
        raise OSError(code, os.strerror(code), "a file")

    patch.setattr(owner, name, fail)


FAULTS = [(errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (errno.EROFS, "see to its folder")]


@pytest.mark.parametrize(("code", "step"), FAULTS)
@pytest.mark.parametrize(("owner", "call"), [(Path, "mkdir"), (os, "open"), (os, "fsync"), (Path, "rename")])
def test_what_the_system_refuses_is_one_line_that_says_so_and_nothing_remains(
    tmp_path, shard_file, monkeypatch, owner, call, code, step
):
    path = tmp_path / "0000.h5"
    with monkeypatch.context() as patch:
        failing(patch, owner, call, code)
        with one_line(f"{path}: file is not written ({os.strerror(code)})", step, "same command", "another --root"):
            write(path)
    assert names(tmp_path) == []
    assert write(path).read_bytes() == shard_file.read_bytes()


def test_a_folder_that_becomes_read_only_keeps_a_file_that_the_next_writer_replaces(tmp_path, shard_file, monkeypatch):
    path = tmp_path / "0000.h5"
    with monkeypatch.context() as patch:
        failing(patch, Path, "rename", errno.EROFS)
        failing(patch, Path, "unlink", errno.EROFS)
        with one_line(str(path), "Read-only file system"):
            write(path)
    assert names(tmp_path) == [".0000.h5.part"]
    assert write(path).read_bytes() == shard_file.read_bytes()
    assert names(tmp_path) == ["0000.h5"]


def test_a_shard_whose_name_could_not_be_synced_is_whole(tmp_path, shard_file, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, os, "fsync", errno.EIO, calls=1)
        with one_line("Input/output error"):
            write(tmp_path / "0000.h5")
    assert names(tmp_path) == ["0000.h5"]
    assert (tmp_path / "0000.h5").read_bytes() == shard_file.read_bytes()


@pytest.mark.parametrize("moment", ["while adding", "before the rename"])
def test_a_killed_writer_leaves_no_shard_and_the_next_one_succeeds(tmp_path, shard_file, moment):
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
import test_blocks
from pathlib import Path
def stop(*_):
    print("here", flush=True)
    time.sleep(60)
if {moment == "while adding"}:
    test_blocks.ShardWriter.finish = stop
else:
    Path.rename = stop
test_blocks.write(Path({str(tmp_path / "0000.h5")!r}))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            with one_line("writers"), ShardWriter(tmp_path / "0000.h5", HEADER):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == [".0000.h5.part"]
    with one_line("empty of shards"):
        find_shards(tmp_path)
    assert write(tmp_path / "0000.h5").read_bytes() == shard_file.read_bytes()
    assert names(tmp_path) == ["0000.h5"]


# ---- the command line ----


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def test_verify_names_every_faulty_file_and_goes_on_with_the_others(copy):
    assert run("verify", copy) == (0, "1 of 1 shards whole, 116 states\n", "")
    folder = copy.parent
    for number in (1, 2, 3):
        shutil.copy(copy, folder / f"000{number}.h5")
    os.truncate(folder / "0001.h5", 5000)
    data = bytearray(copy.read_bytes())
    data[chunks(copy)[4].byte_offset + 9] ^= 1
    (folder / "0002.h5").write_bytes(data)
    status, out, err = run("verify", folder, folder / "absent")
    assert (status, out) == (1, "2 of 5 shards whole, 232 states\n")
    lines = err.splitlines()
    assert len(lines) == 3
    assert [any(name in line for line in lines) for name in ("0001.h5", "0002.h5: block 4 ", "absent")] == [True] * 3
    assert run("verify", folder.parent)[:2] == (1, "2 of 4 shards whole, 232 states\n")  # the folder of games


def test_info_agrees_with_the_recording(copy):
    write(copy.parent / "0001.h5", replace(HEADER, shard=1))
    status, out, err = run("info", "--json", copy.parent)
    assert (status, err) == (0, "")
    (summary,) = json.loads(out)
    played = [(step + episode) % ACTIONS for episode, steps in enumerate(EPISODES) for step in range(steps)] * 2
    returns = episode_returns() * 2
    mean = sum(returns) / 6
    size = sum(path.stat().st_size for path in copy.parent.iterdir())
    assert summary == {
        "path": str(copy.parent),
        "game": "pong",
        "protocol": "paper",
        "teacher": "tëst teacher",
        "teacher_sha256": HEADER.teacher_sha256,
        "shards": 2,
        "blocks": 12,
        "states": 232,
        "episodes": 6,
        "return": pytest.approx(mean),
        "return_std": pytest.approx((sum((r - mean) ** 2 for r in returns) / 5) ** 0.5),
        "bytes": size,
        "bytes_per_state": pytest.approx(size / 232),
        "actions": {meaning: played.count(i) for i, meaning in enumerate(HEADER.action_meanings)},
    }
    status, out, _ = run("info", copy, copy.parent)
    assert status == 0
    assert out.count("tëst teacher") == 2
    assert "states           116\n" in out
    assert "states           232\n" in out


def test_info_refuses_to_mix_teachers(copy):
    write(copy.parent / "0001.h5", replace(HEADER, shard=1, teacher_sha256="f" * 64))
    status, out, err = run("info", "--json", copy.parent)
    assert (status, json.loads(out)) == (1, [])
    assert "teacher_sha256" in err
    assert len(err.splitlines()) == 1


def test_the_module_runs_as_a_command(shard_file):
    command = [sys.executable, "-m", "pd_lightning.blocks", "verify"]
    good = subprocess.run([*command, str(shard_file)], cwd=ROOT, capture_output=True, text=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, "1 of 1 shards whole, 116 states\n", "")
    assert subprocess.run([*command, str(ROOT / "absent.h5")], cwd=ROOT, capture_output=True).returncode == 1
