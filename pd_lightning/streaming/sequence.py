"""The blocks of several shards as one sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pd_lightning.blocks import Shard


class Blocks:
    """Some blocks of a game's shards as one sequence, numbered from 0.

    Args:
        shards: of one game.
        chosen: shard and block of each, int64 [N, 2].
    """

    def __init__(self, shards: Sequence[Shard], chosen: np.ndarray) -> None:
        self.shards, self.chosen = list(shards), chosen
        self.lengths = np.empty(len(chosen), np.int64)
        self.q_values = np.empty((len(chosen), *shards[0].q_values.shape[1:]), np.float32)  # [N, L, A]
        for number, shard in enumerate(shards):
            mine = chosen[:, 0] == number
            self.lengths[mine] = shard.lengths[chosen[mine, 1]]
            self.q_values[mine] = shard.q_values[chosen[mine, 1]]
        self._places = chosen.tolist()

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def states(self) -> int:
        """Number of states in all blocks."""
        return int(self.lengths.sum())

    def read(self, block: int, out: np.ndarray) -> None:
        """Decodes a block's frames into `out`, uint8 [L + 3, 84, 84]; safe from several threads.

        Raises:
            ShardError: the bytes on disk are not those that were recorded.
        """
        shard, number = self._places[block]
        self.shards[shard].read_block(number, out)
