"""Trains a teacher: parallelised Q-learning (PQN; Gallici et al., 2024, arXiv 2407.04811).

Many games are played side by side with the network that is learning. After every few steps, returns with an
eligibility trace are computed from what was just played, the network is fitted to them, and the steps are forgotten: no
replay memory and no target network, layer normalisation keeps it stable. Playing and learning overlap: the network that
plays is one round behind the one that learns.

A Lightning batch is one update, and an epoch is a fixed number of steps, at whose beginning all games start anew from
seeds that follow from the number of rounds before it. So a checkpoint taken at the end of an epoch needs no state of
the emulator: resuming from it gives bit for bit the run that was not interrupted, if `max_epochs` says how long it is.

From any other checkpoint (within an epoch; or Lightning's bookkeeping under `max_steps`) a run goes on soundly but not
identically: with the weights, share of random actions and learning rate of that update, in games that start anew.
"""

from pd_lightning.pqn.games import lambda_returns
from pd_lightning.pqn.learning import PQN
from pd_lightning.pqn.play import ParallelPlay

__all__ = ["PQN", "ParallelPlay", "lambda_returns"]
