"""Servers that hold datasets: which shards there are, asked as often as it takes, with errors that keep secrets.

A server is any file system that fsspec knows. It may drop, delay or refuse what it is asked for, so everything goes
through `Server.ask`. What comes is not believed here: `remote` verifies it. Passwords and signed query strings of a URL
are used, but neither shown nor kept.
"""

from __future__ import annotations

import errno
import itertools
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import fsspec
from fsspec.core import url_to_fs

from pd_lightning.blocks import ShardError
from pd_lightning.blocks.contract import fault
from pd_lightning.blocks.folders import is_shard, numbered, shard_name

ATTEMPTS = 5
WAIT = 1.0
"""Seconds before the second attempt; they double with each further one."""
TIMEOUT = 20.0
"""Seconds that an HTTP server may be silent. Other file systems have limits of their own."""
ELSEWHERE = "choose another by --data.cache or the environment variable PD_LIGHTNING_CACHE"

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}
_KNOWN = "s3://, gs://, hf://, http://, https:// or a local folder"
_T = TypeVar("_T")


def clean(text: str) -> str:
    """Without what may be secret in a URL: user and password, query and fragment."""
    return re.sub(r"[?#][^\s'\"]*", "", re.sub(r"//[^/\s]*@", "//", text))


def connect(url: str, folder: Path) -> Server:
    """The server that a URL means, which is not asked for anything yet.

    Args:
        url: with user, password and query string, if any.
        folder: where its shards are kept; for its messages alone.

    Raises:
        ShardError: the URL is not allowed, or its library is not installed.
    """
    shown = clean(url).rstrip("/")
    protocol, _, rest = url.partition("://")
    protocol = protocol.lower()
    place, mark, query = rest.partition("#")[0].partition("?")
    http = protocol in ("http", "https")
    if protocol not in fsspec.available_protocols() or re.search(r"::\w+://", place):  # chains do not end in a folder
        raise fault(shown, "protocol", protocol, _KNOWN, "give another --data.root")
    if re.match(r"[^/@]*[?#][^/]*@|[^/@]*:[^/@]*[^/@\d][^/@]*/.*@", rest):  # the latter: what looks like a port is none
        shown = f"{protocol}://{clean(rest.rpartition('@')[2])}"
        allowed = "%23 for #, %3F for ?, %40 for @, %2F for /"
        raise fault(shown, "user or password", "not quoted", allowed, "mend --data.root")
    if mark and not http:
        raise fault(shown, "query string", "given", "one for http and https alone", "leave out what follows the ?")
    options: dict[str, Any] = {"skip_instance_cache": True}  # it would remember listings, and passwords
    reason = ""
    try:
        if http:
            import aiohttp  # here, as it takes a while and most roots are local

            limit = aiohttp.ClientTimeout(total=None, connect=TIMEOUT, sock_read=TIMEOUT)
            # trust_env: proxies and ~/.netrc. params: apart, as names of shards are put behind the URL.
            options |= {"client_kwargs": {"timeout": limit, "trust_env": True}}
            options |= {"params": parse_qsl(query, keep_blank_values=True)}
        files, path = url_to_fs(f"{protocol}://{place}", **options)
        return Server(files, path.rstrip("/"), http, shown, folder)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        step = f"pip install -e '.[{extra}]'" if extra else clean(str(error))
        raise fault(shown, f"the library for {protocol}://", "not installed", "an installed one", step) from None
    except Exception as error:  # every file system has errors of its own
        reason = clean(str(error))
    raise fault(shown, "URL", f"refused ({reason})", _KNOWN, "mend --data.root")


@dataclass
class Server:
    """A remote root of datasets.

    Attributes:
        files: the fsspec file system.
        path: the root, as `files` wants it; may hold a password.
        http: whether it is HTTP, where a file's name may be known but not listed.
        shown: its URL as it may be shown.
        folder: where its shards are kept; for messages alone.
    """

    files: Any
    path: str
    http: bool
    shown: str
    folder: Path

    def names(self, game: str) -> Iterator[str]:
        """The names of a game's shards: as listed, else as many from 0000.h5 on as there are."""
        refused = (401, 403, 404, 405, 410, 501)  # as web servers answer that do not list
        listed = self.ask(game, lambda: self.files.ls(f"{self.path}/{game}", detail=False), none_for=refused)
        # Only names are taken from a listing: a link that leads elsewhere is not followed. Some begin with "./".
        places = [re.split("[?#]", place)[0].replace("/./", "/").split("/") for place in listed or ()]
        names = {place[-1] for place in places if place[-2:-1] == [game]}
        if shards := [name for name in sorted(names) if is_shard(name)]:
            yield from shards
            return
        for number in itertools.count():
            name = shard_name(number)
            if self._lacks(game, name, first=number == 0):
                return
            yield name

    def _lacks(self, game: str, name: str, first: bool) -> bool:
        def info(name: str, *none_for: int) -> dict[str, Any] | None:
            return self.ask(f"{game}/{name}", lambda: self.files.info(f"{self.path}/{game}/{name}"), none_for)

        found = info(name, 404, 410) if first else info(name, 404, 410, 403)
        if found is None:
            # Object stores that do not list say 403 of what they lack, others of all once a signature has expired:
            # a recording must not look shorter for that. Where 0000.h5 is still given, it is the former.
            return first or info("0000.h5") is not None
        return found.get("type") == "directory" or found.get("mimetype") == "text/html"  # "not found", says a page

    def ask(self, what: str, action: Callable[[], _T], none_for: Sequence[int] = ()) -> _T | None:
        """What `action` gives, after some attempts if need be; None if it is answered one of these HTTP statuses.

        Raises:
            ShardError: no attempt succeeded; names what was asked for, the last reason, and what to do next.
        """
        reason, full, number = "", False, 0
        for number in range(1, ATTEMPTS + 1):
            try:
                return action()
            except Exception as error:  # every file system has errors of its own
                full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
                reason, status = self._explain(error)
            if status in none_for:
                return None
            if full or (status in range(401, 500) and status not in (408, 425, 429)):
                break  # asking again would not help
            self.files.invalidate_cache()  # or a listing of before is believed once more
            if number < ATTEMPTS:
                time.sleep(WAIT * 2 ** (number - 1))
        # Raised here, not under `except`: what went wrong may hold a password, and would be shown as the context.
        if full:
            raise ShardError(f"{self.folder}: disk is full ({reason}); free some, or {ELSEWHERE}")
        step = "check URL and network, then give the same command again"
        if count := len(numbered(self.folder / what.partition("/")[0])):
            kept = shlex.quote(str(self.folder))
            step += f"; or go on offline with what is kept of before ({count} shards): --data.root {kept}"
        raise ShardError(f"{self.shown}/{what}: attempt {number} of {ATTEMPTS} failed ({reason}); {step}")

    def _explain(self, error: Exception) -> tuple[str, int | None]:
        """Why something failed, without secrets, and the HTTP status if there was one."""
        if self.http and isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # `info` calls everything "not found", also a dropped connection
        status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
        if status is None and isinstance(error, (FileNotFoundError, PermissionError)):
            return ("404 not found", 404) if isinstance(error, FileNotFoundError) else (clean(f"403 {error}"), 403)
        if isinstance(error, ShardError):  # neither its temporary name matters, nor what to do about a local file
            return re.sub(r"^.*?\.part: |, allowed is .*$", "", str(error)), None
        text = getattr(error, "message", None) or str(error) or type(error).__name__
        return clean(f"{status or ''} {text}".strip())[:200], status
