"""The command line of recording."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

from pd_lightning.commands import called, status_of
from pd_lightning.machine import keep_freed_memory
from pd_lightning.recording.command import record, summary


def show() -> None:
    """Records, and says what there is then."""
    shards: Any = called("recording", record, as_positional=False)
    Console().print(summary(shards))


def main() -> int:
    """The command line."""
    keep_freed_memory()
    return status_of(show, "stopped; the same command goes on: hours that were begun begin anew")


if __name__ == "__main__":
    sys.exit(main())
