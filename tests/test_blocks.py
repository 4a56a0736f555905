"""Shards: what is written is what is read, by anybody, and what is no shard is said to be none."""

import contextlib
import errno
import fcntl
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from handmade import (
    ACTIONS,
    BLOCKS,
    EPISODES,
    HEADER,
    ROOT,
    block,
    chunks,
    content,
    episode_returns,
    frame,
    hdf5,
    one_line,
    write,
)
from payload import Payload

from pd_lightning.blocks import BLOCK, CHUNK, Shard, ShardWriter, find_shards
from pd_lightning.blocks.__main__ import main
from pd_lightning.blocks.contract import FIELD_TYPES, SMALL


def test_a_shard_returns_bit_for_bit_what_was_written(shard_file):
    shard = Shard(shard_file)
    assert shard.header == HEADER
    assert (shard.n_blocks, len(shard), shard.path) == (len(BLOCKS), sum(EPISODES), shard_file)
    assert shard.returns.tolist() == episode_returns()
    frames = np.full(CHUNK, 99, np.uint8)
    for i, (episode, first, steps) in enumerate(BLOCKS):
        given = block(episode, first, steps)
        shard.read_block(i, frames)
        assert np.array_equal(frames[: steps + 3], given["frames"])
        assert not frames[steps + 3 :].any()
        assert (shard.lengths[i], shard.episodes[i]) == (steps, episode)
        for name in ("q_values", "actions", "rewards"):
            stored = getattr(shard, name)[i]
            assert stored.dtype == given[name].dtype
            assert np.array_equal(stored[:steps], given[name])
            assert not stored[steps:].any()


def test_a_state_is_the_last_four_frames_newest_last_and_zeros_at_a_start(shard_file):
    shard = Shard(shard_file)
    for i, (episode, first, steps) in enumerate(BLOCKS):
        states = shard.states(i)
        assert states.shape == (steps, 4, 84, 84)
        assert not states.flags.writeable
        for step, state in enumerate(states, first):
            assert np.array_equal(state, [frame(episode, s) for s in range(step - 3, step + 1)])


def test_the_same_calls_give_the_same_bytes(shard_file, tmp_path):
    assert write(tmp_path / "0000.h5").read_bytes() == shard_file.read_bytes()


def test_what_the_writer_got_may_be_reused_at_once(shard_file, tmp_path):
    with ShardWriter(tmp_path / "0000.h5", HEADER) as writer:
        for numbers in BLOCKS:
            given = block(*numbers)
            writer.add(**given)
            for name in ("frames", "q_values", "actions", "rewards"):
                given[name][:] = 1
        writer.finish(np.array(episode_returns()))
    assert content(tmp_path / "0000.h5") == content(shard_file)


def test_any_hdf5_tool_reads_the_same_frames_and_attributes(shard_file):
    shard, frames = Shard(shard_file), np.empty(CHUNK, np.uint8)
    with hdf5(shard_file) as file:
        assert set(file) == {"frames", *SMALL}
        assert file.attrs["game"].decode() == "pong"
        assert json.loads(file.attrs["action_meanings"]) == list(HEADER.action_meanings)
        assert file.attrs["epsilon"] == HEADER.epsilon
        for i in range(shard.n_blocks):
            shard.read_block(i, frames)
            assert np.array_equal(file["frames"][i], frames)
        for name in SMALL:
            assert np.array_equal(file[name][()], getattr(shard, name))


def test_the_snippet_in_the_readme_reads_a_state(shard_file, capsys):
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "datasets" / "README.md").read_text(), re.DOTALL)
    assert snippet is not None
    found: dict = {}
    exec(snippet[1].replace("datasets/pong/0000.h5", str(shard_file)), found)
    i, j = found["i"], found["j"]
    assert np.array_equal(found["state"], Shard(shard_file).states(i)[j])
    assert np.array_equal(found["q"], Shard(shard_file).q_values[i, j])


def test_the_readme_names_every_dataset_and_attribute():
    text = (ROOT / "datasets" / "README.md").read_text()
    names = ("frames", *SMALL, "format", "version", "digest", *FIELD_TYPES)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_threads_read_at_once_and_get_their_own_blocks(shard_file):
    shard = Shard(shard_file)

    def read(worker: int) -> None:
        out = np.empty(CHUNK, np.uint8)
        for i in np.random.default_rng(worker).integers(0, shard.n_blocks, 100):
            shard.read_block(int(i), out)
            assert np.array_equal(out[: BLOCKS[i][2] + 3], block(*BLOCKS[i])["frames"])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(read, range(4)))


