"""How fast a teacher learns from play, beside Stable-Baselines3's DQN.

    python -m benchmarks.teacher

The ratio is what counts: it is of one run.
"""

from __future__ import annotations

from jsonargparse import auto_cli

from benchmarks import players
from benchmarks.turns import compare, show


def teacher(
    game: str = "pong", steps: int = 16_384, repetitions: int = 3, cores: int = 2, output: str | None = None
) -> None:
    """Compares PQN (preset teacher) with Stable-Baselines3's DQN at RL Zoo's settings for Atari, while both learn.

    Args:
        game: the game.
        steps: that are timed of PQN; of DQN an eighth.
        repetitions: of each, in turns.
        cores: that they may use.
        output: JSON file for all figures.
    """
    dqn = "Stable-Baselines3, DQN"
    entries = {"PQN": (players.pqn_training, steps), dqn: (players.baselines_training, steps // 8)}
    show(f"{game}, {cores} cores", compare(entries, repetitions, cores, game, 1, ""), dqn, output)


if __name__ == "__main__":
    auto_cli(teacher, as_positional=False, prog="python -m benchmarks.teacher")
