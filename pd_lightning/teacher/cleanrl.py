"""CleanRL's `dqn_atari` and `c51_atari`: the files that they save with `--save-model`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_lightning.teacher.borrowed import BorrowedNetwork, Expectation, Layout, dqn_or_c51

_LAYOUT = Layout("CleanRL", [f"network.{number}" for number in (0, 2, 4, 7)], "network.9", "atoms")


def is_flax(head: bytes) -> bool:
    """Whether a file begins as one of flax does: a msgpack map whose first key is text.

    >>> is_flax(bytes([0x81, 0xA6]) + b"params"), is_flax(bytes([0x80, 2]))
    (True, False)
    """
    if head[:1] in (b"\xde", b"\xdf"):
        head = head[2 if head[:1] == b"\xde" else 4 :]
    elif not (head[:1] and 0x81 <= head[0] <= 0x8F):
        return False
    return len(head) > 1 and (0xA0 <= head[1] <= 0xBF or head[1] == 0xD9)


def is_model(content: Mapping[Any, Any]) -> bool:
    """Whether this is what a script of CleanRL saves."""
    return "model_weights" in content or "network.0.weight" in content


def environment_of(content: Mapping[Any, Any]) -> str | None:
    """The environment that a c51 file names."""
    arguments = content.get("args")
    name = arguments.get("env_id") if isinstance(arguments, Mapping) else None
    return name if isinstance(name, str) else None


def build_model(content: Mapping[Any, Any], game: str, actions: int, where: Path) -> tuple[BorrowedNetwork, str]:
    """The network, and the script it comes from.

    Args:
        content: a state dict (dqn_atari), or a dictionary of `model_weights` and `args` (c51_atari).
        game: the game.
        actions: how many it has.
        where: the file, for errors.

    Raises:
        TeacherError: it is another network, or of another action set.
    """
    network = dqn_or_c51(content.get("model_weights", content), _LAYOUT, game, actions, where)
    return network, "c51_atari" if isinstance(network.readout, Expectation) else "dqn_atari"