def test_a_shard_pickles_without_its_descriptor(shard_file):
    shard = Shard(shard_file)
    before = shard.states(3).copy()
    again = pickle.loads(pickle.dumps(shard))
    assert "_descriptor" in vars(shard)
    assert "_descriptor" not in vars(again)
    assert np.array_equal(again.states(3), before)
    assert again.header == HEADER


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_shard_that_was_read_before_is_read_by_another_process(shard_file, method):
    shard = Shard(shard_file)
    mine = shard.states(3)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as processes:
        assert np.array_equal(processes.submit(shard.states, 3).result(timeout=60), mine)
    assert np.array_equal(shard.states(3), mine)


def test_a_shard_that_somebody_has_locked_is_read_all_the_same(copy):
    with copy.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(Shard(copy).states(0)) == 32


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="nothing says which files are open")
def test_a_shard_that_is_gone_leaves_no_file_open(shard_file):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        shard = Shard(shard_file)
        shard.states(0)
        del shard
    assert len(os.listdir("/proc/self/fd")) == before


def test_read_block_refuses_a_wrong_index_or_array(shard_file):
    shard = Shard(shard_file)
    for index in (-1, shard.n_blocks):
        with pytest.raises(IndexError, match="block"):
            shard.read_block(index, np.empty(CHUNK, np.uint8))
    for out in (np.empty(CHUNK, np.int8), np.empty((BLOCK, 84, 84), np.uint8), np.empty(CHUNK, np.uint8)[..., ::-1]):
        with pytest.raises(ValueError, match="out is"):
            shard.read_block(0, out)


# ---- files that are no shards ----


def test_what_is_no_hdf5_file_is_one_line(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5\n" * 1000)
    (tmp_path / "empty.h5").touch()
    (tmp_path / "folder.h5").mkdir()
    h5py.File(tmp_path / "bare.h5", "w").close()
    words = {"text": "unreadable", "empty": "unreadable", "folder": "a folder", "absent": "missing", "bare": "format"}
    for name, word in words.items():
        with one_line(str(tmp_path / f"{name}.h5"), word):
            Shard(tmp_path / f"{name}.h5")


def test_a_pickle_in_the_place_of_a_shard_is_not_executed(tmp_path):
    (tmp_path / "0000.h5").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with one_line("unreadable"):
        Shard(tmp_path / "0000.h5")
    assert not (tmp_path / "ran").exists()


def test_shards_are_found_by_number(tmp_path):
    for name in ("10000.h5", "0010.h5", "0002.h5", ".0003.h5.part", "12.h5", "notes.h5", "0004.h5.bak"):
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(tmp_path)] == ["0002.h5", "0010.h5", "10000.h5"]


def test_a_folder_without_shards_says_what_exists_and_what_to_run(shard_file, tmp_path):
    with one_line("missing", str(shard_file.parent), "python -m pd_lightning.recording --game breakout"):
        find_shards(shard_file.parent.parent / "breakout")
    (tmp_path / "seaquest").mkdir()
    with one_line("empty", "none beside it", "python -m pd_lightning.recording --game seaquest"):
        find_shards(tmp_path / "seaquest")


def test_a_file_that_was_replaced_or_changed_since_it_was_opened_is_an_error(copy, tmp_path):
    shard = Shard(copy)
    os.replace(write(tmp_path / "0001.h5", replace(HEADER, seed=8)), copy)
    with one_line("replaced"):
        shard.states(0)
    shard = Shard(copy)
    os.utime(copy, (1, 1))
    with one_line("changed"):
        shard.states(0)
    shard = Shard(copy)
    copy.unlink()
    with one_line("gone"):
        shard.states(0)


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EMFILE, "ulimit -n"), (errno.EIO, "check the disk"), (errno.ENOENT, "gone")]
)
@pytest.mark.parametrize("call", ["open", "pread"])
def test_what_the_system_refuses_while_reading_is_said_as_it_is(copy, monkeypatch, code, words, call):
    shard = Shard(copy)

    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with one_line(words):
        shard.states(0)


