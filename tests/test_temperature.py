"""Temperatures: one says the same of teachers of any scale, when it is calibrated on what they recorded."""

import numpy as np
import pytest
import torch
from conftest import quiet_trainer
from pytorch_lightning.strategies import SingleDeviceStrategy

from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.losses import kl
from pd_lightning.temperature import calibrate, check, perplexity


@pytest.fixture
def q_values():
    return np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)


def test_perplexity_is_the_number_of_equally_likely_actions(q_values):
    equal = np.zeros((3, 5))
    assert perplexity(equal, 0.01) == pytest.approx(5)
    two = np.array([[1.0, 1.0, 0.0, 0.0]])
    assert perplexity(two, 1e-4) == pytest.approx(2)
    assert perplexity(two, 1e4) == pytest.approx(4)
    p = np.exp(q_values.astype(float))
    p /= p.sum(1, keepdims=True)
    assert perplexity(q_values, 1.0) == pytest.approx(np.exp(-(p * np.log(p)).sum(1).mean()))


def test_sharpening_lowers_the_perplexity_and_softening_raises_it(q_values):
    found = [perplexity(q_values, t) for t in (0.001, 0.01, 0.1, 1.0, 10.0)]
    assert found == sorted(found)
    assert 1 <= found[0] < 1.1
    assert 5.9 < found[-1] < 6


@pytest.mark.parametrize("target", [1.05, 2.0, 3.7, 5.9])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_calibrated_temperature_gives_the_perplexity_whatever_the_scale(q_values, target, scale):
    assert perplexity(q_values * scale, calibrate(q_values * scale, target)) == pytest.approx(target, rel=1e-3)


def test_the_temperature_follows_the_scale(q_values):
    assert calibrate(q_values * 100, 2.0) == pytest.approx(100 * calibrate(q_values, 2.0), rel=1e-3)


@pytest.mark.parametrize("target", [1.0, 0.5, 6.0, 7.0, float("nan")])
def test_a_perplexity_that_so_many_actions_cannot_have_is_refused(q_values, target):
    with pytest.raises(ValueError, match=r"pong has 6 actions: choose a --model\.perplexity between 1 and 6"):
        calibrate(q_values, target, "pong")


def test_a_calibration_samples_the_whole_recording(q_values, monkeypatch):
    q_values[250:] *= 100
    monkeypatch.setattr("pd_lightning.temperature.SAMPLE", 100)
    whole, half = calibrate(q_values, 2.0), calibrate(q_values[:250], 2.0)
    monkeypatch.undo()
    assert whole == pytest.approx(calibrate(q_values, 2.0), rel=0.2)
    assert whole > 2 * half


def test_equal_q_values_cannot_be_sharpened():
    for q in (np.ones((4, 6)), np.array([[1.0, 1.0, 1.0, 0.0]] * 4)):
        with pytest.raises(ValueError, match=r"no temperature gives pong's teacher a perplexity of 2\.0"):
            calibrate(q, 2.0, "pong")


def test_one_temperature_is_for_all_games_or_there_is_one_for_each():
    games = {"pong": 6, "breakout": 4}
    assert check(0.1, games) == {"pong": 0.1, "breakout": 0.1}
    assert check({"breakout": "auto", "pong": 1}, games) == {"pong": 1, "breakout": "auto"}
    for wrong in ({"pong": 0.1}, {"pong": 0.1, "breakout": 0.1, "freeway": 0.1}):
        with pytest.raises(ValueError, match=r"must name the same games \(see (breakout|freeway)\)"):
            check(wrong, games)
    for value in (0, -1.0, float("nan"), "hot"):
        with pytest.raises(ValueError, match=rf"temperature is {value} \(breakout\): choose .* above 0, or auto"):
            check({"pong": 0.1, "breakout": value}, games)  # pyright: ignore[reportArgumentType]


def distil(root, **settings):
    data = TeacherDatasets(str(root), ["pong", "breakout"], batch_size=40, threads=1)
    torch.manual_seed(0)
    student = PolicyDistillation(data.actions, "net3", warmup=0, **settings)
    trainer = quiet_trainer(max_steps=2)
    trainer.fit(student, datamodule=data)
    return student, data, trainer


