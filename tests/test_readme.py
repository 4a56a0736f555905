"""The README says what works."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pd_lightning.blocks import Shard, find_shards
from pd_lightning.cli import main
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.report.runs import read_temperatures
from pd_lightning.report.settings import described
from pd_lightning.teacher import load_teacher

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [code for code in re.findall(r"`(python [^`]+)`", README) + CODE if code.startswith("python ")]
FITS = [command for command in COMMANDS if command.startswith("python train.py fit")]
MODULES = sorted(set(re.findall(r"python -m (pd_lightning\.\w+)", README)))


def python_after(heading: str) -> str:
    """The Python that the README shows next after some words."""
    return re.findall(r"```python\n(.*?)```", README[README.index(heading) :], re.S)[0]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a class of one's own, as the README has it."""
    (tmp_path / "mine.py").write_text(python_after("**A loss, or a network.**"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def test_the_two_commands_stand_in_the_readme_and_ci_runs_the_second() -> None:
    assert "pip install -e . && python train.py fit" in CODE
    assert "pip install -e '.[dev]' && pytest" in CODE
    assert "pip install --quiet --editable '.[dev]'" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("command", FITS)
def test_every_fit_in_the_readme_is_a_valid_configuration(command, monkeypatch, mine) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(command)[2:], "--print_config"])
    assert stopped.value.code == 0


def test_options_that_the_readme_adds_to_a_fit_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    added = re.findall(r"`\.\.\. (--[^`]+)`", README)
    assert added
    for options in added:
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *shlex.split(options), "--print_config"])
        assert stopped.value.code == 0, options


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # the module was imported before
@pytest.mark.parametrize("module", MODULES)
def test_every_module_command_in_the_readme_has_the_options_that_it_uses(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [command for command in COMMANDS if f"-m {module} " in command]
    help_text = ""
    for words in {tuple(w for w in shlex.split(c)[3:4] if w in ("info", "verify", "order")) for c in commands}:
        monkeypatch.setattr(sys, "argv", [module, *words, "--help"])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_module(module, run_name="__main__")
        assert not stopped.value.code
        help_text += capsys.readouterr().out
    for option in {word for command in commands for word in shlex.split(command) if word.startswith("--")}:
        assert option in help_text, option


def test_the_readmes_python_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(python_after("**From Python.**"), "README.md", "exec"), {})
    mean = float(capsys.readouterr().out.split()[0])
    assert -21 <= mean <= 21


def test_the_readmes_run_trains_and_scores(monkeypatch, tmp_path, datasets, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    code = python_after("A run is a `Trainer`'s")
    for said, short in {
        'games=["pong"]': f"root={str(datasets)!r}, validation=0.25",
        "max_steps=3000": "max_steps=4",
        "every_n_updates=0": "0, 2",
        "interval=500": "interval=2",
        "steps=250": "steps=2",
    }.items():
        assert code.count(said) == 1
        code = code.replace(said, short)
    exec(compile(code, "README.md", "exec"), {})
    assert re.search(r"^-?\d+\.\d \(95% interval", capsys.readouterr().out.splitlines()[-1])
    assert list(tmp_path.glob("**/checkpoints/last.ckpt"))


def test_the_readmes_loss_trains_and_the_report_tells_it_apart(monkeypatch, tmp_path, datasets, mine) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    given = ["--model.delta", "0.1", "--model.size", "net3", f"--data.root={datasets}", "--trainer.max_steps", "3"]
    fast = ["--rollouts.at_start", "false", "--rollouts.at_end", "false", "--film.enabled", "false"]
    for more in ([], ["--ckpt_path", "last", "--trainer.max_steps", "5"]):
        main(["fit", "--model", "mine.Huber", *given, *fast, "--trainer.val_check_interval", "3", *more])
    folders = sorted((tmp_path / "lightning_logs").iterdir())
    checkpoint = folders[-1] / "checkpoints/last.ckpt"
    assert load_teacher(checkpoint).outputs == "q"
    noted = read_temperatures(folders[-1] / "metrics.csv")
    assert not noted
    assert described(yaml.safe_load((folders[-1] / "config.yaml").read_text()), bool(noted))["loss"] == "Huber"


def test_the_readmes_own_teacher_is_recorded(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    snippet = python_after("**A teacher** of any kind").replace("hours=1", "hours=0.003, check=0")
    exec(compile(snippet, "README.md", "exec"), {"my_policy": lambda states: states[:, -1, 40, :4].double() / 255})
    (shard,) = map(Shard, find_shards(tmp_path / "mine/breakout"))
    assert shard.header.teacher == "my agent"
    states = shard.states(0)
    np.testing.assert_allclose(shard.q_values[0][: len(states)], states[:, -1, 40, :4] / 255, rtol=1e-6)


def test_the_readmes_loop_sees_every_state_once(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    found: dict = {}
    snippet = python_after("**A training loop.**").replace("TeacherDatasets(", "TeacherDatasets(batch_size=4096, ")
    exec(compile(snippet + "    seen.append(len(states))\n", "README.md", "exec"), found | {"seen": (seen := [])})
    blocks = TeacherDatasets(str(ROOT / "datasets")).blocks["pong"]
    assert sum(seen) == blocks.states


@pytest.mark.parametrize("name", ["README.md", "RESULTS.md", "datasets/README.md", "CHANGELOG.md"])
def test_no_figure_is_missing(name: str) -> None:
    assert "@@" not in (ROOT / name).read_text()


def test_files_that_the_readme_names_exist() -> None:
    for name in re.findall(r"`(pd_lightning/[\w/]+(?:\.py|\.yaml|/))`", README) + re.findall(
        r"\]\((?!http)([^)]+)\)", README
    ):
        assert (ROOT / name).exists(), name


def test_every_logged_key_of_the_design_is_defined_in_the_readme() -> None:
    rollout = ("<game>/return", "<game>/return_std", "<game>/percent_of_teacher", "geometric_mean_percent")
    keys = [f"rollout/{name}" for name in rollout] + [f"val/<game>/{name}" for name in ("agreement", "kl", "loss")]
    for key in keys:
        assert f"| `{key}` |" in README
