"""The network of Mnih et al. (2015) as other libraries keep it, and how their outputs become one number an action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.networks import SIZES, Centring, Size, Trunk
from pd_lightning.teacher.fault import TeacherError

CHANNELS_LIMIT, UNITS_LIMIT = 1024, 8192
"""Outputs of a convolution and of a layer: some kilobytes may claim any number, and play would need gigabytes."""
LAYERS_LIMIT = 4
"""Layers after the features; several of them may claim the same bytes of a file, so their number bounds the memory."""


class Layer(NamedTuple):
    """A layer's numbers: weight float [outputs, inputs, ...], bias float [outputs]."""

    weight: Tensor
    bias: Tensor


class Layout(NamedTuple):
    """Under which names a library keeps a DQN or C51.

    Attributes:
        library: its name.
        trunk: of the three convolutions and the layer after them.
        last: of the layer of the outputs.
        atoms: of the returns that have a probability, which only a C51 has.
    """

    library: str
    trunk: Sequence[str]
    last: str
    atoms: str


class QuantileMean(nn.Module):
    """Q of QR-DQN (Dabney et al., 2018): the mean of an action's quantiles, which lie A apart."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.actions = actions

    def forward(self, outputs: Tensor) -> Tensor:
        """Quantiles [B, n * A] to Q [B, A]."""
        return outputs.unflatten(1, (-1, self.actions)).mean(1)


class Expectation(nn.Module):
    """Q of C51 (Bellemare et al., 2017): the mean return under an action's probabilities, which lie side by side.

    Args:
        atoms: returns that have a probability, float32 [n].
    """

    atoms: Tensor

    def __init__(self, atoms: Tensor) -> None:
        super().__init__()
        self.register_buffer("atoms", atoms)

    def forward(self, outputs: Tensor) -> Tensor:
        """Logits [B, A * n] to Q [B, A]."""
        return (outputs.unflatten(1, (-1, len(self.atoms))).softmax(2) * self.atoms).sum(2)


class BorrowedNetwork(nn.Module):
    """Three convolutions and a layer, each with a ReLU; then layers with a ReLU between them; then the read-out.

    Attributes:
        games: the game and its number of actions.
        size: "dqn" if its widths are those of Mnih et al., else "other".

    Args:
        game: the game.
        actions: A.
        trunk: the three convolutions and the layer after them.
        outputs: what follows, one or more.
        readout: from the last layer's outputs to [B, A].
        deviation: what grey levels are divided by.
    """

    def __init__(
        self,
        game: str,
        actions: int,
        trunk: Sequence[Layer],
        outputs: Sequence[Layer],
        readout: nn.Module | None = None,
        deviation: float = 255.0,
    ) -> None:
        super().__init__()
        self.games = {game: actions}
        a, b, c, hidden = (len(layer.bias) for layer in trunk)
        size = Size((a, b, c), hidden)
        self.size = "dqn" if size == SIZES["dqn"] else "other"
        self.centring = Centring()
        self.centring.deviation.fill_(deviation)
        self.trunk = Trunk(size, layer_norm=False)
        self.outputs = nn.ModuleList([nn.Linear(layer.weight.shape[1], len(layer.bias)) for layer in outputs])
        self.readout = readout or nn.Identity()
        modules = (*self.trunk.convolutions, self.trunk.hidden, *self.outputs)
        for module, (weight, bias) in zip(modules, (*trunk, *outputs), strict=True):
            module.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """States {game: uint8 [B, 4, 84, 84]} to {game: float32 [B, A]}."""
        ((game, batch),) = states.items()
        features = self.trunk(self.centring(batch))
        for number, layer in enumerate(self.outputs):
            features = layer(F.relu(features) if number else features)
        return {game: self.readout(features)}


def dqn_or_c51(state: object, layout: Layout, game: str, actions: int, where: object) -> BorrowedNetwork:
    """The network of a state dict: C51, whose read-out is an `Expectation`, if there are atoms, else DQN.

    Raises:
        TeacherError: it is another network, or of another action set.
    """
    if not isinstance(state, Mapping):
        raise TeacherError(f"{where}: its weights are {type(state).__name__}, allowed is a state dict; save it again")
    known = {f"{name}.{part}" for name in (*layout.trunk, layout.last) for part in ("weight", "bias")} | {layout.atoms}
    if unknown := [str(name)[:80] for name in state if name not in known]:
        raise TeacherError(
            f"{where}: has a weight {unknown[0]!r} that no DQN or C51 of {layout.library} has; choose another teacher, "
            "or record this one from Python (pd_lightning.teacher.Teacher.of)"
        )
    trunk, last = take_layers(state, layout.trunk, [layout.last], where)
    rows = len(last[0].bias)
    if layout.atoms not in state:
        check_actions(rows, game, actions, where)
        return BorrowedNetwork(game, actions, trunk, last)
    atoms = one_tensor(state, layout.atoms, where)
    found, rest = divmod(rows, len(atoms))
    if rest:
        raise TeacherError(f"{where}: {rows} outputs are not {len(atoms)} atoms of each of {actions} actions")
    check_actions(found, game, actions, where)
    return BorrowedNetwork(game, actions, trunk, last, Expectation(atoms))


def take_layers(
    state: Mapping[str, object], trunk: Sequence[str], outputs: Sequence[str], where: object
) -> tuple[list[Layer], list[Layer]]:
    """The layers of these names: three convolutions and a layer, and what follows.

    Raises:
        TeacherError: a weight is missing, is no tensor of finite numbers, or has another shape than this network's; or
            there are more than `LAYERS_LIMIT` layers.
    """
    if len(outputs) > LAYERS_LIMIT:
        raise TeacherError(f"{where}: {len(outputs)} layers follow the features, allowed are 1 to {LAYERS_LIMIT}")
    shapes: list[tuple[int, ...]] = [(4, 8, 8), (0, 4, 4), (0, 3, 3), (0,)]  # 0: as many as came before
    before, layers = 4, []
    for name, (inputs, *kernel) in zip((*trunk, *outputs), shapes + [(0,)] * len(outputs), strict=True):
        expected = (49 * before if name == trunk[3] else inputs or before, *kernel)
        weight = _tensor(state, f"{name}.weight", (None, *expected), where)
        if len(weight) > (most := CHANNELS_LIMIT if kernel else UNITS_LIMIT):
            raise TeacherError(f"{where}: {name}.weight has {len(weight):,} outputs, allowed are {most:,}")
        layers.append(Layer(weight, _tensor(state, f"{name}.bias", (len(weight),), where)))
        before = len(weight)
    return layers[:4], layers[4:]


def _tensor(state: Mapping[str, object], name: str, shape: tuple[int | None, ...], where: object) -> Tensor:
    tensor = state.get(name)
    allowed = "x".join("N" if size is None else str(size) for size in shape)
    step = "a teacher is the network of Mnih et al. (2015) on 4 grey frames of 84x84"
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or not tensor.is_floating_point():
        found = type(tensor).__name__ if name in state else "missing"
        raise TeacherError(f"{where}: {name} is {found}, allowed is a tensor {allowed}; {step}")
    fits = tensor.ndim == len(shape) and all(a in (None, b) for a, b in zip(shape, tensor.shape, strict=True))
    # A tensor may claim more numbers than it has, by repeating them: only one that has them all is copied.
    if not fits or 0 in tensor.shape or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise TeacherError(f"{where}: {name} is {'x'.join(map(str, tensor.shape))}, allowed is {allowed}; {step}")
    tensor = tensor.detach().float()
    if not tensor.isfinite().all():
        raise TeacherError(f"{where}: {name} has numbers that are not finite; train it again")
    return tensor


def one_tensor(state: Mapping[str, object], name: str, where: object) -> Tensor:
    """A tensor float32 [n] of any n.

    Raises:
        TeacherError: it is missing or something else.
    """
    return _tensor(state, name, (None,), where)


def check_actions(found: int, game: str, actions: int, where: object) -> None:
    """Raises a TeacherError unless the network has as many actions as the game."""
    if found != actions:
        raise TeacherError(
            f"{where}: the network has {found} actions, {game} has {actions}; "
            "choose a teacher of the minimal action set"
        )
