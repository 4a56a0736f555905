"""Recorded games as Lightning data: one stream a game, put together to batches {game: Batch}."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor

from pd_lightning.blocks import CHUNK, Shard, ShardError, find_shards
from pd_lightning.streaming import Batch, Stream, held_out
from pd_lightning.window import Blocks

STATISTICS_BLOCKS = 256
"""How many blocks, spread evenly over a recording, its mean image is taken from."""


class ResumeError(ValueError):
    """A checkpoint's place in the data makes no sense for the data as it is now."""


class HeldOut:
    """Validation batches {game: Batch} of one game each, game after game.

    Args:
        streams: one of each game.
        spare: whether to give one empty batch if there is no stream: Lightning skips a test without batches.
    """

    def __init__(self, streams: dict[str, Stream], spare: bool = False) -> None:
        self.streams, self.spare = streams, spare and not streams

    def __len__(self) -> int:
        return sum(len(stream) for stream in self.streams.values()) + self.spare

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        if self.spare:
            yield {}
        for game, stream in self.streams.items():
            for number in range(len(stream)):  # from the first, even if the last validation was cut short
                yield {game: stream.batch(number)}


class TeacherDatasets(pl.LightningDataModule):
    """Recorded games, one stream each.

    Every batch holds every game. With several games an epoch is as long as the largest dataset; smaller ones begin anew
    meanwhile.

    Args:
        root: folder with a folder of shards for each game.
        games: which of them to learn.
        batch_size: states of each game in an update, over all devices.
        memory: GiB for decoded frames on each device, over all games. Datasets that fit are decoded once and shuffled
            perfectly; larger ones are streamed through it. Part of what determines the order of the states.
        validation: share of the episodes of each game that is held out; at least one episode unless it is 0.
        seed: of the split and of the shuffling.
        threads: that read and decode, for each game; 0 is one for every core, at most 4. Does not change the order.
        allow_mixed: accept shards of different teachers or protocols in one game's folder.

    Raises:
        ShardError: a shard or folder is missing, broken, of another game, or does not match its neighbours.
    """

    def __init__(
        self,
        root: str = "datasets",
        games: list[str] = ["pong"],  # noqa: B006 (shown as the default in --help; never changed)
        batch_size: int = 256,
        memory: float = 4.0,
        validation: float = 0.05,
        seed: int = 0,
        threads: int = 0,
        allow_mixed: bool = False,
    ) -> None:
        super().__init__()
        if not games or len(set(games)) != len(games):
            raise ValueError(f"games is {games}: name at least one, and each once")
        if seed < 0:
            raise ValueError(f"seed is {seed}: choose --data.seed of 0 or more")
        if threads < 0 or batch_size < 1 or not memory > 0:
            raise ValueError(
                f"threads, batch_size and memory are {threads}, {batch_size} and {memory}: choose at least 0, "
                "at least 1, and more than 0 GiB"
            )
        self.root, self.games = Path(root), list(games)
        # Plain numbers, also where a notebook gave numpy's: a checkpoint with anything else does not load.
        self.batch_size, self.memory, self.validation = int(batch_size), float(memory), float(validation)
        self.seed, self.threads = int(seed), threads
        self.shards = {game: open_game(self.root / game, game, allow_mixed) for game in games}
        splits = {game: held_out(self.shards[game], validation, seed) for game in games}
        self.blocks = {game: Blocks(self.shards[game], splits[game][0]) for game in games}
        self.held_out = {game: Blocks(self.shards[game], splits[game][1]) for game in games if len(splits[game][1])}
        self.actions = {game: len(self.shards[game][0].header.action_meanings) for game in games}
        self.streams: dict[str, Stream] = {}

    def teacher_returns(self, protocol: str, fire: bool = False) -> dict[str, float]:
        """Mean return of the recorded episodes of each game that was recorded under `protocol` and this rule of FIRE.

        What students are compared with; scores under different rules do not compare, so other games are left out.
        """
        return {
            game: float(np.concatenate([shard.returns for shard in shards]).mean())
            for game, shards in self.shards.items()
            if all((shard.header.protocol, shard.header.fire) == (protocol, fire) for shard in shards)
        }

    def statistics(self) -> dict[str, tuple[Tensor, float]]:
        """Mean image float32 [84, 84] and deviation of each game's training states, both in grey levels."""
        return {game: frame_statistics(blocks) for game, blocks in self.blocks.items()}

    def setup(self, stage: str) -> None:
        """Makes the streams to learn from; nothing is read yet."""
        if stage == "fit":
            self.streams = {game: self._stream(blocks, shuffle=True) for game, blocks in self.blocks.items()}
            self._go_on(self._trained())  # a trainer that fits once more goes on

    def _stream(self, blocks: Blocks, shuffle: bool) -> Stream:
        assert self.trainer is not None
        memory = int(self.memory * 2**30 / len(self.games))
        ranks = self.trainer.global_rank, self.trainer.world_size
        return Stream(blocks, self.batch_size, self.seed, memory, *ranks, shuffle=shuffle, threads=self.threads)

    def train_dataloader(self) -> CombinedLoader:
        """Batches {game: Batch}; as many as the largest dataset has."""
        return CombinedLoader(self.streams, "max_size_cycle")

    def val_dataloader(self) -> HeldOut:
        """Held-out states in recorded order, one game after the other."""
        return HeldOut({game: self._stream(blocks, shuffle=False) for game, blocks in self.held_out.items()})

    def test_dataloader(self) -> HeldOut:
        """The held-out states again; without any, an empty batch, so that a test is at least played."""
        return HeldOut(self.val_dataloader().streams, spare=True)

    def fingerprint(self) -> str:
        """Changes with anything in the recordings that changes what is learned; not with where they lie."""
        digest = hashlib.sha256()
        for game in self.games:
            digest.update(f"{game} {[shard.digest for shard in self.shards[game]]}".encode())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Where the streams are, counted in batches that were trained on, and what the order depends on."""
        return {"batches": self._trained(), **self._order_depends_on()}

    def _trained(self) -> int:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # pyright: ignore[reportAttributeAccessIssue]

    def _order_depends_on(self) -> dict[str, Any]:
        keys = ("games", "batch_size", "memory", "validation", "seed")
        return {**{key: getattr(self, key) for key in keys}, "recordings": self.fingerprint()}

    def _go_on(self, batches: int) -> None:
        for stream in self.streams.values():
            stream.batches_given = batches

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on after the batches that were trained on; to score a checkpoint, any data will do.

        Raises:
            ResumeError: the recordings or a setting that the order depends on are not those of the checkpoint.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        for key, value in self._order_depends_on().items():
            if state_dict.get(key) != value:
                raise ResumeError(
                    f"cannot resume: {key} was {state_dict.get(key)} in the checkpoint and is {value} now; "
                    "give --data options and recordings as they were, or start anew without --ckpt_path"
                )
        self._go_on(state_dict["batches"])
        # Lightning looks for a state in the loaders and would warn; it is here.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")


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
        always = ("action_meanings", "frame_skip", "stack", "stack_padding")
        for field in always if allow_mixed else (*always, "protocol", "epsilon", "sticky", "fire", "teacher_sha256"):
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
