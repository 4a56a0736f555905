"""What a shard must say: its constants, its header, and the checks that writer and reader share."""

import hashlib
import json
import re
import shlex
import struct
import typing
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "pd_lightning.blocks"
VERSION = 1
BLOCK = 32
"""L: the most steps in a block. 16 would mix better, 64 pack better."""
STACK = 4
"""Frames that the agent sees at once."""
CHUNK = (BLOCK + STACK - 1, 84, 84)
"""Shape of a block's frames, uint8: 3 before the first step, then one a step; zeros beyond `lengths`."""

BLOCKS_LIMIT = 2**17
"""Blocks of a shard, 77 hours: what lies in a file of some kilobytes must not become gigabytes when it is opened."""
MOST_ACTIONS = 18
"""The emulator has no more."""

SMALL = {  # the datasets that are read on opening: N blocks, L = 32, A actions, E episodes
    "lengths": ("|u1", "N"),
    "q_values": ("<f4", "NLA"),
    "actions": ("|u1", "NL"),
    "rewards": ("<f4", "NL"),
    "episodes": ("<i4", "N"),
    "checksums": ("<u4", "N"),
    "returns": ("<f8", "E"),
}


class ShardError(ValueError):
    """A shard is not what the contract says. One line: the file, the field, its value, what is allowed, what next."""


class ShardTaken(ShardError):
    """A shard is not ours to write: somebody else is at work on it, or has finished it."""


def fault(
    place: object, field: str, value: object, allowed: object, step: str = "", error: type[ShardError] = ShardError
) -> ShardError:
    """The error that a field is not as it should be. `step`: what to do next, if not to restore or to record again."""
    if not step and fetched_tag(Path(str(place))).exists():
        step = "delete it and give the same command again, which fetches it anew"
    elif not step:
        command = record_command(Path(str(place)).absolute().parent)
        step = f"restore a good copy, or delete it and run {command}, with the options that it was recorded with"
    return error(" ".join(f"{place}: {field} is {str(value)[:300]}, allowed is {allowed}; {step}".split()))


def fetched_tag(shard: Path) -> Path:
    """What lies beside a shard that was fetched from a server: how it was called there."""
    return shard.with_name(f".{shard.name}.tag")


def record_command(folder: Path) -> str:
    """The command that records into a game's folder."""
    other = folder.parent.absolute() != Path("datasets").absolute()
    root = f" --root {shlex.quote(str(folder.parent))}" if other else ""
    return f"`python -m pd_lightning.recording --game {folder.name}{root}`"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a recording before it starts: plain attributes of the file.

    Attributes:
        game: name of the game, as its folder is called.
        action_meanings: A names in the order of the Q-values (JSON in the file).
        protocol: name of the rules of play.
        frame_skip: emulator frames a step.
        max_pool: whether a frame is the maximum of the last two emulator frames.
        stack: frames that the agent sees at once, always 4.
        stack_padding: what stands before an episode's first frame, always "zero".
        noop_max: an episode starts after 0 to this many no-op frames.
        fire: whether FIRE was pressed at the start and after each lost life.
        sticky: probability that the emulator repeats the previous action.
        epsilon: share of random actions.
        frame_limit: emulator frames after which an episode is cut.
        seed: of the recording: from it and from `shard` follow the seeds of the episodes.
        shard: its number.
        parallel_games: games that were played at once.
        steps_goal: steps that are to be recorded; 54,000 are an hour. No episode begins once those that are being
            played seem enough for them; all that have begun are finished.
        versions: package to version: pd_lightning, ale_py and so on (JSON in the file).
        teacher: name of the agent whose play and Q-values these are.
        teacher_sha256: sha256 of its weights, 64 hexadecimal digits.
        outputs: what `q_values` are: "q", or "logits" of the teacher's policy. In the file only if it is not "q": then
            files of Q-values are what they were before there was a choice.
        player: who acted: "teacher"; or "both", live play, in which teacher, student or a mixture of them acted, and
            whose last episodes were left out: its returns are nobody's score. In the file only if it is not "teacher".
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
    outputs: str = "q"
    player: str = "teacher"


FIELD_TYPES: dict[str, Any] = {field.name: typing.get_origin(field.type) or field.type for field in fields(Header)}
OPTIONAL: dict[str, Any] = {"outputs": "q", "player": "teacher"}
"""Attributes that a file need not have, and what that means."""
# Their types in the file (tuple and dict are JSON). Text has a fixed length: HDF5 keeps text of variable length without
# a checksum, and a single flipped bit there made libhdf5 loop for ever.
STORED = {str: "text", int: "<i8", float: "<f8", bool: "|b1", tuple: "text", dict: "text"}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


