"""Recordings: what was played is what is on disk, whole or not at all, and the same whenever it is recorded."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from conftest import short_play, tiny_network
from gymnasium.vector import AutoresetMode
from rich.console import Console

from pd_lightning import score
from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.blocks import Shard, ShardError, ShardWriter, find_shards
from pd_lightning.episodes import RECORDING_SEEDS, Moment, episode_seeds
from pd_lightning.recording import __main__ as recorder
from pd_lightning.recording import command as command_line
from pd_lightning.recording import filling, record, record_shard
from pd_lightning.recording.__main__ import main
from pd_lightning.recording.command import record_play, summary
from pd_lightning.recording.shards import BlockBuilder, check_same
from pd_lightning.teacher import TeacherError, load_teacher, save_teacher

SHORT = Protocol("short", epsilon=0.3, frame_limit=300)


def episodes_of(shard):
    """Each episode's blocks, in the order in which they were played."""
    blocks = defaultdict(list)
    for block, episode in enumerate(shard.episodes.tolist()):
        blocks[episode].append(block)
    return [blocks[episode] for episode in range(len(shard.returns))]


def column(shard, blocks, name):
    """A small dataset's rows of some blocks, one a step."""
    return np.concatenate([getattr(shard, name)[block, : shard.lengths[block]] for block in blocks])


def seeds_of(shard):
    header = shard.header
    return [
        int(episode_seeds(1, RECORDING_SEEDS, header.seed, header.shard, episode)[0])
        for episode in range(len(shard.returns))
    ]


def play_again(shard):
    """The states and rewards of an emulator that is given the recorded actions, for each episode."""
    header, actions = shard.header, [column(shard, blocks, "actions") for blocks in episodes_of(shard)]
    env = AtariVectorEnv(
        header.game, len(actions), frameskip=header.frame_skip, maxpool=header.max_pool, stack_num=header.stack,
        noop_max=header.noop_max + 1, use_fire_reset=header.fire, repeat_action_probability=header.sticky,
        max_num_frames_per_episode=header.frame_limit, episodic_life=False, reward_clipping=False,
        full_action_space=False, autoreset_mode=AutoresetMode.SAME_STEP, num_threads=1,
    )  # fmt: skip
    states, info = env.reset(seed=np.array(seeds_of(shard)))
    seen, rewards, lives = [], [], []
    for step in range(max(map(len, actions))):
        seen.append(states)
        lives.append(info["lives"])
        now = np.array([play[min(step, len(play) - 1)] for play in actions], np.int64)
        states, reward, terminated, truncated, info = env.step(now)
        rewards.append(reward)
        for i, play in enumerate(actions):
            if step < len(play):
                assert (terminated | truncated)[i] == (step == len(play) - 1)
    columns = [np.stack(values, 1) for values in (seen, rewards, lives)]
    return [tuple(values[i, : len(play)] for values in columns) for i, play in enumerate(actions)]


@pytest.fixture(scope="module")
def breakout_with_fire(tmp_path_factory, teachers):
    """Two episodes of Breakout in which somebody presses FIRE for the teacher."""
    header = short_play("breakout", teachers["breakout"], fire=True, frame_limit=400, steps_goal=150, sticky=0.25)
    path = tmp_path_factory.mktemp("fire") / "0000.h5"
    return record_shard(load_teacher(teachers["breakout"]), path, header, lambda count: None)


@pytest.fixture(params=["pong/0000.h5", "pong/0001.h5", "breakout/0000.h5", "breakout with fire, sticky"])
def shard(request, datasets):
    if "fire" in request.param:
        return request.getfixturevalue("breakout_with_fire")
    return Shard(datasets / request.param)


def test_an_emulator_that_is_given_the_recorded_actions_shows_the_recorded_states(shard):
    for blocks, (seen, rewards, _) in zip(episodes_of(shard), play_again(shard), strict=True):
        np.testing.assert_array_equal(np.concatenate([shard.states(block) for block in blocks]), seen)
        np.testing.assert_array_equal(column(shard, blocks, "rewards"), rewards)


