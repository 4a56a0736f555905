"""A game's recording: all its shards, which must be of one kind, and their mean image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pd_lightning.blocks import CHUNK, Shard, ShardError, find_shards
from pd_lightning.streaming import Blocks

STATISTICS_BLOCKS = 256
"""How many blocks, spread evenly over a recording, its mean image is taken from."""


USUALLY_ALIKE = ("protocol", "epsilon", "sticky", "fire", "player", "teacher_sha256")
"""Attributes that a game's shards share unless they were mixed on purpose: then their returns are nobody's score."""


def open_game(folder: Path, game: str, allow_mixed: bool) -> list[Shard]:
    """Opens and validates all shards of a game.

    Raises:
        ShardError: there is none, one is broken or of another game, or they are of several teachers or protocols.
    """
    shards = [Shard(path) for path in find_shards(folder)]
    first = shards[0].header
    for shard in shards:
        if shard.header.game != game:
            raise ShardError(
                f"{shard.path}: game is {shard.header.game!r}, its folder's is {game!r}; move it to another folder"
            )
        always = ("action_meanings", "frame_skip", "stack", "stack_padding", "outputs")
        for field in always if allow_mixed else (*always, *USUALLY_ALIKE):
            if getattr(shard.header, field) != getattr(first, field):
                raise ShardError(
                    f"{shard.path}: {field} is {getattr(shard.header, field)}, in {Path(shards[0].path).name} it is "
                    f"{getattr(first, field)}; move it elsewhere"
                    + ("" if field in always else ", or allow it by --data.allow_mixed true")
                )
    return shards


def frame_statistics(blocks: Blocks) -> tuple[Tensor, float]:
    """Mean image float32 [84, 84] and root mean square deviation from it, in grey levels.

    From `STATISTICS_BLOCKS` blocks that are spread evenly, so the cost does not grow with the recording.
    """
    chosen = np.unique(np.linspace(0, len(blocks) - 1, STATISTICS_BLOCKS).astype(int))
    frames = np.empty(CHUNK, np.uint8)
    count, total, squares = 0, np.zeros(CHUNK[1:]), np.zeros(CHUNK[1:])
    for block in chosen.tolist():
        blocks.read(block, frames)
        seen = frames[3 : 3 + blocks.lengths[block]].astype(np.float32)
        count += len(seen)
        total += seen.sum(0)
        squares += np.square(seen).sum(0)
    mean = total / count
    deviation = float(np.sqrt(np.maximum(squares / count - mean**2, 0).mean()))
    return torch.from_numpy(mean).float(), deviation
