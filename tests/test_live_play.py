"""Live play: what is in memory is what was played, by whom and by which rules it was to be played."""

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import quiet_trainer
from staging import SHORT, live, live_settings, teacher_of

from pd_lightning.atari import Lives, Protocol
from pd_lightning.live import Lessons, LiveTeacher
from pd_lightning.live.collector import Collector, Process
from pd_lightning.live.play import FrozenPlayer
from pd_lightning.live.replay import STATE_BYTES, ReplayBuffer


def played(steps, games=3, seed=0):
    """Stacks of episodes that begin now and then, as an emulator gives them, and made-up Q-values."""
    rng = np.random.default_rng(seed)
    stack = np.zeros((games, 4, 84, 84), np.uint8)
    states = np.empty((steps, *stack.shape), np.uint8)
    for t in range(steps):
        stack[rng.random(games) < 0.2] = 0  # a new episode
        stack = np.concatenate([stack[:, 1:], rng.integers(0, 256, (games, 1, 84, 84), np.uint8)], 1)
        states[t] = stack
    return torch.from_numpy(states), torch.from_numpy(rng.normal(size=(steps, games, 6)).astype(np.float32))


@pytest.mark.parametrize("rounds", [1, 3, 4, 9])
def test_the_newest_states_are_remembered_as_they_were_and_older_ones_are_gone(rounds):
    states, q = played(5 * rounds)
    buffer = ReplayBuffer(16, 3, 6)
    for n in range(rounds):
        buffer.add(states[5 * n : 5 * n + 5], q[5 * n : 5 * n + 5])
    kept = min(5 * rounds, 16)
    assert len(buffer) == 3 * kept
    batch = buffer.batch(np.arange(len(buffer)))
    assert torch.equal(batch.states, states[-kept:].flatten(0, 1))
    assert torch.equal(batch.teacher_q, q[-kept:].flatten(0, 1))
    chosen = np.random.default_rng(1).permutation(len(buffer))[:7]
    assert torch.equal(buffer.batch(chosen).states, batch.states[chosen])
    assert torch.equal(buffer.newest(7).states, batch.states[-7:])


def test_a_memory_is_packed_into_a_checkpoint_and_comes_back():
    states, q = played(20)
    buffer = ReplayBuffer(16, 3, 6)
    buffer.add(states[:10], q[:10])
    buffer.add(states[10:] // 255 * 255, q[10:])  # black but for a few pixels
    state: dict = buffer.state_dict()
    other = ReplayBuffer(16, 3, 6)
    other.load_state_dict(state)
    everything = np.arange(len(buffer))
    assert len(other) == len(buffer)
    assert torch.equal(other.batch(everything).states, buffer.batch(everything).states)
    assert torch.equal(other.batch(everything).teacher_q, buffer.batch(everything).teacher_q)
    frames = state["frames"]
    assert isinstance(frames, torch.Tensor)
    assert len(frames) < 0.7 * 19 * 3 * 84 * 84
    with pytest.raises(ValueError, match=r"had \(57, 6\) rows and actions, now \(60, 6\)"):
        ReplayBuffer(17, 3, 6).load_state_dict(state)


def a_round(share, student, epsilon=0.0, steps=40):
    rules = Protocol("short", epsilon=epsilon, frame_limit=200)
    player = FrozenPlayer(teacher_of(), 4, steps, rules, False, (0,), 1)
    return player.play(student, share)


def stubborn(states):
    """A student who always takes the last action."""
    return torch.eye(6)[5].expand(len(states), 6)


def test_the_teacher_is_asked_about_every_state_whoever_acts():
    teacher = teacher_of()
    for share in (1.0, 0.0):
        states, q, *_ = a_round(share, stubborn, steps=6)
        assert torch.equal(q.flatten(0, 1), torch.cat([teacher(row) for row in states]))


def test_the_teacher_acts_the_student_acts_or_each_its_share():
    best = a_round(1.0, None)
    assert np.array_equal(best.actions, best.q.argmax(2).numpy())
    assert (a_round(0.0, stubborn).actions == 5).all()
    mixed = a_round(0.3, stubborn, steps=150)
    greedy = mixed.q.argmax(2).numpy()
    assert ((mixed.actions == greedy) | (mixed.actions == 5)).all()
    differs = greedy != 5
    share = (mixed.actions == greedy)[differs].mean()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / differs.sum())


