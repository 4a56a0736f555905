"""Settings that are too small are refused, by the option that they were given by."""

from __future__ import annotations


def check_at_least(least: float, prefix: str, **settings: float) -> None:
    """Raises a ValueError that names the first setting below a bound.

    Args:
        least: that is allowed.
        prefix: of the options on the command line.
        settings: by name.

    >>> check_at_least(1, "--film.", steps=0)
    Traceback (most recent call last):
    ValueError: steps is 0: choose --film.steps of at least 1
    """
    for name, value in settings.items():
        if not value >= least:
            raise ValueError(f"{name} is {value}: choose {prefix}{name} of at least {least}")
