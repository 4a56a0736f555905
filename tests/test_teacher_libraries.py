"""Teachers of other libraries: the same numbers as the library itself gives, whichever version saved them."""

import gzip
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from borrowing import ALGORITHMS, ENVIRONMENT, SMALL_TEXT, AtariNet, CleanRL, model, rewrite, says, small_dqn

from pd_lightning.blocks import Shard
from pd_lightning.teacher import TeacherError, load_teacher

RECORDING = Path(__file__).parents[1] / "datasets" / "pong" / "0000.h5"


@pytest.fixture(scope="module")
def states():
    """256 random states and 256 that were recorded."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 4, 84, 84), np.uint8)
    shard = Shard(RECORDING)
    real = np.concatenate([shard.states(block) for block in range(0, 800, 80)])[:256]
    assert len(real) == 256
    return np.concatenate([noise, real])


@pytest.fixture
def saved(tmp_path):
    """A DQN of Stable-Baselines3, as small as it may be, in a folder that does not name the game."""
    return small_dqn(tmp_path / "my.zip")


def assert_same(teacher, made, states):
    ours, theirs = teacher(torch.from_numpy(states)), says(made, states)
    assert (ours.shape, ours.dtype) == (theirs.shape, torch.float32)
    assert theirs.std() > 0.02  # they are no constants
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


# The same numbers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_zip_says_what_the_library_says(tmp_path, states, algorithm):
    made = model(algorithm)
    made.save(tmp_path / "my.zip")
    teacher = load_teacher(tmp_path / "my.zip", "pong")
    assert (teacher.game, teacher.actions) == ("pong", 6)
    assert teacher.outputs == ("q" if "DQN" in algorithm else "logits")
    assert teacher.fire
    assert algorithm in teacher.about["format"]
    assert_same(teacher, made, states)


@pytest.mark.parametrize(("algorithm", "settings"), [
    ("DQN", {"net_arch": "[32]"}), ("DQN", {"net_arch": "[32, 24]"}), ("DQN", {"normalize_images": False}),
    ("QR-DQN", {"n_quantiles": 50}), ("QR-DQN", {"n_quantiles": 7, "net_arch": "[32]"}),
    ("PPO", {"share_features_extractor": False}),
])  # fmt: skip
def test_settings_that_change_the_network_are_followed(tmp_path, states, algorithm, settings):
    made = model(algorithm, **SMALL_TEXT, **settings)
    made.save(tmp_path / "my.zip")
    teacher = load_teacher(tmp_path / "my.zip", "pong")
    theirs = says(made, states)
    scale = float(theirs.abs().max().clamp(min=1))  # grey levels that are not divided give outputs of some hundreds
    torch.testing.assert_close(teacher(torch.from_numpy(states)) / scale, theirs / scale, rtol=0, atol=1e-5)


def as_in_2021(data):
    """Settings as version 1.0 wrote them: shapes as lists, numbers as numbers, fewer fields."""
    data["observation_space"] = {":type:": "<class 'gym.spaces.box.Box'>", ":serialized:": "gAWV", "dtype": "uint8",
                                 "shape": [4, 84, 84], "low": "[[[0 0]]]"}  # fmt: skip
    data["action_space"] = {":type:": "<class 'gym.spaces.discrete.Discrete'>", ":serialized:": "gAWV", "n": 6,
                            "shape": [], "dtype": "int64"}  # fmt: skip
    return data


def as_strings(data):
    """Settings as version 2.4 wrote them: shapes and numbers as text."""
    data["observation_space"]["_shape"] = "[4, 84, 84]"
    data["action_space"]["n"] = "6"
    return data


def without_copies(state):
    """PPO and A2C before the extractors had names of their own."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(("pi_", "vf_"))}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("version", ["2021", "text", "no settings", "packed"])
def test_zips_of_other_versions_say_the_same(tmp_path, states, algorithm, version):
    made = model(algorithm, **SMALL_TEXT)
    made.save(tmp_path / "new.zip")
    changes = {
        "2021": {"drop": ("system_info.txt",), "data": as_in_2021, "weights": without_copies},
        "text": {"data": as_strings},
        "no settings": {"drop": ("system_info.txt", "data", "_stable_baselines3_version")},
        "packed": {"compression": zipfile.ZIP_DEFLATED},
    }[version]
    path = rewrite(tmp_path / "new.zip", tmp_path / "old.zip", **changes)
    assert_same(load_teacher(path, "pong"), made, states)


