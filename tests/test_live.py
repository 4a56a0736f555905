"""Live play: what is in memory is what was played, by whom it was to be played, and a run goes on where it was."""

import copy
import inspect
import json
import math
from contextlib import nullcontext
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import quiet_trainer, short_play, tiny_network
from pytorch_lightning.callbacks import ModelCheckpoint
from running import Run, lines, torchrun

from pd_lightning.atari import PROTOCOLS, Lives, Protocol
from pd_lightning.blocks import Shard, ShardError
from pd_lightning.blocks.folders import shard_name
from pd_lightning.cli import PRESETS, main
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.episodes import LIVE_SEEDS
from pd_lightning.live import Lessons, LiveTeacher, recorder
from pd_lightning.live.cast import total_updates
from pd_lightning.live.knobs import Knobs
from pd_lightning.live.learner import Learner, LearningPlayer
from pd_lightning.live.memory import Memory, unpack
from pd_lightning.live.play import FrozenPlayer
from pd_lightning.live.recorder import Episode, Recorder
from pd_lightning.live.stage import Place, Stage
from pd_lightning.losses import kl
from pd_lightning.pqn import PQN, ParallelPlay
from pd_lightning.pqn.games import Games
from pd_lightning.pqn.learning import squared_error
from pd_lightning.recording import header_of
from pd_lightning.recording.shards import check_same
from pd_lightning.teacher import Teacher, load_teacher, save_teacher
from pd_lightning.temperature import calibrate

SHORT = Protocol("short", epsilon=0.0, frame_limit=200)  # episodes of 50 steps

# ----------------------------------------------------------------------------------------------------------- memory


def played(steps, games=3, seed=0):
    """Stacks of episodes that begin now and then, as an emulator gives them, and made-up Q-values."""
    rng = np.random.default_rng(seed)
    stack = np.zeros((games, 4, 84, 84), np.uint8)
    states = np.empty((steps, *stack.shape), np.uint8)
    for t in range(steps):
        stack[rng.random(games) < 0.2] = 0  # a new episode
        stack = np.concatenate([stack[:, 1:], rng.integers(0, 256, (games, 1, 84, 84), np.uint8)], 1)
        states[t] = stack
    return torch.from_numpy(states), torch.from_numpy(rng.normal(size=(steps, games, 6)).astype(np.float32))


@pytest.mark.parametrize("rounds", [1, 3, 4, 9])
def test_the_newest_states_are_remembered_as_they_were_and_older_ones_are_gone(rounds):
    states, q = played(5 * rounds)
    memory = Memory(16, 3, 6)
    for n in range(rounds):
        memory.add(states[5 * n : 5 * n + 5], q[5 * n : 5 * n + 5])
    kept = min(5 * rounds, 16)
    assert len(memory) == 3 * kept
    batch = memory.batch(np.arange(len(memory)))
    assert torch.equal(batch.states, states[-kept:].flatten(0, 1))
    assert torch.equal(batch.teacher_q, q[-kept:].flatten(0, 1))
    chosen = np.random.default_rng(1).permutation(len(memory))[:7]
    assert torch.equal(memory.batch(chosen).states, batch.states[chosen])
    assert torch.equal(memory.newest(7).states, batch.states[-7:])


def test_a_memory_is_packed_into_a_checkpoint_and_comes_back():
    states, q = played(20)
    memory = Memory(16, 3, 6)
    memory.add(states[:10], q[:10])
    memory.add(states[10:] // 255 * 255, q[10:])  # black but for a few pixels
    state: dict = memory.state_dict()
    other = Memory(16, 3, 6)
    other.load_state_dict(state)
    everything = np.arange(len(memory))
    assert len(other) == len(memory)
    assert torch.equal(other.batch(everything).states, memory.batch(everything).states)
    assert torch.equal(other.batch(everything).teacher_q, memory.batch(everything).teacher_q)
    frames = state["frames"]
    assert isinstance(frames, torch.Tensor)
    assert len(frames) < 0.7 * 19 * 3 * 84 * 84
    with pytest.raises(ValueError, match=r"had \(57, 6\) rows and actions, now \(60, 6\)"):
        Memory(17, 3, 6).load_state_dict(state)


# ---------------------------------------------------------------------------------------------------------- who acts


def teacher_of(game="pong", seed=0):
    return Teacher(tiny_network(game, seed), game)


def a_round(share, student, epsilon=0.0, steps=40):
    rules = Protocol("short", epsilon=epsilon, frame_limit=200)
    player = FrozenPlayer(teacher_of(), 4, steps, rules, False, (0,), 1)
    return player.play(student, share)


def stubborn(states):
    """A student who always takes the last action."""
    return torch.eye(6)[5].expand(len(states), 6)


def test_the_teacher_is_asked_about_every_state_whoever_acts():
    teacher = teacher_of()
    for share in (1.0, 0.0):
        states, q, *_ = a_round(share, stubborn, steps=6)
        assert torch.equal(q.flatten(0, 1), torch.cat([teacher(row) for row in states]))


def test_the_teacher_acts_the_student_acts_or_each_its_share():
    best = a_round(1.0, None)
    assert np.array_equal(best.actions, best.q.argmax(2).numpy())
    assert (a_round(0.0, stubborn).actions == 5).all()
    mixed = a_round(0.3, stubborn, steps=150)
    greedy = mixed.q.argmax(2).numpy()
    assert ((mixed.actions == greedy) | (mixed.actions == 5)).all()
    differs = greedy != 5
    share = (mixed.actions == greedy)[differs].mean()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / differs.sum())


