"""The student learns: what an update changes, what is logged, what a checkpoint holds."""

import csv
import gc
import hashlib
import threading
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import CSVLogger
from scipy.special import log_softmax, rel_entr, softmax

from pd_lightning.blocks import Shard
from pd_lightning.checkpoints import CheckpointError
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.live.learner import Learner, Lessons
from pd_lightning.pqn import PQN

BOTH = ["pong", "breakout"]


class Diary(pl.Callback):
    """What was logged and with which learning rate, update by update."""

    def __init__(self):
        self.losses, self.rates, self.states = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert isinstance(outputs, dict)
        self.losses.append(float(outputs["loss"]))
        self.states.append([len(part.states) for part in batch.values()])


def data_of(root, games=("pong",), **settings):
    return TeacherDatasets(str(root), list(games), **{"batch_size": 64, "validation": 0.25, "threads": 1, **settings})


def new_student(data, seed=0, **settings):
    torch.manual_seed(seed)
    return PolicyDistillation(data.actions, **{"size": "net3", "warmup": 5, **settings})


def new_trainer(updates=8, **settings):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    every = {"max_steps": updates, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return pl.Trainer(accelerator="cpu", **every, **{**quiet, **settings})


def fit(root, games=("pong",), updates=8, ckpt_path=None, **settings):
    """Trainer, module, data and diary of a short run without validation."""
    data, diary = data_of(root, games), Diary()
    student = new_student(data, **settings)
    trainer = new_trainer(updates, callbacks=[diary], limit_val_batches=0)
    trainer.fit(student, datamodule=data, ckpt_path=ckpt_path)
    return trainer, student, data, diary


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def run(datasets):
    return fit(datasets, BOTH)


def test_games_without_numbers_of_actions_are_an_error():
    with pytest.raises(ValueError, match=r"games is \['pong'\]: give the number of actions .* `actions`"):
        PolicyDistillation(["pong"])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("loss", "rate"), [("kl", 3e-3), ("nll", 3e-3), ("mse", 3e-3)])
def test_updates_make_each_loss_smaller(loss, rate, datasets):
    losses = fit(datasets, updates=40, loss=loss, learning_rate=rate)[3].losses
    assert len(losses) == 40
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])


def test_updates_change_every_weight_of_the_student_and_nothing_of_the_teachers(datasets):
    files = {path: hashlib.sha256(path.read_bytes()).digest() for path in sorted(datasets.rglob("*.*"))}
    data = data_of(datasets, BOTH)
    recorded = {game: blocks.q_values.copy() for game, blocks in data.blocks.items()}
    student = new_student(data)
    before = copied(student)
    new_trainer(2, limit_val_batches=0).fit(student, datamodule=data)
    for name, parameter in student.named_parameters():
        assert (parameter != before[name]).any(), name
    for game, blocks in data.blocks.items():
        np.testing.assert_array_equal(blocks.q_values, recorded[game])
    assert files == {path: hashlib.sha256(path.read_bytes()).digest() for path in sorted(datasets.rglob("*.*"))}


def test_the_loss_of_an_update_is_the_mean_over_the_states_of_all_games_whose_own_means_are_logged(run):
    trainer, _, _, diary = run
    logged = [float(trainer.callback_metrics[f"train/{game}/loss"]) for game in BOTH]
    assert diary.states[-1] == [57, 60]
    assert diary.losses[-1] == pytest.approx(np.average(logged, weights=diary.states[-1]), rel=1e-6)
    assert logged[0] != logged[1]


def test_where_batches_hold_one_game_the_newest_loss_of_every_game_is_logged(datasets):
    data = TeacherDatasets(str(datasets), BOTH, batch_size=32, validation=0, threads=1, mixing="one_game")
    trainer = new_trainer(4, limit_val_batches=0)
    trainer.log_every_n_steps = 4  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(new_student(data), datamodule=data)
    assert {f"train/{game}/loss" for game in BOTH} <= trainer.callback_metrics.keys()


