"""Datasets that lie elsewhere, behind a server of the worst kind: what arrives is what lies there, or nothing is."""

import shutil
from pathlib import Path

import fsspec
import pytest
from conftest import quiet_trainer
from handmade import chunks
from serving import contents, refused, serving

from pd_lightning.blocks import Shard, ShardError, find_shards
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.remote import local_root

pytestmark = pytest.mark.usefixtures("at_once")


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


def test_links_that_begin_with_the_folder_itself_are_names_too(remote):
    remote.files["/data/pong/0003.h5"] = remote.files.pop("/data/pong/0001.h5")  # counting would end at the gap
    remote.listing = ("text/html", "".join(f'<a href="./000{number}.h5">x</a>' for number in (0, 3)))
    root = local_root(remote.url, ["pong"])
    assert contents(root / "pong") == remote.shards("pong")


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
    refused(remote.url, ["pong"], reasons=["pong/0000.h5: attempt 1 of 5 failed (403 Forbidden)"])


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


def test_a_flipped_bit_in_the_cache_is_mended_as_its_error_says(remote):
    path = local_root(remote.url, ["breakout"]) / "breakout/0000.h5"
    good, data = path.read_bytes(), bytearray(path.read_bytes())
    data[chunks(path)[1].byte_offset + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"block 1 .*; delete it and give the same command again, which fetches it"):
        Shard(path).verify()
    path.unlink()
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