def test_fire_is_pressed_for_the_teacher_and_recorded_after_each_lost_life(breakout_with_fire):
    fire = breakout_with_fire.header.action_meanings.index("FIRE")
    pressed = 0
    for blocks, (_, _, lives) in zip(episodes_of(breakout_with_fire), play_again(breakout_with_fire), strict=True):
        lost = np.flatnonzero(np.diff(lives) < 0) + 1
        assert (column(breakout_with_fire, blocks, "actions")[lost] == fire).all()
        pressed += len(lost)
    assert pressed > 0


def test_returns_are_the_sums_of_the_rewards(shard):
    sums = [column(shard, blocks, "rewards").sum(dtype=np.float64) for blocks in episodes_of(shard)]
    np.testing.assert_array_equal(shard.returns, sums)


def test_stored_q_values_are_the_teachers(shard, teachers):
    teacher = load_teacher(teachers[shard.header.game])
    assert shard.header.teacher_sha256 == teacher.sha256
    for block in range(shard.n_blocks):
        q = teacher(torch.from_numpy(shard.states(block).copy())).numpy()
        np.testing.assert_allclose(shard.q_values[block, : len(q)], q, rtol=1e-5, atol=1e-5)


def test_the_teacher_acts_greedily_but_for_its_share_of_random_actions(datasets):
    shards = [Shard(path) for path in find_shards(datasets / "pong")]
    greedy = np.concatenate([s.q_values.argmax(2) == s.actions for s in shards])
    greedy = greedy[np.arange(32) < np.concatenate([s.lengths for s in shards])[:, None]]
    expected = 0.3 * 5 / 6  # a random action may be the greedy one
    assert (~greedy).mean() == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(greedy)))


def test_without_random_actions_every_action_is_the_greedy_one(tmp_path, teachers):
    header = short_play("pong", teachers["pong"], epsilon=0.0, frame_limit=160, steps_goal=10)
    shard = record_shard(load_teacher(teachers["pong"]), tmp_path / "0000.h5", header, lambda count: None)
    for blocks in episodes_of(shard):
        np.testing.assert_array_equal(column(shard, blocks, "q_values").argmax(1), column(shard, blocks, "actions"))


def test_an_episodes_first_block_begins_with_zeros_and_the_others_with_the_frames_before_them(shard):
    frames = np.empty((35, 84, 84), np.uint8)
    for blocks in episodes_of(shard):
        before = np.zeros((3, 84, 84), np.uint8)
        for block in blocks:
            shard.read_block(block, frames)
            np.testing.assert_array_equal(frames[:3], before)
            assert frames[3].any()
            before = frames[shard.lengths[block] : shard.lengths[block] + 3].copy()


def test_every_episode_of_every_shard_has_a_seed_of_its_own(datasets):
    shards = [Shard(path) for path in find_shards(datasets / "pong")]
    seeds = [seed for shard in shards for seed in seeds_of(shard)]
    assert len(set(seeds)) == len(seeds) == 8
    played = {column(shard, blocks, "actions").tobytes() for shard in shards for blocks in episodes_of(shard)}
    assert len(played) == 8


def test_an_hour_that_is_full_starts_no_episode_and_finishes_those_that_run(datasets):
    for path in find_shards(datasets / "pong"):
        shard = Shard(path)
        # Two at a time, 75 steps each: at 150 steps the goal of 300 is not reached, two more are played.
        assert len(shard) == 300
        assert len(shard.returns) == 4


def moment(lengths, step, films=None):
    """The step of every episode that is that long."""
    playing = [episode for episode, n in enumerate(lengths) if step < n]
    return Moment(
        states=np.stack([films[i][step : step + 4] if films else np.zeros((4, 84, 84), np.uint8) for i in playing]),
        outputs=np.array([[episode, step, 0, 0, 0, 1] for episode in playing], np.float32),
        actions=np.array([(episode + step) % 6 for episode in playing]),
        rewards=np.array([step + 0.5 for _ in playing], np.float32),
        ended=np.array([step == lengths[episode] - 1 for episode in playing]),
        episodes=np.array(playing),
    )


