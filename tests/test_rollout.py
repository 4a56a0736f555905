"""Playing: which episodes, with which randomness, and that a return is what the emulator paid."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from scipy import stats
from torch.nn.functional import one_hot

from pd_lightning.atari import PROTOCOLS, Lives, Protocol
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.episodes import episode_seeds, moments
from pd_lightning.rollout import Returns, play

PAPER = PROTOCOLS["paper"]
GAME, ACTIONS = "road_runner", 18  # its games are short and its rewards are hundreds


def hashed(states):
    """A policy that depends on every pixel and, unlike a network, not even in the last bit on the batch around it."""
    weights = torch.arange(84 * 84 * 4).reshape(4, 84, 84) % 13
    return one_hot((states.long() * weights).sum((1, 2, 3)) % ACTIONS, ACTIONS)


def constant(action, actions):
    return lambda states: torch.eye(actions)[action].expand(len(states), -1)


@pytest.fixture(scope="module")
def returns():
    """Three episodes, played one after the other."""
    return play(hashed, GAME, episodes=3, seed=7, parallel=1)


@pytest.fixture(scope="module")
def recording(returns):
    """The same three episodes, two at a time: their moments row by row, for each episode."""
    rows = defaultdict(list)
    for moment in moments(hashed, GAME, returns.seeds.tolist(), PAPER, parallel=2):
        for row, episode in enumerate(moment.episodes):
            rows[int(episode)].append([field[row] for field in moment])
    return {episode: [np.stack(column) for column in zip(*steps, strict=True)] for episode, steps in rows.items()}


def test_the_same_seed_means_the_same_episodes_however_many_are_played_at_once(returns):
    at_once = play(hashed, GAME, episodes=3, seed=7, parallel=3)
    for name in ("values", "steps", "seeds"):
        np.testing.assert_array_equal(getattr(at_once, name), getattr(returns, name))
    assert len(set(returns.steps.tolist())) > 1  # so places became idle at different times


def test_shares_of_several_processes_are_together_the_episodes_of_one(returns):
    shares = [play(hashed, GAME, episodes=3, seed=7, parallel=2, share=(r, 2)) for r in range(2)]
    for r, share in enumerate(shares):
        for name in ("values", "steps", "seeds"):
            np.testing.assert_array_equal(getattr(share, name), getattr(returns, name)[r::2])


def test_another_seed_means_other_episodes(returns):
    other = play(hashed, GAME, episodes=1, seed=8)
    assert not set(other.seeds.tolist()) & set(returns.seeds.tolist())
    assert other.steps[0] not in returns.steps


def test_every_episode_is_played_exactly_once_and_to_its_end(returns, recording):
    assert sorted(recording) == list(range(3))
    for episode, (_, _, _, _, ended, _) in recording.items():
        assert ended.tolist() == [False] * (returns.steps[episode] - 1) + [True]


def test_a_return_is_the_sum_of_the_recorded_rewards(returns, recording):
    assert [recording[episode][3].sum() for episode in range(3)] == returns.values.tolist()
    assert max(rewards.max() for _, _, _, rewards, _, _ in recording.values()) >= 100  # nothing was clipped


def test_recorded_actions_played_again_elsewhere_show_the_same_states_and_pay_the_same(returns, recording):
    elsewhere = AtariVectorEnv(
        GAME, 1, noop_max=31, reward_clipping=False, use_fire_reset=False, autoreset_mode="NextStep"
    )
    for episode in (0, 2):  # a first episode of its place, and one that follows another there
        seen, outputs, actions, rewards, _, _ = recording[episode]
        states, _ = elsewhere.reset(seed=returns.seeds[[episode]])
        over = False
        for step, action in enumerate(actions):
            assert not over
            np.testing.assert_array_equal(states[0], seen[step])
            np.testing.assert_array_equal(hashed(torch.from_numpy(states))[0], outputs[step])
            states, paid, terminated, truncated, _ = elsewhere.step(action[None])
            assert paid[0] == rewards[step]
            over = terminated[0] or truncated[0]
        assert over


def test_seeds_may_come_from_a_generator_that_decides_on_the_way_when_it_is_enough():
    asked, ended = [], Counter()

    def seeds():
        for seed in (5, 6, 7, 8, 9):
            asked.append(seed)
            yield seed

    short = replace(PAPER, frame_limit=40)
    steps = Counter()
    for moment in moments(constant(0, 6), "pong", seeds(), short, parallel=2):
        assert len(asked) <= 2 + sum(ended.values())  # a seed is taken when a place is free, not before
        steps.update(moment.episodes.tolist())
        ended.update(moment.episodes[moment.ended].tolist())
    assert steps == dict.fromkeys(range(5), 10)
    assert ended == dict.fromkeys(range(5), 1)


def test_a_place_that_a_generator_has_no_seed_for_stays_empty_and_others_are_asked_for():
    seeds, playing = [1, 2, None, 3, None, None], []
    for moment in moments(constant(0, 6), "pong", seeds, replace(PAPER, frame_limit=12), parallel=2):
        playing.append(moment.episodes.tolist())
    # The first two end together; one place is given up, the other plays the third episode.
    assert playing == [[0, 1]] * 3 + [[2]] * 3
    assert not list(moments(constant(0, 6), "pong", [None, None], PAPER, parallel=2))


def test_fewer_episodes_than_places_and_none_at_all_are_fine():
    short = replace(PAPER, frame_limit=12)
    played = list(moments(constant(0, 6), "pong", [3], short, parallel=8))
    assert [moment.states.shape for moment in played] == [(1, 4, 84, 84)] * 3
    assert list(moments(constant(0, 6), "pong", [], short)) == []


def test_no_place_at_all_is_an_error_and_not_a_score_of_zero():
    with pytest.raises(ValueError, match="parallel is 0"):
        play(constant(0, 6), "pong", episodes=1, parallel=0)


def test_one_action_in_twenty_is_random_and_uniformly_so():
    short = replace(PAPER, frame_limit=1600)
    played = moments(constant(0, 6), "pong", range(8), short, parallel=8)
    actions = np.concatenate([moment.actions for moment in played])
    assert len(actions) == 8 * 400
    low, high = stats.binom.interval(0.9999, len(actions), 0.05 * 5 / 6)  # a random action may be the greedy one
    assert low <= (actions > 0).sum() <= high
    counts = np.bincount(actions, minlength=6)[1:]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_under_machado_no_action_is_random_but_the_emulator_is():
    rules = replace(PROTOCOLS["machado"], frame_limit=160)
    played = list(moments(hashed, GAME, [1, 2], rules, parallel=2))
    for moment in played:
        np.testing.assert_array_equal(moment.actions, moment.outputs.argmax(1))
    np.testing.assert_array_equal(played[0].states[0], played[0].states[1])  # no no-ops
    assert (played[-1].states[0] != played[-1].states[1]).any()


def test_fire_is_pressed_for_the_player_after_each_lost_life_and_recorded_as_done():
    calm = Protocol("calm", epsilon=0.0, noop_max=0, frame_limit=2000)
    played = list(moments(constant(0, 4), "breakout", [0], calm, fire=True))
    actions = [int(moment.actions[0]) for moment in played]
    assert Counter(actions) == {0: len(played) - 4, 1: 4}  # five lives; the first ball is served by the reset
    assert len(played) < 500  # game over, not the limit of frames


def test_the_next_episode_in_a_place_begins_without_fire_if_the_last_one_had_more_lives(monkeypatch):
    lives, press = iter([6] * 10 + [5] * 10), Lives.press  # as if one had been won in the first episode
    monkeypatch.setattr(Lives, "press", lambda self, actions, left: press(self, actions, np.array([next(lives)])))
    calm = Protocol("calm", epsilon=0.0, noop_max=0, frame_limit=40)
    played = moments(constant(0, 4), "breakout", [0, 1], calm, parallel=1, fire=True)
    assert [(int(moment.episodes[0]), int(moment.actions[0])) for moment in played] == [(0, 0)] * 10 + [(1, 0)] * 10


def test_a_policy_sees_bytes_and_only_of_games_that_are_still_played():
    seen = []

    def policy(states):
        assert states.dtype == torch.uint8
        assert not torch.is_grad_enabled()
        seen.append(len(states))
        return hashed(states)

    play(policy, GAME, episodes=3, seed=7, parallel=2)
    assert seen[0] == 2
    assert seen[-1] == 1
    assert sorted(seen, reverse=True) == seen


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        (lambda n: torch.zeros(n, 18), r"of shape \[2, 18\]"),
        (lambda n: torch.full((n, 6), torch.nan), "not all finite"),
    ],
)
def test_a_player_that_does_not_say_a_number_for_each_action_is_refused(outputs, complaint):
    with pytest.raises(ValueError, match=rf"pong: the player's outputs are {complaint}.*6 actions"):
        play(lambda states: outputs(len(states)), "pong", 2, parallel=2)


def test_a_module_that_says_something_of_every_game_is_refused_with_what_plays():
    module = PolicyDistillation({"pong": 6}, "net3")
    with pytest.raises(ValueError, match=r"pong: the player's outputs are a dict, .* module\.policies\(\)\['pong'\]"):
        play(module, "pong", 1)


def test_a_bar_hears_of_each_return_once(returns):
    heard = []
    play(hashed, GAME, episodes=2, seed=7, on_episode=heard.append)
    assert sorted(heard) == sorted(returns.values[:2].tolist())


def test_returns_are_summed_up_as_numpy_and_scipy_do():
    values = np.random.default_rng(0).normal(100, 30, size=12)
    returns = Returns("pong", "paper", values, np.ones(12, np.int64), np.arange(12))
    assert returns.mean == pytest.approx(np.mean(values))
    assert returns.std == pytest.approx(stats.tstd(values))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert returns.interval == pytest.approx((expected.low, expected.high))


def test_one_episode_has_no_deviation():
    one = Returns("pong", "paper", np.array([21.0]), np.array([800]), np.array([0]))
    assert one.mean == 21
    assert np.isnan(one.std)


def test_seeds_of_different_keys_are_unrelated_even_where_keys_differ_by_a_zero():
    keys = [(), (0,), (1,), (1, 0), (0, 1), (1, 0, 0), (1, 0, 0, 0), (1, 2), (2, 1), (1, 0, 0, 0, 0, 0)]
    seeds = [seed for key in keys for seed in episode_seeds(50, *key).tolist()]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**31  # what the emulator takes


def test_more_episodes_begin_with_the_same_ones():
    assert episode_seeds(100, 3)[:7].tolist() == episode_seeds(7, 3).tolist()


def test_unknown_rules_and_games_are_answered_before_anything_is_played():
    with pytest.raises(ValueError, match="unknown protocol 'papr'"):
        play(hashed, GAME, protocol="papr")
    with pytest.raises(ValueError, match="did you mean pong"):
        play(hashed, "Pong")
