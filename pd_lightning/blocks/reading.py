"""Reading a shard: nothing in the file is believed before it is checked."""

import errno
import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zstandard

from pd_lightning.blocks.contract import (
    BLOCK,
    CHUNK,
    SMALL,
    STACK,
    ShardError,
    check_arrays,
    checksum,
    digest,
    fault,
    header_from,
    record_command,
)
from pd_lightning.blocks.parts import ZSTD, chunk_table, open_dataset, read_attributes, read_small

_thread = threading.local()  # a decompressor per thread: they cannot be shared


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
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            raise self._unreadable(error) from error
        if found is None or not stat.S_ISREG(found.st_mode):
            value = "missing" if found is None else "a folder" if stat.S_ISDIR(found.st_mode) else "no plain file"
            known = self.path.suffix == ".h5"
            step = f"record it: {record_command(self.path.absolute().parent)}" if known else "name another"
            raise fault(self.path, "file", value, "a shard (.h5), or a folder with some", step)
        try:
            self._identity = _identity(found)
            # Finished shards never change, so a lock would only keep out of read-only and network folders.
            with h5py.File(self.path, "r", locking=False) as file:
                self._load(file)
            if _identity(os.stat(self.path)) != self._identity:
                raise self._changed()
        except ShardError:
            raise
        except PermissionError as error:
            raise self._unreadable(error) from error
        except Exception as error:  # libhdf5 raises nearly anything on damaged metadata
            raise fault(self.path, "file", f"unreadable ({error})", "a whole HDF5 file") from error

    def _load(self, file: h5py.File) -> None:
        attributes = read_attributes(self.path, file.attrs)  # which looks the root up: once
        promised = attributes.pop("digest")
        self.header = header_from(self.path, attributes)
        frames = open_dataset(self.path, file, "frames", "|u1", (None, *CHUNK), [ZSTD])
        self._offsets, self._sizes = chunk_table(self.path, frames, self._identity[1])
        self.n_blocks = len(frames)
        action_count = len(self.header.action_meanings)
        sizes = {"N": self.n_blocks, "L": BLOCK, "A": action_count, "E": None}
        arrays = {
            name: read_small(self.path, file, name, dtype, tuple(sizes[x] for x in letters), self.n_blocks)
            for name, (dtype, letters) in SMALL.items()
        }
        self.digest = digest(attributes, arrays)
        if self.digest != promised:
            raise fault(self.path, "digest", promised, f"{self.digest}, as computed from the content")
        check_arrays(self.path, arrays, action_count)
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
        return fault(self.path, "file", "replaced, changed or gone since it was opened", "as it was", "open it again")

    def _unreadable(self, error: OSError) -> ShardError:
        if error.errno in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
            return self._changed()
        step = "check the disk and the file's permissions"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            step = "each shard that is read keeps one open: allow more (ulimit -n 4096), or learn from fewer shards"
        return fault(self.path, "file", f"not read ({error.strerror})", "a file that can be read", step)

    def _open(self) -> int:
        descriptor = self.__dict__.get("_descriptor")
        if descriptor is None:
            try:
                fresh = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise self._unreadable(error) from error
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
        try:
            stored = os.pread(self._open(), int(self._sizes[index]), int(self._offsets[index]))
        except OSError as error:
            raise self._unreadable(error) from error
        if checksum(index, stored) != self.checksums[index]:
            raise fault(self.path, f"block {index}", "not the bytes recorded", "bytes that match its checksum")
        if not hasattr(_thread, "decompressor"):
            _thread.decompressor = zstandard.ZstdDecompressor()
        try:
            # In place, and without the GIL; `decompress` would allocate and copy, and be a quarter slower.
            filled = _thread.decompressor.stream_reader(stored).readinto(out)
        except zstandard.ZstdError as error:
            raise fault(self.path, f"block {index}", f"not unpacked ({error})", "a zstd frame") from error
        if filled != out.nbytes:
            raise fault(self.path, f"block {index}", f"{filled} bytes", f"{out.nbytes} bytes")

    def states(self, index: int) -> np.ndarray:
        """The stacked states of a block, uint8 [n, 4, 84, 84], newest frame last; a read-only view of its frames.

        Raises:
            ShardError: as `read_block`.
        """
        frames = np.empty(CHUNK, np.uint8)
        self.read_block(index, frames)
        used = frames[: int(self.lengths[index]) + STACK - 1]
        return np.moveaxis(np.lib.stride_tricks.sliding_window_view(used, STACK, axis=0), -1, 1)

    def plays(self) -> list[bytes]:
        """What tells each episode from all others, wherever it lies: not its frames, but how small they were packed."""
        order = np.argsort(self.episodes, kind="stable")
        every = np.split(order, np.flatnonzero(np.diff(self.episodes[order])) + 1)
        known = self.actions, self.rewards, self.q_values, self._sizes
        return [hashlib.sha256(b"".join(array[blocks].tobytes() for array in known)).digest() for blocks in every]

    def verify(self) -> None:
        """Reads every block.

        Raises:
            ShardError: one is damaged, or not zero beyond its length.
        """
        frames = np.empty(CHUNK, np.uint8)
        for index in range(self.n_blocks):
            self.read_block(index, frames)
            if frames[int(self.lengths[index]) + STACK - 1 :].any():
                raise fault(self.path, f"block {index}", "not zero beyond its length", "zero there")


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
