"""Scores along a run: when they are taken, with which episodes, and where they end up."""

import csv
import errno
import itertools
import math

import imageio.v3 as iio
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.callbacks import Film, Rollouts, UpdatesBar
from pd_lightning.callbacks.scoring import rollout_metrics
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.episodes import episode_seeds, moments
from pd_lightning.rollout import Returns


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """120 steps: in Pong long enough to lose a point or two."""
    monkeypatch.setitem(PROTOCOLS, "short", Protocol("short", frame_limit=480))
    monkeypatch.setitem(PROTOCOLS, "blink", Protocol("blink", frame_limit=40))


@pytest.fixture
def unplayed(monkeypatch):
    """Scores without games: who asks when and for which episodes is what matters."""

    def noted(policy, game, episodes, seed, *, share, **rules):
        seeds = episode_seeds(episodes, seed)[share[0] :: share[1]]
        return Returns(game, rules["protocol"], np.zeros(len(seeds)), np.ones(len(seeds), int), seeds, False)

    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", noted)


def rollouts(**settings):
    return Rollouts(**{"protocol": "blink", "episodes": 2, "parallel": 2, **settings})


def trainer_of(folder, updates, *callbacks, logger=None, **settings):
    logger = logger or CSVLogger(folder, "", 0)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {"num_sanity_val_steps": 0, "limit_val_batches": 0, "log_every_n_steps": 1, **quiet, **settings}
    return pl.Trainer(accelerator="cpu", max_steps=updates, logger=logger, callbacks=list(callbacks), **settings)


def student_of(root, games=("pong",)):
    torch.manual_seed(0)
    data = TeacherDatasets(str(root), list(games), batch_size=64, threads=1)
    return PolicyDistillation(data.actions, size="net3", warmup=0), data


def fit(root, folder, updates, *callbacks, games=("pong",), ckpt_path=None, **settings):
    student, data = student_of(root, games)
    trainer = trainer_of(folder, updates, *callbacks, **settings)
    trainer.fit(student, datamodule=data, ckpt_path=ckpt_path)
    return trainer, student, data


