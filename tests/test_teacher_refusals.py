"""Files that are no teachers: none runs code or passes for one."""

import pickle
import re

import pytest
import torch
from conftest import checkpoint_of, tiny_network
from payload import Payload
from safetensors import safe_open
from safetensors.torch import save_file

from pd_lightning.distillation import PolicyDistillation
from pd_lightning.networks import QNetwork
from pd_lightning.pqn import PQN
from pd_lightning.teacher import Teacher, TeacherError, load_teacher, save_teacher


@pytest.fixture
def saved(tmp_path):
    return save_teacher(tiny_network("pong"), tmp_path / "pong" / "teacher.safetensors", {"steps": 5, "score": 20.5})


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle", "in the settings"])
def test_a_file_that_would_run_code_is_refused_and_the_code_does_not_run(tmp_path, way):
    (tmp_path / "ran").unlink(missing_ok=True)
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # it is dangerous
    (tmp_path / "ran").unlink()
    module, path, payload = PQN({"pong": 6}, "net3"), tmp_path / "evil.ckpt", Payload(tmp_path / "ran")
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": {"games": {"pong": 6}, "size": "net3"}}
    if way == "in the settings":
        checkpoint["hyper_parameters"]["size"] = payload
    else:
        checkpoint["extra"] = payload
    if way == "pickle":
        path.write_bytes(pickle.dumps(checkpoint))
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=way != "legacy")
    refusal = r"evil\.ckpt: (its pickle wants 'posix system'|neither a teacher file nor .* without running code)"
    with pytest.raises(TeacherError, match=refusal):
        load_teacher(path)
    assert not (tmp_path / "ran").exists()


def test_the_harmless_twin_of_that_file_is_accepted(tmp_path):
    module = PQN({"pong": 6}, "net3")
    settings = {"games": {"pong": 6}, "size": "net3"}
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": settings}, tmp_path / "good.ckpt")
    assert load_teacher(tmp_path / "good.ckpt").game == "pong"