def test_the_learning_rate_rises_during_the_warm_up_and_then_falls_in_a_line_to_zero(datasets):
    diary = fit(datasets, updates=12, warmup=3, learning_rate=0.004)[3]
    rise, fall = [0.001, 0.002, 0.003], [0.004 * left / 9 for left in range(9, 0, -1)]
    assert diary.rates == pytest.approx(rise + fall)


def test_a_run_that_is_shorter_than_the_warm_up_only_rises(datasets):
    rates = fit(datasets, updates=4, warmup=9, learning_rate=0.01)[3].rates
    assert rates == pytest.approx([0.001, 0.002, 0.003, 0.004])


def test_a_run_that_goes_on_after_its_end_learns_from_its_first_update_on(datasets, tmp_path, caplog):
    trainer = fit(datasets, updates=4, warmup=0, learning_rate=0.01)[0]
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    with caplog.at_level("INFO"):
        rates = fit(datasets, updates=8, ckpt_path=tmp_path / "end.ckpt", warmup=0, learning_rate=0.01)[3].rates
    assert "learning rate: 0.005, where it was 0: the run is to end elsewhere now" in caplog.text
    assert rates == pytest.approx([0.005, 0.00375, 0.0025, 0.00125])


def test_numbers_that_are_too_coarse_to_learn_with_are_refused(datasets):
    data = data_of(datasets)
    with pytest.raises(ValueError, match=r"precision is 16-true.*--trainer\.precision 16-mixed"):
        new_trainer(1, precision="16-true").fit(new_student(data), datamodule=data)


def test_whatever_the_precision_q_values_are_those_that_were_recorded(datasets):
    seen = []

    class Watching(PolicyDistillation):
        def loss_of(self, game, outputs, part):
            seen.append(part.teacher_q)
            return super().loss_of(game, outputs, part)

    data = data_of(datasets)
    torch.manual_seed(0)
    student = Watching(data.actions, size="net3")
    new_trainer(2, precision="bf16-true", val_check_interval=1).fit(student, datamodule=data)
    recorded = torch.from_numpy(np.concatenate([shard.q_values.reshape(-1, 6) for shard in data.shards["pong"]]))
    assert len(seen) > 2  # of training and of validation
    for q_values in seen:
        assert torch.isin(q_values, recorded).all()  # bfloat16 would have made them others


