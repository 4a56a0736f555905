"""What one would use instead: the same states written with other libraries, and read as their documentation says.

Every writer stores stacked states, as a user of that library would; every reader delivers batches without end, through
two worker processes. Libraries are imported where they are used, and by name, so that neither running the others nor
checking types needs them.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.recorded import each_state
from pd_lightning.blocks import STACK, Shard, find_shards

WORKERS = 2
Batches = Iterator[tuple[Any, Any]]
"""States uint8 [n, 4, 84, 84] and Q-values float32 [n, A], as tensors or arrays."""


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """One epoch after the other."""
    while True:
        yield from loader


def write_h5py(source: Path, count: int, folder: Path) -> None:
    """Stacked states, gzip, a chunk for each: the usual advice for reading them in any order."""
    shape = (count, STACK, 84, 84)
    with h5py.File(folder / "states.h5", "w") as file:
        states = file.create_dataset("states", shape, np.uint8, chunks=(1, *shape[1:]), compression="gzip")
        rows = []
        for i, (state, q) in enumerate(each_state(source, count)):
            states[i] = state
            rows.append(q)
        file["q_values"] = np.stack(rows)


class StackedHDF5(Dataset):
    """A state an item; opened by the first item, so in the worker."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, None
        with h5py.File(path) as file:
            self.count: int = file["q_values"].shape[0]  # pyright: ignore

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.file is None:
            self.file = h5py.File(self.path)
        states: Any = self.file["states"]
        q_values: Any = self.file["q_values"]
        return torch.from_numpy(states[index]), torch.from_numpy(q_values[index])


def _loader(dataset: Dataset, batch_size: int) -> DataLoader:
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True)


def read_h5py(folder: Path, batch_size: int, seed: int) -> Batches:
    """A Dataset and a DataLoader, shuffled."""
    torch.manual_seed(seed)
    return endless(_loader(StackedHDF5(folder / "states.h5"), batch_size))


def write_pickle(source: Path, count: int, folder: Path) -> None:
    """A file for each state."""
    for i, (state, q) in enumerate(each_state(source, count)):
        (folder / f"{i:08d}.pkl").write_bytes(pickle.dumps((state.copy(), q.copy())))


class Pickles(Dataset):
    """A file an item."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.pkl"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return pickle.loads(self.paths[index].read_bytes())


def read_pickle(folder: Path, batch_size: int, seed: int) -> Batches:
    """A Dataset and a DataLoader, shuffled."""
    torch.manual_seed(seed)
    return endless(_loader(Pickles(folder), batch_size))


def write_webdataset(source: Path, count: int, folder: Path) -> None:
    """`.npy` in tar files of 1,000 states: several, as workers share them out by the file."""
    webdataset = import_module("webdataset")

    with webdataset.ShardWriter(str(folder / "%04d.tar"), maxcount=1000, verbose=0) as sink:
        for i, (state, q) in enumerate(each_state(source, count)):
            sink.write({"__key__": f"{i:08d}", "state.npy": state.copy(), "q.npy": q})


def read_webdataset(folder: Path, batch_size: int, seed: int) -> Batches:
    """Files and a buffer of 2,000 states shuffled in each worker, batches made there, a WebLoader."""
    webdataset = import_module("webdataset")

    urls = sorted(map(str, folder.glob("*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=seed)
    dataset = dataset.shuffle(2000).decode().to_tuple("state.npy", "q.npy").batched(batch_size)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    return endless(loader)


@cache
def _shards(source: Path) -> list[Shard]:
    return [Shard(path) for path in find_shards(source)]


def _litdata_items(source: Path, block: tuple[int, int, int]) -> Iterator[dict[str, torch.Tensor]]:
    shard, number, length = _shards(source)[block[0]], block[1], block[2]
    for state, q in zip(shard.states(number)[:length], shard.q_values[number], strict=False):
        yield {"state": torch.from_numpy(state.copy()), "q": torch.from_numpy(q.copy())}


def write_litdata(source: Path, count: int, folder: Path) -> None:
    """Chunks of 64 MB, zstd."""
    litdata = import_module("litdata")

    blocks, left = [], count
    for i, shard in enumerate(_shards(source)):
        for number, length in enumerate(shard.lengths.tolist()):
            if left > 0:
                blocks.append((i, number, min(length, left)))
                left -= length
    litdata.optimize(
        partial(_litdata_items, source),
        blocks,
        str(folder),
        chunk_bytes="64MB",
        compression="zstd",
        num_workers=1,
        verbose=False,
    )


def read_litdata(folder: Path, batch_size: int, seed: int) -> Batches:
    """StreamingDataset and StreamingDataLoader with their own shuffle."""
    litdata = import_module("litdata")

    dataset = litdata.StreamingDataset(str(folder), shuffle=True, seed=seed)
    loader = litdata.StreamingDataLoader(dataset, batch_size=batch_size, num_workers=WORKERS, persistent_workers=True)
    return ((batch["state"], batch["q"]) for batch in endless(loader))


def stand_in_for_vision_and_text() -> None:
    """Empty torchvision and transformers, if they are missing.

    mosaicml-streaming imports both, for parts that are not used here; with what they depend on they are gigabytes.
    """
    empty: dict[str, dict[str, list[str]]] = {
        "torchvision": {
            "torchvision": [],
            "torchvision.datasets": ["VisionDataset", "CIFAR10"],
            "torchvision.transforms": [],
            "torchvision.transforms.functional": ["to_tensor"],
        },
        "transformers": {
            "transformers": [],
            "transformers.feature_extraction_utils": ["BatchFeature"],
            "transformers.tokenization_utils_base": ["BatchEncoding"],
            "transformers.models": [],
            "transformers.models.auto": [],
            "transformers.models.auto.tokenization_auto": ["AutoTokenizer"],
        },
    }
    for package, modules in empty.items():
        if package not in sys.modules and find_spec(package) is None:
            for name, attributes in modules.items():
                sys.modules[name] = ModuleType(name)
                for attribute in attributes:
                    setattr(sys.modules[name], attribute, type(attribute, (), {}))


def write_mosaicml(source: Path, count: int, folder: Path) -> None:
    """MDS shards, zstd."""
    stand_in_for_vision_and_text()
    streaming = import_module("streaming")

    columns = {"state": "ndarray:uint8:4,84,84", "q": "ndarray:float32"}
    with streaming.MDSWriter(out=str(folder), columns=columns, compression="zstd") as writer:
        for state, q in each_state(source, count):
            writer.write({"state": state.copy(), "q": q})


def read_mosaicml(folder: Path, batch_size: int, seed: int) -> Batches:
    """StreamingDataset, shuffled, and a DataLoader."""
    stand_in_for_vision_and_text()
    streaming = import_module("streaming")

    dataset = streaming.StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=seed, batch_size=batch_size)
    loader = DataLoader(dataset, batch_size, num_workers=WORKERS, persistent_workers=True)
    return ((batch["state"], batch["q"]) for batch in endless(loader))
