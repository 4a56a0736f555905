"""`python train.py fit`, as a user runs it: from end to end, killed and resumed, interrupted, and by two processes."""

import fcntl
import json
import os
import re
import signal
import zlib
from collections import Counter

import imageio.v3 as iio
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import quiet_trainer
from running import Run, lines, torchrun

from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.episodes import FIT_SEEDS, episode_seeds

UPDATES = 24
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
EXACT = ["--trainer.precision=32-true", "--trainer.accelerator=cpu", "--model.size=net3", "--model.warmup=4"]
DATA = ["--data.batch_size=64", "--data.validation=0.25", "--data.threads=1"]
SCORES = ["--rollouts.episodes=1", "--rollouts.at_start=false", "--film.steps=30"]
FIT = ["fit", *DATA, *EXACT, *QUIET, *SCORES, f"--trainer.max_steps={UPDATES}", "--checkpoint.every_n_train_steps=3"]
# The game in the middle takes longer than all updates: there is time to kill the run before its end.
TIMES = ["--trainer.val_check_interval=6", "--trainer.log_every_n_steps=2", "--rollouts.every_n_updates=12"]


@pytest.fixture(scope="module")
def root(datasets):
    return f"--data.root={datasets}"


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """Folder and output of a run that nobody disturbed."""
    run = Run(tmp_path_factory.mktemp("whole"), *FIT, *TIMES, root)
    status, output = run.end()
    assert status == 0, output
    return run.folder, output


def checkpoint(folder, version=0):
    return torch.load(folder / f"lightning_logs/version_{version}/checkpoints/last.ckpt", weights_only=True)


