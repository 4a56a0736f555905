"""Emulators that are lent again and again: to build one takes as long as to play hundreds of steps."""

from __future__ import annotations

import atexit
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from ale_py.vector_env import AtariVectorEnv

from pd_lightning.atari import Protocol, build

IDLE_EMULATORS = 512
"""At most so many are kept for episodes to come, 2 MB each: ten games, 32 of each at once, are scored in turns."""
BEHIND = 10
"""Niceness of their threads. They are more than the cores: as equals they would take the network's core too, finish
early, and wait for it; play would be a sixth slower."""


class Emulators:
    """Lends emulators, and keeps those that come back: a reset with seeds leaves nothing of what was played before."""

    def __init__(self) -> None:
        self._idle: list[tuple[tuple, AtariVectorEnv]] = []  # what lay longest comes first

    def lend(self, game: str, parallel: int, protocol: Protocol, fire: bool) -> AtariVectorEnv:
        """`parallel` copies of a game, see `build`, in one thread. They must be reset, all of them, with seeds."""
        wanted = pool_key(game, parallel, protocol, fire)
        for place, (key, env) in enumerate(self._idle):
            if key == wanted:
                del self._idle[place]
                return env
        with ThreadPoolExecutor(1, initializer=stand_behind) as thread:  # what it starts is as nice as it is
            return thread.submit(build, game, parallel, protocol, fire=fire, threads=1).result()

    def take_back(self, env: AtariVectorEnv, game: str, protocol: Protocol, fire: bool) -> None:
        """Keeps emulators that nobody awaits an answer of; what lay longest is dropped, if they become too many."""
        self._idle.append((pool_key(game, env.num_envs, protocol, fire), env))
        self._keep(IDLE_EMULATORS)

    def clear(self) -> None:
        """Drops all of this process: an interpreter that ends with some in its hands complains of leaks."""
        self._keep(0)

    def _keep(self, most: int) -> None:
        """Drops what lay longest, of what this process has built, until there are at most so many."""
        mine = [each for each in self._idle if each[0][0] == os.getpid()]
        while sum(env.num_envs for _, env in mine) > most:
            self._idle.remove(mine.pop(0))


def stand_behind() -> None:
    """Lowers the priority of this thread alone, which only Linux can."""
    if sys.platform == "linux":
        os.nice(BEHIND)


def pool_key(game: str, parallel: int, protocol: Protocol, fire: bool) -> tuple:
    """What emulators have in common that can play for each other."""
    # A process that was forked has its parent's emulators without their threads: it builds its own.
    return os.getpid(), game, parallel, protocol.noop_max, protocol.frame_limit, protocol.sticky, fire


EMULATORS = Emulators()
atexit.register(EMULATORS.clear)
