"""The formats: how a file is written, what it says besides the weights, and how it is opened."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from pd_lightning import __version__
from pd_lightning.atari import FRAME_SKIP, STACK, action_meanings
from pd_lightning.episodes import Policy
from pd_lightning.export.layers import common_layers
from pd_lightning.teacher import Teacher

SUFFIXES = (".onnx", ".pt2")


class ExportError(ValueError):
    """A player cannot be exported; the message says why, and what to do."""


def check_suffix(path: Path) -> None:
    """Raises an ExportError if a file's name is of no format."""
    if path.suffix not in SUFFIXES:
        raise ExportError(f"--output is {path}: choose a name that ends in {' or '.join(SUFFIXES)}")


def about(player: Teacher) -> dict[str, str]:
    """What one must know to play with the file."""
    return {
        "game": player.game,
        "actions": json.dumps(action_meanings(player.game)),
        "outputs": {"q": "Q-values", "logits": "logits"}[player.outputs],
        "fire": json.dumps(player.fire),
        "states": f"uint8 [B, {STACK}, 84, 84]: grey, area-averaged, newest last, one in {FRAME_SKIP} frames, each the "
        "pixelwise maximum of it and the frame before; zeros before an episode's first",
        "player": player.name,
        "sha256": player.sha256,
        "pd_lightning": __version__,
    }


def write(player: Teacher, path: Path) -> None:
    """Writes a file of the format that its suffix names, not yet checked.

    Raises:
        ExportError: what the format needs is not installed.
    """
    batch = torch.export.Dim("batch", min=1)
    states = torch.zeros(2, STACK, 84, 84, dtype=torch.uint8)
    network = common_layers(player)
    if path.suffix == ".pt2":
        program, file = torch.export.export(network, (states,), dynamic_shapes=({0: batch},)), io.BytesIO()
        torch.export.save(program, file, extra_files={"about.json": json.dumps(about(player), indent=2)})
        path.write_bytes(file.getvalue())
    else:
        path.write_bytes(as_onnx(network, states, batch, about(player)))


def as_onnx(network: nn.Module, states: Tensor, batch: object, known: dict[str, str]) -> bytes:
    """The network in ONNX, with what is known of it as metadata."""
    try:
        import onnx
        import onnxruntime  # noqa: F401 (the check afterwards needs it)  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401 (what torch translates with)  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ExportError(
            f"ONNX needs {error.name}: pip install -e '.[onnx]', or choose a file that ends in .pt2"
        ) from None
    with silence():
        program = torch.onnx.export(
            network, (states,), input_names=["states"], output_names=["outputs"],
            dynamic_shapes=({0: batch},), dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, known)
    return model.SerializeToString()


@contextmanager
def silence() -> Iterator[None]:
    """Torch's exporter warns of what it does within itself, and of libraries that are not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def open_exported(path: str | os.PathLike[str]) -> Policy:
    """A file of `export` as a policy, run by the library that it is for: states uint8 [B, 4, 84, 84] to [B, A].

    Only for files of one's own: unlike `load_teacher` these libraries run what is in them.
    """
    if Path(path).suffix == ".pt2":
        return torch.export.load(path).module()
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda states: torch.from_numpy(session.run(None, {"states": states.numpy()})[0])