def test_ranks_that_calibrate_on_other_states_take_the_temperature_of_the_first(datasets, monkeypatch):
    def broadcast(self, value, src=0):
        return {**value, "pong": 0.25} if isinstance(value, dict) else value

    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", broadcast)
    student, _, _ = distil(datasets, temperature={"pong": "auto", "breakout": 0.3})
    assert student.temperatures == {"pong": 0.25, "breakout": 0.3}


def test_a_fit_calibrates_each_game_that_says_auto_on_the_states_it_learns_from(datasets):
    student, data, _ = distil(datasets, temperature={"pong": "auto", "breakout": 0.3}, perplexity=1.5)
    assert student.temperature("breakout") == 0.3
    q = data.teacher_q("pong")
    assert len(q) == data.blocks["pong"].states
    assert perplexity(q, student.temperature("pong")) == pytest.approx(1.5, rel=1e-3)


def test_the_loss_is_taken_at_each_games_own_temperature(datasets):
    student, data, trainer = distil(datasets, temperature={"pong": 0.2, "breakout": 3.0})
    assert data.mixture is not None
    batch = data.mixture.batch(0)
    with torch.no_grad():
        said = student({game: part.states for game, part in batch.items()})
        parts = [
            kl(said[game], part.teacher_q, {"pong": 0.2, "breakout": 3.0}[game]) * len(part.states)
            for game, part in batch.items()
        ]
        loss = student.training_step(batch, 0)
    assert loss == pytest.approx(float(sum(parts)) / sum(len(part.states) for part in batch.values()), rel=1e-5)
    trainer.validate(student, datamodule=data, verbose=False)
    assert {"val/pong/kl", "val/breakout/kl"} <= trainer.callback_metrics.keys()


def test_what_was_calibrated_is_in_the_checkpoint(datasets, tmp_path):
    student, _, trainer = distil(datasets, temperature="auto")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = PolicyDistillation.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.temperatures == student.temperatures
    assert all(isinstance(value, float) for value in loaded.temperatures.values())


def test_who_goes_on_keeps_the_temperature_of_before_unless_the_teacher_says_something_else_now(datasets, tmp_path):
    def go_on(path, outputs, updates):
        data = TeacherDatasets(str(datasets), ["pong"], batch_size=40, threads=1)
        data.outputs = {"pong": outputs}
        asked, recorded = [], data.teacher_q
        data.teacher_q = lambda game: asked.append(game) or recorded(game)
        student = PolicyDistillation(data.actions, "net3", warmup=0)
        trainer = quiet_trainer(max_steps=updates)
        trainer.fit(student, datamodule=data, ckpt_path=path)
        trainer.save_checkpoint(tmp_path / f"{updates}.ckpt")
        return student.temperatures["pong"], asked, tmp_path / f"{updates}.ckpt"

    first, asked, path = go_on(None, "q", 1)
    assert asked == ["pong"]
    assert go_on(path, "q", 2)[:2] == (first, [])
    as_logits, asked, path = go_on(path, "logits", 3)
    assert (as_logits, asked) == (1.0, [])
    assert go_on(path, "q", 4)[:2] == (first, ["pong"])


def test_who_goes_on_plays_by_the_rules_of_the_data_that_it_has_now(datasets, tmp_path):
    _, data, trainer = distil(datasets, temperature=0.1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert data.fire_rules() == {"pong": False, "breakout": False}
    other = TeacherDatasets(str(datasets), ["pong", "breakout"], batch_size=40, threads=1)
    other.fire_rules = lambda: {"pong": False, "breakout": True}
    student = PolicyDistillation(other.actions, "net3", warmup=0, temperature=0.1)
    quiet_trainer(max_steps=3).fit(student, datamodule=other, ckpt_path=tmp_path / "last.ckpt")
    assert student.fire == {"pong": False, "breakout": True}


def test_before_a_fit_there_is_nothing_to_calibrate_on():
    with pytest.raises(ValueError, match="the temperature of pong is auto: it is calibrated on the recording"):
        PolicyDistillation({"pong": 6}, temperature="auto").temperature("pong")
