"""A frozen teacher: states to what it thinks of every action, whatever file it came from."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pd_lightning.atari import action_meanings, check_game
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
        network: QNetwork | BorrowedNetwork | AnyNetwork,
        name: str,
        about: Mapping[str, str] | None = None,
        *,
        outputs: str = "q",
        fire: bool = False,
    ) -> None:
        super().__init__()
        if len(network.games) != 1:
            raise TeacherError(f"{name} plays {', '.join(network.games)}: a teacher plays one game")
        self.network: Any = network.float().eval().requires_grad_(False)
        self.game, self.actions = next(iter(network.games.items()))
        self.name, self.about = name, dict(about or {})
        self.outputs, self.fire = outputs, fire
        self.sha256 = weights_sha256(network.state_dict())

    @classmethod
    def of(
        cls,
        policy: Callable[[Tensor], Tensor],
        game: str,
        name: str,
        *,
        outputs: str | None = None,
        fire: bool | None = None,
    ) -> Teacher:
        """A teacher that is anything which can be called: a module, or a function that changes states as it needs them.

        Args:
            policy: states uint8 [B, 4, 84, 84] to outputs [B, A], one for each action of the game's minimal set, in the
                order of `pd_lightning.atari.action_meanings(game)`; of a module it is a copy, as it is now. Or a
                student, of any network: a `PolicyDistillation`, or what its `build` has built.
            game: the game, in the emulator's snake case.
            name: what recordings call it. Name it anew when it changes: only of a module are the weights known.
            outputs: what it says of an action: "q", or "logits" of its policy (default: as a `PolicyDistillation`
                says, else "q").
            fire: whether FIRE was pressed for it while it learned, at a start and after each lost life (default: as a
                `PolicyDistillation` says, else not).

        Raises:
            ValueError: there is no such game, or no such kind of outputs; or it plays other games.
        """
        if all(hasattr(policy, name) for name in ("student", "outputs", "fire")):
            outputs, rules = outputs or policy.outputs, policy.fire  # pyright: ignore[reportFunctionMemberAccess]
            fire = rules.get(game, False) if fire is None else fire
            policy = policy.student  # pyright: ignore[reportFunctionMemberAccess]
        outputs, fire = outputs or "q", bool(fire)
        if outputs not in ("q", "logits"):
            raise TeacherError(f"{name}: outputs is {outputs!r}, allowed are 'q' and 'logits'")
        return cls(AnyNetwork(policy, check_game(game), name), name, outputs=outputs, fire=fire)

    def forward(self, states: Tensor) -> Tensor:
        """States uint8 [B, 4, 84, 84], on any device, to outputs float32 [B, A] on the teacher's device."""
        first = next(self.network.parameters(), None)
        device = states.device if first is None else first.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.network({self.game: states.to(device)})[self.game].float()


class AnyNetwork(nn.Module):
    """What can be called, as a network of one game."""

    size = "own"

    def __init__(self, policy: Callable[[Tensor], Tensor], game: str, name: str) -> None:
        super().__init__()
        self.games = {game: len(action_meanings(game))}
        # A module becomes part of this one, which does not learn; the caller's may.
        self.policy: Any = copy.deepcopy(policy) if isinstance(policy, nn.Module) else policy
        games = getattr(policy, "games", None)
        self.several = isinstance(games, Mapping)  # as a student's network, whose outputs are each game's
        if isinstance(games, Mapping) and game not in games:
            raise TeacherError(f"{name}: plays {', '.join(games)}, not {game}")
        # What has no weights is known by its name.
        self.register_buffer("named", torch.tensor(list(name.encode()), dtype=torch.uint8))

    def float(self) -> AnyNetwork:
        """Itself: a module has the precision that it was given."""
        return self

    def forward(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the game."""
        if self.several:
            return self.policy(states)
        return {game: self.policy(batch) for game, batch in states.items()}


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values, in the order of the names: independent of the file's format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().float().cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()
