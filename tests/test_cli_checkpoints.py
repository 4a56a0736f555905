"""Commands that begin with what a run has left, its checkpoint or its configuration, and which ones are refused."""

import csv
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from commanding import QUIET, TINY, weights

from pd_lightning.cli import PRESETS, main
from pd_lightning.machine import fastest_precision

LONGER = ["--trainer.max_steps=4"]
ONLINE = str(PRESETS / "online.yaml")
ARCHITECTURE = "name a checkpoint of this architecture"

pytestmark = pytest.mark.usefixtures("shell")


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


def changed(checkpoint, file, change):
    """A copy of a checkpoint after `change(content)`."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, file)
    return file


def test_the_precision_is_the_fastest_of_the_machine_unless_one_is_given(datasets, trained, tmp_path):
    chosen = yaml.safe_load((trained / "config.yaml").read_text())["trainer"]["precision"]
    assert chosen == fastest_precision("auto")
    main(["fit", f"--data.root={datasets}", *TINY, "--trainer.precision=64-true"])
    assert yaml.safe_load(next(tmp_path.rglob("config.yaml")).read_text())["trainer"]["precision"] == "64-true"


def test_a_fit_leaves_its_folder_whatever_it_is_called(datasets, tmp_path):
    root = tmp_path / ".slurm" / "my_runs"
    main(["fit", f"--data.root={datasets}", *TINY, f"--trainer.default_root_dir={root}"])
    assert (root / "lightning_logs/version_0/checkpoints/last.ckpt").is_file()


def test_a_test_of_the_newest_weights_elsewhere_has_not_the_settings_of_a_run_here(datasets, last, tmp_path, capsys):
    main(["fit", f"--data.root={datasets}", *TINY, "--data.seed=5", f"--checkpoint.dirpath={tmp_path / 'ck'}"])
    (tmp_path / "lightning_logs/version_0/checkpoints").mkdir(exist_ok=True)
    shutil.copy(last, tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt")
    capsys.readouterr()
    with pytest.warns(UserWarning, match=r"seed is 0, and was 5 when the student learned: .* give --data\.seed"):
        main(
            [
                "validate",
                f"--data.root={datasets}",
                "--ckpt_path=last",
                f"--checkpoint.dirpath={tmp_path / 'ck'}",
                *QUIET,
            ]
        )
    assert "settings:" not in capsys.readouterr().err


def test_a_home_folder_is_one_for_all_that_a_run_leaves(datasets, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("runs.yaml").write_text("trainer:\n  default_root_dir: ~/runs\n")
    main(["fit", "--config=runs.yaml", f"--data.root={datasets}", *TINY])
    (run,) = (tmp_path / "home/runs/lightning_logs").iterdir()
    assert (run / "checkpoints/last.ckpt").is_file()
    assert (run / "config.yaml").is_file()
    assert not Path("~").exists()


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

    def test_a_job_goes_on_from_its_stop_also_where_its_command_goes_on_from_elsewhere(
        self, datasets, last, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        later = tmp_path / "later"
        main(["fit", f"--data.root={datasets}", *TINY, "--trainer.max_steps=3", f"--trainer.default_root_dir={later}"])
        stop = self.stopped(7, next(later.rglob("last.ckpt")))
        (stop.parent / ".4711-hpc_ckpt_2.ckpt").touch()  # killed while the next one was written
        main(["fit", f"--data.root={datasets}", *TINY, *LONGER, f"--ckpt_path={last}"])
        settings = yaml.safe_load((tmp_path / "lightning_logs/version_0/config.yaml").read_text())
        assert settings["ckpt_path"] == str(stop.absolute())
        kept = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
        assert kept["global_step"] == 4

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
        assert "protocol blink" in out
        assert "val/pong/agreement" in out

    def test_last_is_the_newest_runs(self, datasets, trained, tmp_path, capsys):
        root = f"--trainer.default_root_dir={trained.parent.parent}"
        main(["validate", f"--data.root={datasets}", root, "--ckpt_path=last", *QUIET])
        assert "val/pong/agreement" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "meant", ["last", "lightning_logs/version_0", "lightning_logs/version_0/checkpoints/last.ckpt"]
    )
    def test_a_run_here_is_scored_by_its_own_settings_but_for_what_is_typed(self, datasets, tmp_path, meant):
        loss = ["--model.loss=nll", "--rollouts.protocol=blink", "--rollouts.episodes=2"]
        main(["fit", f"--data.root={datasets}", *TINY, *loss, "--rollouts.at_end=false"])
        main(["test", f"--ckpt_path={meant}", "--rollouts.episodes=3", *QUIET])
        config = yaml.safe_load((tmp_path / "lightning_logs/version_1/config.yaml").read_text())
        assert config["model"]["init_args"]["loss"] == "nll"
        assert config["data"]["init_args"]["root"] == str(datasets)
        assert (config["rollouts"]["protocol"], config["rollouts"]["episodes"]) == ("blink", 3)

    def test_a_rate_that_was_found_and_not_given_is_no_contradiction_where_nothing_is_learned(self, datasets, tmp_path):
        main(["fit", f"--data.root={datasets}", *TINY, "--rollouts.at_end=false"])
        last = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
        checkpoint = torch.load(last, weights_only=True)
        checkpoint["hyper_parameters"]["learning_rate"] = 0.00123  # as LearningRateFinder leaves it
        torch.save(checkpoint, last)
        main(["test", "--ckpt_path=last", "--rollouts.protocol=blink", *QUIET])
        assert (tmp_path / "lightning_logs/version_1/returns.csv").exists()

    def test_the_settings_beside_a_checkpoint_from_elsewhere_are_not_read(
        self, datasets, trained, tmp_path, monkeypatch, caplog
    ):
        shutil.copytree(trained, tmp_path / "got")
        (tmp_path / "harm.py").write_text("open('harmed', 'w')")
        monkeypatch.syspath_prepend(tmp_path)
        harm = {"trainer": {"callbacks": [{"class_path": "harm.Harm"}]}}
        (tmp_path / "got/config.yaml").write_text(yaml.safe_dump(harm))
        main(["test", f"--data.root={datasets}", "--ckpt_path=got", "--rollouts.protocol=blink", *QUIET])
        assert not (tmp_path / "harmed").exists()
        assert "outside of lightning_logs" in caplog.text
        assert "give --config got/config.yaml" in caplog.text

    @pytest.mark.parametrize("command", ["test", "validate"])
    def test_untrained_weights_are_not_scored(self, command, datasets, refused):
        refused(command, f"--data.root={datasets}", reasons=[f"{command} scores a checkpoint: give --ckpt_path"])

    def test_a_test_without_batches_that_would_leave_out_play_is_refused(self, datasets, last, refused):
        refused("test", f"--data.root={datasets}", *QUIET, "--trainer.limit_test_batches=0", f"--ckpt_path={last}",
                reasons=["limit_test_batches 0 leaves out play"])  # fmt: skip

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
        refused(
            *words, reasons=[last, "plays pong, the data are of breakout; give --data.games '[pong]'", "config.yaml"]
        )

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
        assert f"{last} has had 2 updates, so nothing is left to do by --trainer.max_steps 2: " in caplog.text
        assert not list(tmp_path.iterdir())

    def test_other_data_settings_than_those_of_the_order_cannot_resume(self, datasets, last, capsys):
        with pytest.raises(SystemExit):
            main(["fit", f"--data.root={datasets}", f"--ckpt_path={last}", *TINY, *LONGER, "--data.seed=1"])
        err = capsys.readouterr().err
        assert err.startswith("error: cannot resume: seed was 0 in the checkpoint and is 1 now")
        assert err.count("\n") == 1
