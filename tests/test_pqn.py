"""A teacher learns from every minibatch, begins with weights that are given, and goes on where it was."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import Gauge, checkpoint_of
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from pd_lightning.cli import PRESETS, main
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.ending import learned as learned_teachers
from pd_lightning.pqn import PQN, ParallelPlay
from pd_lightning.pqn.learning import falling_share, refuse_float16
from pd_lightning.teacher import load_teacher, save_teacher

UPDATES = 4  # in an epoch


def tiny(**options):
    usual = {"parallel": 2, "steps": 8, "passes": 1, "minibatches": 2, "rounds": 2, "epsilon_steps": 100}
    return ParallelPlay(**{**usual, **options})


class Diary(Callback):
    """Writes down each update: learning rate, what was learned from, the loss and what the loss should be."""

    def __init__(self, dies_at=None):
        self.dies_at = dies_at
        self.rates, self.batches, self.losses, self.expected = [], [], [], []

    def on_train_batch_start(self, trainer, pl_module: PQN, batch, batch_idx):
        if trainer.global_step == self.dies_at:
            raise RuntimeError("power cut")
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.batches.append(batch.states.long().sum().item())
        with torch.no_grad():
            q = pl_module.network(batch.states)["pong"][range(len(batch.actions)), batch.actions]
        self.expected.append(0.5 * np.mean((q.numpy() - batch.targets.numpy()) ** 2))

    def on_train_batch_end(self, trainer, pl_module, outputs: dict, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def fit(epochs, ckpt_path=None, seed=1, dies_at=None, callbacks=(), warmup=0, data=None, **trainer_options):
    torch.manual_seed(seed)
    data, diary = data or tiny(), Diary(dies_at)
    module = PQN(data.actions, "net3", learning_rate=1e-3, warmup=warmup)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[diary, *callbacks],
        **trainer_options,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module, diary


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Three epochs without interruption: the weights, the diary and the last checkpoint."""
    folder = tmp_path_factory.mktemp("straight")
    module, diary = fit(3, seed=0, callbacks=[ModelCheckpoint(folder, save_last=True, every_n_epochs=1)])
    return weights(module), diary, folder / "last.ckpt"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The folder of checkpoints that a run leaves which began as `straight` and dies within its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    by_epoch = ModelCheckpoint(folder, save_last=True, every_n_epochs=1)
    by_update = ModelCheckpoint(folder / "updates", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(3, seed=0, dies_at=7, callbacks=[by_epoch, by_update])
    return folder


def test_a_run_learns_from_every_minibatch(straight):
    trained, diary, _ = straight
    torch.manual_seed(0)
    untrained = PQN({"pong": 6}, "net3").state_dict()
    for name, tensor in trained.items():
        assert not torch.equal(tensor, untrained[name]), name
    assert len(diary.losses) == 3 * UPDATES
    assert len(set(diary.batches)) == 3 * UPDATES


def test_the_loss_is_half_the_mean_squared_distance_to_the_targets(straight):
    _, diary, _ = straight
    assert diary.losses == pytest.approx(diary.expected, rel=1e-5)


def test_the_input_is_centred_on_random_play(straight):
    trained, _, _ = straight
    mean, deviation = tiny().statistics()["pong"]
    assert mean[50].std() > 1  # an image: background, and the paddles at both sides
    assert 1 < deviation < 50
    assert torch.equal(trained["network.centring.pong.mean"], mean.round())
    assert trained["network.centring.pong.deviation"].item() == pytest.approx(deviation)


def test_the_learning_rate_falls_linearly_to_zero_at_the_end_of_the_run(straight):
    _, diary, _ = straight
    assert diary.rates == pytest.approx([1e-3 * (1 - update / 12) for update in range(12)])


def test_the_learning_rate_rises_linearly_before_it_falls():
    _, diary = fit(2, warmup=4)
    assert diary.rates == pytest.approx([1e-3 * min((update + 1) / 4, 1) * (1 - update / 8) for update in range(8)])


def test_a_run_of_no_updates_has_a_learning_rate():
    assert falling_share(0, warmup=0, total=0) == 1.0


@pytest.mark.parametrize(("algorithm", "measure"), [("norm", torch.Tensor.norm), ("value", lambda g: g.abs().max())])
def test_gradients_are_clipped_as_the_trainer_is_told(algorithm, measure):
    gauge = Gauge(measure)
    fit(1, callbacks=[gauge], gradient_clip_val=1e-6, gradient_clip_algorithm=algorithm)
    assert max(gauge.sizes) == pytest.approx(1e-6, rel=1e-2)


def test_resumed_from_the_last_epochs_checkpoint_a_run_ends_bit_for_bit_as_if_nothing_had_happened(
    straight, interrupted
):
    trained, diary, _ = straight
    module, resumed = fit(3, ckpt_path=interrupted / "last.ckpt")
    assert resumed.batches == diary.batches[UPDATES:]
    assert resumed.rates == diary.rates[UPDATES:]
    assert resumed.losses == diary.losses[UPDATES:]
    for name, tensor in weights(module).items():
        assert torch.equal(tensor, trained[name]), name


def test_resumed_within_an_epoch_a_run_plays_fresh_games_for_the_updates_that_are_left(straight, interrupted):
    _, diary, _ = straight
    _, resumed = fit(2, ckpt_path=interrupted / "updates" / "step=6.ckpt")
    assert len(resumed.batches) == 2
    assert not set(resumed.batches) & set(diary.batches)
    assert resumed.rates == pytest.approx([1e-3 * (1 - update / 8) for update in (6, 7)])


def test_a_finished_run_that_is_given_more_epochs_learns_from_its_first_update_on(straight):
    _, _, checkpoint = straight
    assert torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    _, longer = fit(4, ckpt_path=checkpoint)
    assert longer.rates == pytest.approx([1e-3 * (1 - update / 16) for update in range(12, 16)])


@pytest.mark.parametrize(("name", "other"), [("parallel", 4), ("steps", 4), ("passes", 2), ("minibatches", 4)])
def test_a_run_does_not_go_on_with_another_setting_that_its_steps_are_counted_by(straight, name, other):
    was = getattr(tiny(), name)
    with pytest.raises(
        ValueError, match=rf"cannot resume: {name} was {was} in the checkpoint and is {other} now; give"
    ):
        fit(4, ckpt_path=straight[2], data=tiny(**{name: other}))


def test_a_teacher_that_has_learned_is_not_centred_anew_by_another_fit(straight):
    known, loaded = straight[0]["network.centring.pong.mean"], PQN.load_from_checkpoint(straight[2])
    for _ in range(2):
        pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(loaded, tiny(seed=5))
        assert torch.equal(weights(loaded)["network.centring.pong.mean"], known)
    fresh = PQN({"pong": 6}, "net3")
    pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(fresh, tiny(seed=5))
    assert not torch.equal(weights(fresh)["network.centring.pong.mean"], known)  # other games look otherwise


def test_an_unknown_game_is_an_error_before_anything_is_built():
    with pytest.raises(ValueError, match="did you mean breakout"):
        ParallelPlay("Breakout")


def test_minibatches_that_do_not_divide_a_round_are_an_error():
    with pytest.raises(ValueError, match=r"4 games x 4 steps do not divide into 3 minibatches: .* divides 16"):
        ParallelPlay(parallel=4, steps=4, minibatches=3)


@pytest.mark.parametrize(("settings", "message"), [
    ({"minibatches": 0}, "minibatches is 0: choose --data.minibatches of at least 1"), ({"passes": 0}, "passes is 0"),
    ({"rounds": 0}, "rounds is 0"), ({"parallel": 0}, "parallel is 0"), ({"seed": -1}, "seed is -1: .* at least 0"),
    ({"trace": 1.5}, "trace is 1.5: choose --data.trace from 0 to 1"), ({"epsilon_start": 7}, "epsilon_start is 7"),
    ({"discount": float("nan")}, "discount is nan"),
    ({"game": "freeway", "fire": True}, "freeway has no FIRE .*choose --data.fire false"),
])  # fmt: skip
def test_settings_of_play_that_make_no_sense_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ParallelPlay(**settings)


def test_a_teacher_that_is_tested_has_learned_from_as_many_steps_as_when_it_was_trained():
    progress = SimpleNamespace(total=SimpleNamespace(processed=13))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    fitting = SimpleNamespace(fn=TrainerFn.FITTING)
    trained = SimpleNamespace(datamodule=tiny(), fit_loop=loop, world_size=3, state=fitting)
    model, checkpoint = PQN({"pong": 6}, "net3"), dict[str, Any]()
    model._trainer = trained  # pyright: ignore[reportAttributeAccessIssue]
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["steps"] == 13 // 2 * 2 * 8 * 3
    model.on_load_checkpoint(checkpoint)
    state = SimpleNamespace(fn=TrainerFn.TESTING)
    here = {"datamodule": ParallelPlay(), "lightning_module": model, "fit_loop": loop, "world_size": 1}
    trainer: Any = SimpleNamespace(state=state, **here)
    ((game, network, count, score),) = learned_teachers(trainer, None)
    assert (game, network, count, score) == ("pong", model.network, checkpoint["steps"], None)


def test_a_learning_rate_or_a_precision_in_which_nothing_can_be_learned_is_refused():
    with pytest.raises(ValueError, match=r"learning_rate is 0.0: choose --model.learning_rate above 0"):
        PQN({"pong": 6}, learning_rate=0.0)
    scaled: Any = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()), precision="16-mixed")
    with pytest.raises(ValueError, match=r"precision is 16-mixed, .*: choose --trainer.precision bf16-mixed"):
        refuse_float16(scaled)
    model = PQN({"pong": 6}, "net3")
    model.trainer = scaled
    with pytest.raises(ValueError, match=r"precision is 16-mixed"):
        model.setup("fit")
    model.setup("test")  # to play in it is another matter
    with pytest.raises(ValueError, match=r"precision is 16-true, in which a teacher does not learn"):
        refuse_float16(pl.Trainer(accelerator="cpu", precision="16-true", logger=False, enable_checkpointing=False))
    refuse_float16(pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))


