"""Which weights `--ckpt_path` means: found, read without running code, refused if in doubt.

A checkpoint's hyper-parameters silently win over the command line in Lightning, and a missing one is a warning before
untrained weights are used; here both are errors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from pd_lightning.trainers import callbacks_of

if TYPE_CHECKING:  # whoever loads a teacher has no need of it, and it takes seconds
    import pytorch_lightning as pl


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which, why, and what to do."""


def find_checkpoint(name: str, folders: Sequence[Path]) -> Path:
    """The file that `--ckpt_path` means.

    Args:
        name: a path, of a run's folder too; or `last` or `best`, which is the newest last.ckpt or best.ckpt.
        folders: where to look for `last` and `best`: the checkpoints of each run.

    Raises:
        CheckpointError: there is none. (Lightning would look into the folder of the run that is just starting, find
            nothing, warn, and go on with untrained weights.)
    """
    if name not in ("last", "best"):
        name = os.path.expanduser(name)
        if Path(name).is_dir():
            if last := last_in(Path(name)):
                return last
            raise CheckpointError(f"--ckpt_path {name}: that folder has no last.ckpt; give a run's folder, or a .ckpt")
        if not Path(name).is_file():
            raise CheckpointError(
                f"--ckpt_path {name}: there is no such file; give a .ckpt, or 'last' or 'best' for the newest run's"
            )
        return Path(name)
    found = [path for folder in folders for path in folder.glob(f"{name}*.ckpt")]
    if not found:
        raise CheckpointError(f"--ckpt_path {name}: no run here has left a {name}.ckpt; name a file, or start anew")
    newest = max(found, key=_written)
    latest = max((folder for folder in folders if folder.is_dir()), key=_filled)
    if any(latest.glob(f"{name}*.ckpt")):
        return newest
    if last := last_in(latest):
        raise CheckpointError(
            f"--ckpt_path {name}: {latest.parent}, the newest run here, has no {name}.ckpt; name {last}, or {newest} "
            "of an older run"
        )
    raise CheckpointError(
        f"--ckpt_path {name}: {latest.parent}, the newest run here, has left no checkpoint yet, or was killed before "
        f"it could; give its command without --ckpt_path, or name {newest} to go on from there"
    )


def last_in(folder: Path) -> Path | None:
    """The last checkpoint in a run's folder, or in that of its checkpoints."""
    return max([*folder.glob("checkpoints/last*.ckpt"), *folder.glob("last*.ckpt")], key=_written, default=None)


def _written(path: Path) -> float:
    """When it was written; the newest is the largest."""
    return path.stat().st_mtime


def _filled(folder: Path) -> float:
    """When a run last wrote weights; where it has left none, when it began: it makes the folder then."""
    return max(map(_written, folder.glob("[!.]*.ckpt")), default=_written(folder))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, loaded without running code that may be in it.

    Raises:
        CheckpointError: it is damaged, holds more than data, or was not written by `fit`.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for files that are not its own
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        others = [other for other in path.parent.glob("[!.]*.ckpt") if other != path]
        newest = f", {max(others, key=_written)} perhaps" if others else ""
        raise CheckpointError(
            f"{path}: not a whole checkpoint that loads without running code ({reason}); name another{newest}"
        ) from None
    parts = ("state_dict", "hyper_parameters")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), Mapping) for part in parts):
        raise CheckpointError(
            f"{path}: has no {' and '.join(parts)}; name a checkpoint that `python train.py fit` has written"
        )
    return checkpoint


def student_weights(name: str, student: Any) -> dict[str, Any]:
    """The weights of another student, to begin with.

    Args:
        name: its checkpoint, or its run's folder.
        student: whose games, names and shapes must be the same.

    Raises:
        CheckpointError: they are not, or there is no such checkpoint.
    """
    if not Path(name).exists():
        raise CheckpointError(
            f"weights is {name}, which is not there: give --model.weights a student's checkpoint, or its run's folder"
        )
    path = last_in(Path(name)) if Path(name).is_dir() else Path(name)
    if path is None:
        raise CheckpointError(f"weights is {name}, which has no last.ckpt: give --model.weights another run's folder")
    checkpoint = read_checkpoint(path)
    prefix, settings = "student.", checkpoint["hyper_parameters"]
    found = {key.removeprefix(prefix): each for key, each in checkpoint["state_dict"].items() if key.startswith(prefix)}
    theirs, mine = ({key: each.shape for key, each in weights.items()} for weights in (found, student.state_dict()))
    if settings.get("games") != dict(student.games) or theirs != mine:
        raise CheckpointError(
            f"{path}: weights are of a {settings.get('size', 'teacher')} of {', '.join(settings.get('games') or ())}; "
            f"give --model.weights those of a student of {', '.join(student.games)}, of the size of this one"
        )
    return found


