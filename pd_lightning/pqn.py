"""Trains a teacher: parallelised Q-learning (PQN; Gallici et al., 2024, arXiv 2407.04811).

Many games are played side by side with the network that is learning. After every few steps, returns with an
eligibility trace are computed from what was just played, the network is fitted to them, and the steps are forgotten: no
replay memory and no target network, layer normalisation keeps it stable.

A Lightning batch is one update, and an epoch is a fixed number of steps, at whose beginning all games start anew from
seeds that follow from the number of rounds before it. So a checkpoint taken at the end of an epoch needs no state of
the emulator: resuming from it gives bit for bit the run that was not interrupted, if `max_epochs` says how long it is.

From any other checkpoint (within an epoch; or Lightning's bookkeeping under `max_steps`) a run goes on soundly but not
identically: with the weights, share of random actions and learning rate of that update, in games that start anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from ale_py.vector_env import AtariVectorEnv
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.atari import PROTOCOLS, action_meanings, build, check_game
from pd_lightning.networks import QNetwork
from pd_lightning.rollout import Policy, episode_seeds, one_thread

TRAINING_SEEDS = 1
"""First part of the key of training games' seeds: they are never the seeds of a score."""


class Minibatch(NamedTuple):
    """What one update learns from.

    Attributes:
        states: uint8 [B, 4, 84, 84].
        actions: int64 [B].
        targets: float32 [B], what Q(state, action) should be.
    """

    states: Tensor
    actions: Tensor
    targets: Tensor


def lambda_returns(
    rewards: np.ndarray, ends: np.ndarray, values: np.ndarray, discount: float, trace: float
) -> np.ndarray:
    """Q(lambda) targets of T steps (Gallici et al., 2024, equation 14, as Peng's Q(lambda)).

    ``G[t] = r[t] + discount * (1 - end[t]) * (trace * G[t+1] + (1 - trace) * value[t+1])``, and ``value[T]`` in place
    of ``G[T]``.

    Args:
        rewards: float32 [T, n].
        ends: bool [T, n], whether nothing follows step t.
        values: max over actions of Q, float32 [T + 1, n]; the last row is of the states after the last step.
        discount: of the future, per step.
        trace: lambda; 0 looks one step ahead, 1 to the end.

    Returns:
        float32 [T, n].
    """
    targets = np.empty_like(rewards)
    ahead = values[-1]
    for t in reversed(range(len(rewards))):
        mixed = trace * ahead + (1 - trace) * values[t + 1]
        ahead = targets[t] = rewards[t] + discount * np.where(ends[t], 0, mixed)
    return targets


