"""What a teacher that trains plays, and what it is told that its play was worth."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from pd_lightning.atari import PROTOCOLS, build
from pd_lightning.episodes import TRAINING_SEEDS, episode_seeds
from pd_lightning.pqn import ParallelPlay, lambda_returns


def steps(seed=0, length=12, games=5):
    """Random rewards, ends (about one step in six) and values of the states."""
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(length, games)).astype(np.float32)
    return rewards, rng.random((length, games)) < 1 / 6, rng.normal(size=(length + 1, games)).astype(np.float32)


def forward_view(rewards, ends, values, discount, trace):
    """The definition: a geometric mixture of n-step returns, the longest of which takes all the weight that is left."""
    targets = np.zeros(rewards.shape)
    for game in range(rewards.shape[1]):
        for t in range(len(rewards)):
            last = next((s for s in range(t, len(rewards)) if ends[s, game]), len(rewards) - 1)
            n_step, paid = [], 0.0
            for n, s in enumerate(range(t, last + 1), start=1):
                paid += discount ** (n - 1) * float(rewards[s, game])
                n_step.append(paid + (0.0 if ends[s, game] else discount**n * float(values[s + 1, game])))
            shares = [(1 - trace) * trace**n for n in range(len(n_step) - 1)] + [trace ** (len(n_step) - 1)]
            assert sum(shares) == pytest.approx(1)
            targets[t, game] = np.dot(shares, n_step)
    return targets


@pytest.mark.parametrize("trace", [0.0, 0.3, 0.65, 1.0])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_returns_are_the_mixture_of_all_n_step_returns(discount, trace):
    rewards, ends, values = steps()
    assert ends.any()
    targets = lambda_returns(rewards, ends, values, discount, trace)
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, forward_view(rewards, ends, values, discount, trace), rtol=1e-4, atol=1e-5)


def test_without_a_trace_returns_look_one_step_ahead():
    rewards, ends, values = steps()
    expected = rewards + 0.9 * ~ends * values[1:]
    np.testing.assert_allclose(lambda_returns(rewards, ends, values, 0.9, 0.0), expected, rtol=1e-5)


def test_with_a_full_trace_returns_are_what_was_paid_until_the_last_state_is_valued():
    rewards, _, values = steps()
    nothing_ends = np.zeros(rewards.shape, bool)
    expected = rewards[::-1].cumsum(0)[::-1] + values[-1]
    np.testing.assert_allclose(lambda_returns(rewards, nothing_ends, values, 1.0, 1.0), expected, rtol=1e-4, atol=1e-5)


def test_what_follows_an_end_changes_no_return_before_it():
    rewards, ends, values = steps()
    ends[5] = True
    before = lambda_returns(rewards, ends, values, 0.9, 0.65)[:6]
    rewards[6:], values[6:] = 99.0, -99.0
    np.testing.assert_array_equal(lambda_returns(rewards, ends, values, 0.9, 0.65)[:6], before)


def playing(policy, updates=0, rank=0, ranks=1, **arguments):
    """ParallelPlay for a policy that does not learn, `updates` after the start of a run."""
    data = ParallelPlay(**{"minibatches": 1, "passes": 1, "rounds": 1, **arguments})
    data.trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        global_rank=rank,
        world_size=ranks,
        fit_loop=SimpleNamespace(total_batch_idx=updates - 1),
        lightning_module=SimpleNamespace(snapshot=lambda game: policy, device=torch.device("cpu")),
    )
    return data


def always(action, actions, q=1.0):
    """A policy that plays one action and gives it the value `q`."""
    return lambda states: q * torch.eye(actions)[action].expand(len(states), -1)


@pytest.fixture(scope="module")
def breakout():
    """Two games of Breakout with nothing but FIRE for 160 steps: what a learner gets, and what the emulator did."""
    data = playing(
        always(1, 4, q=100.0),
        game="breakout",
        parallel=2,
        steps=160,
        epsilon_start=0.0,
        epsilon_end=0.0,
        discount=1.0,
        trace=1.0,
        seed=3,
    )
    (learned,) = data
    env = build("breakout", 2, PROTOCOLS["paper"])
    before = env.reset(seed=episode_seeds(2, TRAINING_SEEDS, 3, 0, 0))[1]["lives"]
    rewards, over, lost = [], [], []
    for _ in range(160):
        _, reward, terminated, _, info = env.step(np.ones(2, np.int64))
        rewards.append(reward)
        over.append(terminated)
        lost.append(info["lives"] < before)
        before = info["lives"]
    return data, learned, np.stack(rewards), np.stack(over), np.stack(lost)


def test_a_lost_life_cuts_returns_while_a_teacher_trains(breakout):
    _, learned, rewards, over, lost = breakout
    assert lost.sum(0).min() >= 4
    expected = np.zeros((161, 2))
    expected[-1] = 100.0  # the value of the last state
    for t in reversed(range(160)):
        expected[t] = rewards[t] + np.where(lost[t] | over[t], 0, expected[t + 1])
    assert len(learned.targets) == 2 * 160
    np.testing.assert_array_equal(np.sort(learned.targets.numpy()), np.sort(expected[:-1].ravel()))


def test_the_return_that_is_reported_is_of_whole_games_and_not_of_lives(breakout):
    data, _, rewards, over, _ = breakout
    expected = sorted(
        part.sum()
        for game in range(2)
        for part in np.split(rewards[:, game], np.flatnonzero(over[:, game]) + 1)[:-1]  # the last is not over yet
    )
    assert expected
    assert sorted(data.returns) == expected


def test_a_round_is_learned_from_as_often_as_there_are_passes():
    data = playing(always(0, 6), parallel=4, steps=6, passes=2, minibatches=3, rounds=2)
    batches = list(data)
    assert len(batches) == len(data) == 2 * 2 * 3
    assert data.steps_after(len(data)) == 4 * 6 * 2
    rows = [
        [
            (hash(state.numpy().tobytes()), int(action), float(target))
            for state, action, target in zip(*batch, strict=True)
        ]
        for batch in batches
    ]
    assert all(len(row) == 4 * 6 // 3 for row in rows)
    passes = [[*rows[first], *rows[first + 1], *rows[first + 2]] for first in range(0, 12, 3)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert sorted(passes[2]) == sorted(passes[3])
    assert passes[0] != passes[1]  # in another order
    assert sorted(passes[0]) != sorted(passes[2])  # the next round


def test_epsilon_falls_linearly_and_then_stays():
    data = ParallelPlay(epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=1000)
    assert [data.epsilon(played) for played in (0, 250, 500, 1000, 9999)] == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2])
    assert ParallelPlay(epsilon_end=0.05, epsilon_steps=0).epsilon(0) == pytest.approx(0.05)


def random_actions(**arguments):
    """How many of the first round's 200 actions are not the greedy one."""
    data = playing(always(0, 6), parallel=1, steps=200, epsilon_start=1.0, epsilon_end=0.0, **arguments)
    return int((next(iter(data)).actions > 0).sum())


