"""A game's recording: all its shards, which must be of one kind, and their mean image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pd_lightning.atari import FRAME_SKIP
from pd_lightning.blocks import CHUNK, STACK, Shard, ShardError, find_shards
from pd_lightning.blocks.contract import fault
from pd_lightning.centring import mean_image
from pd_lightning.streaming import Blocks

STATISTICS_BLOCKS = 256
"""How many blocks, spread evenly over a recording, its mean image is taken from."""


ALWAYS_ALIKE = ("action_meanings", "stack", "stack_padding", "outputs")
"""Attributes that a game's shards share: else a state, or an output, of one means something else in another."""
USUALLY_ALIKE = ("protocol", "epsilon", "sticky", "fire", "teacher_sha256")
"""Attributes that a game's shards share unless they were mixed on purpose: then their returns are nobody's score.
`player` is not among them: play of a student, labelled by the teacher, may lie beside the teacher's own."""

PLAY_FOLLOWS_FROM = (
    "teacher_sha256",
    "protocol",
    "noop_max",
    "frame_limit",
    "epsilon",
    "sticky",
    "fire",
    "seed",
    "shard",
)
"""Attributes by which a teacher's play is the same again, on whatever machine: but for last bits of what it thought."""
PLAYED_OTHERWISE = (
    "students would play in other states than those they learn from: record it by `python -m pd_lightning.recording`"
)


def open_game(folder: Path, game: str, allow_mixed: bool) -> list[Shard]:
    """Opens and validates all shards of a game.

    Raises:
        ShardError: there is none, one is broken, of another game or the same as another, or they are of several
            teachers or protocols.
    """
    shards = [Shard(path) for path in find_shards(folder)]
    known: dict[bytes, Path] = {}
    seeded: dict[tuple[Any, ...], Path] = {}
    for shard in shards:
        path = Path(shard.path)
        for episode, play in enumerate(shard.plays()):
            if (twin := known.setdefault(play, path)) != path:
                raise ShardError(f"{path}: holds the same play as {twin.name} (episode {episode}); delete one of them")
        for field, usual, step in (
            ("game", game, "move it to that game's folder"),
            ("frame_skip", FRAME_SKIP, PLAYED_OTHERWISE),
            ("max_pool", True, PLAYED_OTHERWISE),
        ):
            if (value := getattr(shard.header, field)) != usual:
                raise fault(path, field, value, usual, step)
        for field in ALWAYS_ALIKE if allow_mixed else (*ALWAYS_ALIKE, *USUALLY_ALIKE):
            mine, first = getattr(shard.header, field), getattr(shards[0].header, field)
            if mine != first:
                mixed = ", or allow it by --data.allow_mixed true" if field in USUALLY_ALIKE else ""
                allowed = f"{first}, as in {Path(shards[0].path).name}"
                raise fault(path, field, mine, allowed, f"move it elsewhere{mixed}")
        by = tuple(getattr(shard.header, field) for field in PLAY_FOLLOWS_FROM)
        if shard.header.player == "teacher" and (twin := seeded.setdefault(by, path)) != path:
            raise ShardError(f"{path}: was recorded with the seeds of {twin.name}; delete one of them")
    return shards


def returns_of_teacher(shards: Sequence[Shard], protocol: str, fire: bool | None) -> np.ndarray:
    """Returns of a game's recorded episodes in which the teacher alone acted, float64 [E].

    Args:
        shards: of the game.
        protocol: the rules that are asked for.
        fire: whether FIRE was to be pressed for it; None takes either.

    Returns:
        None of them if they were played by other rules, or are of several teachers.
    """
    headers = [shard.header for shard in shards]
    alike = len({tuple(getattr(header, field) for field in USUALLY_ALIKE) for header in headers}) == 1
    if not alike or headers[0].protocol != protocol or fire not in (None, headers[0].fire):
        return np.empty(0)
    return np.concatenate([np.empty(0), *(shard.returns for shard in shards if shard.header.player == "teacher")])


def left_out(learned: Blocks, held: Blocks | None, validation: float) -> str:
    """What is held out of a recording, to be said behind what is learned from; a short one may lose too much.

    Args:
        learned: what is learned from.
        held: what is held out, if anything is.
        validation: share that was to be.
    """
    if held is None:
        return ""
    episodes = sum(len(shard.returns) for shard in held.shards)
    count = len({(shard, held.shards[shard].episodes[block]) for shard, block in held.chosen.tolist()})
    much = held.states > (2 * validation + 0.05) * (learned.states + held.states)
    more = f"; that is much: record more, or give --data.validation 0 instead of {validation:g}" if much else ""
    return f"; {held.states:,} more, of {count} of {episodes} episodes, are held out{more}"


def frame_statistics(blocks: Blocks) -> tuple[Tensor, float]:
    """Mean image float32 [84, 84] and root mean square deviation from it, in grey levels.

    From `STATISTICS_BLOCKS` blocks that are spread evenly, so the cost does not grow with the recording.
    """
    chosen = np.unique(np.linspace(0, len(blocks) - 1, STATISTICS_BLOCKS).astype(int))
    frames = np.empty(CHUNK, np.uint8)

    def newest(block: int) -> np.ndarray:
        blocks.read(block, frames)
        return frames[STACK - 1 : STACK - 1 + blocks.lengths[block]]

    return mean_image(map(newest, chosen.tolist()))
