"""Blocks: how recorded play lies on disk (format version 1), and the only code that writes or reads it.

A shard is one HDF5 file, `datasets/<game>/NNNN.h5`: about an hour of play in whole episodes. It consists of blocks: up
to 32 consecutive steps of one episode, after the 3 frames before them, so that every stacked state is a slice::

    frames  f0 f1 f2 f3 f4 f5 ...     the state of step j is frames[j : j + 4], newest last
    steps            0  1  2  ...     at an episode's start f0 f1 f2 are zeros, as in the emulator's own stack

HDF5 is the container, so any tool reads the file; this module reads it more strictly and faster. More strictly: HDF5's
zstd filter turns a flipped bit into wrong frames without a word, hence the checksums and the digest. Faster: libhdf5
holds one lock over the whole process, hence frames are read around it. The contract as a table: `datasets/README.md`.

    python -m pd_lightning.blocks verify datasets/pong
    python -m pd_lightning.blocks info datasets/pong --json
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import struct
import sys
import threading
import typing
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np
import zstandard

FORMAT = "pd_lightning.blocks"
VERSION = 1
BLOCK = 32
"""L: the most steps in a block. 16 would mix better, 64 pack better."""
STACK = 4
"""Frames that the agent sees at once."""
CHUNK = (BLOCK + STACK - 1, 84, 84)
"""Shape of a block's frames, uint8: 3 before the first step, then one a step; zeros beyond `lengths`."""

# Bytes a state, and states packed a second by one core (ale_py 0.12; a scripted player on Pong, random play elsewhere):
#               Pong         Breakout      Riverraid     Seaquest
#    level 3    44 507,000   40 476,000   147 279,000   112 308,000
#    level 9    39  87,000   36 115,000   136  45,000   102  54,000
#    level 11   38  31,000   36  32,000   136  21,000   100  21,000
#    level 15   33  18,000   33  12,000   124   3,300    88   6,000
# 9 is the knee: the next 10% cost 5 to 14 times the time, and would hold a recording (up to 7,000 steps/s) back.
_LEVEL = 9
_ZSTD = 32015  # the registered number of HDF5's zstd filter
_PLAIN = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}  # filters that every HDF5 has
_SMALL = {  # the datasets that are read on opening: N blocks, L = 32, A actions, E episodes
    "lengths": ("|u1", "N"),
    "q_values": ("<f4", "NLA"),
    "actions": ("|u1", "NL"),
    "rewards": ("<f4", "NL"),
    "episodes": ("<i4", "N"),
    "checksums": ("<u4", "N"),
    "returns": ("<f8", "E"),
}
_CALLER = "mend the code that records, see ShardWriter"
_thread = threading.local()  # a decompressor per thread: they cannot be shared


class ShardError(ValueError):
    """A shard is not what the contract says. One line: the file, the field, its value, what is allowed, what next."""


def _fault(path: Path, field: str, value: object, allowed: object, step: str = "") -> ShardError:
    step = step or f"restore a good copy, or delete it and run {_record(path.absolute().parent)}"
    return ShardError(" ".join(f"{path}: {field} is {str(value)[:200]}, allowed is {allowed}; {step}".split()))


