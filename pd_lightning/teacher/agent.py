"""A frozen teacher: states to what it thinks of every action, whatever file it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pd_lightning.networks import QNetwork
from pd_lightning.teacher.borrowed import BorrowedNetwork
from pd_lightning.teacher.fault import TeacherError


class Teacher(nn.Module):
    """A trained network of one game, in float32, that does not learn.

    Attributes:
        game: the game, in the emulator's snake case.
        actions: A, the number of its actions.
        name: what recordings call it.
        about: what is known of it, as text: steps trained, score, protocol, command, format.
        outputs: what it says of an action: "q", or "logits" of its policy.
        fire: whether FIRE was pressed for it while it learned, at a start and after each lost life.
        sha256: of its weights, whatever file they came from.

    Args:
        network: a network of one game.
        name: what recordings call it.
        about: what is known of it.
        outputs: "q" or "logits".
        fire: as it was trained.

    Raises:
        ValueError: the network plays several games.
    """

    def __init__(
        self,
        network: QNetwork | BorrowedNetwork,
        name: str,
        about: Mapping[str, str] | None = None,
        *,
        outputs: str = "q",
        fire: bool = False,
    ) -> None:
        super().__init__()
        if len(network.games) != 1:
            raise TeacherError(f"{name} plays {', '.join(network.games)}: a teacher plays one game")
        self.network = network.float().eval().requires_grad_(False)
        self.game, self.actions = next(iter(network.games.items()))
        self.name, self.about = name, dict(about or {})
        self.outputs, self.fire = outputs, fire
        self.sha256 = weights_sha256(network.state_dict())

    def forward(self, states: Tensor) -> Tensor:
        """States uint8 [B, 4, 84, 84], on any device, to outputs float32 [B, A] on the teacher's device."""
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
