"""The command line: `python -m pd_lightning.blocks verify|info`."""

import argparse
import json
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pd_lightning.blocks.contract import BLOCK, ShardError, fault
from pd_lightning.blocks.folders import find_shards, numbered
from pd_lightning.blocks.reading import Shard
from pd_lightning.commands import status_of


def _groups(path: Path) -> dict[Path, list[Path]]:
    """Shards by what they are reported as: a file, a game's folder, or every game in a folder of games."""
    if path.is_file() and path.suffix != ".h5":
        raise fault(path, "file", "no shard", "a shard (.h5), or a folder with some", "name another")
    if not path.is_dir():
        return {path: [path]}
    games = [] if numbered(path) else [game for game in sorted(path.glob("*/")) if numbered(game)]
    return {game: find_shards(game) for game in games or [path]}


def _summary(path: Path, paths: Iterable[Path]) -> dict[str, Any]:
    shards = [Shard(each) for each in paths]
    first = shards[0].header
    for shard in shards:
        for name in ("game", "action_meanings", "protocol", "teacher_sha256"):
            mine, other = getattr(first, name), getattr(shard.header, name)
            if mine != other:
                raise fault(shard.path, name, other, f"{mine}, as in {shards[0].path}", "keep them in two folders")
    returns = np.concatenate([shard.returns for shard in shards])
    states, size = sum(map(len, shards)), sum(shard.path.stat().st_size for shard in shards)
    counts = np.zeros(len(first.action_meanings), np.int64)
    for shard in shards:
        used = np.arange(BLOCK) < shard.lengths[:, None]
        counts += np.bincount(shard.actions[used], minlength=len(counts))
    return {
        "path": str(path),
        "game": first.game,
        "protocol": first.protocol,
        "teacher": first.teacher,
        "teacher_sha256": first.teacher_sha256,
        "player": ", ".join(sorted({shard.header.player for shard in shards})),
        "shards": len(shards),
        "blocks": sum(shard.n_blocks for shard in shards),
        "states": states,
        "episodes": len(returns),
        "return": float(returns.mean()),
        "return_std": float(returns.std(ddof=1)) if len(returns) > 1 else None,  # of the sample, as in `rollout`
        "bytes": size,
        "bytes_per_state": size / states,
        "actions": dict(zip(first.action_meanings, counts.tolist(), strict=True)),
    }


def shown(value: Any) -> str:
    """A value of a summary, for a person."""
    if value is None:
        return "-"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _print_summary(summary: dict[str, Any]) -> None:
    for name, value in summary.items():
        if name == "actions":
            for meaning, count in value.items():
                share = count / summary["states"]
                print(f"  {meaning:16} {count:9,} {share:6.1%} {'#' * round(40 * share)}")
        else:
            print(f"{name:16} {shown(value)}")
    print()


def _verify(paths: list[Path], games: dict[Path, str]) -> list[ShardError]:
    """Reads every block. Shards that lie in a folder of games must also be of the game that their folder is called."""
    from rich.console import Console  # only the command line needs it
    from rich.progress import track

    faults, states = [], 0
    for path in track(paths, "verify", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()):
        try:
            shard = Shard(path)
            shard.verify()
            if shard.header.game != (game := games.get(path, shard.header.game)):
                raise fault(path, "game", shard.header.game, f"{game}, as its folder is called", "move it to another")
            states += len(shard)
        except ShardError as error:
            faults.append(error)
    print(f"{len(paths) - len(faults)} of {len(paths)} shards whole, {states:,} states")
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; `--help` explains it. Returns the exit status: 1 if anything was at fault."""
    parser = argparse.ArgumentParser(prog="python -m pd_lightning.blocks", description="Look after recorded shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = "shards, folders of a game, or a folder of games such as datasets/"
    verify = commands.add_parser("verify", help="read every block; one line a faulty file, exit status 1 if any")
    info = commands.add_parser("info", help="states, episodes, returns, teacher, bytes a state, actions")
    info.add_argument("--json", action="store_true", help="a JSON list, one object a file or game")
    for command in (verify, info):
        command.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=about)
    options = parser.parse_args(arguments)
    shards: list[Path] = []
    games: dict[Path, str] = {}
    faults: list[ShardError] = []
    summaries: list[dict[str, Any]] = []
    for path in options.paths:
        try:
            for place, found in _groups(path).items():
                shards += found
                games |= dict.fromkeys(found, place.name) if place != path else {}
                if options.command == "info":
                    summaries.append(_summary(place, found))
        except ShardError as error:
            faults.append(error)
    if options.command == "verify":
        faults += _verify(shards, games)
    elif options.json:
        print(json.dumps(summaries, indent=2))
    else:
        for summary in summaries:
            _print_summary(summary)
    for each in faults:
        print(each, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it, as it ends other commands
    sys.exit(status_of(main))