@pytest.mark.parametrize("games", [{}, {"pong": 6, "breakout": 4}])
def test_a_teacher_of_several_games_or_of_none_is_an_error(games):
    with pytest.raises(ValueError, match=r"a teacher learns one game, not (none|pong, breakout)"):
        PQN(games)


def test_a_run_may_begin_with_a_teachers_weights(tmp_path):
    network = PQN({"pong": 6}, "net3").network
    torch.nn.init.normal_(network.heads["pong"].output.weight)  # pyright: ignore
    network.centre("pong", torch.full((84, 84), 70.0), 33.0)
    file = save_teacher(network, tmp_path / "teacher.safetensors", {})
    states = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    begun = PQN({"pong": 6}, "net3", weights=str(file))
    torch.testing.assert_close(begun.network(states)["pong"], load_teacher(file)(states))
    begun.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    begun.trainer.datamodule = SimpleNamespace(fire_rules=dict)  # pyright: ignore
    begun.setup("fit")  # asks it for no statistics: it is centred already
    assert begun.network.centring["pong"].deviation == 33
    assert "weights" not in begun.hparams


def test_a_student_begins_as_it_plays_with_logits_scaled_back_to_q_values(tmp_path):
    student = PolicyDistillation({"pong": 6}, "net3", temperature=0.05)
    torch.nn.init.normal_(student.student.heads["pong"].output.weight)  # pyright: ignore
    path = checkpoint_of(student, tmp_path / "student.ckpt")
    begun = PQN({"pong": 6}, "net3", layer_norm=False, weights=str(path))
    states = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(begun.network(states)["pong"], 0.05 * student(states)["pong"], rtol=1e-4, atol=1e-5)


