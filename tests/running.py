"""`train.py` as a process of its own, for tests that kill it or watch it from outside."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TRAIN = Path(__file__).parent.parent / "train.py"


def lines(file):
    """The rows of a CSV file."""
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


class Run:
    """A `train.py` in a process group of its own, which is gone when the test is over."""

    def __init__(self, folder, *words):
        folder.mkdir(exist_ok=True)
        self.folder, self.output = folder, folder / "output.txt"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": str(folder),
            "COLUMNS": "100",
        }
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(TRAIN), *words],
                cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def end(self, timeout=180):
        """Waits for the end; exit status and all that was printed."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # says where all threads are
            time.sleep(2)
            raise AssertionError(f"still running after {timeout} s\n{self.output.read_text()}") from None
        finally:
            self.kill()
        return self.process.returncode, self.output.read_text()

    def until(self, pattern, timeout=120):
        """Waits for a file."""
        deadline = time.monotonic() + timeout
        while not (found := list(self.folder.glob(pattern))):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, f"no {pattern}\n{self.output.read_text()}"
            time.sleep(0.02)
        return found[0]

    def kill(self):
        """Kills the process and its children, at once."""
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