def test_a_share_of_actions_is_random_whoever_acts():
    actions = a_round(0.0, stubborn, epsilon=0.5, steps=150).actions
    assert abs((actions != 5).mean() - 0.5 * 5 / 6) < 4 * math.sqrt(0.25 / actions.size)


def test_play_goes_on_from_round_to_round_and_episodes_begin_anew():
    player = FrozenPlayer(teacher_of(), 2, 30, SHORT, False, (0,), 1)
    first, second = player.play(None, 1.0), player.play(None, 1.0)
    assert torch.equal(second.states[0, :, :3], first.states[-1, :, 1:])
    assert first.ended.sum() == 0
    assert second.ended.any(0).all()
    step, game = np.argwhere(second.ended)[0]
    assert not second.states[step + 1, game, :3].any()


def test_fire_is_pressed_after_a_lost_life_and_not_where_an_episode_begins_with_fewer(monkeypatch):
    counted = []

    def press(self, actions, lives, press=Lives.press):
        counted.append(lives + 5 * (len(counted) < 50))  # as if some had been won in the first episode
        return press(self, actions, counted[-1])

    monkeypatch.setattr(Lives, "press", press)
    player = FrozenPlayer(teacher_of("breakout"), 2, 100, SHORT, True, (0,), 1)
    part = player.play(lambda states: torch.eye(4)[0].expand(len(states), 4), 0.0)
    assert np.flatnonzero(part.ended.any(1)).tolist() == [49, 99]
    fewer = np.diff(counted, axis=0) < 0
    assert fewer[49].all()
    fewer[49] = False
    assert fewer.any()
    assert np.array_equal(part.actions, np.concatenate([[[0, 0]], fewer]))


def test_shares_of_the_teacher_and_of_chance_go_linearly_from_first_to_last():
    lessons = Lessons(epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=1600)
    knobs = settings(beta=1.0, beta_end=0.2, beta_steps=1600, lessons=lessons)
    for share in (knobs.beta_at, knobs.epsilon):
        assert [share(rounds, 1) for rounds in (0, 20, 40, 80)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
        assert share(10, 2) == pytest.approx(0.6)
    assert settings(beta=0.3, beta_end=0.3).beta_at(7, 1) == 0.3


# ------------------------------------------------------------------------------------------------------------- knobs


def settings(**other):
    values = {
        "games": ("pong",), "learn": False, "beta": 1.0, "beta_end": 1.0, "beta_steps": 0, "batch_size": 32,
        "fresh": 0.25, "memory": 400, "prefill": 80, "parallel": 4, "steps": 10, "updates": 100, "protocol": "paper",
        "seed": 0, "lessons": Lessons(),
    }  # fmt: skip
    return Knobs(**{**values, **other})


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("fresh", [0.05, 0.25, 3.0])
def test_so_many_states_are_fresh_as_were_asked_for(ranks, fresh):
    knobs = settings(fresh=fresh)
    for update in (0, 1, 10, 99):
        rounds = knobs.rounds_due(update, ranks) - knobs.prefill_rounds(ranks)
        lack = update * 32 * fresh - rounds * 40 * ranks
        assert 0 <= lack < 40 * ranks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.5}, r"beta is 1\.5: choose --data\.beta from 0"),
        ({"beta_end": -0.1}, r"beta_end is -0\.1"),
        ({"beta": math.nan}, "beta is nan"),
        ({"learn": True, "beta": 0.5}, r"beta is 0\.5 to 0\.5, but a teacher that learns .*--data\.learn false"),
        ({"fresh": 0.0}, r"fresh is 0\.0: choose --data\.fresh above 0"),
        ({"memory": 0}, r"memory is 0: choose --data\.memory of at least 1"),
        ({"memory": 10, "prefill": 20}, r"prefill is 20: at most --data\.memory, 10"),
        ({"memory": 10**12}, r"memory is 1,000,000,000,000 states of 1 games: .* GiB are free; choose --data\.memory"),
        ({"parallel": -1}, r"parallel is -1"),
        ({"games": []}, "games is \\[\\]: name at least one"),
        ({"games": ["pnog"]}, r"unknown game 'pnog': did you mean pong"),
        ({"protocol": "none"}, "unknown protocol 'none'"),
        ({"learn": True, "steps": 3, "parallel": 3}, r"3 games x 3 steps do not divide into 8 minibatches"),
        (
            {"learn": True, "lessons": Lessons(minibatches=0)},
            r"minibatches is 0: choose --data\.lessons\.minibatches of",
        ),
        ({"learn": True, "lessons": Lessons(trace=1.5)}, r"trace is 1\.5: choose --data\.lessons\.trace from 0 to 1"),
        ({"learn": True, "lessons": Lessons(learning_rate=0.0)}, r"learning_rate is 0\.0: .* above 0"),
        ({"learn": True, "teachers": {"pong": "x"}}, r"teachers is .*, but a teacher that learns begins anew"),
        ({"memory": 1, "prefill": 1, "parallel": 10**6}, r"memory is 16,000,000 states, two rounds,.* and fewer"),
        ({"root": "s3://bucket/data"}, "root is s3://bucket/data: live play reads teachers from folders"),
        ({"teachers": {"breakout": "x"}}, "teachers has breakout, which is not among the games, pong"),
        ({"root": "nowhere"}, r"nowhere/pong/teacher\.safetensors: there is no such file"),
    ],
)
def test_knobs_that_make_no_sense_are_refused_before_anything_runs(options, message):
    with pytest.raises(ValueError, match=message):
        LiveTeacher(**options)