def test_that_share_of_actions_is_random_which_the_steps_played_so_far_on_all_devices_ask_for():
    half = stats.binom.interval(0.9999, 200, 0.5 * 5 / 6)
    assert half[0] <= random_actions(epsilon_steps=400, updates=1) <= half[1]
    assert half[0] <= random_actions(epsilon_steps=800, updates=1, ranks=2) <= half[1]
    assert random_actions(epsilon_steps=200, updates=1) == 0
    assert random_actions(epsilon_steps=200, updates=0) > half[1]


def test_devices_rounds_and_seeds_play_games_of_their_own_and_the_same_ones_again():
    def first(**arguments):
        return next(iter(playing(always(0, 6), parallel=1, steps=8, rounds=3, **arguments))).states.long().sum().item()

    sums = [first(), first(rank=1, ranks=2), first(updates=3), first(seed=1)]
    assert len(set(sums)) == 4
    assert first() == sums[0]


def test_each_round_is_played_by_the_network_as_it_was_when_the_round_before_it_was_over():
    data = playing(None, parallel=2, steps=4, rounds=4, epsilon_start=0.0, epsilon_end=0.0)
    learned = 0

    def snapshot(game):  # plays the action whose number is that of the rounds learned from, and calls it their value
        return always(learned, 6, q=float(learned))

    assert data.trainer is not None
    data.trainer.lightning_module.snapshot = snapshot  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    played = []
    for batch in data:
        played.append(batch.actions.unique().tolist())
        learned += 1
    assert played == [[0], [0], [1], [2]]


def test_the_cores_are_shared_while_an_epoch_runs_and_given_back_even_if_it_is_left_early(four_threads):
    epoch = iter(playing(always(0, 6), parallel=2, steps=4, rounds=4))
    next(epoch)
    assert torch.get_num_threads() == 2
    epoch.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.get_num_threads() == 4