# ---- the command line ----


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def test_verify_names_every_faulty_file_and_goes_on_with_the_others(copy):
    assert run("verify", copy) == (0, "1 of 1 shards whole, 116 states\n", "")
    folder = copy.parent
    for number in (1, 2, 3):
        shutil.copy(copy, folder / f"000{number}.h5")
    os.truncate(folder / "0001.h5", 5000)
    data = bytearray(copy.read_bytes())
    data[chunks(copy)[4].byte_offset + 9] ^= 1
    (folder / "0002.h5").write_bytes(data)
    status, out, err = run("verify", folder, folder / "absent")
    assert (status, out) == (1, "2 of 5 shards whole, 232 states\n")
    lines = err.splitlines()
    assert len(lines) == 3
    assert [any(name in line for line in lines) for name in ("0001.h5", "0002.h5: block 4 ", "absent")] == [True] * 3
    assert run("verify", folder.parent)[:2] == (1, "2 of 4 shards whole, 232 states\n")  # the folder of games


def test_verify_finds_a_shard_that_lies_in_another_games_folder(copy, tmp_path):
    wrong = tmp_path / "games" / "breakout" / "0000.h5"
    wrong.parent.mkdir(parents=True)
    shutil.copy(copy, wrong)
    status, out, err = run("verify", tmp_path / "games")
    assert (status, out) == (1, "0 of 1 shards whole, 0 states\n")
    assert err.startswith(f"{wrong}: game is pong, allowed is breakout, as its folder is called; ")
    assert run("verify", wrong.parent)[0] == 0  # a folder by itself may be called what it likes


def test_info_agrees_with_the_recording(copy):
    write(copy.parent / "0001.h5", replace(HEADER, shard=1))
    status, out, err = run("info", "--json", copy.parent)
    assert (status, err) == (0, "")
    (summary,) = json.loads(out)
    played = [(step + episode) % ACTIONS for episode, steps in enumerate(EPISODES) for step in range(steps)] * 2
    returns = episode_returns() * 2
    mean = sum(returns) / 6
    size = sum(path.stat().st_size for path in copy.parent.iterdir())
    assert summary == {
        "path": str(copy.parent),
        "game": "pong",
        "protocol": "paper",
        "teacher": "tëst teacher",
        "teacher_sha256": HEADER.teacher_sha256,
        "player": "teacher",
        "shards": 2,
        "blocks": 12,
        "states": 232,
        "episodes": 6,
        "return": pytest.approx(mean),
        "return_std": pytest.approx((sum((r - mean) ** 2 for r in returns) / 5) ** 0.5),
        "bytes": size,
        "bytes_per_state": pytest.approx(size / 232),
        "actions": {meaning: played.count(i) for i, meaning in enumerate(HEADER.action_meanings)},
    }
    status, out, _ = run("info", copy, copy.parent)
    assert status == 0
    assert out.count("tëst teacher") == 2
    assert "states           116\n" in out
    assert "states           232\n" in out


def test_info_refuses_to_mix_teachers(copy):
    write(copy.parent / "0001.h5", replace(HEADER, shard=1, teacher_sha256="f" * 64))
    status, out, err = run("info", "--json", copy.parent)
    assert (status, json.loads(out)) == (1, [])
    assert "teacher_sha256" in err
    assert len(err.splitlines()) == 1


def test_the_module_runs_as_a_command(shard_file):
    command = [sys.executable, "-m", "pd_lightning.blocks", "verify"]
    good = subprocess.run([*command, str(shard_file)], cwd=ROOT, capture_output=True, text=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, "1 of 1 shards whole, 116 states\n", "")
    assert subprocess.run([*command, str(ROOT / "absent.h5")], cwd=ROOT, capture_output=True).returncode == 1
    stopped = "import os, runpy, sys\nfrom pd_lightning.blocks import Shard\n"
    stopped += "Shard.verify = lambda self, *more: os.kill(os.getpid(), 2)\nsys.argv[1:] = ['verify', sys.argv[1]]\n"
    stopped += "runpy.run_module('pd_lightning.blocks', run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", stopped, str(shard_file)], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "stopped\n")
