"""The command line of recording."""

from __future__ import annotations

import sys

from jsonargparse import auto_cli
from rich.console import Console

from pd_lightning.blocks import ShardError
from pd_lightning.cluster import ClusterError
from pd_lightning.machine import keep_freed_memory
from pd_lightning.recording.command import record, summary
from pd_lightning.teacher import TeacherError


def main() -> int:
    """The command line."""
    keep_freed_memory()
    try:
        shards = auto_cli(record, as_positional=False, prog="python -m pd_lightning.recording")
    except (ClusterError, ShardError, TeacherError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    Console().print(summary(shards))
    return 0


if __name__ == "__main__":
    sys.exit(main())
