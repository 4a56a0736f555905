"""The one way to build a game: every setting of the emulator, justified.

Nothing else in the package constructs an emulator, so recording, scoring and teacher training see the same pixels. One
step, as a timeline of emulator frames (``f``: rendered and skipped, ``F``: rendered and looked at)::

    action     a0            a1            a2            a3
    frames     f  f  F  F    f  f  F  F    f  f  F  F    f  f  F  F      4 frames a step: the action is repeated
    max of 2      max(F, F)     max(F, F)     max(F, F)     max(F, F)    sprites that blink on odd frames stay visible
    shrink        84x84 grey    84x84 grey    84x84 grey    84x84 grey   uint8, area interpolation
    state      [0 0 0 x0] ... [0 0 x0 x1] ... [0 x0 x1 x2] ... [x0 x1 x2 x3]   the last 4, newest last, zeros at a start

``AtariVectorEnv`` gives the same bytes as gymnasium's ``AtariPreprocessing``, and plays many copies in C++ threads.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

FRAME_SKIP = 4
STACK = 4
FRAMES_PER_SECOND = 60
STEPS_PER_HOUR = 3600 * FRAMES_PER_SECOND // FRAME_SKIP  # 54,000 decisions

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for every emulator


@dataclass(frozen=True)
class Protocol:
    """The rules under which a game is played and scored; scores are comparable only within one protocol.

    Attributes:
        name: as on the command line.
        epsilon: share of steps at which a uniformly random action replaces the greedy one.
        noop_max: an episode starts after 0 to this many no-op frames, drawn uniformly.
        frame_limit: emulator frames after which an episode is cut.
        sticky: probability that the emulator repeats the previous action, per frame (Machado et al., 2018).
    """

    name: str
    epsilon: float = 0.05
    noop_max: int = 30
    frame_limit: int = 108_000
    sticky: float = 0.0


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Rusu et al. (2016), section 4: 5% random actions, up to 30 no-ops, at most 30 minutes of play.
        Protocol("paper"),
        # Mnih et al. (2015): the same, but 5 minutes.
        Protocol("nature", frame_limit=18_000),
        # Machado et al. (2018): sticky actions are the only randomness, no no-ops. The minimal action set is kept:
        # heads have the game's own width.
        Protocol("machado", epsilon=0.0, noop_max=0, sticky=0.25),
    )
}


def named_protocol(name: str) -> Protocol:
    """The protocol called `name`.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def check_game(game: str) -> str:
    """`game` if the emulator has its ROM.

    Raises:
        ValueError: it has not; the message suggests the nearest names.
    """
    known = roms.get_all_rom_ids()
    if game in known:
        return game
    near = difflib.get_close_matches(game.lower().replace(" ", "_").replace("-", "_"), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the emulator has {', '.join(known)}"
    raise ValueError(f"unknown game {game!r}: {hint}")


@functools.cache  # an emulator is built to ask it
def action_meanings(game: str) -> tuple[str, ...]:
    """Names of the actions of the game's minimal set, in the order of a head's outputs.

    >>> action_meanings("breakout")
    ('NOOP', 'FIRE', 'RIGHT', 'LEFT')
    """
    emulator = ale_py.ALEInterface()
    emulator.loadROM(str(roms.get_rom_path(check_game(game))))
    return tuple(action.name for action in emulator.getMinimalActionSet())


def build(
    game: str,
    parallel: int,
    protocol: Protocol,
    *,
    fire: bool = False,
    training: bool = False,
    picture: bool = False,
    threads: int = 0,
) -> AtariVectorEnv:
    """`parallel` copies of `game` in one vector environment.

    Args:
        game: in snake case, as the emulator names it (``ms_pacman``).
        parallel: number of copies.
        protocol: the rules of play; its `epsilon` is left to whoever acts.
        fire: press FIRE on the first frame of an episode (see `Lives` for FIRE after a lost life).
        training: what only a learning teacher may see: rewards clipped to -1, 0, 1 and a lost life reported as
            ``terminated`` while the game goes on.
        picture: see the screen as a person does, uint8 [n, 1, 210, 160, 3], instead of states: for films.
        threads: emulator threads; 0 is one for every core.
    """
    return AtariVectorEnv(
        check_game(game),
        parallel,
        batch_size=0,  # 0: every copy answers every step; anything else answers in an order that depends on timing
        num_threads=threads,
        thread_affinity_offset=-1,  # -1: threads are not pinned, other processes want the cores too
        max_num_frames_per_episode=protocol.frame_limit,
        repeat_action_probability=protocol.sticky,
        full_action_space=False,  # the minimal set, as in the paper: a head has only actions that do something
        continuous=False,
        continuous_action_threshold=0.5,  # without meaning for discrete actions
        autoreset_mode=AutoresetMode.SAME_STEP,  # every step is a decision; NEXT_STEP would insert one that is ignored
        img_height=210 if picture else 84,
        img_width=160 if picture else 84,
        grayscale=not picture,
        stack_num=1 if picture else STACK,
        frameskip=FRAME_SKIP,
        maxpool=True,
        noop_max=protocol.noop_max + 1,  # the emulator draws from 0 to this, exclusive
        episodic_life=False,  # True would restart the whole game after each life
        life_loss_info=training,
        reward_clipping=training,
        use_fire_reset=fire,
    )


def check_fire(game: str, option: str) -> int:
    """The number of FIRE among a game's actions.

    Args:
        game: the game.
        option: that asked for it, for the error.

    Raises:
        ValueError: the game has none.
    """
    if "FIRE" not in (meanings := action_meanings(game)):
        raise ValueError(f"{game} has no FIRE among its actions ({', '.join(meanings)}): choose {option} false")
    return meanings.index("FIRE")


class Lives:
    """FIRE after a lost life, for teachers that were trained with somebody pressing it for them.

    In Breakout the ball is only served by FIRE, at the start and after each life. Stable-Baselines3, CleanRL and
    envpool press it for the agent, so their agents may never have learned to.

    Args:
        game: the game.
        parallel: number of copies played.
    """

    def __init__(self, game: str, parallel: int) -> None:
        self._fire = check_fire(game, "fire")
        self._lives = np.zeros(parallel, np.int64)

    def begin(self, places: np.ndarray) -> None:
        """Games begin at these places, by number or as bool [n]: what was lost there before is over."""
        self._lives[places] = 0

    def press(self, actions: np.ndarray, lives: np.ndarray) -> np.ndarray:
        """`actions` int64 [n] with FIRE wherever the last step lost a life; `lives` int [n] as the emulator counts."""
        lost = lives < self._lives
        self._lives = lives.astype(np.int64)
        return np.where(lost, self._fire, actions)
