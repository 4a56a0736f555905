"""Published scores digit by digit, what reaches the disk before it has its name, and what strangers claim."""

import hashlib
import os
import re
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from conftest import quiet_trainer, short_play, tiny_network
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from pd_lightning.blocks import ShardError
from pd_lightning.callbacks.atomic import AtomicCheckpoints
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.files import write_text
from pd_lightning.recording.filling import ShardTask, record_task
from pd_lightning.scores import SCORES
from pd_lightning.teacher import TeacherError, hub, save_teacher

# Scores

# Written down apart from the package's table: random and DQN of Mnih et al. 2015, human of Wang et al. 2016.
PUBLISHED = {
    "beam_rider": (363.9, 16926.5, 6846.0),
    "breakout": (1.7, 30.5, 401.2),
    "enduro": (0.0, 860.5, 301.8),
    "freeway": (0.0, 29.6, 30.3),
    "ms_pacman": (307.3, 6951.6, 2311.0),
    "pong": (-20.7, 14.6, 18.9),
    "qbert": (163.9, 13455.0, 10596.0),
    "riverraid": (1338.5, 17118.0, 8316.0),
    "seaquest": (68.4, 42054.7, 5286.0),
    "space_invaders": (148.0, 1668.7, 1976.0),
}


@pytest.mark.parametrize("game", PUBLISHED)
def test_random_human_and_dqn_scores_are_the_published_ones(game):
    scores = SCORES[game]
    assert (scores.random, scores.human, scores.dqn) == PUBLISHED[game]


def test_no_digit_of_the_57_games_scores_has_changed_since_they_were_compared_with_their_source():
    every = repr([(game, *scores) for game, scores in sorted(SCORES.items())])
    assert hashlib.sha256(every.encode()).hexdigest()[:16] == "9765e03c51885f81"


# The disk


def test_an_error_of_the_disk_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "no_such_folder" / "x.txt", tmp_path / "file" / "x.txt", tmp_path / ("x" * 250)):
        with pytest.raises(OSError, match=re.escape(f"'{path}'")):
            write_text(path, "x")


def a_checkpoint(path):
    trainer = quiet_trainer()
    trainer.strategy.checkpoint_io = AtomicCheckpoints()
    trainer.strategy.connect(PolicyDistillation({"pong": 6}, "net3"))
    trainer.save_checkpoint(path)


def a_teacher(path):
    save_teacher(tiny_network("pong"), path, {})


@pytest.mark.parametrize(("write", "name"), [(a_checkpoint, "last.ckpt"), (a_teacher, "teacher.safetensors")])
def test_a_file_is_on_the_disk_whole_before_it_takes_its_name(tmp_path, monkeypatch, write, name):
    path, happened = tmp_path / name, []
    sync, rename = os.fsync, os.replace

    def note(what, stat):
        happened.append((what, stat.st_ino, stat.st_size))

    def noted_sync(descriptor):
        note("synced", os.fstat(descriptor))
        sync(descriptor)

    def noted_rename(source, target):
        assert target == path
        note("renamed", os.stat(source))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noted_sync)
        patch.setattr(os, "replace", noted_rename)
        write(path)
    own = path.stat()
    assert happened == [(what, own.st_ino, own.st_size) for what in ("synced", "renamed")]


# What others claim


def test_a_machine_with_another_teacher_of_that_name_records_nothing(teachers, tmp_path):
    header = short_play("pong", teachers["pong"], frame_limit=80, steps_goal=1)
    path = tmp_path / "pong" / "0000.h5"
    other = replace(header, teacher_sha256="0" * 64)
    with pytest.raises(ShardError, match=rf"0000\.h5: teacher_sha256 is to be 0{{64}}, .* has {header.teacher_sha256}"):
        record_task(ShardTask(path, other, str(teachers["pong"]), "cpu"))
    assert not list(tmp_path.iterdir())
    record_task(ShardTask(path, header, str(teachers["pong"]), "cpu"))
    assert [path.name for path in path.parent.iterdir()] == ["0000.h5"]


class Understated(MemoryFileSystem):
    """A hub that announces a byte of whatever it holds."""

    protocol = "hf"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    def find(self, path, maxdepth=None, withdirs=False, **kwargs):
        found: Any = super().find(path, maxdepth, withdirs, **kwargs)  # a dict, as details are asked for
        return {name: {**about, "size": 1} for name, about in found.items()}


@pytest.mark.parametrize("name", ["policy.pth", "config.yml"])
def test_a_server_that_sends_more_than_it_announced_is_an_error_and_nothing_of_it_is_kept(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PD_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(_registry, "hf", Understated)
    monkeypatch.setattr(hub, "WEIGHTS_LIMIT", 1000)
    monkeypatch.setattr(hub, "TEXT_LIMIT", 500)
    Understated.store, Understated.pseudo_dirs = {}, [""]
    Understated.clear_instance_cache()
    files = Understated()
    for each, size in {"policy.pth": 1000, "config.yml": 500}.items():
        files.pipe_file(f"sb3/it/{each}", bytes(size + (each == name)))
    limit = {"policy.pth": "1,000", "config.yml": "500"}[name]
    with pytest.raises(TeacherError, match=rf"hf://sb3/it/{name}: more than the {limit} bytes allowed"):
        hub.fetch("hf://sb3/it")
    kept = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert kept == ({"config.yml"} if name == "policy.pth" else set())  # it came first, and was no larger than allowed
