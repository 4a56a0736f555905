"""A shard made by hand, of pictures that each say which they are; and what is asked of shards."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pd_lightning.blocks import CHUNK, Header, Shard, ShardError, ShardWriter
from pd_lightning.blocks.contract import SMALL

ROOT = Path(__file__).parent.parent
ACTIONS = 6
EPISODES = (45, 1, 70)  # steps: blocks of 32 + 13, of a single step, and of 32 + 32 + 6
BLOCKS = ((0, 0, 32), (1, 0, 1), (0, 32, 13), (2, 0, 32), (2, 32, 32), (2, 64, 6))  # episode, first step, steps
HEADER = Header(
    game="pong",
    action_meanings=("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"),
    protocol="paper",
    frame_skip=4,
    max_pool=True,
    noop_max=30,
    fire=False,
    sticky=0.0,
    epsilon=0.05,
    frame_limit=108_000,
    seed=7,
    shard=0,
    parallel_games=2,
    steps_goal=100,
    versions={"pd_lightning": "0.1.0", "ale_py": "0.12.1"},
    teacher="tëst teacher",
    teacher_sha256="0123456789abcdef" * 4,
)


def hdf5(path: Path, mode: str = "r") -> Any:
    """The file as any HDF5 tool has it. Any: h5py's own types are unions that say nothing."""
    return h5py.File(path, mode)


def frame(episode: int, step: int) -> np.ndarray:
    """The frame that is new at a step, 84x84: says which one it is, and is not quite flat. Before step 0: zeros."""
    picture = np.zeros((84, 84), np.uint8)
    if step >= 0:
        picture[:] = 20 * episode + 100
        picture[0, :3] = episode + 1, step, 255
        picture[(7 * step) % 83 + 1, (11 * step + episode) % 84] = step + 1
    return picture


def block(episode: int, first: int, steps: int) -> dict[str, Any]:
    t = np.arange(first, first + steps)
    return {
        "frames": np.stack([frame(episode, s) for s in range(first - 3, first + steps)]),
        "q_values": (1000 * episode + t[:, None] + np.arange(ACTIONS) / 7).astype(np.float32),
        "actions": ((t + episode) % ACTIONS).astype(np.uint8),
        "rewards": (t % 3 - 1).astype(np.float32),
        "episode": episode,
    }


def episode_returns() -> list[float]:
    return [sum(step % 3 - 1 for step in range(steps)) + 0.5 for steps in EPISODES]


def write(path: Path, header: Header = HEADER) -> Path:
    with ShardWriter(path, header) as writer:
        for numbers in BLOCKS:
            writer.add(**block(*numbers))
        writer.finish(episode_returns())
    return path


def content(path: Path) -> tuple:
    """Everything that a shard says, in a form that `==` compares."""
    shard = Shard(path)
    shard.verify()
    arrays = [getattr(shard, name) for name in SMALL]
    frames = np.empty((shard.n_blocks, *CHUNK), np.uint8)
    for i in range(shard.n_blocks):
        shard.read_block(i, frames[i])  # the states are slices of these
    return shard.header, shard.digest, len(shard), [(a.dtype.str, a.shape, a.tobytes()) for a in (*arrays, frames)]


@contextlib.contextmanager
def one_line(*words: str) -> Iterator[None]:
    """What runs inside must raise a ShardError of one line that holds all `words`."""
    with pytest.raises(ShardError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def chunks(path: Path) -> list:
    found: list = []
    with hdf5(path) as file:
        file["frames"].id.chunk_iter(found.append)
    return found
