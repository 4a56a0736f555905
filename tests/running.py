"""`train.py` as a process of its own, for tests that kill it or watch it from outside."""

import contextlib
import csv
import faulthandler
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

TRAIN = Path(__file__).parent.parent / "train.py"
NURSERY = multiprocessing.get_context("forkserver")
NURSERY.set_forkserver_preload(["pd_lightning.cli"])  # imported once: it takes longer than most runs


def lines(file):
    """The rows of a CSV file."""
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def train(folder, output, words, environment):
    """In the process: what `python train.py WORDS` does in a folder."""
    os.setsid()
    os.chdir(folder)
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.path.insert(0, str(folder))
    sys.argv = [str(TRAIN), *words]
    faulthandler.enable()
    runpy.run_path(str(TRAIN), run_name="__main__")


class Run:
    """A `train.py` in a process group of its own, which is gone when the test is over."""

    def __init__(self, folder, *words, output="output.txt", environment=None):
        folder.mkdir(exist_ok=True)
        self.folder, self.output = folder, folder / output
        self.output.touch()
        alone = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "COLUMNS": "100"}  # of its own processes too
        known = {**os.environ, **alone, **(environment or {})}
        self.process = NURSERY.Process(target=train, args=(folder, self.output, words, known))
        with one_thread():
            self.process.start()

    @property
    def pid(self) -> int:
        """Its number, and that of its group."""
        assert self.process.pid is not None
        return self.process.pid

    def end(self, timeout=180):
        """Waits for the end; exit status and all that was printed."""
        self.process.join(timeout)
        if self.process.is_alive():
            os.kill(self.pid, signal.SIGABRT)  # says where all threads are
            time.sleep(2)
            self.kill()
            raise AssertionError(f"still running after {timeout} s\n{self.output.read_text()}")
        self.kill()
        return self.process.exitcode, self.output.read_text()

    def until(self, pattern, timeout=120):
        """Waits for a file."""
        deadline = time.monotonic() + timeout
        while not (found := list(self.folder.glob(pattern))):
            assert self.process.is_alive(), self.output.read_text()
            assert time.monotonic() < deadline, f"no {pattern}\n{self.output.read_text()}"
            time.sleep(0.02)
        return found[0]

    def kill(self):
        """Kills the process and its children, at once."""
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self.pid, signal.SIGKILL)
        self.process.kill()  # it may not have a group of its own yet
        self.process.join()


def torchrun(folder, *words, ranks=2):
    """Exit statuses and all that was printed by processes that were started as `torchrun` starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    count = str(ranks)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0",
              "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}  # fmt: skip
    runs = [
        Run(
            folder,
            *words,
            output=f"output{rank}.txt",
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]
    try:
        statuses, outputs = zip(*(run.end() for run in runs), strict=True)
    finally:
        for run in runs:
            run.kill()
    return statuses, "".join(outputs)


@contextlib.contextmanager
def one_thread():
    """The first process that is started makes the nursery, whose libraries count their threads when they are loaded."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