def same(a, b):
    """Whether two trees of tensors and numbers are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_a_fit_leaves_its_configuration_curves_scores_checkpoints_and_film_in_its_folder(whole):
    folder, _ = whole
    (run,) = (folder / "lightning_logs").iterdir()
    assert run.name == "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == UPDATES
    assert config["model"]["init_args"]["size"] == "net3"
    metrics = lines(run / "metrics.csv")
    steps = {key: [int(line["step"]) for line in metrics if line[key]] for key in metrics[0]}
    assert steps["rollout/pong/return"] == [12, UPDATES]
    assert steps["val/pong/agreement"] == [5, 11, 17, 23]  # Lightning counts from 0; the last is the table's
    assert steps["train/pong/loss"] == steps["train/loss"] == steps["lr-Adam"] == list(range(1, UPDATES, 2))
    assert yaml.safe_load((run / "hparams.yaml").read_text()).items() >= {"size": "net3", "data/batch_size": 64}.items()
    assert steps["temperature/pong"] == [0]  # calibrated when it began
    assert float(metrics[0]["temperature/pong"]) == pytest.approx(checkpoint(folder)["temperatures"]["pong"])
    returns = lines(run / "returns.csv")
    assert [(line["update"], line["episode"]) for line in returns] == [("12", "0"), ("24", "0")]
    assert {(line["update"], line["game"]) for line in lines(run / "teacher_returns.csv")} == {("12", "pong")}
    assert checkpoint(folder)["global_step"] == UPDATES
    assert iio.imread(run / "pong.mp4", plugin="FFMPEG").shape == (30, 464, 320, 3)
    assert list(run.glob("events.out.tfevents.*"))


def test_a_fit_prints_a_table_and_where_everything_is(whole):
    folder, output = whole
    score = float(lines(folder / "lightning_logs/version_0/returns.csv")[-1]["return"])
    agreements = [line["val/pong/agreement"] for line in lines(folder / "lightning_logs/version_0/metrics.csv")]
    agreement = float(next(filter(None, reversed(agreements))))
    assert re.search(r"net3, [\d,]+ parameters .*\n.*protocol paper, \d+ seconds", output, re.DOTALL)
    row = re.search(rf"^ pong .* {score:.1f} +1 .* {agreement:.3f} *$", output, re.MULTILINE)
    assert row, output
    for path in ("checkpoints/last.ckpt", "pong.mp4"):
        assert re.search(rf"^(checkpoint|film) +lightning_logs/version_0/{path}$", output, re.MULTILINE)
        assert (folder / "lightning_logs/version_0" / path).is_file()
    assert re.search(r"^logs +lightning_logs/version_0$", output, re.MULTILINE)


def test_a_fit_that_was_killed_ends_with_the_weights_of_one_that_was_not(whole, root, tmp_path):
    killed = Run(tmp_path, *FIT, *TIMES, root)
    killed.until("lightning_logs/version_0/checkpoints/last.ckpt")
    killed.kill()
    assert killed.process.exitcode == -signal.SIGKILL
    assert 0 < checkpoint(tmp_path)["global_step"] < UPDATES
    assert not (tmp_path / "lightning_logs/version_0/pong.mp4").exists()
    status, output = Run(tmp_path, *FIT, *TIMES, root, "--ckpt_path=last").end()
    assert status == 0, output
    expected, found = checkpoint(whole[0]), checkpoint(tmp_path, version=1)
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "TeacherDatasets"):
        assert same(expected[part], found[part]), part
    runs = whole[0] / "lightning_logs/version_0", tmp_path / "lightning_logs/version_1"
    assert lines(runs[0] / "returns.csv") == lines(runs[1] / "returns.csv")  # of updates 12 and 24, by the same weights


@pytest.mark.parametrize(("signum", "exit_status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_fit_at_once_and_leaves_what_can_be_resumed(signum, exit_status, root, tmp_path):
    run = Run(tmp_path, *FIT, root, "--trainer.max_steps=1000000", "--film.enabled=false")
    last = run.until("lightning_logs/version_0/checkpoints/last.ckpt")
    os.kill(run.pid, signum)
    status, output = run.end(timeout=60)  # a thread that hangs would keep the process
    assert status == exit_status  # never 0: whoever waits for it, such as a reproduction, would take it for ended
    said = " ".join(output.split())
    assert re.search(r"stopped after \d+ updates; the same command with --ckpt_path \S+/last\.ckpt goes on", said)
    assert "Traceback" not in output
    assert torch.load(last, weights_only=True)["global_step"] >= 3


WITNESS = '''
import hashlib, json, zlib
from pytorch_lightning.callbacks import Callback

class Witness(Callback):
    """Writes down what this rank has learned from, what it has logged, and with which weights it ended."""

    def __init__(self, save_at=0):
        self.seen, self.save_at, self.without_gradient = [], save_at, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append({
            game: [zlib.crc32(q.numpy().tobytes(), zlib.crc32(s.numpy().tobytes())) for s, q in zip(states, teacher_q)]
            for game, (states, teacher_q) in batch.items()
        })
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(f"at{self.save_at}.ckpt", weights_only=False)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        heads = pl_module.student.heads
        self.without_gradient.append([game for game in heads if heads[game].output.weight.grad is None])

    def teardown(self, trainer, pl_module, stage):
        if stage == "fit":
            digest = hashlib.sha256()
            for value in pl_module.state_dict().values():
                digest.update(value.cpu().numpy().tobytes())
            logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
            with open(f"rank{trainer.global_rank}.json", "w") as file:
                json.dump({"seen": self.seen, "without_gradient": self.without_gradient, "logged": logged,
                           "weights": digest.hexdigest()}, file)
'''


RANKS = ["--trainer.devices=2", "--trainer.strategy=ddp"]
GAMES = ["--data.games=[pong,breakout]", "--trainer.max_steps=8"]


@pytest.fixture(scope="module")
def data(datasets):
    return TeacherDatasets(str(datasets), ["pong", "breakout"], batch_size=64, validation=0.25, threads=1)


def one_process(*words):
    """Lightning starts the others."""
    status, output = Run(*words).end()
    return (status,), output


def witnesses(folder, root, *words, save_at=0, start=one_process):
    """The notes of all ranks of a run."""
    folder.mkdir(exist_ok=True)
    (folder / "witness.py").write_text(WITNESS)
    witness = ["--trainer.callbacks+=witness.Witness", f"--trainer.callbacks.save_at={save_at}"]
    statuses, output = start(folder, *FIT, root, *witness, *words)
    assert not any(statuses), output
    assert ("Starting with 2 processes" in output) == (RANKS[0] in words)
    return notes(folder)


def notes(folder):
    """What each rank wrote down."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank?.json"))]


def joined(ranks):
    """What all ranks together learned from, batch by batch: the same games, and each game's states in their order."""
    for batches in zip(*(rank["seen"] for rank in ranks), strict=True):
        assert {tuple(batch) for batch in batches} == {tuple(batches[0])}
        yield {game: [state for batch in batches for state in batch[game]] for game in batches[0]}


def expected_of(data, numbers, **settings):
    """The same as one stream of one process would give it."""
    one = TeacherDatasets(str(data.root), data.games, 64, validation=0.25, **settings)
    one.trainer = quiet_trainer()
    one.setup("fit")
    assert one.mixture is not None
    for number in numbers:
        yield {
            game: [
                zlib.crc32(q.tobytes(), zlib.crc32(s.tobytes())) for s, q in zip(*map(np.asarray, part), strict=True)
            ]
            for game, part in one.mixture.batch(number).items()
        }


