"""Scores of teachers, from the command line."""

import json

import numpy as np
import pytest
from borrowing import model

from pd_lightning import score
from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.rollout import play
from pd_lightning.teacher import load_teacher


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "brief", Protocol("brief", epsilon=0.3, frame_limit=400))


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["score", *map(str, words)])
    return score.main()


def test_the_score_is_that_of_the_episodes_named(monkeypatch, capsys, teachers):
    assert run(monkeypatch, teachers["breakout"], "--episodes=3", "--protocol=brief", "--json=true") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["game"], said["protocol"], said["fire"]) == ("breakout", "brief", False)
    assert said["mean"] == np.mean(said["returns"])
    again = play(load_teacher(teachers["breakout"]), "breakout", 3, score_seed(), protocol="brief", parallel=1)
    assert (again.values.tolist(), again.seeds.tolist()) == (said["returns"], said["seeds"])


def score_seed():
    from pd_lightning.episodes import SCORE_SEEDS, episode_seeds

    return int(episode_seeds(1, SCORE_SEEDS, 0)[0])


def test_it_is_shown_with_its_interval_beside_published_scores_and_the_rule_of_fire(monkeypatch, capsys, tmp_path):
    path = tmp_path / "dqn-BreakoutNoFrameskip-v4.zip"
    model("DQN", 4, features_extractor_kwargs='{"features_dim": 16}').save(path)
    assert run(monkeypatch, path, "--episodes=2", "--protocol=brief") == 0
    out = capsys.readouterr().out
    assert "over 2 episodes, protocol brief, FIRE pressed; random play 1.7, human (Wang et al.) 30.5" in out


@pytest.mark.parametrize(("words", "complaint"), [
    (["none.zip", "--game=pong"], "error: none.zip: there is no such file"),
    (["none.zip", "--episodes=0"], "error: --episodes is 0"),
])  # fmt: skip
def test_what_cannot_be_scored_is_one_line(monkeypatch, capsys, words, complaint):
    assert run(monkeypatch, *words) == 1
    err = capsys.readouterr().err
    assert err.startswith(complaint)
    assert err.count("\n") == 1
