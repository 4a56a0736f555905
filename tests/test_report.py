"""Tables are recomputed from the runs' own episodes."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from pd_lightning.report import ReportError, read_run, scores_table


def write_run(folder: Path, seed: int, loss: str, rows: list[tuple[int, float]]) -> Path:
    folder.mkdir(parents=True)
    settings = {"size": "net1", "loss": loss, "temperature": 0.01}
    model = {"class_path": "pd_lightning.distillation.PolicyDistillation", "init_args": settings}
    config = {"seed_everything": seed, "model": model, "rollouts": {"protocol": "paper"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [f"{update},pong,{i},{value},900,{i}" for i, (update, value) in enumerate(rows)]
    (folder / "returns.csv").write_text("\n".join(["update,game,episode,return,steps,seed", *lines]))
    return folder


def test_a_run_is_scored_by_its_last_rollout_alone(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", 3, "kl", [(0, -21.0), (100, 15.0), (100, 17.0)]))
    assert (run.seed, run.labels, run.updates) == (3, ("net1", "kl, τ = 0.01"), 100)
    np.testing.assert_array_equal(run.returns["pong"], [15.0, 17.0])


def test_runs_that_differ_in_the_seed_are_one_row_with_the_interval_over_runs(tmp_path: Path) -> None:
    episodes = {1: [18.0, 20.0, 16.0], 0: [12.0, 14.0, 13.0], 2: [15.0, 15.0, 18.0]}
    runs = [
        read_run(write_run(tmp_path / str(seed), seed, "kl", [(100, v) for v in values]))
        for seed, values in episodes.items()
    ]
    runs.append(read_run(write_run(tmp_path / "other", 0, "mse", [(100, 1.0), (100, 2.0)])))
    table = scores_table(runs, {("pong", "paper"): 20.0}).splitlines()
    means = np.array([13.0, 18.0, 16.0])
    half = stats.sem(means) * stats.t.ppf(0.975, 2)
    assert table[2] == (
        f"| pong | net1 | kl, τ = 0.01 | paper | 100 | 3 x 3 | 13.0, 18.0, 16.0 | {means.mean():.2f} ± {half:.2f} "
        f"| {100 * means.mean() / 20:.1f}% |"
    )
    assert table[3].startswith("| pong | net1 | mse | paper | 100 | 1 x 2 | 1.5 | 1.50 ± ")


def test_a_teacher_of_another_protocol_is_not_compared_with(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", 0, "kl", [(1, 5.0), (1, 6.0)]))
    assert scores_table([run], {("pong", "machado"): 20.0}).endswith("| - |")


def test_a_teacher_without_a_positive_score_has_no_percentage(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", 0, "kl", [(1, -5.0), (1, -6.0)]))
    assert scores_table([run], {("pong", "paper"): -16.0}).endswith("| - |")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda run: (run / "returns.csv").unlink(), "has no returns.csv"),
        (lambda run: (run / "config.yaml").write_text("model: {}"), "lacks or garbles"),
        (lambda run: (run / "returns.csv").write_text("update,game,episode,return,steps,seed\n"), "has no episodes"),
        (lambda run: (run / "returns.csv").write_text("update,game,return\nx,pong,1\n"), "lacks or garbles"),
    ],
)
def test_a_broken_run_is_named_with_what_is_wrong(tmp_path: Path, damage, complaint: str) -> None:
    folder = write_run(tmp_path / "broken", 0, "kl", [(1, 1.0)])
    damage(folder)
    with pytest.raises(ReportError, match=f"{folder}.*{complaint}"):
        read_run(folder)