def lines(folder, name="returns.csv"):
    with (folder / "version_0" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def updates_of(folder):
    """The numbers of updates at which each game was scored, one entry for each time."""
    return [int(line["update"]) for line in lines(folder) if line["episode"] == "0"]


def test_logged_are_return_deviation_percent_of_teacher_and_the_geometric_mean_over_games():
    def of(game, *values):
        return Returns(game, "paper", np.array(values), np.ones(len(values), int), np.arange(len(values)))

    scores = {"pong": of("pong", 8.0, 12.0), "breakout": of("breakout", 90.0, 90.0, 90.0)}
    metrics = rollout_metrics(scores, {"pong": np.array([19.0, 21.0]), "breakout": np.array([45.0])})
    assert {type(value) for value in metrics.values()} == {float}  # of others no checkpoint loads
    assert metrics == {
        "rollout/pong/return": 10.0,
        "rollout/pong/return_std": pytest.approx(math.sqrt(8)),
        "rollout/pong/percent_of_teacher": 50.0,
        "rollout/breakout/return": 90.0,
        "rollout/breakout/return_std": 0.0,
        "rollout/breakout/percent_of_teacher": 200.0,
        "rollout/geometric_mean_percent": pytest.approx(100.0),
    }


def test_without_a_teachers_score_there_is_no_percentage_and_of_a_negative_one_it_is_nan():
    scores = {"pong": Returns("pong", "paper", np.array([1.0, 3.0]), np.ones(2, int), np.arange(2))}
    assert rollout_metrics(scores, {}) == {"rollout/pong/return": 2.0, "rollout/pong/return_std": pytest.approx(2**0.5)}
    negative = rollout_metrics(scores, {"pong": np.array([-20.0])})
    assert math.isnan(negative["rollout/pong/percent_of_teacher"])
    assert math.isnan(negative["rollout/geometric_mean_percent"])


@pytest.mark.parametrize(
    ("settings", "updates", "played"),
    [
        ({"every_n_updates": 2}, 5, [0, 2, 4, 5]),
        ({"every_n_updates": 2}, 4, [0, 2, 4]),  # not twice at the end
        ({}, 3, [0, 3]),
        ({"every_n_updates": 2, "at_start": False, "at_end": False}, 5, [2, 4]),
    ],
)
def test_games_are_played_before_the_first_update_every_so_many_and_at_the_end(
    settings, updates, played, datasets, tmp_path, unplayed
):
    fit(datasets, tmp_path, updates, rollouts(episodes=1, **settings))
    assert updates_of(tmp_path) == played


@pytest.mark.parametrize(("updates", "limits"), [(3, {}), (-1, {"max_epochs": 1, "limit_train_batches": 3})])
def test_no_checkpoint_says_that_a_run_is_over_before_its_last_score(updates, limits, datasets, tmp_path, monkeypatch):
    happened = []
    monkeypatch.setattr(Rollouts, "_play", lambda self, trainer, *rest: happened.append(("score", trainer.global_step)))
    saved = lambda self, *rest, **more: happened.append(("saved", self.global_step))  # noqa: E731
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", saved)
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    fit(datasets, tmp_path, updates, rollouts(at_start=False), saving, enable_checkpointing=True, **limits)
    assert happened.index(("score", 3)) < happened.index(("saved", 3))


def test_batches_whose_gradients_are_gathered_for_one_update_are_not_scored_one_by_one(datasets, tmp_path, unplayed):
    callback = rollouts(episodes=1, every_n_updates=1, at_start=False)
    fit(datasets, tmp_path, 2, callback, accumulate_grad_batches=3)
    assert updates_of(tmp_path) == [1, 2]


def test_a_resumed_run_does_not_play_again_what_was_scored_before_the_checkpoint(datasets, tmp_path, unplayed):
    trainer, *_ = fit(datasets, tmp_path / "a", 4, rollouts(episodes=1, every_n_updates=2))
    trainer.save_checkpoint(tmp_path / "four.ckpt", weights_only=False)
    again = rollouts(episodes=1, every_n_updates=2)
    fit(datasets, tmp_path / "b", 6, again, ckpt_path=tmp_path / "four.ckpt", accumulate_grad_batches=2)
    assert updates_of(tmp_path / "a") == [0, 2, 4]
    assert updates_of(tmp_path / "b") == [6]


def test_every_episode_of_returns_csv_can_be_played_again_from_its_line(datasets, tmp_path):
    trainer, student, _ = fit(datasets, tmp_path, 2, rollouts(protocol="short", every_n_updates=2, episodes=3))
    written = lines(tmp_path)
    assert list(written[0]) == ["update", "game", "episode", "return", "steps", "seed"]
    last = [line for line in written if line["update"] == "2"]
    assert [(line["game"], line["episode"]) for line in last] == [("pong", "0"), ("pong", "1"), ("pong", "2")]
    assert min(float(line["return"]) for line in last) < 0
    seeds = [int(line["seed"]) for line in last]
    rewards, steps = np.zeros(3), np.zeros(3, int)
    for moment in moments(student.eval().policies()["pong"], "pong", seeds, PROTOCOLS["short"], parallel=2):
        rewards[moment.episodes] += moment.rewards
        steps[moment.episodes] += 1
    assert rewards.tolist() == [float(line["return"]) for line in last]
    assert steps.tolist() == [int(line["steps"]) for line in last]
    mean = trainer.callback_metrics["rollout/pong/return"]
    assert float(mean) == pytest.approx(rewards.mean())


def test_scores_are_in_metrics_csv_beside_the_losses_under_their_number_of_updates(datasets, tmp_path):
    fit(datasets, tmp_path, 2, rollouts(protocol="short"), games=("pong", "breakout"))
    with (tmp_path / "version_0" / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    scored = [line for line in table if line["rollout/pong/return"]]
    assert [int(line["step"]) for line in scored] == [0, 2]
    for game in ("pong", "breakout"):
        for line in scored:
            returns = [float(r["return"]) for r in lines(tmp_path) if (r["update"], r["game"]) == (line["step"], game)]
            assert float(line[f"rollout/{game}/return"]) == pytest.approx(np.mean(returns))
            assert float(line[f"rollout/{game}/return_std"]) == pytest.approx(np.std(returns, ddof=1))
    assert "train/breakout/loss" in table[0]
    assert "rollout/pong/percent_of_teacher" not in table[0]  # recorded under other rules: no yardstick


def test_scores_change_nothing_of_what_is_learned(datasets, tmp_path):
    _, scored, _ = fit(datasets, tmp_path / "a", 3, rollouts(every_n_updates=1))
    _, left_alone, _ = fit(datasets, tmp_path / "b", 3)
    for name, value in scored.state_dict().items():
        assert torch.equal(value, left_alone.state_dict()[name]), name
    assert scored.training


def test_whoever_plays_or_is_filmed_does_not_learn_and_then_learns_on_what_is_not_frozen(datasets, tmp_path):
    student, data = student_of(datasets)
    student.student.frozen = torch.nn.BatchNorm1d(2).eval()
    modes = []
    student.student.register_forward_hook(lambda network, *_: modes.append(network.training))
    film = Film(steps=4)
    trainer_of(tmp_path, 2, rollouts(every_n_updates=1, at_end=False), film).fit(student, datamodule=data)
    assert len(film.paths) == 1
    assert [mode for mode, _ in itertools.groupby(modes)] == [False, True, False, True, False]
    assert student.training
    assert student.student.trunk.training
    assert not student.student.frozen.training


def test_a_test_plays_episodes_that_no_fit_has_played_and_counts_the_updates_before_it(datasets, tmp_path, unplayed):
    callback = rollouts(episodes=4)
    _, student, data = fit(datasets, tmp_path / "fit", 1, callback)
    callback.updates_before = 1  # as the command line reads from the checkpoint
    trainer_of(tmp_path / "test", -1, callback).test(student, datamodule=data, verbose=False)
    seeds = {part: [line["seed"] for line in lines(tmp_path / part)] for part in ("fit", "test")}
    assert seeds["fit"][:4] == seeds["fit"][4:]  # during fit always the same: scores of one run compare
    assert not set(seeds["fit"]) & set(seeds["test"])
    assert updates_of(tmp_path / "test") == [1]


def test_the_recorded_episodes_that_a_score_is_compared_with_are_noted_once(datasets, tmp_path, unplayed):
    _, _, data = fit(datasets, tmp_path / "paper", 2, rollouts(protocol="paper", every_n_updates=1))
    noted = lines(tmp_path / "paper", "teacher_returns.csv")
    assert {(line["update"], line["game"]) for line in noted} == {("0", "pong")}
    returns = np.concatenate([shard.returns for shard in data.shards["pong"]])
    assert [(int(line["episode"]), float(line["return"])) for line in noted] == list(enumerate(returns))
    fit(datasets, tmp_path / "other", 1, rollouts())
    assert not (tmp_path / "other" / "version_0" / "teacher_returns.csv").exists()  # nobody was recorded by those rules


def test_a_trainer_that_tests_what_it_has_fitted_leaves_the_curve_as_it_was(datasets, tmp_path, unplayed):
    trainer, student, data = fit(datasets, tmp_path, 1, rollouts(episodes=4))
    curve = (tmp_path / "version_0" / "returns.csv").read_text()
    trainer.test(student, datamodule=data, verbose=False)
    assert (tmp_path / "version_0" / "returns.csv").read_text() == curve
    assert len((tmp_path / "version_0" / "test_returns.csv").read_text().splitlines()) == 1 + 4


def test_another_seed_plays_other_episodes(datasets, tmp_path, unplayed):
    for seed in (0, 1):
        fit(datasets, tmp_path / str(seed), 1, rollouts(at_start=False, seed=seed))
    assert not {line["seed"] for line in lines(tmp_path / "0")} & {line["seed"] for line in lines(tmp_path / "1")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, r"episodes is 0: choose --rollouts\.episodes of at least 1"),
        ({"every_n_updates": -1}, r"every_n_updates is -1: choose --rollouts\.every_n_updates of at least 0"),
        ({"parallel": 0}, "parallel is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"protocol": "mine"}, "unknown protocol 'mine': choose one of paper, nature, machado"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_run(settings, message):
    with pytest.raises(ValueError, match=message):
        Rollouts(**settings)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"seed": -1}, {"protocol": "mine"}])