def test_what_is_logged_after_a_resumption_at_the_end_is_of_the_update_that_it_says(datasets, tmp_path):
    data, every = data_of(datasets), {"val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = new_trainer(4, **every)
    trainer.fit(new_student(data), datamodule=data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    logger, diary = CSVLogger(tmp_path, "", 0), Diary()
    trainer = new_trainer(8, **every, logger=logger, callbacks=[diary])
    trainer.fit(new_student(data), datamodule=data, ckpt_path=tmp_path / "end.ckpt")
    with (tmp_path / "version_0" / "metrics.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file) if row["train/loss"]]
    assert rows == [(4 + n, pytest.approx(loss)) for n, loss in enumerate(diary.losses)]


def test_the_input_is_centred_on_the_states_that_are_learned_from(run):
    _, student, data, _ = run
    for game, blocks in data.blocks.items():
        newest = np.concatenate([blocks.shards[s].states(b)[:, -1] for s, b in blocks.chosen]).astype(np.float64)
        centring = student.student.centring[game]
        np.testing.assert_allclose(centring.mean, newest.mean(0).round(), atol=1)  # a half may be rounded either way
        assert np.mean(centring.mean.numpy() == newest.mean(0).round()) > 0.99
        assert float(centring.deviation) == pytest.approx(np.sqrt(newest.var(0).mean()), rel=1e-4)


def test_a_checkpoint_needs_no_data_beside_it(run, tmp_path, datasets):
    trainer, student, data, _ = run
    trainer.save_checkpoint(tmp_path / "student.ckpt", weights_only=False)
    saved = torch.load(tmp_path / "student.ckpt", weights_only=True)
    for game in BOTH:
        assert {f"student.centring.{game}.mean", f"student.centring.{game}.deviation"} <= saved["state_dict"].keys()
    assert not {name for name, _ in student.named_parameters() if "centring" in name}
    again = PolicyDistillation.load_from_checkpoint(tmp_path / "student.ckpt", map_location="cpu")
    states = {game: torch.from_numpy(data.shards[game][0].states(0).copy()) for game in BOTH}
    assert (states["pong"][0] != states["breakout"][0]).any()
    with torch.inference_mode():
        ours, theirs = student.student(states), again.student(states)
    for game in BOTH:
        assert torch.equal(ours[game], theirs[game])
    assert again.hparams["games"] == {"pong": 6, "breakout": 4}


@pytest.mark.parametrize("loss", ["kl", "nll", "mse"])
def test_validation_equals_an_independent_computation_over_the_held_out_states(loss, datasets):
    data = data_of(datasets, BOTH, batch_size=7)  # batches of 6 and of 7
    student = new_student(data, loss=loss, temperature=0.05)
    for head in student.student.heads.values():
        torch.nn.init.normal_(head.output.weight, std=0.3)  # pyright: ignore
    logged = new_trainer().validate(student, datamodule=data, verbose=False)[0]
    assert set(logged) == {f"val/{game}/{name}" for game in BOTH for name in ("agreement", "kl", "loss")}
    for game in BOTH:
        states, q = [], []
        for shard, block in data.held_out[game].chosen:
            opened = Shard(datasets / game / f"{shard:04d}.h5")
            states.append(opened.states(int(block)))
            q.append(opened.q_values[block, : opened.lengths[block]])
        q = np.concatenate(q).astype(np.float64)
        assert len(q) in (150, 60)  # a quarter of the episodes
        with torch.inference_mode():
            z = student(torch.from_numpy(np.concatenate(states)))[game].double().numpy()
        p = softmax(q / 0.05, axis=1)
        policy = softmax(z / 0.05 if loss == "mse" else z, axis=1)
        expected = {
            "agreement": (z.argmax(1) == q.argmax(1)).mean(),
            "kl": rel_entr(p, policy).sum(1).mean(),
            "loss": {
                "kl": rel_entr(p, softmax(z, axis=1)).sum(1).mean(),
                "nll": -log_softmax(z, axis=1)[np.arange(len(q)), q.argmax(1)].mean(),
                "mse": ((q - z) ** 2).sum(1).mean(),
            }[loss],
        }
        for name, value in expected.items():
            assert logged[f"val/{game}/{name}"] == pytest.approx(value, rel=1e-4), name


def test_a_test_logs_what_validation_logs(datasets):
    data = data_of(datasets, BOTH)
    student = new_student(data, temperature=0.01)
    trainer = new_trainer()
    tested = trainer.test(student, datamodule=data, verbose=False)
    assert tested == trainer.validate(student, datamodule=data, verbose=False)


def test_without_held_out_episodes_a_run_logs_no_validation_and_a_test_still_runs(datasets):
    data = data_of(datasets, validation=0.0)
    tested = []
    watcher = LambdaCallback(on_test_start=lambda *_: tested.append(True))
    student, trainer = new_student(data), new_trainer(2, callbacks=[watcher])
    trainer.fit(student, datamodule=data)
    assert not [key for key in trainer.callback_metrics if key.startswith("val/")]
    trainer.test(student, datamodule=data, verbose=False)
    assert tested  # and so rollouts are played


def test_each_game_has_its_own_policy_of_as_many_actions_as_the_game(run):
    _, student, data, _ = run
    policies = student.policies()
    assert list(policies) == BOTH
    for game, actions in (("pong", 6), ("breakout", 4)):
        states = torch.from_numpy(data.shards[game][0].states(1).copy())
        with torch.inference_mode():
            assert torch.equal(policies[game](states), student(states)[game])
        assert policies[game](states).shape == (len(states), actions)


def test_a_resumed_run_of_two_games_ends_with_the_weights_of_an_uninterrupted_one(datasets, tmp_path):
    whole, student, data, _ = fit(datasets, BOTH, updates=11)
    assert [len(stream) for stream in data.streams.values()] == [8, 2]  # so both begin a second epoch

    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "killed.ckpt", weights_only=False)
                trainer.should_stop = True

    killed = new_trainer(11, callbacks=[Kill()], limit_val_batches=0)
    data = data_of(datasets, BOTH)
    killed.fit(new_student(data), datamodule=data)
    resumed, again, _, _ = fit(datasets, BOTH, updates=11, ckpt_path=tmp_path / "killed.ckpt", seed=1)
    assert resumed.global_step == whole.global_step == 11
    for name, value in student.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_no_thread_outlives_a_run(datasets):
    before = set(threading.enumerate())
    fit(datasets, updates=1)  # and forget it
    gc.collect()
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(5)
    assert not [thread.name for thread in left if thread.is_alive()]


def test_a_student_of_its_teachers_size_and_seed_begins_with_other_weights():
    """With the same ones it would have learned less of what its score says."""

    def began(make):
        torch.manual_seed(0)
        return make().trunk.hidden.weight.detach().flatten()

    teacher = began(lambda: PQN({"pong": 6}).network)
    student = began(lambda: PolicyDistillation({"pong": 6}, "dqn").student)
    assert torch.equal(student, began(lambda: PolicyDistillation({"pong": 6}, "dqn").student))
    assert torch.equal(teacher, began(lambda: Learner("pong", 6, Lessons(), 1, 0, "cpu").network))
    assert abs(torch.corrcoef(torch.stack([student, teacher]))[0, 1]) < 0.01


def test_two_students_of_one_program_begin_with_different_weights():
    one, other = (PolicyDistillation({"pong": 6}, "net3").student.trunk.hidden.weight for _ in range(2))
    assert not torch.equal(one, other)


def test_numbers_of_numpy_are_settings_as_others_are():
    numbers: dict[str, Any] = {"temperature": np.float32(0.5), "perplexity": np.float64(2)}
    module = PolicyDistillation({"pong": np.int64(6)}, **numbers)  # pyright: ignore[reportArgumentType]
    assert module.temperatures == {"pong": 0.5}
    assert {type(value) for value in module.hparams.values()} <= {dict, str, float, int}


def test_a_student_may_begin_with_anothers_weights_whatever_it_is_to_learn(datasets, tmp_path):
    trainer, first, data, _ = fit(datasets, updates=4)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    student = PolicyDistillation(data.actions, "net3", "mse", learning_rate=1e-6, weights=str(tmp_path / "first.ckpt"))
    states = torch.randint(256, (8, 4, 84, 84), dtype=torch.uint8)
    assert torch.equal(student(states)["pong"], first(states)["pong"])
    new_trainer(1, limit_val_batches=0).fit(student, datamodule=data_of(datasets))
    for name, buffer in student.student.named_buffers():
        assert torch.equal(buffer, first.student.get_buffer(name))  # what its trunk is used to see
    for games, size in ({"pong": 6}, "net2"), ({"breakout": 4}, "net3"):
        with pytest.raises(CheckpointError, match=r"first\.ckpt: weights are of a net3 of pong; give --model\.weights"):
            PolicyDistillation(games, size, weights=str(tmp_path / "first.ckpt"))
    with pytest.raises(CheckpointError, match="weights is nothing, which is not there"):
        PolicyDistillation({"pong": 6}, weights="nothing")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "net9"}, "unknown size 'net9': choose --model.size from dqn, net1, net2, net3, multi3, multi10"),
        ({"loss": "l1"}, "unknown loss 'l1': choose --model.loss from kl, nll, mse"),
        ({"temperature": 0.0}, r"temperature is 0.0 \(pong\): choose a --model.temperature above 0, or auto"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1"),
        ({"warmup": -1}, "warmup is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_computed(settings, message):
    with pytest.raises(ValueError, match=message):
        PolicyDistillation({"pong": 6}, **settings)
