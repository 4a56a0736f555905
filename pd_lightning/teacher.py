"""A frozen teacher: states to Q-vectors. Loads checkpoints without ever running code that is in them.

A teacher file is a safetensors file: the weights, and as metadata what one must know of them (`Teacher.about`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pd_lightning.atari import action_meanings
from pd_lightning.networks import SIZES, QNetwork

FORMAT = "pd_lightning.teacher"
VERSION = "1"
PREFIXES = ("network.", "student.")
"""Where a Lightning checkpoint of ours keeps the network: of PQN, of PolicyDistillation."""


class TeacherError(ValueError):
    """A teacher cannot be used; the message names the file, what is wrong with it, and what to do."""


class Teacher(nn.Module):
    """A trained Q-network of one game, in float32, that does not learn.

    Attributes:
        game: the game, in the emulator's snake case.
        actions: A, the number of its actions.
        name: what recordings call it.
        about: what is known of it, as text: steps trained, score, protocol, command.
        sha256: of its weights, whatever file they came from.

    Args:
        network: a network of one game.
        name: what recordings call it.
        about: what is known of it.
    """

    def __init__(self, network: QNetwork, name: str, about: Mapping[str, str] | None = None) -> None:
        super().__init__()
        if len(network.games) != 1:
            raise TeacherError(f"{name} plays {', '.join(network.games)}: a teacher plays one game")
        self.network = network.float().eval().requires_grad_(False)
        self.game, self.actions = next(iter(network.games.items()))
        self.name, self.about = name, dict(about or {})
        self.sha256 = weights_sha256(network.state_dict())

    def forward(self, states: Tensor) -> Tensor:
        """States uint8 [B, 4, 84, 84], on any device, to Q float32 [B, A] on the teacher's device."""
        device = next(self.network.parameters()).device
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            return self.network({self.game: states.to(device)})[self.game]


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values, in the order of the names: independent of the file's format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().float().cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def save_teacher(network: QNetwork, path: str | os.PathLike[str], about: Mapping[str, object]) -> Path:
    """Writes a teacher file, whole or not at all.

    Weights are rounded to float16, half the size; what is recorded and scored afterwards are the rounded ones.

    Args:
        network: a network of one game.
        path: the file, by convention `datasets/<game>/teacher.safetensors`.
        about: what to say of it (steps, score, protocol, command ...), kept as text.

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
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as file:  # not save_file: it would be readable by its owner alone
        file.write(save(weights, metadata))
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
    return target


def load_teacher(path: str | os.PathLike[str], game: str | None = None) -> Teacher:
    """Loads a teacher: a file of `save_teacher`, or a Lightning checkpoint of ours (its last weights).

    Args:
        path: the file; its format is recognised from the content.
        game: the game it should play; an error if it plays another.

    Raises:
        TeacherError: the file is missing, is neither kind, does not fit the network it names, or plays another game.
    """
    file = Path(path)
    if not file.is_file():
        raise TeacherError(
            f"{file}: there is no such file; train a teacher with `python train.py fit --config "
            f"pd_lightning/presets/teacher.yaml --data.game {game or 'GAME'}`, or name another with --teacher"
        )
    with file.open("rb") as opened:
        head = opened.read(9)
    teacher = _from_safetensors(file) if head[8:9] == b"{" else _from_checkpoint(file)
    if game is not None and teacher.game != game:
        raise TeacherError(f"{file}: game is {teacher.game!r}, asked for was {game!r}; choose a teacher of that game")
    try:
        meanings = action_meanings(teacher.game)
    except ValueError as error:
        raise TeacherError(f"{file}: {error}") from None
    if teacher.actions != len(meanings):
        raise TeacherError(
            f"{file}: the network has {teacher.actions} actions, {teacher.game} has {len(meanings)}; "
            "choose a teacher of the minimal action set"
        )
    return teacher


def _from_safetensors(file: Path) -> Teacher:
    """A file of `save_teacher`."""
    try:
        with safe_open(file, "pt") as opened:
            about = dict(opened.metadata() or {})
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise TeacherError(f"{file}: not a whole safetensors file ({error}); copy or train it again") from None
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
    if about.get("layer_norm") not in ("true", "false"):  # it has no weights, so nothing else would notice
        raise TeacherError(
            f"{file}: layer_norm is {about.get('layer_norm')!r}, allowed are 'true' and 'false'; train it again"
        )
    return _build(file, {about["game"]: int(actions)}, size, about["layer_norm"] == "true", state, about)


def _from_checkpoint(file: Path) -> Teacher:
    """A Lightning checkpoint of PQN or PolicyDistillation."""
    try:
        checkpoint: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for files that are not its own
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise TeacherError(
            f"{file}: neither a teacher file nor a Lightning checkpoint that loads without running code ({reason}); "
            "name a teacher.safetensors or a .ckpt"
        ) from None
    parts: list[Any] = (
        [checkpoint.get(key) for key in ("state_dict", "hyper_parameters")] if isinstance(checkpoint, dict) else []
    )
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise TeacherError(f"{file}: has no state_dict and hyper_parameters; name a .ckpt of pd_lightning")
    state, settings = parts
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in state)), None)
    games, size = settings.get("games"), settings.get("size")
    fits = isinstance(games, dict) and all(isinstance(a, int) and 0 < a < 256 for a in games.values())
    if prefix is None or not isinstance(games, dict) or not fits or size not in SIZES:
        raise TeacherError(f"{file}: not a checkpoint of PQN or PolicyDistillation; name a .ckpt of pd_lightning")
    network = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    about = {"updates": str(checkpoint.get("global_step"))}
    return _build(file, games, size, prefix == "network.", network, about)


def _build(
    file: Path, games: dict[str, int], size: str, layer_norm: bool, state: dict[str, Tensor], about: dict[str, str]
) -> Teacher:
    """The network that `state` belongs to."""
    try:
        network = QNetwork(games, size, layer_norm)
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # settings and weights may be anything
        reason = " ".join(str(error).split())[:200]
        raise TeacherError(f"{file}: the weights do not fit size {size!r} with {games}: {reason}") from None
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise TeacherError(f"{file}: there are weights that are not finite; train it again")
    return Teacher(network, about.get("name") or f"{file.parent.name}/{file.stem}", about)