@pytest.mark.parametrize("lengths", [[1, 1, 1], [32, 64, 31], [33, 1, 100, 32, 65]])
def test_episodes_of_any_length_are_cut_into_blocks_that_give_back_every_state(tmp_path, teachers, lengths):
    chance = np.random.default_rng(sum(lengths))
    header = short_play("pong", teachers["pong"])
    films = [chance.integers(1, 255, (n + 3, 84, 84), np.uint8) for n in lengths]
    for film in films:
        film[:3] = 0
    with ShardWriter(tmp_path / "0000.h5", header) as writer:
        builder = BlockBuilder(writer)
        for step in range(max(lengths)):
            builder.add(moment(lengths, step, films))
        assert builder.steps == sum(lengths)
        writer.finish([builder.returns[episode] for episode in range(len(lengths))])
    shard = Shard(tmp_path / "0000.h5")
    assert shard.n_blocks == sum(-(-n // 32) for n in lengths)
    for episode, blocks in enumerate(episodes_of(shard)):
        states = np.concatenate([shard.states(block) for block in blocks])
        np.testing.assert_array_equal(states, [films[episode][step : step + 4] for step in range(lengths[episode])])
        q = [[episode, step, 0, 0, 0, 1] for step in range(lengths[episode])]
        np.testing.assert_array_equal(column(shard, blocks, "q_values"), q)
        assert shard.returns[episode] == lengths[episode] ** 2 / 2


# The command


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


def test_what_ends_last_is_followed_by_another_until_the_goal_is_reached():
    lengths = [10, 50]
    blocks = BlockBuilder(SimpleNamespace(add=lambda *block: None))  # pyright: ignore[reportArgumentType]
    for step in range(50):
        blocks.add(moment(lengths, step))
        if step == 9:  # 10 steps are the usual length: the other seems to end now too
            assert blocks.needs_another(21, begun=2)
            assert not blocks.needs_another(20, begun=2)
            assert not blocks.needs_another(30, begun=3)  # one more has begun, and has not had a step
    assert blocks.needs_another(61, begun=2)
    assert not blocks.needs_another(60, begun=2)


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


def test_an_error_while_playing_leaves_nothing(tmp_path, teachers):
    def tired(states):
        raise RuntimeError("tired")

    with pytest.raises(RuntimeError, match="tired"):
        record_shard(tired, tmp_path / "pong" / "0000.h5", short_play("pong", teachers["pong"]), print)  # pyright: ignore
    assert list((tmp_path / "pong").iterdir()) == []


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


def test_the_table_says_what_was_recorded(datasets):
    shards = [Shard(path) for path in find_shards(datasets / "pong")]
    shards[1].returns = np.array([21.0, 21.0, 21.0, -9.0])
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary(shards))
    rows = [line.split("│") for line in console.export_text().splitlines() if "│" in line]
    first, second, total = ([cell.strip() for cell in row[2:-1]] for row in rows)
    size = [shard.path.stat().st_size for shard in shards]
    assert first[:4] == ["300", f"{size[0] / 300:.1f}", "4", f"{shards[0].returns.mean():.1f}"]
    assert second[3] == "13.5"
    assert total[:3] == ["600", f"{sum(size) / 600:.1f}", "8"]


@pytest.mark.parametrize(("door", "said"), [
    (recorder, "stopped; the same command goes on\n"), (score, "stopped\n")
])  # fmt: skip
def test_whoever_is_interrupted_says_so_in_one_line(door, said, monkeypatch, capsys):
    monkeypatch.setattr(door, "auto_cli", lambda *args, **more: os.kill(os.getpid(), signal.SIGINT) or time.sleep(9))
    assert door.main() == 130
    assert capsys.readouterr().err == said


def test_the_command_line_complains_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recording", "--game", "pong", "--root", str(tmp_path)])
    assert main() == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/pong/teacher.safetensors: there is no such file; train a teacher")
    assert error.count("\n") == 1
