"""Where the teacher of another library lies, on a disk or on the hub: it tells the game, and has settings beside it."""

import re
import zipfile
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from borrowing import ENVIRONMENT, CleanRL, small_dqn
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from pd_lightning.teacher import TeacherError, load_teacher
from pd_lightning.teacher import hub as hub_module

CONFIG = """!!python/object/apply:collections.OrderedDict
- - - batch_size
    - 32
  - - env_wrapper
    - - stable_baselines3.common.atari_wrappers.AtariWrapper
  - - frame_stack
    - 4
  - - policy
    - CnnPolicy
"""
ARGS = """!!python/object/apply:collections.OrderedDict
- - - algo
    - dqn
  - - env
    - PongNoFrameskip-v4
"""


@pytest.fixture
def saved(tmp_path):
    """A DQN of Stable-Baselines3, as small as it may be, in a folder that does not name the game."""
    return small_dqn(tmp_path / "my.zip")


# The game


@pytest.mark.parametrize("place", [
    "dqn-PongNoFrameskip-v4.zip", "dqn/PongNoFrameskip-v4_1/best_model.zip", "ALE-Pong-v5.zip",
    "dqn-PongNoFrameskip-v4/dqn-PongNoFrameskip-v4/my.zip",
])  # fmt: skip
def test_names_of_files_and_folders_tell_the_game(tmp_path, saved, place):
    path = tmp_path / "logs" / place
    path.parent.mkdir(parents=True)
    assert load_teacher(saved.rename(path)).game == "pong"


def test_the_arguments_of_a_training_tell_the_game(saved):
    (saved.parent / "args.yml").write_text(ARGS)
    assert load_teacher(saved).game == "pong"
    with pytest.raises(TeacherError, match=r"game is 'pong' by .*args\.yml, asked for was 'breakout'"):
        load_teacher(saved, "breakout")


def test_a_game_that_nothing_tells_must_be_given(saved):
    with pytest.raises(TeacherError, match=r"my\.zip: does not name its game; say it with --game"):
        load_teacher(saved)
    with pytest.raises(TeacherError, match=r"my\.zip: unknown game 'ping': did you mean pong"):
        load_teacher(saved, "ping")


def test_a_name_that_contradicts_the_game_is_refused(saved):
    path = saved.rename(saved.with_name("dqn-SpaceInvadersNoFrameskip-v4.zip"))  # it has as many actions
    with pytest.raises(TeacherError, match=r"game is 'space_invaders' .* asked for was 'pong'"):
        load_teacher(path, "pong")
    assert load_teacher(path).game == "space_invaders"


# RL Zoo's settings


@pytest.mark.parametrize("folder", [".", "my"])
def test_the_settings_of_rl_zoo_beside_a_zip_are_accepted(saved, folder):
    (saved.parent / folder).mkdir(exist_ok=True)
    (saved.parent / folder / "config.yml").write_text(CONFIG)
    assert load_teacher(saved, "pong").game == "pong"


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ("    - 4", "    - 3", r"frame_stack is 3, allowed is 4"),
    ("CnnPolicy", "MlpPolicy", r"policy is 'MlpPolicy', allowed is 'CnnPolicy'"),
    ("stable_baselines3.common.atari_wrappers.AtariWrapper", "my.Wrapper", r"env_wrapper is 'my\.Wrapper'"),
    ("AtariWrapper", "AtariWrapper:\n          frame_skip: 2", r"env_wrapper's frame_skip is 2, allowed is 4"),
    ("batch_size\n    - 32", "normalize\n    - true", r"normalize is True, allowed is False"),
    ("batch_size\n    - 32", "a\n    - !!python/object/apply:os.system ['true']", r"not the settings of RL Zoo"),
    ("batch_size\n    - 32", "a\n    - [", r"not the settings of RL Zoo"),
    ("batch_size\n    - 32", "a\n    - &a [x]\n  - - b\n    - [*a]", r"not the settings .*refers to another"),
    ("batch_size\n    - 32", "a\n    - " + "[" * 5000, r"not the settings of RL Zoo"),
    ("batch_size\n    - 32", "env_kwargs\n    - {frameskip: 3}", r"env_kwargs' frameskip is 3, allowed is 1"),
    ("batch_size\n    - 32", "env_kwargs\n    - {mode: 1}", r"env_kwargs' mode is 1, allowed is 0"),
    ("batch_size\n    - 32", "env_kwargs\n    - {repeat_action_probability: 0.25}", r"env_kwargs' repeat_action_prob"),
    ("batch_size\n    - 32", "env_kwargs\n    - dict(frameskip=3)", r"env_kwargs is 'dict\(frameskip=3\)', allowed is"),
])  # fmt: skip
def test_settings_of_rl_zoo_that_mean_other_states_are_refused(saved, old, new, complaint):
    assert old in CONFIG
    (saved.parent / "config.yml").write_text(CONFIG.replace(old, new))
    with pytest.raises(TeacherError, match=r"config\.yml: " + complaint):
        load_teacher(saved, "pong")


