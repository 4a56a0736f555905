"""The command line: what it explains, what it passes on, and what it refuses before anything is left behind."""

import csv
import errno
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.blocks import Shard
from pd_lightning.blocks.contract import digest, stored_attributes
from pd_lightning.cli import PRESETS, main
from pd_lightning.folder import checkpoint_folders, claim_folder, own_loggers
from pd_lightning.machine import fastest_precision
from pd_lightning.messages import our_own

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
CALM = ["--rollouts.at_start=false", "--rollouts.at_end=false", "--film.enabled=false"]
TINY = ["--data.batch_size=64", "--data.threads=1", "--model.size=net3", "--trainer.max_steps=2", *CALM, *QUIET]

CRITICAL = """
from torch import nn
from pd_lightning.distillation import PolicyDistillation

class Critical(PolicyDistillation):
    def __init__(self, *args, criterion: nn.Module, **kwargs):
        super().__init__(*args, **kwargs)
        self.criterion, self.outputs = criterion, "q"

    def loss_of(self, game, outputs, part):
        return self.criterion(outputs, part.teacher_q)
"""
LONGER = ["--trainer.max_steps=4"]
ONLINE = str(PRESETS / "online.yaml")
ARCHITECTURE = "name a checkpoint of this architecture"


@pytest.fixture(autouse=True)
def _as_if_in_a_shell(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setitem(PROTOCOLS, "blink", Protocol("blink", frame_limit=40))


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    """Folder of a net3 that was trained on pong for two updates."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        main(["fit", f"--data.root={datasets}", f"--trainer.default_root_dir={folder}", *TINY])
    return folder / "lightning_logs" / "version_0"


@pytest.fixture
def last(trained):
    return trained / "checkpoints" / "last.ckpt"


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


def shown(capsys, *words):
    """What a command prints that ends well before it starts: --help, --print_config."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 0
    return capsys.readouterr().out


def changed(checkpoint, file, change):
    """A copy of a checkpoint after `change(content)`."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, file)
    return file


def weights(file):
    return torch.load(file, weights_only=True)["state_dict"]


class TestExplains:
    def test_the_help_of_fit_explains_the_options_of_every_part(self, capsys):
        text = " ".join(shown(capsys, "fit", "--help").split())
        assert "a .ckpt, a run's folder (its last.ckpt), or `last` or `best`" in text
        assert "by default `checkpoints` in the run's folder" in text
        for option, words in {
            "--model.temperature": "divides the teacher's Q-values in kl",
            "--model.size": "the student's size: dqn (the teacher's own)",
            "--model.loss": "nll (its best action)",
            "--data.root": "folder with a folder of shards for each game",
            "--data.memory": "GiB for decoded frames on each device",
            "--rollouts.every_n_updates": "how often during fit, in optimizer steps; 0 for never",
            "--rollouts.protocol": "rules of play",
            "--checkpoint.monitor": "rollout/pong/return or val/pong/agreement",
            "--film.steps": "at most so many decisions",
            "--trainer.max_steps": "Stop training after this number of steps",
        }.items():
            assert option in text
            assert words in text, option
        assert "--model.games" not in text  # follows from the data

    def test_classes_are_known_by_their_short_names(self, capsys):
        text = shown(capsys, "fit", "--model.help", "PQN")
        assert "of Adam after the warm-up" in text
        assert "--model.temperature" not in text  # a student's
        assert "decisions in each game between two rounds" in shown(capsys, "fit", "--data.help", "ParallelPlay")

    def test_the_whole_configuration_can_be_printed_and_given_back(self, capsys, tmp_path):
        text = shown(capsys, "fit", "--model.loss=mse", "--data.batch_size=32", "--print_config")
        config = yaml.safe_load(text)
        assert config["model"]["class_path"] == "pd_lightning.distillation.PolicyDistillation"
        assert config["model"]["init_args"]["loss"] == "mse"
        assert config["data"]["init_args"]["batch_size"] == 32
        assert config["trainer"]["max_steps"] == 3000
        (tmp_path / "run.yaml").write_text(text)
        assert yaml.safe_load(shown(capsys, "fit", "--config=run.yaml", "--print_config")) == config


class TestPassesOn:
    def test_the_games_of_the_data_are_the_heads_of_the_student(self, datasets, tmp_path, capsys):
        main(["fit", f"--data.root={datasets}", "--data.games=[pong,breakout]", *TINY])
        run = tmp_path / "lightning_logs" / "version_0"
        saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["hyper_parameters"]["games"] == {"pong": 6, "breakout": 4}
        assert saved["state_dict"]["student.heads.breakout.output.weight"].shape == (4, 64)
        out = capsys.readouterr().out
        assert "pong" in out
        assert "breakout" in out
        assert "lightning_logs/version_0/checkpoints/last.ckpt" in out

    def test_an_optimizer_of_the_command_line_takes_the_place_of_adam(self, datasets, tmp_path):
        optimizer = ["--optimizer=torch.optim.RMSprop", "--optimizer.lr=1e-4", "--optimizer.alpha=0.95"]
        main(["fit", f"--data.root={datasets}", *TINY, *optimizer])
        saved = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
        (state,) = saved["optimizer_states"]
        assert {"square_avg"} <= state["state"][0].keys()
        assert "exp_avg" not in state["state"][0]
        assert [(group["lr"], group["alpha"]) for group in state["param_groups"]] == [(1e-4, 0.95)]
        assert saved["lr_schedulers"] == []

    def test_a_schedule_of_the_command_line_counts_updates(self, datasets, tmp_path):
        halves = ["--optimizer=torch.optim.SGD", "--optimizer.lr=1", "--lr_scheduler=torch.optim.lr_scheduler.StepLR",
                  "--lr_scheduler.step_size=1", "--lr_scheduler.gamma=0.5"]  # fmt: skip
        main(["fit", f"--data.root={datasets}", *TINY, *halves])
        (state,) = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)["optimizer_states"]
        assert [group["lr"] for group in state["param_groups"]] == [0.25]  # after two updates

    def test_an_object_among_the_options_of_a_model_does_not_hinder_going_on(self, datasets, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        Path("critical.py").write_text(CRITICAL)
        model = ["--model=critical.Critical", "--model.criterion=torch.nn.HuberLoss", "--model.criterion.delta=0.5"]
        for more in ([], ["--ckpt_path=last", "--trainer.max_steps=4"]):
            main(["fit", f"--data.root={datasets}", *model, *TINY, *more])
        checkpoints = [torch.load(path, weights_only=False) for path in sorted(tmp_path.rglob("last.ckpt"))]
        assert [each["global_step"] for each in checkpoints] == [2, 4]

    def test_a_folder_with_brackets_in_its_name_is_shown_as_it_is(self, datasets, tmp_path, capsys):
        main(["fit", f"--data.root={datasets}", *TINY, f"--trainer.default_root_dir={tmp_path}/a[/b]"])
        shown = re.search(r"^logs +(.*)$", capsys.readouterr().out, re.M)
        assert shown
        assert Path(shown[1]).is_dir()

    def test_a_disk_that_cannot_be_written_to_is_one_line(self, datasets, tmp_path, monkeypatch, capsys):
        def full(self, path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(pl.Trainer, "save_checkpoint", lambda self, path, **_: full(self, path))
        with pytest.raises(SystemExit) as stopped:
            main(["fit", f"--data.root={datasets}", *TINY])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert re.search(r"^error: \S+\.ckpt: No space left on device; make room, or .*$", said, re.M)

    def test_the_rules_of_play_are_those_of_the_film_too(self, capsys):
        config = yaml.safe_load(shown(capsys, "fit", "--rollouts.protocol=machado", "--print_config"))
        assert "protocol" not in config["film"]  # there is one place to say it

    def test_a_run_leaves_its_configuration_and_another_one_in_the_same_folder_is_the_next_version(
        self, datasets, tmp_path
    ):
        for _ in range(2):
            main(["fit", f"--data.root={datasets}", *TINY])
        runs = sorted((tmp_path / "lightning_logs").iterdir())
        assert [run.name for run in runs] == ["version_0", "version_1"]
        for run in runs:
            assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 2
            assert (run / "metrics.csv").is_file()
            assert (run / "checkpoints" / "last.ckpt").is_file()
            assert list(run.glob("events.out.tfevents.*"))
        first, second = (weights(run / "checkpoints" / "last.ckpt") for run in runs)
        for name, value in first.items():
            assert torch.equal(value, second[name])  # the same command, the same student

    def test_a_run_that_is_started_at_the_same_time_has_a_folder_of_its_own(self, datasets, tmp_path, monkeypatch):
        make = Path.mkdir

        def another_is_faster(folder, *args, **options):
            if folder.name == "version_0" and not folder.exists():
                os.makedirs(folder)  # whose own `mkdir` would come back here
            make(folder, *args, **options)

        monkeypatch.setattr(Path, "mkdir", another_is_faster)
        main(["fit", f"--data.root={datasets}", *TINY])
        assert not list(Path("lightning_logs/version_0").iterdir())
        left = {path.name.split(".")[0] for path in Path("lightning_logs/version_1").iterdir()}
        assert left == {"config", "metrics", "hparams", "checkpoints", "events"}

    def test_the_precision_is_the_fastest_of_the_machine_unless_one_is_given(self, datasets, trained, tmp_path):
        chosen = yaml.safe_load((trained / "config.yaml").read_text())["trainer"]["precision"]
        assert chosen == fastest_precision("auto")
        assert fastest_precision("cpu") in ("32-true", "bf16-mixed")
        assert fastest_precision("tpu") == "32-true"
        main(["fit", f"--data.root={datasets}", *TINY, "--trainer.precision=64-true"])
        assert yaml.safe_load(next(tmp_path.rglob("config.yaml")).read_text())["trainer"]["precision"] == "64-true"

    @pytest.mark.parametrize("score", ["rollout/pong/return", "val/pong/agreement"])
    def test_a_run_can_be_dry(self, score, datasets, tmp_path):
        play = ["--rollouts.at_start=true", "--rollouts.at_end=true", "--film.enabled=true"]
        dry = ["--trainer.fast_dev_run=true", f"--checkpoint.monitor={score}"]
        main(["fit", f"--data.root={datasets}", *TINY, *play, *dry])
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_without_loggers_nothing_is_left_but_weights_and_not_even_those_if_they_are_not_wanted(
        self, datasets, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        text = "# mine\ntrainer: {logger: false, enable_checkpointing: false}\n"
        Path("config.yaml").write_text(text)
        play = ["--rollouts.at_end=true", "--rollouts.protocol=blink", "--rollouts.episodes=1", "--film.enabled=true"]
        main(["fit", "--config=config.yaml", f"--data.root={datasets}", *TINY, *play])
        assert [path.name for path in tmp_path.rglob("*")] == ["config.yaml"]
        assert Path("config.yaml").read_text() == text  # nor is it written over by the run's own

    def test_a_logger_of_another_kind_has_one_beside_it_with_a_folder_for_each_run(self, tmp_path):
        mine = DummyLogger()
        table, second = own_loggers(mine, tmp_path)
        assert second is mine
        assert isinstance(table, CSVLogger)
        for version in (0, 1):
            claim_folder(own_loggers([mine], tmp_path), begins=False)
            assert (tmp_path / "lightning_logs" / f"version_{version}").is_dir()
        board = TensorBoardLogger(tmp_path / "mine")
        assert own_loggers([mine, board], tmp_path) == [board, mine]

    def test_last_is_looked_for_where_the_loggers_of_the_command_write(self, tmp_path):
        for folder in ("exp/a/version_0/checkpoints", "lightning_logs/version_0/checkpoints", "checkpoints"):
            (tmp_path / folder).mkdir(parents=True)
        mine = Namespace(
            class_path="pytorch_lightning.loggers.CSVLogger", init_args=Namespace(save_dir=tmp_path / "exp", name="a")
        )
        other = Namespace(class_path="pytorch_lightning.loggers.WandbLogger", init_args=Namespace(save_dir="x"))
        for logger, folder in (
            (mine, "exp/a/version_0/checkpoints"),
            ([other, mine], "exp/a/version_0/checkpoints"),
            (other, "lightning_logs/version_0/checkpoints"),
            (None, "lightning_logs/version_0/checkpoints"),
            (False, "checkpoints"),
        ):
            config = Namespace(default_root_dir=str(tmp_path), logger=logger)
            assert list(checkpoint_folders(config)) == [tmp_path / folder]

    def test_the_last_validation_of_a_run_counts_for_the_best_weights_too(self, datasets, tmp_path):
        options = ["--checkpoint.monitor=val/pong/agreement", f"--trainer.default_root_dir={tmp_path}"]
        main(["fit", f"--data.root={datasets}", *TINY, *options])
        best = next(tmp_path.rglob("best.ckpt"))
        assert torch.load(best, weights_only=True)["global_step"] == 2  # validated only when all was over

    def test_another_way_of_keeping_weights_takes_nothing_from_ours(self, datasets, tmp_path):
        own = ["--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint", "--trainer.callbacks.save_top_k=0"]
        rules = ["--checkpoint.monitor=val/pong/loss", "--checkpoint.mode=min", "--checkpoint.every_n_train_steps=5"]
        main(["fit", f"--data.root={datasets}", *TINY, *own, *rules])
        for name in ("last", "best"):
            (path,) = tmp_path.rglob(f"{name}.ckpt")
            assert torch.load(path, weights_only=True)["global_step"] == 2

    def test_a_precision_may_be_brought_by_a_plugin(self, datasets, tmp_path):
        plugin = "--trainer.plugins=pytorch_lightning.plugins.precision.Precision"
        main(["fit", f"--data.root={datasets}", *TINY, plugin])
        assert list(tmp_path.rglob("last.ckpt"))

    def test_validation_once_an_epoch_is_asked_for_in_two_words_or_explained(self, datasets, refused):
        once = "--trainer.check_val_every_n_epoch=1"
        reasons = ["val_check_interval", "Or validate once an epoch: --trainer.val_check_interval null"]
        refused("fit", f"--data.root={datasets}", *TINY, once, "--trainer.logger=false", reasons=reasons)
        main(["fit", f"--data.root={datasets}", *TINY, once, "--trainer.val_check_interval=null"])


class TestJobsOfSlurm:
    @pytest.fixture(autouse=True)
    def _as_if_in_a_job(self, monkeypatch):
        for name, value in {"NTASKS": "1", "JOB_NAME": "job", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    @staticmethod
    def stopped(job, last):
        """What Lightning leaves of a job that is stopped."""
        folder = Path("lightning_logs/.slurm", f"{job}.0")
        folder.mkdir(parents=True)
        return Path(shutil.copy(last, folder / "hpc_ckpt_1.ckpt"))

    def test_a_job_that_was_stopped_goes_on_and_ends_with_its_own_last_weights(
        self, datasets, last, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        stop, other = self.stopped(7, last), self.stopped(8, last)
        main(["fit", f"--data.root={datasets}", *TINY, *LONGER])
        kept = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
        assert kept["global_step"] == 4
        assert kept["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 4
        assert not torch.equal(
            kept["state_dict"]["student.trunk.hidden.weight"], weights(last)["student.trunk.hidden.weight"]
        )
        assert not stop.exists()  # nothing is left to go on with
        assert other.exists()

    def test_a_job_does_not_go_on_with_another_job(self, datasets, last, tmp_path, monkeypatch):
        monkeypatch.setenv("SLURM_JOB_ID", "9")
        self.stopped(8, last)
        main(["fit", f"--data.root={datasets}", *TINY, "--model.loss=nll"])
        kept = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
        assert (kept["global_step"], kept["hyper_parameters"]["loss"]) == (2, "nll")
        assert torch.load(last, weights_only=True)["global_step"] == 2
        assert not torch.equal(
            kept["state_dict"]["student.trunk.hidden.weight"], weights(last)["student.trunk.hidden.weight"]
        )


class TestCheckpoints:
    def test_a_test_scores_a_checkpoint_with_the_options_of_any_data(self, datasets, last, tmp_path, capsys):
        play = ["--rollouts.protocol=blink", "--rollouts.episodes=3"]
        main(["test", f"--data.root={datasets}", f"--ckpt_path={last}", *play, *QUIET])
        with next(tmp_path.rglob("returns.csv")).open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert [(line["update"], line["episode"]) for line in lines] == [("2", "0"), ("2", "1"), ("2", "2")]
        out = capsys.readouterr().out
        assert "net3, protocol blink" in out
        assert "val/pong/agreement" in out

    def test_last_is_the_newest_runs(self, datasets, trained, tmp_path, capsys):
        root = f"--trainer.default_root_dir={trained.parent.parent}"
        main(["validate", f"--data.root={datasets}", root, "--ckpt_path=last", *QUIET])
        assert "val/pong/agreement" in capsys.readouterr().out

    @pytest.mark.parametrize("command", ["test", "validate"])
    def test_untrained_weights_are_not_scored(self, command, datasets, refused):
        refused(command, f"--data.root={datasets}", reasons=[f"{command} scores a checkpoint: give --ckpt_path"])

    @pytest.mark.parametrize("command", ["fit", "test", "validate"])
    @pytest.mark.parametrize("name", ["last", "best", "no_such.ckpt", "."])
    def test_a_checkpoint_that_is_not_there_is_an_error_and_no_new_run(self, name, command, datasets, refused):
        refused(command, f"--data.root={datasets}", f"--ckpt_path={name}", reasons=[f"--ckpt_path {name}: "])

    def test_one_option_for_one_game_contradicts_as_all_do(self, datasets, last, refused):
        words = ["test", "--model.temperature.pong=0.5", f"--data.root={datasets}", f"--ckpt_path={last}"]
        refused(*words, reasons=["--model.temperature is {'pong': 0.5}", last, "was trained with"])

    @pytest.mark.parametrize("command", ["fit", "test", "validate"])
    @pytest.mark.parametrize("form", ["--model.size=net1", "--model.init_args.size=net1", "--config=run.yaml"])
    def test_a_command_that_contradicts_its_checkpoint_is_refused(self, form, command, datasets, last, refused):
        Path("run.yaml").write_text("model:\n  init_args:\n    size: net1\n")
        words = [command, form, f"--data.root={datasets}", f"--ckpt_path={last}"]
        refused(*words, reasons=["--model.size is net1", last, "was trained with net3"])

    @pytest.mark.parametrize("form", ["--model.learning_rate=3e-3", "--config=run.yaml", "--model.size=net3"])
    def test_a_command_that_agrees_is_not(self, form, datasets, trained, last, tmp_path, capsys):
        shutil.copy(trained / "config.yaml", "run.yaml")
        main(["validate", form, f"--data.root={datasets}", f"--ckpt_path={last}", *QUIET])
        assert "val/pong/agreement" in capsys.readouterr().out

    def test_a_configuration_does_not_take_the_checkpoint_back(self, datasets, trained, last, tmp_path, capsys):
        shutil.copy(trained / "config.yaml", "run.yaml")  # says ckpt_path: null
        main(["validate", f"--data.root={datasets}", f"--ckpt_path={last}", "--config=run.yaml", *QUIET])
        assert "val/pong/agreement" in capsys.readouterr().out

    @pytest.mark.parametrize("form", [["--config", ONLINE], ["-c", ONLINE], [f"--config={ONLINE}"]])
    def test_what_is_typed_counts_over_a_file_that_comes_after_it(self, form, capsys):
        with pytest.raises(SystemExit):
            main(["fit", "--trainer.max_steps=7", "--data.fresh", "0.25", *form, "--print_config"])
        config = yaml.safe_load(capsys.readouterr().out)
        assert (config["trainer"]["max_steps"], config["data"]["init_args"]["fresh"]) == (7, 0.25)
        assert (config["data"]["init_args"]["learn"], config["rollouts"]["every_n_updates"]) == (True, 1000)

    def test_a_configuration_of_the_whole_program_counts_too(self, datasets, last, refused):
        student = {"class_path": "pd_lightning.distillation.PolicyDistillation", "init_args": {"size": "net1"}}
        Path("all.yaml").write_text(yaml.safe_dump({"fit": {"model": student}}))
        words = ["-c", "all.yaml", "fit", f"--data.root={datasets}", f"--ckpt_path={last}"]
        refused(*words, reasons=["--model.size is net1", "was trained with net3"])

    def test_a_checkpoint_that_no_fit_has_written_is_refused(self, datasets, last, refused):
        file = changed(last, "x.ckpt", lambda content: content["hyper_parameters"].pop("_class_path"))
        refused("test", f"--data.root={datasets}", f"--ckpt_path={file}", reasons=[file, "does not name its class"])

    def test_a_checkpoint_of_another_class_is_refused(self, datasets, last, refused):
        teacher = {"_class_path": "pd_lightning.pqn.PQN"}
        file = changed(last, "pqn.ckpt", lambda content: content["hyper_parameters"].update(teacher))
        words = ["fit", f"--data.root={datasets}", f"--ckpt_path={file}"]
        refused(*words, reasons=["--model is PolicyDistillation", "was trained with pqn.PQN", "--config"])

    def test_a_checkpoint_cannot_have_a_module_imported(self, datasets, last, refused, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        Path("evil.py").write_text("open('owned', 'w').close()\nclass PolicyDistillation: ...\n")
        name = {"_class_path": "evil.PolicyDistillation"}
        file = changed(last, "evil.ckpt", lambda content: content["hyper_parameters"].update(name))
        refused(
            "test", f"--data.root={datasets}", f"--ckpt_path={file}", reasons=["trained with evil.PolicyDistillation"]
        )
        assert not Path("owned").exists()

    def test_a_checkpoint_of_other_games_is_refused(self, datasets, last, refused):
        words = ["test", f"--data.root={datasets}", "--data.games=[breakout]", f"--ckpt_path={last}"]
        refused(*words, reasons=[last, "{'pong': 6}", "{'breakout': 4}", "--data.games"])

    @pytest.mark.parametrize(
        ("change", "reason", "remedy"),
        [
            (lambda w: w.update({"student.trunk.hidden.bias": torch.zeros(65)}), "hidden.bias is (65,)", ARCHITECTURE),
            (lambda w: w.pop("student.trunk.hidden.bias"), "hidden.bias is missing", ARCHITECTURE),
            (lambda w: w.update({"student.extra": torch.zeros(2)}), "student.extra is (2,)", ARCHITECTURE),
            (lambda w: w["student.trunk.hidden.bias"][0].fill_(torch.nan), "hidden.bias has numbers", "name another"),
        ],
    )
    def test_a_checkpoint_with_other_weights_is_refused(self, change, reason, remedy, datasets, last, refused):
        file = changed(last, "other.ckpt", lambda content: change(content["state_dict"]))
        for command in ("fit", "test"):
            words = [command, f"--data.root={datasets}", f"--ckpt_path={file}"]
            refused(*words, reasons=[file, reason, remedy])

    def test_a_checkpoint_with_a_size_that_never_was_is_refused(self, datasets, last, refused):
        file = changed(last, "x.ckpt", lambda content: content["hyper_parameters"].update(size="net9"))
        refused("fit", f"--data.root={datasets}", f"--ckpt_path={file}", reasons=["unknown size 'net9'"])

    @pytest.mark.parametrize("command", ["fit", "test", "validate"])
    def test_code_in_a_checkpoint_is_not_run(self, command, datasets, last, refused):
        class Evil:
            def __reduce__(self):
                return os.mkdir, ("owned",)

        file = changed(last, "evil.ckpt", lambda content: content["hyper_parameters"].update(size=Evil()))
        words = [command, f"--data.root={datasets}", f"--ckpt_path={file}", "--weights_only=false"]
        refused(*words, reasons=[file, "not a whole checkpoint that loads without running code"])
        assert not Path("owned").exists()

    def test_a_run_that_is_resumed_after_its_end_says_so_and_leaves_nothing(self, datasets, last, tmp_path, caplog):
        with pytest.raises(SystemExit) as stopped:
            main(["fit", f"--data.root={datasets}", f"--ckpt_path={last}", *TINY])
        assert stopped.value.code == 0
        assert f"{last} has had all 2 updates, nothing is left to do" in caplog.text
        assert not list(tmp_path.iterdir())

    def test_other_data_settings_than_those_of_the_order_cannot_resume(self, datasets, last, capsys):
        with pytest.raises(SystemExit):
            main(["fit", f"--data.root={datasets}", f"--ckpt_path={last}", *TINY, *LONGER, "--data.seed=1"])
        err = capsys.readouterr().err
        assert err.startswith("error: cannot resume: seed was 0 in the checkpoint and is 1 now")
        assert err.count("\n") == 1


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
        ("--data.weights={breakout: 2}", ["weight of breakout is 2.0", "of pong"]),
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
            "--data.games=[enduro]",
            ["enduro: folder is missing", "python -m pd_lightning.recording --game enduro --root"],
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
        (of_another_game, ["game is 'breakout', its folder's is 'pong'", "move it to"]),
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
