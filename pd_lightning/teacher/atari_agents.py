"""Atari Agents (Gogianu et al., 2022): DQN, M-DQN and C51 of 60 games, three seeds each, in packed state dicts.

Their agents press FIRE themselves, and learned from the states that the emulator here shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_lightning.teacher.borrowed import BorrowedNetwork, Expectation, Layout, dqn_or_c51

_FEATURES, _HEAD = "_AtariNet__features", "_AtariNet__head"
_LAYOUT = Layout(
    "Atari Agents", [*(f"{_FEATURES}.{n}" for n in (0, 2, 4)), f"{_HEAD}.0"], f"{_HEAD}.2", "_AtariNet__support"
)


def is_model(content: Mapping[Any, Any]) -> bool:
    """Whether this is a checkpoint of theirs."""
    return "estimator_state" in content


def environment_of(file: Path) -> str:
    """The environment that a file's folders name: it lies in `DQN_modern/MsPacman/0/model_50000000.gz`."""
    return f"{file.absolute().parent.parent.name}-v0"


def build_model(content: Mapping[Any, Any], game: str, actions: int, where: Path) -> tuple[BorrowedNetwork, str]:
    """The network, and its kind.

    Args:
        content: a dictionary with the state dict as `estimator_state`.
        game: the game.
        actions: how many it has.
        where: the file, for errors.

    Raises:
        TeacherError: it is another network, or of another action set.
    """
    network = dqn_or_c51(content["estimator_state"], _LAYOUT, game, actions, where)
    return network, "C51" if isinstance(network.readout, Expectation) else "DQN"
