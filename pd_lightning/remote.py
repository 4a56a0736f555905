"""Datasets that lie elsewhere: a root may be a URL, and then its shards are fetched once into a cache.

`local_root("s3://bucket/datasets", ["pong"])` gives a local folder that holds exactly the shards that lie there::

    ~/.cache/pd_lightning/s3/bucket_datasets-1f0c2a9b/pong/
      0000.h5          a whole shard, always: fetched under a hidden name, verified block by block, synced, then renamed
      .0000.h5.part    one being fetched, or what a killed process left: the next one throws it away
      .0000.h5.tag     size and ETag (or time) of the remote file it was; if they are others now, it is fetched anew
      .lock            flock: one process fetches, others wait; the kernel drops it with its process

What comes is data, checked by `blocks`; nothing is unpickled or run.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from fsspec.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pd_lightning.blocks import Shard, ShardError
from pd_lightning.blocks.contract import fault, fetched_tag
from pd_lightning.blocks.folders import numbered
from pd_lightning.files import sync
from pd_lightning.servers import ELSEWHERE, Server, clean, connect

_TAGS = ("ETag", "etag", "blob_id", "generation", "Last-Modified", "LastModified", "mtime", "created")
"""What file systems call that which changes with a file's content, the surest first."""
LARGEST = 8 * 2**30
"""Bytes of a shard where a server does not say how many: 77 hours of Enduro, the longest allowed, have 5 GiB."""


def cache_folder() -> Path:
    """Where shards are kept: `$PD_LIGHTNING_CACHE`, else `pd_lightning` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    if own := os.environ.get("PD_LIGHTNING_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pd_lightning"


def local_root(root: str | os.PathLike[str], games: Sequence[str], cache: str | os.PathLike[str] | None = None) -> Path:
    """The local folder of a root of datasets. If that is a URL: with exactly the remote's shards of these games.

    Args:
        root: a folder, which is returned as it is, or a URL that fsspec knows.
        games: whose folders are needed.
        cache: where to keep what is fetched; None is `cache_folder()`.

    Raises:
        ShardError: the URL or a game's name is not allowed, its library is missing, there is no shard of a game, one
            could not be fetched whole, or the cache cannot be written. One line, without passwords.
    """
    url = os.fspath(root)
    protocol = re.match(r"[\w.+:-]+(?=://)", url) if isinstance(root, str) else None  # a Path is never a URL
    if protocol is None:
        return Path(url).expanduser()
    if protocol[0].lower() in ("file", "local"):
        return Path(url[len(f"{protocol[0]}://") :])
    folder = _folder(url, Path(cache).expanduser() if cache else cache_folder())
    server = connect(url, folder)
    for game in games:
        if not re.fullmatch(r"\w+", game):
            raise fault(server.shown, "game", repr(game), "letters, digits and _", "name it as its folder is called")
    fetched: list[int] = []
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    hidden = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        for game in games:
            fetched += _fetch_game(server, game, progress)
    if fetched:
        what = f"{len(fetched)} shard{'s' * (len(fetched) > 1)}, {sum(fetched):,} bytes"
        print(f"{server.shown}: fetched {what}, kept in {folder}", file=sys.stderr)
    return folder


def _folder(url: str, cache: Path) -> Path:
    """The URL's own folder: readable, and unique. Of what may be seen alone, as signatures come and go."""
    protocol, _, place = clean(url).rstrip("/").partition("://")
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", place)[:100].strip("._-") or "root"
    unique = hashlib.sha256(place.encode()).hexdigest()[:8]
    return cache / re.sub("[^a-z0-9]+", "_", protocol.lower()) / f"{name}-{unique}"


def _fetch_game(server: Server, game: str, progress: Progress) -> list[int]:
    """Makes a game's folder what it is at the server; returns the bytes of each shard that was fetched."""
    folder = server.folder / game
    fetched, kept = [], set()
    with _lock(folder):
        for left in folder.glob(".*.part"):
            left.unlink()
        for name in server.names(game):
            fetched.append(server.ask(f"{game}/{name}", lambda name=name: _fetch(server, game, name, progress)) or 0)
            kept.add(folder / name)
        if not kept:
            step = f"give the folder that {game}/ is in, or upload what `python -m pd_lightning.recording` made"
            allowed = "one with shards 0000.h5, 0001.h5, ..."
            raise fault(f"{server.shown}/{game}", "folder", "empty of shards or missing", allowed, step)
        for stale in set(numbered(folder)) - kept:  # last: until then they are what one could go on with offline
            stale.unlink()
            fetched_tag(stale).unlink(missing_ok=True)
    return [size for size in fetched if size]


def _lock(folder: Path) -> IO[bytes]:
    """Makes the folder and takes its lock, which is held until it is closed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "ab")  # noqa: SIM115 (the caller closes it)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: waiting for another process that fetches to it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise fault(folder, "cache", error, "a folder that can be written and locked", ELSEWHERE) from error
    return lock


def _fetch(server: Server, game: str, name: str, progress: Progress) -> int:
    """Sees to it that the cache has a shard as it is at the server; returns the bytes that were fetched."""
    place, path = f"{server.path}/{game}/{name}", server.folder / game / name
    info = server.files.info(place)
    size: int | None = info.get("size")
    mark = next((str(info[key]) for key in _TAGS if info.get(key)), "")
    tag = f"{size} {mark}" if size or mark else ""
    if tag and _is_kept(path, size, tag):
        return 0
    part = path.with_name(f".{name}.part")
    bar = _Bar(progress, f"{game}/{name}", size)
    try:
        server.files.get_file(place, str(part), callback=bar)
        if (came := part.stat().st_size) != size and size is not None:
            raise OSError(f"{came:,} of {size:,} bytes came")
        Shard(part).verify()
        if not (path.exists() and filecmp.cmp(part, path, shallow=False)):  # else others may have it open: it stays
            sync(part)
            part.replace(path)
        fetched_tag(path).write_text(tag)  # after it: if killed in between, the shard is fetched once more
        sync(path.parent)  # only now does the new name survive a power cut
        return came
    finally:
        # An abandoned attempt may still be writing, in fsspec's thread: not to the file of the next attempt.
        part.unlink(missing_ok=True)
        progress.remove_task(bar.task)


def _is_kept(path: Path, size: int | None, tag: str) -> bool:
    """Whether the cache has the shard with this tag, of that size, and it can be opened."""
    with contextlib.suppress(OSError, ShardError):
        return size in (None, path.stat().st_size) and fetched_tag(path).read_text() == tag and len(Shard(path)) > 0
    return False


class _Bar(Callback):
    """Shows how much of a shard has come; stops a server that sends more than it announced, or a shard may have."""

    def __init__(self, progress: Progress, name: str, announced: int | None) -> None:
        super().__init__()
        self.progress, self.most = progress, LARGEST if announced is None else announced
        self.whose = "allowed where none are " if announced is None else ""
        self.task = progress.add_task(name, total=announced)

    def call(self, *args: Any, **kwargs: Any) -> None:
        """What fsspec calls after each piece, as `value` has grown."""
        self.progress.update(self.task, completed=self.value)
        if self.value > self.most:
            raise OSError(f"more than the {self.most:,} bytes {self.whose}announced")