def is_over(checkpoint: Mapping[str, Any], trainer: pl.Trainer) -> bool:
    """Whether a run that is resumed from a checkpoint has had all its updates, epochs or time already."""
    try:
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except (KeyError, TypeError):
        epochs = 0
    limits = (trainer.max_steps, checkpoint.get("global_step", 0)), (trainer.max_epochs or -1, epochs)
    from pytorch_lightning.callbacks import Timer

    for timer in (each for each in callbacks_of(trainer) if isinstance(each, Timer)):
        spent = (checkpoint.get("callbacks") or {}).get(timer.state_key, {}).get("time_elapsed", {}).get("train", 0.0)
        limits = *limits, (timer._duration or -1, spent)
    return any(0 < limit <= done for limit, done in limits)


def explicit_model_options(args: Sequence[str], files: Sequence[Path]) -> set[str]:
    """Which options of the model were given, as flags or in --config files; `class_path` is the class itself."""
    texts, words = [file.read_text() for file in files], iter(args)
    given: set[str] = set()
    for word in words:
        if word.partition("=")[0] in ("--config", "-c"):
            config = word.partition("=")[2] or next(words, "")
            texts += [config] if config.lstrip().startswith("{") else []  # in place of a file
        if word.startswith(("--model.", "--model=")) or word == "--model":
            key, equals, value = word.removeprefix("--model").lstrip(".").partition("=")
            value = value if equals else next(words, "")
            given |= {key.removeprefix("init_args.").partition(".")[0]} if key else _keys(value)
    for content in (yaml.safe_load(text) or {} for text in texts):
        for part in (content, *(content.get(command) or {} for command in ("fit", "validate", "test"))):
            given |= _keys(part.get("model"))
    return given


def _keys(model: Any) -> set[str]:
    """Options in what may stand for a model: its class, a mapping, as text or not, or a file of one."""
    if isinstance(model, str):
        file = Path(model)
        model = yaml.safe_load(file.read_text() if file.is_file() else model)
    if not isinstance(model, dict):
        return {"class_path"} if model else set()
    return {"class_path"} & model.keys() | set(model.get("init_args") or {})


def refuse_contradictions(path: Path, saved: Mapping[str, Any], model: Any, given: set[str]) -> None:
    """The checkpoint's hyper-parameters win over the command line, so a command that says otherwise is refused.

    Args:
        path: of the checkpoint.
        saved: its hyper-parameters.
        model: the configuration as parsed: `class_path` and `init_args`.
        given: the options among them that were asked for, rather than being defaults.

    Raises:
        CheckpointError: an option, or the model's class, is not what the checkpoint was trained with.
    """
    if "_class_path" not in saved:
        raise CheckpointError(f"{path}: does not name its class; name one that `python train.py fit` has written")
    for key, said, was in _pairs(saved, model, given):
        if said != was:
            mend = "leave the option out" if key else "give --config, the preset of its run or its folder's config.yaml"
            raise CheckpointError(
                f"--model{key} is {said}, but {path} was trained with {was}; {mend}, name another checkpoint, or start "
                "anew without --ckpt_path"
            )


def _pairs(saved: Mapping[str, Any], model: Any, given: set[str]) -> Iterator[tuple[str, Any, Any]]:
    # The class is always compared, given or not: another one cannot learn from these data.
    said, was = str(model.class_path), str(saved["_class_path"])
    same = _loaded(was) is not None and _loaded(said) is _loaded(was)
    yield "", said.rsplit(".", 1)[-1], said.rsplit(".", 1)[-1] if same else was.removeprefix("pd_lightning.")
    for key in sorted(given & saved.keys() - {"games"}):  # games follow from the data
        given_now = model.init_args.get(key)
        yield f".{key}", given_now.as_dict() if hasattr(given_now, "as_dict") else given_now, saved[key]


def _loaded(path: str) -> Any:
    """What an import path leads to, if its module was imported: Lightning would import whatever a checkpoint names."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def refuse_other_weights(path: Path, checkpoint: Mapping[str, Any], model: pl.LightningModule) -> None:
    """Compares games, then names and shapes of weights, with the model's, before anything is computed.

    Raises:
        CheckpointError: they differ, or some are not finite.
    """
    games, mine = checkpoint["hyper_parameters"].get("games"), model.hparams.get("games")
    if games != mine:
        known, here = (", ".join(each) if isinstance(each, dict) else str(each) for each in (games, mine))
        if known == here:  # and only their actions differ
            known, here = str(games), str(mine)
        raise CheckpointError(
            f"{path}: plays {known}, the data are of {here}; give --data.games '[{known}]', or its run's own settings, "
            "--config RUN/config.yaml"
        )
    saved = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in checkpoint["state_dict"].items()}
    built = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(saved.keys() | built.keys()):
        if saved.get(name) != built.get(name):
            raise CheckpointError(
                f"{path}: {name} is {saved.get(name, 'missing')}, in a {type(model).__name__} of that size and those "
                f"games it is {built.get(name, 'missing')}; name a checkpoint of this architecture"
            )
        if not torch.as_tensor(checkpoint["state_dict"][name]).isfinite().all():
            raise CheckpointError(f"{path}: {name} has numbers that are not finite: that run diverged; name another")