def test_a_teacher_of_another_game_is_refused(teachers):
    with pytest.raises(ValueError, match="game is 'breakout', asked for was 'pong'"):
        LiveTeacher(teachers={"pong": str(teachers["breakout"])})


def test_a_batch_that_the_devices_cannot_share_is_refused(teachers):
    data = live(teachers, batch_size=33)
    data.trainer = SimpleNamespace(world_size=2)  # pyright: ignore
    with pytest.raises(ValueError, match="batch_size is 33: it must be a multiple of the number of devices, 2"):
        data.setup("fit")


# ------------------------------------------------------------------------------------------------------------- chance


def stages():
    """Of two games, in each of which ten steps were played: as they are, with another seed, in another process."""
    for rank, seed in ((0, 0), (0, 1), (1, 0)):
        knobs = settings(games=("pong", "breakout"), parallel=2, seed=seed)
        teachers = {game: teacher_of(game) for game in knobs.games}
        place = Place(rank, 2, torch.device("cpu"), nullcontext)
        stage = Stage(knobs, place, teachers, dict.fromkeys(teachers, False), {})
        for memory in stage.memories.values():
            memory.steps = 10
        yield stage


def test_a_state_is_at_most_once_in_a_batch_and_each_batch_is_drawn_anew(monkeypatch):
    drawn = []
    monkeypatch.setattr(Memory, "batch", lambda self, chosen: drawn.append(tuple(chosen)))
    for stage in stages():
        for update in (0, 1):
            for number, game in enumerate(stage.knobs.games):
                stage._batch(game, number, update)
    assert {len(set(chosen)) for chosen in drawn} == {16}  # of 20
    assert len(set(drawn)) == len(drawn) == 3 * 2 * 2


def test_games_seeds_and_processes_are_played_from_seeds_of_their_own(monkeypatch):
    keys = []
    monkeypatch.setattr(FrozenPlayer, "__init__", lambda self, *given: keys.append(given[5]))
    for stage in stages():
        stage._start()
    assert len(set(keys)) == len(keys) == 3 * 2


# -------------------------------------------------------------------------------------------------------------- runs


def live(teachers, **other):
    options = {"batch_size": 16, "fresh": 0.5, "memory": 200, "prefill": 40, "parallel": 4, "steps": 5, "updates": 100}
    if not other.get("learn"):
        options["teachers"] = {game: str(teachers[game]) for game in other.get("games", ["pong"])}
    return LiveTeacher(**{**options, **other})


def stage_of(data):
    assert data.stage is not None
    return data.stage


def student(data, **other):
    torch.manual_seed(0)
    usual = {"warmup": 2, "temperature": 0.01}
    return PolicyDistillation(data.actions, "net3", **{**usual, **other})


def run(data, updates=8, module=None, **options):
    module = module or student(data)
    quiet_trainer(max_epochs=-1, max_steps=updates, log_every_n_steps=1, **options).fit(module, datamodule=data)
    return module


