"""The README says what works."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from pd_lightning.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [code for code in re.findall(r"`(python [^`]+)`", README) + CODE if code.startswith("python ")]
FITS = [command for command in COMMANDS if command.startswith("python train.py fit")]
MODULES = sorted(set(re.findall(r"python -m (pd_lightning\.\w+)", README)))


def test_the_two_commands_stand_in_the_readme_and_ci_runs_the_second() -> None:
    assert "pip install -e . && python train.py fit" in CODE
    assert "pip install -e '.[dev]' && pytest" in CODE
    assert "pip install --quiet --editable '.[dev]'" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("command", FITS)
def test_every_fit_in_the_readme_is_a_valid_configuration(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(snippet, "README.md", "exec"), {})
    mean = float(capsys.readouterr().out.split()[0])
    assert -21 <= mean <= 21


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