def test_logits_whose_temperature_nobody_knows_are_scaled_by_that_of_the_paper(tmp_path):
    student = PolicyDistillation({"pong": 6}, "net3", loss="nll")
    torch.nn.init.normal_(student.student.heads["pong"].output.weight)  # pyright: ignore
    begun = PQN({"pong": 6}, "net3", layer_norm=False, weights=str(checkpoint_of(student, tmp_path / "student.ckpt")))
    states = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(begun.network(states)["pong"], 0.01 * student(states)["pong"], rtol=1e-4, atol=1e-5)


def test_a_run_that_goes_on_needs_no_file_of_the_weights_that_it_began_with(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py"])
    save_teacher(PQN({"pong": 6}, "net3", layer_norm=False).network, tmp_path / "mine.safetensors", {})
    words = [f"--config={PRESETS / 'finetune.yaml'}", "--model.size=net3", "--data.parallel=2", "--data.steps=2",
             "--data.minibatches=2", "--data.rounds=1", "--trainer.accelerator=cpu", "--trainer.precision=32-true",
             "--trainer.enable_progress_bar=false", "--film.enabled=false", "--rollouts.at_start=false",
             "--rollouts.every_n_updates=0", "--rollouts.at_end=false"]  # fmt: skip
    with pytest.raises(SystemExit):
        main(["fit", *words])
    assert "error: weights is STUDENT.ckpt, which is not there: choose --model.weights" in capsys.readouterr().err
    main(["fit", *words, "--trainer.max_epochs=1", "--model.weights=mine.safetensors"])
    (tmp_path / "mine.safetensors").unlink()
    main(["fit", *words, "--trainer.max_epochs=2", "--ckpt_path=last"])
    assert "lightning_logs/version_1/teacher.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("before", [True, False])
def test_fire_is_pressed_as_it_was_for_the_weights_that_learning_began_with_unless_told_otherwise(
    tmp_path, said, before
):
    file = save_teacher(PQN({"breakout": 4}, "net3").network, tmp_path / "teacher.safetensors", {}, fire=before)
    data = ParallelPlay("breakout", fire=said, parallel=2, steps=2, minibatches=2, rounds=1)
    assert data.pressed is bool(said)  # nobody has trained yet
    module = PQN(data.actions, "net3", weights=str(file))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert module.fire == data.fire_rules() == {"breakout": before if said is None else said}
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    data.fire = True
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert module.fire == {"breakout": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "net1"}, r"size is net3, layer_norm True, here net1 and True; give --model\.size net3 "),
        ({"layer_norm": False}, "layer_norm True, here net3 and False; give .*--model.layer_norm true"),
        ({"games": {"breakout": 4}}, "game is 'pong', asked for was 'breakout'"),
    ],
)
def test_weights_of_another_network_or_game_are_refused(tmp_path, arguments, message):
    file = save_teacher(PQN({"pong": 6}, "net3").network, tmp_path / "teacher.safetensors", {})
    with pytest.raises(ValueError, match=message):
        PQN(**{"games": {"pong": 6}, "size": "net3", "weights": str(file), **arguments})


def test_a_checkpoint_without_layer_normalisation_is_read_as_such(tmp_path):
    module = PQN({"pong": 6}, "net3", layer_norm=False)
    torch.nn.init.normal_(module.network.heads["pong"].output.weight)  # pyright: ignore
    path = checkpoint_of(module, tmp_path / "pqn.ckpt")
    states = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(load_teacher(path)(states), module.network(states)["pong"])
