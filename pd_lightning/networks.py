"""The paper's networks: a convolutional trunk shared by all games, and one head of outputs per game.

Sizes have the paper's names (Rusu et al., 2016, section 4 and appendix): `dqn` is the teacher's, `net1` to `net3` hold
25%, 7% and 4% of its parameters, `multi3` and `multi10` play three and ten games.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.atari import STACK
from pd_lightning.centring import Centring


class Size(NamedTuple):
    """Widths of a network; kernels and strides are always 8/4, 4/2 and 3/1 on an 84x84 input.

    Attributes:
        channels: outputs of the three convolutions.
        hidden: units of the fully connected layer that all games share.
        head: units of an additional layer of each game's own, 0 for none.
    """

    channels: tuple[int, int, int]
    hidden: int
    head: int = 0


SIZES = {
    "dqn": Size((32, 64, 64), 512),
    "net1": Size((16, 32, 32), 256),
    "net2": Size((16, 16, 16), 128),
    "net3": Size((16, 16, 16), 64),
    "multi3": Size((32, 64, 64), 512, head=128),
    "multi10": Size((64, 64, 64), 1500, head=128),
}


class PatchConvolution(nn.Conv2d):
    """The first convolution, 8x8 with stride 4, computed as 2x2 with stride 1 over patches of 4 x 4 pixels.

    The same sums with the same weights; but 64 input channels fill the matrix units of today's processors, and 4 leave
    most of them idle: training is a tenth to a third faster.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(STACK, channels, 8, stride=4)

    def forward(self, input: Tensor) -> Tensor:
        """Patches [B, 64, 21, 21] to [B, channels, 20, 20]."""
        weight = self.weight.view(-1, STACK, 2, 4, 2, 4).permute(0, 1, 3, 5, 2, 4).reshape(-1, 16 * STACK, 2, 2)
        return F.conv2d(input, weight, self.bias)


class Trunk(nn.Module):
    """Three convolutions and a fully connected layer: centred patches [B, 64, 21, 21] to features [B, hidden].

    Args:
        size: the widths.
        layer_norm: normalise every layer before its ReLU, without parameters of its own: what keeps Q-learning stable
            without a target network (Gallici et al., 2024, arXiv 2407.04811).
    """

    def __init__(self, size: Size, layer_norm: bool) -> None:
        super().__init__()
        a, b, c = size.channels
        self.convolutions = nn.ModuleList(
            [
                PatchConvolution(a),  # [B, a, 20, 20]
                nn.Conv2d(a, b, 4, stride=2),  # [B, b, 9, 9]
                nn.Conv2d(b, c, 3, stride=1),  # [B, c, 7, 7]
            ]
        )
        self.hidden = nn.Linear(c * 7 * 7, size.hidden)
        self.layer_norm = layer_norm

    def _activate(self, x: Tensor) -> Tensor:
        return F.relu(F.layer_norm(x, x.shape[1:]) if self.layer_norm else x)

    def forward(self, x: Tensor) -> Tensor:
        """Centred patches [B, 64, 21, 21] to features [B, hidden]."""
        for convolution in self.convolutions:
            # Normalised over all channels and pixels, so in whatever order they lie in memory: channels last.
            x = self._activate(convolution(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self._activate(self.hidden(x.flatten(1)))


class Head(nn.Module):
    """One game's outputs: features [B, hidden] to float32 [B, A].

    The last layer is computed in float32 whatever the precision of the rest: neighbouring Q-values differ by less than
    bfloat16 resolves.
    """

    def __init__(self, size: Size, actions: int) -> None:
        super().__init__()
        self.own = nn.Linear(size.hidden, size.head) if size.head else None
        self.output = nn.Linear(size.head or size.hidden, actions)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, hidden] to outputs float32 [B, A]."""
        if self.own is not None:
            features = F.relu(self.own(features))
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float(), self.output.weight.float(), self.output.bias.float())


class QNetwork(nn.Module):
    """Trunk, heads and the games' input statistics.

    Args:
        games: number of actions of each game.
        size: one of `SIZES`.
        layer_norm: see `Trunk`; teachers trained here use it, students do not.

    Raises:
        ValueError: an unknown size, no game, or a game without actions.
    """

    def __init__(self, games: Mapping[str, int], size: str = "net1", layer_norm: bool = False) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}")
        if not games:
            raise ValueError("a network needs at least one game")
        for game, actions in games.items():
            if actions < 1:
                raise ValueError(f"{game} has {actions} actions: a head needs at least one")
        self.games = dict(games)
        self.size = size
        self.trunk = Trunk(SIZES[size], layer_norm)
        self.heads = nn.ModuleDict({game: Head(SIZES[size], actions) for game, actions in games.items()})
        self.centring = nn.ModuleDict({game: Centring() for game in games})
        self._initialise()

    def _initialise(self) -> None:
        """He et al. (2015) before a ReLU; a last layer near zero, so that no action starts as a favourite."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for head in self.heads.values():
            assert isinstance(head, Head)
            with torch.no_grad():
                head.output.weight.mul_(0.01)

    def centre(self, game: str, mean: Tensor, deviation: float) -> None:
        """Takes the input statistics of `game`: mean image [84, 84] and deviation, in grey levels."""
        centring = self.centring[game]
        assert isinstance(centring, Centring)
        centring.fit(mean, deviation)

    def forward(self, states: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs float32 [B, A] of each game.

        Args:
            states: uint8 [B, 4, 84, 84] of each game, which pass the trunk as one batch; or one such tensor, which is
                looked at as every game in turn (with one game there is no difference).
        """
        if isinstance(states, Tensor):
            states = dict.fromkeys(self.games, states)
        centred = [self.centring[game](batch) for game, batch in states.items()]
        features = self.trunk(centred[0] if len(centred) == 1 else torch.cat(centred))
        parts = features.split([len(batch) for batch in centred])
        return {game: self.heads[game](part) for game, part in zip(states, parts, strict=True)}


class Student(QNetwork):
    """The network that learns from recordings: ``student(states)[game]`` is float32 [B, A].

    >>> student = Student({"pong": 6}, size="net1")
    >>> student(torch.zeros(2, 4, 84, 84, dtype=torch.uint8))["pong"].shape
    torch.Size([2, 6])
    """

    def __init__(self, games: Mapping[str, int], size: str = "net1") -> None:
        super().__init__(games, size, layer_norm=False)


def parameter_count(module: nn.Module) -> int:
    """Number of trainable numbers, as the paper counts them (the input statistics are not trained).

    >>> parameter_count(Student({"seaquest": 18}, "net1"))
    427874
    """
    return sum(parameter.numel() for parameter in module.parameters())
