"""The stream of minibatches that a teacher learns from while it plays on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from pd_lightning.atari import action_meanings, check_fire, check_game
from pd_lightning.centring import mean_image
from pd_lightning.episodes import TRAINING_SEEDS, Policy
from pd_lightning.pqn.games import Games, Minibatch, Round, check_learning, linear, minibatches, random_play
from pd_lightning.pqn.threads import half_of_the_cores
from pd_lightning.resuming import refuse_changes

ORDER = 1
"""Last part of the key of the order of learning."""


class ParallelPlay(pl.LightningDataModule):
    """The teacher's own play, as a stream of minibatches.

    While one round of play is learned from, the next is played in a thread, by the network as it was before. On a CPU
    each has half of the cores.

    Args:
        game: the game, in the emulator's snake case.
        parallel: games played side by side, on each device.
        steps: decisions in each game between two rounds of learning.
        passes: how often each round's steps are learned from.
        minibatches: updates per pass; parallel * steps must be a multiple of it.
        rounds: rounds of playing and learning in an epoch; a checkpoint and fresh games after each epoch.
        discount: of the future, per step.
        trace: lambda of the returns, 0 to 1.
        epsilon_start: share of random actions at first.
        epsilon_end: share of random actions in the end; 5%, since that is how teachers are scored and recorded.
        epsilon_steps: decisions, over all games, in which it falls linearly from first to last.
        fire: press FIRE for the player at a start; when it is scored and recorded, after each lost life too (default:
            as for the weights that it begins with, else not).
        seed: of the games and of the order of learning.
    """

    def __init__(
        self,
        game: str = "pong",
        parallel: int = 32,
        steps: int = 32,
        passes: int = 2,
        minibatches: int = 8,
        rounds: int = 256,
        discount: float = 0.99,
        trace: float = 0.65,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_steps: int = 250_000,
        fire: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_learning(
            {
                "parallel": parallel, "steps": steps, "passes": passes, "minibatches": minibatches, "rounds": rounds,
                "discount": discount, "trace": trace, "epsilon_start": epsilon_start, "epsilon_end": epsilon_end,
                "epsilon_steps": epsilon_steps, "seed": seed,
            },
            "--data.",
        )  # fmt: skip
        self.game = check_game(game)
        if fire:
            check_fire(game, "--data.fire")
        self.parallel, self.steps, self.rounds = parallel, steps, rounds
        self.passes, self.minibatches = passes, minibatches
        self.discount, self.trace = discount, trace
        self.epsilon_start, self.epsilon_end, self.epsilon_steps = epsilon_start, epsilon_end, epsilon_steps
        self.fire, self.seed = fire, seed
        self.actions = {game: len(action_meanings(game))}
        self.returns: list[float] = []

    @property
    def pressed(self) -> bool:
        """Whether FIRE is pressed: as was said, else as it was for the weights that learning began with."""
        module = self.trainer.lightning_module if self.trainer else None
        return getattr(module, "fire", {}).get(self.game, False) if self.fire is None else self.fire

    def fire_rules(self) -> dict[str, bool]:
        """Whether FIRE is pressed for the teacher when it is scored."""
        return {self.game: self.pressed}

    def steps_after(self, batches: int, devices: int = 1) -> int:
        """Decisions that so many batches have learned from, over all games and devices."""
        return batches // (self.passes * self.minibatches) * self.parallel * self.steps * devices

    def __len__(self) -> int:
        """Updates in an epoch."""
        return self.rounds * self.passes * self.minibatches

    def statistics(self) -> dict[str, tuple[Tensor, float]]:
        """Mean image [84, 84] and deviation, in grey levels, of 100 steps of random play in all games."""
        return {self.game: mean_image(random_play(self.game, self.parallel, self.pressed, self.seed))}

    def train_dataloader(self) -> ParallelPlay:
        """Itself: one iteration is one epoch."""
        return self

    def test_dataloader(self) -> list[int]:
        """One empty batch: tests are played by `pd_lightning.callbacks.Rollouts`, but Lightning wants some data."""
        return [0]

    def state_dict(self) -> dict[str, int]:
        """What steps, epsilon and games are counted by: a resumed run must have it as it was."""
        assert self.trainer is not None
        names = ("parallel", "steps", "passes", "minibatches")
        return {**{name: int(getattr(self, name)) for name in names}, "devices": self.trainer.world_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Learning goes on with the settings that it began with; a test needs none of them.

        Raises:
            ResumeError: one is another.
        """
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            refuse_changes(state_dict, self.state_dict(), "--data options and --trainer.devices")

    def __iter__(self) -> Iterator[Minibatch]:
        """Plays and yields, round after round."""
        assert self.trainer is not None
        # Updates, not epochs: then a run that was resumed within an epoch does not play that epoch's games again.
        first = (self.trainer.fit_loop.total_batch_idx + 1) // (self.passes * self.minibatches)
        key = (self.seed, self.trainer.global_rank, first)
        order = np.random.default_rng([TRAINING_SEEDS, *key, ORDER])
        with half_of_the_cores(self.trainer.lightning_module.device) as (thread, cores):
            games = Games(
                self.game, self.parallel, self.steps, self.discount, self.trace, self.pressed, key, threads=cores
            )
            for played in self._rounds(games, thread, first):
                self.returns += played.returns
                yield from minibatches(played.learned, self.passes, self.minibatches, order)

    def _rounds(self, games: Games, thread: ThreadPoolExecutor, first: int) -> Iterator[Round]:
        """An epoch's rounds; each is begun when the one before it is handed out, from the weights of that moment."""
        assert self.trainer is not None
        module, devices = self.trainer.lightning_module, self.trainer.world_size
        ahead: Future[Round] | None = None
        for r in range(first, first + self.rounds + 1):
            played = ahead.result() if ahead else None
            if r < first + self.rounds:
                policy: Policy = module.snapshot(self.game)  # pyright: ignore[reportCallIssue]
                epsilon = self.epsilon(r * self.parallel * self.steps * devices)
                ahead = thread.submit(games.play, policy, epsilon)
            if played:
                yield played

    def epsilon(self, played: int) -> float:
        """Share of random actions after `played` decisions over all games and devices."""
        return linear(self.epsilon_start, self.epsilon_end, self.epsilon_steps, played)