def test_a_policy_alone_is_enough(tmp_path, states):
    made = model("QR-DQN", **SMALL_TEXT)
    made.save(tmp_path / "my.zip")
    zipfile.ZipFile(tmp_path / "my.zip").extract("policy.pth", tmp_path / ENVIRONMENT)
    teacher = load_teacher(tmp_path / ENVIRONMENT / "policy.pth")
    assert teacher.game == "pong"
    assert_same(teacher, made, states)


@pytest.mark.parametrize("atoms", [1, 51])
def test_a_model_of_cleanrl_says_what_its_script_says(tmp_path, states, atoms):
    made = CleanRL(6, atoms)
    path = made.save(tmp_path / f"{ENVIRONMENT}__dqn_atari__1__1690000000" / "dqn_atari.cleanrl_model")
    teacher = load_teacher(path)
    with torch.no_grad():
        theirs = made(torch.from_numpy(states))
    assert (teacher.game, teacher.outputs, teacher.fire) == ("pong", "q", True)
    assert theirs.std() > 0.02
    torch.testing.assert_close(teacher(torch.from_numpy(states)), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("atoms", [1, 51])
def test_a_checkpoint_of_atari_agents_says_what_their_script_says(tmp_path, states, atoms):
    made = AtariNet(6, atoms)
    folder = tmp_path / ("C51_classic" if atoms > 1 else "DQN_modern") / "Pong" / "0"
    path = made.save(folder / "model_50000000.gz", cfg={"device": torch.device("cuda"), "lr": 0.00025})
    teacher = load_teacher(path)
    with torch.no_grad():
        theirs = made(torch.from_numpy(states))
    assert (teacher.game, teacher.outputs, teacher.fire) == ("pong", "q", False)
    assert teacher.about["format"] == ("Atari Agents C51" if atoms > 1 else "Atari Agents DQN")
    assert theirs.std() > 0.02
    torch.testing.assert_close(teacher(torch.from_numpy(states)), theirs, rtol=0, atol=1e-5)
    with pytest.raises(TeacherError, match=r"game is 'pong' by .*model_50000000\.gz, asked for was 'breakout'"):
        load_teacher(path, "breakout")


def test_a_checkpoint_of_atari_agents_elsewhere_must_be_told_its_game_and_fit_it(tmp_path):
    path = AtariNet(6, hidden=8).save(tmp_path / "model_50000000.gz")
    with pytest.raises(TeacherError, match=r"model_50000000\.gz: does not name its game; say it with --game"):
        load_teacher(path)
    assert load_teacher(path, "pong").actions == 6
    with pytest.raises(TeacherError, match="the network has 6 actions, breakout has 4"):
        load_teacher(path, "breakout")


def test_a_packed_file_that_is_no_teacher_is_refused_by_name(tmp_path, saved):
    for number, content in enumerate((saved.read_bytes(), b"nothing", b"")):
        (tmp_path / f"{number}.gz").write_bytes(gzip.compress(content))
        with pytest.raises(TeacherError, match=rf"/{number}\.gz: (neither a teacher file|holds something else)"):
            load_teacher(tmp_path / f"{number}.gz", "pong")


def test_what_a_file_is_is_seen_from_its_content(tmp_path, saved):
    sha = load_teacher(saved, "pong").sha256
    for name in ("teacher.safetensors", "last.ckpt", "model.cleanrl_model", "none"):
        assert load_teacher(saved.rename(saved.with_name(name)), "pong").sha256 == sha
        saved = saved.with_name(name)


def test_fire_is_not_pressed_where_there_is_none(tmp_path):
    model("DQN", 3, **SMALL_TEXT).save(tmp_path / "FreewayNoFrameskip-v4.zip")
    assert not load_teacher(tmp_path / "FreewayNoFrameskip-v4.zip").fire


# What is refused


def test_a_network_of_another_action_set_is_refused_with_both_numbers(tmp_path, saved):
    with pytest.raises(TeacherError, match=r"my\.zip: the network has 6 actions, breakout has 4"):
        load_teacher(saved, "breakout")
    path = CleanRL(18, 51, hidden=8).save(tmp_path / "c51.cleanrl_model")
    with pytest.raises(TeacherError, match="the network has 18 actions, pong has 6"):
        load_teacher(path)
    model("QR-DQN", 18, **SMALL_TEXT).save(tmp_path / "qr.zip")
    for drop in ((), ("data",)):
        path = rewrite(tmp_path / "qr.zip", tmp_path / "qr_old.zip", drop=drop)
        with pytest.raises(TeacherError, match="the network has 18 actions, pong has 6"):
            load_teacher(path, "pong")


def changed(name, change):
    def weights(state):
        return {key: change(tensor) if key == name else tensor for key, tensor in state.items()}

    return weights


@pytest.mark.parametrize(("weights", "complaint"), [
    (changed("q_net.features_extractor.cnn.0.weight", lambda w: w[:, :3]), "32x3x8x8, allowed is Nx4x8x8"),
    (changed("q_net.features_extractor.linear.0.weight", lambda w: w[:, :100]), "16x100, allowed is Nx3136"),
    (changed("q_net.q_net.0.bias", lambda b: b[:5]), "q_net.q_net.0.bias is 5, allowed is 6"),
    (changed("q_net.q_net.0.weight", lambda w: w * float("nan")), "not finite"),
    (changed("q_net.q_net.0.weight", lambda w: w.long()), "is Tensor, allowed is a tensor"),
    (changed("q_net.q_net.0.weight", lambda w: torch.zeros(1).expand(10**8, 16)), "100000000x16, allowed is Nx16"),
    (lambda state: {**state, "q_net.advantage.0.weight": torch.zeros(1)}, "'q_net.advantage.0.weight' .*dueling"),
    (lambda state: {k: v for k, v in state.items() if "cnn.2" not in k}, r"cnn\.2\.weight is missing"),
    (lambda state: {"q_net.q_net.0.weight": torch.zeros(6, 4)}, "no convolutions of a NatureCNN"),
    (lambda state: [1], "policy.pth is list"),
])  # fmt: skip
def test_weights_of_another_network_are_refused_by_name(saved, weights, complaint):
    path = rewrite(saved, saved.with_name("other.zip"), weights=weights)
    with pytest.raises(TeacherError, match=re.escape(str(path)) + ": .*" + complaint):
        load_teacher(path, "pong")


@pytest.mark.parametrize(("data", "complaint"), [
    ({"policy_kwargs": {"features_extractor_class": "<class 'my.Net'>"}}, "features_extractor_class is \"<class 'my"),
    ({"observation_space": {"dtype": "float32"}}, "observation_space's dtype is 'float32', allowed is 'uint8'"),
    ({"observation_space": {"_shape": [1, 84, 84]}}, "observation_space's shape is '1,84,84', allowed is '4,84,84'"),
])  # fmt: skip
def test_settings_of_another_network_are_refused_by_name(saved, data, complaint):
    path = rewrite(saved, saved.with_name("other.zip"), data=lambda old: {**old, **data})
    with pytest.raises(TeacherError, match=complaint):
        load_teacher(path, "pong")


def test_layers_between_features_and_actions_of_ppo_are_refused(tmp_path):
    model("PPO", net_arch="[8]", **SMALL_TEXT).save(tmp_path / "my.zip")
    with pytest.raises(TeacherError, match=r"a weight 'mlp_extractor.*net_arch"):
        load_teacher(tmp_path / "my.zip", "pong")


def test_another_activation_between_layers_is_refused(tmp_path):
    made = model("DQN", net_arch="[8]", activation_fn=torch.nn.Tanh, **SMALL_TEXT)
    made.save(tmp_path / "my.zip")
    with pytest.raises(TeacherError, match=r"activation_fn is .*Tanh.*, allowed is 'ReLU'"):
        load_teacher(tmp_path / "my.zip", "pong")


@pytest.mark.parametrize("content", [b"\x81\xa6params\x81\xa6params\x80", b"\x82\xa10\x85", b"\xde\x00\x10\xa10\x85"])
def test_a_flax_file_is_called_one(tmp_path, content):
    (tmp_path / "dqn_atari_jax.cleanrl_model").write_bytes(content + bytes(1000))
    with pytest.raises(TeacherError, match=r"cleanrl_model: a flax file, of a JAX script .*dqn_atari\.py instead"):
        load_teacher(tmp_path / "dqn_atari_jax.cleanrl_model", "pong")
