"""How command lines end: errors that whoever typed can mend are one line, and an exit status tells programs."""

from __future__ import annotations

import sys
from collections.abc import Callable

MENDABLE = (ValueError, OSError)
"""What is raised of bad input, and of files and networks; anything else is a fault of ours, and keeps its traceback."""
STOPPED = 130
"""Exit status after Ctrl-C, as shells have it."""


def status_of(action: Callable[[], object], stopped: str = "stopped") -> int:
    """Does what a command is for.

    Args:
        action: what to do; a number that it returns is the exit status.
        stopped: what to say after Ctrl-C.

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C.
    """
    try:
        status = action()
    except MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return STOPPED
    return status if isinstance(status, int) else 0
