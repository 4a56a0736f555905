"""A teacher that learns while it is followed learns as PQN does, on several processes too."""

import copy
from contextlib import nullcontext

import numpy as np
import torch
from staging import LEARNING, SCORE, live, live_settings, run

from pd_lightning.episodes import LIVE_SEEDS
from pd_lightning.live import Lessons
from pd_lightning.live.collector import Collector, Process
from pd_lightning.live.learner import Learner, LearningPlayer
from pd_lightning.pqn.games import Games
from pd_lightning.pqn.learning import squared_error


def learner_of(**lessons):
    learner = Learner("pong", 6, Lessons(**{"minibatches": 2, "warmup": 2, **lessons}), 10, 0, "cpu")
    learner.network.centre("pong", torch.full((84, 84), 90.0), 30.0)
    return learner


def test_a_learning_teacher_makes_pqns_updates_and_hands_over_what_it_thought_while_it_played():
    learner, other = learner_of(), learner_of()
    player = LearningPlayer(learner, 2, 6, False, (0,), 1, nullcontext)
    player.epsilon = 0.3
    part = player.play(None, 1.0)

    games = Games("pong", 2, 6, 0.99, 0.65, False, (LIVE_SEEDS, 0), 1)
    found = games.play(other.policy(nullcontext), 0.3)
    assert torch.equal(part.q, found.outputs)
    assert torch.equal(part.states.flatten(0, 1), found.learned.states)
    order = np.random.default_rng([LIVE_SEEDS, 0, 1])
    for _ in range(2):
        for rows in np.array_split(order.permutation(12), 2):
            other.optimizer.zero_grad()
            squared_error(other.network, type(found.learned)(*(x[rows] for x in found.learned))).backward()
            torch.nn.utils.clip_grad_norm_(other.network.parameters(), 10.0)
            other.optimizer.step()
            other.schedule.step()
    for name, value in learner.network.state_dict().items():
        torch.testing.assert_close(value, other.network.state_dict()[name], rtol=1e-4, atol=1e-6)
    assert learner.schedule.last_epoch == 4


def round_of(learner, group=None):
    LearningPlayer(learner, 1, 4, False, (0,), 1, nullcontext, group).play(None, 1.0)


def same(one, other):
    return all(torch.equal(value, other.network.state_dict()[name]) for name, value in one.network.state_dict().items())


def test_a_restored_learner_makes_the_updates_that_the_saved_one_would_have_made():
    saved, restored = learner_of(), learner_of()
    round_of(saved)
    restored.load_state_dict(copy.deepcopy(saved.state_dict()))
    for learner in (saved, restored):
        round_of(learner)
    assert same(saved, restored)


def test_teachers_of_several_processes_learn_from_the_mean_of_their_gradients(monkeypatch):
    alone, shared = learner_of(), learner_of()
    round_of(alone)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda gradient, group: gradient.mul_(2))  # of two alike
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    round_of(shared, group="both")
    assert same(alone, shared)


def test_each_round_of_a_learning_teacher_has_the_share_of_chance_that_is_due(monkeypatch):
    shares = []
    play = Games.play
    monkeypatch.setattr(Games, "play", lambda self, policy, share: shares.append(share) or play(self, policy, share))
    settings = live_settings(learn=True, parallel=1, steps=4)
    collector = Collector(
        settings, Process(0, torch.device("cpu"), nullcontext), {"pong": learner_of()}, {"pong": False}, {}
    )
    for _ in range(3):
        collector.play_one()
    assert shares == [settings.epsilon(rounds) for rounds in range(3)]
    assert len(set(shares)) == 3


def test_a_learning_teacher_is_scored_each_time_and_a_frozen_one_once(teachers):
    data = live(teachers)
    run(data, 1)
    assert list(data.unscored_teachers("paper")) == ["pong"]
    data.note_scores(SCORE)
    assert data.unscored_teachers("paper") == {}
    assert data.teacher_returns("paper")["pong"].tolist() == [2.0, 4.0]
    assert list(data.unscored_teachers("nature")) == ["pong"]  # a score by other rules is another score
    assert data.teacher_returns("nature") == data.teacher_returns("paper", fire=True) == {}
    data = live(teachers, **LEARNING)
    run(data, 1)
    data.note_scores(SCORE)
    assert list(data.unscored_teachers("paper")) == ["pong"]
