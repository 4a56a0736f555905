"""Scores a teacher by playing, whatever library it is from: `python -m pd_lightning.score FILE`."""

from __future__ import annotations

import math
import sys
from json import dumps

from rich.console import Console

from pd_lightning.commands import called, status_of
from pd_lightning.episodes import SCORE_SEEDS, episode_seeds
from pd_lightning.machine import chosen_device
from pd_lightning.rollout import Returns, play
from pd_lightning.teacher import load_teacher
from pd_lightning.tryout import counting_episodes, references


def score(
    teacher: str,
    game: str | None = None,
    episodes: int = 30,
    protocol: str = "paper",
    fire: bool | None = None,
    parallel: int = 32,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> Returns:
    """Plays whole episodes and prints their mean return with its 95% interval.

    Args:
        teacher: a file or a run's folder of ours, a file of Stable-Baselines3, CleanRL or Atari Agents, or
            hf://OWNER/NAME on the Hugging Face Hub.
        game: the game; needed only where neither the file nor its folders tell, or a student plays several.
        episodes: how many.
        protocol: rules of play: paper, nature or machado.
        fire: press FIRE for it at a start and after each lost life (default: as it was trained).
        parallel: games played side by side.
        seed: of the episodes.
        device: where the teacher runs: auto, cpu, cuda, cuda:1, ...
        json: print everything, each return included, for programs.
    """
    if episodes < 1 or seed < 0:
        raise ValueError(f"--episodes is {episodes}, --seed {seed}: choose at least 1, and at least 0")
    agent = load_teacher(teacher, game).to(chosen_device(device))
    pressed = agent.fire if fire is None else fire
    with counting_episodes(Console(stderr=True)) as progress:
        bar = progress.add_task(agent.game, total=episodes)
        returns = play(
            agent,
            agent.game,
            episodes,
            int(episode_seeds(1, SCORE_SEEDS, seed)[0]),
            protocol=protocol,
            parallel=parallel,
            fire=pressed,
            on_episode=lambda value: progress.advance(bar),
        )
    if json:
        said = {"teacher": teacher, "game": agent.game, "protocol": protocol, "fire": pressed, "mean": returns.mean}
        each = {"returns": returns.values.tolist(), "seeds": returns.seeds.tolist()}
        spread = [None if math.isnan(end) else end for end in returns.interval]
        print(dumps({**said, "interval": spread, **each}))
    else:
        fired = ", FIRE pressed" if pressed else ""
        print(f"{agent.game}: {returns} over {episodes} episodes, protocol {protocol}{fired}; {references(agent.game)}")
    return returns


def main() -> int:
    """The command line."""
    return status_of(lambda: called("score", score))


if __name__ == "__main__":
    sys.exit(main())