LEARNING = {"learn": True, "parallel": 4, "steps": 8, "lessons": Lessons(minibatches=2, warm_up=2)}
WAYS = {
    "the teacher acts": {},
    "the student acts": {"beta": 0.0},
    "both act": {"beta_end": 0.0, "beta_steps": 200},
    "the teacher learns": LEARNING,
    "two games": {"games": ["pong", "breakout"], "beta": 0.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_learns_from_so_many_rounds_as_are_due_and_the_same_ones_again(teachers, way, monkeypatch):
    seen = []
    step = PolicyDistillation.training_step
    monkeypatch.setattr(PolicyDistillation, "training_step", lambda self, *a: seen.append(a[0]) or step(self, *a))
    data = live(teachers, **WAYS[way])
    first = run(data)
    assert stage_of(data).rounds == data.knobs.rounds_due(7, 1)
    assert {game: len(part.states) for game, part in seen[0].items()} == dict.fromkeys(data.knobs.games, 16)
    again = run(live(teachers, **WAYS[way]))
    for a, b in zip(seen[:8], seen[8:], strict=True):
        for game in data.knobs.games:
            assert torch.equal(a[game].states, b[game].states)
            assert torch.equal(a[game].teacher_q, b[game].teacher_q)
    for name, value in first.student.state_dict().items():
        assert torch.equal(value, again.student.state_dict()[name])


def test_a_student_that_follows_comes_nearer(teachers):
    far = []
    for updates in (1, 40):
        data = live(teachers, batch_size=64, memory=2000, prefill=400)
        module = run(data, updates)
        states, q = stage_of(data).memories["pong"].newest(500)
        far.append(float(kl(module(states)["pong"], q)))
    assert far[1] < 0.7 * far[0]


def test_automatic_temperature_is_of_whole_episodes_and_not_of_a_teacher_that_knows_nothing(teachers, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    data = live(teachers, protocol="short")
    module = run(data, 1, student(data, temperature="auto"))
    q = data.teacher_q("pong")
    assert q.shape == (4 * SHORT.frame_limit // 4, 6)
    assert module.temperature("pong") == calibrate(q, 2.0, "pong")
    data = live(teachers, **LEARNING)
    with pytest.raises(ValueError, match=r"temperature is auto, but the teacher is only beginning to learn"):
        run(data, 1, student(data, temperature="auto"))


# ------------------------------------------------------------------------------------------------ a teacher that learns


def learner_of(**lessons):
    learner = Learner("pong", 6, Lessons(**{"minibatches": 2, "warm_up": 2, **lessons}), 10, 0, "cpu")
    learner.network.centre("pong", torch.full((84, 84), 90.0), 30.0)
    return learner


def test_a_learning_teacher_makes_pqns_updates_and_hands_over_what_it_thought_while_it_played():
    learner, other = learner_of(), learner_of()
    player = LearningPlayer(learner, 2, 6, False, (0,), 1, nullcontext)
    player.epsilon = 0.3
    part = player.play(None, 1.0)

    games = Games("pong", 2, 6, 0.99, 0.65, False, (LIVE_SEEDS, 0), 1)
    found = games.play(other.policy(nullcontext), 0.3)
    assert torch.equal(part.q, found.outputs)
    assert torch.equal(part.states.flatten(0, 1), found.learned.states)
    order = np.random.default_rng([LIVE_SEEDS, 0, 1])
    for _ in range(2):
        for rows in np.array_split(order.permutation(12), 2):
            other.optimizer.zero_grad()
            squared_error(other.network, type(found.learned)(*(x[rows] for x in found.learned))).backward()
            torch.nn.utils.clip_grad_norm_(other.network.parameters(), 10.0)
            other.optimizer.step()
            other.schedule.step()
    for name, value in learner.network.state_dict().items():
        torch.testing.assert_close(value, other.network.state_dict()[name], rtol=1e-4, atol=1e-6)
    assert learner.schedule.last_epoch == 4


def round_of(learner, group=None):
    LearningPlayer(learner, 1, 4, False, (0,), 1, nullcontext, group).play(None, 1.0)


def same(one, other):
    return all(torch.equal(value, other.network.state_dict()[name]) for name, value in one.network.state_dict().items())


def test_a_restored_learner_makes_the_updates_that_the_saved_one_would_have_made():
    saved, restored = learner_of(), learner_of()
    round_of(saved)
    restored.load_state_dict(copy.deepcopy(saved.state_dict()))
    for learner in (saved, restored):
        round_of(learner)
    assert same(saved, restored)


def test_teachers_of_several_processes_learn_from_the_mean_of_their_gradients(monkeypatch):
    alone, shared = learner_of(), learner_of()
    round_of(alone)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda gradient, group: gradient.mul_(2))  # of two alike
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    round_of(shared, group="both")
    assert same(alone, shared)


def test_each_round_of_a_learning_teacher_has_the_share_of_chance_that_is_due(monkeypatch):
    shares = []
    play = Games.play
    monkeypatch.setattr(Games, "play", lambda self, policy, share: shares.append(share) or play(self, policy, share))
    knobs = settings(learn=True, parallel=1, steps=4)
    stage = Stage(knobs, Place(0, 1, torch.device("cpu"), nullcontext), {"pong": learner_of()}, {"pong": False}, {})
    for _ in range(3):
        stage.play_one()
    assert shares == [knobs.epsilon(rounds, 1) for rounds in range(3)]
    assert len(set(shares)) == 3


SCORE: Any = {"pong": SimpleNamespace(mean=3.0, protocol="paper", fire=False)}


def test_a_learning_teacher_is_scored_each_time_and_a_frozen_one_once(teachers):
    data = live(teachers)
    run(data, 1)
    assert list(data.unscored_teachers("paper")) == ["pong"]
    data.note_scores(SCORE)
    assert data.unscored_teachers("paper") == {}
    assert data.teacher_returns("paper") == {"pong": 3.0}
    assert list(data.unscored_teachers("nature")) == ["pong"]  # a score by other rules is another score
    assert data.teacher_returns("nature") == data.teacher_returns("paper", fire=True) == {}
    data = live(teachers, **LEARNING)
    run(data, 1)
    data.note_scores(SCORE)
    assert list(data.unscored_teachers("paper")) == ["pong"]


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_with_memory_and_teacher_as_they_were(teachers, tmp_path, way, monkeypatch):
    taken = []
    take = Stage._take
    monkeypatch.setattr(Stage, "_take", lambda self, played: taken.append(played) or take(self, played))
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    run(live(teachers, **WAYS[way]), 5, enable_checkpointing=True, callbacks=[saved])
    checkpoint = torch.load(tmp_path / "epoch=0-step=5.ckpt", weights_only=True)
    state = checkpoint["LiveTeacher"]["stage"]
    data = live(teachers, **WAYS[way])
    loaded = {}
    load = data.load_state_dict

    def watch(state_dict):
        load(state_dict)
        taken.clear()
        loaded.update(
            rounds=stage_of(data).rounds,
            memories={game: memory.state_dict() for game, memory in stage_of(data).memories.items()},
            learners={game: {n: v.clone() for n, v in each.network.state_dict().items()}
                      for game, each in data.learners.items()},
            rates={game: each.schedule.last_epoch for game, each in data.learners.items()},
        )  # fmt: skip

    data.load_state_dict = watch
    module = student(data)
    trainer = quiet_trainer(max_epochs=-1, max_steps=9)
    trainer.fit(module, datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=5.ckpt"))
    assert trainer.global_step == 9
    assert loaded["rounds"] == state["rounds"]
    for game, memory in state["processes"][0]["memories"].items():
        for name in ("steps", "frames", "shown", "q"):
            assert torch.equal(torch.as_tensor(loaded["memories"][game][name]), torch.as_tensor(memory[name]))
    for game, learner in state["learners"].items():
        assert loaded["rates"][game] == learner["schedule"]["last_epoch"] > 0
        for name, value in learner["network"].items():
            assert torch.equal(loaded["learners"][game][name], value)
    for game, ahead in state["processes"][0]["ahead"].items():  # the first round that it takes was played before
        assert torch.equal(taken[0][game].states, unpack(ahead["states"], taken[0][game].states.shape))
        assert torch.equal(taken[0][game].q, ahead["q"])
    assert stage_of(data).rounds == data.knobs.rounds_due(8, 1)


def test_a_resumed_run_does_not_score_a_frozen_teacher_again(teachers, tmp_path):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=2)
    data = live(teachers)
    data.note_scores(SCORE)
    run(data, 2, enable_checkpointing=True, callbacks=[saved])
    data = live(teachers)
    trainer = quiet_trainer(max_epochs=-1, max_steps=3)
    trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=2.ckpt"))
    assert data.unscored_teachers("paper") == {}
    assert data.teacher_returns("paper") == {"pong": 3.0}


def test_a_checkpoint_holds_what_was_played_once(teachers, tmp_path):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    run(live(teachers), 5, enable_checkpointing=True, callbacks=[saved])
    checkpoint = torch.load(tmp_path / "epoch=0-step=5.ckpt", weights_only=True)
    assert "stage" in checkpoint["LiveTeacher"]
    assert not checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader")


def test_a_student_that_has_learned_from_a_recording_may_go_on_with_live_play(
    datasets, teachers, tmp_path, monkeypatch
):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    recorded = TeacherDatasets(str(datasets), ["pong"], batch_size=16)
    run(recorded, 5, enable_checkpointing=True, callbacks=[saved], limit_val_batches=0)
    for updates, file in ((13, "epoch=0-step=5.ckpt"), (17, "epoch=0-step=13.ckpt")):
        data = live(teachers, beta=0.0)
        trainer = quiet_trainer(max_epochs=-1, max_steps=updates, enable_checkpointing=True, callbacks=[
            ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=updates)])  # fmt: skip
        trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / file))
        assert stage_of(data).rounds == data.knobs.rounds_due(updates - 5 - 1, 1)  # of this play's updates
    trainer = quiet_trainer(max_epochs=-1, max_steps=19, limit_val_batches=0)  # and back
    trainer.fit(student(recorded), datamodule=recorded, ckpt_path=str(tmp_path / "epoch=0-step=13.ckpt"))


