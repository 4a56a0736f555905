"""What the machine has: memory that is free, within whatever limits it is under."""

import pytest
import torch

from pd_lightning.machine import _within_limits, available_memory, chosen_device, fastest_precision, usual_room

GIB = 2**30


def group(folder, limit, usage, stat):
    """A folder of a control group; each a file's name and its content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (limit, usage, stat):
        (folder / name).write_text(f"{content}\n")


def test_what_is_left_of_a_containers_limit_is_counted_and_cached_files_can_be_given_up(tmp_path):
    said = tmp_path / "nothing"
    assert list(_within_limits(tmp_path, said)) == []
    group(tmp_path, ("memory.max", 8 * GIB), ("memory.current", 5 * GIB), ("memory.stat", f"inactive_file {2 * GIB}"))
    assert list(_within_limits(tmp_path, said)) == [5 * GIB]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(_within_limits(tmp_path, said)) == []
    limit, usage = ("memory.limit_in_bytes", 3 * GIB), ("memory.usage_in_bytes", GIB)
    group(tmp_path / "memory", limit, usage, ("memory.stat", "cache 5\ntotal_inactive_file 7"))
    assert list(_within_limits(tmp_path, said)) == [2 * GIB + 7]


@pytest.mark.parametrize(("first", "line", "names"), [
    ("", "0::/slurm/job_7/step_0", ("memory.max", "memory.current")),
    ("memory/", "4:cpu,memory:/slurm/job_7/step_0", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
])  # fmt: skip
def test_the_limit_of_any_group_around_this_process_counts_and_no_other(first, line, names, tmp_path):
    for place, most in (("slurm/job_7", 3 * GIB), ("slurm", 9 * GIB), ("slurm/job_8", GIB), ("other", GIB)):
        group(tmp_path / "fs" / f"{first}{place}", (names[0], most), (names[1], GIB), ("memory.stat", "cache 5"))
    said = tmp_path / "cgroup"
    said.write_text(f"9:cpuset:/other\n{line}\n")
    assert sorted(_within_limits(tmp_path / "fs", said)) == [2 * GIB, 8 * GIB]
    said.write_text("0::/../other\n")  # of a namespace from which it was moved
    assert list(_within_limits(tmp_path / "fs", said)) == []


@pytest.mark.parametrize(("limits", "expected"), [([], 6 * GIB), ([2 * GIB], 2 * GIB), ([9 * GIB], 6 * GIB), ([-5], 0)])
def test_the_least_of_the_machine_and_its_limits_is_available(monkeypatch, limits, expected):
    class Free:
        available = 6 * GIB

    monkeypatch.setattr("pd_lightning.machine.psutil.virtual_memory", Free)
    monkeypatch.setattr("pd_lightning.machine._within_limits", lambda groups: limits)
    assert available_memory("cpu") == available_memory(torch.device("cpu")) == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_named(name):
    with pytest.raises(ValueError, match=f"--device is {name}, which is not here .*choose auto, cpu or cuda"):
        chosen_device(name)
    assert chosen_device("cpu") == "cpu"


def test_this_machine_has_some_memory():
    assert 2**26 < available_memory("cpu") < 2**50


def test_a_little_more_or_less_free_memory_gives_the_same_room_and_never_more_than_its_share(monkeypatch):
    for free in (2**20 + 12345, 3 * 2**30, 23 * 2**30 + 1, 900 * 2**30):
        monkeypatch.setattr("pd_lightning.machine.available_memory", lambda device, free=free: free)
        room = usual_room("cpu", 2)
        assert free // 4 * 0.87 < room <= free // 4
        monkeypatch.setattr("pd_lightning.machine.available_memory", lambda device, room=room: 4 * room + room // 9)
        assert usual_room("cpu", 2) == room
        assert int(room / 2**30 * 2**30) == room  # said in GiB and given back


@pytest.mark.parametrize(("gpu", "avx512", "amx", "expected"), [
    (None, False, False, ("32-true", "32-true", "32-true")),
    (None, True, False, ("bf16-mixed", "bf16-mixed", "32-true")),
    (None, False, True, ("bf16-mixed", "bf16-mixed", "32-true")),
    (False, True, True, ("32-true", "bf16-mixed", "32-true")),
    (True, False, False, ("bf16-mixed", "32-true", "bf16-mixed")),
])  # fmt: skip
def test_bfloat16_is_chosen_where_the_hardware_that_is_used_multiplies_it(monkeypatch, gpu, avx512, amx, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu is not None)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: gpu)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx, raising=False)
    assert tuple(fastest_precision(accelerator) for accelerator in ("auto", "cpu", "gpu")) == expected
    assert fastest_precision("tpu") == "32-true"
