"""Settings and shards with which no run can begin: each is one line, and nothing is left behind."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from commanding import TINY

from pd_lightning.blocks import Shard
from pd_lightning.blocks.contract import digest, stored_attributes
from pd_lightning.cli import main
from pd_lightning.messages import our_own

pytestmark = pytest.mark.usefixtures("shell")


@pytest.mark.parametrize(
    ("option", "reasons"),
    [
        ("--model.size=net9", ["unknown size 'net9'", "net1, net2, net3"]),
        ("--model.loss=l1", ["unknown loss 'l1'", "kl, nll, mse"]),
        ("--model.temperature=0", ["temperature is 0.0", "above 0"]),
        ("--data.games=[ponk]", ["unknown game 'ponk': did you mean pong"]),
        ("--data.games=[seaquest]", ["seaquest: folder is missing", "recording --game seaquest"]),
        ("--data.games=[pong,pong]", ["each once"]),
        ("--data.root=nowhere", ["nowhere: is missing; give --data.root"]),
        ("--data.validation=1", ["validation is 1.0"]),
        ("--data.memory=0", ["memory is 0.0", "GiB above 0"]),
        ("--data.memory=0.0001", ["a game has 0.000100 GiB", "at least 0.000145", "--data.memory"]),
        ("--data.mixing=stirred", ["unknown mixing 'stirred'", "balanced, one_game"]),
        ("--data.weights={breakout: 2}", ["weights has breakout", "among the games, pong"]),
        ("--data.weights.pong=-1", ["weight of pong is -1.0", "above 0"]),
        ("--rollouts.protocol=mine", ["unknown protocol 'mine'", "paper, nature, machado"]),
        ("--rollouts.episodes=0", ["episodes is 0"]),
        ("--film.steps=0", ["steps is 0"]),
        ("--checkpoint.monitor=train/loss", ["'train/loss'", "rollout/... or val/..."]),
        ("--checkpoint.every_n_train_steps=-1", ["every_n_train_steps=-1"]),
        ("--trainer.accelerator=gpux", ["gpux"]),
        ("--data.batch_size=many", ["batch_size", "int", "many", "--data.help TeacherDatasets"]),
        ("--trainer.precision=12", ["trainer.precision", "'bf16-mixed'"]),
        ("--model.sise=net1", ["Option 'sise' is not accepted"]),
        ("--modelsize=net1", ["unrecognized arguments: --modelsize=net1"]),
        (
            "--data.games=[asterix]",
            ["asterix: folder is missing", "python -m pd_lightning.recording --game asterix --root"],
        ),
        ("--trainer.max_stepz=3", ["unrecognized arguments: --trainer.max_stepz", "did you mean trainer.max_steps?"]),
        ("--model.sise=net1", ["did you mean size?"]),
        ("--data.gamez=[pong]", ["did you mean games?"]),
        ("--data.games=pong,breakout", ["did you mean '[pong,breakout]'?"]),
        ("--data.beta=0.5", ["LiveTeacher has it", "--config pd_lightning/presets/on_policy.yaml"]),
        ("--modle.size=net1", ["did you mean model.size?"]),
        ("--optimizer.lr=1e-4", ["--model.learning_rate", "--optimizer CLASS"]),
        ("--trainer.strategy=ddp_spawn", ["--trainer.strategy ddp_spawn leaves", "choose ddp"]),
        ("--lr_scheduler=StepLR --lr_scheduler.step_size=3", ["--lr_scheduler is for another", "--optimizer CLASS"]),
        ("--optimizer=SGD --optimizer.lr=1 --model.warmup=3", ["--model.warmup is for the usual optimizer"]),
        ("--config=no_such.yaml", ["File does not exist", "no_such.yaml"]),
    ],
)
def test_a_setting_that_cannot_work_is_one_line(option, reasons, datasets, refused):
    refused("fit", f"--data.root={datasets}", *TINY, *option.split(" --") [:1],
            *(f"--{word}" for word in option.split(" --")[1:]), reasons=reasons)  # fmt: skip


def test_an_unknown_command_is_one_line(refused):
    refused("train", reasons=["'train' (choose from 'fit', 'validate', 'test')"])


def not_hdf5(file):
    file.write_text("<html>404</html>")


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def of_another_version(file):
    with h5py.File(file, "r+") as opened:
        opened.attrs.modify("version", np.int64(2))


def with_nan(file):
    """NaN in Q, and everything else in order: somebody recorded it so."""
    shard = Shard(file)
    names = ("lengths", "q_values", "actions", "rewards", "episodes", "checksums", "returns")
    arrays = {name: getattr(shard, name).copy() for name in names}
    arrays["q_values"][1, 2, 3] = np.nan
    with h5py.File(file, "r+") as opened:
        dataset = opened["q_values"]
        assert isinstance(dataset, h5py.Dataset)
        dataset[1, 2, 3] = np.nan
        opened.attrs.modify("digest", np.bytes_(digest(stored_attributes(shard.header), arrays)))


def of_another_game(file):
    shutil.copy(file.parents[1] / "breakout" / "0000.h5", file)


@pytest.mark.parametrize(
    ("damage", "reasons"),
    [
        (not_hdf5, ["unreadable", "allowed is a whole HDF5 file", "record"]),
        (truncated, ["unreadable", "allowed is a whole HDF5 file", "record"]),
        (of_another_version, ["version is 2", "allowed is 1", "record it again"]),
        (with_nan, ["q_values is infinite or not a number", "record"]),
        (of_another_game, ["game is breakout, allowed is pong", "move it to"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_shard_that_cannot_be_used_is_one_line_with_its_name_and_what_to_do(damage, reasons, datasets, refused):
    shutil.copytree(datasets, "ds")
    file = Path("ds/pong/0001.h5")
    damage(file)
    refused("fit", "--data.root=ds", *TINY, reasons=[file, *reasons])


def test_a_folder_without_shards_is_one_line(datasets, refused):
    Path("ds/pong").mkdir(parents=True)
    shutil.copy(datasets / "pong" / "teacher.safetensors", "ds/pong")
    refused("fit", "--data.root=ds", *TINY, reasons=["ds/pong: folder is empty of shards", "recording --game pong"])


def test_only_errors_of_our_own_are_shortened_to_a_line(datasets, monkeypatch):
    def broken(*_):
        np.zeros(3).reshape(2)  # a bug, not a user's mistake

    monkeypatch.setattr("pd_lightning.distillation.PolicyDistillation.training_step", broken)
    with pytest.raises(ValueError, match="cannot reshape") as caught:
        main(["fit", f"--data.root={datasets}", *TINY])
    assert our_own(caught.value) is None
