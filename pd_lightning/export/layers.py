"""The network in layers that every runtime knows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pd_lightning.atari import STACK
from pd_lightning.networks import Centring, Head, QNetwork
from pd_lightning.teacher import Teacher


class Centre(nn.Module):
    """The input statistics: states uint8 [B, 4, 84, 84] to float32 of the same shape."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, centring: Centring) -> None:
        super().__init__()
        self.register_buffer("mean", centring.mean.clone())
        self.register_buffer("deviation", centring.deviation.clone())

    def forward(self, states: Tensor) -> Tensor:
        """As `Centring` does, but not cut into patches."""
        return (states.to(torch.float32) - self.mean) / self.deviation


def common_layers(player: Teacher) -> nn.Sequential:
    """The player's network in layers that every runtime knows, for any batch: our own moves bytes in groups of four."""
    network = player.network
    if isinstance(network, QNetwork):
        head, centring = network.heads[player.game], network.centring[player.game]
        assert isinstance(head, Head)
        last, readout = [*([head.own] if head.own else []), head.output], nn.Identity()
    else:
        last, readout, centring = list(network.outputs), network.readout, network.centring
    assert isinstance(centring, Centring)
    first, second, third = network.trunk.convolutions
    patches = nn.Conv2d(STACK, len(first.bias), 8, stride=4)  # pyright: ignore[reportArgumentType]
    patches.load_state_dict(first.state_dict())
    layers: list[nn.Module] = [Centre(centring)]
    for convolution, pixels in ((patches, 20), (second, 9), (third, 7)):
        shape = [len(convolution.bias), pixels, pixels]  # pyright: ignore[reportArgumentType]
        layers += [convolution, *normalised(network.trunk.layer_norm, shape), nn.ReLU()]
    hidden = network.trunk.hidden
    layers += [nn.Flatten(), hidden, *normalised(network.trunk.layer_norm, [hidden.out_features]), nn.ReLU()]
    for number, layer in enumerate(last):
        layers += [nn.ReLU(), layer] if number else [layer]
    return nn.Sequential(*layers, readout).eval().requires_grad_(False)


def normalised(layer_norm: bool, shape: list[int]) -> Sequence[nn.Module]:
    """A layer norm without parameters, or nothing."""
    return [nn.LayerNorm(shape, elementwise_affine=False)] if layer_norm else []
