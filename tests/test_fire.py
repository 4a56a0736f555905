"""FIRE is pressed for whom it was pressed in training, whoever plays: scores, tryouts, exports and films."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import short_play, tiny_network
from rich.console import Console

from pd_lightning import film as film_module
from pd_lightning import score, tryout
from pd_lightning.callbacks import Rollouts, rollouts
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.export import checking, export
from pd_lightning.recording import command as command_line
from pd_lightning.recording import record_shard
from pd_lightning.recording.command import record_play
from pd_lightning.rollout import Returns
from pd_lightning.teacher import Teacher, load_teacher

either = pytest.mark.parametrize("fire", [True, False])


@pytest.fixture
def agents(teachers):
    """By their rule about FIRE: one of another library, that learned with it, and one of ours."""
    theirs = Teacher.of(lambda states: torch.zeros(len(states), 4), "breakout", "theirs", fire=True)
    return {True: theirs, False: load_teacher(teachers["breakout"])}


@pytest.fixture
def played(monkeypatch):
    """Rules about FIRE that `play` was called with, wherever it was; each episode has a return of 0."""
    pressed = []

    def play(policy, game, episodes, seed=0, *, protocol, parallel, fire=False, on_episode=None):
        pressed.append(fire)
        policy(torch.zeros(2, 4, 84, 84, dtype=torch.uint8))
        nothing = np.zeros(episodes)
        return Returns(game, "paper", nothing, nothing.astype(int), nothing.astype(int), fire)

    for module in (score, tryout, checking):
        monkeypatch.setattr(module, "play", play)
    return pressed


@either
@pytest.mark.parametrize("asked", [None, True, False])
def test_a_score_presses_fire_as_it_was_trained_unless_told_otherwise(agents, played, monkeypatch, capsys, fire, asked):
    monkeypatch.setattr(score, "load_teacher", lambda path, game: agents[fire])
    score.score("it", episodes=2, fire=asked, device="cpu", json=True)
    wanted = fire if asked is None else asked
    assert played == [wanted]
    assert json.loads(capsys.readouterr().out)["fire"] is wanted


@either
def test_a_tryout_presses_fire_as_the_recording_will_and_then_otherwise(agents, played, fire):
    returns = tryout.show_tryout(agents[fire], "paper", fire, 2, Console(stderr=True, quiet=True))
    assert played == [fire, not fire]  # it plays like random, which FIRE may be the cause of
    assert returns.fire is fire


@either
def test_what_a_teacher_says_in_play_is_asked_in_play_with_its_own_rule(agents, played, fire):
    assert len(tryout.outputs_in_play(agents[fire], "paper", fire)) == 2
    assert played == [fire]


@either
@pytest.mark.parametrize("asked", [None, True, False])
def test_a_recording_and_its_tryout_press_fire_as_it_was_trained_unless_told_otherwise(
    agents, monkeypatch, tmp_path, fire, asked
):
    tried, planned = [], []
    monkeypatch.setattr(command_line, "show_tryout", lambda agent, protocol, pressed, *rest: tried.append(pressed))

    def only_plan(folder, plans, progress):
        planned.extend(plan.fire for plan in plans)
        return []

    record_play(agents[fire], 2.0, str(tmp_path), fire=asked, check=1, by=only_plan)
    wanted = fire if asked is None else asked
    assert (tried, planned) == ([wanted], [wanted, wanted])


@either
def test_an_exported_file_is_compared_in_play_with_the_players_rule(played, monkeypatch, tmp_path, fire):
    player = Teacher(tiny_network("breakout"), "tiny", fire=fire)
    monkeypatch.setattr(checking, "write", lambda player, part: part.touch())
    monkeypatch.setattr(checking, "open_exported", lambda part: player)
    _, returns = export(player, tmp_path / "player.pt2", 2)
    assert played == [fire]
    assert returns.fire is fire


def test_each_player_of_a_film_has_its_own_rule(agents, monkeypatch, capsys):
    filmed = []

    def film(policy, game, seed, **rules):
        filmed.append((policy, rules.get("fire")))
        return np.zeros((1, 232, 160, 3), np.uint8)

    monkeypatch.setattr(film_module, "film", film)
    monkeypatch.setattr(film_module, "load_teacher", lambda path, game: agents[path == "theirs"])
    monkeypatch.setattr("sys.argv", ["film", "theirs", "ours", "--output=film.gif"])
    assert film_module.main() == 0, capsys.readouterr().err
    assert filmed == [(agents[True], True), (agents[False], False)]


@either
def test_a_recording_is_a_reference_only_for_scores_with_its_rule_about_fire(teachers, tmp_path, fire):
    header = short_play("breakout", teachers["breakout"], fire=fire, frame_limit=80, steps_goal=1)
    shard = record_shard(
        load_teacher(teachers["breakout"]), tmp_path / "breakout" / "0000.h5", header, lambda count: None
    )
    data = TeacherDatasets(str(tmp_path), ["breakout"], batch_size=2, threads=1, validation=0)
    np.testing.assert_array_equal(data.teacher_returns("paper", fire)["breakout"], shard.returns)
    assert data.teacher_returns("paper", not fire) == {}


@either
def test_scores_that_are_gathered_from_all_ranks_say_whether_fire_was_pressed(monkeypatch, fire):
    def play(policy, game, episodes, seed, *, share, on_episode, protocol, parallel, fire):
        mine = np.arange(episodes)[share[0] :: share[1]]
        return Returns(game, protocol, mine.astype(float), mine + 100, mine + 200, fire)

    monkeypatch.setattr(rollouts, "play", play)
    trainer: Any = SimpleNamespace(global_rank=0, world_size=2, datamodule=None, progress_bar_callback=None)
    others = torch.tensor([[1.0, 101.0, 201.0], [torch.nan] * 3], dtype=torch.float64)  # the other rank has one less
    module: Any = SimpleNamespace(device="cpu", all_gather=lambda mine: torch.stack([mine, others]))
    returns = Rollouts(episodes=3, fire=fire)._score(trainer, module, "breakout", None, "fit")
    assert (returns.values.tolist(), returns.steps.tolist(), returns.seeds.tolist()) == (
        [0, 1, 2], [100, 101, 102], [200, 201, 202]
    )  # fmt: skip
    assert returns.fire is fire


def test_fire_is_refused_before_the_run_where_a_game_has_none():
    data = SimpleNamespace(actions={"breakout": 4, "freeway": 3})
    trainer: Any = SimpleNamespace(callbacks=[], datamodule=data)
    module: Any = SimpleNamespace(policies=dict)
    with pytest.raises(ValueError, match=r"freeway has no FIRE among its actions .*: choose --rollouts.fire false"):
        Rollouts(fire=True).setup(trainer, module, "test")
    for allowed in (False, None):
        Rollouts(fire=allowed).setup(trainer, module, "test")
