"""Every preset is a valid configuration, and says only what differs from the defaults."""

import inspect
from dataclasses import is_dataclass
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml

from pd_lightning.callbacks import Checkpoint, Film, Rollouts
from pd_lightning.cli import PRESETS, main

FILES = sorted(PRESETS.glob("*.yaml"))
GROUPS = {"trainer": pl.Trainer, "rollouts": Rollouts, "checkpoint": Checkpoint, "film": Film}
DEFAULTS = yaml.safe_load((PRESETS / "default.yaml").read_text())
NAMES = [file.stem for file in FILES]
OTHERS = [file for file in FILES if file.stem != "default"]


@pytest.fixture(autouse=True)
def _as_if_in_a_shell(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])


def resolved(capsys, *words) -> Any:
    """The whole configuration of a fit, as the command line understands it."""
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def leaves(tree: Any, prefix: tuple = ()):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict) or (value and isinstance(value, list) and isinstance(value[0], dict)):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def at(tree: Any, path: tuple):
    for key in path:
        tree = tree[key] if isinstance(tree, list) else tree.get(key) if isinstance(tree, dict) else None
    return tree


def accepts(given):
    """Raises a TypeError unless a class takes the arguments that a configuration gives it."""
    constructor = locate(given["class_path"])
    assert callable(constructor)
    inspect.signature(constructor).bind_partial(**given.get("init_args", {}))


def test_there_are_presets_and_the_default_is_one():
    assert "default" in NAMES
    assert set(PRESETS.iterdir()) == set(FILES)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_key_of_a_preset_is_an_option_with_that_value(file, capsys):
    config = resolved(capsys, "--config", str(file))
    for path, value in leaves(yaml.safe_load(file.read_text())):
        assert at(config, path) == value, path


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_option_of_a_preset_is_an_argument_of_the_class_that_it_configures(file):
    content = yaml.safe_load(file.read_text())
    for group in ("model", "data"):
        if group in content:
            accepts({"class_path": DEFAULTS[group]["class_path"], **content[group]})
    for callback in content.get("trainer", {}).pop("callbacks", []):
        accepts(callback)
    for group in content.keys() & GROUPS.keys():
        GROUPS[group](**content[group])
    assert content.keys() <= {"seed_everything", "model", "data", "optimizer", *GROUPS}


@pytest.mark.parametrize("file", OTHERS, ids=[file.stem for file in OTHERS])
def test_a_preset_says_only_what_differs_from_the_default_one(file, capsys):
    default, content = resolved(capsys), yaml.safe_load(file.read_text())
    # Another class may have options of the same names, which must be stated even if they are equal by chance.
    others = {group for group in ("model", "data") if "class_path" in content.get(group, {})}
    for path, value in leaves(content):
        assert path[0] in others or at(default, path) != value, path
    assert all(content[group]["class_path"] != DEFAULTS[group]["class_path"] for group in others)


def test_the_default_preset_says_only_what_differs_from_the_classes(capsys):
    for path, value in leaves(yaml.safe_load((PRESETS / "default.yaml").read_text())):
        if path[0] in GROUPS:
            parameters = inspect.signature(GROUPS[str(path[0])].__init__).parameters
            assert path[1] not in parameters or parameters[str(path[1])].default != value, path


@pytest.mark.parametrize("file", FILES, ids=NAMES)
@pytest.mark.parametrize("group", ["model", "data"])
def test_what_a_preset_leaves_out_is_the_default_of_its_own_class(file, group, capsys):
    # A parser may hand values of the default preset's class on to another class that has options of the same names.
    config = resolved(capsys, "--config", str(file))[group]
    stated = yaml.safe_load(file.read_text()).get(group, {}).get("init_args", {})
    constructor = locate(config["class_path"])
    assert callable(constructor)
    defaults = {name: each.default for name, each in inspect.signature(constructor).parameters.items()}
    defaults = {name: vars(value) if is_dataclass(value) else value for name, value in defaults.items()}
    left_out = {name: value for name, value in config["init_args"].items() if name not in stated}
    assert left_out == {name: defaults[name] for name in left_out}


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_setting_of_a_preset_has_its_reason_beside_it(file):
    for line in file.read_text().splitlines():
        needs_none = not line.strip() or line.lstrip("- ").startswith("class_path") or line.rstrip().endswith(":")
        assert needs_none or "#" in line, line


def test_presets_are_packed_with_the_package():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'pd_lightning = ["presets/*.yaml", "py.typed"]' in project  # and what says that it is typed
    assert (PRESETS.parent / "py.typed").is_file()
