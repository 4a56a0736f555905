"""A process that has imported everything and starts recorders, each in a process of its own, in a millisecond.

It reads an order a line, as JSON, and answers with a line: `{"start": ROOT}` with the number of the new process,
`{"wait": PROCESS}` with how that ended. A recorder is the command for two hours of Pong: two shards. Nothing is played
twice: what the emulator showed is remembered, so a recorder spends as much of its time in writing as in playing.
"""

import functools
import itertools
import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.blocks import ShardError, ShardWriter, writing
from pd_lightning.recording import command, filling, record, shards

TRACED = {"__enter__", "_claim", "finish", "_release", "__exit__"}  # of ShardWriter


def remember_play() -> None:
    play, played = shards.moments, {}

    def moments(policy, game, seeds, *rules, **options):
        first = next(seeds)  # tells the shards apart
        if first in played:
            yield from played[first]
            return
        seen = []
        for moment in play(policy, game, itertools.chain([first], seeds), *rules, **options):
            seen.append(moment)
            yield moment
        played[first] = seen

    shards.moments = moments
    command.load_teacher = functools.cache(command.load_teacher)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before(line: int) -> None:
    """Before the n-th line of the code that opens or finishes shards."""
    lines = itertools.count()

    def trace(frame, event, _):
        if frame.f_code.co_filename != writing.__file__ or frame.f_code.co_name not in TRACED:
            return None
        if event == "line" and next(lines) == line:
            die()
        return trace

    sys.settrace(trace)


def die_writing(shard: int, share: float) -> None:
    """When this share of a shard's bytes is written."""
    make = ShardWriter._image

    def image(self: ShardWriter, arrays: dict) -> bytes:
        data = make(self, arrays)
        if self.header.shard == shard and self._lock is not None:
            os.write(self._lock, data[: int(share * len(data))])
            die()
        return data

    ShardWriter._image = image


def run(root: str, line: int | None = None, half: tuple[int, float] | None = None, limit: int | None = None) -> int:
    """The command without its parser; its output goes to a file in the root."""
    log = os.open(Path(root) / f"{os.getpid()}.log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if line is not None:
        die_before(line)
    if half is not None:
        die_writing(*half)
    if limit is not None:  # bytes that a file may have: as on a full disk, a part is written before the error
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        record("pong", 2.0, root, sys.argv[1], "short", parallel=2, check=0)
    except ShardError as error:
        print(f"error: {error}")
        return 1
    return 0


def start(root: str, **faults) -> int:
    if process := os.fork():
        return process
    status = 99
    try:
        status = run(root, **faults)
        sys.stdout.flush()
    finally:
        os._exit(status)


def main() -> None:
    torch.set_num_threads(1)  # its threads would be missing in the processes that are started from here
    PROTOCOLS["short"] = Protocol("short", epsilon=0.3, frame_limit=200)  # 50 steps an episode: blocks of 32 and 18
    command.STEPS_PER_HOUR = 60  # reached by two games at once: 100 steps
    filling.PATIENCE = 0.01
    remember_play()
    for line in sys.stdin:
        match json.loads(line):
            case {"play": root}:
                answer = record("pong", 2.0, root, sys.argv[1], "short", parallel=2, check=0)[0].n_blocks
            case {"start": root, **faults}:
                answer = start(root, **faults)
            case {"wait": process}:
                answer = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            case order:
                raise ValueError(order)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
