"""Recorders in processes of their own: killed, on a full disk, side by side. Whatever happens, the data is the same."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

SHARDS = ["0000.h5", "0001.h5"]


class Recorders:
    """Starts recorders; see `recorder`."""

    def __init__(self, server: subprocess.Popen, folder: Path) -> None:
        self._server = server
        self._ask(play=str(folder))
        self.right = {name: (folder / "pong" / name).read_bytes() for name in SHARDS}
        start = time.perf_counter()
        (folder / "again").mkdir()
        assert self.wait(self.start(folder / "again")) == 0
        self.seconds = time.perf_counter() - start
        self.check(folder / "again")

    def _ask(self, **order) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())

    def start(self, root: Path, **faults) -> int:
        return self._ask(start=str(root), **faults)

    def wait(self, process: int) -> int:
        return self._ask(wait=process)

    def check(self, root: Path) -> None:
        """All is there, bit for bit, and nothing else."""
        assert files(root / "pong") == self.right


@pytest.fixture(scope="module")
def recorders(tmp_path_factory, teachers) -> Iterator[Recorders]:
    command = [sys.executable, str(Path(__file__).with_name("recorder.py")), str(teachers["pong"])]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        yield Recorders(server, tmp_path_factory.mktemp("played"))
        assert server.stdin is not None
        server.stdin.close()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def logs(root: Path) -> str:
    return "".join(path.read_text() for path in root.glob("*.log"))


def check_killed(recorders: Recorders, root: Path) -> tuple[int, str]:
    """How many shards a killed recorder finished, and what it left of the next; then the command must carry on."""
    found = files(root / "pong")
    finished = [name for name in SHARDS if name in found]
    for name in finished:
        assert found.pop(name) == recorders.right[name]
    part = "no file"
    for name, data in found.items():  # at most one
        (whole,) = (recorders.right[shard] for shard in SHARDS if name == f".{shard}.part")
        part = "whole" if data == whole else "empty" if not data else "partial"
        assert whole.startswith(data)
    assert len(found) <= 1
    assert recorders.wait(recorders.start(root)) == 0
    recorders.check(root)
    return len(finished), part


def test_a_recorder_killed_at_any_of_30_random_moments_leaves_whole_shards_and_is_carried_on(recorders, tmp_path):
    chance, places = np.random.default_rng(0), Counter()
    while places.total() < 30:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        root.mkdir()
        process = recorders.start(root)
        time.sleep(chance.uniform(0, recorders.seconds))
        os.kill(process, signal.SIGKILL)
        if recorders.wait(process) == -signal.SIGKILL:  # else it was done before
            places[check_killed(recorders, root)] += 1


def test_a_recorder_killed_between_two_lines_that_open_or_finish_a_shard_is_carried_on(recorders, tmp_path):
    places = Counter()
    for line in itertools.count(0, 3):
        root = tmp_path / str(line)
        root.mkdir()
        if (status := recorders.wait(recorders.start(root, line=line))) == 0:
            break
        assert status == -signal.SIGKILL
        places[check_killed(recorders, root)] += 1
    assert set(places) == {*itertools.product((0, 1), ("no file", "empty", "whole")), (2, "no file")}


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_recorder_killed_while_it_writes_is_carried_on(recorders, tmp_path, shard, share):
    assert recorders.wait(recorders.start(tmp_path, half=(shard, share))) == -signal.SIGKILL
    assert check_killed(recorders, tmp_path) == (shard, "partial")


def test_a_full_disk_is_one_line_and_the_same_command_carries_on(recorders, tmp_path):
    (tmp_path / "pong").mkdir()
    (tmp_path / "pong" / "0000.h5").write_bytes(recorders.right["0000.h5"])
    assert recorders.wait(recorders.start(tmp_path, limit=len(recorders.right["0001.h5"]) - 1)) == 1
    assert logs(tmp_path).splitlines()[-1] == (
        f"error: {tmp_path}/pong/0001.h5: file is not written (File too large), allowed is one that can be written; "
        "free space and run the same command again, which keeps finished shards, or record to another --root"
    )
    assert files(tmp_path / "pong") == {"0000.h5": recorders.right["0000.h5"]}
    assert recorders.wait(recorders.start(tmp_path)) == 0
    recorders.check(tmp_path)


def test_two_recorders_at_once_record_each_shard_once_and_both_end_well(recorders, tmp_path):
    chance = np.random.default_rng(1)
    for attempt in range(10):
        root = tmp_path / str(attempt)
        root.mkdir()
        first = recorders.start(root)
        time.sleep(chance.uniform(0, recorders.seconds) * (attempt % 2))
        second = recorders.start(root)
        assert [recorders.wait(first), recorders.wait(second)] == [0, 0]
        recorders.check(root)
        lines = Counter(line for line in logs(root).splitlines() if line.startswith(("recorded /", "kept ")))
        assert lines == Counter(f"{what}{root}/pong/{name}" for what in ("recorded ", "kept     ") for name in SHARDS)


def test_of_two_recorders_one_is_killed_and_the_other_ends_the_work_of_both(recorders, tmp_path):
    chance = np.random.default_rng(2)
    for attempt in range(10):
        root = tmp_path / str(attempt)
        root.mkdir()
        first, second = recorders.start(root), recorders.start(root)
        time.sleep(chance.uniform(0, recorders.seconds))
        os.kill(first, signal.SIGKILL)
        recorders.wait(first)
        assert recorders.wait(second) == 0
        recorders.check(root)
