"""Tables are recomputed from the runs' own episodes."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from pd_lightning.report import ReportError, read_run, scores_table


def write_run(folder: Path, seed: int, loss: str, rows: list[tuple[int, float]]) -> Path:
    folder.mkdir(parents=True)
    model = {"class_path": "pd_lightning.distillation.PolicyDistillation", "init_args": {"size": "net1", "loss": loss}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed_everything": seed, "model": model}))
    lines = [f"{update},pong,{i},{value},900,{i}" for i, (update, value) in enumerate(rows)]
    (folder / "returns.csv").write_text("\n".join(["update,game,episode,return,steps,seed", *lines]))
    return folder


def test_a_run_is_scored_by_its_last_rollout_alone(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", 3, "kl", [(0, -21.0), (100, 15.0), (100, 17.0)]))
    assert (run.seed, run.labels, run.updates) == (3, ("net1", "kl"), 100)
    np.testing.assert_array_equal(run.returns["pong"], [15.0, 17.0])


def test_runs_that_differ_in_the_seed_are_one_row_with_the_interval_over_all_episodes(tmp_path: Path) -> None:
    episodes = {1: [18.0, 20.0, 16.0], 0: [12.0, 14.0, 13.0]}
    runs = [
        read_run(write_run(tmp_path / str(seed), seed, "kl", [(100, v) for v in values]))
        for seed, values in episodes.items()
    ]
    runs.append(read_run(write_run(tmp_path / "other", 0, "mse", [(100, 1.0), (100, 2.0)])))
    table = scores_table(runs, {"pong": 20.0}).splitlines()
    pooled = np.array(episodes[0] + episodes[1])
    half = stats.sem(pooled) * stats.t.ppf(0.975, len(pooled) - 1)
    assert table[2] == (
        f"| pong | net1 | kl | 100 | 2 x 3 episodes | 13.0, 18.0 | {pooled.mean():.2f} ± {half:.2f} "
        f"| {100 * pooled.mean() / 20:.1f}% |"
    )
    assert "| mse |" in table[3]


def test_a_teacher_without_a_positive_score_has_no_percentage(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", 0, "kl", [(1, -5.0), (1, -6.0)]))
    assert scores_table([run], {"pong": -16.0}).endswith("| - |")


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
