"""What a Trainer has that its own types do not tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever loads a teacher has no need of it, and it takes seconds
    import pytorch_lightning as pl


def callbacks_of(trainer: Any) -> list[pl.Callback]:
    """Its callbacks, in the order in which they are called."""
    return trainer.callbacks


def data_of(trainer: Any) -> Any:
    """Its data module; None, if it was given loaders."""
    return trainer.datamodule


def keep_float32(trainer: Any) -> None:
    """Keeps Q-values as they were recorded: `bf16-true` would round them, and most states' best action with them.

    States are bytes and become what the weights are within the network, so nothing needs the conversion.
    """
    trainer.precision_plugin.convert_input = lambda data: data


def is_dry(trainer: Any) -> bool:
    """Whether it only tries whether all would run (`fast_dev_run`)."""
    return bool(trainer.fast_dev_run)
