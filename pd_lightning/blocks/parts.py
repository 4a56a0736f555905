"""Attributes, datasets and chunks of a shard: as the contract says they are, or an error that says what is not."""

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pd_lightning.blocks.contract import BLOCKS_LIMIT, CHUNK, FIELD_TYPES, FORMAT, OPTIONAL, STORED, VERSION, fault

ZSTD = 32015  # the registered number of HDF5's zstd filter
SHUFFLE_DEFLATE = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]  # filters that every HDF5 has, in their order


def _read_attribute(path: Path, attributes: h5py.AttributeManager, name: str, kind: Any) -> Any:
    if name not in attributes:
        raise fault(path, name, "missing", "an attribute of this name")
    attribute = attributes.get_id(name)  # the type is looked at before the value: see `STORED`
    found = "text" if attribute.dtype.kind == "S" else attribute.dtype.str
    if found != STORED[kind] or attribute.shape != ():
        raise fault(path, name, f"{found} {attribute.shape}", f"{STORED[kind]} ()")
    value: Any = attributes[name]
    return value.decode() if isinstance(value, bytes) else value.item()


def read_attributes(path: Path, attributes: h5py.AttributeManager) -> dict[str, Any]:
    """All attributes as plain Python values of the right type, the format and version checked first."""
    for name, kind, mine in (("format", str, FORMAT), ("version", int, VERSION)):
        if (value := _read_attribute(path, attributes, name, kind)) != mine:
            step = "read it with the pd_lightning that wrote it, or record it again"
            raise fault(path, name, repr(value), repr(mine), step)
    kinds = {"format": str, "version": int, **FIELD_TYPES, "digest": str}
    if unknown := sorted(set(attributes) - set(kinds)):
        raise fault(path, "attributes", f"unknown: {', '.join(unknown)}", f"those of version {VERSION} alone")
    expected = {name: kind for name, kind in kinds.items() if name not in OPTIONAL or name in attributes}
    return {name: _read_attribute(path, attributes, name, kind) for name, kind in expected.items()}


def open_dataset(
    path: Path, file: h5py.File, name: str, dtype: str, shape: tuple[int | None, ...], filters: list[int]
) -> h5py.Dataset:
    """The dataset, once it is known to be as it should, and to lie in this file: a file may point to others."""
    dataset: Any = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.chunks is None:
        raise fault(path, name, "something else", "a chunked dataset in this file")
    if dataset.dtype != np.dtype(dtype):
        raise fault(path, name, dataset.dtype, np.dtype(dtype))
    if len(dataset.shape) != len(shape) or any(a not in (b, None) for a, b in zip(shape, dataset.shape, strict=True)):
        raise fault(path, name, dataset.shape, str(shape).replace("None", "any"))
    properties = dataset.id.get_create_plist()
    used = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if used != filters:
        raise fault(path, name, f"packed by filters {used}", f"HDF5 filters {filters}")
    return dataset


def read_small(
    path: Path, file: h5py.File, name: str, dtype: str, shape: tuple[int | None, ...], most: int
) -> np.ndarray:
    """A small dataset of one chunk, at most `most` long; unpacked here, as libhdf5 would unpack any number of bytes."""
    dataset = open_dataset(path, file, name, dtype, shape, SHUFFLE_DEFLATE)
    if not 1 <= len(dataset) <= most:
        raise fault(path, name, f"{len(dataset)} long", f"1 to {most}, the number of blocks")
    if dataset.chunks != dataset.shape:
        raise fault(path, name, f"chunks {dataset.chunks}", f"one, {dataset.shape}")
    skipped, stored = dataset.id.read_direct_chunk((0,) * dataset.ndim)
    unpacker, size = zlib.decompressobj(), dataset.dtype.itemsize
    unpacked = unpacker.decompress(stored, dataset.size * size + 1)
    if skipped or len(unpacked) != dataset.size * size or not unpacker.eof:
        raise fault(path, name, "another number of bytes", f"{dataset.size * size}, for {dataset.shape}")
    together = np.frombuffer(unpacked, np.uint8).reshape(size, -1).T  # the filter had put first bytes first
    return np.ascontiguousarray(together).view(dataset.dtype).reshape(dataset.shape)


def chunk_table(path: Path, frames: h5py.Dataset, file_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each block is stored: offset and size in bytes, int64 [N] each."""
    if len(frames) > BLOCKS_LIMIT:
        raise fault(path, "frames", f"{len(frames):,} blocks", f"at most {BLOCKS_LIMIT:,}, 77 hours")
    found: list[Any] = []
    frames.id.chunk_iter(found.append)  # one pass; asking for one chunk at a time scans the index each time
    rows = sorted((*c.chunk_offset, c.filter_mask, c.byte_offset, c.size) for c in found)
    table = np.array(rows, np.int64).reshape(-1, len(CHUNK) + 4)
    wanted = np.zeros((len(frames), len(CHUNK) + 2), np.int64)  # one chunk a block, at [i, 0, 0, 0], no filter skipped
    wanted[:, 0] = np.arange(len(frames))
    offsets, sizes = table[:, -2].copy(), table[:, -1].copy()
    if frames.chunks != (1, *CHUNK) or not len(frames) or not np.array_equal(table[:, :-2], wanted):
        value = f"{len(table)} chunks {frames.chunks}"
        raise fault(path, "frames", value, f"one of {(1, *CHUNK)} for each of {len(frames)} blocks")
    if (offsets < 0).any() or (sizes < 1).any() or (offsets > file_size - sizes).any():
        raise fault(path, "frames", "stored beyond the end of the file", f"the file's {file_size} bytes")
    return offsets, sizes
