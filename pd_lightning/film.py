"""A film of an episode: what a person would see on the screen, with the return counted above it."""

from __future__ import annotations

import errno
import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from imageio_ffmpeg import count_frames_and_secs
from jsonargparse import Namespace
from PIL import Image, ImageDraw
from rich.console import Console

from pd_lightning.atari import FRAME_SKIP, FRAMES_PER_SECOND, PROTOCOLS, Protocol, build, named_protocol
from pd_lightning.commands import Options, status_of
from pd_lightning.episodes import Policy, moments
from pd_lightning.files import atomic
from pd_lightning.teacher import load_teacher

STEPS_PER_SECOND = FRAMES_PER_SECOND // FRAME_SKIP
"""One picture a step is real time."""
LONGEST = 1800
"""Seconds of a film: an episode ends after half an hour."""
CAPTION = 22
"""Height of the line of text above the screen, in pixels."""


def film(
    policy: Policy,
    game: str,
    seed: int,
    *,
    protocol: str = "paper",
    fire: bool = False,
    steps: int = 4500,
    title: str = "",
) -> Iterator[np.ndarray]:
    """Plays one episode and shows it, picture by picture: whoever keeps them all needs 0.1 MB for each.

    The game runs twice in step, once as the policy sees it and once in colours; the same seed and actions give the same
    game.

    Args:
        policy: who plays.
        game: the game.
        seed: of the episode.
        protocol: the rules.
        fire: press FIRE for the player.
        steps: at most so many; 4,500 are five minutes.
        title: stands before the return.

    Returns:
        Pictures uint8 [232, 160, 3], one a step, as they are played.

    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"a film of {steps} steps: it has at least one")
    return _played(policy, game, seed, named_protocol(protocol), fire, steps, title)


def _played(
    policy: Policy, game: str, seed: int, rules: Protocol, fire: bool, steps: int, title: str
) -> Iterator[np.ndarray]:
    screen = build(game, 1, rules, fire=fire, picture=True)
    picture, _ = screen.reset(seed=np.array([seed]))
    total, count, shown = 0.0, 0, caption(picture[0, -1], title)
    for moment, _ in zip(moments(policy, game, [seed], rules, parallel=1, fire=fire), range(steps), strict=False):
        count, shown = count + 1, caption(picture[0, -1], f"{title} {total:+.0f}" if total else title)
        yield shown
        picture, _, _, _, _ = screen.step(moment.actions)
        total += float(moment.rewards[0])
    if count < steps:  # the emulator has started anew: the last picture, with the final return
        yield caption(shown[CAPTION:], f"{title} {total:+.0f}")


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture uint8 [H, W, 3] with a line of text above it, uint8 [H + 22, W, 3]."""
    canvas = Image.new("RGB", (picture.shape[1], picture.shape[0] + CAPTION), (16, 16, 20))
    canvas.paste(Image.fromarray(picture), (0, CAPTION))
    ImageDraw.Draw(canvas).text((6, 5), text, fill=(240, 240, 240))
    return np.asarray(canvas)


def side_by_side(films: Sequence[Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
    """Films of one height next to each other; the shorter ones stop at their last picture."""
    shown: list[Any] = [None] * len(films)
    for pictures in itertools.zip_longest(*films):
        shown = [last if picture is None else picture for last, picture in zip(shown, pictures, strict=True)]
        yield np.concatenate(shown, axis=1)


def write_mp4(path: Path, pictures: Iterable[np.ndarray]) -> None:
    """Writes pictures uint8 [H, W, 3] as an mp4 in real time, twice as large, whole or not at all."""
    # macro_block_size=2: 464x320 need not be padded to multiples of 16
    settings = {"fps": STEPS_PER_SECOND, "codec": "libx264", "macro_block_size": 2}
    with atomic(path) as part:
        try:
            with imageio.get_writer(part, format="FFMPEG", mode="I", **settings) as writer:
                for picture in pictures:
                    writer.append_data(picture.repeat(2, axis=0).repeat(2, axis=1))  # pyright: ignore[reportAttributeAccessIssue]
            check_whole(part)
        except OSError as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise OSError(errno.EIO, f"ffmpeg did not write the film ({why})", str(path)) from None


def check_whole(film: Path) -> None:
    """Raises an OSError if ffmpeg cannot read what it has written: imageio does not ask it, of a full disk, say."""
    try:
        count_frames_and_secs(film)
    except RuntimeError:
        raise OSError("it is not whole; is the disk full?") from None


def gif(pictures: Iterable[np.ndarray]) -> bytes:
    """A GIF in real time of every other picture, in few colours, to be small."""
    images = (Image.fromarray(each).quantize(16) for each in itertools.islice(pictures, 0, None, 2))
    stream = io.BytesIO()
    pause = 1000 * 2 // STEPS_PER_SECOND
    next(images).save(stream, "GIF", save_all=True, append_images=images, duration=pause, loop=0, optimize=True)
    return stream.getvalue()


def write_gif(path: Path, pictures: Iterable[np.ndarray]) -> None:
    """Writes `gif(pictures)`, whole or not at all."""
    with atomic(path) as part:
        part.write_bytes(gif(pictures))


def options_of(arguments: Sequence[str] | None = None) -> Namespace:
    """What was asked for."""
    parser = Options(prog="python -m pd_lightning.film", description="Films players side by side.")
    parser.add_argument("players", type=str, nargs="+", help="teacher files, checkpoints or run folders of one game")
    parser.add_argument("--output", required=True, type=Path, help="a file that ends in .gif or .mp4")
    parser.add_argument(
        "--game", help="which, of students of several games; players of another are refused (default: what they play)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the episode (default: 0)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of play, at most (default: 20)")
    parser.add_argument("--protocol", default="paper", choices=list(PROTOCOLS), help="rules of play (default: paper)")
    return parser.parse_args(arguments)


def film_players(options: Namespace) -> None:
    """Films players side by side, in episodes of one seed."""
    options.output = options.output.expanduser()
    if options.output.suffix not in (".gif", ".mp4"):
        raise ValueError(f"--output is {options.output}: choose a name that ends in .gif or .mp4")
    if not 0 < options.seconds <= LONGEST or not 0 <= options.seed < 2**31:
        raise ValueError(
            f"--seconds is {options.seconds}, --seed {options.seed}: choose above 0 and at most {LONGEST}, and from 0 "
            "to 2147483647"
        )
    agents = [load_teacher(path, options.game) for path in options.players]
    if len(games := dict.fromkeys(agent.game for agent in agents)) > 1:
        raise ValueError(f"players play {', '.join(games)}: choose players of one game")
    rules = {"protocol": options.protocol, "steps": max(round(options.seconds * STEPS_PER_SECOND), 1)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with Console(stderr=True).status(f"filming {agents[0].game}"):
        films = [
            film(agent, agent.game, options.seed, fire=agent.fire, title=agent.network.size, **rules)
            for agent in agents
        ]
        write = write_gif if options.output.suffix == ".gif" else write_mp4
        write(options.output, side_by_side(films))
    print(options.output)


def main() -> int:
    """`python -m pd_lightning.film PLAYER... --output FILE`."""
    options = options_of()
    return status_of(lambda: film_players(options))


if __name__ == "__main__":
    sys.exit(main())
