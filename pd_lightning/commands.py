"""How command lines end: errors that whoever typed can mend are one line, and an exit status tells programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from pd_lightning.messages import fail, one_line

MENDABLE = (ValueError, OSError)
"""What is raised of bad input, and of files and networks; anything else is a fault of ours, and keeps its traceback."""
STOPPED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Options(ArgumentParser):
    """Says in one line what is wrong with them."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One line; exit status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        fail(f"{one_line(message)}; options: {self.prog.replace(' [options]', '')} --help")


def called(module: str, what: Any, **how: Any) -> Any:
    """What a function, or one of several by name, returns for what was typed behind `python -m pd_lightning.MODULE`."""
    return auto_cli(what, prog=f"python -m pd_lightning.{module}", parser_class=Options, **how)


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
