"""Recorded games as Lightning data: one stream a game, put together to batches {game: Batch}."""

from __future__ import annotations

import hashlib
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from pd_lightning.atari import check_game
from pd_lightning.blocks import BLOCK, ShardError
from pd_lightning.machine import sharing, usual_room
from pd_lightning.recorded import frame_statistics, left_out, open_game, returns_of_teacher
from pd_lightning.remote import local_root
from pd_lightning.resuming import ResumeError, batches_trained, refuse_changes, refuse_other_devices
from pd_lightning.streaming import Blocks, Reach, Stream, held_out
from pd_lightning.streaming.mixing import HeldOut, Mixture, build_streams
from pd_lightning.streaming.shares import (
    batch_sizes,
    check_data,
    check_devices,
    check_mixing,
    choose_reaches,
    memory_of_all,
)
from pd_lightning.streaming.stream import describe, new_workers


class TeacherDatasets(pl.LightningDataModule):
    """Recorded games, one stream each.

    By default every batch holds every game. An epoch is as long as the largest dataset; smaller ones begin anew
    meanwhile.

    Args:
        root: folder with a folder of shards for each game, or a URL of one (s3://, gs://, hf://, http://): see `cache`.
        games: which of them to learn.
        batch_size: states of each game in an update, over all devices; of the one game that an update holds, if mixing
            is one_game.
        memory: GiB for decoded frames on each device, over all games (default: about half of what is free, shared by
            the devices of a machine). Datasets that fit are decoded once and shuffled perfectly; larger ones flow
            through it, shuffled as well as it allows, which is said when a run starts.
        validation: share of the episodes of each game that is held out; at least one episode unless it is 0.
        seed: of the split and of the shuffling.
        threads: that read and decode; 0 is one for every core but one, 1 to 4. Does not change the order.
        allow_mixed: accept shards of different teachers or protocols in one game's folder.
        mixing: balanced (every batch holds every game) or one_game (every batch holds one, in turns, as in the paper).
        weights: of games, as in {pong: 2, breakout: 1}; 1 where none is given. A game of twice the weight has twice the
            states in a batch, or twice the turns; one with hardly more states than that in all has fewer.
        cache: folder where the shards of a URL are kept; by default $PD_LIGHTNING_CACHE, or ~/.cache/pd_lightning.

    Raises:
        ShardError: a shard or folder is missing, broken, of another game, or does not match its neighbours.
    """

    def __init__(
        self,
        root: str = "datasets",
        games: list[str] = ["pong"],  # noqa: B006 (shown as the default in --help; never changed)
        batch_size: int = 256,
        memory: float | None = None,
        validation: float = 0.05,
        seed: int = 0,
        threads: int = 0,
        allow_mixed: bool = False,
        mixing: str = "balanced",
        weights: dict[str, float] = {},  # noqa: B006 (as above)
        cache: str | None = None,
    ) -> None:
        super().__init__()
        check_data(games, batch_size, seed, memory)
        if threads < 0:
            raise ValueError(
                f"threads is {threads}: choose --data.threads of at least 1, or 0 for as many as are usual"
            )
        self.games = list(games)
        # Plain numbers, also where a notebook gave numpy's: a checkpoint with anything else does not load.
        self._batch_size, self.validation, self.seed = int(batch_size), float(validation), int(seed)
        self.memory, self.threads = memory, threads
        self.mixing, self.weights = mixing, check_mixing(self.games, mixing, weights)
        self.sizes = batch_sizes(self.batch_size, mixing, self.weights)
        self.root = local_root(root, games, cache)  # all else was checked: it may take long
        if not self.root.is_dir():
            kind = "is a file" if self.root.exists() else "is missing"
            raise ShardError(f"{self.root}: {kind}; give --data.root, the folder that the games' folders lie in")
        for game in games:
            if not (self.root / game).exists():
                check_game(game)  # a slip of the pen needs another answer than a game that was not recorded
        self.shards = {game: open_game(self.root / game, game, allow_mixed) for game in games}
        splits = {game: held_out(self.shards[game], validation, seed) for game in games}
        self.blocks = {game: Blocks(self.shards[game], splits[game][0]) for game in games}
        self.held_out = {game: Blocks(self.shards[game], splits[game][1]) for game in games if len(splits[game][1])}
        self.actions = {game: len(self.shards[game][0].header.action_meanings) for game in games}
        self.outputs = {game: self.shards[game][0].header.outputs for game in games}
        if memory is not None:  # whether it is enough is said now, not when the run has begun
            choose_reaches(self.blocks, self.sizes, int(memory * 2**30))
        self.mixture: Mixture | None = None

    @property
    def batch_size(self) -> int:
        """States of each game in an update; streams are made for it, so it is not to be changed."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        raise ValueError(
            f"batch_size is {self._batch_size} and cannot become {value}: make other TeacherDatasets (its size is a "
            "choice of learning, not of memory, so there is nothing for a BatchSizeFinder to find)"
        )

    def teacher_returns(self, protocol: str, fire: bool = False) -> dict[str, np.ndarray]:
        """Returns of each game's recorded episodes, float64 [E], if its teacher played them by these rules.

        What students are compared with; scores under different rules do not compare, so other games are left out.
        """
        returns = {game: returns_of_teacher(shards, protocol, fire) for game, shards in self.shards.items()}
        return {game: values for game, values in returns.items() if len(values)}

    def fire_rules(self) -> dict[str, bool]:
        """Whether FIRE was pressed for the teacher of each game, which students were to imitate."""
        return {game: shards[0].header.fire for game, shards in self.shards.items()}

    def teacher_q(self, game: str) -> np.ndarray:
        """The teacher's outputs in a game's training states, float32 [S, A]."""
        blocks = self.blocks[game]
        return blocks.q_values[np.arange(BLOCK) < blocks.lengths[:, None]]

    def statistics(self) -> dict[str, tuple[Tensor, float]]:
        """Mean image float32 [84, 84] and deviation of each game's training states, both in grey levels."""
        return {game: frame_statistics(blocks) for game, blocks in self.blocks.items()}

    def batches(self) -> Mixture:
        """Batches {game: Batch} for a loop of one's own, on the CPU; each iteration over them is the next epoch."""
        room = usual_room("cpu") if self.memory is None else int(self.memory * 2**30)
        reaches = choose_reaches(self.blocks, self.sizes, room)
        return Mixture(
            build_streams(self.blocks, self.sizes, reaches, self.seed, 0, 1, self.threads), self.mixing, self.weights
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what a fit has begun: threads cannot be pickled, and the next fit begins anew."""
        return {**self.__dict__, "mixture": None, "trainer": None}

    @property
    def _host(self) -> pl.Trainer:
        """The Trainer, whose devices share the states out.

        Raises:
            ValueError: there is none.
        """
        if self.trainer is None:
            raise ValueError(
                "these data have no Trainer yet: give them to one, trainer.fit(module, datamodule=data), or take "
                "data.batches() for a loop of your own"
            )
        return self.trainer

    def setup(self, stage: str) -> None:
        """Makes the streams to learn from; nothing is read yet.

        Raises:
            ValueError: there is no Trainer, or its devices have different data.
        """
        check_devices(self.batch_size, self._host.world_size, self.sizes)
        described = {f"recording of {game}": self._described(game) for game in self.games}
        refuse_other_devices({**described, **self._order_depends_on()}, "--data options and recordings")
        if stage == "fit":
            room = self._room()
            streams = self._streams(choose_reaches(self.blocks, self.sizes, room))
            if self.memory is None and any(stream.order.reach for stream in streams.values()):
                rank_zero_info(f"memory: --data.memory {room / 2**30} gives the same order of states again")
            # Asked anew for each epoch: a Trainer goes on from a checkpoint of whatever data, or fits once more.
            self.mixture = Mixture(streams, self.mixing, self.weights, partial(batches_trained, self._host))
            self.mixture.repeat_after = self._overfitted(len(self.mixture))
            strategy = self._host.strategy
            if self.mixing == "one_game" and len(self.games) > 1 and isinstance(strategy, DDPStrategy):
                strategy._ddp_kwargs["find_unused_parameters"] = True  # the heads of the other games get no gradient

    def _overfitted(self, batches: int) -> int | None:
        """How many batches the Trainer is to learn again and again, if it is: Lightning's `overfit_batches`."""
        wanted = self._host.overfit_batches  # pyright: ignore[reportAttributeAccessIssue]
        return (wanted if isinstance(wanted, int) else int(wanted * batches)) or None

    def _room(self) -> int:
        """Bytes for decoded frames on this device: the same on all of them, else they would shuffle differently.

        What streams of before hold becomes free: others are about to take their place.
        """
        for stream in self.streams.values():
            stream.close()
        if self.memory is not None:
            return int(self.memory * 2**30)
        neighbours = sharing(self._device, self._host.num_devices)
        return self._host.strategy.broadcast(usual_room(self._device, neighbours))

    @property
    def _device(self) -> torch.device:
        """Where windows and batches are; other accelerators than CUDA get their batches from Lightning."""
        device = self._host.strategy.root_device
        return device if device.type == "cuda" else torch.device("cpu")

    def _streams(self, reaches: dict[str, Reach | None]) -> dict[str, Stream]:
        ranks = self._host.global_rank, self._host.world_size
        return build_streams(self.blocks, self.sizes, reaches, self.seed, *ranks, self.threads, self._device)

    @property
    def streams(self) -> dict[str, Stream]:
        """What is learned from, game by game; nothing before a fit."""
        return self.mixture.streams if self.mixture else {}

    def train_dataloader(self) -> Mixture:
        """Batches {game: Batch}; says how the games are kept in memory."""
        if self.mixture is None:  # a Trainer has made them ready; who asks by hand may not have
            self.setup("fit")
        assert self.mixture is not None
        for game, stream in self.streams.items():
            said = left_out(self.blocks[game], self.held_out.get(game), self.validation)
            rank_zero_info(f"{game}: {describe(stream)}{said}")
        return self.mixture

    def val_dataloader(self) -> HeldOut:
        """Held-out states in recorded order; games take turns."""
        ranks = self._host.global_rank, self._host.world_size
        workers = new_workers(self.threads)
        return HeldOut({
            game: Stream(blocks, self.batch_size, self.seed, None, *ranks, False, workers, self._device)
            for game, blocks in self.held_out.items()
        })  # fmt: skip

    def test_dataloader(self) -> HeldOut | list[int]:
        """The held-out states again; without any, a batch of nothing, so that a test is at least played."""
        return self.val_dataloader() if self.held_out else [0]

    def fingerprint(self) -> str:
        """Changes with anything in the recordings that changes what is learned; not with where they lie."""
        return hashlib.sha256("".join(map(self._described, self.games)).encode()).hexdigest()

    def _described(self, game: str) -> str:
        return f"{game} {[shard.digest for shard in self.shards[game]]}"

    def state_dict(self) -> dict[str, Any]:
        """What the order depends on; the Trainer knows how many batches were trained on."""
        reaches = {game: stream.order.reach and list(stream.order.reach) for game, stream in self.streams.items()}
        return {"reaches": reaches, **self._order_depends_on()}

    def _order_depends_on(self) -> dict[str, Any]:
        keys = ("games", "batch_size", "validation", "seed", "mixing", "weights")
        return {**{key: getattr(self, key) for key in keys}, "recordings": self.fingerprint()}

    def _warn_of_others(self, state: dict[str, Any]) -> None:
        """Says what makes of scores others than those of the run that a checkpoint is of."""
        if state.get("recordings") != self.fingerprint():
            rank_zero_warn(
                f"these are not the recordings that the student has learned from, but those of {self.root}: scores "
                "are compared with their teacher's (its run's own: --config RUN/config.yaml)"
            )
            return
        for name in ("seed", "validation"):
            if self.held_out and state.get(name) != getattr(self, name):
                rank_zero_warn(
                    f"{name} is {getattr(self, name)}, and was {state.get(name)} when the student learned: among the "
                    f"episodes that are held out now are some that it learned from; give --data.{name} as it was"
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on after the batches that were trained on; to score a checkpoint, any data will do.

        Raises:
            ResumeError: the recordings or a setting that the order depends on are not those of the checkpoint, or
                there is less memory than its shuffle needs.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            self._warn_of_others(state_dict)
            return
        if self.mixture is None or self.trainer is None:
            return
        refuse_changes(state_dict, self._order_depends_on(), "--data options and recordings")
        if not state_dict["reaches"]:  # it was saved by a test or a validation: nothing was shuffled
            return
        reaches = {game: Reach(*reach) if reach else None for game, reach in state_dict["reaches"].items()}
        need = memory_of_all(self.blocks, self.sizes, reaches) / 2**30
        room = self._room() / 2**30 * (1 if self.memory else 2)  # by itself it takes half of what there is
        if need > room:
            raise ResumeError(
                f"cannot resume: memory is {room:.3f} GiB and the checkpoint's shuffle needs {need:.3f} GiB; "
                f"give --data.memory {need + 0.001:.3f}, or start anew without --ckpt_path"
            )
        self.mixture.streams = self._streams(reaches)
        # Lightning looks for a state in the loaders and would warn; it is here.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
