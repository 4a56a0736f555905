"""The emulator as `atari` builds it, against the emulator itself and against gymnasium's preprocessing."""

import inspect
from dataclasses import replace

import ale_py
import gymnasium
import numpy as np
import pytest
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from pd_lightning import atari
from pd_lightning.atari import (
    PROTOCOLS,
    STEPS_PER_HOUR,
    Lives,
    Protocol,
    action_meanings,
    build,
    check_game,
    named_protocol,
)

PLAIN = Protocol("plain", noop_max=0)
PAPER = PROTOCOLS["paper"]


def random_actions(game, steps, parallel, seed=0):
    return np.random.default_rng(seed).integers(len(action_meanings(game)), size=(steps, parallel))


def area_weights(large, small):
    """[small, large]: the share that each of `large` pixels has in each of `small` pixels of the same length."""
    edges = np.arange(small + 1) * large / small
    starts = np.arange(large)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return overlap.clip(0) * small / large


class Screen:
    """The emulator without anybody's preprocessing: raw grey screens of one game, and what the paper does with them."""

    def __init__(self, game, seed, noops):
        self.ale = ale_py.ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(str(roms.get_rom_path(game)))
        self.actions = self.ale.getMinimalActionSet()
        self.ale.reset_game()
        for _ in range(noops):
            self.ale.act(ale_py.Action.NOOP)
        self.stack = np.zeros((4, 84, 84))
        self._look(self.ale.getScreenGrayscale())

    def _look(self, screen):
        small = area_weights(210, 84) @ screen.astype(np.float64) @ area_weights(160, 84).T
        self.stack = np.concatenate([self.stack[1:], small[None]])

    def step(self, action):
        screens = []
        for _ in range(4):
            self.ale.act(self.actions[action])
            screens.append(self.ale.getScreenGrayscale())
        self._look(np.maximum(screens[2], screens[3]))


def test_a_state_is_four_area_shrunk_maxima_of_two_grey_screens_behind_the_drawn_no_ops():
    env = build("seaquest", 1, PAPER)
    states, info = env.reset(seed=np.array([11]))
    screen = Screen("seaquest", seed=11, noops=int(info["episode_frame_number"][0]))
    for action in random_actions("seaquest", 30, 1):
        np.testing.assert_allclose(states[0], screen.stack, atol=0.502)  # half a grey level: rounding, in float32
        states = env.step(action)[0]
        screen.step(action[0])


def test_states_are_those_of_gymnasiums_preprocessing_byte_for_byte():
    pytest.importorskip("cv2", reason="gymnasium's preprocessing needs OpenCV, we do not")
    gymnasium.register_envs(ale_py)
    raw = gymnasium.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=False)
    theirs = FrameStackObservation(AtariPreprocessing(raw, noop_max=0), 4, padding_type="zero")
    ours = build("breakout", 1, PLAIN)
    expected, _ = theirs.reset(seed=0)
    states, _ = ours.reset(seed=np.array([0]))
    for action in random_actions("breakout", 60, 1):
        np.testing.assert_array_equal(states[0], expected)
        expected = theirs.step(action[0])[0]
        states = ours.step(action)[0]


def test_an_episode_begins_with_three_black_frames():
    states, _ = build("pong", 1, PAPER).reset(seed=np.array([0]))
    assert states.shape == (1, 4, 84, 84)
    assert states.dtype == np.uint8
    assert not states[0, :3].any()
    assert states[0, 3].any()


@pytest.mark.parametrize("training", [False, True])
def test_every_setting_of_the_emulator_is_passed_and_none_left_to_its_default(monkeypatch, training):
    calls = []
    monkeypatch.setattr(atari, "AtariVectorEnv", lambda *args, **kwargs: calls.append((args, kwargs)))
    build("pong", 3, PROTOCOLS["nature"], training=training)
    signature = inspect.signature(AtariVectorEnv)
    passed = signature.bind(*calls[0][0], **calls[0][1]).arguments
    assert set(passed) == set(signature.parameters)
    assert (passed["game"], passed["num_envs"], passed["max_num_frames_per_episode"]) == ("pong", 3, 18_000)
    assert passed["episodic_life"] is False
    assert passed["reward_clipping"] is passed["life_loss_info"] is training


