"""Writing a shard: whole or not at all."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np
import zstandard

from pd_lightning.blocks.contract import (
    BLOCK,
    BLOCKS_LIMIT,
    CHUNK,
    SMALL,
    STACK,
    Header,
    ShardError,
    ShardTaken,
    check_arrays,
    check_header,
    checksum,
    digest,
    fault,
    stored_attributes,
)
from pd_lightning.files import sync

# Bytes a state, and states packed a second by one core (ale_py 0.12; a scripted player on Pong, random play elsewhere):
#               Pong         Breakout      Riverraid     Seaquest
#    level 3    44 507,000   40 476,000   147 279,000   112 308,000
#    level 9    39  87,000   36 115,000   136  45,000   102  54,000
#    level 11   38  31,000   36  32,000   136  21,000   100  21,000
#    level 15   33  18,000   33  12,000   124   3,300    88   6,000
# 9 is the knee: the next 10% cost 5 to 14 times the time, and would hold a recording (up to 7,000 steps/s) back.
_LEVEL = 9
_CALLER = "mend the code that records, see ShardWriter"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        ShardError: an attribute is not allowed; on entering: the folder cannot be written.
        ShardTaken: on entering: the shard exists, or another writer is at work on it.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header) -> None:
        self.path = Path(path)
        self.header = header
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._lock: int | None = None  # descriptor of the temporary file, while it is ours
        self._chunks: list[bytes] = []
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in SMALL}
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        check_header(self.path, header, _CALLER)

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self._lock is None:
                self._lock = self._claim()
        except OSError as error:
            raise self._unwritten(error) from error
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
                raise fault(self.path, "number of writers", "one already", "one", step, ShardTaken) from None
            if self.path.exists():
                self._part.unlink()
                raise self._exists()
            os.ftruncate(descriptor, 0)
            undo.pop_all()
        return descriptor

    def _exists(self) -> ShardError:
        step = "record another shard, or move this one away"
        return fault(self.path, "file", "there already", "a new one: shards are never overwritten", step, ShardTaken)

    def _unwritten(self, error: OSError) -> ShardError:
        """The error that the system does not let the shard be written."""
        cause = "free space" if error.errno in _FULL else "see to its folder"
        step = f"{cause} and run the same command again, which keeps finished shards, or record to another --root"
        return fault(self.path, "file", f"not written ({error.strerror or error})", "one that can be written", step)

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:  # not finished
            with contextlib.suppress(OSError):  # the folder has become read-only: the next writer replaces the file
                self._part.unlink(missing_ok=True)
            self._release()

    def _release(self) -> None:
        """Lets others at the file."""
        descriptor, self._lock = self._lock, None
        if descriptor is not None:
            os.close(descriptor)

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
            raise fault(self.path, "writer", "closed", "open", "use it in a `with`, and add before `finish`")
        if len(self._chunks) == BLOCKS_LIMIT:
            raise fault(self.path, "frames", f"more than {BLOCKS_LIMIT:,} blocks", "so many, 77 hours", _CALLER)
        n, actions_of_game = len(actions), len(self.header.action_meanings)
        if not 1 <= n <= BLOCK:
            raise fault(self.path, "number of actions", n, f"1 to {BLOCK}", _CALLER)
        row = {"lengths": np.array([n], "|u1"), "episodes": np.zeros(1, "<i4"), "returns": np.zeros(1)}
        for name, array, dtype, shape in (
            ("frames", frames, "|u1", (n + STACK - 1, *CHUNK[1:])),
            ("q_values", q_values, "<f4", (n, actions_of_game)),
            ("actions", actions, "|u1", (n,)),
            ("rewards", rewards, "<f4", (n,)),
        ):
            if array.dtype != np.dtype(dtype) or array.shape != shape:
                raise fault(self.path, name, f"{array.dtype} {array.shape}", (dtype, shape), _CALLER)
            row[name] = np.zeros((1, BLOCK + len(array) - n, *shape[1:]), dtype)
            row[name][0, : len(array)] = array
        check_arrays(self.path, row, actions_of_game, _CALLER)
        if not 0 <= episode < 2**31:
            raise fault(self.path, "episode", episode, "a number from 0 on", _CALLER)
        chunk = self._compressor.compress(row["frames"].data)
        row["episodes"] += episode
        row["checksums"] = np.array([checksum(len(self._chunks), chunk)], "<u4")
        self._chunks.append(chunk)
        for name, rows in self._rows.items():
            rows.append(row[name])

    def finish(self, returns: Sequence[float] | np.ndarray) -> None:
        """Writes the file, syncs it and gives it its name.

        Args:
            returns: of every episode, in the order of their numbers.

        Raises:
            ShardError: the episodes of the blocks are not 0 to `len(returns) - 1`, a return is not finite, there is no
                block, the writer is not open, or the disk is full or takes no files any more.
            ShardTaken: a file of this name appeared meanwhile.
        """
        if self._lock is None or not self._chunks:
            raise fault(self.path, "writer", "closed or empty", "open, with a block", "add blocks, then finish once")
        self._rows["returns"] = [np.array(returns, "<f8").reshape(-1)]
        arrays = {name: np.concatenate(rows) for name, rows in self._rows.items()}
        check_arrays(self.path, arrays, len(self.header.action_meanings), _CALLER)
        image = self._image(arrays)
        try:
            with open(self._lock, "wb", closefd=False) as file:
                file.write(image)
            os.fsync(self._lock)
            if self.path.exists():
                raise self._exists()
            self._part.rename(self.path)
            self._release()
            sync(self.path.parent)  # only now does the new name survive a power cut
        except OSError as error:
            raise self._unwritten(error) from error

    def _image(self, arrays: dict[str, np.ndarray]) -> bytes:
        """The file's bytes. Made in memory: libhdf5's own locks and half-written files do not arise."""
        attributes = stored_attributes(self.header)
        # v110: its metadata carry checksums, and every HDF5 since 2016 reads it.
        with h5py.File(self._part, "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
            for name, value in {**attributes, "digest": digest(attributes, arrays)}.items():
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
