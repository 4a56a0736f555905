"""What tests of streams set up: the blocks of a game, batches of them, and what these must hold."""

from typing import Any

import numpy as np
import pytest

from pd_lightning.blocks import Shard, find_shards
from pd_lightning.streaming import Blocks, Reach, held_out

WHOLE, TIGHT = None, Reach(8, 20)  # pong's 24 blocks are 84 pieces of 8 steps
REACHES = pytest.mark.parametrize("reach", [WHOLE, TIGHT], ids=["decoded once", "flowing through"])


def blocks_of(folder, kind: Any = Blocks) -> Any:
    """All blocks of a game."""
    shards = [Shard(path) for path in find_shards(folder)]
    return kind(shards, held_out(shards, 0.0, seed=0)[0])


def take(stream, count, start=0):
    """Some batches, copied."""
    batches = (stream.batch(number) for number in range(start, start + count))
    return [(batch.states.numpy().copy(), batch.teacher_q.numpy().copy()) for batch in batches]


def expected(blocks, recorded, ids):
    """States and Q-values of `ids`, one by one."""
    states = np.stack([recorded[block][step] for block, step in ids])
    rows = [
        blocks.shards[s].q_values[b][step] for (s, b), step in zip(blocks.chosen[ids[:, 0]], ids[:, 1], strict=True)
    ]
    return states, np.stack(rows)


def assert_true(stream, recorded, number):
    states, teacher_q = take(stream, 1, number)[0]
    wanted = expected(stream.blocks, recorded, stream.ids(number))
    np.testing.assert_array_equal(states, wanted[0])
    np.testing.assert_array_equal(teacher_q, wanted[1])
