"""Teachers: the same network after saving, whatever file it came from; and what else may teach."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import checkpoint_of, quiet_trainer, tiny_network

from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.networks import QNetwork
from pd_lightning.pqn import PQN
from pd_lightning.teacher import Teacher, TeacherError, load_teacher, save_teacher, weights_sha256

SHIPPED = Path(__file__).parent.parent / "datasets"


@pytest.fixture(scope="module")
def states():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84), np.uint8))


@pytest.fixture
def saved(tmp_path):
    return save_teacher(tiny_network("pong"), tmp_path / "pong" / "teacher.safetensors", {"steps": 5, "score": 20.5})


# What is kept


def test_a_saved_teacher_is_the_network_but_for_rounding_to_float16(saved, states):
    network, teacher = tiny_network("pong"), load_teacher(saved, "pong")
    for name, tensor in network.state_dict().items():
        loaded = teacher.network.state_dict()[name]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, tensor.half().float())
    q = network(states)["pong"].detach()
    assert torch.allclose(teacher(states), q, atol=0.01 * float(q.abs().max()))


def test_saving_it_again_loses_nothing_more(saved, tmp_path):
    first = load_teacher(saved)
    assert isinstance(first.network, QNetwork)
    second = load_teacher(save_teacher(first.network, tmp_path / "again.safetensors", first.about))
    assert second.sha256 == first.sha256
    assert second.about == first.about


def test_a_teacher_answers_for_itself(saved, states):
    teacher = load_teacher(saved)
    assert (teacher.game, teacher.actions, teacher.name) == ("pong", 6, "pong/teacher")
    assert (teacher.about["steps"], teacher.about["score"], teacher.about["size"]) == ("5", "20.5", "net3")
    q = teacher(states)
    assert (q.shape, q.dtype, q.requires_grad) == ((5, 6), torch.float32, False)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    with torch.autocast("cpu", torch.bfloat16):  # somebody else's precision
        assert torch.equal(teacher(states), q)


def test_layer_normalisation_which_has_no_weights_is_remembered(tmp_path, states):
    for layer_norm in (True, False):
        network = QNetwork({"pong": 6}, "net3", layer_norm)
        teacher = load_teacher(save_teacher(network, tmp_path / "teacher.safetensors", {}))
        assert teacher.network.trunk.layer_norm == layer_norm
        network.load_state_dict(teacher.network.state_dict())
        assert torch.equal(teacher(states), network(states)["pong"])


def test_what_is_said_about_a_teacher_cannot_contradict_what_it_is(tmp_path):
    about = {"game": "breakout", "actions": 4, "size": "dqn", "format": "?", "layer_norm": "no", "name": "Bob"}
    teacher = load_teacher(save_teacher(tiny_network("pong"), tmp_path / "teacher.safetensors", about))
    assert (teacher.game, teacher.actions, teacher.name) == ("pong", 6, "Bob")


def test_the_name_of_the_weights_is_theirs_and_not_their_files(saved, tmp_path):
    teacher = load_teacher(saved)
    assert re.fullmatch("[0-9a-f]{64}", teacher.sha256)
    assert load_teacher(saved).sha256 == teacher.sha256
    state = teacher.network.state_dict()
    assert weights_sha256({name: state[name] for name in reversed(list(state))}) == teacher.sha256
    module = PQN({"pong": 6}, "net3")
    module.network.load_state_dict(state)
    assert load_teacher(checkpoint_of(module, tmp_path / "pqn.ckpt")).sha256 == teacher.sha256
    next(teacher.network.parameters()).view(-1)[0] += 1
    assert weights_sha256(teacher.network.state_dict()) != teacher.sha256


def test_saving_replaces_the_file_in_one_piece(saved):
    before = load_teacher(saved).sha256
    save_teacher(tiny_network("pong", seed=1), saved, {})
    assert load_teacher(saved).sha256 != before
    assert [path.name for path in saved.parent.iterdir()] == ["teacher.safetensors"]


def test_a_file_says_whether_fire_is_to_be_pressed_and_early_ones_that_nobody_did(tmp_path, saved):
    assert load_teacher(saved).fire is False
    pressed = save_teacher(tiny_network("breakout"), tmp_path / "pressed.safetensors", {}, fire=True)
    assert load_teacher(pressed).fire is True
    assert all(not load_teacher(path).fire for path in SHIPPED.glob("*/teacher.safetensors"))


@pytest.mark.parametrize("module", [PQN({"pong": 6}, "net3"), PolicyDistillation({"pong": 6, "breakout": 4}, "net3")])
def test_a_checkpoint_says_whether_fire_was_pressed_for_those_it_learned_from(tmp_path, module):
    for fire in (True, False):
        module.fire = {"pong": fire, "breakout": not fire}
        assert load_teacher(checkpoint_of(module, tmp_path / "last.ckpt"), "pong").fire is fire


# Checkpoints of a training


def test_the_checkpoint_of_a_training_is_a_teacher(tmp_path, states):
    module = PQN({"breakout": 4}, "net2")
    teacher = load_teacher(checkpoint_of(module, tmp_path / "last.ckpt"), "breakout")
    assert (teacher.game, teacher.actions) == ("breakout", 4)
    assert torch.equal(teacher(states), module.network(states)["breakout"])


def test_a_distilled_student_can_teach(tmp_path, datasets, states):
    data = TeacherDatasets(str(datasets), ["pong"], batch_size=20)
    module = PolicyDistillation(data.actions, "net3")
    trainer = quiet_trainer(limit_train_batches=2, limit_val_batches=0)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    teacher = load_teacher(tmp_path / "last.ckpt")
    assert teacher.about == {"updates": "2", "temperature": str(module.temperature("pong"))}
    assert torch.equal(teacher(states), module.eval()(states)["pong"])


def test_a_runs_folder_stands_for_its_last_checkpoint(tmp_path):
    with pytest.raises(TeacherError, match=r": a folder without a last\.ckpt; name a run's folder"):
        load_teacher(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    module = PolicyDistillation({"pong": 6}, size="net3")
    path = checkpoint_of(module, tmp_path / "checkpoints" / "last.ckpt")
    assert load_teacher(tmp_path).sha256 == load_teacher(path).sha256


def test_one_game_of_a_student_of_several_plays_as_the_student_does_there(tmp_path):
    module = PolicyDistillation(
        {"pong": 6, "breakout": 4, "pong_two": 6}, "multi3", temperature={"pong": 0.1, "breakout": 0.2, "pong_two": 0.3}
    )
    module.student.centre("breakout", torch.full((84, 84), 50.0), 20.0)
    path = checkpoint_of(module, tmp_path / "last.ckpt")
    states = torch.randint(256, (8, 4, 84, 84), dtype=torch.uint8)
    for game in ("pong", "breakout"):
        teacher = load_teacher(path, game)
        assert (teacher.game, teacher.outputs) == (game, "logits")
        torch.testing.assert_close(teacher(states), module.eval()(states)[game], rtol=0, atol=1e-6)
    assert load_teacher(path, "breakout").about["temperature"] == "0.2"


class Normalised(PolicyDistillation):
    """The same weights, and another network."""

    def build(self, games, size):
        return QNetwork(games, size, layer_norm=True)


def test_a_network_that_only_its_own_class_can_build_is_not_taken_for_ours(tmp_path, states):
    module = Normalised({"pong": 6}, "net3")
    torch.nn.init.normal_(module.student.heads["pong"].output.weight)
    path = checkpoint_of(module, tmp_path / "last.ckpt")
    with pytest.raises(TeacherError, match=r"its network is pd_lightning\.networks\.QNetwork, .*Teacher\.of"):
        load_teacher(path)
    own = Normalised.load_from_checkpoint(path, weights_only=True)
    own.fire = {"pong": True}
    teacher = Teacher.of(own, "pong", "normalised")
    assert (teacher.outputs, teacher.fire) == ("logits", True)
    for each in (teacher, Teacher.of(own.student, "pong", "its network", outputs="logits")):
        torch.testing.assert_close(each(states), module.student(states)["pong"])
    with pytest.raises(TeacherError, match="normalised: plays pong, not breakout"):
        Teacher.of(own, "breakout", "normalised")


# Modules


def test_a_teacher_of_anything_may_stand_in_a_loss_and_another_has_another_name(states):
    def sums(seen):
        return seen.flatten(1).double().sum(1, keepdim=True) * torch.arange(6)

    teacher = Teacher.of(sums, "pong", "sums")
    weight = torch.zeros(6, requires_grad=True)
    (weight * teacher(states) / 1e6).pow(2).sum().backward()
    assert teacher(states).dtype == torch.float32
    assert teacher.sha256 == Teacher.of(sums, "pong", "sums").sha256 != Teacher.of(sums, "pong", "others").sha256
    with pytest.raises(TeacherError, match="outputs is 'v'"):
        Teacher.of(sums, "pong", "sums", outputs="v")


def test_a_module_that_calls_a_part_of_itself_student_is_a_module_like_any(states):
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.student = torch.nn.Linear(1, 6)

        def forward(self, seen):
            return self.student(seen.flatten(1).float().mean(1, keepdim=True))

    pair = Pair()
    assert torch.equal(Teacher.of(pair, "pong", "pair")(states), pair(states))


def test_a_module_with_dropout_answers_the_same_twice(saved, states):
    sure = load_teacher(saved)
    teacher = Teacher.of(torch.nn.Sequential(sure, torch.nn.Dropout(0.5)).train(), "pong", "of two minds")
    assert torch.equal(teacher(states), sure(states))
    assert torch.equal(teacher(states), teacher(states))
