"""The command line of exports."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pd_lightning.commands import called, status_of
from pd_lightning.export.checking import export
from pd_lightning.export.formats import ExportError, check_suffix
from pd_lightning.teacher import load_teacher


def export_player(
    player: str, output: str | None = None, game: str | None = None, episodes: int = 2, protocol: str = "paper"
) -> None:
    """Writes a student, or any teacher, as a file for other programs, and checks that it plays the same.

    Args:
        player: a checkpoint, a run's folder, or any file that holds a teacher.
        output: the file; .onnx for ONNX Runtime (needs `pip install -e '.[onnx]'`), .pt2 for torch.export (default:
            beside the player, .onnx; in a run's folder student.onnx).
        game: which, of a student of several games: a file plays one.
        episodes: that are played to compare.
        protocol: rules of play: paper, nature or machado.
    """
    if episodes < 1:
        raise ExportError(f"--episodes is {episodes}: choose at least 1")
    if output is None and "://" in player:
        raise ExportError(f"{player} lies elsewhere: choose an --output here")
    own = Path(player) / "student.onnx" if Path(player).is_dir() else Path(player).with_suffix(".onnx")
    path = Path(output).expanduser() if output else own
    check_suffix(path)
    agent = load_teacher(player, game)
    with Console(stderr=True).status(f"{escape(str(path))}: written, and played with"):
        both, returns = export(agent, path, episodes, protocol)
    actions = f"another action in {both.other_actions:,}" if both.other_actions else "the same action in each"
    print(
        f"{path}: {agent.game}, {path.stat().st_size / 1e6:.2f} MB\n"
        f"compared in {both.states:,} states of {episodes} episodes (protocol {protocol}, return {returns.mean:.1f}): "
        f"{actions}, outputs differ by at most {both.difference:.1g} (the largest is {both.largest:.3g})"
    )


def main() -> int:
    """The command line."""
    return status_of(lambda: called("export", export_player))


if __name__ == "__main__":
    sys.exit(main())
