"""Blocks: how recorded play lies on disk (format version 1), and the only code that writes or reads it.

A shard is one HDF5 file, `datasets/<game>/NNNN.h5`: about an hour of play in whole episodes. It consists of blocks, each
up to 32 consecutive steps of one episode after the 3 frames before them, so that every stacked state is a slice::

    frames  f0 f1 f2 | f3 f4 f5 ...        the state of step j is frames[j : j + 4], newest last
    steps              0  1  2  ...        at an episode's start f0 f1 f2 are zeros, as in the emulator's own stack

HDF5 is the container, so that any tool reads the file; this module reads it faster and more strictly. The zstd filter of
HDF5 returns wrong frames for a flipped bit without a word, hence the checksums and the digest; and libhdf5 holds one lock
over the whole process, hence frames are read around it, by `pread`. The contract as a table: `datasets/README.md`.

    python -m pd_lightning.blocks verify datasets/pong
    python -m pd_lightning.blocks info datasets/pong --json
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import struct
import sys
import threading
import typing
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np
import zstandard

FORMAT = "pd_lightning.blocks"
VERSION = 1
BLOCK = 32
"""L: the most steps in a block. 16 would mix better, 64 pack better."""
STACK = 4
"""Frames that an agent sees at once."""
SIZE = 84
"""Height and width of a frame."""
CHUNK = (BLOCK + STACK - 1, SIZE, SIZE)
"""Shape of a block's frames, uint8: 3 frames before the first step, then one a step; zeros beyond `lengths`."""

# Bytes a state and states encoded a second on one 2.x GHz core (ale_py 0.12, blocks of 32; a tracker on Pong, random
# play on the others):       Pong          Breakout      Riverraid     Seaquest
#                level 3     44  507,000   40  476,000   147 279,000   112 308,000
#                level 9     39   87,000   36  115,000   136  45,000   102  54,000
#                level 11    38   31,000   36   32,000   136  21,000   100  21,000
#                level 15    33   18,000   33   12,000   124   3,300    88   6,000
# 9 is the knee: no level up to 13 saves another 3%, and 15 would halve the speed of a recording (some 7,000 states/s).
LEVEL = 9

_ZSTD = 32015  # registered number of HDF5's zstd filter
_PLAIN_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_MATTER = "record it again: python -m pd_lightning.recording --game"

# The small datasets, kept in memory. N blocks, L = 32, A actions, E episodes; -1 is a size learned from the file.
_SMALL: dict[str, tuple[str, str]] = {
    "lengths": ("|u1", "N"),
    "q_values": ("<f4", "NLA"),
    "actions": ("|u1", "NL"),
    "rewards": ("<f4", "NL"),
    "episodes": ("<i4", "N"),
    "checksums": ("<u4", "N"),
    "returns": ("<f8", "E"),
}


class ShardError(ValueError):
    """A shard or a folder of shards is not as the contract says. One line: file, field, value, what was allowed, what next."""


def _fault(path: str | os.PathLike[str], field: str, value: object, allowed: str, step: str = "") -> ShardError:
    step = step or f"delete the file and {_MATTER} {Path(path).absolute().parent.name}"
    text = f"{os.fspath(path)}: {field} is {str(value)[:200]}, allowed is {allowed}; {step}"
    return ShardError(" ".join(text.split()))


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a recording before it starts: the plain attributes of the file.

    Attributes:
        game: name of the game, as its folder is called: "pong".
        action_meanings: A names, in the order of the Q-values; JSON in the file.
        protocol: name of the rules: "paper".
        frame_skip: emulator frames a step; the action is repeated.
        max_pool: whether a frame is the maximum of the last two emulator frames.
        stack: frames that the agent sees at once; always 4 in version 1.
        stack_padding: what is before an episode's first frame; always "zero" in version 1.
        noop_max: an episode starts after 0 to this many no-op frames.
        fire: whether FIRE was pressed at the start and after each lost life.
        sticky: probability that the emulator repeats the previous action.
        epsilon: share of random actions.
        frame_limit: emulator frames after which an episode is cut.
        seed: what the randomness of this shard follows from.
        shard: number of this shard.
        parallel_games: games that were played side by side.
        steps_goal: steps after which no new episode starts; 54,000 are an hour.
        versions: package to version (pd_lightning, ale_py, ...); JSON in the file.
        teacher: name of the agent that played and whose Q-values these are.
        teacher_sha256: sha256 of its weights, 64 hexadecimal digits.
    """

    game: str
    action_meanings: tuple[str, ...]
    protocol: str
    frame_skip: int
    max_pool: bool
    stack: int = STACK
    stack_padding: str = "zero"
    noop_max: int
    fire: bool
    sticky: float
    epsilon: float
    frame_limit: int
    seed: int
    shard: int
    parallel_games: int
    steps_goal: int
    versions: dict[str, str]
    teacher: str
    teacher_sha256: str


_KINDS: dict[str, Any] = {field.name: typing.get_origin(field.type) or field.type for field in fields(Header)}
# How a value of each kind comes back from h5py; tuple and dict are JSON.
_STORED = {str: str, int: np.int64, float: np.float64, bool: np.bool_, tuple: str, dict: str}
_TEXT = {"kind": lambda v: v.isprintable() and v != "", "allowed": "printable text"}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


_ALLOWED: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("printable text", _is_text),
    int: ("a whole number from 0 on", _is_int),
    float: ("a probability from 0 to 1", lambda v: (_is_int(v) or isinstance(v, float)) and 0 <= v <= 1),
    bool: ("True or False", lambda v: isinstance(v, bool)),
    tuple: ("1 to 256 texts", lambda v: isinstance(v, tuple) and 0 < len(v) <= 256 and all(map(_is_text, v))),
    dict: (
        "texts by name",
        lambda v: isinstance(v, dict) and all(map(_is_text, v)) and all(map(_is_text, v.values())),
    ),
}
