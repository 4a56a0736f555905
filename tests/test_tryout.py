"""Tryouts: a teacher that cannot play is told from one that can, before anything is recorded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_network
from rich.console import Console

from pd_lightning import tryout
from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.recording import command as command_line
from pd_lightning.recording import record
from pd_lightning.rollout import Returns
from pd_lightning.scores import SCORES
from pd_lightning.teacher import Teacher, load_teacher
from pd_lightning.tryout import comparison, complaint, plays_like_random, show_tryout, try_out

SHIPPED = Path(__file__).parents[1] / "datasets"


def returns(game, *values, fire=False, steps=9):
    count = len(values)
    return Returns(game, "paper", np.array(values, float), np.full(count, steps), np.arange(count), fire)


@pytest.fixture
def shown():
    """A console, and what was printed there."""
    console = Console(record=True, width=200, stderr=True, quiet=False)
    return console, lambda: console.export_text(clear=False)


def test_a_teacher_that_was_never_trained_is_warned_of_with_what_may_be_the_cause(shown):
    console, text = shown
    show_tryout(Teacher(tiny_network("breakout"), "untrained"), "paper", False, 2, console)
    assert "the teacher in 2 episodes, protocol paper" in text()
    for said in ("breakout", "1.7", "30.5", "401.2"):
        assert said in text()
    assert "warning: the teacher of breakout plays like random" in text()
    assert "--fire true was tried" in text()
    assert "84x84 grey frames" in text()


def test_the_shipped_teacher_is_not_warned_of(shown):
    console, text = shown
    found = show_tryout(load_teacher(SHIPPED / "pong" / "teacher.safetensors"), "paper", False, 1, console)
    assert found.mean > 10
    assert "warning" not in text()


@pytest.mark.parametrize("game", [game for game in SCORES if SCORES[game].dqn > SCORES[game].random])
def test_random_play_is_like_random_and_a_human_and_dqn_are_not(game):
    scores = SCORES[game]
    assert plays_like_random(game, scores.random)
    assert not plays_like_random(game, scores.human)
    assert not plays_like_random(game, scores.dqn)


def test_of_games_that_dqn_did_not_play_or_could_not_the_human_is_the_measure():
    assert [plays_like_random(game, 0.0) for game in ("berzerk", "montezuma_revenge", "adventure")] == [
        True,
        True,
        False,
    ]
    assert not plays_like_random("berzerk", 660.0)


def test_random_play_of_four_episodes_is_called_so():
    def uniform(states):  # all actions alike but for noise, which decides
        return torch.rand(len(states), 4, generator=noise)

    noise = torch.Generator().manual_seed(0)
    player = Teacher(tiny_network("breakout"), "random")
    player.forward = uniform
    found = [try_out(player, "breakout", "machado", False, 4, lambda: None).mean for _ in range(3)]
    assert all(plays_like_random("breakout", score) for score in found), found


def test_if_the_other_rule_about_fire_makes_it_play_that_is_named_as_the_cause(monkeypatch, shown):
    console, text = shown

    def played(teacher, game, protocol, fire, episodes, on_episode):
        return returns("breakout", 40.0 if fire else 0.0, fire=fire)

    monkeypatch.setattr(tryout, "try_out", played)
    show_tryout(Teacher(tiny_network("breakout"), "theirs"), "paper", False, 1, console)
    assert "Where FIRE is pressed for it, it reaches 40.0: add --fire true" in text()
    assert "84x84" not in text()
    assert "add --fire false" in complaint(returns("breakout", 0.0, fire=True), returns("breakout", 40.0))


def test_a_game_without_fire_is_not_tried_with_it(monkeypatch, shown):
    console, text = shown
    fires = []

    def played(teacher, game, protocol, fire, episodes, on_episode):
        fires.append(fire)
        return returns("freeway", 0.0)

    monkeypatch.setattr(tryout, "try_out", played)
    show_tryout(load_teacher(SHIPPED / "freeway" / "teacher.safetensors"), "paper", False, 1, console)
    assert fires == [False]
    assert "Likely causes: " in text()


def test_episodes_are_cut_after_five_minutes_and_the_table_says_so(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "endless", Protocol("endless", epsilon=0.0, frame_limit=10**6))
    monkeypatch.setattr(tryout, "FRAMES", 80)
    ended = []
    player = Teacher(tiny_network("pong"), "untrained")
    found = try_out(player, "pong", "endless", False, 3, lambda: ended.append(1))
    assert found.steps.tolist() == [20, 20, 20]
    assert len(ended) == 3
    assert "at most" not in str(comparison(returns("pong", 1.0)).title)
    assert "at most 80 frames each" in str(comparison(found).title)


def test_a_tryout_is_never_longer_than_the_protocol_allows(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "brief", Protocol("brief", epsilon=0.0, frame_limit=80))
    monkeypatch.setattr(tryout, "FRAMES", 160)
    found = try_out(Teacher(tiny_network("pong"), "untrained"), "pong", "brief", False, 2, lambda: None)
    assert found.steps.tolist() == [20, 20]


def test_a_recording_that_goes_on_is_not_preceded_by_a_tryout(tmp_path, teachers, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", Protocol("short", epsilon=0.3, frame_limit=300))
    monkeypatch.setattr(command_line, "STEPS_PER_HOUR", 150)
    tried = []
    monkeypatch.setattr(command_line, "show_tryout", lambda agent, *rules: tried.append(rules[:3]))

    def command(**options):
        record("pong", 1.0, str(tmp_path), str(teachers["pong"]), "short", parallel=2, **options)

    command(check=0)
    assert tried == []
    (tmp_path / "pong" / "0000.h5").unlink()
    command(check=3)
    assert tried == [("short", False, 3)]
    command(check=3)
    assert len(tried) == 1
    with pytest.raises(ValueError, match="--check is -1"):
        command(check=-1)
