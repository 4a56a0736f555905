"""Clusters: what a lost machine had begun is done by another, and what is written is what one machine alone writes."""

import contextlib
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pd_lightning.blocks import ShardError
from pd_lightning.cluster import ClusterError, on_ray
from pd_lightning.recording import command, record
from pd_lightning.recording.__main__ import main
from pd_lightning.reproduce import Task, TaskError
from pd_lightning.reproduce.workers import on_cluster

SCRIPTS = {
    "waits": "import pathlib, sys, time\n"
    "open('begun', 'a').write('x')\n"
    "while not pathlib.Path('go').exists(): time.sleep(0.05)",
    "fails": "print('why'); raise SystemExit(3)",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head that does nothing but schedule, and room for machines of one core each."""
    from ray.cluster_utils import Cluster

    scripts = tmp_path_factory.mktemp("scripts")
    for name, code in SCRIPTS.items():
        (scripts / f"{name}.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(scripts))
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "4")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        yield cluster
        cluster.shutdown()


@pytest.fixture
def machines(cluster):
    """Two machines, and no others: the head must know that those of an earlier test are gone, or it gives them work."""
    found = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes(timeout=60)
    yield found
    for node in found:
        cluster.remove_node(node, allow_graceful=False)


def lose_one(machines, when, then=lambda: None):
    """Kills all processes of a machine at once when something is so, or notes that it never was; then goes on."""
    errors = []

    def kill():
        deadline = time.monotonic() + 120
        while not when() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not when():
            errors.append("never so")
        raylet = psutil.Process(machines[0].all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # without the first, others end by themselves
                if "waits" not in process.cmdline():  # what a task began must die with it by itself, or is waited for
                    process.kill()
        then()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread, errors


def test_shards_that_a_lost_machine_was_recording_are_recorded_by_another(
    cluster, machines, teachers, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "STEPS_PER_HOUR", 600)  # seconds of play: an episode alone is longer
    options = {"teacher": str(teachers["pong"]), "parallel": 2, "check": 0}
    there, alone = tmp_path / "there", tmp_path / "alone"

    def recording_two():
        names = [path.name for path in (there / "pong").glob("*")]
        return len(names) == 2 and not any(name in ("0000.h5", "0001.h5") for name in names)

    thread, errors = lose_one(machines, recording_two)
    shards = record("pong", 2.0, str(there), ray=cluster.address, **options)
    thread.join()
    assert errors == []
    assert [shard.path.name for shard in shards] == ["0000.h5", "0001.h5"]
    assert sorted(path.name for path in (there / "pong").glob("*")) == ["0000.h5", "0001.h5"]
    (first,) = record("pong", 1.0, str(alone), **options)
    assert shards[0].digest == first.digest
    capsys.readouterr()
    record("pong", 2.0, str(there), ray="no cluster is needed for what is there", **options)
    assert capsys.readouterr().err.count("kept ") == 2
    with pytest.raises(ShardError, match=r"0000\.h5: seed is 0, this recording's is 1"):
        record("pong", 2.0, str(there), ray=cluster.address, seed=1, **options)


def test_a_run_that_a_lost_machine_had_begun_is_carried_on_by_another(cluster, machines, tmp_path):
    tasks = [Task(str(tmp_path / name), ("waits",), resumable=False) for name in ("a", "b")]
    thread, errors = lose_one(
        machines,
        lambda: Path("begun").exists() and Path("begun").read_text() == "xx",
        then=lambda: Path("go").touch(),
    )
    outcomes = dict(on_cluster(cluster.address, tasks, lambda task: None))
    thread.join()
    assert errors == []
    assert all(isinstance(outcomes[task], float) and task.done for task in tasks)
    assert Path("begun").read_text() == "xxx"


def test_a_run_that_fails_stops_no_other(cluster, machines, tmp_path):
    Path("go").touch()
    tasks = [Task(str(tmp_path / name), (name,), resumable=False) for name in ("fails", "waits")]
    outcomes = dict(on_cluster(cluster.address, tasks, lambda task: None))
    assert "exit status 3, why" in str(outcomes[tasks[0]])
    assert isinstance(outcomes[tasks[0]], TaskError)
    assert tasks[1].done


def test_without_ray_or_without_a_cluster_the_error_says_what_to_do(monkeypatch, teachers, tmp_path, capsys):
    with pytest.raises(ClusterError, match=r"--ray 127.0.0.1:1: no cluster answers .*ray start --head"):
        list(on_ray("127.0.0.1:1", print, [0]))
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["recording", "--game", "pong", "--teacher", str(teachers["pong"]), "--root", str(tmp_path), "--check", "0"]
    monkeypatch.setattr(sys, "argv", [*words, "--ray", "auto"])
    assert main() == 1
    assert capsys.readouterr().err.endswith("error: --ray auto: Ray is not installed; pip install -e '.[ray]'\n")
