"""What a teacher that trains is told of real play, against the definition of its targets."""

import zlib

import numpy as np
import torch
from test_pqn_play import always, forward_view, playing

from pd_lightning.atari import PROTOCOLS, build
from pd_lightning.episodes import TRAINING_SEEDS, episode_seeds
from pd_lightning.pqn.games import Games


def opinion(states):
    """Q-values that look arbitrary, but are the same for the same state."""
    seeds = [zlib.crc32(state.numpy().tobytes()) for state in states]
    return torch.from_numpy(np.stack([np.random.default_rng(seed).normal(size=6) for seed in seeds]).astype(np.float32))


def test_a_teachers_targets_are_q_lambda_of_the_best_actions():
    shape = {"parallel": 2, "steps": 12, "discount": 0.9, "trace": 0.3}
    (learned,) = playing(opinion, epsilon_start=0.0, epsilon_end=0.0, **shape)
    env = build("pong", 2, PROTOCOLS["paper"], training=True)
    states, _ = env.reset(seed=episode_seeds(2, TRAINING_SEEDS, 0, 0, 0))
    values, rewards, ends = [opinion(torch.from_numpy(states)).max(1).values.numpy()], [], []
    for _ in range(12):
        states, reward, terminated, truncated, _ = env.step(opinion(torch.from_numpy(states)).argmax(1).numpy())
        values.append(opinion(torch.from_numpy(states)).max(1).values.numpy())
        rewards.append(reward)
        ends.append(terminated | truncated)
    expected = forward_view(np.stack(rewards), np.stack(ends), np.stack(values), 0.9, 0.3)
    # a minibatch is shuffled
    np.testing.assert_allclose(np.sort(learned.targets.numpy()), np.sort(expected.ravel()), rtol=1e-4, atol=1e-5)


def test_a_teacher_for_whom_fire_is_pressed_loses_a_life_without_ever_pressing_it():
    for fire in (True, False):
        games = Games("breakout", 2, 80, 1.0, 1.0, fire, (0,), 1)
        targets = games.play(always(0, 4, q=100.0), 0.0).learned.targets.reshape(80, 2)
        lost = (targets < 100).any(0)  # a lost life cuts off the value of the last state
        assert lost.tolist() == [fire, fire]
