"""Writing shards: one appears whole or not at all."""

import errno
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import ACTIONS, BLOCKS, HEADER, ROOT, block, episode_returns, one_line, write

from pd_lightning.blocks import Shard, ShardWriter, find_shards


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("frames", lambda a: a[:-1]),
        ("frames", lambda a: a[:3]),
        ("frames", lambda a: np.concatenate([a] * 8)),
        ("frames", lambda a: a.astype(np.float32)),
        ("frames", lambda a: a[:, :80]),
        ("q_values", lambda a: a.astype(np.float64)),
        ("q_values", lambda a: a[:, :5]),
        ("q_values", lambda a: a * np.nan),
        ("q_values", lambda a: a + np.inf),
        ("actions", lambda a: a.astype(np.int64)),
        ("actions", lambda a: a + np.uint8(ACTIONS)),
        ("rewards", lambda a: a[:-1]),
        ("rewards", lambda a: a * np.nan),
        ("episode", lambda _: -1),
    ],
)
def test_the_writer_refuses_what_breaks_the_contract_and_names_it(tmp_path, name, change):
    given = block(0, 0, 5)
    with ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        with one_line(str(tmp_path / "0000.h5"), name):
            writer.add(**given | {name: change(given[name])})
        writer.add(**given)  # a refused block leaves no trace
        writer.finish([0.0])
    assert len(Shard(tmp_path / "0000.h5")) == 5


def test_a_shard_that_nobody_could_open_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("pd_lightning.blocks.writing.BLOCKS_LIMIT", 2)
    with one_line("frames is more than 2 blocks"), ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        for _ in range(3):
            writer.add(**block(0, 0, 5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("returns", [[], [1.0], [1.0, 2.0, 3.0], [1.0, np.nan]])
def test_the_number_of_returns_is_the_number_of_episodes(tmp_path, returns):
    with one_line("returns"), ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        writer.add(**block(0, 0, 5))
        writer.add(**block(1, 0, 5))
        writer.finish(returns)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("game", ""), ("action_meanings", ["NOOP"]), ("action_meanings", ()), ("seed", -1), ("seed", True), ("fire", 1),
     ("epsilon", 1.5), ("sticky", float("nan")), ("stack", 3), ("versions", {"a": 1}), ("teacher_sha256", "abc"),
     ("teacher", "two\nlines")],
)  # fmt: skip
def test_the_writer_refuses_a_header_before_anything_is_played(tmp_path, name, value):
    with one_line(f"{name} is"):
        ShardWriter(tmp_path / "0000.h5", replace(HEADER, **{name: value}))
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_nothing_behind(tmp_path):
    def play() -> None:
        with ShardWriter(tmp_path / "pong" / "0000.h5", HEADER) as writer:
            writer.add(**block(0, 0, 32))
            assert names(tmp_path / "pong") == [".0000.h5.part"]
            raise RuntimeError("the emulator stopped")

    with pytest.raises(RuntimeError, match="the emulator stopped"):
        play()
    assert names(tmp_path / "pong") == []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_writer_works_only_inside_its_with_and_finishes_once(tmp_path):
    writer = ShardWriter(tmp_path / "0000.h5", HEADER)
    with one_line("closed"):
        writer.add(**block(0, 0, 5))
    with writer:
        with one_line("empty"):
            writer.finish([])
        writer.add(**block(0, 0, 5))
        writer.finish([0.0])
        with one_line("closed"):
            writer.finish([0.0])
    assert names(tmp_path) == ["0000.h5"]


def test_a_second_writer_is_refused_and_disturbs_nothing(tmp_path, shard_file):
    path = tmp_path / "0000.h5"
    with ShardWriter(path, HEADER) as first:
        for numbers in BLOCKS:
            first.add(**block(*numbers))
        with one_line("writers"), ShardWriter(path, HEADER):
            pass
        first.finish(episode_returns())
    assert path.read_bytes() == shard_file.read_bytes()
    with one_line("already"), ShardWriter(path, HEADER):
        pass
    assert path.read_bytes() == shard_file.read_bytes()
    assert names(tmp_path) == ["0000.h5"]


def test_a_shard_that_appeared_meanwhile_is_not_overwritten(tmp_path):
    with one_line("already"), ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        writer.add(**block(0, 0, 5))
        (tmp_path / "0000.h5").write_text("precious")
        writer.finish([0.0])
    assert (tmp_path / "0000.h5").read_text() == "precious"
    assert names(tmp_path) == ["0000.h5"]


def failing(patch: pytest.MonkeyPatch, owner: Any, name: str, code: int, calls: int = 0) -> None:
    """Lets a function raise what the system says, after some calls that succeed."""
    real, counter = getattr(owner, name), itertools.count()

    def fail(*arguments, **options):
        if next(counter) < calls:
            return real(*arguments, **options)
        raise OSError(code, os.strerror(code), "a file")

    patch.setattr(owner, name, fail)


FAULTS = [(errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (errno.EROFS, "see to its folder")]


@pytest.mark.parametrize(("code", "step"), FAULTS)
@pytest.mark.parametrize(("owner", "call"), [(Path, "mkdir"), (os, "open"), (os, "fsync"), (Path, "rename")])
def test_what_the_system_refuses_is_one_line_that_says_so_and_nothing_remains(
    tmp_path, shard_file, monkeypatch, owner, call, code, step
):
    path = tmp_path / "0000.h5"
    with monkeypatch.context() as patch:
        failing(patch, owner, call, code)
        with one_line(f"{path}: file is not written ({os.strerror(code)})", step, "same command", "another --root"):
            write(path)
    assert names(tmp_path) == []
    assert write(path).read_bytes() == shard_file.read_bytes()


def test_a_folder_that_becomes_read_only_keeps_a_file_that_the_next_writer_replaces(tmp_path, shard_file, monkeypatch):
    path = tmp_path / "0000.h5"
    with monkeypatch.context() as patch:
        failing(patch, Path, "rename", errno.EROFS)
        failing(patch, Path, "unlink", errno.EROFS)
        with one_line(str(path), "Read-only file system"):
            write(path)
    assert names(tmp_path) == [".0000.h5.part"]
    assert write(path).read_bytes() == shard_file.read_bytes()
    assert names(tmp_path) == ["0000.h5"]


def test_a_shard_whose_name_could_not_be_synced_is_whole(tmp_path, shard_file, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, os, "fsync", errno.EIO, calls=1)
        with one_line("Input/output error"):
            write(tmp_path / "0000.h5")
    assert names(tmp_path) == ["0000.h5"]
    assert (tmp_path / "0000.h5").read_bytes() == shard_file.read_bytes()


@pytest.mark.parametrize("moment", ["while adding", "before the rename"])
def test_a_killed_writer_leaves_no_shard_and_the_next_one_succeeds(tmp_path, shard_file, moment):
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
import handmade
from pathlib import Path
def stop(*_):
    print("here", flush=True)
    time.sleep(60)
if {moment == "while adding"}:
    handmade.ShardWriter.finish = stop
else:
    Path.rename = stop
handmade.write(Path({str(tmp_path / "0000.h5")!r}))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            with one_line("writers"), ShardWriter(tmp_path / "0000.h5", HEADER):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == [".0000.h5.part"]
    with one_line("empty of shards"):
        find_shards(tmp_path)
    assert write(tmp_path / "0000.h5").read_bytes() == shard_file.read_bytes()
    assert names(tmp_path) == ["0000.h5"]