def test_a_second_student_is_played_for_anew(teachers):
    data = live(teachers, beta=0.0)
    run(data)
    first = stage_of(data)
    run(data)
    assert stage_of(data) is not first
    assert stage_of(data).rounds == data.knobs.rounds_due(7, 1)


@pytest.mark.parametrize("way", ["both act", "the teacher learns"])
def test_precisions_that_are_the_usual_type_of_all_threads_meanwhile_play_in_float32(teachers, way):
    data = live(teachers, **WAYS[way])
    run(data, 20, precision="bf16-true", module=student(data, temperature=0.01))
    assert torch.get_default_dtype() == torch.float32
    assert stage_of(data).memories["pong"].newest(9).teacher_q.dtype == torch.float32


def test_a_checkpoint_of_other_settings_is_refused(teachers, tmp_path):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=2)
    run(live(teachers), 2, enable_checkpointing=True, callbacks=[saved])
    data = live(teachers, beta=0.5)
    trainer = quiet_trainer(max_epochs=-1, max_steps=4)
    with pytest.raises(ValueError, match=r"cannot resume: beta was 1\.0 in the checkpoint and is 0\.5 now"):
        trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=2.ckpt"))


def test_a_checkpoint_of_another_teacher_is_refused(teachers, tmp_path):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=2)
    run(live(teachers), 2, enable_checkpointing=True, callbacks=[saved])
    other = save_teacher(tiny_network("pong", seed=1), tmp_path / "other.safetensors", {})
    trainer = quiet_trainer(max_epochs=-1, max_steps=4)
    data = live({"pong": other})
    with pytest.raises(ValueError, match=r"cannot resume: teachers was .*untrained .* and is .*other .*now"):
        trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=2.ckpt"))