@pytest.mark.parametrize("name", ["teacher.safetensors", "last.ckpt"])
def test_a_file_that_is_cut_short_anywhere_is_refused(tmp_path, saved, name):
    whole = saved if "safetensors" in name else checkpoint_of(PQN({"pong": 6}, "net3"), tmp_path / "whole.ckpt")
    content = whole.read_bytes()
    for size in (0, 1, 8, 9, 50, 1000, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(TeacherError, match=re.escape(f"{tmp_path / name}: ")):
            load_teacher(tmp_path / name)


@pytest.mark.parametrize("content", [
    b"Dear teacher,\nhow are you?\n", b"\x00" * 100, b"12345678{}", b"\x02" + b"\x00" * 7 + b"{}", b"PK\x03\x04 no zip",
    pickle.dumps([1, 2]), b"{" * 9,
])  # fmt: skip
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(TeacherError, match=re.escape(f"{tmp_path / 'file'}: ")) as error:
        load_teacher(tmp_path / "file")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_an_error_that_says_how_to_get_one(tmp_path):
    with pytest.raises(TeacherError, match=r"there is no such file; name another, or train .*--data\.game pong"):
        load_teacher(tmp_path / "none.safetensors", "pong")


@pytest.mark.parametrize(("changes", "complaint"), [
    ({"format": "other"}, "format is 'other'"),
    ({"format": None}, "format is None"),
    ({"version": "2"}, "version '2', allowed is .* version '1'"),
    ({"size": "net9"}, "'net9'.*one of dqn, net1"),
    ({"size": "net2"}, "the weights do not fit size 'net2'"),
    ({"actions": "0"}, "'0'.*1 to 255"),
    ({"actions": "256"}, "'256'.*1 to 255"),
    ({"actions": "six"}, "'six'.*1 to 255"),
    ({"actions": "5"}, "the weights do not fit"),
    ({"game": None}, "game, size and actions are None"),
    ({"game": "breakout"}, "the weights do not fit|has 6 actions, breakout has 4"),
    ({"layer_norm": None}, "layer_norm is None"),
    ({"layer_norm": "True"}, "layer_norm is 'True'"),
])  # fmt: skip
def test_metadata_that_does_not_fit_is_refused_by_name(saved, changes, complaint):
    tensors, about = read(saved)
    about = {key: value for key, value in (about | changes).items() if value is not None}
    save_file(tensors, saved, about)
    with pytest.raises(TeacherError, match=re.escape(f"{saved}: ") + f".*({complaint})"):
        load_teacher(saved)


def test_weights_that_are_missing_too_many_or_of_another_shape_are_refused(saved):
    tensors, about = read(saved)
    name = next(iter(tensors))
    for wrong in (
        {key: tensor for key, tensor in tensors.items() if key != name},
        {**tensors, "surplus": torch.zeros(1)},
        {**tensors, name: torch.zeros(3)},
    ):
        save_file(wrong, saved, about)
        with pytest.raises(TeacherError, match="the weights do not fit size 'net3'"):
            load_teacher(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, value):
    tensors, about = read(saved)
    tensors["trunk.hidden.weight"][3, 4] = value
    save_file(tensors, saved, about)
    with pytest.raises(TeacherError, match="not finite"):
        load_teacher(saved)


def test_a_weight_or_a_word_that_was_changed_is_noticed(saved):
    tensors, about = read(saved)
    name = next(iter(tensors))
    for wrong in (({**tensors, name: tensors[name] + 1}, about), (tensors, about | {"score": "21.0"}),
                  (tensors, {key: value for key, value in about.items() if key != "digest"})):  # fmt: skip
        save_file(wrong[0], saved, wrong[1])
        with pytest.raises(TeacherError, match="digest is not that of its content"):
            load_teacher(saved)


@pytest.mark.parametrize("value", [float("nan"), 70_000.0])
def test_weights_that_float16_cannot_hold_are_not_saved(saved, value):
    network, before = tiny_network("pong", seed=1), saved.read_bytes()
    with torch.no_grad():
        network.trunk.hidden.weight[3, 4] = value
    with pytest.raises(TeacherError, match="not finite or beyond float16"):
        save_teacher(network, saved, {})
    assert saved.read_bytes() == before


def test_a_teacher_of_another_game_is_refused(saved):
    with pytest.raises(TeacherError, match="game is 'pong', asked for was 'breakout'"):
        load_teacher(saved, "breakout")


def test_a_head_of_another_width_than_the_games_minimal_action_set_is_refused(tmp_path):
    path = save_teacher(QNetwork({"pong": 18}, "net3"), tmp_path / "teacher.safetensors", {})
    with pytest.raises(TeacherError, match="the network has 18 actions, pong has 6"):
        load_teacher(path)


def test_a_network_of_two_games_is_no_teacher(tmp_path):
    network = QNetwork({"pong": 6, "breakout": 4}, "net3")
    with pytest.raises(TeacherError, match="pong, breakout"):
        Teacher(network, "both")
    with pytest.raises(TeacherError, match=r"teacher\.safetensors.*pong, breakout"):
        save_teacher(network, tmp_path / "teacher.safetensors", {})
    path = checkpoint_of(PolicyDistillation({"pong": 6, "breakout": 4}, "net3"), tmp_path / "last.ckpt")
    for named, said in ((None, "$"), ("freeway", " instead of freeway$")):
        with pytest.raises(TeacherError, match=f"plays pong, breakout, and .*: give --game, one of these{said}"):
            load_teacher(path, named)


@pytest.mark.parametrize("network", [["a"] * 9, 7, "x" * 999])
def test_whatever_a_checkpoint_calls_its_network_the_error_is_short(tmp_path, network):
    path = checkpoint_of(PolicyDistillation({"pong": 6}, "net3"), tmp_path / "last.ckpt")
    torch.save({**torch.load(path, weights_only=True), "network": network}, path)
    with pytest.raises(TeacherError, match=r"last\.ckpt: its network is .{1,80}, which only its own code"):
        load_teacher(path)


@pytest.mark.parametrize("checkpoint", [
    {}, [1], {"state_dict": {}}, {"state_dict": {}, "hyper_parameters": {}},
    {"state_dict": {"network.x": torch.zeros(1)}, "hyper_parameters": {"games": {"pong": 6}, "size": "huge"}},
    {"state_dict": {"network.x": torch.zeros(1)}, "hyper_parameters": {"games": {"pong": "six"}, "size": "net3"}},
    {"state_dict": {"network.x": torch.zeros(1)}, "hyper_parameters": {"games": {"pong": 6}, "size": "net3"}},
    {"state_dict": {"network.x": torch.zeros(1)}, "hyper_parameters": {"games": {"pong": 0}, "size": "net3"}},
    {"state_dict": {"network.x": 1}, "hyper_parameters": {"games": {"pong": 6}, "size": "net3"}},
    {"state_dict": [], "hyper_parameters": None},
    {"state_dict": {"other.x": torch.zeros(1)}, "hyper_parameters": {"games": {"pong": 6}, "size": "net3"}},
])  # fmt: skip
def test_checkpoints_of_something_else_are_refused(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(TeacherError, match=r"other\.ckpt"):
        load_teacher(tmp_path / "other.ckpt")


def test_a_game_that_the_emulator_does_not_have_is_an_error(tmp_path):
    path = save_teacher(QNetwork({"ping": 6}, "net3"), tmp_path / "teacher.safetensors", {})
    with pytest.raises(TeacherError, match=r"teacher\.safetensors: unknown game 'ping': did you mean pong"):
        load_teacher(path)
