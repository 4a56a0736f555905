"""The command that records: which shards it makes, keeps, refuses or leaves to others, and that it may be killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import short_play, tiny_network

from pd_lightning import score
from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.blocks import Shard, ShardError, ShardWriter, find_shards
from pd_lightning.recording import __main__ as recorder
from pd_lightning.recording import command as command_line
from pd_lightning.recording import filling, record, record_shard
from pd_lightning.recording.__main__ import main
from pd_lightning.recording.command import record_play
from pd_lightning.recording.shards import check_same
from pd_lightning.teacher import TeacherError, load_teacher, save_teacher

SHORT = Protocol("short", epsilon=0.3, frame_limit=300)


@pytest.fixture
def short(monkeypatch):
    """A protocol of 75 steps an episode, and hours of 150 steps."""
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    monkeypatch.setattr(command_line, "STEPS_PER_HOUR", 150)


def command(teachers, root, hours=1.0, **other: Any):
    options: dict[str, Any] = {
        "teacher": str(teachers["pong"]),
        "protocol": "short",
        "parallel": 2,
        "check": 0,
        **other,
    }
    return record("pong", hours, str(root), **options)


@pytest.fixture(scope="module")
def hour(tmp_path_factory, teachers):
    """One hour of 150 steps."""
    root = tmp_path_factory.mktemp("hour")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "short", SHORT)
        patch.setattr(command_line, "STEPS_PER_HOUR", 150)
        command(teachers, root)
    return root


def test_hours_are_shards_and_the_rest_is_a_shorter_one(tmp_path, teachers, short, hour):
    shards = command(teachers, tmp_path, 1.4)
    assert [shard.path.name for shard in shards] == ["0000.h5", "0001.h5"]
    assert [shard.header.steps_goal for shard in shards] == [150, 60]
    assert [shard.header.shard for shard in shards] == [0, 1]
    assert [len(shard) for shard in shards] == [150, 150]  # two episodes run when the 60 are full
    assert shards[0].digest == Shard(hour / "pong" / "0000.h5").digest


def test_a_url_is_no_folder_to_record_to_and_a_tilde_is_ones_home(tmp_path, teachers, monkeypatch):
    agent, folders = load_teacher(teachers["pong"]), []

    def only_folder(folder, plans, progress):
        folders.append(folder)
        return []

    with pytest.raises(ValueError, match=r"--root is s3://bucket/datasets: give a local folder, and upload"):
        record_play(agent, 1, "s3://bucket/datasets", check=0, by=only_folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    record_play(agent, 1, "~/mine", check=0, by=only_folder)
    assert folders == [tmp_path / "mine" / "pong"]


def test_a_share_of_an_hour_is_rounded_to_whole_steps(tmp_path, teachers, monkeypatch):
    monkeypatch.setattr(command_line, "STEPS_PER_HOUR", 100)
    planned = []

    def only_plan(folder, plans, progress):
        planned.extend(plan.steps_goal for plan in plans)
        return []

    record_play(load_teacher(teachers["pong"]), 0.29, str(tmp_path), check=0, by=only_plan)
    assert planned == [29]
    assert 0.29 * 100 < 29


def test_no_game_is_begun_that_the_goal_has_no_room_for(tmp_path, teachers, short):
    agent, header = load_teacher(teachers["pong"]), short_play("pong", teachers["pong"], frame_limit=300)
    for goal, parallel, played in ((225, 3, 225), (226, 3, 300), (310, 2, 375)):  # episodes of 75 steps
        path = tmp_path / f"{goal}.h5"
        shard = record_shard(agent, path, replace(header, steps_goal=goal, parallel_games=parallel), lambda count: None)
        assert len(shard) == played


def test_shards_go_on_with_another_number_of_games_at_once_and_short_ones_with_fewer(tmp_path, teachers, short):
    (first,) = command(teachers, tmp_path)
    kept, added = command(teachers, tmp_path, 2.0, parallel=3)
    assert kept.path.stat() == first.path.stat()
    assert [kept.header.parallel_games, added.header.parallel_games] == [2, 3]
    (tenth,) = command(teachers, tmp_path / "short", 0.1, parallel=32)
    assert tenth.header.parallel_games == 4  # an hour has room for 36


def test_finished_shards_are_kept_by_the_same_command_and_more_hours_extend_them(tmp_path, teachers, short):
    (first,) = command(teachers, tmp_path)
    before = first.path.stat()
    kept, added = command(teachers, tmp_path, 2.0)
    assert kept.path.stat() == before
    assert added.digest != kept.digest
    kept.path.unlink()
    again, _ = command(teachers, tmp_path, 2.0)
    assert again.digest == first.digest  # a shard depends on its number, not on its neighbours


@pytest.mark.parametrize(("changes", "field"), [
    ({"seed": 1}, "seed"), ({"protocol": "paper"}, "protocol"),
    ({"hours": 0.5}, "steps_goal"), ({"fire": True}, "fire"), ({"teacher": "other"}, "teacher_sha256"),
])  # fmt: skip
def test_shards_of_another_command_are_refused_by_name(tmp_path, teachers, short, hour, changes, field):
    if "teacher" in changes:
        changes = {"teacher": str(save_teacher(tiny_network("pong", seed=1), tmp_path / "other.safetensors", {}))}
    before = (hour / "pong" / "0000.h5").stat()
    with pytest.raises(ShardError, match=rf"0000\.h5: {field} is .*; delete the file .*--root"):
        command(teachers, hour, **changes)  # pyright: ignore[reportArgumentType]
    assert (hour / "pong" / "0000.h5").stat() == before


@pytest.mark.parametrize(("field", "other"), [
    ("game", "breakout"), ("epsilon", 0.1), ("noop_max", 0), ("frame_limit", 400), ("sticky", 0.25), ("shard", 1),
    ("outputs", "logits"), ("player", "both"),
])  # fmt: skip
def test_whatever_else_changes_the_play_is_compared_too(teachers, field, other):
    header = short_play("pong", teachers["pong"])
    check_same(Path("0000.h5"), header, replace(header, parallel_games=9))
    with pytest.raises(ShardError, match=rf"0000\.h5: {field} is {other}, this recording's is "):
        check_same(Path("0000.h5"), replace(header, **{field: other}), header)


KILLED = """
import os, signal, sys
from pd_lightning.recording import command, record
from pd_lightning.recording.shards import BlockBuilder
from pd_lightning.atari import PROTOCOLS, Protocol
PROTOCOLS["short"] = Protocol("short", epsilon=0.3, frame_limit=300)
command.STEPS_PER_HOUR = 150
play = BlockBuilder.add
def add(builder, moment):
    play(builder, moment)
    if builder.steps >= 100:  # a block is written, others are open
        os.kill(os.getpid(), signal.SIGKILL)
