"""Stable-Baselines3 (DQN, PPO, A2C) and sb3-contrib (QR-DQN): the network of a CnnPolicy, from its tensors alone.

A zip of theirs holds `policy.pth`, tensors, and `data`, JSON in which objects are pickles in base64: those are left
alone. Layouts are told apart by the names of the weights, which have not changed since version 1.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from pd_lightning.teacher.borrowed import BorrowedNetwork, QuantileMean, check_actions, take_layers
from pd_lightning.teacher.fault import TeacherError, naming


class _Layout(NamedTuple):
    """Where an algorithm keeps the network that acts; what else its weights may begin with."""

    algorithm: str
    features: str
    outputs: str  # the layers are numbered where it ends with a dot
    ignored: tuple[str, ...]
    says: str = "q"


_VALUE = ("value_net.", "vf_features_extractor.", "features_extractor.")
_LAYOUTS = (
    _Layout("DQN", "q_net.features_extractor.", "q_net.q_net.", ("q_net_target.",)),
    _Layout("QR-DQN", "quantile_net.features_extractor.", "quantile_net.quantile_net.", ("quantile_net_target.",)),
    _Layout("PPO or A2C", "pi_features_extractor.", "action_net", _VALUE, "logits"),
    _Layout("PPO or A2C", "features_extractor.", "action_net", _VALUE, "logits"),  # before there were copies
)
CONTAINERS_LIMIT, VALUES_LIMIT = 10_000, 1_000_000
"""Lists and objects, and values, in the settings of a zip: there are hundreds; pickles among them are base64."""
_QUANTILES = 200
"""sb3-contrib's default."""


def is_policy(state: Mapping[Any, Any]) -> bool:
    """Whether these are names of weights of such a policy, of whatever network."""
    begins = ("q_net.", "quantile_net.", "action_net.", "mlp_extractor.", "features_extractor.", "actor.")
    return any(isinstance(name, str) and name.startswith(begins) for name in state)


def parse_data(content: bytes, where: object) -> dict[str, Any]:
    """What `data` says in plain JSON.

    Raises:
        TeacherError: it is not JSON.
    """
    with naming(where, "not the JSON of Stable-Baselines3", "save the model again"):
        if sum(map(content.count, (b"[", b"{"))) > CONTAINERS_LIMIT or content.count(b",") > VALUES_LIMIT:
            raise ValueError("more values than settings have")  # each takes a hundred times its text's memory
        found = json.loads(content)
    return found if isinstance(found, dict) else {}


def build_policy(
    state: Mapping[str, object], data: Mapping[str, Any], game: str, actions: int, where: Path
) -> tuple[BorrowedNetwork, str, str]:
    """The network of a policy.

    Args:
        state: names to tensors of `policy.pth`.
        data: what `data` says, or nothing.
        game: the game.
        actions: how many it has.
        where: the file, for errors.

    Returns:
        The network, the algorithm, and "q" or "logits".

    Raises:
        TeacherError: it is no CnnPolicy on 4 grey frames, or of another action set.
    """
    layout = next((one for one in _LAYOUTS if f"{one.features}cnn.0.weight" in state), None)
    if layout is None:
        raise TeacherError(f"{where}: policy.pth has no convolutions of a NatureCNN: allowed is a CnnPolicy of DQN, "
                           "QR-DQN, PPO or A2C; choose another teacher")  # fmt: skip
    names = [f"{layout.features}cnn.{number}" for number in (0, 2, 4)] + [f"{layout.features}linear.0"]
    outputs = _output_names(state, layout.outputs)
    _refuse_more(state, [*names, *outputs], layout, where)
    settings = _check_data(data, len(outputs) > 1, where)
    trunk, last = take_layers(state, names, outputs, where)
    rows = len(last[-1].bias)
    readout: nn.Module | None = None
    if layout.algorithm == "QR-DQN":
        quantiles = settings.get("n_quantiles", data.get("n_quantiles", _QUANTILES if data else 0))
        if not quantiles:  # policy.pth alone does not say: a multiple of the default is taken for what it looks like
            quantiles = _QUANTILES if rows % _QUANTILES == 0 else rows // actions
        found, rest = divmod(rows, quantiles) if isinstance(quantiles, int) and quantiles > 0 else (0, rows)
        if rest:
            raise TeacherError(f"{where}: {rows} outputs are not {quantiles} quantiles of each of {actions} actions; "
                               "name the whole zip, which says how many")  # fmt: skip
        readout = QuantileMean(found)
        rows = found
    check_actions(rows, game, actions, where)
    deviation = 1.0 if settings.get("normalize_images") is False else 255.0
    return BorrowedNetwork(game, actions, trunk, last, readout, deviation), layout.algorithm, layout.says


def _output_names(state: Mapping[str, object], prefix: str) -> list[str]:
    if not prefix.endswith("."):
        return [prefix]
    numbers = (re.fullmatch(rf"{re.escape(prefix)}(\d{{1,3}})\.weight", str(name)) for name in state)
    return [f"{prefix}{number}" for number in sorted(int(match[1]) for match in numbers if match)]


def _refuse_more(state: Mapping[str, object], names: list[str], layout: _Layout, where: Path) -> None:
    used = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    for name in state:
        if not isinstance(name, str) or not (name in used or name.startswith(layout.ignored)):
            raise TeacherError(
                f"{where}: has a weight {str(name)[:80]!r} that a CnnPolicy of {layout.algorithm} has not by default "
                "(dueling, noisy, recurrent, or layers of net_arch); choose another teacher"
            )


def _check_data(data: Mapping[str, Any], deep: bool, where: Path) -> Mapping[str, Any]:
    """The policy's settings, after those were refused that change what the same weights compute."""
    settings = data.get("policy_kwargs")
    settings = settings if isinstance(settings, Mapping) else {}
    space = data.get("observation_space")
    space = space if isinstance(space, Mapping) else {}
    shape = str(space.get("_shape", space.get("shape", [4, 84, 84])))
    facts = [
        ("features_extractor_class", str(settings.get("features_extractor_class", "NatureCNN")), "NatureCNN"),
        ("observation_space's dtype", str(space.get("dtype", "uint8")), "uint8"),
        ("observation_space's shape", re.sub(r"[\[\]() ]", "", shape), "4,84,84"),
    ]
    if deep:
        facts.append(("activation_fn", str(settings.get("activation_fn", "ReLU")), "ReLU"))
    for name, value, allowed in facts:
        if allowed not in value:
            raise TeacherError(f"{where}: {name} is {value[:80]!r}, allowed is {allowed!r}; choose another teacher")
    return settings
