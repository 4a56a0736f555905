"""Datasets that lie elsewhere, behind a server of the worst kind: what arrives is what lies there, or nothing is."""

import errno
import itertools
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import fsspec
import pytest
from conftest import quiet_trainer

import pd_lightning
from pd_lightning import servers
from pd_lightning.blocks import Shard, ShardError, find_shards
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.remote import cache_folder, local_root

SECRETS = ("s3cret", "signed-away", "alice")


class Handler(BaseHTTPRequestHandler):
    """Gives the files of `server.files`, after the faults in `server.faults`: one for each shard asked for by GET."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would wait 40 ms between head and body
    server: "Remote"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path, _, query = self.path.partition("?")
        body &= self.headers["Accept-Encoding"] != "identity"  # by which fsspec asks for a size, without HEAD
        self.server.requests.append(("GET" if body else "HEAD", path))
        if refusal := self.server.refuse(self.command, path, self.headers, query):
            return self.say(refusal, kind="text/html")
        if path in self.server.files:
            self.server.gate.wait(20)
            fault = self.server.faults.pop(0) if body and self.server.faults else None
            return self.give(self.server.files[path], body, *(fault or ("whole", 0)))
        names = sorted(Path(file).name for file in self.server.files if Path(file).parent == Path(path))
        if self.server.listing is None or not names:
            return self.say(404)
        kind, page = self.server.listing
        links = "".join(f'<a href="{name}">{name}</a>' for name in names)
        self.say(200, page.format(links).encode(), kind)

    def say(self, status, text=b"", kind="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def give(self, data, body, fault, where):
        if fault == "status":
            return self.say(where)
        if fault == "silence":
            self.close_connection = True
            return self.server.over.wait(20)
        sent = {"flip": lambda: flipped(data, where), "more": lambda: data + bytes(10**6)}.get(fault, lambda: data)()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-hdf5")
        if fault not in ("cut", "more") and self.server.sizes:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return None
        self.wfile.write(sent[:where] if fault in ("drop", "reset", "cut", "stall", "kill") else sent)
        if fault == "stall":
            self.server.over.wait(20)
        if fault == "kill":
            time.sleep(0.05)  # so that it is written, too
            os.kill(self.server.victims.pop(), signal.SIGKILL)
        if fault == "reset":  # not closed but torn down
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
        self.close_connection |= fault in ("drop", "reset", "stall", "kill")
        return None

    def log_message(self, format, *args):
        pass


class Remote(ThreadingHTTPServer):
    """A root of datasets on loopback; `url` is its."""

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {f"/data/{path.relative_to(root)}": path.read_bytes() for path in root.glob("*/*")}
        self.faults, self.headers, self.requests, self.victims = [], {}, [], []
        self.listing, self.sizes = ("text/html", "<h1>Index</h1><a href='../'>up</a>{}"), True
        self.refuse = lambda method, path, headers, query: None
        self.over, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.url = f"http://127.0.0.1:{self.server_port}/data"

    def bodies(self):
        """How often shards were sent."""
        return sum(method == "GET" and path.endswith(".h5") for method, path in self.requests)

    def shards(self, game):
        return {Path(path).name: data for path, data in self.files.items() if f"/{game}/" in path and ".h5" in path}

    def handle_error(self, request, client_address):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


@contextmanager
def serving(root):
    server = Remote(root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.gate.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def remote(datasets):
    with serving(datasets) as server:
        yield server


@pytest.fixture(autouse=True)
def _at_once(monkeypatch, tmp_path):
    """No waiting between attempts, no proxy, and never the user's own cache."""
    monkeypatch.setattr(servers, "WAIT", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PD_LIGHTNING_CACHE", str(tmp_path / "cache"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def refused(*arguments, reasons=()):
    """The one line of the error that `local_root` raises."""
    with pytest.raises(ShardError) as caught:
        local_root(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    for reason in reasons:
        assert reason in message
    return message


def test_what_is_fetched_equals_what_lies_there_byte_for_byte(remote, tmp_path, capfd):
    root = local_root(remote.url, ["pong", "breakout"])
    assert root.is_relative_to(tmp_path / "cache" / "http")
    for game in ("pong", "breakout"):
        assert contents(root / game) == remote.shards(game)  # and not the teacher, nor anything half
        assert not list((root / game).glob(".*.part"))
    (line,) = capfd.readouterr().err.splitlines()  # no bar where there is no terminal
    total = sum(len(data) for game in ("pong", "breakout") for data in remote.shards(game).values())
    assert line == f"{remote.url}: fetched 3 shards, {total:,} bytes, kept in {root}"


def test_a_student_learns_from_a_url(remote, tmp_path):
    data = TeacherDatasets(remote.url, ["pong"], batch_size=64, threads=1, cache=str(tmp_path / "mine"))
    trainer = quiet_trainer(limit_train_batches=2, limit_val_batches=1)
    trainer.fit(PolicyDistillation(data.actions, size="net3"), data)
    assert trainer.global_step == 2
    assert data.root.is_relative_to(tmp_path / "mine")
    assert find_shards(data.root / "pong") == [data.root / "pong" / name for name in ("0000.h5", "0001.h5")]


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_server_that_does_not_list_is_asked_for_one_number_after_the_other(remote, status):
    remote.refuse = lambda method, path, headers, query: status if path == "/data/pong" else None
    assert contents(local_root(remote.url, ["pong"]) / "pong") == remote.shards("pong")


@pytest.mark.parametrize("listing", [("text/html", "<h1>Nothing to see</h1>"), ("application/xml", "<Contents/>")])
def test_a_page_without_links_is_no_listing(remote, listing):
    remote.listing = listing
    assert contents(local_root(remote.url, ["pong"]) / "pong") == remote.shards("pong")


def test_a_page_that_says_not_found_is_no_shard(remote):
    remote.listing = None
    remote.refuse = lambda method, path, headers, query: None if path in remote.files else 200
    assert contents(local_root(remote.url, ["pong"]) / "pong") == remote.shards("pong")


def test_only_names_of_shards_are_taken_from_a_listing(remote):
    elsewhere = "".join(
        f'<a href="{link}">x</a>'
        for link in ("/other/0007.h5", "http://127.0.0.1:1/data/pong/0008.h5", "old/0009.h5", "12.h5", "0003.h5.part",
                     "../../../../etc/0004.h5", "..%2f0005.h5", "pong/0006.h5?", "javascript:0011.h5")
    )  # fmt: skip
    remote.listing = ("text/html", "{}" + elsewhere)
    remote.files["/data/pong/0002x.h5"] = b"x"
    root = local_root(remote.url, ["breakout"])
    assert contents(root / "breakout") == remote.shards("breakout")
    assert {path for method, path in remote.requests} == {"/data/breakout", "/data/breakout/0000.h5"}


def test_object_stores_that_say_forbidden_of_what_they_lack_end_the_counting(remote):
    remote.listing = None
    remote.refuse = lambda method, path, headers, query: None if path in remote.files else 403
    assert contents(local_root(remote.url, ["pong"]) / "pong") == remote.shards("pong")


def test_a_signature_that_expires_while_counting_does_not_shorten_a_recording(remote):
    remote.listing = None
    expired = []

    def refuse(method, path, headers, query):
        expired.extend([1] * path.endswith("0001.h5"))
        return 403 if expired else None

    remote.refuse = refuse
    refused(remote.url, ["pong"], reasons=["pong/0000.h5: attempt 1 of 5 is failed (403 Forbidden)"])


def test_a_game_without_shards_is_refused_by_name(remote):
    where = f"{remote.url}/seaquest: folder is empty of shards or missing"
    refused(remote.url, ["pong", "seaquest"], reasons=[where, "0000.h5, 0001.h5", "upload"])


def test_a_local_folder_is_given_back_as_it_is(datasets, tmp_path):
    for root in (str(datasets), datasets, "datasets", Path("some/../where"), "odd:name/x"):
        assert local_root(root, ["pong"]) == Path(root)
    assert local_root(f"file://{datasets}", ["pong"]) == datasets
    assert not (tmp_path / "cache").exists()


def test_any_file_system_that_fsspec_knows_will_do(datasets):
    files = fsspec.filesystem("memory")
    try:
        for path in (datasets / "pong").iterdir():
            files.pipe(f"/bucket/data/pong/{path.name}", path.read_bytes())
        root = local_root("memory://bucket/data/", ["pong"])
        assert contents(root / "pong") == {p.name: p.read_bytes() for p in find_shards(datasets / "pong")}
        refused("memory://bucket/data", ["breakout"], reasons=["memory://bucket/data/breakout: folder is empty"])
    finally:
        files.rm("/bucket", recursive=True)


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
    reasons = [f"{remote.url}/breakout/0000.h5: attempt 5 of 5 is failed (", reason, "check URL and network"]
    message = refused(remote.url, ["breakout"], reasons=reasons)
    assert "--data.root" not in message  # there is nothing to go on with
    assert remote.bodies() == 5
    assert not [path for path in tmp_path.rglob("*.*") if re.search(r"\.(h5|part|tag)$", path.name)]


def test_a_shard_listed_but_not_given_is_refused_at_once(remote):
    remote.refuse = lambda method, path, headers, query: 404 if path.endswith("0001.h5") else None
    refused(remote.url, ["pong"], reasons=["pong/0001.h5: attempt 1 of 5 is failed (404 Not Found)"])


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
    refused(remote.url, ["breakout"], reasons=["attempt 2 of 2 is failed (", "imeout"])
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


def test_a_shard_that_is_still_the_same_is_not_fetched_again(remote, capfd):
    root = local_root(remote.url, ["pong"])
    before = {path: path.stat() for path in (root / "pong").iterdir()}
    capfd.readouterr()
    assert local_root(remote.url + "/", ["pong"]) == root
    assert remote.bodies() == 2
    assert {path: path.stat().st_mtime_ns for path in before} == {p: s.st_mtime_ns for p, s in before.items()}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("headers", [{}, {"ETag": '"{}"'}, {"Last-Modified": "Mon, 0{} Jan 2024 00:00:00 GMT"}])
def test_a_shard_that_was_replaced_is_fetched_anew(remote, headers):
    other = remote.files["/data/pong/0001.h5"]
    if headers:  # of the same size: padding means nothing to HDF5
        longest = max(len(other), len(remote.files["/data/pong/0000.h5"]))
        other = other.ljust(longest, b"\0")
        remote.files["/data/pong/0000.h5"] = remote.files["/data/pong/0000.h5"].ljust(longest, b"\0")
    remote.headers = {name: value.format(1) for name, value in headers.items()}
    root = local_root(remote.url, ["pong"])
    remote.files["/data/pong/0000.h5"] = other
    remote.headers = {name: value.format(2) for name, value in headers.items()}
    assert local_root(remote.url, ["pong"]) == root
    assert contents(root / "pong") == remote.shards("pong")


def test_without_size_and_tag_a_shard_is_fetched_every_time(remote):
    remote.sizes = False
    held = None
    for count in (1, 2):
        path = local_root(remote.url, ["breakout"]) / "breakout/0000.h5"
        assert remote.bodies() == count
        if held is not None:  # who has it open, such as another device of the run, keeps it
            assert path.stat().st_ino == held
        held = path.stat().st_ino


def test_a_shard_that_vanished_there_vanishes_here(remote):
    root = local_root(remote.url, ["pong"])
    del remote.files["/data/pong/0000.h5"]
    assert local_root(remote.url, ["pong"]) == root
    assert [path.name for path in find_shards(root / "pong")] == ["0001.h5"]
    assert not list((root / "pong").glob(".0000*"))


def test_a_cached_shard_that_was_damaged_is_fetched_again(remote):
    path = local_root(remote.url, ["breakout"]) / "breakout/0000.h5"
    good = path.read_bytes()
    for bad in (good[:1000], bytes(len(good))):
        path.write_bytes(bad)
        local_root(remote.url, ["breakout"])
        assert path.read_bytes() == good


def test_offline_the_error_says_how_to_go_on_and_that_works(datasets):
    with serving(datasets) as remote:
        root = local_root(remote.url, ["pong"])
    shutil.copytree(root / "pong", kept := root / "kept")
    hint = f"; or go on offline with what is kept of before (2 shards): --data.root {root}"
    message = refused(remote.url, ["pong"], reasons=[f"{remote.url}/pong: attempt 5 of 5", "onnect"])
    assert message.endswith(hint)
    assert contents(root / "pong") == contents(kept)
    assert len(TeacherDatasets(message.rpartition("--data.root ")[2], ["pong"]).shards["pong"]) == 2


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


def everything_said(error):
    """The message, the traceback, and whatever hangs on the error."""
    said, seen = [], [error]
    for each in seen:
        said += [str(each), repr(each)]
        seen += [other for other in (each.__cause__, each.__context__) if other is not None and other not in seen]
    return "\n".join([*said, *traceback.format_exception(error)])


@pytest.mark.parametrize("trouble", [None, 401, 403, 404, 500, "drop", "cut", "flip", "offline", "seaquest", "../x"])
def test_passwords_and_signatures_are_used_but_neither_said_nor_kept(remote, tmp_path, capfd, trouble):
    host = remote.url.removeprefix("http://")
    url = f"http://alice:s3cret%40%2F%3F@{host}?sig=signed-away%2Bx%3D&by=alice"

    def refuse(method, path, headers, query):
        assert headers["Authorization"] == "Basic YWxpY2U6czNjcmV0QC8/"  # alice:s3cret@/?
        assert parse_qs(query) == {"sig": ["signed-away+x="], "by": ["alice"]}
        return trouble if isinstance(trouble, int) else None

    remote.refuse = refuse
    if trouble is None:
        local_root(url, ["pong"])
        said = capfd.readouterr().err
        assert f"http://{host}: fetched 2 shards" in said
    else:
        remote.faults[:] = [(trouble, 1000)] * 100
        if trouble == "offline":
            url = url.replace(f":{remote.server_port}", ":1")
        with pytest.raises(ShardError) as caught:
            local_root(url, [trouble if trouble in ("seaquest", "../x") else "pong"])
        said = everything_said(caught.value) + capfd.readouterr().err
        assert "http://127.0.0.1:" in said
    kept = [*map(str, tmp_path.rglob("*")), *(p.read_bytes().decode("latin1") for p in tmp_path.rglob(".*.tag"))]
    for secret in SECRETS:
        assert secret not in "\n".join([said, *kept])


@pytest.mark.parametrize(
    "url",
    [
        "http://alice:s3cret?x@127.0.0.1/data",
        "http://alice:s3c#s3cret@127.0.0.1/data",
        "http://alice:s3cret/x@127.0.0.1/data",
        "ftp://alice:s3cret@127.0.0.1:1/data",
        "nonsense://alice:s3cret@host/data?signed-away",
        "simplecache::http://alice:s3cret@127.0.0.1:1/data",
        "memory://data?signed-away",
        "http://alice:s3cret@127.0.0.1:port/data",
    ],
)
def test_an_url_that_is_refused_keeps_its_secrets_too(url):
    with pytest.raises(ShardError) as caught:
        local_root(url, ["pong"])
    said = everything_said(caught.value)
    for secret in SECRETS:
        assert secret not in re.sub(r'local_root\(url, \["pong"\]\)', "", said)


def test_two_urls_never_share_a_folder_and_none_leaves_the_cache(remote, tmp_path):
    urls = [f"http://127.0.0.1:1/{path}" for path in ("../../x", "..%2f..%2fx", "/x", 300 * "x")]
    urls += ["http://", "memory://../x", "memory:///", "memory://x y", "memory://x_y"]
    for url in urls:
        refused(url, ["pong"])
    made = {path.parent for path in tmp_path.rglob("pong")}
    assert len(made) == len(urls)
    assert all(path.parent.parent == tmp_path / "cache" for path in made)


def test_the_name_of_a_game_is_no_path(remote):
    for game in ("../pong", "a/b", "", "x?y"):
        refused(remote.url, [game], reasons=[f"game is {game!r}"])


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "s3"), ("gs", "gs"), ("hf", "hf")])
def test_a_missing_library_is_named_by_its_extra(monkeypatch, protocol, extra):
    for module in ("s3fs", "gcsfs", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, module, None)
    refused(f"{protocol}://bucket/datasets", ["pong"], reasons=["not installed", f"pip install -e '.[{extra}]'"])


@pytest.mark.parametrize("url", ["nonsense://x", "simplecache::s3://bucket/x", "zip://x::http://127.0.0.1:1/y"])
def test_an_unknown_protocol_is_answered_by_the_known_ones(url):
    refused(url, ["pong"], reasons=["protocol is ", "s3://, gs://, hf://, http://, https:// or a local folder"])


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("PD_LIGHTNING_CACHE", "~/shards")
    assert cache_folder() == Path("/home/me/shards")
    monkeypatch.delenv("PD_LIGHTNING_CACHE")
    assert cache_folder() == Path("/caches/pd_lightning")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/me/.cache/pd_lightning")
