"""The command line of recording."""

from __future__ import annotations

import sys
from typing import Any

from jsonargparse import auto_cli
from rich.console import Console

from pd_lightning.commands import status_of
from pd_lightning.machine import keep_freed_memory
from pd_lightning.recording.command import record, summary


def show() -> None:
    """Records, and says what there is then."""
    shards: Any = auto_cli(record, as_positional=False, prog="python -m pd_lightning.recording")
    Console().print(summary(shards))


def main() -> int:
    """The command line."""
    keep_freed_memory()
    return status_of(show, "stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
