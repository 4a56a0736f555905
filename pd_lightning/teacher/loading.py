"""One way in for every format: what a file is, is seen from its content."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pd_lightning.atari import action_meanings
from pd_lightning.checkpoints import last_in
from pd_lightning.teacher import atari_agents, cleanrl, own, zoo
from pd_lightning.teacher.agent import Teacher
from pd_lightning.teacher.archives import TEXT_LIMIT, WEIGHTS_LIMIT, inflate, members, read_torch, unpack
from pd_lightning.teacher.borrowed import check_actions
from pd_lightning.teacher.fault import TeacherError, naming
from pd_lightning.teacher.hub import fetch, is_hub
from pd_lightning.teacher.stable_baselines import build_policy, is_policy, parse_data

FORMATS = (
    "a teacher.safetensors or .ckpt of pd_lightning, a .zip of Stable-Baselines3 (DQN, QR-DQN, PPO, A2C) or its "
    "policy.pth, a .cleanrl_model of dqn_atari or c51_atari, or a .gz of Atari Agents"
)


def load_teacher(path: str | os.PathLike[str], game: str | None = None) -> Teacher:
    """Loads a teacher, without running what is in its file.

    Args:
        path: the file; its format is recognised from the content: a file of `save_teacher`; a Lightning checkpoint of
            ours (its last weights); a zip of Stable-Baselines3 (DQN, PPO, A2C) or sb3-contrib (QR-DQN) with a
            CnnPolicy, or the `policy.pth` in it; CleanRL's dqn_atari and c51_atari; a .gz of Atari Agents. Or a run's
            folder, which stands for its last checkpoint; or a folder of the Hugging Face Hub, as
            `hf://sb3/dqn-PongNoFrameskip-v4`.
        game: the game it should play; an error if it plays another. Needed where neither the file nor the folders it
            lies in tell the game, and of a student of several games.

    Raises:
        TeacherError: the file is missing, is of no such kind, does not fit the network it names, or plays another game.
    """
    file = fetch(os.fspath(path)) if is_hub(path) else in_run(Path(path))
    if not file.is_file():
        raise TeacherError(
            f"{file}: there is no such file; name another, or train a teacher with `python train.py fit --config "
            f"pd_lightning/presets/teacher.yaml --data.game {game or 'GAME'}`"
        )
    teacher = _read(file, game)
    if game is not None and teacher.game != game:
        raise TeacherError(f"{file}: game is {teacher.game!r}, asked for was {game!r}; choose a teacher of that game")
    check_actions(teacher.actions, teacher.game, len(_meanings(file, teacher.game)), file)
    return teacher


def in_run(path: Path) -> Path:
    """The last checkpoint in a run's folder; a file is itself.

    Raises:
        TeacherError: the folder has none.
    """
    if not path.is_dir():
        return path
    if (last := last_in(path)) is None:
        raise TeacherError(f"{path}: a folder without a last.ckpt; name a run's folder, or a teacher's file")
    return last


def _read(file: Path, game: str | None) -> Teacher:
    """The teacher in a file that is there."""
    with naming(file, "cannot be read", "check its permissions"), file.open("rb") as opened:
        head = opened.read(16)
        if head[8:9] == b"{":
            return own.from_safetensors(file)
        if cleanrl.is_flax(head):
            raise TeacherError(
                f"{file}: a flax file, of a JAX script of CleanRL: allowed is {FORMATS}; train with dqn_atari.py "
                "instead of dqn_atari_jax.py, or choose a model whose name has no jax"
            )
        opened.seek(0)
        if (policy := _read_zip(opened, file)) is not None:
            return _from_policy(*policy, file, game)
        opened.seek(0)
        if head.startswith(b"\x1f\x8b"):
            return _from_gzip(opened, file, game)
        content = read_torch(opened, file)
    if isinstance(content, Mapping) and own.is_checkpoint(content):
        return own.from_checkpoint(content, file, game)
    if isinstance(content, Mapping) and cleanrl.is_model(content):
        environment = cleanrl.environment_of(content)
        zoo.check_environment(file, environment or "")
        game = zoo.settle_game(file, game, environment)
        network, script = cleanrl.build_model(content, game, len(_meanings(file, game)), file)
        return _trained_with_fire(network, file, {"format": f"CleanRL {script}"})
    if isinstance(content, Mapping) and is_policy(content):
        return _from_policy(content, _data_beside(file), file, game)
    raise TeacherError(f"{file}: holds something else than a teacher: allowed is {FORMATS}")


def _from_gzip(opened: IO[bytes], file: Path, game: str | None) -> Teacher:
    """The teacher in a packed checkpoint of Atari Agents."""
    with tempfile.TemporaryFile() as weights:
        inflate(opened, weights, WEIGHTS_LIMIT, file)
        content = read_torch(weights, file)
    if not isinstance(content, Mapping) or not atari_agents.is_model(content):
        raise TeacherError(f"{file}: holds something else than a teacher: allowed is {FORMATS}")
    game = zoo.settle_game(file, game, atari_agents.environment_of(file))
    network, kind = atari_agents.build_model(content, game, len(_meanings(file, game)), file)
    return Teacher(network, own.name_of(file), {"format": f"Atari Agents {kind}"})


def _read_zip(opened: IO[bytes], file: Path) -> tuple[Any, dict[str, Any]] | None:
    """Weights and settings in a zip of Stable-Baselines3; None if it is no such zip."""
    if not zipfile.is_zipfile(opened):
        return None
    with naming(file, "not a whole zip", "copy it again"), zipfile.ZipFile(opened) as archive:
        if "policy.pth" not in archive.namelist():
            return None
        found, data = members(archive, file), io.BytesIO()
        if "data" in found:
            unpack(archive, found["data"], data, TEXT_LIMIT, file)
        with tempfile.TemporaryFile() as weights:
            unpack(archive, found["policy.pth"], weights, WEIGHTS_LIMIT, file)
            state = read_torch(weights, f"{file}: policy.pth")
        return state, parse_data(data.getvalue(), f"{file}: data") if "data" in found else {}


def _data_beside(file: Path) -> dict[str, Any]:
    """The settings beside an unpacked policy.pth."""
    path = file.parent / "data"
    if not path.is_file():
        return {}
    with naming(path, "cannot be read", "check its permissions"), path.open("rb") as opened:
        content = opened.read(TEXT_LIMIT + 1)
    if len(content) > TEXT_LIMIT:
        raise TeacherError(f"{path}: larger than the {TEXT_LIMIT:,} bytes allowed; move {file.name} away from it")
    return parse_data(content, path)


def _from_policy(state: Any, data: dict[str, Any], file: Path, game: str | None) -> Teacher:
    """The teacher that a policy of Stable-Baselines3 is."""
    if not isinstance(state, Mapping):
        raise TeacherError(f"{file}: policy.pth is {type(state).__name__}, allowed is a state dict; save it again")
    zoo.check_settings(file)
    game = zoo.settle_game(file, game)
    network, algorithm, outputs = build_policy(state, data, game, len(_meanings(file, game)), file)
    return _trained_with_fire(network, file, {"format": f"Stable-Baselines3 {algorithm}"}, outputs)


def _trained_with_fire(network: Any, file: Path, about: dict[str, str], outputs: str = "q") -> Teacher:
    """Both libraries press FIRE for the agent wherever there is one, and none of their files says so."""
    ((game, _),) = network.games.items()
    return Teacher(network, own.name_of(file), about, outputs=outputs, fire="FIRE" in _meanings(file, game))


def _meanings(file: Path, game: str) -> tuple[str, ...]:
    try:
        return action_meanings(game)
    except ValueError as error:
        raise TeacherError(f"{file}: {error}") from None
