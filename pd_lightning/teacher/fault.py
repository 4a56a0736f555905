"""The one error of this package, and how whatever a broken file provokes becomes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TeacherError(ValueError):
    """A teacher cannot be used; the message names the file, what is wrong with it, and what to do."""


@contextmanager
def naming(where: object, what: str, step: str) -> Iterator[None]:
    """Turns any exception into a `TeacherError` of one line: parsers raise a dozen kinds for files that are broken.

    Args:
        where: the file.
        what: what it should have been, but is not.
        step: what to do.
    """
    try:
        yield
    except TeacherError:
        raise
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:160]
        raise TeacherError(f"{where}: {what} ({reason}); {step}") from None
