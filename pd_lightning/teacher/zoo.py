"""What lies beside other people's weights: RL Zoo's settings, and names of folders that tell the game."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ale_py import roms

from pd_lightning.atari import FRAME_SKIP, STACK
from pd_lightning.teacher.fault import TeacherError, naming

_LIMIT = 64 * 2**10
_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
_WRAPPER_OPTIONS = {"frame_skip": FRAME_SKIP, "screen_size": 84, "action_repeat_probability": 0.0}
"""What AtariWrapper must not have changed."""
_OPTIONS = {"frameskip": 1, "repeat_action_probability": 0.0, "mode": 0, "difficulty": 0, "obs_type": "rgb",
            "full_action_space": False, "continuous": False}  # fmt: skip
"""Options of gymnasium's Atari environments, as AtariWrapper and its like expect them: they skip frames themselves."""
_ENVIRONMENT = re.compile(r"(Deterministic|NoFrameskip)?-v(\d)")


class _Settings(yaml.SafeLoader):
    """YAML of plain values, and the one tag that RL Zoo writes: an ordered dictionary, as a list of pairs.

    Nothing is said twice by reference: a few lines could else stand for any number of values.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As any node, unless it is such a reference."""
        if self.check_event(yaml.AliasEvent):
            raise ValueError("a value that refers to another")
        return super().compose_node(parent, index)


def _ordered(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    return dict(loader.construct_sequence(node, deep=True)[0])  # pyright: ignore[reportArgumentType]


_Settings.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)


def read_settings(file: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """RL Zoo's `config.yml` or `args.yml` of a zip or a policy.pth: beside it, or in the folder named like it.

    Returns:
        The file and what it says; the teacher's file and nothing, if there is none.

    Raises:
        TeacherError: it is not plain values.
    """
    beside = file.parent
    run = beside / beside.name.rpartition("_")[0]  # PongNoFrameskip-v4 in PongNoFrameskip-v4_1
    for path in (folder / name for folder in (beside, beside / file.stem, run, beside.parent)):
        if path.is_file():
            with naming(path, "not the settings of RL Zoo", f"mend it, or move {file.name} away from it"):
                with path.open("rb") as opened:
                    content = opened.read(_LIMIT + 1)
                if len(content) > _LIMIT:
                    raise ValueError(f"larger than {_LIMIT:,} bytes")
                found = yaml.load(content, _Settings)
            if isinstance(found, Mapping) and {"policy", "env_wrapper", "frame_stack", "algo", "env"} & found.keys():
                return path, dict(found)
    return file, {}


def check_settings(file: Path) -> None:
    """Refuses a teacher whose settings of RL Zoo, if there are any, mean other states than the emulator here shows.

    Raises:
        TeacherError: names the file, the field, its value, and what was allowed.
    """
    path, settings = read_settings(file, "config.yml")
    _refuse(path, _facts(settings))
    _refuse(path, _options(settings.get("env_kwargs")))
    path, arguments = read_settings(file, "args.yml")
    _refuse(path, _options(arguments.get("env_kwargs")))
    given = [said for said in (settings.get("env_kwargs"), arguments.get("env_kwargs")) if said]
    check_environment(path, str(arguments.get("env") or ""), {key for said in given for key in said})


def check_environment(path: Path, name: str, settled: Collection[str] = ()) -> None:
    """Refuses an environment that skips frames itself, before the agent's wrapper does, or repeats actions by chance.

    Args:
        path: what names it.
        name: of an Atari environment of gymnasium; any other says nothing.
        settled: the options that the training gave it, and that were found to be right.

    Raises:
        TeacherError: names the file, the field, its value, and what was allowed.
    """
    if game_of(name) and (match := _ENVIRONMENT.search(name)):
        kind, version = match.groups()
        skip = {"NoFrameskip": 1, "Deterministic": 4}.get(kind, 4 if version == "5" else "2 to 4")
        facts = {"frameskip": (skip, 1), "repeat_action_probability": (0.0 if version == "4" else 0.25, 0.0)}
        _refuse(path, [(f"{key} of {name}", *fact) for key, fact in facts.items() if key not in settled])


def _refuse(path: Path, facts: Iterable[tuple[str, Any, Any]]) -> None:
    """Raises a TeacherError for the first of (name, value, what is allowed) that differ."""
    for name, value, allowed in facts:
        if value != allowed:
            raise TeacherError(
                f"{path}: {name} is {value!r}, allowed is {allowed!r}; states would differ from those it was trained "
                "on: choose another teacher"
            )


def _options(given: Any) -> Iterator[tuple[str, Any, Any]]:
    """Options of the environment that change what is seen, or which actions there are; None leaves one as it is."""
    if given and not isinstance(given, Mapping):
        yield "env_kwargs", given, None
    for key in _OPTIONS.keys() & (given or {}):
        yield f"env_kwargs' {key}", _OPTIONS[key] if given[key] is None else given[key], _OPTIONS[key]


def _facts(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, value, and what it must be."""
    yield "frame_stack", settings.get("frame_stack", STACK), STACK
    yield "policy", settings.get("policy", "CnnPolicy"), "CnnPolicy"
    yield "normalize", settings.get("normalize", False) or False, False
    yield "vec_env_wrapper", settings.get("vec_env_wrapper"), None
    if settings.get("env_wrapper") is None:
        return
    wrappers = settings["env_wrapper"]
    for wrapper in wrappers if isinstance(wrappers, list) else [wrappers]:
        for name, options in wrapper.items() if isinstance(wrapper, dict) else [(wrapper, {})]:
            yield "env_wrapper", name, _WRAPPER
            for key in _WRAPPER_OPTIONS.keys() & (options or {}):
                yield f"env_wrapper's {key}", options[key], _WRAPPER_OPTIONS[key]


def game_of(text: str) -> str | None:
    """The emulator's name of the game in the name of an environment, or of a file or folder that has one.

    >>> game_of("dqn-MsPacmanNoFrameskip-v4_1"), game_of("ALE/BeamRider-v5"), game_of("CartPole-v1")
    ('ms_pacman', 'beam_rider', None)
    """
    known = {game.replace("_", ""): game for game in roms.get_all_rom_ids()}
    for name in re.findall(r"([A-Z][A-Za-z0-9]+?)(?:Deterministic|NoFrameskip)?-v\d", text):
        if game := known.get(name.lower()):
            return game
    return None


def settle_game(file: Path, game: str | None, said: str | None = None) -> str:
    """The game of a file that does not name it: what was asked for, what its settings say, or its folder's name.

    Args:
        file: the teacher's.
        game: what was asked for.
        said: the environment that the file itself names, if it does.

    Raises:
        TeacherError: nothing tells, or one contradicts another.
    """
    arguments, settings = read_settings(file, "args.yml")
    names = [(str(file), said), (str(arguments), str(settings.get("env", "")))]
    names += [(name, name) for name in (file.stem, *(folder.name for folder in file.parents[:3]))]
    for where, name in names:
        if found := game_of(name or ""):
            if game not in (None, found):
                raise TeacherError(
                    f"{file}: game is {found!r} by {where}, asked for was {game!r}; choose a teacher of that game, or "
                    "rename what is named wrongly"
                )
            return found
    if game is None:
        raise TeacherError(f"{file}: does not name its game; say it with --game, or game= of load_teacher")
    return game