@pytest.mark.parametrize("way", ["the teacher acts", "the teacher learns"])
def test_the_round_that_was_played_ahead_is_in_the_last_checkpoint_too(teachers, way):
    data = live(teachers, **WAYS[way])
    run(data)
    state = data.state_dict()["stage"]
    ahead = unpack(state["processes"][0]["ahead"]["pong"]["states"], (data.knobs.steps, 4, 4, 84, 84))
    assert ahead[:, :, -1].any(dim=(2, 3)).all()  # no frame of Pong is black
    if way == "the teacher learns":  # from every round that memory or the checkpoint holds, and no other
        updates = state["learners"]["pong"]["schedule"]["last_epoch"]
        assert updates == (state["rounds"] + 1) * data.knobs.lessons.passes * data.knobs.lessons.minibatches


def test_a_teachers_learning_rate_falls_over_all_batches_of_which_several_may_be_one_update():
    trainer: Any = SimpleNamespace(max_steps=10, max_epochs=-1, accumulate_grad_batches=3)
    assert total_updates(trainer, 100) == 30
    trainer.max_epochs = 1
    assert total_updates(trainer, 20) == 20


# ---------------------------------------------------------------------------------------------------- the command line

SMALL = ["--data.batch_size=16", "--data.memory=200", "--data.prefill=40", "--data.parallel=4", "--data.steps=8",
         "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--model.size=net3", "--model.warmup=2",
         "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--rollouts.episodes=1",
         "--data.lessons.minibatches=2", "--rollouts.at_start=false", "--film.enabled=false",
         "--checkpoint.every_n_train_steps=2"]  # fmt: skip
PRESET = {name: f"--config={PRESETS / name}.yaml" for name in ("on_policy", "online")}


def test_killed_by_force_a_run_goes_on_and_teacher_and_student_are_scored_side_by_side(tmp_path):
    words = ["fit", PRESET["online"], *SMALL, "--rollouts.episodes=2"]
    run = Run(tmp_path / "run", *words, "--trainer.max_steps=100000", "--rollouts.every_n_updates=0")
    run.until("lightning_logs/version_0/checkpoints/last.ckpt")
    run.kill()
    last = tmp_path / "run/lightning_logs/version_0/checkpoints/last.ckpt"
    done = torch.load(last, weights_only=True)["global_step"]
    run = Run(tmp_path / "run", *words, f"--trainer.max_steps={done + 4}", f"--rollouts.every_n_updates={done + 2}",
              f"--ckpt_path={last}")  # fmt: skip
    status, output = run.end()
    assert status == 0, output
    folder = tmp_path / "run/lightning_logs/version_1"
    teacher = lines(folder / "teacher_returns.csv")
    for played in (lines(folder / "returns.csv"), teacher):
        assert [row["update"] for row in played] == [str(done + 2)] * 2 + [str(done + 4)] * 2
    assert output.count("pong, the teacher") == 2
    metrics = [row for row in lines(folder / "metrics.csv") if row.get("rollout/pong/teacher_return")]
    returns = [float(row["return"]) for row in teacher]
    assert float(metrics[0]["rollout/pong/teacher_return"]) == np.mean(returns[:2])
    assert float(metrics[0]["rollout/pong/teacher_return_std"]) == pytest.approx(np.std(returns[:2], ddof=1))
    left = load_teacher(folder / "teacher.safetensors")
    assert left.game == "pong"
    assert int(left.about["steps"]) >= done  # it learned from no less than a state an update, before the kill too
    assert left.about["return"] == f"{np.mean(returns[2:]):.2f}"


