"""One task: a command with a folder of its own, which is carried on if it was killed, and done once."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pd_lightning.blocks import ShardError, find_shards
from pd_lightning.files import write_text

BEGUN = "begun.json"
"""Appears in a task's folder when its command begins."""
DONE = "done.json"
"""Appears in a task's folder, whole, when its command has ended well."""


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1  # sys/prctl.h


class TaskError(ValueError):
    """A task's command failed; the message names its log and the last line of it."""


class TaskBusy(TaskError):
    """Another process is doing it."""


@dataclass(frozen=True)
class Task:
    """A command of this project.

    Attributes:
        folder: where it leaves everything; also its name.
        words: of the command, after `python -m`.
        resumable: whether it takes `--ckpt_path` to go on from a checkpoint in its folder.
        shards: folder that holds shards when it is done, if it is a recording.
    """

    folder: str
    words: tuple[str, ...]
    resumable: bool = True
    shards: str = ""

    @property
    def name(self) -> str:
        """As it is shown."""
        return Path(self.folder).name

    @property
    def done(self) -> bool:
        """Whether its command has ended well, and was this one; and what it recorded is there.

        Raises:
            TaskError: the folder is of another command.
        """
        self._check(BEGUN)
        return self._check(DONE) and (not self.shards or has_shards(Path(self.shards)))

    def _check(self, name: str) -> bool:
        """Whether a file is there, which must be of this command."""
        path = Path(self.folder) / name
        if not path.is_file():
            return False
        try:
            words = json.loads(path.read_text())["words"]
        except (ValueError, KeyError, TypeError):
            raise TaskError(f"{path}: not what this project writes; delete it to run the task again") from None
        if words != list(self.words):
            raise TaskError(
                f"{path}: the folder is of another command ({' '.join(map(str, words))[:200]}); choose another "
                "--output, or delete it"
            )
        return True


def has_shards(folder: Path) -> bool:
    """Whether a game has any recording."""
    try:
        return bool(find_shards(folder))
    except ShardError:
        return False


def execute(task: Task, environment: Mapping[str, str] | None = None) -> float:
    """Does a task, or nothing if it is done. Its output goes to `log.txt` in its folder.

    Killed with it is the command, on Linux; elsewhere it goes on alone, with a lock on the folder, and nobody begins a
    second one beside it.

    Args:
        task: what to do.
        environment: variables that it gets besides ours: which GPU, how many threads.

    Returns:
        Seconds it took, those of attempts before included; of one that was done, those that it took then.

    Raises:
        TaskError: the command failed, or another process is at it.
    """
    folder = Path(task.folder)
    if task.done:
        return float(json.loads((folder / DONE).read_text())["seconds"])
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", *task.words]
    # By name: a newer attempt that was killed before it could save anything has left a folder too.
    saved = folder.glob("lightning_logs/*/checkpoints/last.ckpt")
    if task.resumable and (newest := max(saved, key=os.path.getmtime, default=None)):
        words += ["--ckpt_path", str(newest)]
    began = time.time()
    with (folder / "lock").open("w") as lock, (folder / "log.txt").open("ab") as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TaskBusy(
                f"{task.name}: another process is at it ({folder}); wait until it ends, or stop it"
            ) from None
        write_text(folder / BEGUN, json.dumps(asdict(task), indent=2) + "\n")
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            pass_fds=[lock.fileno()],
            preexec_fn=_die_with_parent if LIBC else None,
        )
        try:
            status = process.wait()
        finally:
            process.kill()  # nothing, if it has ended
            process.wait()
            spent = _add_seconds(folder, time.time() - began)
    if status:
        raise TaskError(
            f"{task.name}: exit status {status}, {_last_line(folder / 'log.txt')}; see {folder / 'log.txt'}"
        )
    write_text(folder / DONE, json.dumps({**asdict(task), "seconds": spent}, indent=2) + "\n")
    return spent


def _die_with_parent() -> None:
    """In the command, before it begins: the kernel kills it when the thread that waits for it is no more."""
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    return next((line[:200] for line in reversed(lines) if line), "no output")


def _add_seconds(folder: Path, seconds: float) -> float:
    """Keeps count over attempts."""
    path = folder / "seconds.txt"
    before = float(path.read_text()) if path.is_file() else 0.0
    write_text(path, f"{before + seconds:.1f}\n")
    return before + seconds