BlockBuilder.add = add
record("pong", 1.0, sys.argv[1], sys.argv[2], "short", parallel=2, check=0)
"""


def test_a_killed_recording_leaves_no_shard_and_the_same_command_ends_with_the_same_data(
    tmp_path, teachers, short, hour
):
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, teachers["pong"]], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(ShardError, match="empty of shards"):
        find_shards(tmp_path / "pong")
    assert list((tmp_path / "pong").iterdir())  # something is left, and not mistaken for a shard
    (shard,) = command(teachers, tmp_path)
    assert [path.name for path in (tmp_path / "pong").iterdir()] == ["0000.h5"]
    through = Shard(hour / "pong" / "0000.h5")
    assert shard.digest == through.digest
    for block in range(shard.n_blocks):
        np.testing.assert_array_equal(shard.states(block), through.states(block))


# Several recorders


def meanwhile(monkeypatch, happens):
    """Lets something happen, once, when a recorder has nothing to do but to wait for another."""
    happening = iter([happens])
    monkeypatch.setattr(filling.time, "sleep", lambda seconds: next(happening)())


def header_of(hour, **other):
    return replace(Shard(hour / "pong" / "0000.h5").header, **other)


def test_what_another_process_is_recording_is_left_to_it_and_taken_over_if_it_gives_up(
    tmp_path, teachers, short, hour, monkeypatch, capsys
):
    shutil.copytree(hour / "pong", tmp_path / "pong")  # so it is known to be the same recording
    names = [tmp_path / "pong" / name for name in ("0000.h5", "0001.h5", "0002.h5")]
    with ShardWriter(names[1], header_of(hour, shard=1)) as other:

        def give_up():
            assert [path for path in names if path.exists()] == [names[0], names[2]]
            other.__exit__()

        meanwhile(monkeypatch, give_up)
        shards = command(teachers, tmp_path, 3.0)
    assert [shard.path for shard in shards] == names
    assert [shard.header.shard for shard in shards] == [0, 1, 2]
    lines = [line.split(":")[0].replace(str(tmp_path), "") for line in capsys.readouterr().err.splitlines()]
    told = ["kept     /pong/0000.h5", "busy     /pong/0001.h5", "recorded /pong/0002.h5", "recorded /pong/0001.h5"]
    assert [line.rstrip() for line in lines if "/pong/" in line] == told


def test_nothing_is_recorded_beside_another_process_before_its_first_shard_is_known_to_be_of_the_same_command(
    tmp_path, teachers, short, hour, monkeypatch
):
    with ShardWriter(tmp_path / "pong" / "0000.h5", header_of(hour)) as other:

        def finish(seed):
            assert [path.name for path in (tmp_path / "pong").iterdir()] == [".0000.h5.part"]
            other.__exit__()
            record_shard(load_teacher(teachers["pong"]), other.path, header_of(hour, seed=seed), lambda count: None)

        meanwhile(monkeypatch, lambda: finish(seed=1))
        with pytest.raises(ShardError, match=r"0000\.h5: seed is 1, this recording's is 0"):
            command(teachers, tmp_path, 2.0)
    assert [path.name for path in (tmp_path / "pong").iterdir()] == ["0000.h5"]


def test_a_shard_that_another_process_finished_first_is_kept(tmp_path, teachers, short, hour, monkeypatch):
    finish = ShardWriter.finish

    def too_late(writer, returns):
        shutil.copy(hour / "pong" / writer.path.name, writer.path)
        finish(writer, returns)

    monkeypatch.setattr(ShardWriter, "finish", too_late)
    (shard,) = command(teachers, tmp_path)
    assert shard.digest == Shard(hour / "pong" / "0000.h5").digest
    assert [path.name for path in (tmp_path / "pong").iterdir()] == ["0000.h5"]


def test_shards_of_another_command_are_refused_before_anything_is_played(tmp_path, teachers, short, hour):
    path = tmp_path / "pong" / "0001.h5"
    path.parent.mkdir()
    shutil.copy(hour / "pong" / "0000.h5", path)
    with pytest.raises(ShardError, match=r"0001\.h5: shard is 0, this recording's is 1"):
        command(teachers, tmp_path, 2.0)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("options", "complaint"), [
    ({"hours": 0.0}, "--hours is 0.0"),
    ({"hours": -1.0}, "--hours is -1.0"),
    ({"hours": float("nan")}, "--hours is nan"),
    ({"hours": float("inf")}, "--hours is inf"),
    ({"hours": 1e-9}, "--hours is 1e-09"),
    ({"parallel": 0}, "--parallel is 0"),
    ({"protocol": "papre"}, "unknown protocol 'papre'"),
])  # fmt: skip
def test_what_cannot_be_recorded_is_refused_before_anything_is_played(tmp_path, teachers, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        command(teachers, tmp_path, **{"protocol": "paper", **options})
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_of_another_game_is_refused(tmp_path, teachers):
    with pytest.raises(TeacherError, match="game is 'breakout', asked for was 'pong'"):
        command({"pong": teachers["breakout"]}, tmp_path, protocol="paper")


@pytest.mark.parametrize(("door", "said"), [
    (recorder, "stopped; the same command goes on: hours that were begun begin anew\n"), (score, "stopped\n")
])  # fmt: skip
def test_whoever_is_interrupted_says_so_in_one_line(door, said, monkeypatch, capsys):
    monkeypatch.setattr(door, "called", lambda *args, **more: os.kill(os.getpid(), signal.SIGINT) or time.sleep(9))
    assert door.main() == 130
    assert capsys.readouterr().err == said


def test_the_command_line_complains_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recording", "--game", "pong", "--root", str(tmp_path)])
    assert main() == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/pong/teacher.safetensors: there is no such file; name another")
    assert error.count("\n") == 1