class ParallelPlay(pl.LightningDataModule):
    """The teacher's own play, as a stream of minibatches.

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
        fire: press FIRE for the player at a start (not after a life: the teacher is to learn that).
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
        fire: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if parallel * steps % minibatches:
            raise ValueError(
                f"{parallel} games x {steps} steps do not divide into {minibatches} minibatches: "
                f"choose --data.minibatches that divides {parallel * steps}"
            )
        self.game = check_game(game)
        self.parallel, self.steps, self.rounds = parallel, steps, rounds
        self.passes, self.minibatches = passes, minibatches
        self.discount, self.trace = discount, trace
        self.epsilon_start, self.epsilon_end, self.epsilon_steps = epsilon_start, epsilon_end, epsilon_steps
        self.fire, self.seed = fire, seed
        self.actions = {game: len(action_meanings(game))}
        self.returns: list[float] = []

    @property
    def steps_per_epoch(self) -> int:
        """Decisions that one device plays in an epoch."""
        return self.parallel * self.steps * self.rounds

    def steps_after(self, updates: int, devices: int = 1) -> int:
        """Decisions that `updates` updates have learned from, over all games and devices."""
        return updates // (self.passes * self.minibatches) * self.parallel * self.steps * devices

    def __len__(self) -> int:
        """Updates in an epoch."""
        return self.rounds * self.passes * self.minibatches

    def statistics(self) -> dict[str, tuple[Tensor, float]]:
        """Mean image [84, 84] and deviation, in grey levels, of 100 steps of random play in all games."""
        env = build(self.game, self.parallel, PROTOCOLS["paper"], fire=self.fire)
        env.reset(seed=episode_seeds(self.parallel, TRAINING_SEEDS, self.seed))
        chance = np.random.default_rng(self.seed)
        play = (env.step(chance.integers(self.actions[self.game], size=self.parallel))[0] for _ in range(100))
        frames = np.stack([states[:, -1] for states in play]).reshape(-1, 84, 84)
        mean = frames.mean(0, dtype=np.float64)
        deviation = float(np.sqrt(frames.var(0, dtype=np.float64).mean()))
        return {self.game: (torch.from_numpy(mean).float(), deviation)}

    def train_dataloader(self) -> ParallelPlay:
        """Itself: one iteration is one epoch."""
        return self

    def test_dataloader(self) -> list[int]:
        """One empty batch: tests are played by `pd_lightning.callbacks.Rollouts`, but Lightning wants some data."""
        return [0]

    def __iter__(self) -> Iterator[Minibatch]:
        """Plays and yields, round after round."""
        assert self.trainer is not None
        rank = self.trainer.global_rank
        # Updates, not epochs: then a run that was resumed within an epoch does not play that epoch's games again.
        first = (self.trainer.fit_loop.total_batch_idx + 1) // (self.passes * self.minibatches)
        env = build(self.game, self.parallel, PROTOCOLS["paper"], fire=self.fire, training=True)
        states, _ = env.reset(seed=episode_seeds(self.parallel, TRAINING_SEEDS, self.seed, rank, first))
        order = np.random.default_rng([TRAINING_SEEDS, self.seed, rank, first])
        running = np.zeros(self.parallel)
        for r in range(first, first + self.rounds):
            played = r * self.parallel * self.steps * self.trainer.world_size
            states, learned = self._round(env, states, self.epsilon(played), order, running)
            for _ in range(self.passes):
                for rows in np.array_split(order.permutation(self.parallel * self.steps), self.minibatches):
                    index = torch.from_numpy(rows)
                    yield Minibatch(*(part.index_select(0, index) for part in learned))

    def epsilon(self, played: int) -> float:
        """Share of random actions after `played` decisions over all games and devices."""
        share = min(played / self.epsilon_steps, 1.0) if self.epsilon_steps else 1.0
        return self.epsilon_start + share * (self.epsilon_end - self.epsilon_start)

    def _round(
        self, env: AtariVectorEnv, states: np.ndarray, epsilon: float, order: np.random.Generator, running: np.ndarray
    ) -> tuple[np.ndarray, Minibatch]:
        """Plays `steps` decisions in every game; returns where the games stand and what is to be learned."""
        assert self.trainer is not None
        module = self.trainer.lightning_module
        policy: Policy = module.policy(self.game)  # pyright: ignore[reportCallIssue]
        seen = torch.empty((self.steps, self.parallel, 4, 84, 84), dtype=torch.uint8)
        actions = np.empty((self.steps, self.parallel), np.int64)
        rewards = np.empty((self.steps, self.parallel), np.float32)
        ends = np.empty((self.steps, self.parallel), bool)
        values = np.empty((self.steps + 1, self.parallel), np.float32)
        with one_thread(), torch.inference_mode():
            for t in range(self.steps):
                seen[t] = torch.from_numpy(states)
                q = policy(seen[t]).cpu().numpy()
                values[t] = q.max(1)
                dice = order.random(self.parallel) < epsilon
                actions[t] = np.where(dice, order.integers(q.shape[1], size=self.parallel), q.argmax(1))
                states, rewards[t], terminated, truncated, info = env.step(actions[t])
                ends[t] = terminated | truncated
                running += rewards[t]
                over = ends[t] & (info["episode_frame_number"] <= 31)  # a game, not a life: its clock starts again
                self.returns += running[over].tolist()
                running[over] = 0
            values[-1] = policy(torch.from_numpy(states)).max(1).values.cpu().numpy()
        targets = lambda_returns(rewards, ends, values, self.discount, self.trace)
        learned = Minibatch(seen.flatten(0, 1), torch.from_numpy(actions.ravel()), torch.from_numpy(targets.ravel()))
        return states, learned


class PQN(pl.LightningModule):
    """The teacher while it learns.

    Args:
        games: number of actions of the one game, taken from the data.
        size: widths of the network, one of `pd_lightning.networks.SIZES`.
        learning_rate: of RAdam at first; it falls linearly to zero at the end of the run.
    """

    def __init__(self, games: dict[str, int], size: str = "dqn", learning_rate: float = 2.5e-4) -> None:
        super().__init__()
        if len(games) != 1:
            raise ValueError(f"a teacher learns one game, not {', '.join(games) or 'none'}")
        self.save_hyperparameters()
        self.network = QNetwork(games, size, layer_norm=True)

    def setup(self, stage: str) -> None:
        """Centres the input on random play."""
        if stage == "fit":
            for game, (mean, deviation) in self.trainer.datamodule.statistics().items():  # pyright: ignore[reportAttributeAccessIssue]
                self.network.centre(game, mean, deviation)

    def on_train_start(self) -> None:
        """A resumed run may be longer than the one before, which left its own learning rate behind: perhaps 0."""
        schedule = self.lr_schedulers()
        if not isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):  # --optimizer brings its own, or none
            return
        for group, rate, share in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * share(schedule.last_epoch)

    def policy(self, game: str) -> Policy:
        """The network's Q-values as a policy, in the precision of training."""

        def act(states: Tensor) -> Tensor:
            with self.trainer.precision_plugin.forward_context():
                return self.network({game: states.to(self.device)})[game]

        return act

    def policies(self) -> dict[str, Policy]:
        """Who plays which game when scores are taken."""
        return {game: self.policy(game) for game in self.network.games}

    def training_step(self, batch: Minibatch, batch_idx: int) -> Tensor:
        """Half the squared distance to the targets, for the actions that were played."""
        (q,) = self.network(batch.states).values()
        chosen = q.gather(1, batch.actions[:, None])[:, 0]
        loss = F.mse_loss(chosen, batch.targets) / 2
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/q", chosen.mean())
        returns: list[float] = self.trainer.datamodule.returns  # pyright: ignore[reportAttributeAccessIssue]
        if returns:
            self.log("train/clipped_return", float(np.mean(returns)), prog_bar=True, batch_size=len(returns))
            returns.clear()
        return loss

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Nothing: see `ParallelPlay.test_dataloader`."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """RAdam, and a learning rate that falls linearly to zero."""
        optimizer = torch.optim.RAdam(self.parameters(), lr=self.hparams["learning_rate"])
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: max(0.0, 1 - update / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
