"""A server of datasets, of the worst kind, and what is asked of those that fetch from it."""

import os
import signal
import socket
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pd_lightning.blocks import ShardError
from pd_lightning.remote import local_root


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
