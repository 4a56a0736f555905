"""Files of strangers: nothing in them is run, they take neither memory nor time, and damage is found."""

import base64
import gzip
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from borrowing import SMALL_TEXT, AtariNet, CleanRL, model, rewrite
from conftest import checkpoint_of, tiny_network
from payload import Payload

from pd_lightning.networks import QNetwork
from pd_lightning.pqn import PQN
from pd_lightning.teacher import TeacherError, load_teacher, save_teacher

MUTANTS = 200


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A whole file of each format, by name."""
    folder = tmp_path_factory.mktemp("good")
    files = [save_teacher(tiny_network("pong"), folder / "teacher.safetensors", {"steps": 5})]
    files.append(checkpoint_of(PQN({"pong": 6}, "net3"), folder / "last.ckpt"))
    for algorithm in ("DQN", "QR-DQN", "PPO", "A2C"):
        files.append(folder / f"{algorithm}.zip")
        model(algorithm, **SMALL_TEXT).save(files[-1])
    with zipfile.ZipFile(files[2]) as archive:
        files.append(folder / "policy.pth")
        files[-1].write_bytes(archive.read("policy.pth"))
    files.append(CleanRL(6, hidden=8).save(folder / "dqn_atari.cleanrl_model"))
    files.append(CleanRL(6, 51, hidden=8).save(folder / "c51_atari.cleanrl_model"))
    files.append(AtariNet(6, 51, hidden=8).save(folder / "model.gz"))
    return {path.name: path for path in files}


def load_watched(paths):
    """What a process that is watched says of each file: see loader.py."""
    command = [sys.executable, str(Path(__file__).with_name("loader.py")), "pong", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (paths[min(len(lines), len(paths) - 1)], lines[-1:], done.stderr[-2000:])
    return lines


# What would run


def saved_with(content, payload):
    """The bytes of `torch.save` of a dictionary with something more in it."""
    stream = io.BytesIO()
    torch.save({**content, "extra": payload}, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "name", ["DQN.zip", "PPO.zip", "policy.pth", "dqn_atari.cleanrl_model", "model.gz", "last.ckpt"]
)
def test_weights_that_would_run_code_are_refused_and_it_does_not_run(tmp_path, good, name):
    payload = Payload(tmp_path / "ran")
    pickle.loads(pickle.dumps(payload))
    assert (tmp_path / "ran").exists()  # it is dangerous
    (tmp_path / "ran").unlink()
    path = tmp_path / name
    if name.endswith(".zip"):
        rewrite(good[name], path, weights=lambda state: {**state, "extra": payload})
    elif name.endswith(".gz"):
        AtariNet(6, hidden=8).save(path, extra=payload)
    else:
        path.write_bytes(saved_with(torch.load(good[name], weights_only=True), payload))
    with pytest.raises(TeacherError, match=rf"{name}.*its pickle wants 'posix system', allowed are tensors"):
        load_teacher(path, "pong")
    assert not (tmp_path / "ran").exists()


def test_pickles_among_the_settings_of_a_zip_are_never_looked_at(tmp_path, good):
    evil = base64.b64encode(pickle.dumps(Payload(tmp_path / "ran"))).decode()
    keys = ("policy_class", "lr_schedule", "observation_space", "action_space", "policy_kwargs", "exploration_schedule")

    def data(old):
        return old | {key: {**(old[key] if isinstance(old[key], dict) else {}), ":serialized:": evil} for key in keys}

    path = rewrite(good["DQN.zip"], tmp_path / "evil.zip", data=data)
    assert load_teacher(path, "pong").sha256 == load_teacher(good["DQN.zip"], "pong").sha256
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../../evil.py", "/tmp/evil.py", "..\\evil.py", "C:evil.py"])
def test_a_zip_whose_members_lead_out_of_it_is_refused(tmp_path, good, name):
    path = rewrite(good["DQN.zip"], tmp_path / "evil.zip", add={name: b"1"})
    with pytest.raises(TeacherError, match=r"evil\.zip: member .* leads out of the archive"):
        load_teacher(path, "pong")


def test_a_zip_of_two_contents_is_refused(tmp_path, good):
    with zipfile.ZipFile(good["DQN.zip"]) as archive:
        weights = archive.read("policy.pth")
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = rewrite(good["DQN.zip"], tmp_path / "two.zip", add={"policy.pth": weights})
    with pytest.raises(TeacherError, match=r"two\.zip: \d+ members, \d+ names"):
        load_teacher(path, "pong")


# What would not end


def zip_of(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def declare_less(path, name):
    """Makes the directory of a zip say that a member is small, and its local header too."""
    content, sizes = bytearray(path.read_bytes()), (1000).to_bytes(4, "little")
    for signature, offset, start in ((b"PK\x01\x02", 24, 46), (b"PK\x03\x04", 22, 30)):
        place = content.find(signature)
        while content[place + start : place + start + len(name)] != name.encode():
            place = content.find(signature, place + 1)
        content[place + offset : place + offset + 4] = sizes
    path.write_bytes(content)
    return path


def test_bombs_are_refused_before_they_fill_the_memory(tmp_path, good):
    zeros = bytes(300 * 2**20)
    inside = zip_of(tmp_path / "inside.pth", {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": zeros})
    many = {"archive/data.pkl": b"\x80\x02}.", **{f"archive/data/{n}": zeros[: 2**26] for n in range(5)}}
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(zeros, 1) * 4)
    lists = b'{"a": [' + b",".join([b"[]"] * 2**23) + b"]}"  # 25 MB of text; each list is an object of 56 bytes
    bombs = [
        zip_of(tmp_path / "lists.zip", {"policy.pth": good["policy.pth"].read_bytes(), "data": lists}),
        packed,
        zip_of(tmp_path / "weights.zip", {"policy.pth": zeros, "data": "{}"}),
        declare_less(zip_of(tmp_path / "lying.zip", {"policy.pth": zeros, "data": "{}"}), "policy.pth"),
        zip_of(tmp_path / "settings.zip", {"policy.pth": good["policy.pth"].read_bytes(), "data": zeros[: 2**27]}),
        inside,
        zip_of(tmp_path / "nested.zip", {"policy.pth": inside.read_bytes()}),
        zip_of(tmp_path / "many.cleanrl_model", many),
        zip_of(tmp_path / "pickle.ckpt", {"archive/data.pkl": zeros[: 2**24]}),
    ]
    first, *said = load_watched([good["DQN.zip"], *bombs])
    for path, line in zip(bombs, said, strict=True):
        assert line.get("error", "").startswith(str(path)), line
        assert line["peak"] - first["peak"] < 300 * 2**20
        assert "\n" not in line["error"]


def test_a_pickle_that_counts_to_a_billion_is_refused(tmp_path, good):
    # BINUNICODE8 of 2^40 characters; LONG4 of a gigabyte; 2^31 memo; a tensor that repeats one number.
    contents = [b"\x80\x04\x8d" + (2**40).to_bytes(8, "little"), b"\x80\x02\x8b" + (2**30).to_bytes(4, "little"),
                b"\x80\x02}r\xff\xff\xff\x7f.", b"\x80\x02" + b"(" * 10**6 + b"t" * 10**6 + b"."]  # fmt: skip
    paths = [
        zip_of(tmp_path / f"{n}.pth", {"archive/data.pkl": text, "archive/version": "3\n"})
        for n, text in enumerate(contents)
    ]
    first, *said = load_watched([good["DQN.zip"], *paths])
    for path, line in zip(paths, said, strict=True):
        assert line.get("error", "").startswith(str(path)), line
        assert line["peak"] - first["peak"] < 300 * 2**20


def test_values_that_hold_themselves_many_times_over_are_never_written_out(tmp_path, good):
    nested = [0]
    for _ in range(30):
        nested = [nested] * 10
    settings = {"games": {"pong": 6}, "size": "net3", "loss": "kl"}
    state = {f"student.{key}": value for key, value in QNetwork({"pong": 6}, "net3").state_dict().items()}
    whole = {"state_dict": state, "hyper_parameters": settings, "global_step": nested, "temperatures": {"pong": nested}}
    torch.save(whole, tmp_path / "whole.ckpt")
    torch.save({**whole, "hyper_parameters": {**settings, "games": {"pong": nested}}}, tmp_path / "games.ckpt")
    first, kept, refused = load_watched([good["DQN.zip"], tmp_path / "whole.ckpt", tmp_path / "games.ckpt"])
    assert "error" not in kept
    assert refused["error"].startswith(str(tmp_path / "games.ckpt"))
    assert max(kept["peak"], refused["peak"]) - first["peak"] < 300 * 2**20


def test_a_network_of_widths_that_only_its_file_can_afford_is_refused(tmp_path):
    wide = CleanRL(6, hidden=8)
    wide.network[0] = torch.nn.Conv2d(4, 2000, 8, 4)
    path = wide.save(tmp_path / "dqn_atari.cleanrl_model")
    with pytest.raises(TeacherError, match=r"network\.0\.weight has 2,000 outputs, allowed are 1,024"):
        load_teacher(path, "pong")


# What is damaged


def mutate(content, rng):
    """One of the ways in which a file is damaged, somewhere that matters with even odds."""
    changed = bytearray(content)
    # Half of the time where a zip or safetensors file says what is where, or where the pickle is.
    pickled = max(content.find(b"data.pkl"), 0)
    places = [rng.integers(len(content)), rng.integers(min(4096, len(content))),
              len(content) - 1 - rng.integers(min(4096, len(content))), pickled + rng.integers(2000)]  # fmt: skip
    at = int(min(rng.choice(places), len(content) - 1))
    size = int(rng.integers(1, 200))
    way = rng.choice(["bit", "byte", "bytes", "zeros", "cut", "twice", "drop", "swap", "number"])
    if way == "bit":
        changed[at] ^= 1 << int(rng.integers(8))
    elif way == "byte":
        changed[at] = int(rng.integers(256))
    elif way == "bytes":
        changed[at : at + size] = rng.bytes(len(changed[at : at + size]))
    elif way == "zeros":
        changed[at : at + size] = bytes(len(changed[at : at + size]))
    elif way == "cut":
        del changed[at:]
    elif way == "twice":
        changed[at:at] = changed[at : at + size]
    elif way == "drop":
        del changed[at : at + size]
    elif way == "swap":
        other = int(rng.integers(len(content)))
        one, two = bytes(changed[at : at + size]), bytes(changed[other : other + size])
        if len(one) == len(two) and abs(at - other) >= size:
            changed[at : at + size], changed[other : other + size] = two, one
    else:  # a size or an offset becomes a huge one
        changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x40"])
    return bytes(changed)


def test_mutated_files_are_errors_that_name_them_or_the_same_teacher(tmp_path, good):
    rng, paths = np.random.default_rng(0), []
    names = list(good)
    while len(paths) < MUTANTS:
        name = names[len(paths) % len(names)]
        content = good[name].read_bytes()
        mutant = mutate(content, rng)
        if mutant != content:
            paths.append(tmp_path / f"{len(paths)}_{name}")
            paths[-1].write_bytes(mutant)
    said = load_watched([*good.values(), *paths])
    whole = dict(zip(names, said, strict=False))
    errors = 0
    for path, line in zip(paths, said[len(names) :], strict=True):
        if "error" in line:
            errors += 1
            assert line["error"].startswith(f"{path}: "), line
            assert "\n" not in line["error"]
        else:
            assert line["weights"] == whole[path.name.split("_", 1)[1]]["weights"], path
    assert errors > MUTANTS * 0.6  # most of them hit something
    assert max(line["peak"] for line in said) - said[0]["peak"] < 300 * 2**20