@pytest.fixture(scope="module")
def two(root, tmp_path_factory):
    """Folder and the two ranks' notes of a run of 8 updates: one epoch of pong, four of breakout."""
    play = ["--rollouts.episodes=3", "--trainer.val_check_interval=4", "--checkpoint.monitor=rollout/pong/return"]
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        folder = tmp_path_factory.mktemp("two")
        return folder, witnesses(folder, root, *RANKS, *GAMES, *play)
    folder = tmp_path_factory.getbasetemp().parent / f"two-{run}"  # of all workers: it takes half a minute
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder, notes(folder) if (folder / "rank1.json").exists() else witnesses(
            folder, root, *RANKS, *GAMES, *play
        )


def test_with_two_processes_every_state_is_learned_from_once_per_epoch_over_both_ranks(two, data):
    seen = list(joined(two[1]))
    assert seen == list(expected_of(data, range(8)))
    for game, epochs in (("pong", 1), ("breakout", 4)):
        recorded = Counter()
        for shard, block in data.blocks[game].chosen:
            opened = data.shards[game][shard]
            for state, q in zip(opened.states(int(block)), opened.q_values[block], strict=False):
                recorded[zlib.crc32(q.tobytes(), zlib.crc32(state.tobytes()))] += epochs
        assert recorded.total() == epochs * {"pong": 450, "breakout": 120}[game]
        assert Counter(state for batch in seen for state in batch[game]) == recorded
        for first, second in zip(*(rank["seen"] for rank in two[1]), strict=True):
            assert abs(len(first[game]) - len(second[game])) <= 1  # each half of every batch


def test_a_run_of_one_game_a_batch_goes_on_with_another_number_of_processes_as_if_nothing_had_happened(
    root, data, tmp_path
):
    flowing = {"mixing": "one_game", "memory": 0.003}
    settings = [f"--data.{name}={value}" for name, value in flowing.items()]
    settings += [*GAMES, "--rollouts.every_n_updates=0", "--film.enabled=false"]
    expected = list(expected_of(data, range(8), **flowing))
    assert {tuple(batch) for batch in expected} == {("pong",), ("breakout",)}
    first = witnesses(tmp_path / "two", root, *RANKS, *settings, save_at=3, start=torchrun)
    assert list(joined(first)) == expected
    assert first[0]["weights"] == first[1]["weights"]
    for rank in first:  # a head that a batch does not train gets no gradient, so its optimizer leaves it alone
        assert rank["without_gradient"] == [[g for g in data.games if g not in batch] for batch in expected]
    alone = witnesses(tmp_path / "one", root, *settings, f"--ckpt_path={tmp_path}/two/at3.ckpt")
    assert list(joined(alone)) == expected[3:]


def test_two_processes_end_with_the_same_weights(two):
    first, second = (rank["weights"] for rank in two[1])
    assert first == second


def test_two_processes_play_each_episode_once_and_log_the_same_score(two):
    folder, ranks = two
    returns = lines(folder / "lightning_logs/version_0/returns.csv")
    played = [(line["game"], line["episode"]) for line in returns]
    assert played == [(game, episode) for game in ("pong", "breakout") for episode in "012"]
    alone = episode_seeds(3, int(episode_seeds(1, FIT_SEEDS, 0)[0])).tolist()  # in the order of one process
    assert [int(line["seed"]) for line in returns] == alone + alone
    for game in ("pong", "breakout"):
        mean = np.mean([float(line["return"]) for line in returns if line["game"] == game])
        for rank in ranks:
            assert rank["logged"][f"rollout/{game}/return"] == pytest.approx(mean)
    assert ranks[0]["logged"].keys() == ranks[1]["logged"].keys()


def test_two_processes_log_the_same_agreement_and_it_is_that_of_all_held_out_states(two, data):
    folder, ranks = two
    student = PolicyDistillation.load_from_checkpoint(
        folder / "lightning_logs/version_0/checkpoints/last.ckpt", map_location="cpu"
    )
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    expected = trainer.validate(student, datamodule=data, verbose=False)[0]
    for rank in ranks:
        assert {key: rank["logged"][key] for key in expected} == pytest.approx(expected, rel=1e-5)


def test_two_processes_leave_one_folder_with_all_that_a_single_process_leaves(two):
    (folder,) = (two[0] / "lightning_logs").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "returns.csv", "pong.mp4", "breakout.mp4", "checkpoints"} <= names
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert {"last.ckpt", "best.ckpt"} <= kept
    assert (two[0] / "output.txt").read_text().count("protocol paper, ") == 1