def test_a_share_of_actions_is_random_whoever_acts():
    actions = a_round(0.0, stubborn, epsilon=0.5, steps=150).actions
    assert abs((actions != 5).mean() - 0.5 * 5 / 6) < 4 * math.sqrt(0.25 / actions.size)


def test_play_goes_on_from_round_to_round_and_episodes_begin_anew():
    player = FrozenPlayer(teacher_of(), 2, 30, SHORT, False, (0,), 1)
    first, second = player.play(None, 1.0), player.play(None, 1.0)
    assert torch.equal(second.states[0, :, :3], first.states[-1, :, 1:])
    assert first.ended.sum() == 0
    assert second.ended.any(0).all()
    step, game = np.argwhere(second.ended)[0]
    assert not second.states[step + 1, game, :3].any()


def test_fire_is_pressed_after_a_lost_life_and_not_where_an_episode_begins_with_fewer(monkeypatch):
    counted = []

    def press(self, actions, lives, press=Lives.press):
        counted.append(lives + 5 * (len(counted) < 50))  # as if some had been won in the first episode
        return press(self, actions, counted[-1])

    monkeypatch.setattr(Lives, "press", press)
    player = FrozenPlayer(teacher_of("breakout"), 2, 100, SHORT, True, (0,), 1)
    part = player.play(lambda states: torch.eye(4)[0].expand(len(states), 4), 0.0)
    assert np.flatnonzero(part.ended.any(1)).tolist() == [49, 99]
    fewer = np.diff(counted, axis=0) < 0
    assert fewer[49].all()
    fewer[49] = False
    assert fewer.any()
    assert np.array_equal(part.actions, np.concatenate([[[0, 0]], fewer]))


def test_shares_of_the_teacher_and_of_chance_go_linearly_from_first_to_last():
    lessons = Lessons(epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=1600)
    settings = live_settings(beta=1.0, beta_end=0.2, beta_steps=1600, lessons=lessons)
    for share in (settings.beta_at, settings.epsilon):
        assert [share(rounds) for rounds in (0, 20, 40, 80)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    two = replace(settings, devices=2)
    assert two.beta_at(10) == two.epsilon(10) == pytest.approx(0.6)
    assert live_settings(beta=0.3, beta_end=0.3).beta_at(7) == 0.3


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("fresh", [0.05, 0.25, 3.0])
def test_so_many_states_are_fresh_as_were_asked_for(ranks, fresh):
    settings = live_settings(fresh=fresh, devices=ranks)
    for update in (0, 1, 10, 99):
        rounds = settings.rounds_due(update) - settings.prefill_rounds
        lack = update * 32 * fresh - rounds * 40 * ranks
        assert 0 <= lack < 40 * ranks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.5}, r"beta is 1\.5: choose --data\.beta from 0"),
        ({"beta_end": -0.1}, r"beta_end is -0\.1"),
        ({"beta": math.nan}, "beta is nan"),
        ({"learn": True, "beta": 0.5}, r"beta is 0\.5 to 0\.5, but a teacher that learns .*--data\.learn false"),
        ({"fresh": 0.0}, r"fresh is 0\.0: choose --data\.fresh above 0"),
        ({"buffer_size": 0}, r"buffer_size is 0: choose --data\.buffer_size of at least 1"),
        (
            {"buffer_size": 10, "prefill": 20},
            r"prefill is 20, but only the newest 10 states are kept: raise --data\.buffer_size",
        ),
        (
            {"buffer_size": 64, "prefill": 64},
            r"batch_size is 256, but only the newest 64 states are kept: raise --data\.bu",
        ),
        ({"parallel": -1}, r"parallel is -1"),
        ({"games": []}, "games is \\[\\]: name at least one"),
        ({"games": "pong"}, "games is 'pong': give a list, as \\['pong'\\]"),
        ({"games": ["pnog"]}, r"unknown game 'pnog': did you mean pong"),
        ({"protocol": "none"}, "unknown protocol 'none'"),
        ({"learn": True, "steps": 3, "parallel": 3}, r"3 games x 3 steps do not divide into 8 minibatches"),
        (
            {"learn": True, "lessons": Lessons(minibatches=0)},
            r"minibatches is 0: choose --data\.lessons\.minibatches of",
        ),
        ({"learn": True, "lessons": Lessons(trace=1.5)}, r"trace is 1\.5: choose --data\.lessons\.trace from 0 to 1"),
        ({"learn": True, "lessons": Lessons(learning_rate=0.0)}, r"learning_rate is 0\.0: .* above 0"),
        ({"learn": True, "teachers": {"pong": "x"}}, r"teachers is .*, but a teacher that learns begins anew"),
        ({"root": "s3://bucket/data"}, "root is s3://bucket/data: live play reads teachers from folders"),
        ({"teachers": {"breakout": "x"}}, "teachers has breakout, which is not among the games, pong"),
        ({"root": "nowhere"}, r"nowhere/pong/teacher\.safetensors: there is no such file"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_runs(options, message):
    with pytest.raises(ValueError, match=message):
        LiveTeacher(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"buffer_size": 10**12},
            r"buffer_size is 1,000,000,000,000 states of 1 games: .* GiB are free \(cpu\); choose",
        ),
        (
            {"buffer_size": 1, "prefill": 1, "batch_size": 1, "parallel": 10**6},
            r"buffer_size is 16,000,000 states, two rounds,.* choose --data\.buffer_size of at most [\d,]+, and fewer",
        ),
    ],
)
def test_more_states_than_the_memory_holds_are_refused_before_anything_is_played(teachers, options, message):
    data = LiveTeacher(teachers={"pong": str(teachers["pong"])}, **options)
    data.trainer = quiet_trainer()
    with pytest.raises(ValueError, match=message):
        data.setup("fit")
    assert data.collector is None


