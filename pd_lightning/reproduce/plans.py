"""Which runs an experiment of the paper consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pd_lightning.blocks import ShardError
from pd_lightning.recording.command import usual_teacher
from pd_lightning.reproduce.tasks import DONE, Task, has_shards

LOSSES = ("mse", "nll", "kl")
COMPRESSED = ("net1", "net2", "net3")
TEMPERATURES = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0)
FIRST_TABLE = ("breakout", "freeway", "pong", "qbert")
THREE = ("freeway", "pong", "qbert")


@dataclass(frozen=True)
class Settings:
    """What all runs of a reproduction share.

    Attributes:
        output: folder of everything.
        root: of the datasets.
        games: to learn.
        seeds: of the weights, and of the data.
        updates: of every run.
        episodes: of the final score.
        hours: of play to record where a game has none.
        options: more of `python train.py fit`, for every run.
    """

    output: str
    root: str
    games: tuple[str, ...]
    seeds: tuple[int, ...]
    updates: int
    episodes: int
    hours: float
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Tasks in two steps: recordings, then runs that learn from them.

    Attributes:
        recordings: that are missing.
        runs: that learn from recordings, or from live play.
        left_out: games of the paper's that cannot be learned here, or an experiment that cannot be done, and why.
    """

    recordings: tuple[Task, ...]
    runs: tuple[Task, ...]
    left_out: dict[str, str] = field(default_factory=dict)


def fit(
    settings: Settings, name: str, games: Sequence[str], seed: int, *options: str, preset: Sequence[str] = ()
) -> Task:
    """A run of `python train.py fit`.

    Raises:
        ValueError: an option for all runs is what they are to differ in, and are called by.
    """
    for word in {each.partition("=")[0] for each in settings.options} & {each.partition("=")[0] for each in options}:
        if word.startswith(("--model.", "--data.")):
            raise ValueError(f"--options has {word}, in which the runs of this experiment are to differ: leave it out")
    folder = Path(settings.output) / "runs" / f"{name}-seed{seed}"
    words = (
        "pd_lightning", "fit", *preset, f"--data.root={settings.root}", f"--data.games=[{','.join(games)}]",
        f"--seed_everything={seed}", f"--data.seed={seed}", f"--trainer.max_steps={settings.updates}",
        f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false",
        # Not in the episodes that the defaults were tuned by, and others for each seed: luck with them is not shared.
        f"--rollouts.episodes={settings.episodes}", f"--rollouts.seed={seed + 1}", "--rollouts.at_start=false",
        f"--rollouts.every_n_updates={-(-settings.updates // 4)}", "--film.enabled=false",
        *options, *settings.options,
    )  # fmt: skip
    return Task(str(folder), words)


def losses(settings: Settings) -> list[Task]:
    """Table 1: students as large as the teacher, by each loss."""
    return [
        fit(settings, f"{game}-dqn-{loss}", [game], seed, "--model.size=dqn", f"--model.loss={loss}")
        for seed in settings.seeds for game in settings.games for loss in LOSSES
    ]  # fmt: skip


def compression(settings: Settings) -> list[Task]:
    """Table 2: smaller and smaller students, by kl."""
    return [by_kl(settings, game, size, seed)
            for seed in settings.seeds for game in settings.games for size in COMPRESSED]  # fmt: skip


def by_kl(settings: Settings, game: str, size: str, seed: int) -> Task:
    """A student of one game as it is by default, but for its size."""
    return fit(settings, f"{game}-{size}-kl", [game], seed, f"--model.size={size}")


def multi_task(settings: Settings) -> list[Task]:
    """Tables 3 and 4: one student of all games, by kl and by nll.

    Raises:
        ValueError: it is one game.
    """
    if len(settings.games) < 2:
        raise ValueError(
            f"multi-task asks for two games at least, not {', '.join(settings.games)}; train teachers, or name others "
            "by --games"
        )
    size = "multi3" if len(settings.games) <= 3 else "multi10"
    return [
        fit(settings, f"{len(settings.games)}games-{size}-{loss}", settings.games, seed, f"--model.size={size}",
            f"--model.loss={loss}")
        for seed in settings.seeds for loss in ("nll", "kl")
    ]  # fmt: skip


def temperature(settings: Settings) -> list[Task]:
    """Section 3's point, measured: sharpen the teacher, and do not soften it; beside them the calibrated one."""
    given = [
        fit(settings, f"{game}-net1-tau{tau:g}", [game], seed, "--model.size=net1", f"--model.temperature={tau}")
        for seed in settings.seeds for game in settings.games for tau in TEMPERATURES
    ]  # fmt: skip
    return [*given, *(by_kl(settings, game, "net1", seed) for seed in settings.seeds for game in settings.games)]


