"""Our own formats: teacher files, and Lightning checkpoints of PQN and PolicyDistillation.

A teacher file is a safetensors file: the weights, and as metadata what one must know of them (`Teacher.about`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pd_lightning.files import atomic, sync
from pd_lightning.networks import SIZES, QNetwork
from pd_lightning.teacher.agent import Teacher, weights_sha256
from pd_lightning.teacher.fault import TeacherError, naming

FORMAT = "pd_lightning.teacher"
VERSION = "1"
NETWORK = "pd_lightning.networks.Student"
"""What a checkpoint of PolicyDistillation calls the network that can be built without its class."""
PREFIXES = ("network.", "student.")
"""Where a Lightning checkpoint of ours keeps the network: of PQN, of PolicyDistillation."""


def save_teacher(
    network: QNetwork, path: str | os.PathLike[str], about: Mapping[str, object], *, fire: bool = False
) -> Path:
    """Writes a teacher file, whole or not at all.

    Weights are rounded to float16, half the size; what is recorded and scored afterwards are the rounded ones.

    Args:
        network: a network of one game.
        path: the file, by convention `datasets/<game>/teacher.safetensors`.
        about: what to say of it (steps, score, protocol, command ...), kept as text.
        fire: whether FIRE is to be pressed for it at a start and after each lost life.

    Raises:
        TeacherError: the network plays several games, or its weights are not finite numbers in float16.
    """
    if len(network.games) != 1:
        raise TeacherError(f"{path}: the network plays {', '.join(network.games)}; a teacher plays one game")
    ((game, actions),) = network.games.items()
    weights = {name: tensor.detach().half().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise TeacherError(f"{path}: there are weights that are not finite or beyond float16's 65,504; train it again")
    metadata = {
        **{key: str(value) for key, value in about.items()},
        "format": FORMAT,
        "version": VERSION,
        "game": game,
        "actions": str(actions),
        "size": network.size,
        "layer_norm": str(network.trunk.layer_norm).lower(),
        "fire": str(fire).lower(),
    }
    metadata["digest"] = _digest(weights, metadata)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target) as part:
        part.write_bytes(save(weights, metadata))  # not save_file: it would be readable by its owner alone
        sync(part)
    return target


def _digest(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over the weights and all else that is said: safetensors itself has no checksums."""
    said = json.dumps({key: value for key, value in metadata.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(f"{weights_sha256(weights)} {said}".encode()).hexdigest()


def from_safetensors(file: Path) -> Teacher:
    """The teacher in a file of `save_teacher`.

    Raises:
        TeacherError: it is not whole, was changed, is of another kind or version, or does not fit the network it names.
    """
    with naming(file, "not a whole safetensors file", "copy or train it again"), safe_open(file, "pt") as opened:
        about = dict(opened.metadata() or {})
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise TeacherError(
            f"{file}: format is {about.get('format')!r} version {about.get('version')!r}, allowed is {FORMAT!r} "
            f"version {VERSION!r}; a teacher file is written by `python train.py fit` with the teacher preset"
        )
    size, actions = about.get("size", ""), about.get("actions", "")
    if size not in SIZES or not actions.isdecimal() or not 0 < int(actions) < 256 or not about.get("game"):
        raise TeacherError(
            f"{file}: game, size and actions are {about.get('game')!r}, {size!r}, {actions!r}; allowed are a game's "
            f"name, one of {', '.join(SIZES)}, and 1 to 255; train it again"
        )
    # They have no weights, so nothing else would notice. Early files do not speak of FIRE: nobody pressed it.
    said = {"layer_norm": about.get("layer_norm"), "fire": about.get("fire", "false")}
    for name, value in said.items():
        if value not in ("true", "false"):
            raise TeacherError(f"{file}: {name} is {value!r}, allowed are 'true' and 'false'; train it again")
    layer_norm, fire = (value == "true" for value in said.values())
    teacher = _build(file, {about["game"]: int(actions)}, size, layer_norm, state, about, fire=fire)
    if about.get("digest") != _digest(state, about):
        raise TeacherError(f"{file}: digest is not that of its content: the file was damaged or changed; copy it again")
    return teacher


def is_checkpoint(content: Mapping[Any, Any]) -> bool:
    """Whether Lightning saved this."""
    return "state_dict" in content or "hyper_parameters" in content


def from_checkpoint(checkpoint: Mapping[Any, Any], file: Path, game: str | None = None) -> Teacher:
    """The last weights of a Lightning checkpoint of PQN or PolicyDistillation.

    Args:
        checkpoint: its content.
        file: where it is from.
        game: which, of a student of several; its trunk with that game's own layers is a network of one game.

    Raises:
        TeacherError: it is of something else, its weights do not fit the network it names, or it plays several games
            and none of them was named.
    """
    state, settings = checkpoint.get("state_dict"), checkpoint.get("hyper_parameters")
    if not isinstance(state, dict) or not isinstance(settings, dict):
        raise TeacherError(f"{file}: has no state_dict and hyper_parameters; name a .ckpt of pd_lightning")
    prefix = next((p for p in PREFIXES if any(str(name).startswith(p) for name in state)), None)
    games, size = settings.get("games"), settings.get("size")
    fits = isinstance(games, dict) and games and all(map(_is_game, games, games.values()))
    if prefix is None or not isinstance(games, dict) or not fits or not isinstance(size, str) or size not in SIZES:
        raise TeacherError(f"{file}: not a checkpoint of PQN or PolicyDistillation; name a .ckpt of pd_lightning")
    built = checkpoint.get("network", NETWORK)  # those of before did not say
    if built != NETWORK:
        named = built[:80] if isinstance(built, str) else "of another kind"
        raise TeacherError(
            f"{file}: its network is {named}, which only its own code can build: load it there, by "
            "load_from_checkpoint, and wrap it as pd_lightning.teacher.Teacher.of(module, game, name)"
        )
    if len(games) > 1 and game not in games:
        raise TeacherError(
            f"{file}: plays {', '.join(map(str, games))[:80]}, and a teacher plays one game: give --game, one of these"
            + (f" instead of {game}" if game else "")
        )
    chosen = game if game is not None and game in games else next(iter(games))
    others = tuple(f"{part}.{other}." for part in ("heads", "centring") for other in games if other != chosen)
    own = {str(name).removeprefix(prefix): tensor for name, tensor in state.items() if str(name).startswith(prefix)}
    network = {name: tensor for name, tensor in own.items() if not name.startswith(others)}
    # Only numbers become text: a value that holds itself many times over would become gigabytes of it.
    updates, temperatures = checkpoint.get("global_step"), checkpoint.get("temperatures")
    about = {"updates": str(updates)} if isinstance(updates, int) else {}
    temperature = temperatures.get(chosen) if isinstance(temperatures, dict) else None
    if settings.get("loss") == "kl" and isinstance(temperature, int | float):
        about["temperature"] = str(temperature)
    # What a student says of an action is a logit, unless it was to repeat the teacher's Q-values.
    becomes = checkpoint.get("outputs", "q" if settings.get("loss") == "mse" else "logits")
    outputs = "q" if prefix == "network." or becomes == "q" else "logits"
    layer_norm = bool(settings.get("layer_norm", True)) if prefix == "network." else False
    fire = checkpoint.get("fire")
    pressed = isinstance(fire, dict) and fire.get(chosen) is True
    return _build(file, {chosen: games[chosen]}, size, layer_norm, network, about, outputs=outputs, fire=pressed)


def _is_game(name: object, actions: object) -> bool:
    return isinstance(name, str) and isinstance(actions, int) and 0 < actions < 256


def _build(
    file: Path,
    games: dict[str, int],
    size: str,
    layer_norm: bool,
    state: Mapping[str, Any],
    about: dict[str, str],
    *,
    outputs: str = "q",
    fire: bool = False,
) -> Teacher:
    """The network that `state` belongs to."""
    what, step = f"the weights do not fit size {size!r} with {games}", "train it again"
    with naming(file, what, step):  # settings and weights may be anything
        network = QNetwork(games, size, layer_norm)
        for name, own in network.state_dict().items():
            if isinstance(found := state.get(name), Tensor) and found.shape != own.shape:
                # Before they are copied: a tensor may claim any number of numbers, by repeating them.
                raise ValueError(f"{name} is {list(found.shape)}, not {list(own.shape)}")
        network.load_state_dict(dict(state))
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise TeacherError(f"{file}: there are weights that are not finite; train it again")
    return Teacher(network, about.get("name") or name_of(file), about, outputs=outputs, fire=fire)


def name_of(file: Path) -> str:
    """What a teacher is called whose file has no name for it: the file, and the folder that it lies in."""
    return f"{file.absolute().parent.name}/{file.stem}"