_ALLOWED: dict[Any, tuple[str, Callable[[Any], bool]]] = {  # by the attribute's name, else by its type
    "stack": (str(STACK), lambda v: _is_count(v) and v == STACK),
    "stack_padding": ("zero", lambda v: v == "zero"),
    "outputs": ("q or logits", lambda v: v in ("q", "logits")),
    "player": ("teacher or both", lambda v: v in ("teacher", "both")),
    "teacher_sha256": ("64 hexadecimal digits", lambda v: _is_text(v) and bool(re.fullmatch("[0-9a-f]{64}", v))),
    str: ("printable text", _is_text),
    int: ("a whole number from 0 on", _is_count),
    float: ("a number from 0 to 1", lambda v: (isinstance(v, float) or _is_count(v)) and 0 <= v <= 1),
    bool: ("True or False", lambda v: isinstance(v, bool)),
    tuple: (
        f"a tuple of 1 to {MOST_ACTIONS} texts",
        lambda v: isinstance(v, tuple) and 1 <= len(v) <= MOST_ACTIONS and all(map(_is_text, v)),
    ),
    dict: ("texts by name", lambda v: isinstance(v, dict) and all(map(_is_text, (*v, *v.values())))),
}


def check_header(path: Path, header: Header, step: str = "") -> None:
    """What must hold of the attributes."""
    for name, kind in FIELD_TYPES.items():
        value = getattr(header, name)
        allowed, holds = _ALLOWED.get(name, _ALLOWED[kind])
        if not holds(value):
            raise fault(path, name, repr(value), allowed, step)


def check_arrays(path: Path, arrays: dict[str, np.ndarray], actions: int, step: str = "") -> None:
    """What must hold of the values in the small datasets."""
    lengths, episodes, episode_count = arrays["lengths"], arrays["episodes"], len(arrays["returns"])
    if not (lengths.min() >= 1 and lengths.max() <= BLOCK):
        raise fault(path, "lengths", f"{lengths.min()} to {lengths.max()}", f"1 to {BLOCK}", step)
    beyond = np.arange(BLOCK) >= lengths[:, None]  # [N, L]
    for name in ("q_values", "actions", "rewards", "returns"):
        if not np.isfinite(arrays[name]).all():
            raise fault(path, name, "infinite or not a number", "finite numbers", step)
        if name != "returns" and arrays[name][beyond].any():
            raise fault(path, name, "not zero beyond lengths", "zero there", step)
    if arrays["actions"].max() >= actions:
        raise fault(path, "actions", f"up to {arrays['actions'].max()}", f"0 to {actions - 1}", step)
    if not np.array_equal(np.unique(episodes), np.arange(episode_count)):
        value = f"{episodes.min()} to {episodes.max()}, {len(np.unique(episodes))} different"
        raise fault(path, "episodes", value, f"all of 0 to {episode_count - 1}, as many as returns", step)


def stored_attributes(header: Header) -> dict[str, Any]:
    """All attributes but the digest, which covers them."""
    stored: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    for name, kind in FIELD_TYPES.items():
        value = getattr(header, name)
        if name not in OPTIONAL or value != OPTIONAL[name]:
            stored[name] = json.dumps(value, sort_keys=True) if kind in (tuple, dict) else kind(value)
    return stored


def header_from(path: Path, attributes: dict[str, Any]) -> Header:
    """The header that `stored_attributes` made these of, checked."""
    values = {name: attributes[name] if name in attributes else OPTIONAL[name] for name in FIELD_TYPES}
    for name, kind in FIELD_TYPES.items():
        if kind in (tuple, dict):
            value = json.loads(values[name])
            values[name] = tuple(value) if isinstance(value, list) else value
    header = Header(**values)
    check_header(path, header)
    return header


def digest(attributes: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Sha256 over everything but the frames, for which their checksums stand."""
    sha = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode())
    for name in sorted(SMALL):
        sha.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        sha.update(np.ascontiguousarray(arrays[name]).data)
    return sha.hexdigest()


def checksum(index: int, stored: bytes) -> int:
    """Of a block's packed frames."""
    return zlib.crc32(stored, zlib.crc32(struct.pack("<Q", index)))  # with the index: swapped blocks are noticed
