"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PRESETS = Path(__file__).parent / "presets"
"""Configurations that ship."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the name of `path` at the end; it is gone if anything fails before.

    Args:
        path: the file as it is to be called; its folder must be there.

    Yields:
        A file beside it, of the same suffix (by which some libraries know the format).
    """
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if str(error.filename) != str(part):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None  # the name that the user knows
    finally:
        with suppress(OSError):  # where it could not even be looked for, that was said
            part.unlink()


def local_folder(option: str, given: str | os.PathLike[str]) -> Path:
    """A folder to write to, ~ expanded.

    Raises:
        ValueError: it is a URL, which would become a folder called `s3:`.
    """
    if re.match(r"[\w.+:-]+://", os.fspath(given)):
        raise ValueError(f"{option} is {given}: give a local folder, and upload what lies in it then")
    return Path(given).expanduser()


def write_text(path: Path, text: str) -> Path:
    """Writes a text, whole or not at all; returns the file."""
    with atomic(path) as part:
        part.write_text(text)
    return path


def sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
