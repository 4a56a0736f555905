"""Recordings: what was played is what is on disk, whole or not at all."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from conftest import short_play
from gymnasium.vector import AutoresetMode
from rich.console import Console

from pd_lightning.blocks import Shard, ShardWriter, find_shards
from pd_lightning.episodes import RECORDING_SEEDS, Moment, episode_seeds
from pd_lightning.recording import record_shard
from pd_lightning.recording.command import summary
from pd_lightning.recording.shards import BlockBuilder
from pd_lightning.teacher import load_teacher


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


def test_an_error_while_playing_leaves_nothing(tmp_path, teachers):
    def tired(states):
        raise RuntimeError("tired")

    with pytest.raises(RuntimeError, match="tired"):
        record_shard(tired, tmp_path / "pong" / "0000.h5", short_play("pong", teachers["pong"]), print)  # pyright: ignore
    assert list((tmp_path / "pong").iterdir()) == []


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