def test_states_are_counted_in_the_memory_in_which_they_lie(monkeypatch):
    settings = live_settings(buffer_size=16_000, parallel=4)
    monkeypatch.setattr("pd_lightning.live.settings.available_memory", lambda device: 4_000 * STATE_BYTES)
    replace(settings, devices=4).check_room(torch.device("cuda"), 1)  # each of four GPUs has its own
    for devices, neighbours in ((4, 4), (3, 1), (1, 1)):
        with pytest.raises(ValueError, match="GiB are free"):
            replace(settings, devices=devices).check_room(torch.device("cpu"), neighbours)


def test_a_teacher_of_another_game_is_refused(teachers):
    with pytest.raises(ValueError, match="game is 'breakout', asked for was 'pong'"):
        LiveTeacher(teachers={"pong": str(teachers["breakout"])})


def test_a_batch_that_the_devices_cannot_share_is_refused(teachers):
    data = live(teachers, batch_size=33)
    data.trainer = SimpleNamespace(world_size=2)  # pyright: ignore
    with pytest.raises(ValueError, match="batch_size is 33: it must be a multiple of the number of devices, 2"):
        data.setup("fit")


def collectors():
    """Of two games, in each of which ten steps were played: as they are, with another seed, in another process."""
    for rank, seed in ((0, 0), (0, 1), (1, 0)):
        settings = live_settings(games=("pong", "breakout"), parallel=2, seed=seed, devices=2)
        teachers = {game: teacher_of(game) for game in settings.games}
        process = Process(rank, torch.device("cpu"), nullcontext)
        collector = Collector(settings, process, teachers, dict.fromkeys(teachers, False), {})
        for buffer in collector.buffers.values():
            buffer.steps = 10
        yield collector


def test_a_state_is_at_most_once_in_a_batch_and_each_batch_is_drawn_anew(monkeypatch):
    drawn = []
    monkeypatch.setattr(ReplayBuffer, "batch", lambda self, chosen: drawn.append(tuple(chosen)))
    for collector in collectors():
        for update in (0, 1):
            for number, game in enumerate(collector.settings.games):
                collector._batch(game, number, update)
    assert {len(set(chosen)) for chosen in drawn} == {16}  # of 20
    assert len(set(drawn)) == len(drawn) == 3 * 2 * 2


def test_games_seeds_and_processes_are_played_from_seeds_of_their_own(monkeypatch):
    keys = []
    monkeypatch.setattr(FrozenPlayer, "__init__", lambda self, *given: keys.append(given[5]))
    for collector in collectors():
        collector._start()
    assert len(set(keys)) == len(keys) == 3 * 2
