"""A teacher shows what it can do, before an hour of its play is recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from pd_lightning.atari import action_meanings, named_protocol
from pd_lightning.episodes import TRYOUT_SEEDS, Policy, episode_seeds
from pd_lightning.rollout import Returns, play
from pd_lightning.scores import SCORES
from pd_lightning.teacher import Teacher

FRAMES = 18_000
"""Emulator frames after which an episode is cut here: five minutes of play, which tell enough."""
LIKE_RANDOM = 0.1
"""A score below random play's plus this share of the gap to a human's or DQN's, whichever is less, counts as random.
Random play itself, in four episodes, stayed below it in all of 20 tries in each of the paper's ten games."""

REFERENCES = ("random play", "human (Wang et al.)", "DQN (Nature)", "DQN from human starts (Nair et al.)")
"""Whose the published scores are, in the order of `Scores`."""


def try_out(
    policy: Policy, game: str, protocol: str, fire: bool, episodes: int, on_episode: Callable[[], None]
) -> Returns:
    """Plays a few episodes by the rules of a recording, with seeds of their own, each for at most `FRAMES`.

    Args:
        policy: who plays.
        game: what.
        protocol: one of `pd_lightning.atari.PROTOCOLS`.
        fire: press FIRE for it at a start and after a lost life.
        episodes: how many, all of them at once.
        on_episode: called when one ends.
    """
    rules = named_protocol(protocol)
    rules = replace(rules, frame_limit=min(rules.frame_limit, FRAMES))
    return play(
        policy, game, episodes, int(episode_seeds(1, TRYOUT_SEEDS)[0]), protocol=rules, parallel=episodes, fire=fire,
        on_episode=lambda value: on_episode(),
    )  # fmt: skip


def outputs_in_play(teacher: Teacher, protocol: str, fire: bool) -> np.ndarray:
    """What a teacher says in all states of four such episodes, float32 [S, A].

    What it says in the first minute alone differs by more than half: of Pong's shipped recording the first 160 steps of
    each episode ask for a temperature of 0.0088, all of it for 0.0039, where their perplexity is to be 2.
    """
    said: list[np.ndarray] = []

    def watched(states: Tensor) -> Tensor:
        outputs = teacher(states)
        said.append(outputs.cpu().numpy())
        return outputs

    try_out(watched, teacher.game, protocol, fire, 4, lambda: None)
    return np.concatenate(said)


def plays_like_random(game: str, score: float) -> bool:
    """Whether a mean return is no better than random play's; never of a game without published scores.

    >>> plays_like_random("pong", -20.4), plays_like_random("pong", 3.0), plays_like_random("adventure", -24.0)
    (True, False, False)
    """
    if game not in SCORES:
        return False
    reference = SCORES[game]
    others = [other for other in (reference.human, reference.dqn) if other > reference.random]  # nan: not known
    return score < reference.random + LIKE_RANDOM * (min(others) - reference.random)


def references(game: str) -> str:
    """What others score in a game, in words.

    >>> references("pong")
    'random play -20.7, human (Wang et al.) 14.6, DQN (Nature) 18.9, DQN from human starts (Nair et al.) 16.2'
    """
    if game not in SCORES:
        return "no published scores of this game here"
    known = zip(REFERENCES, SCORES[game], strict=True)
    return ", ".join(f"{who} {score:g}" for who, score in known if not math.isnan(score))


def comparison(returns: Returns) -> Table:
    """The teacher's score beside what others have scored."""
    scores = SCORES.get(returns.game)
    cut = f", at most {FRAMES:,} frames each" if (returns.steps >= FRAMES // 4).any() else ""
    table = Table(title=f"the teacher in {len(returns.values)} episodes, protocol {returns.protocol}{cut}")
    for name in ("game", "teacher (lowest to highest)", *REFERENCES):
        table.add_column(name, justify="left" if name == "game" else "right")
    others = ["-" if math.isnan(score) else f"{score:g}" for score in scores or [math.nan] * len(REFERENCES)]
    low, high = returns.values.min(), returns.values.max()
    table.add_row(returns.game, f"{returns.mean:.1f} ({low:g} to {high:g})", *others)
    return table


def counting_episodes(console: Console) -> Progress:
    """A bar that counts episodes, and is gone at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    return Progress(*columns, console=console, transient=True)


def show_tryout(teacher: Teacher, protocol: str, fire: bool, episodes: int, console: Console) -> Returns:
    """Plays, prints the comparison, and warns if the teacher plays like random, with the likely cause.

    Where FIRE is among the actions, the other rule about it is tried then: nothing else is as often the cause.

    Args:
        teacher: who plays.
        protocol: of the recording.
        fire: of the recording.
        episodes: how many.
        console: where to.
    """

    def attempt(pressed: bool, name: str) -> Returns:
        with counting_episodes(console) as progress:
            bar = progress.add_task(f"{teacher.game} {name}", total=episodes)
            return try_out(teacher, teacher.game, protocol, pressed, episodes, lambda: progress.advance(bar))

    returns = attempt(fire, "tryout")
    console.print(comparison(returns))
    if plays_like_random(teacher.game, returns.mean):
        other = attempt(not fire, "tryout, FIRE otherwise") if "FIRE" in action_meanings(teacher.game) else None
        console.print(f"warning: {complaint(returns, other)}", highlight=False, soft_wrap=True, markup=False)
    if teacher.game not in SCORES:
        console.print(f"whether that is better than random play is not known here of {teacher.game}: judge yourself")
    return returns


def complaint(returns: Returns, other: Returns | None) -> str:
    """What to say of a teacher that plays like random.

    Args:
        returns: what it reached.
        other: what it reached with the other rule about FIRE, if there is one.
    """
    begin = f"the teacher of {returns.game} plays like random ({returns.mean:.1f}; {references(returns.game)})"
    flag = f"--fire {str(not returns.fire).lower()}"
    if other is not None and not plays_like_random(returns.game, other.mean):
        pressed = "is not pressed" if returns.fire else "is pressed"
        return f"{begin}. Where FIRE {pressed} for it, it reaches {other.mean:.1f}: add {flag}"
    tried = f" (not FIRE: {flag} was tried, {other.mean:.1f})" if other is not None else ""
    return (
        f"{begin}. Likely causes{tried}: its training saw other states than 84x84 grey frames, 4 of them, the newest "
        "last; it has the actions in another order than the game's minimal set; or it was not trained for long. Score "
        "it where it was trained; what is recorded now is hardly worth distilling"
    )