def test_a_film_that_cannot_be_made_is_refused_before_the_run(settings):
    with pytest.raises(ValueError, match=r"steps is 0|seed is -1|unknown protocol 'mine'"):
        Film(**settings)


def test_the_film_of_each_game_is_in_the_runs_folder_and_in_tensorboard(datasets, tmp_path):
    board = TensorBoardLogger(tmp_path, "", 0)
    film = Film(protocol="blink", seed=3)
    fit(datasets, tmp_path, 1, film, games=("pong", "breakout"), logger=board)
    assert film.paths == [tmp_path / "version_0" / f"{game}.mp4" for game in ("pong", "breakout")]
    for path in film.paths:
        assert iio.imread(path, plugin="FFMPEG").shape == (11, 464, 320, 3)  # 10 steps and the end
    events = EventAccumulator(str(tmp_path / "version_0"), size_guidance={IMAGES: 0}).Reload()
    assert events.Tags()["images"] == ["film/pong", "film/breakout"]
    (event,) = events.Images("film/pong")
    assert event.encoded_image_string[:4] == b"GIF8"
    assert (event.step, event.width, event.height) == (1, 160, 232)


def test_a_run_whose_film_cannot_be_written_ends_all_the_same(datasets, tmp_path, monkeypatch):
    def broken(path, pictures):
        raise OSError(errno.EIO, "ffmpeg did not write the film", str(path))

    monkeypatch.setattr("pd_lightning.callbacks.filming.write_mp4", broken)
    film = Film(protocol="blink")
    with pytest.warns(UserWarning, match=r"no film of pong: .*ffmpeg did not write the film"):
        fit(datasets, tmp_path, 1, film, logger=CSVLogger(tmp_path, "", 0))
    assert film.paths == []


def test_a_film_can_be_turned_off(datasets, tmp_path):
    film = Film(enabled=False)
    fit(datasets, tmp_path, 1, film)
    assert film.paths == []
    assert not list(tmp_path.rglob("*.mp4"))


def test_one_bar_counts_the_updates_of_all_epochs(datasets, tmp_path):
    seen = []

    class Watched(UpdatesBar):
        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            assert self.progress is not None
            (task,) = [task for task in self.progress.tasks if task.description == "Updates"]
            seen.append((task.completed, task.total))

    bar = {"enable_progress_bar": True, "limit_train_batches": 3}
    fit(datasets, tmp_path, 7, Watched(), **bar)
    assert seen == [(update, 7) for update in range(1, 8)]
    seen.clear()
    fit(datasets, tmp_path / "epochs", -1, Watched(), max_epochs=2, **bar)
    assert seen == [(update, 6) for update in range(1, 7)]