def _record(folder: Path) -> str:
    return f"`python -m pd_lightning.recording --game {folder.name}`"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a recording before it starts: plain attributes of the file.

    Attributes:
        game: name of the game, as its folder is called.
        action_meanings: A names in the order of the Q-values (JSON in the file).
        protocol: name of the rules of play.
        frame_skip: emulator frames a step.
        max_pool: whether a frame is the maximum of the last two emulator frames.
        stack: frames that the agent sees at once, always 4.
        stack_padding: what stands before an episode's first frame, always "zero".
        noop_max: an episode starts after 0 to this many no-op frames.
        fire: whether FIRE was pressed at the start and after each lost life.
        sticky: probability that the emulator repeats the previous action.
        epsilon: share of random actions.
        frame_limit: emulator frames after which an episode is cut.
        seed: the seed of this shard.
        shard: its number.
        parallel_games: games that were played at once.
        steps_goal: steps after which no new episode starts; 54,000 are an hour.
        versions: package to version: pd_lightning, ale_py and so on (JSON in the file).
        teacher: name of the agent whose play and Q-values these are.
        teacher_sha256: sha256 of its weights, 64 hexadecimal digits.
    """

    game: str
    action_meanings: tuple[str, ...]
    protocol: str
    frame_skip: int
    max_pool: bool
    stack: int = STACK
    stack_padding: str = "zero"
    noop_max: int
    fire: bool
    sticky: float
    epsilon: float
    frame_limit: int
    seed: int
    shard: int
    parallel_games: int
    steps_goal: int
    versions: dict[str, str]
    teacher: str
    teacher_sha256: str


_KINDS: dict[str, Any] = {field.name: typing.get_origin(field.type) or field.type for field in fields(Header)}
# Their types in the file (tuple and dict are JSON). Text has a fixed length: HDF5 keeps text of variable length without
# a checksum, and a single flipped bit there made libhdf5 loop for ever.
_STORED = {str: "text", int: "<i8", float: "<f8", bool: "|b1", tuple: "text", dict: "text"}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


_ALLOWED: dict[Any, tuple[str, Callable[[Any], bool]]] = {  # by the attribute's name, else by its type
    "stack": (str(STACK), lambda v: _is_whole(v) and v == STACK),
    "stack_padding": ("zero", lambda v: v == "zero"),
    "teacher_sha256": ("64 hexadecimal digits", lambda v: _is_text(v) and bool(re.fullmatch("[0-9a-f]{64}", v))),
    str: ("printable text", _is_text),
    int: ("a whole number from 0 on", _is_whole),
    float: ("a number from 0 to 1", lambda v: (isinstance(v, float) or _is_whole(v)) and 0 <= v <= 1),
    bool: ("True or False", lambda v: isinstance(v, bool)),
    tuple: (
        "a tuple of 1 to 256 texts",
        lambda v: isinstance(v, tuple) and 1 <= len(v) <= 256 and all(map(_is_text, v)),
    ),
    dict: ("texts by name", lambda v: isinstance(v, dict) and all(map(_is_text, (*v, *v.values())))),
}


def _check_header(path: Path, header: Header, step: str = "") -> None:
    for name, kind in _KINDS.items():
        value = getattr(header, name)
        allowed, holds = _ALLOWED.get(name, _ALLOWED[kind])
        if not holds(value):
            raise _fault(path, name, repr(value), allowed, step)


def _check_arrays(path: Path, arrays: dict[str, np.ndarray], actions: int, step: str = "") -> None:
    """What must hold of the values in the small datasets."""
    lengths, episodes, episode_count = arrays["lengths"], arrays["episodes"], len(arrays["returns"])
    if not (lengths.min() >= 1 and lengths.max() <= BLOCK):
        raise _fault(path, "lengths", f"{lengths.min()} to {lengths.max()}", f"1 to {BLOCK}", step)
    beyond = np.arange(BLOCK) >= lengths[:, None]  # [N, L]
    for name in ("q_values", "actions", "rewards", "returns"):
        if not np.isfinite(arrays[name]).all():
            raise _fault(path, name, "infinite or not a number", "finite numbers", step)
        if name != "returns" and arrays[name][beyond].any():
            raise _fault(path, name, "not zero beyond lengths", "zero there", step)
    if arrays["actions"].max() >= actions:
        raise _fault(path, "actions", f"up to {arrays['actions'].max()}", f"0 to {actions - 1}", step)
    if not np.array_equal(np.unique(episodes), np.arange(episode_count)):
        value = f"{episodes.min()} to {episodes.max()}, {len(np.unique(episodes))} different"
        raise _fault(path, "episodes", value, f"all of 0 to {episode_count - 1}, as many as returns", step)


def _stored_attributes(header: Header) -> dict[str, Any]:
    """All attributes but the digest, which covers them."""
    stored: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    for name, kind in _KINDS.items():
        value = getattr(header, name)
        stored[name] = json.dumps(value, sort_keys=True) if kind in (tuple, dict) else kind(value)
    return stored


def _digest(attributes: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode())
    for name in sorted(_SMALL):
        sha.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        sha.update(np.ascontiguousarray(arrays[name]).data)
    return sha.hexdigest()


def _checksum(index: int, stored: bytes) -> int:
    return zlib.crc32(stored, zlib.crc32(struct.pack("<Q", index)))  # with the index: swapped blocks are noticed


class ShardWriter:
    """Writes one shard, whole or not at all.

    A context manager. Packed blocks wait in memory (an hour is 3 to 10 MB) until `finish` writes them under a hidden
    temporary name, locked from the start, and renames it. Without `finish` nothing remains; what a killed run left is
    replaced. The same calls give the same bytes::

        with ShardWriter("datasets/pong/0000.h5", header) as writer:
            writer.add(frames, q_values, actions, rewards, episode=0)
            writer.finish(returns=[21.0])

    Args:
        path: final name, `NNNN.h5`; its folder is made.
        header: the attributes.

    Raises:
        ShardError: an attribute is not allowed; on entering: the shard exists, another writer is at work on it, or its
            folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header) -> None:
        self.path = Path(path)
        self.header = header
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._lock: int | None = None  # descriptor of the temporary file, while it is ours
        self._chunks: list[bytes] = []
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in _SMALL}
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        _check_header(self.path, header, _CALLER)

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self._lock is None:
                self._lock = self._claim()
        except OSError as error:
            raise _fault(self.path, "folder", error, "one that can be written", "choose another") from error
        return self

    def _claim(self) -> int | None:
        """The temporary file, locked and empty; None if its owner renamed or removed it meanwhile."""
        descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, descriptor)
            try:  # the kernel drops this lock with its process, so a killed run blocks nobody
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(descriptor), os.stat(self._part)):
                    return None
            except FileNotFoundError:
                return None
            except BlockingIOError:
                step = "let it finish, or record another shard"
                raise _fault(self.path, "number of writers", "one already", "one", step) from None
            if self.path.exists():
                self._part.unlink()
                raise self._exists()
            os.ftruncate(descriptor, 0)
            undo.pop_all()
        return descriptor

    def _exists(self) -> ShardError:
        step = "record another shard, or move this one away"
        return _fault(self.path, "file", "there already", "a new one: shards are never overwritten", step)

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:  # not finished
            self._part.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def add(
        self, frames: np.ndarray, q_values: np.ndarray, actions: np.ndarray, rewards: np.ndarray, episode: int
    ) -> None:
        """Appends a block: n steps (1 to 32) of one episode. The arrays are copied.

        Args:
            frames: the 3 frames before the first step, then one a step, uint8 [n + 3, 84, 84].
            q_values: the teacher's, float32 [n, A].
            actions: the actions played, uint8 [n].
            rewards: what they earned, unclipped, float32 [n].
            episode: its number in this shard, from 0.

        Raises:
            ShardError: a shape, dtype or value is not allowed, or the writer is not open.
        """
        if self._lock is None:
            raise _fault(self.path, "writer", "closed", "open", "use it in a `with`, and add before `finish`")
        n = len(actions)
        if not 1 <= n <= BLOCK:
            raise _fault(self.path, "number of actions", n, f"1 to {BLOCK}", _CALLER)
        actions_of_game = len(self.header.action_meanings)
        row = {"lengths": np.array([n], "|u1"), "episodes": np.array([0], "<i4"), "returns": np.zeros(1)}
        for name, array, dtype, shape in (
            ("frames", frames, "|u1", (n + STACK - 1, *CHUNK[1:])),
            ("q_values", q_values, "<f4", (n, actions_of_game)),
            ("actions", actions, "|u1", (n,)),
            ("rewards", rewards, "<f4", (n,)),
        ):
            if array.dtype != np.dtype(dtype) or array.shape != shape:
                allowed = f"{np.dtype(dtype)} {shape}"
                raise _fault(self.path, name, f"{array.dtype} {array.shape}", allowed, _CALLER)
            row[name] = np.zeros((1, BLOCK + len(array) - n, *shape[1:]), dtype)
            row[name][0, : len(array)] = array
        _check_arrays(self.path, row, actions_of_game, _CALLER)
        if not 0 <= episode < 2**31:
            raise _fault(self.path, "episode", episode, "a number from 0 on", _CALLER)
        row["episodes"][0] = episode
        chunk = self._compressor.compress(row["frames"].data)
        row["checksums"] = np.array([_checksum(len(self._chunks), chunk)], "<u4")
        self._chunks.append(chunk)
        for name in _SMALL:
            self._rows[name].append(row[name])

    def finish(self, returns: Sequence[float] | np.ndarray) -> None:
        """Writes the file, syncs it and gives it its name.

        Args:
            returns: of every episode, in the order of their numbers.

        Raises:
            ShardError: the episodes of the blocks are not 0 to `len(returns) - 1`, a return is not finite, there is no
                block, the writer is not open, or a file of this name appeared meanwhile.
        """
        if self._lock is None or not self._chunks:
            raise _fault(self.path, "writer", "closed or empty", "open, with a block", "add blocks, then finish once")
        self._rows["returns"] = [np.array(returns, "<f8").reshape(-1)]
        arrays = {name: np.concatenate(rows) for name, rows in self._rows.items()}
        _check_arrays(self.path, arrays, len(self.header.action_meanings), _CALLER)
        with open(self._lock, "wb", closefd=False) as file:
            file.write(self._image(arrays))
        os.fsync(self._lock)
        if self.path.exists():
            raise self._exists()
        self._part.rename(self.path)
        os.close(self._lock)
        self._lock = None
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)  # only now does the new name survive a power cut
        os.close(folder)

    def _image(self, arrays: dict[str, np.ndarray]) -> bytes:
        """The file's bytes. Made in memory: libhdf5's own locks and half-written files do not arise."""
        attributes = _stored_attributes(self.header)
        # v110: its metadata carry checksums, and every HDF5 since 2016 reads it.
        with h5py.File(self._part, "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
            for name, value in {**attributes, "digest": _digest(attributes, arrays)}.items():
                text = value.encode() if isinstance(value, str) else b""
                file.attrs.create(name, text or value, dtype=h5py.string_dtype("utf-8", len(text)) if text else None)
            shape = (len(self._chunks), *CHUNK)
            frames = file.create_dataset("frames", shape, "|u1", chunks=(1, *CHUNK), **hdf5plugin.Zstd(clevel=_LEVEL))
            for index, chunk in enumerate(self._chunks):
                frames.id.write_direct_chunk((index, 0, 0, 0), chunk)
            for name, array in arrays.items():
                packing: dict[str, Any] = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
                file.create_dataset(name, data=array, chunks=array.shape, **packing)
            file.flush()
            return file.id.get_file_image()


class Shard:
    """One shard, opened and checked, all but the bytes of its frames: those are checked as they are read.

    No HDF5 handle stays open. A descriptor is opened at the first read; a `Shard` may be read by many threads at once,
    forked and pickled (without its descriptor).

    Attributes:
        path: the file.
        header: its attributes.
        lengths: steps in each block, uint8 [N], 1 to 32.
        q_values: the teacher's, float32 [N, 32, A]; zeros beyond `lengths`, here and below.
        actions: the actions played, uint8 [N, 32].
        rewards: unclipped, float32 [N, 32].
        episodes: episode of each block, int32 [N].
        checksums: of each block's index and stored frames, uint32 [N].
        returns: of each episode, float64 [E]; their mean is the teacher's score.
        digest: sha256 over all of the above; tells whether two shards hold the same.
        n_blocks: N.

    Args:
        path: the file.

    Raises:
        ShardError: it is missing, no HDF5, damaged, of another version, or anything in it breaks the contract.
    """

    lengths: np.ndarray
    q_values: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    episodes: np.ndarray
    checksums: np.ndarray
    returns: np.ndarray

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not os.path.isfile(self.path):
            value = "a folder" if os.path.isdir(self.path) else "missing"
            raise _fault(self.path, "file", value, "a shard", f"record it: {_record(self.path.absolute().parent)}")
        try:
            self._identity = _identity(os.stat(self.path))
            # Finished shards never change, so a lock would only keep out of read-only and network folders.
            with h5py.File(self.path, "r", locking=False) as file:
                self._load(file)
            if _identity(os.stat(self.path)) != self._identity:
                raise self._changed()
        except ShardError:
            raise
        except Exception as error:  # libhdf5 raises nearly anything on damaged metadata
            raise _fault(self.path, "file", f"unreadable ({error})", "a whole HDF5 file") from error

    def _load(self, file: h5py.File) -> None:
        attributes = _read_attributes(self.path, file)
        digest = attributes.pop("digest")
        self.header = _read_header(self.path, attributes)
        frames = _open_dataset(self.path, file, "frames", "|u1", (None, *CHUNK), {_ZSTD})
        self._offsets, self._sizes = _chunk_table(self.path, frames, self._identity[1])
        self.n_blocks = len(frames)
        action_count = len(self.header.action_meanings)
        sizes = {"N": self.n_blocks, "L": BLOCK, "A": action_count, "E": None}
        arrays = {}
        for name, (dtype, letters) in _SMALL.items():
            dataset = _open_dataset(self.path, file, name, dtype, tuple(sizes[x] for x in letters), _PLAIN)
            if not 1 <= len(dataset) <= self.n_blocks:
                raise _fault(self.path, name, f"{len(dataset)} long", f"1 to {self.n_blocks}, the number of blocks")
            arrays[name] = dataset[()]
        self.digest = _digest(attributes, arrays)
        if self.digest != digest:
            raise _fault(self.path, "digest", digest, f"{self.digest}, as computed from the content")
        _check_arrays(self.path, arrays, action_count)
        self.__dict__.update(arrays)
        for array in arrays.values():
            array.flags.writeable = False
        self._states = int(self.lengths.sum(dtype=np.int64))

    def __len__(self) -> int:
        return self._states

    def __repr__(self) -> str:
        return f"Shard({str(self.path)!r}): {len(self)} states, {len(self.returns)} episodes, {self.n_blocks} blocks"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __del__(self) -> None:
        descriptor = self.__dict__.pop("_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)

    def _changed(self) -> ShardError:
        return _fault(self.path, "file", "replaced, changed or gone since it was opened", "as it was", "open it again")

    def _open(self) -> int:
        descriptor = self.__dict__.get("_descriptor")
        if descriptor is None:
            try:
                fresh = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise self._changed() from error
            if _identity(os.fstat(fresh)) != self._identity:
                os.close(fresh)
                raise self._changed()
            # Threads may race to here. `setdefault` is atomic; a lock would not survive a fork while held.
            descriptor = self.__dict__.setdefault("_descriptor", fresh)
            if descriptor != fresh:
                os.close(fresh)
        return descriptor

    def read_block(self, index: int, out: np.ndarray) -> None:
        """Unpacks the frames of a block, after checking its stored bytes. Any number of threads at once.

        Args:
            index: of the block, 0 to N - 1.
            out: filled with its frames, zeros beyond its length, uint8 [35, 84, 84], C-contiguous.

        Raises:
            ShardError: the bytes are not those recorded, or the file was changed since it was opened.
            IndexError: there is no such block.
            ValueError: `out` has another shape, dtype or layout.
        """
        if not 0 <= index < self.n_blocks:
            raise IndexError(f"{self.path}: block {index} is not in 0 to {self.n_blocks - 1}")
        if out.shape != CHUNK or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype} {out.shape}, allowed is uint8 {CHUNK}, C-contiguous")
        stored = os.pread(self._open(), int(self._sizes[index]), int(self._offsets[index]))
        if _checksum(index, stored) != self.checksums[index]:
            raise _fault(self.path, f"block {index}", "not the bytes recorded", "bytes that match its checksum")
        if not hasattr(_thread, "decompressor"):
            _thread.decompressor = zstandard.ZstdDecompressor()
        try:
            # In place, and without the GIL; `decompress` would allocate and copy, and be a quarter slower.
            filled = _thread.decompressor.stream_reader(stored).readinto(out)
        except zstandard.ZstdError as error:
            raise _fault(self.path, f"block {index}", f"not unpacked ({error})", "a zstd frame") from error
        if filled != out.nbytes:
            raise _fault(self.path, f"block {index}", f"{filled} bytes", f"{out.nbytes} bytes")

    def states(self, index: int) -> np.ndarray:
        """The stacked states of a block, uint8 [n, 4, 84, 84], newest frame last; a read-only view of its frames.

        Raises:
            ShardError: as `read_block`.
        """
        frames = np.empty(CHUNK, np.uint8)
        self.read_block(index, frames)
        used = frames[: int(self.lengths[index]) + STACK - 1]
        return np.moveaxis(np.lib.stride_tricks.sliding_window_view(used, STACK, axis=0), -1, 1)

    def verify(self) -> None:
        """Reads every block.

        Raises:
            ShardError: one is damaged, or not zero beyond its length.
        """
        frames = np.empty(CHUNK, np.uint8)
        for index in range(self.n_blocks):
            self.read_block(index, frames)
            if frames[int(self.lengths[index]) + STACK - 1 :].any():
                raise _fault(self.path, f"block {index}", "not zero beyond its length", "zero there")


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _read_attribute(path: Path, file: h5py.File, name: str, kind: Any) -> Any:
    if name not in file.attrs:
        raise _fault(path, name, "missing", "an attribute of this name")
    attribute = file.attrs.get_id(name)  # the type is looked at before the value: see `_STORED`
    found = "text" if attribute.dtype.kind == "S" else attribute.dtype.str
    if found != _STORED[kind] or attribute.shape != ():
        raise _fault(path, name, f"{found} {attribute.shape}", f"{_STORED[kind]} ()")
    value: Any = file.attrs[name]
    return value.decode() if isinstance(value, bytes) else value.item()


def _read_attributes(path: Path, file: h5py.File) -> dict[str, Any]:
    """All attributes as plain Python values of the right type, the format and version checked first."""
    for name, kind, mine in (("format", str, FORMAT), ("version", int, VERSION)):
        if (value := _read_attribute(path, file, name, kind)) != mine:
            step = "read it with the pd_lightning that wrote it, or record it again"
            raise _fault(path, name, repr(value), repr(mine), step)
    kinds = {"format": str, "version": int, **_KINDS, "digest": str}
    if unknown := sorted(set(file.attrs) - set(kinds)):
        raise _fault(path, "attributes", f"unknown: {', '.join(unknown)}", f"those of version {VERSION} alone")
    return {name: _read_attribute(path, file, name, kind) for name, kind in kinds.items()}


def _read_header(path: Path, attributes: dict[str, Any]) -> Header:
    values = {name: attributes[name] for name in _KINDS}
    for name, kind in _KINDS.items():
        if kind in (tuple, dict):
            value = json.loads(values[name])
            values[name] = tuple(value) if isinstance(value, list) else value
    header = Header(**values)
    _check_header(path, header)
    return header


def _open_dataset(
    path: Path, file: h5py.File, name: str, dtype: str, shape: tuple[int | None, ...], filters: set[int]
) -> h5py.Dataset:
    """The dataset, once it is known to be as it should, and to lie in this file: a file may point to others."""
    dataset: Any = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.chunks is None:
        raise _fault(path, name, "something else", "a chunked dataset in this file")
    if dataset.dtype != np.dtype(dtype):
        raise _fault(path, name, dataset.dtype, np.dtype(dtype))
    if len(dataset.shape) != len(shape) or any(a not in (b, None) for a, b in zip(shape, dataset.shape, strict=True)):
        raise _fault(path, name, dataset.shape, str(shape).replace("None", "any"))
    properties = dataset.id.get_create_plist()
    used = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if used != filters:
        raise _fault(path, name, f"packed by filters {sorted(used)}", f"HDF5 filters {sorted(filters)}")
    return dataset


def _chunk_table(path: Path, frames: h5py.Dataset, file_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each block is stored: offset and size in bytes, int64 [N] each."""
    found: list[Any] = []
    frames.id.chunk_iter(found.append)  # one pass; asking for one chunk at a time scans the index each time
    rows = sorted((*c.chunk_offset, c.filter_mask, c.byte_offset, c.size) for c in found)
    table = np.array(rows, np.int64).reshape(-1, len(CHUNK) + 4)
    wanted = np.zeros((len(frames), len(CHUNK) + 2), np.int64)  # one chunk a block, at [i, 0, 0, 0], no filter skipped
    wanted[:, 0] = np.arange(len(frames))
    offsets, sizes = table[:, -2].copy(), table[:, -1].copy()
    if frames.chunks != (1, *CHUNK) or not len(frames) or not np.array_equal(table[:, :-2], wanted):
        value = f"{len(table)} chunks {frames.chunks}"
        raise _fault(path, "frames", value, f"one of {(1, *CHUNK)} for each of {len(frames)} blocks")
    if (offsets < 0).any() or (sizes < 1).any() or (offsets > file_size - sizes).any():
        raise _fault(path, "frames", "stored beyond the end of the file", f"the file's {file_size} bytes")
    return offsets, sizes


def find_shards(folder: str | os.PathLike[str]) -> list[Path]:
    """The shards of a game's folder, by number.

    Raises:
        ShardError: there is no such folder, or no shard in it; the message says how to record one.
    """
    folder = Path(folder)
    if shards := _numbered(folder):
        return shards
    near = [str(other) for other in sorted(folder.absolute().parent.glob("*/")) if _numbered(other)]
    allowed = f"a folder with shards 0000.h5, 0001.h5, ... (there are: {', '.join(near) or 'none beside it'})"
    value = "empty of shards" if folder.is_dir() else "missing"
    raise _fault(folder, "folder", value, allowed, f"record it: {_record(folder)}")


def _numbered(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("*.h5") if re.fullmatch(r"[0-9]{4,}", path.stem)]
    return sorted(found, key=lambda path: (int(path.stem), path.name))


def _groups(path: Path) -> dict[Path, list[Path]]:
    """Shards by what they are reported as: a file, a game's folder, or every game in a folder of games."""
    if not path.is_dir():
        return {path: [path]}
    games = [] if _numbered(path) else [game for game in sorted(path.glob("*/")) if _numbered(game)]
    return {game: find_shards(game) for game in games or [path]}


def _summary(path: Path, paths: Iterable[Path]) -> dict[str, Any]:
    shards = [Shard(each) for each in paths]
    first = shards[0].header
    for shard in shards:
        for name in ("game", "action_meanings", "protocol", "teacher_sha256"):
            mine, other = getattr(first, name), getattr(shard.header, name)
            if mine != other:
                raise _fault(shard.path, name, other, f"{mine}, as in {shards[0].path}", "keep them in two folders")
    returns = np.concatenate([shard.returns for shard in shards])
    states, size = sum(map(len, shards)), sum(shard.path.stat().st_size for shard in shards)
    counts = np.zeros(len(first.action_meanings), np.int64)
    for shard in shards:
        used = np.arange(BLOCK) < shard.lengths[:, None]
        counts += np.bincount(shard.actions[used], minlength=len(counts))
    return {
        "path": str(path),
        "game": first.game,
        "protocol": first.protocol,
        "teacher": first.teacher,
        "teacher_sha256": first.teacher_sha256,
        "shards": len(shards),
        "blocks": sum(shard.n_blocks for shard in shards),
        "states": states,
        "episodes": len(returns),
        "return": float(returns.mean()),
        "return_std": float(returns.std(ddof=1)) if len(returns) > 1 else None,  # of the sample, as in `rollout`
        "bytes": size,
        "bytes_per_state": size / states,
        "actions": dict(zip(first.action_meanings, counts.tolist(), strict=True)),
    }


def _print_summary(summary: dict[str, Any]) -> None:
    for name, value in summary.items():
        if name == "actions":
            for meaning, count in value.items():
                share = count / summary["states"]
                print(f"  {meaning:16} {count:9,} {share:6.1%} {'#' * round(40 * share)}")
        else:
            print(f"{name:16} {value:,.4g}" if isinstance(value, float) else f"{name:16} {value}")
    print()


def _verify(paths: list[Path]) -> list[ShardError]:
    from rich.console import Console  # only the command line needs it
    from rich.progress import track

    faults, states = [], 0
    for path in track(paths, "verify", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()):
        try:
            shard = Shard(path)
            shard.verify()
            states += len(shard)
        except ShardError as error:
            faults.append(error)
    print(f"{len(paths) - len(faults)} of {len(paths)} shards whole, {states:,} states")
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; `--help` explains it. Returns the exit status: 1 if anything was at fault."""
    parser = argparse.ArgumentParser(prog="python -m pd_lightning.blocks", description="Look after recorded shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = "shards, folders of a game, or a folder of games such as datasets/"
    verify = commands.add_parser("verify", help="read every block; one line a faulty file, exit status 1 if any")
    info = commands.add_parser("info", help="states, episodes, returns, teacher, bytes a state, actions")
    info.add_argument("--json", action="store_true", help="a JSON list, one object a file or game")
    for command in (verify, info):
        command.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=about)
    options = parser.parse_args(arguments)
    shards: list[Path] = []
    faults: list[ShardError] = []
    summaries: list[dict[str, Any]] = []
    for path in options.paths:
        try:
            for place, found in _groups(path).items():
                shards += found
                if options.command == "info":
                    summaries.append(_summary(place, found))
        except ShardError as error:
            faults.append(error)
    if options.command == "verify":
        faults += _verify(shards)
    elif options.json:
        print(json.dumps(summaries, indent=2))
    else:
        for summary in summaries:
            _print_summary(summary)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
