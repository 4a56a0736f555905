"""Whatever happens on the way, to the disk or to the process: shards arrive whole, or nothing does."""

import errno
import itertools
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import contents, flipped, refused

import pd_lightning
from pd_lightning import servers
from pd_lightning.blocks import Shard, ShardError
from pd_lightning.remote import local_root

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.mark.parametrize("fault", ["drop", "reset", "cut"])
def test_wherever_a_connection_drops_the_shard_arrives_whole(remote, fault, tmp_path):
    (data,) = remote.shards("breakout").values()
    positions = random.Random(fault).sample(range(len(data)), 12)
    for number, where in enumerate([0, *positions, len(data) - 1]):
        remote.faults[:] = [(fault, where)]
        root = local_root(remote.url, ["breakout"], tmp_path / str(number))
        assert contents(root / "breakout") == {"0000.h5": data}, where
    assert remote.bodies() == 2 * 14


def test_a_body_cut_short_is_noticed_where_no_size_was_announced(remote, tmp_path):
    remote.sizes = False
    (data,) = remote.shards("breakout").values()
    for number, where in enumerate(random.Random(0).sample(range(len(data)), 12)):
        remote.faults[:] = [("cut", where)]
        root = local_root(remote.url, ["breakout"], tmp_path / str(number))
        assert contents(root / "breakout") == {"0000.h5": data}, where


def test_a_flipped_bit_never_reaches_the_cache(remote, tmp_path):
    (data,) = remote.shards("breakout").values()
    (tmp_path / "wanted.h5").write_bytes(data)
    wanted = Shard(tmp_path / "wanted.h5")
    for number, bit in enumerate(random.Random(0).sample(range(8 * len(data)), 30)):
        remote.faults[:] = [("flip", bit)]
        before = remote.bodies()
        path = local_root(remote.url, ["breakout"], tmp_path / str(number)) / "breakout/0000.h5"
        shard = Shard(path)
        shard.verify()
        assert shard.digest == wanted.digest  # over the frames' checksums, too
        # HDF5 has bytes that mean nothing: there alone may a file differ, and then it is taken at once.
        assert path.read_bytes() == (data if remote.bodies() == before + 2 else flipped(data, bit))


def test_a_server_that_announces_no_size_cannot_fill_the_disk(remote, monkeypatch):
    remote.sizes = False
    monkeypatch.setattr("pd_lightning.remote.LARGEST", 1000)
    refused(remote.url, ["breakout"], reasons=["more than the 1,000 bytes allowed where none are announced"])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (("drop", 1000), "not completed"),
        (("reset", 1000), ""),
        (("cut", 1000), "1,000 of "),
        (("flip", 8 * 5000), "block "),
        (("more", 0), "more than the "),
        (("status", 500), "500 Internal Server Error"),
        (("status", 503), "503 Service Unavailable"),
        (("status", 429), "429 Too Many Requests"),
    ],
)
def test_what_never_arrives_whole_is_refused_and_leaves_nothing(remote, tmp_path, fault, reason):
    remote.faults[:] = [fault] * 100
    reasons = [f"{remote.url}/breakout/0000.h5: attempt 5 of 5 failed (", reason, "check URL and network"]
    message = refused(remote.url, ["breakout"], reasons=reasons)
    assert "--data.root" not in message  # there is nothing to go on with
    assert remote.bodies() == 5
    assert not [path for path in tmp_path.rglob("*.*") if re.search(r"\.(h5|part|tag)$", path.name)]


def test_a_shard_listed_but_not_given_is_refused_at_once(remote):
    remote.refuse = lambda method, path, headers, query: 404 if path.endswith("0001.h5") else None
    refused(remote.url, ["pong"], reasons=["pong/0001.h5: attempt 1 of 5 failed (404 Not Found)"])


@pytest.mark.parametrize("count", [1, 4])
def test_a_server_in_trouble_is_asked_again(remote, count):
    seen = itertools.count()
    remote.refuse = lambda method, path, headers, query: 500 if next(seen) < count else None
    assert contents(local_root(remote.url, ["pong"]) / "pong") == remote.shards("pong")


@pytest.mark.parametrize("fault", [("silence", 0), ("stall", 1000)])
def test_a_server_that_falls_silent_is_left(remote, fault, monkeypatch):
    monkeypatch.setattr(servers, "TIMEOUT", 0.2)
    monkeypatch.setattr(servers, "ATTEMPTS", 2)
    remote.faults[:] = [fault] * 100
    started = time.monotonic()
    refused(remote.url, ["breakout"], reasons=["attempt 2 of 2 failed (", "imeout"])
    assert time.monotonic() - started < 5


