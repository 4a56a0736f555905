"""Streaming: recorded blocks become batches, the same ones on any number of devices, and from wherever a run stopped.

The rooms: `order` (which state goes into which batch), `sequence` (the blocks of several shards), `buffers` (memory of
batches) <- `window`, `device` (decoded frames in memory) <- `source` (what is in the window when) <- `stream` (one
game), `shares` (how much each of several gets) <- `mixing` (several) <- `__main__`; each imports only from those to
its left.

    python -m pd_lightning.streaming order datasets --games pong --batch_size 256 --ranks 2 --rank 0 --epoch 3
"""

from pd_lightning.streaming.order import Reach
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.source import choose_reach, memory_of, variety
from pd_lightning.streaming.stream import Batch, Stream, held_out

__all__ = ["Batch", "Blocks", "Reach", "Stream", "choose_reach", "held_out", "memory_of", "variety"]