def test_bad_knobs_are_one_line_on_the_command_line(teachers, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    words = ["fit", PRESET["on_policy"], f"--data.teachers={{pong: {teachers['pong']}}}"]
    for option, message in (("--data.beta=2", "beta is 2.0"), ("--data.games=[breakout]", "teachers has pong"),
                            ("--data.memory=10000000000", "GiB are free")):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            main([*words, option])
        error = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert error[-1].startswith("error: ")
        assert message in error[-1]


def test_a_test_of_a_live_student_is_played(teachers, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    words = [PRESET["on_policy"], f"--data.teachers={{pong: {teachers['pong']}}}", *SMALL, "--model.temperature=0.01",
             "--rollouts.protocol=short", f"--trainer.default_root_dir={tmp_path}"]  # fmt: skip
    main(["fit", *words, "--trainer.max_steps=2"])
    words = [word for word in words if "minibatches" not in word]
    main(["test", *words, "--ckpt_path=last", "--rollouts.episodes=3"])
    assert len(lines(tmp_path / "lightning_logs/version_1/returns.csv")) == 3
    assert len(lines(tmp_path / "lightning_logs/version_1/teacher_returns.csv")) == 3


def test_what_asks_for_held_out_states_is_told_that_live_play_has_none(teachers, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    data = live(teachers)
    quiet = quiet_trainer(max_steps=1, max_epochs=-1)
    quiet.fit(student(data), datamodule=data)
    quiet.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "pd_lightning.distillation.PolicyDistillation"
    torch.save(checkpoint, tmp_path / "last.ckpt")  # as the command line saves it
    with pytest.raises(SystemExit):
        main(["validate", PRESET["on_policy"], f"--data.teachers={{pong: {teachers['pong']}}}", "--model.size=net3",
              f"--ckpt_path={tmp_path / 'last.ckpt'}"])  # fmt: skip
    assert "error: validate asks for held-out states, and LiveTeacher has none: score" in capsys.readouterr().err


WITNESS = """
import hashlib, json
from pytorch_lightning import Callback

class Witness(Callback):
    def on_train_end(self, trainer, pl_module):
        data = trainer.datamodule
        def digest(values):
            sha = hashlib.sha256()
            for value in values:
                sha.update(value.cpu().numpy().tobytes())
            return sha.hexdigest()
        states, q = data.stage.memories["pong"].newest(10**6)
        with open(f"rank{trainer.global_rank}.json", "w") as file:
            json.dump({"student": digest(pl_module.student.state_dict().values()), "states": digest([states]),
                       "kept": len(states), "rounds": data.stage.rounds,
                       "teacher": digest(data.learners["pong"].network.state_dict().values())}, file)
"""


def test_each_of_two_processes_plays_its_own_games_and_they_share_student_and_teacher(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "witness.py").write_text(WITNESS)
    words = ["fit", PRESET["online"], *SMALL, "--trainer.max_steps=6", "--trainer.devices=2", "--trainer.strategy=ddp"]
    words += ["--trainer.callbacks+=witness.Witness", "--data.memory=512", "--rollouts.every_n_updates=0"]
    statuses, output = torchrun(folder, *words)
    assert statuses == (0, 0), output
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2))
    for key in ("student", "teacher", "rounds"):
        assert first[key] == second[key]
    assert first["states"] != second["states"]
    assert first["kept"] == second["kept"] <= 256


# ----------------------------------------------------------------------------------------------------------- recording


@pytest.mark.parametrize("beta", [1.0, 0.0, 0.5])
def test_what_was_played_is_written_in_whole_episodes(teachers, tmp_path, monkeypatch, beta):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    monkeypatch.setattr(recorder, "STEPS_PER_HOUR", 300)
    data = live(teachers, protocol="short", record_to=str(tmp_path), beta=beta, steps=10, fresh=4.0)
    seen = []
    monkeypatch.setattr(Recorder, "add", lambda self, part, add=Recorder.add: seen.append(part) or add(self, part))
    run(data, 13)
    shards = [Shard(path) for path in sorted((tmp_path / "pong").glob("*.h5"))]
    assert len(shards) >= 2
    assert {shard.header.player for shard in shards} == {"both"}
    q, actions, rewards, ended = (np.concatenate([np.asarray(getattr(p, name)) for p in seen])
                                  for name in ("q", "actions", "rewards", "ended"))  # fmt: skip
    states = np.concatenate([p.states.numpy() for p in seen])
    episodes = []  # of the play, in the order of their ends
    begun = [0] * 4
    for step, game in np.argwhere(ended):
        episodes.append((slice(begun[game], step + 1), game))
        begun[game] = step + 1
    written = [(shard, number) for shard in shards for number in range(len(shard.returns))]
    assert len(written) == len(episodes) >= 8
    for (shard, number), (steps, game) in zip(written, episodes, strict=True):
        blocks = np.flatnonzero(shard.episodes == number).tolist()
        assert np.array_equal(np.concatenate([shard.states(block) for block in blocks]), states[steps, game])
        for name, played in (("q_values", q), ("actions", actions), ("rewards", rewards)):
            found = np.concatenate([getattr(shard, name)[block, : shard.lengths[block]] for block in blocks])
            assert np.array_equal(found, played[steps, game])
        assert shard.returns[number] == rewards[steps, game].sum()


def test_what_is_played_before_a_checkpoint_is_loaded_is_not_recorded_again(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    monkeypatch.setattr(recorder, "STEPS_PER_HOUR", 300)
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    long = {"protocol": "short", "record_to": str(tmp_path), "prefill": 600, "memory": 600}
    run(live(teachers, **long), 5, enable_checkpointing=True, callbacks=[saved])
    before = {path.name for path in (tmp_path / "pong").iterdir()}
    data = live(teachers, **long)
    trainer = quiet_trainer(max_epochs=-1, max_steps=30)
    trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=5.ckpt"))
    shards = [Shard(path) for path in sorted((tmp_path / "pong").iterdir())]
    assert len(before) < len(shards)
    first = [shard.states(0).tobytes() for shard in shards]
    assert len(set(first)) == len(first)


def test_a_resumed_run_records_no_episode_that_began_before(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    run(live(teachers, protocol="short"), 5, enable_checkpointing=True, callbacks=[saved])
    data = live(teachers, protocol="short", record_to=str(tmp_path), fresh=0.5)
    trainer = quiet_trainer(max_epochs=-1, max_steps=40)
    trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=5.ckpt"))
    shard = Shard(tmp_path / "pong/0000.h5")
    lengths = np.bincount(shard.episodes, weights=shard.lengths)
    assert lengths.tolist() == [50] * len(
        lengths
    )  # the first states, played anew before the checkpoint is read, are 10
    assert len(lengths) >= 4


def test_what_was_recorded_is_written_when_a_run_is_interrupted(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    data = live(teachers, protocol="short", record_to=str(tmp_path), steps=10, fresh=4.0)
    module = student(data)
    step = module.training_step

    def interrupted(batch, batch_idx):
        if batch_idx == 8:
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    module.training_step = interrupted
    with pytest.raises(SystemExit):
        run(data, 13, module)
    assert len(Shard(tmp_path / "pong/0000.h5").returns) >= 4


def test_a_recording_with_the_same_settings_does_not_take_a_live_shard_for_an_hour_of_its_own(
    teachers, tmp_path, monkeypatch
):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    run(live(teachers, protocol="short", record_to=str(tmp_path), steps=10, fresh=4.0), 8)
    header = Shard(tmp_path / "pong/0000.h5").header
    assert header.steps_goal == len(Shard(tmp_path / "pong/0000.h5"))
    with pytest.raises(ShardError, match="steps_goal is"):
        check_same(tmp_path / "pong/0000.h5", header, replace(header, steps_goal=54_000))


def test_a_live_recording_distils_but_its_returns_are_nobodys_score(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    for number, beta in enumerate((1.0, 0.0)):  # whoever acts: what was not over when play ended is left out
        run(live(teachers, protocol="short", record_to=str(tmp_path), beta=beta, steps=10, fresh=4.0), 8)
        assert [path.name for path in sorted((tmp_path / "pong").iterdir())] == ["0000.h5", "0001.h5"][: number + 1]
        data = TeacherDatasets(str(tmp_path), batch_size=32, validation=0)
        run(data, 2)
        assert data.teacher_returns("short") == {}


def test_two_runs_that_record_into_one_folder_do_not_stop_each_other(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    both = [live(teachers, protocol="short", record_to=str(tmp_path), steps=10, fresh=4.0, seed=n) for n in (0, 1)]
    recorders = [Recorder(tmp_path / "pong", header_of(each.frozen["pong"], SHORT, 4, 0, False)) for each in both]
    for mine in recorders:
        mine.add(FrozenPlayer(both[0].frozen["pong"], 4, 60, SHORT, False, (0,), 1).play(None, 1.0))
    assert [path.name for path in map(Recorder.flush, recorders) if path] == ["0000.h5", "0001.h5"]


def test_two_processes_that_record_never_take_one_number_whatever_is_there(teachers, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "_write", lambda self: (self.folder / shard_name(self._number)).touch(exist_ok=False))
    for there in range(5):
        folder = tmp_path / str(there)
        folder.mkdir()
        (folder / shard_name(there)).touch()
        recorders = []
        for rank in range(2):  # the second looks when the first has written
            recorders.append(Recorder(folder, short_play("pong", teachers["pong"]), rank, 2))
            for each in recorders * 3:
                each._done = [Episode()]
                each.flush()
        shards = sorted(path.name for path in folder.iterdir())
        assert len(shards) == 1 + 6 + 3
        assert shards[0] == shard_name(there)  # they lie behind it


def test_a_folder_that_cannot_be_made_is_named(teachers, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match=r"file/pong: Not a directory; choose another --data\.record_to"):
        run(live(teachers, record_to=str(tmp_path / "file")), 1)


def test_a_teacher_that_learns_is_not_recorded(tmp_path):
    with pytest.raises(ValueError, match=r"record_to is .*, but a teacher that learns sees clipped rewards"):
        LiveTeacher(learn=True, record_to=str(tmp_path))


def test_a_live_teacher_learns_as_the_preset_teaches():
    preset = yaml.safe_load((PRESETS / "teacher.yaml").read_text())
    usual = {
        name: parameter.default
        for room in (PQN, ParallelPlay)
        for name, parameter in inspect.signature(room).parameters.items()
    }
    usual |= preset["model"]["init_args"] | {"gradient_clip": preset["trainer"]["gradient_clip_val"]}
    lessons = asdict(Lessons())
    assert {name: usual[name] for name in lessons} == lessons
