"""Live play that leaves a dataset behind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import zstandard

from pd_lightning.atari import STACK, STEPS_PER_HOUR
from pd_lightning.blocks import CHUNK, Header, ShardError, ShardTaken, ShardWriter
from pd_lightning.blocks.folders import numbered, shard_name
from pd_lightning.live.play import Played
from pd_lightning.recording.shards import OpenBlock


@dataclass
class Episode:
    """An episode that is being played: its blocks with packed frames, the one that is still open, and its return."""

    blocks: list[tuple[bytes, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    open: OpenBlock = field(default_factory=OpenBlock)
    total: float = 0.0


class Recorder:
    """Writes whole episodes to shards of an hour; one that is not over when play ends is left out.

    Attributes:
        episodes: that were written.
        number: of the next shard, if nobody takes it meanwhile.

    Args:
        folder: the game's.
        header: of all shards, but for their numbers.
        rank: this process, of `ranks` that record into the folder; each takes every so-many-th number that is free.
        ranks: all processes.

    Raises:
        ShardError: the folder cannot be made.
    """

    def __init__(self, folder: Path, header: Header, rank: int = 0, ranks: int = 1) -> None:
        self.folder, self.header = folder, header
        try:
            folder.mkdir(parents=True, exist_ok=True)  # if it cannot be, that is said before anything is played
        except OSError as error:
            raise ShardError(f"{folder}: {error.strerror}; choose another --data.record_to") from None
        taken = [int(path.stem) for path in numbered(folder)]
        self.number = (max(taken, default=-1) // ranks + 1) * ranks + rank
        self._ranks, self.episodes = ranks, 0
        self._packer, self._unpacker = zstandard.ZstdCompressor(3), zstandard.ZstdDecompressor()
        self.forget()

    def forget(self) -> None:
        """Drops what was played and not written: the games of it are not those that go on."""
        self._open: list[Episode] = []
        self._done: list[Episode] = []
        self._steps = 0

    def add(self, played: Played) -> None:
        """Takes a round."""
        states, q = played.states.numpy(), played.q.numpy()
        if not self._open:
            self._open = [Episode() for _ in range(states.shape[1])]
        for t in range(len(states)):
            for game, episode in enumerate(self._open):
                reward, over = float(played.rewards[t, game]), played.ended[t, game]
                full = episode.open.add(states[t, game], q[t, game], int(played.actions[t, game]), reward)
                episode.total += reward
                if full or over:
                    frames, q_values, chosen, rewards = episode.open.close()
                    episode.blocks.append((self._packer.compress(frames.tobytes()), q_values, chosen, rewards))
                if over:
                    self._finish(episode)
                    self._open[game] = Episode()

    def _finish(self, episode: Episode) -> None:
        """Keeps an episode that is over."""
        self._done.append(episode)
        self._steps += sum(len(actions) for _, _, actions, _ in episode.blocks)

    @property
    def full(self) -> bool:
        """Whether there is an hour of episodes to be written."""
        return self._steps >= STEPS_PER_HOUR

    def flush(self) -> Path | None:
        """Writes the episodes that are over as a shard, if there are any; under the next number that is free.

        Returns:
            The shard.

        Raises:
            ShardError: it cannot be written.
        """
        if not self._done:
            return None
        while True:
            try:
                path = self._write()
                break
            except ShardTaken:  # by another run, meanwhile
                self.number += self._ranks
        self.number += self._ranks
        self.episodes += len(self._done)
        self._done, self._steps = [], 0
        return path

    def _write(self) -> Path:
        path = self.folder / shard_name(self.number)
        # The goal is what was played: a recording with the same settings does not take it for one of its own hours.
        with ShardWriter(path, replace(self.header, shard=self.number, steps_goal=self._steps)) as writer:
            for number, episode in enumerate(self._done):
                for packed, q, actions, rewards in episode.blocks:
                    shape = (len(actions) + STACK - 1, *CHUNK[1:])
                    frames = np.frombuffer(self._unpacker.decompress(packed), np.uint8).reshape(shape)
                    writer.add(frames, q, actions, rewards, number)
            writer.finish([episode.total for episode in self._done])
        return path
