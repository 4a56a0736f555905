"""What several test files share: teachers and datasets, which are real play of networks that know nothing; a shard made
by hand; a server of datasets; commands that are refused.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import handmade
import pytest
import pytorch_lightning as pl
import serving
import torch

from pd_lightning import servers
from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.blocks import Header
from pd_lightning.cli import main
from pd_lightning.networks import QNetwork
from pd_lightning.recording import record_shard
from pd_lightning.recording.shards import header_of
from pd_lightning.teacher import load_teacher, save_teacher

GAMES = {"pong": 6, "breakout": 4}
LONG = ("test_train", "test_trainer_options", "test_cluster", "test_reproduce", "test_live", "test_live_commands")
"""Files with tests of a minute: they come first, so that no worker is left alone with them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts; within a file all stays in order, as its tests share what was made for the first."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """One thread, as the machine may be busy; and a folder of its own, as Lightning leaves its logs where it runs."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def four_threads():
    """As on a machine with cores to share out."""
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--gpu", action="store_true", help="show the tests this machine's GPUs, which are hidden from them otherwise"
    )


def pytest_configure(config):
    # Many tests compare bits, or fork: what a GPU computes has other bits, and no child may go on with it.
    if not config.getoption("--gpu", False):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def quiet_trainer(**options) -> pl.Trainer:
    """A trainer of one epoch on the CPU that shows and writes nothing; `options` are what should be different."""
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return pl.Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 1, **quiet, **options})


class Gauge(pl.Callback):
    """Measures all gradients of each update, one after the other, before they are set to zero."""

    def __init__(self, measure):
        self.measure, self.sizes = measure, []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if grads := [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]:
            self.sizes.append(float(self.measure(torch.cat(grads))))


def checkpoint_of(module, path):
    """What Lightning saves of a module that is about to be trained."""
    trainer = quiet_trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


def tiny_network(game: str, seed: int = 0) -> QNetwork:
    """A net3 that was never trained, but has an opinion: its Q-values are of the size of a return's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = QNetwork({game: GAMES[game]}, "net3", layer_norm=True)
        torch.nn.init.normal_(network.heads[game].output.weight)  # pyright: ignore
    network.centre(game, torch.full((84, 84), 90.0), 20.0)
    return network


def short_play(game: str, teacher: Path, **other) -> Header:
    """The header of a recording that takes a tenth of a second; `other` are fields that should be different."""
    shape = header_of(load_teacher(teacher), PROTOCOLS["paper"], parallel=2)
    # 75 steps, so blocks of 32, 32 and 11; four episodes
    return replace(shape, **{"game": game, "epsilon": 0.3, "frame_limit": 300, "steps_goal": 300, **other})


@pytest.fixture(scope="session")
def teachers(tmp_path_factory) -> dict[str, Path]:
    """Game to teacher.safetensors: of pong and of breakout, untrained, size net3."""
    folder = tmp_path_factory.mktemp("teachers")
    about = {"steps": 0, "name": "untrained"}
    return {game: save_teacher(tiny_network(game), folder / game / "teacher.safetensors", about) for game in GAMES}


@pytest.fixture(scope="session")
def datasets(tmp_path_factory, teachers) -> Path:
    """A root of datasets, not to be changed: pong in two shards of 300 steps, breakout in one of 180; with teachers."""
    root = tmp_path_factory.mktemp("datasets")
    for game, path in teachers.items():
        (root / game).mkdir()
        shutil.copy(path, root / game)
    plans = [
        short_play("pong", teachers["pong"], shard=0),
        short_play("pong", teachers["pong"], shard=1),
        short_play("breakout", teachers["breakout"], frame_limit=240, parallel_games=3, steps_goal=100),
    ]
    for plan in plans:
        record_shard(
            load_teacher(teachers[plan.game]), root / plan.game / f"{plan.shard:04d}.h5", plan, lambda count: None
        )
    return root


@pytest.fixture(scope="session")
def shard_file(tmp_path_factory) -> Path:
    """A good shard, made by hand, that no test changes."""
    return handmade.write(tmp_path_factory.mktemp("datasets") / "pong" / "0000.h5")


@pytest.fixture
def copy(shard_file, tmp_path) -> Path:
    """A shard to damage."""
    folder = tmp_path / "pong"
    folder.mkdir()
    return Path(shutil.copy(shard_file, folder / "0000.h5"))


@pytest.fixture
def remote(datasets):
    """A server of them: see serving.py."""
    with serving.serving(datasets) as server:
        yield server


@pytest.fixture
def at_once(monkeypatch, tmp_path):
    """For what is fetched: no waiting between attempts, no proxy, and never the user's own cache."""
    monkeypatch.setattr(servers, "WAIT", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PD_LIGHTNING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shell(monkeypatch):
    """As if in a shell, with a protocol `blink` that ends an episode after ten steps."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setitem(PROTOCOLS, "blink", Protocol("blink", frame_limit=40))


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must end with one line, which holds all of `reasons`, and leave nothing behind."""

    def run(*words, reasons):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        assert stopped.value.code == 2
        out, err = capsys.readouterr()
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in out + err
        for reason in reasons:
            assert str(reason) in err
        assert len(err) < 600
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return run
