"""Blocks: how recorded play lies on disk (format version 1), and the only code that writes or reads it.

A shard is one HDF5 file, `datasets/<game>/NNNN.h5`: about an hour of play in whole episodes. It consists of blocks: up
to 32 consecutive steps of one episode, after the 3 frames before them, so that every stacked state is a slice::

    frames  f0 f1 f2 f3 f4 f5 ...     the state of step j is frames[j : j + 4], newest last
    steps            0  1  2  ...     at an episode's start f0 f1 f2 are zeros, as in the emulator's own stack

HDF5 is the container, so any tool reads the file; this package reads it more strictly and faster. More strictly: HDF5's
zstd filter turns a flipped bit into wrong frames without a word, hence the checksums and the digest. Faster: libhdf5
holds one lock over the whole process, hence frames are read around it. The contract as a table: `datasets/README.md`.

The rooms: `contract` <- `parts`, `folders` <- `writing`, `reading` <- `__main__`; each imports only from those to its
left.

    python -m pd_lightning.blocks verify datasets/pong
    python -m pd_lightning.blocks info datasets/pong --json
"""

from pd_lightning.blocks.contract import BLOCK, CHUNK, STACK, Header, ShardError, ShardTaken
from pd_lightning.blocks.folders import find_shards
from pd_lightning.blocks.reading import Shard
from pd_lightning.blocks.writing import ShardWriter

__all__ = [
    "BLOCK",
    "CHUNK",
    "STACK",
    "Header",
    "Shard",
    "ShardError",
    "ShardTaken",
    "ShardWriter",
    "find_shards",
]
