"""The command line: what it explains, what it passes on, and what a run of it leaves."""

import errno
import os
import re
import resource
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from commanding import TINY, weights
from jsonargparse import Namespace
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger

from pd_lightning import cli
from pd_lightning.callbacks.atomic import AtomicCheckpoints
from pd_lightning.cli import main
from pd_lightning.folder import checkpoint_folders, claim_folder, own_loggers

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

pytestmark = pytest.mark.usefixtures("shell")


def shown(capsys, *words):
    """What a command prints that ends well before it starts: --help, --print_config."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 0
    return capsys.readouterr().out


class TestExplains:
    def test_the_help_of_all_names_every_command_there_is(self, capsys):
        text = shown(capsys, "--help")
        assert text.startswith("usage: train.py")
        assert "Trains a student or a teacher" in text
        package = Path(cli.__file__).parent
        modules = {file.parent.stem for file in package.glob("*/__main__.py")}
        doors = [file for file in package.glob("*.py") if '\nif __name__ == "__main__"' in file.read_text()]
        modules |= {file.stem for file in doors if file.stem != "__main__"}
        assert {f"pd_lightning.{name}" for name in modules} == set(re.findall(r"pd_lightning\.\w+", text))

    def test_a_preset_is_known_by_its_name_in_any_folder(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for form in ("multi_task", "multi_task.yaml", "pd_lightning/presets/multi_task.yaml"):
            for words in (["--config", form], [f"--config={form}"]):
                assert "size: multi3" in shown(capsys, "fit", *words, "--print_config")
        Path("multi_task").write_text("model: {init_args: {size: net2}}")  # one's own comes first
        assert "size: net2" in shown(capsys, "fit", "--config", "multi_task", "--print_config")

    def test_a_configuration_that_is_nowhere_is_an_error_that_names_the_presets(self, refused):
        refused(
            "fit", "--config=elsewhere/multi_task.yaml", reasons=["does not exist", "presets are default, finetune"]
        )

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
        assert "from which Adam" in text
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

    def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_is_one_line_with_its_name(self, tmp_path):
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        try:
            with pytest.raises(OSError, match=rf"\[Errno {errno.EFBIG}\] .*x\.ckpt"):
                AtomicCheckpoints().save_checkpoint({"weights": torch.zeros(100_000)}, tmp_path / "x.ckpt")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)
        assert list(tmp_path.iterdir()) == []

    def test_logs_that_are_a_link_to_nowhere_are_one_line(self, datasets, tmp_path, capsys):
        (tmp_path / "lightning_logs").symlink_to(tmp_path / "gone" / "scratch")
        with pytest.raises(SystemExit) as stopped:
            main(["fit", f"--data.root={datasets}", *TINY])
        assert stopped.value.code == 2
        assert re.search(r"lightning_logs/version_0 cannot be made \(File exists\): choose", capsys.readouterr().err)

    def test_checkpoints_that_cannot_be_written_are_one_line_before_the_run(self, datasets, tmp_path, capsys):
        (tmp_path / "taken").touch()
        with pytest.raises(SystemExit) as stopped:
            main(["fit", f"--data.root={datasets}", f"--checkpoint.dirpath={tmp_path}/taken", *TINY])
        assert stopped.value.code == 2
        assert "taken, where nothing can be written (File exists): choose another --checkpoint.dirpath" in " ".join(
            capsys.readouterr().err.split()
        )

    def test_a_folder_that_cannot_be_made_is_one_line(self, datasets, tmp_path, capsys):
        (tmp_path / "taken").touch()
        with pytest.raises(SystemExit) as stopped:
            main(["fit", f"--data.root={datasets}", f"--trainer.default_root_dir={tmp_path}/taken/runs", *TINY])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert re.search(
            r"^error: \S+/taken/runs/\S+ cannot be made \(Not a directory\): choose another --tr", said, re.M
        )

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
