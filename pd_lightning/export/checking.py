"""A file is kept if it says what the player says, in every state of some episodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pd_lightning.episodes import Policy
from pd_lightning.export.formats import ExportError, check_suffix, open_exported, write
from pd_lightning.files import atomic
from pd_lightning.networks import QNetwork
from pd_lightning.rollout import Returns, play
from pd_lightning.teacher import Teacher
from pd_lightning.teacher.borrowed import BorrowedNetwork

TOLERANCE = 1e-4
"""By so much of the largest output may a file's outputs differ: float32 that is summed in another order."""


@dataclass
class Comparison:
    """A player that asks an exported file the same, and keeps what they differ by.

    Attributes:
        player: who plays.
        exported: who is asked too.
        states: how many both have seen.
        difference: the largest between two outputs.
        largest: of all outputs, without their signs.
        other_actions: states in which their greedy actions differ.
    """

    player: Policy
    exported: Policy
    states: int = 0
    difference: float = 0.0
    largest: float = 0.0
    other_actions: int = 0

    def __call__(self, states: Tensor) -> Tensor:
        """What the player says."""
        outputs, others = self.player(states), self.exported(states)
        self.states += len(states)
        # numpy's maximum of anything and nan is nan, Python's is not.
        self.difference = float(np.maximum(self.difference, (outputs - others).abs().max().item()))
        self.largest = float(np.maximum(self.largest, outputs.abs().max().item()))
        self.other_actions += int((outputs.argmax(1) != others.argmax(1)).sum())
        return outputs


def export(player: Teacher, path: str | Path, episodes: int = 2, protocol: str = "paper") -> tuple[Comparison, Returns]:
    """Writes a player as a file for other programs, if the file says the same in every state of some episodes.

    Args:
        player: as `load_teacher` gives it, on the CPU.
        path: the file; its suffix says the format.
        episodes: that the player plays, while the file is asked too.
        protocol: rules of play.

    Returns:
        What was compared, and the episodes.

    Raises:
        ExportError: another suffix, a network of one's own, something is not installed, or the file says something
            else.
    """
    path = Path(path)
    check_suffix(path)
    if not isinstance(player.network, QNetwork | BorrowedNetwork):
        raise ExportError(
            f"{path}: {player.name} is of no network that is known layer by layer; export your own by torch.export"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        write(player, part)
        both = Comparison(player, open_exported(part))
        returns = play(both, player.game, episodes, protocol=protocol, parallel=episodes, fire=player.fire)
        if not both.difference <= TOLERANCE * both.largest:
            raise ExportError(
                f"{path}: outputs differ by up to {both.difference:.2g} from the player's, whose largest is "
                f"{both.largest:.2g}, and by {TOLERANCE:g} of it at most are allowed; nothing was kept"
            )
    return both, returns