def test_a_server_that_accepts_and_never_answers_is_left(monkeypatch):
    monkeypatch.setattr(servers, "TIMEOUT", 0.2)
    monkeypatch.setattr(servers, "ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/data"
        started = time.monotonic()
        refused(url, ["pong"], reasons=[f"{url}/pong: attempt 2 of 2", "imeout"])
        assert time.monotonic() - started < 5


def test_attempts_wait_longer_and_longer(remote, monkeypatch):
    waits = []
    monkeypatch.setattr(servers.time, "sleep", waits.append)
    monkeypatch.setattr(servers, "WAIT", 1.0)
    remote.refuse = lambda method, path, headers, query: 500
    refused(remote.url, ["pong"], reasons=["pong: attempt 5 of 5"])
    assert waits == [1, 2, 4, 8]


def test_a_full_disk_leaves_nothing_half_and_says_where_else(remote, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # as Python has it: writing fails instead
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        with pytest.raises(ShardError) as caught:
            local_root(remote.url, ["pong"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search(r"cache/http/127.*: disk is full \(.*File too large.*--data\.cache", str(caught.value))
    assert "PD_LIGHTNING_CACHE" in str(caught.value)
    assert remote.bodies() == 1
    assert not list(tmp_path.rglob("*.h5*"))
    assert contents(local_root(remote.url, ["pong"]) / "pong") == remote.shards("pong")


def test_no_space_when_syncing_is_a_full_disk_too(remote, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused(remote.url, ["pong"], reasons=["disk is full", "No space left"])


def test_a_cache_that_cannot_be_written_is_refused_by_name(remote, tmp_path):
    (tmp_path / "file").write_text("")
    refused(remote.url, ["pong"], tmp_path / "file", reasons=[f"{tmp_path}/file/http", "cache is", "--data.cache"])
    assert not remote.requests


NURSERY = """
import os, sys
from pathlib import Path
import aiohttp, fsspec.implementations.http
from pd_lightning import servers
from pd_lightning.remote import local_root

calls = 0

def deadly(call, fatal):
    def wrapped(*arguments, **options):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), 9)
        return call(*arguments, **options)
    return wrapped

for line in sys.stdin:
    url, cache, log, fatal = line.split()
    if url == "wait":
        print(os.waitpid(int(cache), 0)[1], flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        servers.WAIT = 0.001
        os.fsync = deadly(os.fsync, int(fatal))
        for name in ("replace", "write_text", "unlink"):
            setattr(Path, name, deadly(getattr(Path, name), int(fatal)))
        local_root(url, ["pong"], cache)
        os._exit(0)
"""


@pytest.fixture
def nursery(tmp_path):
    """Says of (url, cache, fatal) the number of a new process that fetches pong, and of ("wait", number) how it ended.

    It kills itself before the `fatal`-th call that changes the cache. Forked, as Python takes long to start.
    """
    environment = {"PYTHONPATH": str(Path(pd_lightning.__file__).parents[1]), "no_proxy": "127.0.0.1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", NURSERY], **pipes) as process:
        assert process.stdin
        assert process.stdout
        answers = process.stdout

        def ask(word, of, fatal=0):
            print(word, of, f"{tmp_path / 'log'}{next(numbers)}", fatal, file=process.stdin, flush=True)
            return int(answers.readline())

        numbers = itertools.count()
        yield ask
        process.stdin.close()
        process.wait(60)


def test_a_kill_at_any_moment_leaves_whole_shards_alone_and_the_same_call_goes_on(remote, tmp_path, nursery):
    # Of each shard: sync, rename, tag, sync of the folder, removal of the temporary name.
    wanted = remote.shards("pong")
    for fatal in range(1, 11):
        assert nursery("wait", nursery(remote.url, tmp_path / f"cache{fatal}", fatal)) == signal.SIGKILL, fatal
    choose = random.Random(0)
    for number in range(11, 17):  # and while the first or the second shard is on its way
        remote.faults[:] = [None] * (number % 2) + [("kill", choose.randrange(min(map(len, wanted.values()))))]
        remote.gate.clear()
        remote.victims[:] = [victim := nursery(remote.url, tmp_path / f"cache{number}")]
        remote.gate.set()
        assert nursery("wait", victim) == signal.SIGKILL
    for number in range(1, 17):
        cache = tmp_path / f"cache{number}"
        for path in cache.rglob("[!.]*.h5"):
            assert path.read_bytes() == wanted[path.name]
        root = local_root(remote.url, ["pong"], cache)  # no lock is left, either
        assert contents(root / "pong") == wanted
        assert not list(root.rglob(".*.part"))


def test_a_kill_while_shards_are_replaced_never_passes_an_old_one_off_as_new(remote, tmp_path, nursery):
    first, second = remote.shards("pong").values()
    size = max(len(first), len(second))
    old, new = first.ljust(size, b"\0"), second.ljust(size, b"\0")  # HDF5 does not mind
    for fatal in range(1, 6):
        remote.headers, remote.files["/data/pong/0000.h5"] = {"ETag": '"old"'}, old
        path = local_root(remote.url, ["pong"], tmp_path / str(fatal)) / "pong/0000.h5"
        remote.headers, remote.files["/data/pong/0000.h5"] = {"ETag": '"new"'}, new
        assert nursery("wait", nursery(remote.url, tmp_path / str(fatal), fatal)) == signal.SIGKILL
        assert path.read_bytes() in (old, new)
        local_root(remote.url, ["pong"], tmp_path / str(fatal))
        assert path.read_bytes() == new


def test_two_processes_at_once_fetch_once(remote, tmp_path, nursery):
    remote.gate.clear()  # until both are there
    children = [nursery(remote.url, tmp_path / "cache") for _ in range(2)]
    for _ in range(1500):
        logs = [log.read_text() for log in tmp_path.glob("log*")]
        if any("waiting for another process" in log for log in logs):
            break
        time.sleep(0.01)
    remote.gate.set()
    assert [nursery("wait", child) for child in children] == [0, 0]
    assert remote.bodies() == 2
    assert contents(local_root(remote.url, ["pong"]) / "pong") == remote.shards("pong")
    assert remote.bodies() == 2
    assert sorted("waiting" in log.read_text() for log in tmp_path.glob("log*")) == [False, True]