ENVIRONMENTS = {
    "ALE/Pong-v5": "frameskip of ALE/Pong-v5 is 4, allowed is 1|repeat_action_probability of ALE/Pong-v5 is 0.25",
    "PongDeterministic-v4": "frameskip of PongDeterministic-v4 is 4, allowed is 1",
    "Pong-v4": "frameskip of Pong-v4 is '2 to 4', allowed is 1",
    "PongNoFrameskip-v0": "repeat_action_probability of PongNoFrameskip-v0 is 0.25, allowed is 0.0",
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_that_shows_other_states_than_the_agents_wrapper_expects_is_refused(saved, tmp_path, name):
    (saved.parent / "args.yml").write_text(ARGS.replace("PongNoFrameskip-v4", name))
    with pytest.raises(TeacherError, match=rf"args\.yml: ({ENVIRONMENTS[name]})"):
        load_teacher(saved)
    path = CleanRL(6, atoms=51).save(tmp_path / "c51_atari.cleanrl_model", name)
    with pytest.raises(TeacherError, match=rf"cleanrl_model: ({ENVIRONMENTS[name]})"):
        load_teacher(path)


@pytest.mark.parametrize("file", ["args.yml", "config.yml"])
def test_an_environment_whose_options_make_it_the_usual_one_is_accepted(saved, file):
    options = "  - - env_kwargs\n    - {frameskip: 1, repeat_action_probability: 0.0, mode: null, x: y}\n"
    for name, text in {"args.yml": ARGS.replace("PongNoFrameskip-v4", "ALE/Pong-v5"), "config.yml": CONFIG}.items():
        (saved.parent / name).write_text(text + options * (name == file))
    assert load_teacher(saved).game == "pong"


def test_a_file_of_that_name_that_is_not_rl_zoos_is_left_alone(saved):
    (saved.parent / "config.yml").write_text("site: mine\n")
    assert load_teacher(saved, "pong").game == "pong"


# The hub


class Hub(MemoryFileSystem):
    """What the hub holds, in memory; `opened` are the files that were asked for."""

    protocol = "hf"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    opened: ClassVar[list] = []

    def _open(self, path, *args, **kwargs):
        if "r" in (args[0] if args else kwargs.get("mode", "rb")):
            self.opened.append(path.rpartition("/")[2])
        return super()._open(path, *args, **kwargs)


@pytest.fixture
def hub(monkeypatch, tmp_path, saved):
    """A model of sb3 as it lies on the hub."""
    monkeypatch.setenv("PD_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(_registry, "hf", Hub)
    Hub.store, Hub.pseudo_dirs, Hub.opened = {}, [""], []
    Hub.clear_instance_cache()
    files, name = fsspec.filesystem("hf"), f"dqn-{ENVIRONMENT}"
    archive = zipfile.ZipFile(saved)
    with_members = {f"{name}/{member}": archive.read(member) for member in archive.namelist()}
    lying = {
        **with_members,
        f"{name}.zip": saved.read_bytes(),
        "config.yml": CONFIG.encode(),
        "args.yml": ARGS.encode(),
    }
    lying["train_eval_metrics.zip"] = b"PK"
    for path, content in lying.items():
        files.pipe_file(f"sb3/{name}/{path}", content)
    return files


def test_of_a_model_on_the_hub_only_what_is_needed_is_fetched_and_only_once(hub, saved):
    teacher = load_teacher(f"hf://sb3/dqn-{ENVIRONMENT}")
    assert sorted(Hub.opened) == ["args.yml", "config.yml", "data", "policy.pth"]
    assert (teacher.game, teacher.sha256) == ("pong", load_teacher(saved, "pong").sha256)
    Hub.opened.clear()
    assert load_teacher(Path(f"hf://sb3/dqn-{ENVIRONMENT}"), "pong").sha256 == teacher.sha256
    assert Hub.opened == []


@pytest.mark.parametrize("name", ["", "/policy.pth"])
def test_a_fetch_that_dies_after_the_first_file_is_completed_by_the_next_call(hub, saved, monkeypatch, name):
    url, get, fetched = f"hf://sb3/dqn-{ENVIRONMENT}{name and f'/dqn-{ENVIRONMENT}{name}'}", hub_module._get, []

    def dying(*given):
        if fetched:
            raise KeyboardInterrupt
        fetched.append(get(*given))

    with monkeypatch.context() as patch:
        patch.setattr(hub_module, "_get", dying)
        with pytest.raises(KeyboardInterrupt):
            load_teacher(url)
    teacher = load_teacher(url)
    assert (teacher.sha256, teacher.fire) == (load_teacher(saved, "pong").sha256, True)
    assert {"args.yml", "config.yml", "data", "policy.pth"} <= set(Hub.opened)


def test_a_zip_or_a_model_of_cleanrl_is_fetched_from_the_hub_where_there_is_no_policy(hub, tmp_path, saved):
    for name in hub.find("sb3"):
        if name.endswith("policy.pth"):
            hub.rm(name)
    assert load_teacher(f"hf://sb3/dqn-{ENVIRONMENT}").sha256 == load_teacher(saved, "pong").sha256
    path = CleanRL(6, hidden=8).save(tmp_path / "dqn_atari.cleanrl_model")
    hub.pipe_file(f"cleanrl/{ENVIRONMENT}-dqn_atari-seed1/dqn_atari.cleanrl_model", path.read_bytes())
    assert load_teacher(f"hf://cleanrl/{ENVIRONMENT}-dqn_atari-seed1").game == "pong"


def test_a_name_on_the_hub_stands_for_its_own_first_choice_whatever_was_fetched_before(hub, tmp_path, saved):
    for folder, hidden in (("a", 8), ("b", 16)):
        path = CleanRL(6, hidden=hidden).save(tmp_path / folder / "dqn_atari.cleanrl_model")
        hub.pipe_file(f"me/{ENVIRONMENT}/{folder}/dqn_atari.cleanrl_model", path.read_bytes())
    second = load_teacher(f"hf://me/{ENVIRONMENT}/b/dqn_atari.cleanrl_model").sha256
    first = load_teacher(f"hf://me/{ENVIRONMENT}").sha256
    assert first != second == load_teacher(f"hf://me/{ENVIRONMENT}/b").sha256
    Hub.opened.clear()
    for name, sha256 in (("", first), ("/b", second), ("/b/dqn_atari.cleanrl_model", second)):
        assert load_teacher(f"hf://me/{ENVIRONMENT}{name}").sha256 == sha256
    assert Hub.opened == []


@pytest.mark.parametrize(("name", "complaint"), [
    ("hf://sb3", "allowed is hf://OWNER/NAME"), ("hf://sb3/..", "allowed is hf://OWNER/NAME"),
    ("hf://sb3/none", "could not be fetched|has no policy"), ("hf://sb3/empty", "has no policy.pth, .zip or"),
    ("hf://sb3/huge", "bytes, allowed are"),
])  # fmt: skip
def test_what_is_no_teacher_on_the_hub_is_an_error(hub, monkeypatch, name, complaint):
    hub.pipe_file("sb3/empty/README.md", b"Nothing.")
    hub.pipe_file("sb3/huge/policy.pth", bytes(2000))
    monkeypatch.setattr("pd_lightning.teacher.hub.WEIGHTS_LIMIT", 1000)
    with pytest.raises(
        TeacherError, match=re.escape(name.replace("sb3/huge", "sb3/huge/policy.pth")) + f".*({complaint})"
    ):
        load_teacher(name)
