"""How fast play is recorded, beside the emulator alone and Stable-Baselines3's rollout loop.

    python -m benchmarks.recording

Ratios are what counts: they are of one run.
"""

from __future__ import annotations

from jsonargparse import auto_cli

from benchmarks import players
from benchmarks.turns import compare, show


def recording(
    game: str = "pong",
    root: str = "datasets",
    parallel: int = 32,
    steps: int = 54_000,
    repetitions: int = 2,
    cores: int = 2,
    output: str | None = None,
) -> None:
    """Compares recording with the emulator alone and with Stable-Baselines3's rollout loop.

    Args:
        game: the game; its teacher is ROOT/GAME/teacher.safetensors.
        root: folder of the datasets.
        parallel: games played side by side by all of them.
        steps: that are recorded, an hour by default; the emulator alone plays half as many, the loop an eighth.
        repetitions: of each, in turns.
        cores: that they may use.
        output: JSON file for all figures.
    """
    entries = {
        "emulator alone": (players.emulator, steps // 2),
        "recording": (players.recording, steps),
        "Stable-Baselines3, rollout": (players.baselines_rollout, steps // 8),
    }
    found = compare(entries, repetitions, cores, game, parallel, root)
    show(f"{game}, {parallel} games, {cores} cores", found, "emulator alone", output)


if __name__ == "__main__":
    auto_cli(recording, as_positional=False, prog="python -m benchmarks.recording")
