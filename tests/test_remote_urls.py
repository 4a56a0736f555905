"""URLs: what they name, what they keep secret, and what is said of those that cannot be fetched from."""

import re
import sys
import traceback
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from serving import refused

from pd_lightning.blocks import ShardError
from pd_lightning.remote import cache_folder, local_root

pytestmark = pytest.mark.usefixtures("at_once")
SECRETS = ("s3cret", "signed-away", "alice")


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
