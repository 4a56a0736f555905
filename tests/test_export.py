"""Exported files: what another program opens says what the player says, or there is no file."""

import itertools
import json
import sys

import numpy as np
import onnx
import pytest
import torch
from borrowing import model
from conftest import quiet_trainer, tiny_network

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.export import ExportError, checking, export, formats, open_exported
from pd_lightning.export.__main__ import main
from pd_lightning.export.layers import common_layers
from pd_lightning.teacher import Teacher, load_teacher


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "brief", Protocol("brief", epsilon=0.3, frame_limit=120))


@pytest.fixture(scope="module")
def players(tmp_path_factory, teachers):
    """Every kind of network: with layer norms, with a head's own layer, of quantiles, of two outputs of one policy."""
    folder = tmp_path_factory.mktemp("players")
    module = PolicyDistillation({"pong": 6, "breakout": 4}, "multi3")
    for game, mean in (("pong", 90.0), ("breakout", 20.0)):
        module.student.centre(game, torch.full((84, 84), mean), 30.0)
        torch.nn.init.normal_(module.student.heads[game].output.weight)  # pyright: ignore
    trainer = quiet_trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "several.ckpt", weights_only=True)
    files = {"teacher": teachers["pong"], "student of several games": folder / "several.ckpt"}
    for algorithm in ("QR-DQN", "PPO"):
        files[algorithm] = folder / f"{algorithm}-PongNoFrameskip-v4.zip"
        model(algorithm).save(files[algorithm])
    return files


def some_states(count, seed=0):
    return torch.randint(256, (count, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["teacher", "student of several games", "QR-DQN", "PPO"])
def test_common_layers_say_the_same_as_ours(players, kind):
    player = load_teacher(players[kind], "pong")
    ours = player(some_states(7))
    torch.testing.assert_close(common_layers(player)(some_states(7)), ours, rtol=0, atol=1e-5 * float(ours.abs().max()))


def said_by(path):
    """What a file says of itself."""
    if path.suffix == ".onnx":
        return {each.key: each.value for each in onnx.load(path).metadata_props}
    extra = {"about.json": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["about.json"])


@pytest.mark.parametrize(("kind", "suffix", "outputs", "fire"), [
    ("teacher", ".onnx", "Q-values", False), ("student of several games", ".pt2", "logits", False),
    ("QR-DQN", ".pt2", "Q-values", True), ("PPO", ".onnx", "logits", True),
])  # fmt: skip
def test_a_file_says_what_the_player_says_of_any_number_of_states_and_how_to_play(
    players, tmp_path, kind, suffix, outputs, fire
):
    player, path = load_teacher(players[kind], "pong"), tmp_path / "new" / f"player{suffix}"
    both, returns = export(player, path, 2, "brief")
    assert list(path.parent.iterdir()) == [path]
    assert both.states == returns.steps.sum() == 60
    assert both.largest > 0.1
    exported = open_exported(path)
    for count in (1, 2, 33):
        states = some_states(count, seed=count)
        torch.testing.assert_close(exported(states), player(states), rtol=1e-4, atol=1e-4 * both.largest)
    said = said_by(path)
    assert (said["game"], said["outputs"], json.loads(said["fire"])) == ("pong", outputs, fire)
    assert json.loads(said["actions"])[:2] == ["NOOP", "FIRE"]
    assert said["sha256"] == player.sha256


class Wrong(torch.nn.Sequential):
    def __init__(self, layers, wrong):
        super().__init__(*layers)
        self.wrong = wrong

    def forward(self, input):
        return super().forward(input) + self.wrong


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_a_file_that_says_something_else_is_not_kept_and_the_one_before_stays(tmp_path, monkeypatch, wrong):
    path = tmp_path / "player.pt2"
    path.write_text("before")
    monkeypatch.setattr(formats, "common_layers", lambda player: Wrong(common_layers(player), wrong).eval())
    with pytest.raises(ExportError, match=r"player\.pt2: outputs differ by up to (0\.01|nan) .*nothing was kept"):
        export(Teacher(tiny_network("pong"), "tiny"), path, 1, "brief")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_one_wrong_batch_among_right_ones_is_refused(tmp_path, monkeypatch):
    player, wrong = Teacher(tiny_network("pong"), "tiny"), itertools.chain([0.01], itertools.repeat(0.0))
    monkeypatch.setattr(checking, "write", lambda player, part: part.touch())
    monkeypatch.setattr(checking, "open_exported", lambda part: lambda states: player(states) + next(wrong))
    with pytest.raises(ExportError, match=r"outputs differ by up to 0\.01 .*nothing was kept"):
        export(player, tmp_path / "player.pt2", 1, "brief")
    assert not list(tmp_path.iterdir())


def test_states_with_another_greedy_action_are_counted():
    both = checking.Comparison(lambda states: torch.tensor([[1.0, 2.0], [3.0, 1.0]]),
                               lambda states: torch.tensor([[2.0, 1.5], [3.0, 1.0]]))  # fmt: skip
    assert both(torch.zeros(2, 1)).tolist() == [[1, 2], [3, 1]]
    assert (both.states, both.other_actions, both.difference, both.largest) == (2, 1, 1.0, 3.0)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["export", *map(str, words)])
    return main()


def test_the_command_says_where_the_file_is_and_what_was_compared(players, tmp_path, monkeypatch, capsys):
    words = (players["student of several games"], "--game=breakout", "--output=small.pt2", "--protocol=brief")
    assert run(monkeypatch, *words) == 0
    out = capsys.readouterr().out
    assert out.startswith("small.pt2: breakout, ")
    assert "compared in 60 states of 2 episodes (protocol brief, return 0.0): the same action in each" in out
    assert np.isfinite(open_exported(tmp_path / "small.pt2")(some_states(3)).numpy()).all()


@pytest.mark.parametrize(("words", "complaint"), [
    (["none.ckpt"], "error: none.ckpt: there is no such file"),
    (["none.ckpt", "--episodes=0"], "error: --episodes is 0"),
    (["none.ckpt", "--output=x.tflite"], "error: --output is x.tflite: choose a name that ends in .onnx or .pt2"),
    (["hf://sb3/dqn-PongNoFrameskip-v4"], "error: hf://sb3/dqn-PongNoFrameskip-v4 lies elsewhere: choose an --output"),
])  # fmt: skip
def test_what_cannot_be_exported_is_one_line(monkeypatch, capsys, words, complaint):
    assert run(monkeypatch, *words) == 1
    err = capsys.readouterr().err
    assert err.startswith(complaint)
    assert err.count("\n") == 1


def test_a_network_of_ones_own_is_refused_before_anything_is_played(tmp_path):
    mine = Teacher.of(lambda states: torch.zeros(len(states), 6), "pong", "mine")
    with pytest.raises(ExportError, match=r"player\.pt2: mine is of no network .* export your own by torch\.export"):
        export(mine, str(tmp_path / "player.pt2"))
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_message_names_the_extra_and_nothing_is_left(players, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"ONNX needs onnxscript: pip install -e '\.\[onnx\]', or .* \.pt2"):
        export(load_teacher(players["teacher"]), tmp_path / "player.onnx", 1, "brief")
    assert not list(tmp_path.iterdir())