def no_ops(protocol, draws):
    env = build("pong", 2, protocol)
    first = env.reset(seed=np.arange(2))[1]["episode_frame_number"].tolist()
    return set(first).union(*(env.reset()[1]["episode_frame_number"].tolist() for _ in range(draws // 2 - 1)))


def test_an_episode_starts_after_0_to_30_no_ops_and_every_number_occurs():
    assert no_ops(PAPER, 260) == set(range(31))


def test_without_no_ops_every_episode_starts_at_once():
    assert no_ops(PROTOCOLS["machado"], 8) == {0}


def test_a_lost_life_ends_an_episode_for_the_learner_only_and_the_game_goes_on_for_both():
    scoring, training = build("breakout", 2, PAPER), build("breakout", 2, PAPER, training=True)
    seeds = np.array([3, 4])
    lives = scoring.reset(seed=seeds)[1]["lives"]
    training.reset(seed=seeds)
    lost_lives = games = 0
    for actions in random_actions("breakout", 260, 2, seed=1):
        states, _, terminated, truncated, info = scoring.step(actions)
        same_states, _, reported, _, _ = training.step(actions)
        np.testing.assert_array_equal(states, same_states)
        lost = info["lives"] < lives
        np.testing.assert_array_equal(reported, lost | terminated)
        assert not (lost & terminated).any()
        assert not truncated.any()
        assert (info["lives"][terminated] == 5).all()  # a new game
        lives = info["lives"]
        lost_lives, games = lost_lives + lost.sum(), games + terminated.sum()
    assert lost_lives > 4 * games > 0  # at least one game, with all its lives, was seen to its end


def test_rewards_are_the_games_own_for_scores_and_their_signs_for_the_learner():
    scoring, training = build("ms_pacman", 1, PLAIN), build("ms_pacman", 1, PLAIN, training=True)
    for env in (scoring, training):
        env.reset(seed=np.array([0]))
    played = random_actions("ms_pacman", 100, 1)  # the first 65 are a melody
    points = np.array([scoring.step(actions)[1][0] for actions in played])
    clipped = np.array([training.step(actions)[1][0] for actions in played])
    assert points.max() >= 10  # a pellet
    np.testing.assert_array_equal(clipped, np.sign(points))


def test_the_frame_limit_truncates_an_episode_and_does_not_count_its_no_ops():
    env = build("pong", 2, Protocol("short", frame_limit=80))
    start = env.reset(seed=np.arange(2))[1]["episode_frame_number"]
    assert start.any()
    steps = [env.step(np.zeros(2, np.int64)) for _ in range(20)]
    assert [truncated.tolist() for _, _, _, truncated, _ in steps] == [[False, False]] * 19 + [[True, True]]
    assert not any(terminated.any() for _, _, terminated, _, _ in steps)


def frames_played(protocol, actions):
    env = build("breakout", 1, protocol)
    env.reset(seed=np.array([0]))
    return np.stack([env.step(action)[0] for action in actions])


def test_sticky_actions_alter_play_and_without_them_play_is_a_function_of_seed_and_actions():
    actions = random_actions("breakout", 40, 1)
    plain = frames_played(PLAIN, actions)
    np.testing.assert_array_equal(plain, frames_played(PLAIN, actions))
    assert (plain != frames_played(replace(PLAIN, sticky=0.25), actions)).any()


def test_fire_is_pressed_for_exactly_those_who_just_lost_a_life():
    lives = Lives("breakout", 3)
    mine = np.array([2, 2, 3])
    counts = [[5, 5, 5], [4, 5, 5], [4, 4, 5], [4, 4, 5], [5, 3, 4]]  # the first game began anew with the last step
    pressed = [lives.press(mine, np.array(count, np.int32)).tolist() for count in counts]
    assert pressed == [[2, 2, 3], [1, 2, 3], [2, 1, 3], [2, 2, 3], [2, 1, 1]]
    assert mine.tolist() == [2, 2, 3]


def test_a_game_that_begins_with_fewer_lives_than_the_last_one_had_has_lost_none():
    lives = Lives("breakout", 2)
    lives.press(np.array([2, 2]), np.array([6, 6]))
    lives.begin(np.array([True, False]))
    assert lives.press(np.array([2, 2]), np.array([5, 5])).tolist() == [2, 1]


def test_a_policy_that_never_fires_loses_all_lives_in_breakout_only_if_fire_is_pressed_for_it():
    env = build("breakout", 1, PLAIN, fire=True)

    def play(press):
        info = env.reset(seed=np.array([0]))[1]
        for step in range(150):
            actions = press(np.zeros(1, np.int64), info["lives"])
            _, _, terminated, _, info = env.step(actions)
            if terminated[0]:
                return 0, step
        return int(info["lives"][0]), 150

    assert play(lambda actions, lives: actions) == (4, 150)  # the ball of the start is lost, no other is served
    assert play(Lives("breakout", 1).press)[0] == 0


def test_the_fire_switch_is_refused_for_a_game_without_fire():
    with pytest.raises(ValueError, match=r"freeway has no FIRE .*NOOP, UP, DOWN"):
        Lives("freeway", 1)


def test_the_protocols_are_the_papers():
    by_name = {p.name: (p.epsilon, p.noop_max, p.frame_limit, p.sticky) for p in PROTOCOLS.values()}
    assert by_name == {
        "paper": (0.05, 30, 108_000, 0.0),
        "nature": (0.05, 30, 18_000, 0.0),
        "machado": (0.0, 0, 108_000, 0.25),
    }
    assert all(named_protocol(name).name == name for name in PROTOCOLS)
    assert STEPS_PER_HOUR == 54_000


def test_an_unknown_protocol_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown protocol 'Paper': choose one of paper, nature, machado"):
        named_protocol("Paper")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("Breakout", "breakout"), ("ms pacman", "ms_pacman"), ("Space-Invaders", "space_invaders"), ("pogn", "pong")],
)
def test_an_unknown_game_is_answered_with_the_nearest_name(wrong, right):
    with pytest.raises(ValueError, match=f"unknown game '{wrong}': did you mean .*{right}"):
        check_game(wrong)


def test_a_game_like_no_other_is_answered_with_all_games():
    with pytest.raises(ValueError, match=r"the emulator has .*pong.*seaquest"):
        check_game("xyzzyxyzzy")


@pytest.mark.parametrize("game", ["seaquest", "adventure", "tic_tac_toe_3d"])
def test_a_head_of_any_game_is_as_wide_as_its_action_space(game):
    assert build(game, 1, PLAIN).single_action_space == gymnasium.spaces.Discrete(len(action_meanings(game)))
