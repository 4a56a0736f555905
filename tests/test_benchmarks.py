"""The benchmark of loaders believes nothing that it has not compared with the recording."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import heads, live, rivals, streaming, turns
from benchmarks.entries import ENTRIES, Entry, Job, Reader
from benchmarks.measure import Measurement, measure
from benchmarks.recorded import Recorded, WrongState, each_state
from benchmarks.table import Results, elsewhere, markdown, table


@pytest.fixture(scope="module")
def recorded(datasets) -> Recorded:
    return Recorded.of(datasets / "pong")


@pytest.fixture(scope="module")
def job(datasets, recorded, tmp_path_factory) -> Job:
    scratch = tmp_path_factory.mktemp("scratch")
    recorded.save(scratch / "recorded.npz")
    return Job("bound", datasets / "pong", scratch / "recorded.npz", scratch, 100, 64, 0, 0.01, 3, 10 * 2**20)


@pytest.fixture
def states(datasets) -> tuple[np.ndarray, np.ndarray]:
    pairs = list(each_state(datasets / "pong", 100))[40:90]
    return np.stack([state for state, _ in pairs]), np.stack([q for _, q in pairs])


def test_recorded_states_are_found_in_any_order(recorded, states):
    order = np.random.default_rng(0).permutation(50)
    places = recorded.find(states[0][order], states[1][order])
    assert (recorded.digests[places] == recorded.digests[40:90][order]).all()


def test_one_wrong_pixel_is_noticed(recorded, states):
    states[0][7, 3, 83, 83] ^= 1
    with pytest.raises(WrongState, match="1 of 50"):
        recorded.find(*states)


def test_one_wrong_bit_of_a_q_value_is_noticed(recorded, states):
    states[1].view(np.uint32)[7, 2] ^= 1
    with pytest.raises(WrongState, match="1 of 50"):
        recorded.find(*states)


def test_q_values_of_the_neighbour_are_noticed(recorded, states):
    with pytest.raises(WrongState, match="of 49"):
        recorded.find(states[0][1:], states[1][:-1])


def test_other_types_are_noticed(recorded, states):
    for wrong in ((states[0].astype(np.float32), states[1]), (states[0], states[1].astype(np.float64))):
        with pytest.raises(WrongState, match="float"):
            recorded.find(*wrong)


def test_the_mix_of_a_perfect_shuffle_is_1_and_that_of_consecutive_states_is_low():
    segments = np.repeat(np.arange(300), 64)
    segments = segments[: len(segments) - 40]  # one of them shorter
    all_states = Recorded(np.arange(len(segments), dtype=np.uint64), segments)
    chance = np.random.default_rng(0)
    perfect = [all_states.mix(chance.permutation(len(segments))[:256]) for _ in range(50)]
    assert np.mean(perfect) == pytest.approx(1, abs=0.01)
    assert all_states.mix(np.arange(1000, 1256)) < 0.04
    assert all_states.perfect(len(segments)) == 300


def test_equal_states_belong_to_the_first_segment():
    repeated = Recorded(np.array([5, 6, 5], np.uint64), np.array([0, 1, 2]))
    assert repeated.segments.tolist() == [0, 1, 0]
    assert repeated.perfect(3) == 2


@pytest.mark.parametrize("entry", ["bound", "ours, decoded once", "ours, streaming"])
def test_an_entry_delivers_what_was_recorded(job, recorded, entry):
    found = measure(job._replace(entry=entry))
    assert found.states >= len(recorded)  # a whole epoch
    assert found.checked >= len(recorded)  # of the warm-up
    assert 0 < found.mix < 1.2
    assert found.bytes_per_state < 1000


@pytest.mark.parametrize("entry", ["h5py", "pickle"])
def test_a_rival_that_needs_nothing_installed_delivers_what_was_recorded(job, entry, monkeypatch):
    monkeypatch.setattr(rivals, "WORKERS", 0)  # starting them takes seconds
    monkeypatch.setattr(rivals, "DataLoader", partial(_without_workers, rivals.DataLoader))
    streaming.write(job._replace(entry=entry))
    assert measure(job._replace(entry=entry)).checked >= 3 * 36  # epochs of 64 and 36


def _without_workers(loader, *arguments, persistent_workers, **options):
    return loader(*arguments, **options)


def test_an_entry_that_delivers_something_else_fails(job, monkeypatch):
    def wrong(job: Job) -> Reader:
        reader = ENTRIES["bound"].read(job)
        return Reader((s | np.uint8(1), q) for s, q in reader.batches)

    monkeypatch.setitem(ENTRIES, "wrong", Entry(wrong))
    with pytest.raises(WrongState, match="not recorded"):
        measure(job._replace(entry="wrong"))


def test_an_entry_whose_library_is_missing_is_a_row_that_says_so(job, monkeypatch):
    monkeypatch.setitem(ENTRIES, "absent", Entry(ENTRIES["bound"].read, module="no_such_module"))
    monkeypatch.setattr(streaming, "in_fresh_process", lambda _, function, *arguments: function(*arguments))
    results: Results = {}
    for entry in ("bound", "absent", "absent"):
        streaming.run(job._replace(entry=entry), results)
    header, bound, absent = table(results, {})
    assert absent[:2] == ["absent", "not installed (No module named 'no_such_module')"]
    assert len(bound) == len(header) == len(absent)
    assert len(markdown(header, [bound, absent]).splitlines()) == 4


def test_who_misses_a_library_is_told_the_extra_that_brings_it(capsys):
    turns.show("pong", {"alone": [2.0, 4.0], "loop": f"cv2 is {turns.MISSING}"}, "alone", None)
    assert "cv2 is not installed: pip install -e '.[benchmarks]'" in capsys.readouterr().out


def test_the_table_compares_medians():
    def runs(*rates: float) -> list[Measurement]:
        return [Measurement(rate, 2.0, 0.1, 100, 60, 1.0, 1000, 1000, 0.5) for rate in rates]

    quiet: Results = {"bound": runs(300, 400, 900), "h5py": runs(10, 20, 30), "ours": runs(200, 300, 200)}
    busy: Results = {"bound": runs(100), "h5py": runs(10), "ours": runs(150)}
    header, _, _, row = table(quiet, busy)
    cells = dict(zip(header, row, strict=True))
    assert (cells["states/s"], cells["min to max"]) == ("200", "200 to 300")
    assert (cells["of bound"], cells["× h5py"], cells["loss"]) == ("50.0%", "10.00", "25%")
    assert elsewhere(quiet) == 0.5


@pytest.mark.parametrize("options", [["--entries=[fast]"], ["--seconds=0"], ["--states=0"]])
def test_impossible_options_are_refused(options, capsys, tmp_path):
    assert streaming.main([*options, f"--scratch={tmp_path}"]) == 1
    assert "error: --" in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())


def test_live_play_is_compared_with_the_recording_turn_by_turn(monkeypatch, tmp_path):
    monkeypatch.setattr(live, "WARM_UP", 1)
    monkeypatch.setitem(live.WAYS, "teacher learns", {"learn": True, "parallel": 4, "steps": 4, "prefill": 16})
    ways = ["recording", "teacher learns"]
    monkeypatch.chdir(Path(live.__file__).parent.parent)  # to the recording that ships
    live.live(size="net3", updates=1, batch_size=16, repetitions=2, ways=ways, output=str(tmp_path / "live.json"))
    found = json.loads((tmp_path / "live.json").read_text())
    assert {way: len(turns) for way, turns in found.items()} == {"recording": 2, "teacher learns": 2}
    assert all(turn["states_per_second"] > 0 for turns in found.values() for turn in turns)


def test_heads_are_compared_on_as_many_states(tmp_path, capsys):
    heads.heads(["pong", "breakout"], "net3", states=2, turns=2, output=str(tmp_path / "heads.json"))
    assert "4 states an update" in capsys.readouterr().out
    seconds = json.loads((tmp_path / "heads.json").read_text())["seconds"]
    assert {name: len(times) for name, times in seconds.items()} == {"2 heads": 2, "one head": 2}