def on_policy(settings: Settings) -> list[Task]:
    """Who acts, at the same number of states and updates: the teacher, the student, or more and more the student.

    From the middle of the updates on it acts alone.
    """
    words = (word.partition("=") for word in settings.options)
    given = {name: value for name, _, value in words if value}
    usual = {"--data.prefill": 5000, "--data.batch_size": 256, "--data.fresh": 0.125}
    prefill, batch, fresh = (float(given.get(name) or value) for name, value in usual.items())
    half = round(prefill + settings.updates * batch * fresh / 2)
    ways = {"teacher": (1, 1, 0), "student": (0, 0, 0), "mixture": (1, 0, half)}
    return [
        fit(settings, f"{game}-net3-{way}-acts", [game], seed, "--model.size=net3", f"--data.beta={first}",
            f"--data.beta_end={last}", f"--data.beta_steps={steps}", preset=["--config=on_policy"])
        for seed in settings.seeds for game in settings.games for way, (first, last, steps) in ways.items()
    ]  # fmt: skip


def online(settings: Settings) -> list[Task]:
    """Section 4.4: a student follows a teacher that is still learning; scored side by side, 20 times."""
    return [
        fit(settings, f"{game}-online", [game], seed,
            f"--rollouts.every_n_updates={-(-settings.updates // 20)}", preset=["--config=online"])
        for seed in settings.seeds for game in settings.games
    ]  # fmt: skip


EXPERIMENTS: dict[str, tuple[Callable[[Settings], list[Task]], tuple[str, ...]]] = {
    "losses": (losses, FIRST_TABLE),
    "compression": (compression, FIRST_TABLE),
    "multi-task": (multi_task, THREE),
    "temperature": (temperature, ("pong",)),
    "on-policy": (on_policy, ("breakout", "pong")),
    "online": (online, ("pong",)),
}
"""Name to what it runs, and the games that it runs on unless others are named."""
LIVE = ("on-policy", "online")
"""Those that need no recording; online needs no teacher either."""


def plan(experiments: Sequence[str], settings: Settings) -> Plan:
    """All tasks of some experiments.

    Args:
        experiments: names in `EXPERIMENTS`.
        settings: theirs; without games, each has its own, as far as they can be learned here.

    Raises:
        ShardError: a game that was asked for, or every one, has neither a recording nor a teacher to record.
    """
    runs: list[Task] = []
    games: list[str] = []
    left_out: dict[str, str] = {}
    for name in experiments:
        make, usual = EXPERIMENTS[name]
        chosen = settings.games or usual
        missing = {game: reason for game in chosen if (reason := unlearnable(settings, game, name))}
        if missing and (settings.games or len(missing) == len(chosen)):
            raise ShardError(next(iter(missing.values())))
        left_out |= missing
        chosen = tuple(game for game in chosen if game not in missing)
        if name == "multi-task" and len(chosen) < 2 < len(experiments):  # of all experiments, the one that it cannot be
            left_out[name] = "it asks for two games at least"
            continue
        if name not in LIVE:
            games += [game for game in chosen if game not in games]
        runs += make(replace(settings, games=chosen))
    return Plan(tuple(recordings(settings, games)), tuple(dict.fromkeys(runs)), left_out)


def unlearnable(settings: Settings, game: str, experiment: str) -> str:
    """Why a game cannot be learned here in an experiment; nothing if it can."""
    folder, teacher = Path(settings.root) / game, "teacher.safetensors"
    live = experiment in LIVE
    if live:
        named = any(word.startswith("--data.teachers") for word in settings.options)
        learnable = experiment == "online" or named or (folder / teacher).is_file()
    else:
        learnable = has_shards(folder) or usual_teacher(settings.root, game).is_file()
    if learnable:
        return ""
    return (
        f"{folder}: has {'no' if live else 'neither a recording nor a'} {teacher}; train a teacher (`python train.py "
        f"fit --config pd_lightning/presets/teacher.yaml --data.game {game}`), or leave it out by --games"
    )


def recordings(settings: Settings, games: Sequence[str]) -> list[Task]:
    """Recordings of those games that have none, or one that was begun here and has not ended."""
    tasks = []
    for game in games:
        folder, task = Path(settings.root) / game, Path(settings.output) / "recordings" / game
        interrupted = task.is_dir() and not (task / DONE).is_file()  # some of its hours may be there
        if has_shards(folder) and not interrupted:
            continue
        words = ("pd_lightning.recording", "--game", game, "--hours", str(settings.hours), "--root", settings.root)
        tasks.append(Task(str(task), words, resumable=False, shards=str(folder)))
    return tasks
