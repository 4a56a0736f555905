"""A run goes on as it began, or says what is different."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ResumeError(ValueError):
    """A checkpoint's place in the data makes no sense for the data as it is now."""


def refuse_changes(saved: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raises a ResumeError that names the first setting that is not as it was saved, and `what` to give again."""
    for key, value in now.items():
        if saved.get(key) != value:
            raise ResumeError(
                f"cannot resume: {key} was {saved.get(key)} in the checkpoint and is {value} now; "
                f"give {what} as they were, or start anew without --ckpt_path"
            )
